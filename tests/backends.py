"""TensorFlow, for what tests compute by its own functions; where it isn't installed, they are skipped when they do."""

from __future__ import annotations

import functools
import importlib.util

import keras
import pytest


class _Absent:
    """Stands for the module; a decorator leaves a function as it is, and any other call skips the test."""

    def __getattr__(self, name):
        if name == "__signature__":  # Handed to a layer as its function.
            self()
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args, **settings):
        if len(args) == 1 and callable(args[0]) and not settings and not isinstance(args[0], _Absent):
            return args[0]
        pytest.skip(f"computes with TensorFlow, and Keras runs on {keras.backend.backend()}")


if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    tf = _Absent()

HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


def pipelines():
    """TensorFlow, for its pipelines of data, whatever Keras runs on; where it isn't installed the test is skipped."""
    return pytest.importorskip("tensorflow")


def hub_pipelines():
    """Skips a test of `fit` or `predict` of KerasHub's tasks where these have nothing to read data by."""
    if not HAS_TENSORFLOW:
        pytest.importorskip("grain", reason="KerasHub itself reads what it trains on and predicts by it")


def through_python(function, x, stateful=False):
    """Passes a tensor through a function from arrays to arrays of the same shape, each time that the model really runs.

    Where it isn't stateful, what nobody needs is left out, and what stays the same is kept; on JAX it never is.
    """
    if keras.backend.backend() == "tensorflow":
        return tf.ensure_shape(tf.numpy_function(function, [x], x.dtype, stateful=stateful), x.shape)
    if keras.backend.backend() == "jax":
        import jax

        return jax.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    return function(x)


def most_traces(numbers):
    """How often a model may be traced to be run with so many numbers of samples; one that runs eagerly, each time."""
    return {"tensorflow": 1, "jax": numbers + 1}.get(keras.backend.backend(), float("inf"))


def of_framework(name):
    """A function of an array as the framework itself has it: "relu", "sigmoid" or "softmax"."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return getattr(tf.nn, name)
    if backend == "jax":
        import jax

        return getattr(jax.nn, name)
    import torch

    return functools.partial(torch.softmax, dim=-1) if name == "softmax" else getattr(torch, name)
