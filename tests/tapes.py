"""Gradients by the plain means of each backend, for computations that have nothing to do with an engine."""

from __future__ import annotations

import keras


def watched(function):
    """Differentiates a computation with respect to tensors within it.

    Args:
        function: Takes `watch`, by which it passes each of these tensors, and returns scores.

    Returns:
        The tensors, and d sum(scores) / d tensor for each, as numpy arrays.
    """
    backend, seen = keras.backend.backend(), []
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:

            def watch(tensor):
                tape.watch(tensor)
                seen.append(tensor)
                return tensor

            scores = function(watch)
        slopes = tape.gradient(scores, seen)
    elif backend == "jax":
        import jax

        def total(zeros):
            seen.clear()

            def watch(tensor):
                seen.append(tensor if zeros is None else tensor + zeros[len(seen)])
                return seen[-1]

            return function(watch).sum()

        total(None)
        plain = list(seen)
        slopes = jax.grad(total)([jax.numpy.zeros_like(tensor) for tensor in plain])
        seen[:] = plain
    else:

        def watch(tensor):
            # One that comes from others passes their gradients on.
            seen.append(tensor if tensor.requires_grad else tensor.detach().requires_grad_())
            return seen[-1]

        import torch

        scores = function(watch)
        slopes = torch.autograd.grad(scores.sum(), seen)  # Which leaves the weights' own gradients alone.
    return [[keras.ops.convert_to_numpy(part) for part in parts] for parts in (seen, slopes)]


def gradient(function, x):
    """d sum(function(x)) / dx as a numpy array, in the shape of x."""
    return watched(lambda watch: function(watch(keras.ops.convert_to_tensor(x))))[1][0]
