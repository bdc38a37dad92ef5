import logging
import tracemalloc

import keras
import models
import numpy as np
import pytest
from backends import tf
from keras import layers, ops
from models import CLASSES, SHAPE, functional, images
from tapes import watched

from keras_cam_callbacks import METHODS, FullGrad, HeatmapLogger, MemoryTracker, explain
from keras_cam_callbacks.methods import resolve_method


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)


def test_equals_the_reference(net, reference):
    """pytorch-grad-cam adds 1e-7 to the largest value, and scales the sum to [0, 1] in the same way."""
    method = FullGrad(scale="channel", eps=1e-7)
    found = explain(net, reference["images"], method=method, target=reference["targets"]).heatmaps
    found = found - found.min((1, 2), keepdims=True)
    found /= 1e-7 + found.max((1, 2), keepdims=True)
    assert np.abs(found - reference["fullgrad/heatmap"]).max() <= 1e-5
    # The addend and the scale are seen: without either, this is another map.
    for other in (FullGrad(scale="channel"), FullGrad()):
        maps = explain(net, reference["images"], method=other, target=reference["targets"]).heatmaps
        maps = (maps - maps.min((1, 2), keepdims=True)) / np.ptp(maps, axis=(1, 2), keepdims=True)
        assert np.abs(maps - reference["fullgrad/heatmap"]).max() > 1e-4


class Shares:
    """Keeps all shares of the score, as a method of the user's can."""

    name, needs = "shares", ("images", "full_gradient")

    def __init__(self):
        self.gradients, self.parts, self.rest, self.images = [], [], [], []

    def __call__(self, images, full_gradient):
        for gradient, parts, rest in full_gradient(zip(images, range(len(images)), strict=True), len(images)):
            self.gradients.append(gradient)
            self.parts.append(parts)
            self.rest.append(rest)
        self.images.extend(images)
        return np.zeros(images.shape[:-1], np.float32)

    def sums(self):
        inputs = [(image * g).sum(dtype=np.float64) for image, g in zip(self.images, self.gradients, strict=True)]
        return (
            np.array(inputs) + [sum(part.sum(dtype=np.float64) for part in parts) for parts in self.parts] + self.rest
        )


def shares_of(model, x, **settings):
    kept = Shares()
    explanation = explain(model, x, method=kept, **settings)
    return kept, explanation.scores


def stirred(model, seed=3):
    """Gives every weight a value, for biases begin as zeros and batch normalization as the identity."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.dtype != "float32" or "seed" in variable.path:
            continue
        if "kernel" in variable.name:
            fan = np.prod(variable.shape[:-1])
            variable.assign(random.normal(size=variable.shape) * np.sqrt(2 / fan))
        elif "variance" in variable.name or "gamma" in variable.name:
            variable.assign(random.uniform(0.5, 2, variable.shape))
        else:
            variable.assign(random.normal(size=variable.shape) * 0.5)
    return model


def chained(*parts, shape=SHAPE, name="chained"):
    return built(keras.Sequential([keras.Input(shape), *parts], name=name), shape)


def built(model, shape=SHAPE):
    model(images(1, shape))  # A layer that is another's activation is built by its first call.
    return model


def normalized(**settings):
    return chained(
        layers.Conv2D(4, 3, use_bias=False),
        layers.BatchNormalization(**settings),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, activation="relu"),
        layers.BatchNormalization(**settings),
        layers.LeakyReLU(0.2),
        layers.GlobalAveragePooling2D(),
        layers.BatchNormalization(**settings),
        layers.Dense(CLASSES, activation="softmax"),
    )


def every_convolution():
    return chained(
        layers.SeparableConv2D(5, 3, activation="relu"),
        layers.Conv2DTranspose(4, 3, strides=2, activation="relu"),
        layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, activation="relu"),
        layers.AveragePooling2D(2),
        layers.Conv2D(6, 3, padding="same", dilation_rate=2, activation=layers.PReLU(shared_axes=(1, 2))),
        layers.Flatten(),
        layers.Dense(7, activation="relu"),
        layers.Dense(CLASSES),
    )


def preprocessed():
    """With what stands in a model before its first convolution."""
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = layers.Normalization(mean=[0.1, -0.2, 0.3], variance=[0.5, 1.0, 2.0])(x)
    x = layers.Rescaling([1.0, 2.0, 0.5], offset=[0.0, 0.3, -0.1])(x)
    x = layers.Conv2D(4, 3, activation="relu")(x)
    x = layers.Normalization(mean=0.5, variance=4.0, axis=None, invert=True)(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalMaxPooling2D()(x)))


def squeezed():
    """With biases of 1 x 1 maps, and a Dense layer on a map, which is a 1 x 1 convolution."""
    inputs = keras.Input(SHAPE)
    x = layers.Dense(4, activation="relu", name="pointwise")(inputs)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Add()([x, layers.Conv2D(4, 1, activation="relu", name="squeeze")(pooled)])
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


class Handmade(layers.Conv2D):
    """Overrides `call` and leaves the activation to others."""

    def call(self, inputs):
        return ops.conv(inputs, self.kernel) + self.bias


class Twice(keras.Model):
    """Calls a convolution twice, has one that nothing comes of, and one that is never called."""

    def __init__(self):
        super().__init__(name="twice")
        self.first = layers.Conv2D(4, 3, activation="relu", name="first")
        self.again = layers.Conv2D(4, 3, padding="same", activation="relu", name="again")
        self.aside = layers.Conv2D(4, 3, activation="relu", name="aside")
        self.never = layers.Conv2D(4, 3, name="never")
        self.never.build((None, 10, 14, 4))
        self.dense = layers.Dense(CLASSES)

    def call(self, x):
        x = self.first(x)
        self.aside(x)
        x = x + self.again(self.again(x))
        return self.dense(ops.mean(x, axis=(1, 2)))


COMPLETE = {
    # model, number of feature maps that have constants
    "fused ReLU and softmax": (lambda: models.sequential().model, 2),
    "nested": (lambda: models.nested_twice().model, 2),
    "batch normalization": (normalized, 3),
    "batch normalization without scale": (lambda: normalized(scale=False), 3),
    "batch normalization without center": (lambda: normalized(center=False), 3),
    "every convolution": (every_convolution, 4),
    "preprocessing": (preprocessed, 5),
    "1 x 1 maps": (squeezed, 1),
    "own call": (lambda: chained(Handmade(4, 3), layers.ReLU(), layers.Flatten(), layers.Dense(2)), 1),
    "called twice": (lambda: built(Twice()), 3),
    "no constants at all": (lambda: chained(layers.Flatten(), layers.Dense(2, use_bias=False)), 0),
    "activation of None": (lambda: without_activation(), 1),
    "one unit": (lambda: functional(1, "sigmoid").model, 2),
}


def without_activation():
    model = functional(activation=None).model
    model.get_layer("classes").activation = None
    model.get_layer("conv1").use_bias, model.get_layer("conv1").bias = False, None
    return model


@pytest.mark.parametrize(("build", "maps"), COMPLETE.values(), ids=COMPLETE)
def test_all_shares_sum_to_the_score(build, maps, caplog):
    model = stirred(build())
    x = images() * (200 if build is preprocessed else 2) - 1
    kept, scores = shares_of(model, x)
    assert np.abs(scores).max() > 0.1
    assert len(kept.parts[0]) == maps
    np.testing.assert_allclose(kept.sums(), scores, rtol=1e-4, atol=1e-4 * np.abs(scores).max())
    without = kept.sums() - [sum(part.sum() for part in parts) for parts in kept.parts] - kept.rest
    assert maps == 0 or np.abs(without - scores).max() > 0.05 * np.abs(scores).max()
    with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
        explanation = explain(model, x, method="fullgrad")
    found = explanation.heatmaps
    assert (found.shape, found.dtype) == (x.shape[:3], np.float32)
    assert found.min() >= 0
    assert found.max() > 0
    said = [r.message for r in caplog.records if "FullGrad: largest completeness gap" in r.message]
    assert float(said[-1].split()[4]) < 1e-4
    assert explanation.values["completeness_gap"].shape == (len(x),)
    assert explanation.values["completeness_gap"].max() < 1e-4


@pytest.mark.slow
def test_an_application_with_all_its_layers_is_complete():
    """ResNet50's blocks, in small: convolutions with biases and batch normalization, added."""
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(64, 64, 3), name="base")
    model = chained(base, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES), shape=(64, 64, 3))
    x = images(2, (64, 64, 3))
    kept, scores = shares_of(model, x, target=1)
    norms = [layer for layer in base.layers if isinstance(layer, layers.BatchNormalization)]
    assert len(kept.parts[0]) == 2 * len(norms) == 106
    np.testing.assert_allclose(kept.sums(), scores, rtol=1e-4, atol=1e-4 * np.abs(scores).max())


def test_what_is_not_piecewise_linear_leaves_a_gap_that_is_said(caplog):
    model = stirred(chained(layers.Conv2D(4, 3, activation="tanh"), layers.Flatten(), layers.Dense(2)))
    with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
        explain(model, images() * 5, method="fullgrad")
    assert float(caplog.records[-1].message.split()[4]) > 0.01


def test_shares_of_a_layer_are_its_constant_times_the_gradient_of_its_variable():
    """For each channel, by gradients of the biases and on batch normalization's beta, image by image."""
    model, x = stirred(normalized()), images(3)
    biased = [layer for layer in model.layers if getattr(layer, "bias", None) is not None]
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    kept, _ = shares_of(model, x, target=2)
    logits = keras.Sequential([*model.layers[:-1]])
    last = model.layers[-1]
    variables = [layer.bias for layer in biased] + [layer.beta for layer in norms]
    for row in range(3):

        def score(watch, image=x[row : row + 1]):
            values = [watch(ops.convert_to_tensor(variable.numpy())) for variable in variables]
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return (ops.matmul(logits(image), last.kernel) + last.bias)[:, 2]

        _, slopes = watched(score)
        constants = [layer.bias.numpy() for layer in biased] + [
            layer.beta.numpy()
            - layer.gamma.numpy() * layer.moving_mean.numpy() / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
            for layer in norms
        ]
        depthwise, dense, first, second, flat = (c * g for c, g in zip(constants, slopes, strict=True))
        for part, expected in zip(kept.parts[row], (first, depthwise, second), strict=True):
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(part.sum((0, 1)), expected, rtol=1e-3, atol=1e-5)
        assert kept.rest[row] == pytest.approx(dense.sum() + flat.sum(), rel=1e-4)


def pointwise_by_hand(x, kernel, bias, weights):
    """Shares of the score of a 1 x 1 convolution with a ReLU, an average and a dense layer's weights (K,)."""
    sums = x.astype(np.float64) @ kernel + bias
    slopes = (sums > 0) * weights / np.prod(x.shape[1:3])
    return x * (slopes @ kernel.T), slopes * bias


def test_by_hand():
    model = stirred(chained(layers.Conv2D(4, 1, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(2)))
    x = images(3) * 4 - 2
    kernel, bias, dense, _ = (weight.astype(np.float64) for weight in model.get_weights())
    terms = pointwise_by_hand(x, kernel[0, 0], bias, dense[:, 1])
    kept, _ = shares_of(model, x, target=1)
    np.testing.assert_allclose(np.stack(kept.gradients) * x, terms[0], atol=1e-6)
    np.testing.assert_allclose(np.stack([parts[0] for parts in kept.parts]), terms[1], atol=1e-6)
    for scale, axes in (("layer", (1, 2, 3)), ("channel", (1, 2))):
        expected = np.zeros(x.shape[:3])
        for term in map(np.abs, terms):
            low, high = term.min(axes, keepdims=True), term.max(axes, keepdims=True)
            expected += ((term - low) / np.where(high > low, high - low, 1)).sum(-1)
        found = explain(model, x, method=FullGrad(scale=scale), target=1).heatmaps
        models.assert_maps_equal(found, expected)


def of(gradient, parts):
    return lambda copies, total: ((gradient, parts, 0.0) for _ in copies)


def test_psi_by_hand():
    """An image of 2 x 4 pixels; a layer of 1 x 2 positions; one of 1 x 1."""
    image = np.ones((1, 2, 4, 1), np.float32)
    scores = np.ones(1, np.float32)
    none = np.zeros((2, 4, 1), np.float32)
    part = np.array([[[-3, 1], [1, 5]]], np.float32)

    def maps(*parts, gradient=none, **settings):
        return FullGrad(**settings)(image, scores, of(gradient, parts))[0][0]

    # Of [3, 1], [1, 5] less 1 and over 4: 0.5 + 0 on the left, 0 + 1 on the right; pixel centres at 1/4 and 3/4.
    np.testing.assert_allclose(maps(part), [[0.5, 0.625, 0.875, 1]] * 2)
    # Channel by channel: 1 and 0, 0 and 1.
    np.testing.assert_allclose(maps(part, scale="channel"), np.ones((2, 4)))
    np.testing.assert_allclose(maps(part, eps=4.0), [[0.25, 0.3125, 0.4375, 0.5]] * 2)
    np.testing.assert_allclose(maps(part, part), 2 * maps(part))
    # What is the same everywhere tells no position, and nothing is divided by zero.
    assert not maps(np.full((1, 1, 1), 7, np.float32)).any()
    slope = np.arange(8, dtype=np.float32).reshape(2, 4, 1) - 7
    np.testing.assert_allclose(maps(gradient=slope), -slope[..., 0] / 7)
    tiny = np.float32(1e-30)
    np.testing.assert_allclose(maps(part * tiny), maps(part), rtol=1e-6)
    assert np.isnan(maps(np.full((1, 2, 2), np.nan, np.float32))).all()


def test_parts_go_as_they_come():
    """Of 30 images no more than one has its parts in memory, though all maps are kept."""
    one = 4 * 64 * 64 * 16
    x = np.zeros((30, 8, 8, 1), np.float32)

    def full_gradient(copies, total):
        for _ in copies:
            yield np.ones((8, 8, 1), np.float32), (np.ones((64, 64, 16), np.float32),), 0.0

    FullGrad()(x, np.zeros(30, np.float32), full_gradient)
    assert traced_peak(lambda: FullGrad()(x, np.zeros(30, np.float32), full_gradient)) < 4 * one


def traced_peak(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_parts_are_bounded_by_the_chunk():
    """Measured on the arrays that leave the model, of 12 images, two at a time."""
    model = stirred(
        chained(
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
            shape=(48, 48, 3),
        )
    )
    one = 4 * 2 * 48 * 48 * 24
    x = images(12, (48, 48, 3))
    explain(model, x, method="fullgrad", batch_size=2)
    peak = traced_peak(lambda: explain(model, x, method="fullgrad", batch_size=2))
    # The second time the model is not traced, and no pictures are made. Others may join what they run one by one.
    most = {"tensorflow": 4, "jax": 5, "torch": 7}[keras.backend.backend()]
    assert 1.5 * one < peak < most * one


class First(layers.Conv2D):
    """A convolution in channels_first, which TensorFlow itself runs on few CPUs."""

    def convolution_op(self, inputs, kernel):
        last = ops.transpose(inputs, (0, 2, 3, 1))
        found = ops.conv(last, kernel, strides=list(self.strides), padding=self.padding, data_format="channels_last")
        return ops.transpose(found, (0, 3, 1, 2))


def test_channels_first():
    first = [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(5, 2)]
    last = [layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]
    model = stirred(chained(*first, *last))
    inputs = keras.Input((3, *SHAPE[:2]))
    x = inputs
    for layer in model.layers:
        config = layer.get_config()
        config |= {"data_format": "channels_first"} if "data_format" in config else {}
        config |= {"axis": 1} if "axis" in config else {}
        x = (First if isinstance(layer, layers.Conv2D) else type(layer)).from_config(config)(x)
    other = keras.Model(inputs, x)
    other.set_weights(model.get_weights())
    (expected, scores), (found, _) = shares_of(model, images()), shares_of(other, images().transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found.sums(), scores, rtol=1e-4)
    for one, two in zip(expected.parts, found.parts, strict=True):
        assert [part.shape for part in one] == [part.shape for part in two]
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())
    maps = explain(other, images().transpose(0, 3, 1, 2), method="fullgrad").heatmaps
    models.assert_maps_equal(maps, explain(model, images(), method="fullgrad").heatmaps)


def test_mixed_precision():
    plain, mixed = stirred(normalized()), models.in_mixed_precision(normalized)
    mixed.set_weights(plain.get_weights())
    assert mixed.layers[1].compute_dtype == "float16"
    kept, scores = shares_of(mixed, images(), target=1)
    np.testing.assert_allclose(kept.sums(), scores, rtol=0.02, atol=0.01 * np.abs(scores).max())
    expected = explain(plain, images(), method="fullgrad", target=1).heatmaps
    found = explain(mixed, images(), method="fullgrad", target=1).heatmaps
    assert np.quantile(np.abs(found - expected), 0.95) <= 0.02 * expected.max()
    # Gradients that float16 would lose: 2^-20 over the positions of an average.
    for model in (plain, mixed):
        kernel, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([np.full_like(kernel, 2.0**-20), bias])
    expected, found = (shares_of(model, images(), target=1)[0] for model in (plain, mixed))
    for one, two in zip(expected.parts[0], found.parts[0], strict=True):
        assert np.abs(two).sum() == pytest.approx(np.abs(one).sum(), rel=0.03)


@pytest.mark.parametrize("kind", ["chunks", "fixed batch", "eager", "whole numbers", "tf.function"])
def test_ways_to_run(kind):
    split = functional()
    model, x = stirred(split.model), images(5)
    if kind == "whole numbers":
        x = (x * 255).astype(np.uint8)
    expected = explain(model, x.astype(np.float32), method="fullgrad", target=1).heatmaps
    settings = {}
    if kind == "chunks":
        settings["batch_size"] = 2
    elif kind == "eager":
        model.compile("sgd", models.SPARSE, run_eagerly=True)
    elif kind == "fixed batch":
        other = functional(batch=4).model
        other.set_weights(model.get_weights())
        model = other
    elif kind == "tf.function":
        inner, inputs = Hidden(model), keras.Input(SHAPE)
        model = keras.Model(inputs, inner(inputs))
    models.assert_maps_equal(explain(model, x, method="fullgrad", target=1, **settings).heatmaps, expected)


class Hidden(keras.Model):
    """Runs another model in a graph of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    @tf.function
    def call(self, x):
        return self.inner(x)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras' own
@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_quantized_layers_take_part(mode):
    model = stirred(functional(activation=None).model)
    x = images()
    expected = shares_of(model, x, target=0)[0]
    model.get_layer("classes").quantize(mode)
    kept, scores = shares_of(model, x, target=0)
    # Keras rounds the bias to bfloat16 where the kernel is in float8, of three bits of fraction.
    exact, rounding, change = (1e-5, 0.02, 0.05) if mode == "int8" else (4e-3, 0.1, 0.1)
    np.testing.assert_allclose(kept.rest, model.get_layer("classes").bias.numpy()[0], rtol=exact)
    np.testing.assert_allclose(kept.sums(), scores, atol=rounding * np.abs(scores).max())
    np.testing.assert_allclose(kept.sums(), expected.sums(), atol=change * np.abs(expected.sums()).max())


def test_other_inputs_are_in_the_sum():
    inputs = {"image": keras.Input(SHAPE, name="image"), "age": keras.Input((2,), name="age")}
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs["image"]))
    hidden = layers.Dense(5, activation="relu")(inputs["age"])
    model = stirred(keras.Model(inputs, layers.Dense(CLASSES)(layers.Concatenate()([x, hidden]))))
    data = {"image": images(), "age": np.linspace(-3, 3, 12, dtype=np.float32).reshape(6, 2)}
    kept, scores = shares_of(model, data, batch_size=4)
    np.testing.assert_allclose(kept.sums(), scores, rtol=1e-4)
    assert len(kept.parts[0]) == 1
    assert np.ptp(kept.rest) > 0.1


CLIP = (4, 10, 8, 2)


def of_frames():
    """The same layers for each frame of a clip."""
    return [
        layers.Conv2D(3, 3, padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.AveragePooling2D(2),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Flatten(),
        layers.Dense(5, activation="relu"),
    ]


def test_layers_that_step_through_time_are_those_of_a_loop_over_frames():
    """The parts of maps lie at their frames; those of a dense layer have no position in them."""
    frame, head = of_frames(), layers.Dense(CLASSES)
    inputs = keras.Input(CLIP)
    model = keras.Model(inputs, head(layers.Flatten()(layers.TimeDistributed(keras.Sequential(frame))(inputs))))
    x = images(3, CLIP)
    kept, scores = shares_of(stirred(model), x, target=1)
    np.testing.assert_allclose(kept.sums(), scores, rtol=1e-4, atol=1e-4)

    conv, norm, pool, depthwise, flatten, dense = frame

    def score(watch):
        clip, ends = watch(ops.convert_to_tensor(x)), []
        for t in range(CLIP[0]):
            z = watch(ops.conv(clip[:, t], conv.kernel, padding="same", data_format="channels_last") + conv.bias)
            z = watch(norm(ops.relu(z), training=False))
            z = ops.depthwise_conv(pool(z), depthwise.kernel, padding="same", data_format="channels_last")
            z = watch(z + depthwise.bias)
            ends.append(ops.relu(watch(ops.matmul(flatten(z), dense.kernel) + dense.bias)))
        return (ops.matmul(ops.concatenate(ends, axis=1), head.kernel) + head.bias)[:, 1]

    _, (slope, *in_turn) = watched(score)
    slopes = {name: in_turn[i::4] for i, name in enumerate(("conv", "norm", "depthwise", "dense"))}
    scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    shift = norm.beta.numpy() - norm.moving_mean.numpy() * scale
    constants = {"conv": conv.bias.numpy(), "norm": shift, "depthwise": depthwise.bias.numpy()}
    parts = [np.stack(slopes[name], 1) * constant for name, constant in constants.items()]
    np.testing.assert_allclose(kept.gradients, slope, rtol=1e-4, atol=1e-5)
    for i, part in enumerate(parts):
        np.testing.assert_allclose([of_sample[i] for of_sample in kept.parts], part, rtol=1e-4, atol=1e-5)
    rest = (np.stack(slopes["dense"], 1) * dense.bias.numpy()).sum((1, 2)) + head.bias.numpy()[1]
    np.testing.assert_allclose(kept.rest, rest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["fullgrad", FullGrad(scale="channel")], ids=["layer", "channel"])
def test_a_clip_is_explained_frame_by_frame(method):
    """Without what joins the frames, the map of a frame is made of its own parts alone."""
    inputs = keras.Input(CLIP)
    frame = layers.TimeDistributed(keras.Sequential([layers.Conv2D(3, 3, activation="relu"), layers.Conv2D(2, 3)]))
    model = stirred(keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(frame(inputs)))))
    head = model.layers[-1]
    kernel = np.asarray(head.kernel).reshape(CLIP[0], -1, CLASSES).copy()
    kernel[[0, 1, 3]] = 0  # The score reads one frame.
    head.kernel.assign(kernel.reshape(-1, CLASSES))
    found = explain(model, images(2, CLIP), method=method, target=1)
    assert found.values["completeness_gap"].max() < 1e-4
    assert found.heatmaps[:, [0, 1, 3]].max() == 0
    assert found.heatmaps[:, 2].max(axis=(1, 2)).min() > 0


def test_what_steps_through_parts_of_an_image_is_in_the_sum():
    kept, scores = shares_of(stirred(over_time()), images(), target=1)
    np.testing.assert_allclose(kept.sums(), scores, rtol=1e-4, atol=1e-4)
    assert all(parts == () for parts in kept.parts)


def two_images():
    inputs = [keras.Input(SHAPE), keras.Input(SHAPE)]
    conv = layers.Conv2D(4, 3)
    x = layers.Flatten()(layers.Subtract()([conv(one) for one in inputs]))
    return keras.Model(inputs, layers.Dense(2)(x), name="two_images"), [images(), images(seed=1)]


class Steps(layers.TimeDistributed):
    """Has a `call` of its own."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask)


def over_time(steps=layers.TimeDistributed):
    inputs = keras.Input(SHAPE)
    x = layers.Reshape((2, 6, 16, 3))(inputs)
    x = layers.Flatten()(steps(layers.Conv2D(4, 3, activation="relu"), name="times")(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


class Patches(keras.Model):
    """Makes samples of the two halves of each image."""

    def __init__(self):
        super().__init__(name="patches")
        self.conv, self.dense = layers.Conv2D(4, 3, name="conv"), layers.Dense(2)

    def call(self, x):
        halves = self.conv(ops.reshape(x, (-1, 6, 16, 3)))
        return self.dense(ops.reshape(halves, (-1, 2 * 4 * 14 * 4)))


class Looping(keras.Model):
    def __init__(self):
        super().__init__(name="looping")
        self.conv, self.dense = layers.Conv2D(3, 3, padding="same", name="conv"), layers.Dense(2)

    def call(self, x):
        step = lambda i, x: (i + 1, ops.reshape(self.conv(x), (-1, *SHAPE)))  # noqa: E731
        return self.dense(ops.mean(ops.while_loop(lambda i, x: i < 2, step, (0, x))[1], axis=(1, 2)))


def unused_activation():
    model = chained(Handmade(4, 3, activation="relu", name="handmade"), layers.Flatten(), layers.Dense(2))
    return model, images()


REFUSED = {
    "two images": (two_images, r"one image, .*'two_images' with inputs of shapes \[\(None, 12, 16, 3\), "),
    "layers in a loop": (lambda: (over_time(Steps), images()), r"layer 'times', which runs layers in a loop"),
    "a loop": pytest.param(
        lambda: (built(Looping()), images()),
        r"layer 'conv', which runs in a loop or in another graph",
        marks=pytest.mark.only_on("tensorflow", "jax", reason="on PyTorch a loop is one of Python"),
    ),
    "patches": (lambda: (built(Patches()), images()), r"one for each sample. Received: model 'patches'"),
    "unused activation": (unused_activation, r"layer 'handmade', whose own `call` does not use"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_out_of_reach_is_refused_before_training(build, message):
    model, x = build()
    logger = HeatmapLogger(x, method="fullgrad", target=1, tracker=None)
    logger.set_model(model)
    with pytest.raises(ValueError, match=message):
        logger.on_train_begin()
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_model_is_left_as_found():
    model, x = stirred(every_convolution()), images()
    every = list(model._flatten_layers())
    activations = [getattr(layer, "activation", None) for layer in every]
    before = [vars(layer).copy() for layer in every]
    weights, flags = model.get_weights(), [layer.trainable for layer in every]
    losses, state = len(model.losses), np.random.get_state()[1].copy()  # noqa: NPY002 - the state that users' code has
    explain(model, x, method="fullgrad")
    assert all(a is getattr(layer, "activation", None) for a, layer in zip(activations, every, strict=True))
    for old, layer in zip(before, every, strict=True):
        assert set(old) == set(vars(layer)), (layer.name, set(old) ^ set(vars(layer)))
    assert not any("call" in vars(layer) for layer in every)
    assert flags == [layer.trainable for layer in every]
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(model.losses) == losses
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    # Also where tracing fails.
    with pytest.raises(ValueError, match="Received"):
        explain(model, x, method="fullgrad", target=lambda outputs: outputs[:, 0] * 0 + outputs[0, 0].nothing)
    assert all(a is getattr(layer, "activation", None) for a, layer in zip(activations, every, strict=True))


def test_inside_fit_it_follows_the_weights():
    model = stirred(functional().model)
    model.compile(keras.optimizers.SGD(0.5), models.SPARSE, jit_compile=False)
    memory, x = MemoryTracker(), images()
    logger = HeatmapLogger(
        (x, models.labels()), method=FullGrad(scale="channel"), target="true", tracker=memory, on_error="raise"
    )
    seen = []
    last = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            explain(model, x, method=FullGrad(scale="channel"), target=models.labels()).heatmaps
        )
    )
    model.fit(x, models.labels(), epochs=2, verbose=0, callbacks=[logger, last])
    for record, maps in zip(memory.records, seen, strict=True):
        models.assert_maps_equal(record.heatmaps, maps)
    assert np.abs(seen[0] - seen[1]).max() > 1e-2
    assert (memory.config.layer_name, memory.config.method) == ("", "fullgrad(scale='channel')")


def test_known_by_name_and_impossible_options():
    assert METHODS["fullgrad"].function == FullGrad()
    assert resolve_method(FullGrad()).text == "fullgrad"
    assert resolve_method(FullGrad(eps=1e-6)).text == "fullgrad(eps=1e-06)"
    for wrong, message in (
        ({"scale": "image"}, "`scale` must be 'layer' or 'channel'. Received: scale='image'"),
        ({"eps": -1}, "`eps` must be a finite number of at least 0. Received: eps=-1"),
        ({"eps": np.inf}, "Received: eps=inf"),
    ):
        with pytest.raises(ValueError, match="Received") as error:
            FullGrad(**wrong)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="knows no layer"):
        explain(functional().model, images(), "conv2", method="fullgrad")
