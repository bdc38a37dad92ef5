"""TensorFlow: one traced function that runs the model once, with a tape that begins at the explained layer."""

import tensorflow as tf

from .compiling import compile_frozen_pass, compile_pass
from .devices import cluster, scope
from .gradients import full_gradient, gradient
from .runs import differentiated_run, eagerly, left_as_found, plain_run, replaced, tapped_run

FAILURES = (tf.errors.OpError,)

__all__ = [
    "FAILURES",
    "cluster",
    "compile_frozen_pass",
    "compile_pass",
    "differentiated_run",
    "eagerly",
    "full_gradient",
    "gradient",
    "left_as_found",
    "plain_run",
    "replaced",
    "scope",
    "tapped_run",
]
