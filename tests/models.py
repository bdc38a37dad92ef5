"""Tiny models, each with a computation of its own that is cut by hand at the explained layer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from tapes import gradient

from keras_cam_callbacks import HeatmapLogger, MemoryTracker

SHAPE = (12, 16, 3)
CLASSES = 3
SPARSE = "sparse_categorical_crossentropy"
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def drawn(model, seed=0):
    """Gives kernels the same values on every backend, which draw from generators of their own."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(random.normal(size=variable.shape) * np.sqrt(2 / np.prod(variable.shape[:-1])))
    return model


@dataclass
class Split:
    """A model and its two halves.

    Attributes:
        model: The model.
        layer: Path of the layer at which it is cut.
        front: From images to the layer's output (N, h, w, C), eagerly.
        rest: From that output to the logits (N, K), before any softmax or sigmoid.
    """

    model: Any
    layer: str
    front: Callable[[Any], Any]
    rest: Callable[[Any], Any]


def images(count=6, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


def labels(count=6, classes=CLASSES):
    return np.arange(count) % classes


def chain(*steps):
    """Puts layers or functions in a row; layers are run in inference mode."""

    def run(x):
        for step in steps:
            x = step(x, training=False) if isinstance(step, layers.Layer) else step(x)
        return x

    return run


def dense_by_hand(dense):
    """Global average pooling and a dense layer without its activation."""
    tensor = ops.convert_to_tensor
    return lambda a: ops.matmul(ops.mean(a, (1, 2)), tensor(dense.kernel)) + tensor(dense.bias)


def pool_by_hand(a):
    return ops.max_pool(a, 2, 2, "valid", data_format="channels_last")


def trunk():
    """Two convolutions, of which the second is the one to explain, and a pooling."""
    return [
        layers.Conv2D(4, 3, activation="relu", name="conv1"),
        layers.Conv2D(5, 3, padding="same", activation="relu", name="conv2"),
        layers.MaxPooling2D(2, name="pool"),
    ]


def cut_at_conv2(model, parts, dense, prefix=""):
    return Split(model, f"{prefix}conv2", chain(*parts[:2]), chain(pool_by_hand, dense_by_hand(dense)))


def functional(units=CLASSES, activation="softmax", ending=(), shape=SHAPE, batch=None):
    """Convolutions, pooling, dense; `ending` are further layers or functions behind it."""
    parts, dense = trunk(), layers.Dense(units, activation=activation, name="classes")
    inputs = keras.Input(batch_shape=(batch, *shape))
    x = inputs
    for layer in (*parts, layers.GlobalAveragePooling2D(name="average"), dense, *ending):
        x = layer(x)
    return cut_at_conv2(keras.Model(inputs, x, name="functional"), parts, dense)


def in_mixed_precision(build):
    """What `build` builds under the policy mixed_float16."""
    return in_precision("mixed_float16", build)


def in_precision(policy, build):
    """What `build` builds under a policy."""
    if policy == "float64" and keras.backend.backend() == "jax" and not os.environ.get("JAX_ENABLE_X64"):
        pytest.skip("JAX has float64 in a process alone that is begun with JAX_ENABLE_X64=1")
    keras.config.set_dtype_policy(policy)
    try:
        return build()
    finally:
        keras.config.set_dtype_policy("float32")


class _ChannelsFirst:
    """Has a layer take and put out channels first, as few CPUs can compute it: by transposing around it."""

    def build(self, shape):
        self._as_last(super().build, (shape[0], *shape[2:], shape[1]))
        self.input_spec = None  # It says where channels_last has its channels.

    def compute_output_shape(self, shape):
        n, *inner = self._as_last(super().compute_output_shape, (shape[0], *shape[2:], shape[1]))
        return (n, *inner) if len(inner) == 1 else (n, inner[2], *inner[:2])

    def call(self, x):
        found = self._as_last(super().call, keras.ops.transpose(x, (0, 2, 3, 1)))
        return found if len(found.shape) == 2 else keras.ops.transpose(found, (0, 3, 1, 2))

    def _as_last(self, function, argument):
        vars(self)["data_format"] = "channels_last"
        try:
            return function(argument)
        finally:
            vars(self)["data_format"] = "channels_first"


def channels_first(model):
    """A chain of layers, each of which that has a layout of its own in channels first; with the same weights."""
    x = inputs = keras.Input((SHAPE[2], *SHAPE[:2]))
    for layer in model.layers[1:]:
        kind = type(layer)
        if hasattr(layer, "data_format"):
            kind = type(kind.__name__, (_ChannelsFirst, kind), {})
        copy = kind.from_config(layer.get_config())
        if hasattr(layer, "data_format"):
            copy.data_format = "channels_first"
        x = copy(x)
    copied = keras.Model(inputs, x)
    copied.set_weights(model.get_weights())
    return copied


def sequential():
    parts, dense = trunk(), layers.Dense(CLASSES, activation="softmax", name="classes")
    model = keras.Sequential([keras.Input(SHAPE), *parts, layers.GlobalAveragePooling2D(), layers.Dropout(0.4), dense])
    return cut_at_conv2(model, parts, dense)


def unbuilt_sequential():
    """Without an input: built when `fit` sees the first batch."""
    parts, dense = trunk(), layers.Dense(CLASSES, activation="softmax", name="classes")
    return cut_at_conv2(keras.Sequential([*parts, layers.GlobalAveragePooling2D(), dense]), parts, dense)


def nested_twice():
    parts, dense = trunk(), layers.Dense(CLASSES, activation="softmax", name="classes")
    inner = keras.Sequential([keras.Input((10, 14, 4)), *parts[1:]], name="inner")
    inputs = keras.Input(SHAPE)
    middle = keras.Model(inputs, inner(parts[0](inputs)), name="middle")
    model = keras.Sequential([keras.Input(SHAPE), middle, layers.GlobalAveragePooling2D(), dense])
    return cut_at_conv2(model, parts, dense, "middle/inner/")


class Branched(keras.Model):
    """A subclass with a way around the explained layer, and its activation in plain sight or hidden."""

    def __init__(self, last=None, units=CLASSES):
        super().__init__(name="branched")
        self.conv1 = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1")
        self.conv2 = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2")
        self.average = layers.GlobalAveragePooling2D(name="average")
        self.dense = layers.Dense(units, name="classes")
        self.last = last or keras.ops.softmax

    def call(self, x, training=False):
        first = self.conv1(x)
        return self.last(self.dense(self.average(first + 2 * self.conv2(first) ** 2)))


def branched(last=None, units=CLASSES):
    model = Branched(last, units)
    model(images(1))
    kept = {}

    def front(x):
        kept["around"] = model.conv1(x)
        return model.conv2(kept["around"])

    return Split(model, "conv2", front, lambda a: dense_by_hand(model.dense)(kept["around"] + 2 * a**2))


def mobilenet(cut="Conv_1", trainable=True, kind="functional"):
    """A classifier around a nested MobileNetV2, cut at a layer through which everything in the base goes.

    In float64: fifty untrained layers make of the last bits of float32, which differ from one order of the sums to
    another, as much as is tested for.
    """
    return in_precision("float64", lambda: _mobilenet(cut, trainable, kind))


def _mobilenet(cut, trainable, kind):
    base = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, include_top=False, weights=None, name="base")
    settle(base)
    base.trainable = trainable
    dense = layers.Dense(CLASSES, activation="softmax", name="classes")
    if kind == "sequential":
        model = keras.Sequential([keras.Input((96, 96, 3)), base, layers.GlobalAveragePooling2D(), dense])
    else:
        inputs = keras.Input((96, 96, 3))
        model = keras.Model(inputs, dense(layers.GlobalAveragePooling2D()(base(inputs, training=False))))
    output = base.get_layer(cut).output
    front = keras.Model(base.input, output)
    behind = [] if output is base.output else [keras.Model(output, base.output)]
    return Split(model, f"base/{cut}", chain(front), chain(*behind, dense_by_hand(dense)))


def settle(base, shape=(96, 96, 3)):
    """Gives batch normalisation the statistics of a batch, without which the maps of an untrained base vanish."""
    norms = [layer for layer in base.layers if isinstance(layer, layers.BatchNormalization)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 0.0
    base(images(8, shape), training=True)
    for norm in norms:
        norm.momentum = momentum


def reference_gradcam(split, x, score):
    """Grad-CAM by its formula, with the backend's own gradient of the rest of the model; `score` takes the logits."""
    activations = ops.convert_to_tensor(split.front(ops.convert_to_tensor(x)))
    slopes = gradient(lambda a: score(split.rest(a)), activations)
    activations = ops.convert_to_numpy(activations)
    return (slopes.mean(axis=(1, 2), keepdims=True) * activations).sum(axis=-1)


def assert_maps_equal(found, expected, share=1e-4):
    """Checks two sets of maps to a share of the largest value, and that there is something to compare."""
    assert found.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(found - expected).max() <= share * largest


def highest(logits):
    return ops.max(logits, axis=1)


def either_side(logits):
    """One unit: the logit where class 1 is predicted, else the logit of class 0, which is -logit."""
    return ops.abs(logits[:, 0])


class Reference(keras.callbacks.Callback):
    """Computes the maps by hand at each epoch end, with the weights of that moment."""

    def __init__(self, split, x, score):
        super().__init__()
        self.split, self.x, self.score = split, x, score
        self.maps, self.logits = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.maps.append(reference_gradcam(self.split, self.x, self.score))
        self.logits.append(ops.convert_to_numpy(self.split.rest(self.split.front(ops.convert_to_tensor(self.x)))))


def fit_both(split, x, y, score=highest, layer=None, loss=SPARSE, share=1e-4, **settings):
    """Trains two epochs and compares what is logged with the reference; the weights must have moved the maps."""
    # XLA takes seconds to compile; one test asks for it.
    compiling = {"jit_compile": settings.pop("jit_compile", False), "run_eagerly": settings.pop("run_eagerly", False)}
    if not split.model.compiled:
        split.model.compile(keras.optimizers.SGD(0.1), loss, **compiling)
    logger = HeatmapLogger((x, y), layer or split.layer, tracker=MemoryTracker(), on_error="raise", **settings)
    reference = Reference(split, x, score)
    with warnings.catch_warnings():
        # Raw maps are compared, and those of an untrained net may well be nowhere positive.
        warnings.filterwarnings("ignore", ".*heatmaps explain nothing")
        split.model.fit(x, y, epochs=2, batch_size=3, shuffle=False, verbose=0, callbacks=[logger, reference])
    records = logger.tracker.records
    assert len(records) == 2
    for record, maps in zip(records, reference.maps, strict=True):
        assert_maps_equal(record.heatmaps, maps, share)
    assert np.abs(reference.maps[0] - reference.maps[1]).max() > 10 * share * np.abs(reference.maps[1]).max()
    assert logger.tracker.config.layer_name == split.layer
    return SimpleNamespace(records=records, logits=reference.logits, config=logger.tracker.config)
