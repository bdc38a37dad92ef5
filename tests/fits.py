"""Fits for the tests of the callbacks: a tiny model, compiled once, as most of a small fit is compilation."""

from __future__ import annotations

import os
import signal
import sys
from functools import cache

import keras
import pytest
from keras import layers
from models import CLASSES, SHAPE, functional, images, labels

from keras_cam_callbacks import GradCAMLogger, read_run
from keras_cam_callbacks.metrics import METRICS
from keras_cam_callbacks.metrics.registry import REGISTRY
from keras_cam_callbacks.network.weights import values_of

X, Y = images(12), labels(12)
SAMPLES = len(X)
# Keras 3.12's own, with NumPy 2.
KERAS_WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
OF_IMAGES = tuple(name for name in METRICS["map"] if REGISTRY[name].axes <= 2)
NUMBERS = sorted(f"gradcam_{name}" for name in (*OF_IMAGES, *METRICS["last"], *METRICS["first"]))


@cache
def _compiled():
    model = new_model()
    return model, model.get_weights()


def new_model():
    # Of weights by which the maps of all samples are somewhere clearly positive.
    keras.utils.set_random_seed({"jax": 31}.get(keras.backend.backend(), 2))
    return compiled(functional().model)


def compiled(model):
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def tiny_model():
    """The model, with the weights that it began with."""
    model, weights = _compiled()
    model.set_weights(weights)
    model.optimizer.iterations.assign(0)
    return model


def random_model():
    """A model, not compiled, with statistics that move, and random numbers whose state is to be left alone."""
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, activation="relu", name="conv1"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(5, 3, padding="same", activation="relu", name="conv2"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(CLASSES, activation="softmax"),
        ],
        name="random",
    )


def state(model):
    """All that training changes in a model and its optimizer, bit by bit."""
    return [values_of(v).tobytes() for v in (*model.variables, *model.optimizer.variables)]


def fit(*callbacks, model=None, epochs=3, **settings):
    """Fits a new model, or `model`; returns the history as a dict."""
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0} | settings
    return (model or tiny_model()).fit(X, Y, epochs=epochs, callbacks=[*callbacks], **settings).history


def whole_epochs(folder):
    """The epochs of a fit's record, after a look into each file."""
    epochs = read_run(folder).epochs
    for epoch in epochs:
        assert epoch.heatmaps().shape == (SAMPLES, 10, 14)
        assert len(epoch.overlays()) == SAMPLES
    return epochs


def epochs_on_disk(folder):
    return [(epoch.step, epoch.epoch) for epoch in whole_epochs(folder)]


def steps_on_disk(folder):
    return [epoch.step for epoch in whole_epochs(folder)]


def before_epoch(number, action):
    """A callback that does something before one epoch."""
    return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: action() if epoch == number else None)


def after_epoch(number, action):
    """A callback that does something after one epoch."""
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: action() if epoch == number else None)


def throw(error):
    raise error


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Batches(keras.callbacks.Callback):
    """Does something at the end of one batch."""

    def __init__(self, epoch, batch, action):
        super().__init__()
        self.place, self.action = (epoch, batch), action

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            self.action()


def die_in_writing():
    """Dies when the overlays of epoch 2 are about to be moved into place."""
    sys.addaudithook(lambda name, paths: die() if name == "os.rename" and "000002" in str(paths[1]) else None)


def backed_up_fit(folder, *, dies=None, epochs=5, ours=True):
    """A fit as a script has it that is started again when it was killed in epoch 2; returns its logger and weights."""
    logger = GradCAMLogger((X, Y), log_dir=folder / "logs")
    callbacks = [logger] if ours else []
    callbacks += {
        None: [],
        "in an epoch": [Batches(2, 1, die)],
        "in writing": [before_epoch(2, die_in_writing)],
        "before the backup": [after_epoch(2, die)],
    }[dies]
    callbacks.append(keras.callbacks.BackupAndRestore(folder / "backup"))
    # Not the model of other tests: Keras leaves the epoch of the backup in it.
    model = new_model()
    fit(*callbacks, model=model, epochs=epochs)
    return logger, weights(model)


def weights(model):
    """All weights, to be compared bit for bit."""
    return [weight.tobytes() for weight in model.get_weights()]


@cache
def bare_weights(epochs):
    """The weights after a fit of `tiny_model` that no callback watches: the same each time."""
    model = tiny_model()
    fit(model=model, epochs=epochs)
    return weights(model)
