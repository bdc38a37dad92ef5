"""The heatmaps of augmented images, in `explain` and in `fit`."""

from functools import partial

import keras
import models
import numpy as np
import pytest
from keras import layers
from models import SHAPE, functional, images

from keras_cam_callbacks import (
    AUGMENTATIONS,
    Augmentation,
    Explanation,
    HeatmapLogger,
    MemoryTracker,
    Overlay,
    explain,
    read_run,
)
from keras_cam_callbacks.augmentations import apply, bring_back, flip, resized
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.explaining.augmented import augmented_batch, compared, guessed_range, resolved_for
from keras_cam_callbacks.metrics import correlation

X, Y = images(), models.labels()


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(4)
    return functional().model


def test_each_is_the_explanation_of_the_augmented_images(model):
    found = explain(model, (X, Y), method=["gradcam", "saliency"], augmentations=list(AUGMENTATIONS), batch_size=4)
    plain = explain(model, (X, Y), method=["gradcam", "saliency"])
    for name, view in found.items():
        np.testing.assert_allclose(view.heatmaps, plain[name].heatmaps, atol=1e-6)
        assert list(view.augmented) == list(AUGMENTATIONS)
        for key, augmented in view.augmented.items():
            batch = augmented.explanation.batch
            assert batch.sample_keys == view.batch.sample_keys
            assert np.abs(batch.inputs - X).max() > 0.01
            alone = explain(model, batch.inputs, method=name)
            np.testing.assert_allclose(augmented.explanation.heatmaps, alone.heatmaps, atol=1e-5)
            np.testing.assert_array_equal(augmented.explanation.predicted, alone.predicted)
            np.testing.assert_array_equal(augmented.unchanged, alone.predicted == plain[name].predicted)
            back = bring_back(AUGMENTATIONS[key], alone.heatmaps, (12, 16))
            np.testing.assert_allclose(augmented.restored, back, atol=1e-5)
            np.testing.assert_allclose(
                augmented.correlation, correlation(back, resized(plain[name].heatmaps, (12, 16))), atol=1e-4
            )
            # People see what the model sees.
            np.testing.assert_allclose(np.stack(batch.display), np.clip(batch.inputs * 255, 0, 255), atol=0.51)


def test_a_model_that_cares_for_no_side_sees_the_same_in_the_mirror():
    """Every kernel is its own mirror image, and so the map of a mirrored image is the mirrored map."""
    model = functional(shape=(12, 18, 3)).model  # An even width behind the first convolution, for the pooling.
    for name in ("conv1", "conv2"):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([(kernel + kernel[:, ::-1]) / 2, bias])
    kernel, bias = model.get_layer("classes").get_weights()
    model.get_layer("classes").set_weights([np.abs(kernel), bias])  # So that all maps are positive.
    x = images(5, (12, 18, 3))
    found = explain(model, x, augmentations=["flip"], target=1)
    augmented = found.augmented["flip"]
    np.testing.assert_allclose(augmented.explanation.heatmaps, found.heatmaps[:, :, ::-1], atol=1e-5)
    np.testing.assert_allclose(augmented.correlation, 1, atol=1e-5)
    assert augmented.unchanged.all()


def test_in_fit_with_the_record_on_disk(tmp_path):
    model = functional().model
    model.compile(keras.optimizers.SGD(0.1), models.SPARSE, jit_compile=False)
    memory = MemoryTracker()
    logger = HeatmapLogger(
        (X, Y),
        augmentations={"mirror": "flip", "darker": lambda x: x / 2},
        tracker=[memory, "disk"],
        log_dir=tmp_path,
        prefix="gradcam",
        on_error="raise",
        metrics="all",
    )
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[logger]).history
    explained = logger.explain()
    for name in ("mirror", "darker"):
        augmented = explained.augmented[name]
        assert history[f"gradcam_{name}_correlation"][-1] == pytest.approx(np.nanmean(augmented.correlation))
        assert history[f"gradcam_{name}_unchanged"][-1] == pytest.approx(augmented.unchanged.mean())
        stored = read_run(tmp_path).epochs[-1]
        np.testing.assert_allclose(stored.values()[f"{name}_correlation"], augmented.correlation)
        assert stored.scalars[f"{name}_correlation"] == pytest.approx(np.nanmean(augmented.correlation))
    assert read_run(tmp_path).manifest["augmentations"] == ["mirror", "darker"]
    # One row for the image, and one for each augmentation.
    height = explained.overlays(Overlay(layout="panel"))[0].shape[0]
    single = explain(model, X).overlays(Overlay(layout="panel"))[0].shape[0]
    assert height > 3 * single
    assert memory.records[0].overlays[0].shape[0] > 2.9 * explain(model, X).overlays()[0].shape[0]
    # Where the objects of the images are is known in the first row alone.
    ((left, top, right, bottom),) = memory.records[0].places[0]
    below = explain(model, X).overlays()[0].shape[0]
    assert 0 < left < right < memory.records[0].overlays[0].shape[1]
    assert 0 < top < bottom <= below + top


def test_what_people_see_where_it_differs_from_what_the_model_sees(model):
    """A display of the user's is augmented alike, in the range that a function of the user's expects."""
    seen = []

    def mirrored(x):
        seen.append((float(x.min()), float(x.max())))
        return x[:, :, ::-1]

    display = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(6)]
    for i, image in enumerate(display):
        image[:, :10] = 200 + i
    found = explain(model, X, display=display, augmentations={"mirrored": Augmentation(mirrored, mirrored)})
    shown = found.augmented["mirrored"].explanation.batch.display
    for picture, image in zip(shown, display, strict=True):
        np.testing.assert_array_equal(picture, image[:, ::-1])
    limits = X.min() - 1e-3, X.max() + 1e-3
    assert all(limits[0] <= low and high <= limits[1] for low, high in seen[:7])


@pytest.mark.parametrize("kind", ["uint8", "grey without channels", "dict"])
def test_inputs_of_other_kinds(kind):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12, 16, 3) if kind != "grey without channels" else (12, 16), name="image")
    x = inputs
    if kind == "grey without channels":
        x = layers.Reshape((12, 16, 1))(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D()(x)
    data = (X * 255).astype(np.uint8) if kind == "uint8" else X[..., 0] if "grey" in kind else X
    ends = inputs
    if kind == "dict":
        other = keras.Input((2,), name="other")
        x = layers.Concatenate()([x, other])
        ends, data = {"image": inputs, "other": other}, {"image": X, "other": np.eye(6, 2, dtype="float32")}
    model = keras.Model(ends, layers.Dense(3, activation="softmax")(x))
    found = explain(model, data, augmentations=["flip", "sun_flare"], target=0)
    changed = found.augmented["flip"].explanation.batch.inputs
    if kind == "dict":
        np.testing.assert_array_equal(changed["other"], data["other"])
        changed, data = changed["image"], data["image"]
    assert changed.dtype == data.dtype
    np.testing.assert_array_equal(changed, data[:, :, ::-1])
    flare = found.augmented["sun_flare"].explanation.batch
    assert flare.display[0].max() > 200


def test_channels_first(model):
    expected = explain(model, X, augmentations=list(AUGMENTATIONS), target=1)
    found = explain(models.channels_first(model), X.transpose(0, 3, 1, 2), augmentations=list(AUGMENTATIONS), target=1)
    for name in AUGMENTATIONS:
        np.testing.assert_allclose(found.augmented[name].restored, expected.augmented[name].restored, atol=1e-5)


def test_nothing_is_augmented_anew_at_each_epoch():
    calls = []

    def counting(x):
        calls.append(len(x))
        return x

    model = functional().model
    model.compile("sgd", models.SPARSE, jit_compile=False)
    logger = HeatmapLogger((X, Y), augmentations={"same": counting}, tracker=None, max_samples=4, metrics=["area"])
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[logger]).history
    assert calls == [4]
    np.testing.assert_allclose(history["gradcam_same_correlation"], 1)
    np.testing.assert_array_equal(history["gradcam_same_unchanged"], 1)


def test_one_trace_and_one_row_for_each_copy(model):
    logger = HeatmapLogger((X, Y), augmentations=list(AUGMENTATIONS), tracker=None)
    logger.set_model(model)
    logger.on_train_begin()
    logger.explain()
    assert logger._source.capturer.traces == 1
    assert len(logger._source._rows(logger._kept.batch).class_index) == (1 + len(AUGMENTATIONS)) * len(X)


WRONG = [
    ({"augmentations": ["flop"]}, ValueError, "Did you mean 'flip'"),
    ({"augmentations": []}, ValueError, "must not be empty"),
    ({"augmentations": {"mine": flip}}, TypeError, "must be what flip\\(\\) returns"),
    ({"augmentations": {"mine": lambda x: x[:, :4]}}, ValueError, "augmentation 'mine' must return numbers of shape"),
    ({"augmentations": True}, TypeError, "must be None, a list of names"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), WRONG, ids=[str(row[2]) for row in WRONG])
def test_wrong_augmentations_are_told_before_the_first_batch(model, settings, kind, message):
    logger = HeatmapLogger((X, Y), tracker=None, **settings)
    logger.set_model(model)
    with pytest.raises(kind, match=message):
        logger.on_train_begin()


def test_data_that_are_no_images(model):
    inputs = keras.Input((4,))
    x = layers.Reshape((2, 2, 1))(inputs)
    dense = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1)(x))))
    with pytest.raises(ValueError, match="`augmentations` need images"):
        explain(dense, np.ones((2, 4), np.float32), display=np.zeros((2, 5, 5, 3)), augmentations=["flip"])


def test_the_user_function_gets_copies(model):
    before = X.copy()
    assert apply(flip(), X).shape == (6, *SHAPE)
    explain(model, X, augmentations=["all"])
    np.testing.assert_array_equal(X, before)


# ---- Signals, volumes and clips ----------------------------------------------------------------------------

KINDS = {
    "signal": ((40, 3), layers.Conv1D, ["flip", "cut_out", "noise", "scale", "shift"]),
    "volume": ((4, 12, 10, 1), layers.Conv3D, list(AUGMENTATIONS)),
    "clip": ((4, 12, 10, 3), layers.Conv3D, list(AUGMENTATIONS)),
}


def batch_of(kind, first=False):
    """A batch, its arrays with channels last, and the names of augmentations."""
    shape, layer, names = KINDS[kind]
    inputs = np.random.default_rng(0).random((2, *shape), np.float32)
    taken = np.moveaxis(inputs, -1, 1) if first else inputs
    order = "channels_first" if first else "channels_last"
    model = keras.Sequential([keras.Input(taken.shape[1:]), layer(2, 3, padding="same", data_format=order)])
    return make_batch(taken, model, value_range=None if kind == "signal" else (0, 1)), inputs, names


@pytest.mark.parametrize(
    ("kind", "first"), [("signal", False), ("signal", True), ("volume", False), ("volume", True), ("clip", False)]
)
def test_other_kinds_are_augmented_and_brought_back(kind, first):
    batch, inputs, names = batch_of(kind, first)
    resolved = resolved_for(names, batch)
    assert guessed_range(names, batch) == ()
    maps = np.random.default_rng(1).normal(size=(2, *batch.space.size)).astype(np.float32)
    of = partial(
        Explanation, outputs=None, scores=np.zeros(2, np.float32), targets=np.array([0, 1]), predicted=np.array([0, 1]),
        confidences=np.ones(2, np.float32), layer_name="", method="saliency", target="predicted",
    )  # fmt: skip
    for name, augmentation in resolved.items():
        augmented = augmented_batch(batch, augmentation, name)
        changed = apply(augmentation, inputs)
        seen = np.moveaxis(augmented.inputs, 1, -1) if first else augmented.inputs
        np.testing.assert_array_equal(seen, changed)
        shown = np.stack(augmented.display)
        if kind == "signal":
            np.testing.assert_array_equal(shown, changed)
        else:
            np.testing.assert_allclose(shown, np.clip(np.broadcast_to(changed, shown.shape) * 255, 0, 255), atol=0.51)
        found = compared(of(maps, batch=batch), of(maps, batch=augmented), augmentation, name)
        np.testing.assert_array_equal(found.restored, bring_back(augmentation, maps, batch.space.size))
        np.testing.assert_array_equal(found.correlation, correlation(found.restored, maps))


def test_whole_numbers_and_pictures_of_volumes():
    volumes = np.random.default_rng(0).integers(0, 256, (2, 4, 12, 10, 1), np.uint8)
    model = keras.Sequential([keras.Input(volumes.shape[1:]), layers.Conv3D(2, 3)])
    batch = make_batch(volumes, model, display=lambda scans: scans[:, 1])
    augmented = augmented_batch(batch, resolved_for(["noise"], batch)["noise"], "noise")
    assert augmented.inputs.dtype == np.uint8
    assert 5 < np.abs(augmented.inputs.astype(int) - volumes).mean() < 20
    np.testing.assert_array_equal(augmented.display, batch.display)  # A picture has no slices.


def test_what_has_no_meaning_for_signals_is_refused():
    batch, _, works = batch_of("signal")
    with pytest.raises(ValueError, match=rf"meaning for signals\. Received: 'rotation'.*{', '.join(works)} work"):
        resolved_for(["flip", "rotation"], batch)
    model = keras.Sequential([keras.Input((5,)), layers.Dense(2)])
    batch = make_batch(np.ones((2, 5)), model, display=[np.zeros((4, 4, 3), np.uint8)] * 2)
    with pytest.raises(ValueError, match="signals, volumes or clips"):
        resolved_for(["flip"], batch)
