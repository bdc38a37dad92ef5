"""Training on signals, volumes and clips: what trackers get, and what the record gives back."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_cam_callbacks import HeatmapLogger, MemoryTracker, Overlay
from keras_cam_callbacks.store import read_run

MODELS = {
    "signal": ((48, 2), lambda: [layers.Conv1D(4, 5, padding="same", activation="relu")]),
    "volume": ((6, 10, 8, 1), lambda: [layers.Conv3D(4, 3, padding="same", activation="relu")]),
    "clip": ((5, 10, 12, 3), lambda: [layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True)]),
}


def fitted(kind, log_dir, **settings):
    shape, made = MODELS[kind]
    model = keras.Sequential([keras.Input(shape), *made(), layers.Flatten(), layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    images, labels = np.random.default_rng(0).random((8, *shape), np.float32), np.arange(8) % 2
    tracker = MemoryTracker()
    logger = HeatmapLogger(
        (images[:2], labels[:2]), log_dir=str(log_dir), method="hirescam", tracker=["disk", tracker], **settings
    )
    model.fit(images, labels, epochs=2, verbose=0, callbacks=[logger])
    return tracker.records, read_run(log_dir), images


@pytest.mark.parametrize("kind", MODELS)
def test_trackers_get_flat_pictures_and_the_record_redraws_them(tmp_path, kind):
    records, run, images = fitted(kind, tmp_path)
    axes = MODELS[kind][0][:-1]
    assert len(run.space.axes) == len(axes)
    for record, epoch in zip(records, run.epochs, strict=True):
        assert record.heatmaps.ndim == 1 + len(axes)
        for picture, again in zip(record.overlays, epoch.overlays(), strict=True):
            assert picture.dtype == np.uint8
            assert picture.shape[2:] == (3,)
            np.testing.assert_array_equal(picture, again)
    if kind == "signal":
        np.testing.assert_array_equal(run.display(), images[:2])
    else:
        assert all(shown.shape == (*axes, 3) for shown in run.display())


def test_slices_that_nothing_has_are_refused_before_the_first_batch(tmp_path):
    with pytest.raises(ValueError, match="slices='strip' for signals"):
        fitted("signal", tmp_path, overlay=Overlay(slices="strip"))
    records, _, _ = fitted("volume", tmp_path, overlay=Overlay(slices="strip", caption=False))
    # More where the letters below a slice are wider than it.
    assert 6 * 80 + 5 * 8 <= records[0].overlays[0].shape[1] < 7 * 80 + 6 * 8
