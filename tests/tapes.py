"""A gradient by the plain means of each backend, for a computation that has nothing to do with an engine."""

from __future__ import annotations

import keras


def gradient(function, x):
    """d sum(function(x)) / dx as a numpy array, in the shape of x; a function of one tensor."""
    x = keras.ops.convert_to_tensor(x)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            scores = function(x)
        slope = tape.gradient(scores, x)
    elif backend == "jax":
        import jax

        slope = jax.grad(lambda x: function(x).sum())(x)
    else:
        x = x.detach().requires_grad_()
        function(x).sum().backward()
        slope = x.grad
    return keras.ops.convert_to_numpy(slope)
