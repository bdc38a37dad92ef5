"""The value range in `fit`: what is said of it, what wins, and what is not measured on a guess."""

import models
import numpy as np
import pytest

from keras_cam_callbacks import (
    ActivationLogger,
    CAMLogger,
    Explainer,
    GradCAMLogger,
    HeatmapLogger,
    activation_grids,
    explain,
    read_run,
)

X = (np.random.default_rng(0).normal(size=(6, 12, 16, 3)) * 3 - 1).astype(np.float32)
Y = np.array([0, 0, 0, 1, 1, 2])
AUGMENTED = {"turned": "flip", "bright": "brightness_contrast", "lit": "sun_flare"}


def fitted(logger, x=X, epochs=1, verbose=0, **settings):
    model = models.functional().model
    model.compile("sgd", models.SPARSE, jit_compile=False)
    return model.fit(x, Y, epochs=epochs, verbose=verbose, callbacks=[logger], **settings).history


def test_what_was_taken_is_said_once_in_a_fit(tmp_path, capsys):
    fitted(GradCAMLogger((X, Y), log_dir=tmp_path, tracker="disk", max_samples=4), epochs=2, verbose=2)
    said = [line for line in capsys.readouterr().out.splitlines() if "GradCAMLogger" in line]
    (line,) = [line for line in said if "of range" in line]
    assert "4 images of range min-max (values of -" in line
    assert "value_range= takes what they are" in line
    assert read_run(tmp_path / "gradcam").manifest["value_range"] == "min-max"


def test_the_users_word_wins_in_all_loggers(tmp_path, capsys):
    for kind in (HeatmapLogger, GradCAMLogger, ActivationLogger):
        logger = kind((X, Y), value_range=(-20, 20), log_dir=tmp_path, tracker="disk", on_error="raise")
        fitted(logger, verbose=2)
        assert read_run(logger.directory).manifest["value_range"] == "[-20, 20]"
        assert "value_range= takes" not in capsys.readouterr().out
    assert CAMLogger((X, Y), value_range="0-255").value_range == "[0, 255]"
    model = models.functional().model
    np.testing.assert_array_equal(
        Explainer(model, X[:1])(X, value_range=(-20, 20)).batch.display[0], np.rint((X[0] + 20) * 6.375)
    )
    grids = activation_grids(model, X, ["conv1"], value_range=(-20, 20))
    assert grids["conv1"].batch.value_range == "[-20, 20]"


def test_values_out_of_the_range_are_told_in_each_fit():
    logger = GradCAMLogger((X, Y), value_range=(0, 1), tracker=None)
    for _ in range(2):
        with pytest.warns(
            RuntimeWarning, match=r"gradcam: value range: \d\d % of the values lie outside of value_range"
        ):
            fitted(logger)


def test_no_number_of_an_augmentation_that_depends_on_a_guess():
    logger = GradCAMLogger((X, Y), augmentations=AUGMENTED, tracker="memory", on_error="raise", metrics="all")
    with pytest.warns(RuntimeWarning, match="gradcam: augmentation bright, lit depend on what is black and white"):
        history = fitted(logger)
    assert np.isfinite(history["gradcam_turned_correlation"]).all()
    assert not [name for name in history if "bright" in name or "lit" in name]
    record = logger.trackers[0].records[0]
    assert not [name for name in record.values if "bright" in name or "lit" in name]
    certain = GradCAMLogger((X, Y), augmentations=AUGMENTED, tracker=None, value_range=(-20, 20), metrics="all")
    history = fitted(certain)
    assert all(np.isfinite(history[f"gradcam_{name}_correlation"]).all() for name in AUGMENTED)


def test_augmentations_stay_in_the_images_own_range():
    model = models.functional().model
    display = np.full((6, 12, 16, 3), 90, np.uint8)
    with pytest.warns(UserWarning, match="cut_out, lit depend"):
        explained = explain(model, X, display=display, augmentations={"cut_out": "cut_out", "lit": "sun_flare"})
    for augmented in explained.augmented.values():
        changed = augmented.explanation.batch.inputs
        assert X.min() <= changed.min()
        assert changed.max() <= X.max()
        assert np.isnan(augmented.correlation).all()
        assert augmented.unchanged is None
    # What the user made works in the range that was chosen for it.
    own = explain(model, X, augmentations={"mine": lambda x: x / 2}).augmented["mine"]
    assert np.isfinite(own.correlation).any()
    # The display's range is not the input's.
    known = explain(model, X, display=display, value_range=(-20, 20), augmentations=["sun_flare"])
    assert X.max() < known.augmented["sun_flare"].explanation.batch.inputs.max() <= 20


def test_which_samples_were_chosen(capsys):
    settings = {"max_samples": 4, "select": "balanced", "tracker": None}
    bright = np.random.default_rng(1).random(X.shape, np.float32)
    fitted(GradCAMLogger((bright, Y), **settings), x=bright, verbose=2)
    assert ", of the data's rows 0 (class 0), 1 (class 0), 3 (class 1), 5 (class 2)" in capsys.readouterr().out
    fitted(ActivationLogger((bright, Y), **settings), x=bright, verbose=2)
    assert "for 4 images, of the data's rows 0 (class 0)" in capsys.readouterr().out
    fitted(GradCAMLogger((bright, Y), tracker=None), x=bright, verbose=2)
    assert "rows" not in capsys.readouterr().out
