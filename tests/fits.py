"""Fits for the tests of the callbacks: a tiny model, compiled once, as most of a small fit is compilation."""

from __future__ import annotations

import os
from functools import cache

import keras
from keras import layers
from models import CLASSES, SHAPE, functional, images, labels

from keras_cam_callbacks import GradCAMLogger
from keras_cam_callbacks.metrics import METRICS

X, Y = images(12), labels(12)
SAMPLES = len(X)
NUMBERS = sorted(f"gradcam_{name}" for group in ("map", "last", "first") for name in METRICS[group])


@cache
def _compiled():
    model = new_model()
    return model, model.get_weights()


def new_model():
    keras.utils.set_random_seed(2)
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
    return [v.value.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]


def fit(*callbacks, model=None, epochs=3, **settings):
    """Fits a new model, or `model`; returns the history as a dict."""
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0} | settings
    return (model or tiny_model()).fit(X, Y, epochs=epochs, callbacks=[*callbacks], **settings).history


def before_epoch(number, action):
    """A callback that does something before one epoch."""
    return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: action() if epoch == number else None)


def after_epoch(number, action):
    """A callback that does something after one epoch."""
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: action() if epoch == number else None)


def throw(error):
    raise error


def backed_up_fit(folder, *, dies_after=None, epochs=5):
    """A fit as a script has it that is started again when it has died, here between our callback and the backup."""
    callbacks = [GradCAMLogger((X, Y), log_dir=folder / "logs"), keras.callbacks.BackupAndRestore(folder / "backup")]
    if dies_after is not None:
        callbacks.insert(1, after_epoch(dies_after, lambda: os._exit(7)))
    # Not the model of other tests: Keras leaves the epoch of the backup in it.
    fit(*callbacks, model=new_model(), epochs=epochs)
    return callbacks[0].directory
