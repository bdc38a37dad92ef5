"""The model while it is traced: its layers' calls wrapped, its variables as arguments, and all put back after it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import keras
from jax.extend import core

from ...network.layers import walk
from .. import wrapping
from ..as_found import another_output, layers_as_found
from ..precision import entry
from ..wrapped import exchanged

_mapping: ContextVar[Sequence[tuple[Any, Any]]] = ContextVar("mapping", default=())
_read: ContextVar[dict[int, Any] | None] = ContextVar("read", default=None)
_traced: ContextVar[bool] = ContextVar("traced", default=False)
_noting: ContextVar[tuple[Any, list[Noted] | None]] = ContextVar("noting", default=(None, None))


class _Scope(keras.StatelessScope):  # type: ignore[misc]
    """Keeps what is assigned to variables to itself, and notes the variables that are read and no arguments."""

    def get_current_value(self, variable: Any) -> Any:
        value = super().get_current_value(variable)
        noted = _read.get()
        if value is None and noted is not None:
            noted[id(variable)] = variable
        return value


def is_traced() -> bool:
    """Tells whether a function is traced, so that nothing has values yet."""
    return _traced.get()


@contextmanager
def variables_as(mapping: Sequence[tuple[Any, Any]], noted: dict[int, Any] | None = None) -> Iterator[None]:
    """Has variables be tensors while a function is traced.

    Args:
        mapping: Variables and their tensors.
        noted: Is filled with the variables that were read and are not among them.
    """
    tokens = _mapping.set(mapping), _read.set(noted), _traced.set(True)
    try:
        with _Scope(mapping):
            yield
    finally:
        _mapping.reset(tokens[0])
        _read.reset(tokens[1])
        _traced.reset(tokens[2])


@contextmanager
def eagerly() -> Iterator[None]:
    """Leaves the function that is traced, so that operations run at once, while the context lasts."""
    token = _traced.set(False)
    try:
        with jax.ensure_compile_time_eval():
            yield
    finally:
        _traced.reset(token)


@contextmanager
def tap(layer: Any, on_call: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Wraps the layer's `call` for a while; what `on_call` returns, if anything, takes the place of the output."""
    name = entry(layer)
    original = getattr(layer, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        replacement = on_call((args, kwargs), output)
        return output if replacement is None else replacement

    with wrapping, exchanged(layer, name, call):
        yield


@dataclass(eq=False)
class Noted:
    """A tensor that was noted while a model was traced; afterwards it is that of the function around."""

    tensor: Any


@contextmanager
def noting() -> Iterator[list[Noted]]:
    """Collects what `note` is called with while a model is traced."""
    noted: list[Noted] = []
    token = _noting.set((core.get_opaque_trace_state(), noted))
    try:
        yield noted
    finally:
        _noting.reset(token)


def note(tensor: Any) -> Noted | None:
    """Notes a tensor of the model that is traced; None within a loop, or another function, which it cannot leave."""
    state, noted = _noting.get()
    if noted is None or core.get_opaque_trace_state() != state:
        return None
    noted.append(Noted(tensor))
    return noted[-1]


@contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """Undoes what running a model writes into it: states of seeds and metrics, and losses that layers add.

    Meanwhile layers that step through time take all steps at once; and what layers are to compute anew on the way back,
    to save memory while the model is trained, is kept, since what is inside could not be seen.
    """
    with wrapping:
        every = [model, *(layer for _, layer in walk(model))]
        # Assignments to variables stay in this scope.
        with _Scope(_mapping.get()), layers_as_found(every):
            yield


def replaced(layer: Any, activations: Any, numbers: Collection[int] = (1,)) -> AbstractContextManager[None]:
    """Has some calls of the layer put out something else; a trace has nothing that only led to them."""
    return tap(layer, another_output(activations, numbers))
