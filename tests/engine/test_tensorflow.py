import gc
import os
import random

import keras
import models
import numpy as np
import pytest
from keras import layers
from models import CLASSES, SHAPE
from seeds import set_seeds

from keras_cam_callbacks import GradCAMLogger, MemoryTracker, Tracker, explain

pytestmark = pytest.mark.only_on(
    "tensorflow",
    "torch",
    reason="on JAX Keras can't update a metric within a call, and trains eagerly what isn't compiled; see test_jax",
)


class NoisyCounter(layers.Layer):
    """Draws random numbers at inference too, counts its calls and measures its input."""

    def __init__(self):
        super().__init__(name="noisy")
        self.seed = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.mean = keras.metrics.Mean(name="noisy_mean")

    def call(self, x, training=False):
        self.calls.assign(self.calls + 1)
        self.mean.update_state(x)
        self.add_loss(1e-3 * keras.ops.sum(x))
        return x + 0.1 * keras.random.normal((16, 1), seed=self.seed)[:1, :, None]


def fragile(built=True):
    """A model with everything in it that a run could leave changed."""
    steps = [
        layers.Conv2D(4, 3, activity_regularizer="l2", name="conv1"),
        layers.BatchNormalization(),
        layers.Conv2D(5, 3, activation="relu", name="conv2"),
        layers.SpatialDropout2D(0.2),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.5),
        layers.Dense(CLASSES, activation="softmax", kernel_regularizer="l2"),
    ]
    model = keras.Sequential([*([keras.Input(SHAPE)] if built else []), NoisyCounter(), *steps])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def state(model):
    """Returns all attributes of all layers, with copies of what can change in place."""
    layers_ = list(model._flatten_layers())
    attributes = [dict(vars(layer)) for layer in layers_]
    contents = [
        {name: list(value) for name, value in vars(layer).items() if isinstance(value, (list, set, dict))}
        for layer in layers_
    ]
    numbers = [v.numpy() for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)]
    seeds = [np.asarray(layer.seed_generator.state) for layer in layers_ if hasattr(layer, "seed_generator")]
    return layers_, attributes, contents, numbers, seeds, [layer.trainable for layer in layers_]


def assert_same_state(before, after):
    assert [id(layer) for layer in before[0]] == [id(layer) for layer in after[0]]
    for layer, old, new in zip(before[0], before[1], after[1], strict=True):
        assert list(old) == list(new), layer.name
        assert [name for name in old if old[name] is not new[name]] == [], layer.name
    assert before[2] == after[2]
    for old, new in zip(before[3] + before[4], after[3] + after[4], strict=True):
        np.testing.assert_array_equal(old, new)
    assert before[5] == after[5]


def failing_rule(outputs):
    raise ArithmeticError("no")


DISTURBANCES = {
    "explained": {},
    "another method": {"method": "cam"},
    "unknown layer": {"layer_name": "conv9"},
    "no feature map": {"layer_name": "dense"},
    "rule that fails": {"target": failing_rule},
    "class out of range": {"target": 9},
    "method that fails": {"method": lambda a, g: a},
}


@pytest.mark.parametrize("settings", DISTURBANCES.values(), ids=DISTURBANCES)
@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_model_is_left_as_found(settings, eager):
    model = fragile()
    model.run_eagerly = eager
    model.layers[2].trainable = False
    model.fit(models.images(), models.labels(), verbose=0)
    if "dense" in settings.get("layer_name", ""):
        settings = {"layer_name": model.layers[-1]}
    before = state(model)
    try:
        explain(model, models.images(), **settings)
    except ValueError:
        assert settings
    else:
        assert settings in ({}, {"method": "cam"})
    assert_same_state(before, state(model))


BUILDS = ["built", "built by the callback", "global seed, built by the callback"]


def train(build, callbacks):
    set_seeds(11)
    model = build()
    x, y = models.images(8), models.labels(8)
    history = model.fit(x, y, epochs=3, batch_size=4, shuffle=True, verbose=0, callbacks=callbacks)
    draws = random.random(), np.random.random(), float(keras.ops.convert_to_numpy(keras.random.uniform(())))  # noqa: NPY002
    return history.history["loss"], model.get_weights(), draws


class GlobalNoise(layers.Layer):
    """Draws from Keras' global seed generator."""

    def call(self, x):
        return x + 0.1 * keras.random.normal(keras.ops.shape(x))


def with_global_noise():
    model = keras.Sequential(
        [GlobalNoise(), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("build", [fragile, lambda: fragile(built=False), with_global_noise], ids=BUILDS)
def test_training_is_the_same_to_the_bit(build):
    plain = train(build, [])
    logger = GradCAMLogger((models.images(), models.labels()), tracker=MemoryTracker(), on_error="raise")
    logged = train(build, [logger])
    assert len(logger.tracker.records) == 3
    assert plain[0] == logged[0]
    assert plain[2] == logged[2]
    for a, b in zip(plain[1], logged[1], strict=True):
        np.testing.assert_array_equal(a, b)


class Forgetful(Tracker):
    """Takes every record and keeps none."""

    def start(self, config):
        self.count = 0

    def log(self, record):
        self.count += 1

    def finish(self):
        pass


def test_no_retrace_and_no_growth_over_fifty_epochs(tmp_path):
    calls, seen = [], []

    class Traced(layers.Layer):
        def call(self, x, training=False):
            calls.append(training)
            return x * 1.0

    model = keras.Sequential(
        [keras.Input(SHAPE), Traced(), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    x, y = models.images(10), models.labels(10)
    logger = GradCAMLogger((x, y), tracker=Forgetful(), log_dir=tmp_path, batch_size=4, on_error="raise")

    def measure(epoch, logs):
        if epoch in (9, 29, 49):
            gc.collect()
            with open("/proc/self/statm") as statm:
                resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            seen.append((len(gc.get_objects()), resident, len(calls), logger._source.capturer.traces))

    callbacks = [logger, keras.callbacks.LambdaCallback(on_epoch_end=measure)]
    model.fit(x, y, epochs=50, verbose=0, callbacks=callbacks)
    (objects, memory, traced, traces), (_, middle, _, _), (later_objects, later_memory, later_traced, later_traces) = (
        seen
    )
    assert logger.tracker.count == 50
    assert traces == later_traces == 1
    if keras.backend.backend() != "torch":  # It is run each time, and traced never.
        assert traced == later_traced
    assert later_objects - objects < 400
    # What leaks, leaks in both halves; what allocators keep at some time is no leak.
    assert min(middle - memory, later_memory - middle) < 16 * 2**20
