"""Training on signals, volumes and clips: what trackers get, and what the record gives back."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.ndimage import gaussian_filter1d
from tapes import gradient

from keras_cam_callbacks import (
    ActivationLogger,
    FilterLogger,
    HeatmapLogger,
    MemoryTracker,
    Overlay,
    activation_grids,
    filter_patterns,
)
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


# ---- Channels and patterns -----------------------------------------------------------------------------------


def of_kind(kind):
    """A model with one layer for places, named "seen", and two samples."""
    shape, made = MODELS[kind]
    (seen,) = made()
    seen.name = "seen"
    inputs = keras.Input(shape)
    outputs = layers.Dense(2, activation="softmax")(layers.Flatten()(seen(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model, np.random.default_rng(1).random((2, *shape), np.float32)


@pytest.mark.parametrize("kind", MODELS)
def test_channels_are_those_of_the_layer(kind):
    """Each centred and scaled over what is drawn: a whole signal, or one slice of the others."""
    model, x = of_kind(kind)
    kernel, *rest = model.get_layer("seen").get_weights()
    kernel[..., -1] = 0  # A channel that is always 0, or, of an LSTM's cell, a constant gate.
    model.get_layer("seen").set_weights([kernel, *rest])
    grid = activation_grids(model, x)["seen"]
    activations = keras.Model(model.input, model.get_layer("seen").output).predict(x, verbose=0)
    assert grid.map_size == activations.shape[1:-1]
    spread = np.ptp(activations.reshape(-1, activations.shape[-1]), axis=0)
    np.testing.assert_array_equal(grid.dead, spread == 0)
    assert grid.dead[-1] == (kind != "clip")
    if kind == "signal":
        assert grid.slices == ()
        drawn = activations[:, None]
    else:
        variance = np.stack([sample.reshape(len(sample), -1).var(axis=1) for sample in grid.batch.display])
        assert grid.slices == tuple(variance.argmax(axis=1))
        drawn = activations[[0, 1], list(grid.slices)]
        what = "frame" if kind == "clip" else "slice"
        assert f"{what} {grid.slices[0]} of {x.shape[1]}" in grid.captions()[0]
    mean, deviation = drawn.mean(axis=(1, 2), keepdims=True), drawn.std(axis=(1, 2), keepdims=True)
    expected = 64 * (drawn - mean) / np.where(deviation > 0, deviation, 1) + 128
    height, width = grid.tones.shape[2] // drawn.shape[1], grid.tones.shape[3] // drawn.shape[2]
    middle = grid.tones[:, :, height // 2 :: height, width // 2 :: width]
    np.testing.assert_allclose(np.moveaxis(middle, 1, -1), np.clip(expected, 0, 255), atol=1)


def test_a_long_signal_is_shortened_by_means():
    inputs = keras.Input((3000, 1))
    conv = layers.Conv1D(1, 1, name="same")
    model = keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(conv(inputs))))
    conv.set_weights([np.ones((1, 1, 1)), np.zeros(1)])
    x = np.zeros((1, 3000, 1), np.float32)
    x[0, 1500:1800] = 1
    grid = activation_grids(model, x)["same"]
    (strip,) = grid.tones[0]
    assert strip.shape[1] <= 1024
    bright = (strip > 128).mean(axis=0)
    at = np.arange(strip.shape[1]) / strip.shape[1]
    inside = (at > 0.505) & (at < 0.595)
    assert bright[inside].all()
    assert not bright[(at < 0.495) | (at > 0.605)].any()
    (picture,) = grid.pictures()
    assert picture.shape[1] <= 1024
    # The line of the signal is above the strip, and rises where the strip is bright.
    line = (picture[: -strip.shape[0], :] < 100).all(axis=-1)
    tops = [np.flatnonzero(line[:, column]).min() for column in (200, 560)]
    assert tops[1] < tops[0] - 40


@pytest.mark.parametrize("kind", MODELS)
def test_channels_while_training(tmp_path, kind):
    model, x = of_kind(kind)
    memory = MemoryTracker()
    logger = ActivationLogger(
        (x, [0, 1]), tracker=["disk", memory], log_dir=tmp_path, on_error="raise", image_format="png"
    )
    model.fit(x, np.array([0, 1]), epochs=2, verbose=0, callbacks=[logger])
    expected = activation_grids(model, x)["seen"]
    record = memory.records[-1]
    assert record.scalars["seen_dead_share"] == expected.dead_share
    for picture, drawn in zip(record.overlays, expected.pictures(), strict=True):
        np.testing.assert_array_equal(picture[: len(drawn), : drawn.shape[1]], drawn)
    for shown, stored in zip(memory.config.display, read_run(logger.directory).display(), strict=True):
        assert shown.shape[2:] == (3,)
        np.testing.assert_array_equal(shown, stored)


def test_where_no_layer_has_channels_that_could_be_shown():
    inputs = keras.Input((20, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.GRU(4)(inputs)))
    with pytest.raises(ValueError, match=r"map \(samples, time, channels\).*HeatmapLogger\(data, method='saliency'\)"):
        activation_grids(model, np.zeros((2, 20, 3), np.float32))
    steps = keras.Model(
        inputs, layers.Dense(2)(layers.Flatten()(layers.GRU(4, return_sequences=True, name="rnn")(inputs)))
    )
    with pytest.raises(ValueError, match=r"have feature maps, and work: .*'rnn'"):
        activation_grids(steps, np.zeros((2, 20, 3), np.float32))
    assert activation_grids(steps, np.zeros((2, 20, 3), np.float32), "rnn")["rnn"].map_size == (20,)


@pytest.mark.parametrize("blur", [0, 1.0])
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_towards_a_filter(kind, blur):
    """Along the gradient that a tape gives, smoothed by scipy, over its root mean square."""
    model, _ = of_kind(kind)
    part = keras.Model(model.input, model.get_layer("seen").output)
    found = filter_patterns(model, "seen", [1], steps=1, step_size=0.5, jitter=0, blur=blur)
    still = filter_patterns(model, "seen", [1], steps=1, step_size=1e-9, jitter=0, blur=blur)
    slopes = gradient(lambda seed: ops.mean(before_relu(part, seed)[..., 1]), still.images)
    for axis in range(1, slopes.ndim - 1) if blur else ():
        slopes = gaussian_filter1d(slopes, blur, axis=axis, mode="constant", radius=3)
    step = slopes / np.sqrt((slopes**2).mean())
    np.testing.assert_allclose(found.images - still.images, 0.5 * step, atol=1e-3)
    assert found.patterns.shape[0] == 1
    assert found.patterns.dtype == np.uint8
    assert np.ptp(found.patterns.astype(int)) > 100
    assert found.picture().shape[2] == 3


def before_relu(part, x):
    """What a filter climbs at first: what goes into the ReLU of a convolution; of others the output."""
    layer = part.layers[-1]
    if isinstance(layer, layers.ConvLSTM2D):
        return part(x)
    linear = layer.__class__.from_config({**layer.get_config(), "activation": "linear", "name": "linear"})
    linear.build(x.shape)
    linear.set_weights(layer.get_weights())
    return linear(x)


@pytest.mark.parametrize("kind", MODELS)
def test_patterns_while_training(tmp_path, kind):
    model, x = of_kind(kind)
    memory = MemoryTracker()
    logger = FilterLogger("seen", 2, steps=2, tracker=["disk", memory], log_dir=tmp_path, on_error="raise")
    history = model.fit(x, np.array([0, 1]), epochs=1, verbose=0, callbacks=[logger]).history
    expected = filter_patterns(model, "seen", 2, steps=2)
    assert history["filters_activation"][0] == pytest.approx(expected.activations.mean(), rel=1e-4)
    (shown,) = read_run(logger.directory).display()
    assert shown.shape[2:] == (3,)


def test_patterns_of_sizes_that_are_none():
    model, _ = of_kind("volume")
    with pytest.raises(ValueError, match=r"must be \(depth, height, width\) for this model.*works"):
        filter_patterns(model, "seen", size=(8, 8))
    with pytest.raises(ValueError, match=r"it takes volumes \(6, 10, 8, 1\). Leave `size` out"):
        filter_patterns(model, "seen", size=(8, 8, 8))
    inputs = keras.Input((None, 2))
    free = keras.Model(inputs, layers.GlobalAveragePooling1D()(layers.Conv1D(2, 3, name="seen")(inputs)))
    assert filter_patterns(free, "seen", steps=1).images.shape == (2, 128, 2)
    assert filter_patterns(free, "seen", steps=1, size=(40,)).images.shape == (2, 40, 2)
