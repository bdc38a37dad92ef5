"""Fits under MirroredStrategy on two logical devices, each beside the same without a strategy; run as a script.

The devices must be there before TensorFlow begins, so that this is a process of its own. What it found it writes as
JSON, by case.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
tf.config.experimental.enable_op_determinism()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from fits import X, Y, compiled, fit, random_model, state  # noqa: E402
from models import Branched  # noqa: E402

from keras_cam_callbacks import (  # noqa: E402
    METHODS,
    ActivationLogger,
    CAMLogger,
    FilterLogger,
    GradCAMLogger,
    HeatmapLogger,
    MemoryTracker,
    read_run,
)
from keras_cam_callbacks.methods.perturbation import RISE, Occlusion  # noqa: E402
from keras_cam_callbacks.methods.saliency import IntegratedGradients, SmoothGrad  # noqa: E402

STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
CHEAP = {
    "integrated_gradients": IntegratedGradients(steps=3),
    "occlusion": Occlusion(window=6, stride=3),
    "rise": RISE(masks=5, cells=3),
    "smoothgrad": SmoothGrad(samples=3),
}


def new_loggers():
    settings = {"on_error": "raise"}
    methods = {name: CHEAP.get(name, name) for name, method in METHODS.items() if "readout" not in method.needs}
    return [
        HeatmapLogger((X, Y), method=methods, metrics=["drift", "first_moved"], max_samples=6, **settings),
        GradCAMLogger((X, Y), "conv1", target="both", faithfulness_freq=1, metrics="all", **settings),
        CAMLogger((X, Y), metrics="all", **settings),
        HeatmapLogger(X, ["conv1", "conv2"], method="layercam", augmentations=["flip"], metrics="all", **settings),
        ActivationLogger((X, Y), max_samples=2, **settings),
        FilterLogger("conv2", filters=2, steps=3, **settings),
    ]


class Beside(keras.callbacks.Callback):
    """Has loggers like ours look into a model without a strategy that gets the weights of each epoch."""

    def __init__(self, loggers, plain):
        super().__init__()
        self.loggers, self.plain = loggers, plain
        for logger in loggers:
            logger.set_model(plain)

    def on_epoch_end(self, epoch, logs=None):
        self.plain.set_weights(self.model.get_weights())
        for logger in self.loggers:
            logger.on_epoch_end(epoch)


def train(*callbacks):
    """Trains the head outside the strategy's scope, then all of it inside; returns the model and what Keras logged."""
    with STRATEGY.scope():
        model = random_model()
    logs = []
    for frozen in (True, False):
        for layer in model.layers[:3]:
            layer.trainable = not frozen
        with STRATEGY.scope():
            compiled(model)
        with contextlib.nullcontext() if frozen else STRATEGY.scope():
            logs.append(fit(*callbacks, model=model, epochs=2))
    return model, logs


def unbuilt():
    """A training loop that sets the callback up before the model's first call."""
    with STRATEGY.scope():
        model = Branched()
        optimizer = keras.optimizers.SGD(0.1)
    logger = GradCAMLogger(X, tracker=None, on_error="raise")
    logger.set_model(model)
    logger.on_train_begin()
    before = [np.array(weight) for weight in model.get_weights()]

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, model(x, training=True)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    with STRATEGY.scope():
        STRATEGY.run(tf.function(step), args=(X, Y))
    moved = [not np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True)]
    return {"replicas": [len(variable.value.values) for variable in model.variables], "trained": moved}


def same(one, other):
    return one is other or np.array_equal(one, other, equal_nan=True)


def differing(ours, expected):
    """The names of what differs, if only in one bit, between two records of an epoch."""
    one, other = ({"": record, **record.views} for record in (ours, expected))
    assert list(one) == list(other)
    assert list(ours.scalars) == list(expected.scalars)
    found = [f"maps {name}" for name in one if not same(one[name].heatmaps, other[name].heatmaps)]
    found += [name for name, value in ours.scalars.items() if not same(value, expected.scalars[name])]
    return found + ["pictures"] * (ours.encoded != expected.encoded)


def dead(record):
    """The names of the views whose maps show nothing."""
    views = {"": record, **record.views}
    return [name for name, view in views.items() if view.heatmaps is not None and not np.any(view.heatmaps)]


def main(folder):
    expected, logs_without = train()
    ours, twins = new_loggers(), new_loggers()
    for logger in ours:
        logger.tracker, logger.log_dir = ["disk", MemoryTracker()], folder
    for logger in twins:
        logger.tracker = MemoryTracker()
    model, logs = train(*ours, Beside(twins, random_model()))

    logged = {}
    for logger, twin in zip(ours, twins, strict=True):
        records, stored = logger.tracker[1].records, read_run(logger.directory).epochs
        logged[logger.prefix] = {
            "steps": [[record.step, record.epoch] for record in records],
            "stored": [[epoch.step, epoch.epoch] for epoch in stored if len(epoch.overlays())],
            "views": sorted(records[0].views),
            "dead": [dead(record) for record in records],
            "differing": [differing(*pair) for pair in zip(records, twin.tracker.records, strict=True)],
            "pictures": len({record.encoded for record in records}),
            "in_logs": [all(len(of[f"{logger.prefix}_{name}"]) == 2 for name in records[0].scalars) for of in logs],
        }
    kernels = [model.get_layer(name).kernel.value.values for name in ("conv1", "conv2")]
    found = {
        "logged": logged,
        "replicas": [len(copies) for copies in kernels],
        "replicas_differ": [len({copy.numpy().tobytes() for copy in copies}) - 1 for copies in kernels],
        "same_state": state(model) == state(expected),
        "same_losses": [
            {name: of[name] for name in alone} == alone for of, alone in zip(logs, logs_without, strict=True)
        ],
    }
    found["unbuilt"] = unbuilt()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
