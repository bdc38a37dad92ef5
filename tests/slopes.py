"""Gradients by each backend's own means, plainly, for tests to compare with."""

from __future__ import annotations

import keras


def slopes(function, values):
    """Returns a function of a tensor, and the gradient of the sum of what it returns, as numpy arrays.

    Args:
        function: From a tensor to a tensor of any shape.
        values: An array, or a tensor.
    """
    backend = keras.backend.backend()
    values = keras.ops.convert_to_tensor(values)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(values)
            results = function(values)
        gradient = tape.gradient(results, values)
    elif backend == "jax":
        import jax

        results = function(values)
        gradient = jax.grad(lambda x: function(x).sum())(values)
    else:
        import torch

        values = values.detach().requires_grad_()
        with torch.enable_grad():
            results = function(values)
            (gradient,) = torch.autograd.grad(results.sum(), values)
    return numbers(results), numbers(gradient)


def numbers(tensor):
    """Returns a tensor, or a variable's values, as a numpy array."""
    return keras.ops.convert_to_numpy(getattr(tensor, "value", tensor))
