"""JAX: the model is traced to a jaxpr, in which is looked up what the graph tells; variables are arguments."""

import jax

from .compiling import compile_frozen_pass, compile_pass
from .devices import cluster, scope
from .gradients import full_gradient, gradient
from .runs import differentiated_run, plain_run, tapped_run
from .state import eagerly, left_as_found, replaced

FAILURES = (jax.errors.JaxRuntimeError,)

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
