"""Signals, volumes, clips, and layers that are called several times, against a plain tape."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from models import LOGITS, images
from tapes import watched

from keras_cam_callbacks import CAMLogger, GradCAMLogger, HeatmapLogger, Occlusion, explain, read_run
from keras_cam_callbacks.methods import cams

SIGNAL, VOLUME, CLIP, IMAGE = (40, 2), (8, 10, 12, 1), (4, 12, 10, 3), (12, 10, 3)
TOKENS = pytest.mark.filterwarnings("ignore:Grad-CAM averages gradients")


def headed(*inside):
    """A model of logits in two halves: up to the layer that is explained, and behind it."""
    base, head = inside[:-1], inside[-1]
    model = keras.Sequential([*base, *head])
    model.compile("sgd", LOGITS)
    return model, keras.Sequential(base), keras.Sequential(head)


def conv1d(**settings):
    first = layers.Conv1D(4, 3, activation="relu", **{"padding": "same"} | settings)
    last = layers.Conv1D(5, 3, activation="relu", **{"padding": "same"} | settings)
    return headed(
        keras.Input(SIGNAL),
        first,
        layers.MaxPooling1D(2),
        last,
        [layers.GlobalMaxPooling1D(), layers.Dense(3)],
    )


def conv3d():
    return headed(
        keras.Input(VOLUME),
        layers.Conv3D(3, 3, padding="same", activation="relu"),
        layers.MaxPooling3D(2),
        layers.Conv3D(4, 3, padding="same", activation="relu"),
        [layers.GlobalAveragePooling3D(), layers.Dense(3)],
    )


def conv_lstm():
    return headed(
        keras.Input(VOLUME),
        layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True),
        layers.ConvLSTM2D(4, 3, padding="same"),
        [layers.GlobalAveragePooling2D(), layers.Dense(3)],
    )


def conv_lstm_sequences():
    return headed(
        keras.Input(VOLUME),
        layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True),
        [layers.GlobalAveragePooling3D(), layers.Dense(3)],
    )


HALVES = {
    "a signal": (conv1d, SIGNAL, (20,)),
    "a causal network": (lambda: conv1d(padding="causal"), SIGNAL, (20,)),
    "a dilated one": (lambda: conv1d(dilation_rate=2), SIGNAL, (20,)),
    "a volume": (conv3d, VOLUME, (4, 5, 6)),
    "a clip, by ConvLSTM": (conv_lstm, VOLUME, (1, 10, 12)),
    "a clip, by ConvLSTM with all steps": (conv_lstm_sequences, VOLUME, (8, 10, 12)),
}


def by_tape(base, head, x):
    (activations,), (slopes,) = watched(lambda watch: keras.ops.max(head(watch(base(x))), axis=1))
    return activations, slopes


@pytest.mark.parametrize(("make", "shape", "cells"), HALVES.values(), ids=HALVES)
def test_methods_of_a_layer_equal_a_tape(make, shape, cells):
    model, base, head = make()
    x = images(3, shape)
    activations, gradients = by_tape(base, head, x)
    found = explain(model, x, method=["gradcam", "hirescam", "layercam", "gradcam_plus_plus"])
    for name, formula in (
        ("gradcam", cams.gradcam),
        ("hirescam", cams.hirescam),
        ("layercam", cams.layercam),
        ("gradcam_plus_plus", cams.gradcam_plus_plus),
    ):
        heatmaps = found[name].heatmaps
        assert heatmaps.shape == (3, *cells)
        expected = formula(activations, gradients).reshape(heatmaps.shape)
        np.testing.assert_allclose(heatmaps, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_in_fit():
    """With the weights of the moment, and the model left as it is."""
    model, base, head = conv1d()
    x, y = images(8, SIGNAL), np.arange(8) % 3
    expected = []

    class Tape(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            expected.append(cams.gradcam(*by_tape(base, head, x)))

    logger = GradCAMLogger((x, y), tracker="memory", on_error="raise")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[logger, Tape()])
    for record, heatmaps in zip(logger.trackers[0].records, expected, strict=True):
        np.testing.assert_allclose(record.heatmaps, heatmaps, rtol=1e-4, atol=1e-6)
    assert "call" not in vars(model.layers[-3])


@pytest.mark.parametrize("kind", [1, 3])
def test_cam_by_hand(kind):
    shape = SIGNAL if kind == 1 else VOLUME
    conv, pool = (getattr(layers, name.format(kind)) for name in ("Conv{}D", "GlobalAveragePooling{}D"))
    model = keras.Sequential([keras.Input(shape), conv(4, 3, name="last"), pool(), layers.Dense(3)])
    x = images(2, shape)
    (features,) = (keras.Model(model.inputs, [model.get_layer("last").output]).predict(x, verbose=0),)
    found = explain(model, x, method="cam")
    expected = np.einsum("n...k,nk->n...", features, model.layers[-1].kernel.numpy().T[found.targets])
    np.testing.assert_allclose(found.heatmaps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [SIGNAL, (6, 7, 8, 1)])
def test_occlusion_and_gradients_of_a_linear_model_by_hand(shape):
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(1)])
    if len(shape) == 2:  # A layer says that it is a signal.
        model = keras.Sequential([keras.Input(shape), layers.ZeroPadding1D(0), layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    x = images(2, shape)
    weights = model.layers[-1].kernel.numpy().reshape(shape)
    parts = (x * weights).sum(axis=-1)
    found = explain(model, x, method=Occlusion(window=1, stride=1))
    np.testing.assert_allclose(found.heatmaps, parts, atol=1e-4)
    products = explain(model, x, method="input_x_gradient")
    np.testing.assert_allclose(products.heatmaps, np.abs(x * weights).sum(axis=-1), atol=1e-5)
    whole = explain(model, x, method=Occlusion(window=shape[:-1], stride=1)).heatmaps
    sums = parts.reshape(2, -1).sum(axis=1).reshape(2, *[1] * (len(shape) - 1))
    np.testing.assert_allclose(whole, np.broadcast_to(sums, whole.shape), rtol=1e-3, atol=1e-4)


DEFAULTS = {(64, 48): (16, 16), (224, 20): (16, 16), (12, 40): (6, 16), (160,): (10,), (8, 16, 32): (2, 4, 8)}


@pytest.mark.parametrize(("size", "window"), DEFAULTS.items())
def test_the_window_of_occlusion_by_default(size, window):
    seen = []

    def score(copies, count):
        for copy, _ in copies:
            seen.append(np.isclose(copy[..., 0], 0))
            yield 0.0

    Occlusion()(np.ones((1, *size, 1), np.float32), np.zeros(1), score)
    first = seen[0]
    assert first.sum() == np.prod(window)
    assert first[tuple(slice(side) for side in window)].all()


# ---- Layers that step through time ---------------------------------------------------------------------------


def frames(recurrent=True, steps=4):
    cnn = keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Conv2D(3, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(4, 3, activation="relu", name="last"),
            layers.GlobalAveragePooling2D(),
        ],
        name="cnn",
    )
    behind = layers.LSTM(5) if recurrent else layers.GlobalMaxPooling1D()
    model = keras.Sequential([keras.Input((steps, *IMAGE)), layers.TimeDistributed(cnn), behind, layers.Dense(3)])
    model.compile("sgd", LOGITS)
    return model, cnn


def of_frames(model, cnn, x):
    """Each frame goes through the network by itself."""
    first = keras.Model(cnn.inputs[0], cnn.get_layer("last").output)
    ops = keras.ops

    def highest(watch):
        maps = [watch(first(x[:, step])) for step in range(x.shape[1])]
        features = ops.stack([ops.mean(one, (1, 2)) for one in maps], 1)
        return ops.max(model.layers[-1](model.layers[-2](features)), axis=1)

    maps, slopes = watched(highest)
    return np.stack(maps, 1), np.stack(slopes, 1)


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("steps", [4, None])
def test_a_network_for_each_frame(recurrent, steps):
    model, cnn = frames(recurrent, steps)
    x = images(2, CLIP)
    before = model.predict(x, verbose=0)
    found = explain(model, x, method=["gradcam", "hirescam", "ablationcam"])
    activations, gradients = of_frames(model, cnn, x)
    assert found["gradcam"].layer_name == "time_distributed/cnn/last".replace("time_distributed", model.layers[0].name)
    for name, formula in (("gradcam", cams.gradcam), ("hirescam", cams.hirescam)):
        np.testing.assert_allclose(found[name].heatmaps, formula(activations, gradients), rtol=1e-3, atol=1e-6)
    assert "call" not in vars(model.layers[0])
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    # Without a channel of all frames.
    targets, weights = found["gradcam"].targets, []
    clean = before[np.arange(2), targets]
    for k in range(4):
        ablated = activations.copy()
        ablated[..., k] = 0
        scores = model.layers[-1](model.layers[-2](ablated.mean(axis=(2, 3))))
        scores = keras.ops.convert_to_numpy(scores)[np.arange(2), targets]
        weights.append((clean - scores) / np.abs(clean))
    expected = cams.cam(activations, np.stack(weights, axis=1))
    np.testing.assert_allclose(found["ablationcam"].heatmaps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_frames_of_a_model_that_runs_eagerly():
    model, _ = frames()
    x = images(2, CLIP)
    expected = explain(model, x).heatmaps
    model.compile("sgd", LOGITS, run_eagerly=True)
    np.testing.assert_allclose(explain(model, x).heatmaps, expected, rtol=1e-4, atol=1e-6)


# ---- One network for several images --------------------------------------------------------------------------


def siamese(name="last"):
    tower = keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Conv2D(4, 3, activation="relu", name="first"),
            layers.Conv2D(5, 3, activation="relu", name=name),
            layers.GlobalAveragePooling2D(),
        ],
        name="tower",
    )
    inputs = {name: keras.Input(IMAGE, name=name) for name in ("left", "right")}
    ends = [tower(tensor) for tensor in inputs.values()]
    model = keras.Model(inputs, layers.Dense(3)(layers.Multiply()(ends)))
    model.compile("sgd", LOGITS)
    return model, tower


def of_tower(model, tower, x, name):
    base = keras.Model(tower.inputs[0], tower.get_layer("last").output)
    other = tower(x["right" if name == "left" else "left"])
    ops, head = keras.ops, model.layers[-1]
    (activations,), (slopes,) = watched(
        lambda watch: ops.max(head(ops.mean(watch(base(x[name])), (1, 2)) * other), axis=1)
    )
    return cams.gradcam(activations, slopes)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("left", {"input": "left"}),
        ("right", {"input": "right"}),
        ("left", {"input": "left", "layer_name": "tower/last"}),
        ("right", {"input": "right", "layer_name": "last"}),
        ("right", {"layer_name": "tower/last#2"}),
        ("left", {"layer_name": "last#1"}),
    ],
)
def test_each_image_of_a_siamese_network(name, settings):
    model, tower = siamese()
    x = {"left": images(2, IMAGE), "right": images(2, IMAGE, seed=1)}
    found = explain(model, x, **settings)
    assert found.layer_name == ("tower/last" if name == "left" else "tower/last#2")
    np.testing.assert_allclose(found.heatmaps, of_tower(model, tower, x, name), rtol=1e-3, atol=1e-7)
    assert found.batch.image_input == (0 if name == "left" else 1)


@pytest.mark.parametrize("layer_name", [None, "tower/last"])
def test_each_call_on_its_own_image(layer_name):
    model, tower = siamese()
    x = {"left": images(2, IMAGE), "right": images(2, IMAGE, seed=1)}
    found = explain(model, x, layer_name)
    assert list(found) == ["left", "right"]
    assert [view.layer_name for view in found.values()] == ["tower/last", "tower/last#2"]
    for name, view in found.items():
        np.testing.assert_allclose(view.heatmaps, of_tower(model, tower, x, name), rtol=1e-3, atol=1e-7)


def test_ablation_of_one_call():
    """Channels of the second image alone are taken away."""
    model, tower = siamese()
    x = {"left": images(2, IMAGE), "right": images(2, IMAGE, seed=1)}
    found = explain(model, x, "tower/last#2", method="ablationcam")
    base = keras.Model(tower.inputs[0], tower.get_layer("last").output)
    activations, left = map(keras.ops.convert_to_numpy, (base(x["right"]), tower(x["left"])))

    def score(maps):
        scores = keras.ops.convert_to_numpy(model.layers[-1](left * maps.mean(axis=(1, 2))))
        return scores[np.arange(2), found.targets]

    clean, weights = score(activations), []
    for k in range(5):
        ablated = activations.copy()
        ablated[..., k] = 0
        weights.append((clean - score(ablated)) / np.abs(clean))
    np.testing.assert_allclose(found.heatmaps, cams.cam(activations, np.stack(weights, 1)), rtol=1e-3, atol=1e-5)


def test_a_call_goes_on_in_its_record_whatever_number_keras_gives_its_layer(tmp_path):
    """By another model of the same layers."""
    x, y = {"left": images(4, IMAGE), "right": images(4, IMAGE, seed=1)}, np.arange(4) % 3
    for number in range(2):
        model, tower = siamese(name=None)
        last = f"tower/{tower.layers[1].name}#2"
        logger = GradCAMLogger((x, y), last, tracker="disk", log_dir=tmp_path, on_error="raise")
        model.fit(x, y, initial_epoch=number, epochs=number + 1, verbose=0, callbacks=[logger])
        assert [epoch.epoch for epoch in read_run(logger.directory).epochs] == list(range(number + 1))
    assert logger.directory.name == "gradcam"


@pytest.mark.parametrize("name", ["tower/last#3", "last#0", "lost#2"])
def test_a_call_that_is_not_there(name):
    model, _ = siamese()
    x = {"left": images(2, IMAGE), "right": images(2, IMAGE, seed=1)}
    with pytest.raises(ValueError, match="Received: "):
        explain(model, x, name)


# ---- Signals with tokens -------------------------------------------------------------------------------------


class WithClassToken(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal")

    def call(self, x):
        return keras.ops.concatenate([keras.ops.repeat(self.token, keras.ops.shape(x)[0], 0), x], 1)


@TOKENS
@pytest.mark.parametrize("special", [0, 1])
def test_tokens_of_a_signal(special):
    inputs = keras.Input((128, 2))
    x = layers.Conv1D(8, 4, strides=4)(inputs)
    x = WithClassToken()(x) if special else x
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(y, y)])
    model = keras.Model(inputs, layers.Dense(3)(x[:, 0] if special else layers.GlobalAveragePooling1D()(x)))
    model.compile("sgd", LOGITS)
    signals = images(2, (128, 2))
    found = explain(model, signals, method=["gradcam", "attention_rollout"])
    norm = [layer for layer in model.layers if isinstance(layer, layers.LayerNormalization)][-1]
    assert found["gradcam"].layer_name == norm.name
    assert found["attention_rollout"].heatmaps.shape == (2, 32)
    parts = keras.Model(inputs, norm.output)
    behind = keras.Model([norm.output, norm.input], model.output)
    before = keras.Model(inputs, norm.input)(signals)
    (activations,), (slopes,) = watched(lambda watch: keras.ops.max(behind([watch(parts(signals)), before]), axis=1))
    expected = cams.gradcam(activations[:, special:], slopes[:, special:])
    np.testing.assert_allclose(found["gradcam"].heatmaps, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("logger", [GradCAMLogger, CAMLogger, HeatmapLogger])
def test_loggers_take_signals(logger):
    inputs = keras.Input(SIGNAL)
    x = layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3, activation="relu")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile("sgd", LOGITS)
    one = logger((images(4, SIGNAL), np.arange(4) % 3), tracker="memory", on_error="raise")
    model.fit(images(4, SIGNAL), np.arange(4) % 3, verbose=0, callbacks=[one])
    assert one.trackers[0].records[0].heatmaps.shape == (4, 38)
