"""Layers that step through time, run on all steps at once: one call, whose rows are the steps of all samples.

Keras calls the layer inside TimeDistributed once for each step, or in a loop of its own graph, where nothing can be
differentiated. In inference each step is computed for itself, so that it makes no difference to the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

_steps: ContextVar[Any] = ContextVar("steps", default=None)


def current() -> Any:
    """Returns how many steps of each sample are rows of their own where a layer is called now; None for none."""
    return _steps.get()


def steps_by_itself(layer: Any) -> bool:
    """Tells whether a layer calls another one for each step in time."""
    return isinstance(layer, keras.layers.TimeDistributed) and type(layer).call is keras.layers.TimeDistributed.call


def is_at_once(layer: Any) -> bool:
    """Tells whether such a layer takes all steps at once as it is now, whatever has been wrapped around that."""
    return bool(getattr(layer.call, "takes_all_steps", False))


def at_once(layer: Any) -> Any:
    """Returns a `call` for such a layer that takes all steps at once."""

    def call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        ops = keras.ops
        count = inputs.shape[1] or ops.shape(inputs)[1]
        inner = layer.layer
        settings = {}
        if mask is not None and getattr(inner, "_call_has_mask_arg", False):
            settings["mask"] = ops.reshape(mask, (-1, *mask.shape[2:]))
        if getattr(inner, "_call_has_training_arg", False):
            settings["training"] = training
        with _counted(count):
            output = inner.call(ops.reshape(inputs, (-1, *ops.shape(inputs)[2:])), **settings)
        return keras.tree.map_structure(lambda rows: ops.reshape(rows, (-1, count, *ops.shape(rows)[1:])), output)

    vars(call)["takes_all_steps"] = True  # `functools.wraps` hands it on.
    return call


@contextmanager
def _counted(count: Any) -> Iterator[None]:
    around = _steps.get()
    before = _steps.set(count if around is None else around * count)
    try:
        yield
    finally:
        _steps.reset(before)
