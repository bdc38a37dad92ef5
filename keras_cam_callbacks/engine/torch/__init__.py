"""PyTorch: one eager run of the model, from the explained layer on with gradients; what it computes is noted."""

import torch

from .compiling import compile_frozen_pass, compile_pass
from .devices import cluster, scope
from .gradients import full_gradient, gradient
from .runs import differentiated_run, eagerly, plain_run, replaced, tapped_run
from .state import left_as_found

# What its operations raise is a RuntimeError, of Python's own.
FAILURES = (RuntimeError, torch.cuda.OutOfMemoryError)

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
