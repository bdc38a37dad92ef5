"""Trainings that go wrong, and one that goes as it would have gone without us."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from fits import SAMPLES, Batches, X, Y, after_epoch, before_epoch, fit, throw, tiny_model, weights, whole_epochs
from paths import ROOT, TESTS
from tracker_logs import read_events
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks import GradCAMLogger, read_run

EVERYWHERE = ["disk", "tensorboard", "wandb"]


# What ends a fit, whether our callback comes before it, and how many epochs are whole then.
ENDS = {
    "error before ours": (after_epoch(1, lambda: throw(ValueError("not ours"))), False, 1),
    "error after ours": (after_epoch(1, lambda: throw(ValueError("not ours"))), True, 2),
    "Ctrl-C in an epoch": (Batches(2, 1, lambda: throw(KeyboardInterrupt("Ctrl-C"))), True, 2),
    "Ctrl-C between epochs": (before_epoch(1, lambda: throw(KeyboardInterrupt("Ctrl-C"))), False, 1),
}


@pytest.mark.parametrize("how", ENDS)
def test_another_callback_ends_the_fit(tmp_path, how):
    """What was logged is there at once, also without the end of a fit; another fit goes on with it."""
    end, ours_first, count = ENDS[how]
    bare = tiny_model()
    with pytest.raises((ValueError, KeyboardInterrupt), match=r"not ours|Ctrl-C"):
        fit(end, model=bare)
    expected = weights(bare)

    model = tiny_model()
    logger = GradCAMLogger((X, Y), tracker=EVERYWHERE[:2], log_dir=tmp_path)
    with pytest.raises((ValueError, KeyboardInterrupt), match=r"not ours|Ctrl-C"):
        fit(*([logger, end] if ours_first else [end, logger]), model=model)
    assert weights(model) == expected
    assert [epoch.step for epoch in whole_epochs(logger.directory)] == list(range(count))
    images, _ = read_events(logger.directory)
    assert [step for step, _ in images["gradcam/sample_11"]] == list(range(count))
    # Whether the epoch that was not logged has ended can't be known: then its step is left out.
    fit(logger, model=model, epochs=1)
    steps = [epoch.step for epoch in whole_epochs(logger.directory)]
    assert steps[:-1] == list(range(count))
    assert steps[-1] >= count


def test_weights_that_are_nan_from_epoch_3_on(tmp_path):
    """Told once; numbers that are none stay out of the trackers, and come back with the weights."""

    def spoilt(*ours):
        model = tiny_model()
        kept = []

        def spoil():
            kept.extend(weight.numpy().copy() for weight in model.weights)
            model.set_weights([w * np.nan for w in kept])

        history = fit(
            before_epoch(3, spoil), before_epoch(5, lambda: model.set_weights(kept)), *ours, model=model, epochs=6
        )
        return weights(model), history

    expected, _ = spoilt()
    run = wandb_run()
    logger = GradCAMLogger((X, Y), tracker=EVERYWHERE, log_dir=tmp_path, metrics="all")
    with pytest.warns(RuntimeWarning, match=r"explain nothing in epoch 3.*not finite.*weights have diverged") as caught:
        ours, history = spoilt(logger)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert ours == expected
    assert history["gradcam_degenerate"] == [0, 0, 0, SAMPLES, SAMPLES, 0]
    assert np.isnan(history["gradcam_confidence"]).tolist() == [False] * 3 + [True] * 2 + [False]
    assert np.isfinite(history["gradcam_drift"]).tolist() == [False, True, True, False, False, False]

    epochs = whole_epochs(logger.directory)
    assert [bool(np.isfinite(epoch.heatmaps()).all()) for epoch in epochs] == [True] * 3 + [False] * 2 + [True]
    assert [caption.endswith("no heatmap") for caption in epochs[3].captions] == [True] * SAMPLES
    whole = [0, 1, 2, 5]
    assert [step for step, _ in read_events(logger.directory)[1]["gradcam/confidence"]] == whole
    rows = finished_log(run).rows_with("gradcam/overlays")
    assert [row["gradcam/step"] for row in rows] == list(range(6))
    assert [row["gradcam/step"] for row in rows if "gradcam/confidence" in row] == whole


def test_training_is_left_as_it_is(tmp_path):
    """Bit by bit, with random augmentation, dropout, batch normalisation, shuffling and a random data source.

    A second run of both has the same losses, and our own numbers too, random methods' among them.
    """
    script = f"""
import json, sys
import keras, numpy as np
from fits import X, Y
from seeds import set_seeds
from keras_cam_callbacks import HeatmapLogger, SmoothGrad
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    tf.config.experimental.enable_op_determinism()
layers = keras.layers

def random_batches():
    while True:
        yield X[np.random.permutation(12)] + np.random.normal(size=X.shape).astype("float32") / 20, Y

def train(ours):
    set_seeds(5)
    model = keras.Sequential([
        keras.Input(X.shape[1:]), layers.RandomFlip(), layers.GaussianNoise(0.1), layers.Conv2D(4, 3),
        layers.BatchNormalization(), layers.ReLU(), layers.SpatialDropout2D(0.3), layers.Conv2D(4, 3, name="last"),
        layers.ReLU(), layers.GlobalAveragePooling2D(), layers.Dropout(0.3), layers.Dense(3, activation="softmax"),
    ], name="net")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    logger = HeatmapLogger(
        random_batches(), method=["gradcam", SmoothGrad(samples=2)], log_dir={str(tmp_path)!r}, prefix="cam",
        metrics="all",
    )
    callbacks = [logger] if ours else []
    history = model.fit(X, Y, batch_size=4, epochs=3, validation_split=0.25, verbose=0, callbacks=callbacks).history
    state = [keras.ops.convert_to_numpy(v).tobytes() for v in (*model.variables, *model.optimizer.variables)]
    after = np.random.random(3).tolist(), float(keras.random.uniform(())), len(model.losses)
    numbers = {{name: history.pop(name) for name in list(history) if name.startswith("cam_")}}
    return (history, state, after), numbers

bare, ours, again = train(False), train(True), train(True)
assert list(bare[0][0]) == ["accuracy", "loss", "val_accuracy", "val_loss"], list(bare[0][0])
assert len(bare[0][1]) > 20
assert bare[0] == ours[0] == again[0], (bare[0][0], ours[0][0], again[0][0])
assert len(ours[1]) > 20
assert ours[1] == again[1], (ours[1], again[1])
"""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, other = (read_run(tmp_path / name).epochs for name in ("cam", "cam-2"))
    assert len(one) == len(other) == 3
    for ours, theirs in zip(one, other, strict=True):
        for name in ("gradcam", "smoothgrad"):
            np.testing.assert_array_equal(ours.heatmaps(name), theirs.heatmaps(name))
        assert list(ours.encoded()) == list(theirs.encoded())
