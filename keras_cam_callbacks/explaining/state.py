"""What a trace of a model depends on: its layers, and all that their code can read beside variables' values.

A trace holds what a layer's `call` has read: numbers, texts, flags, arrays and functions of the layer, of its class, of
its functions' closures and of the globals that they name. Two states are the same if all of that is; what can't be read
is never the same, so that it costs a trace, and no map.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import keras
import numpy as np

from ..network.layers import walk

# What training writes into a model, beside what every layer has from Keras, and no trace depends on.
_OF_TRAINING = {
    *("compiled", "history", "loss", "loss_weights", "optimizer", "stop_training", "stop_predicting"),
    *("train_function", "test_function", "predict_function", "steps_per_execution", "unrolled_steps_per_execution"),
    *("_run_eagerly", "_jit_compile", "_initial_epoch", "_compute_loss_has_training_arg", "_compile_loss"),
    *("_compile_metrics", "_loss_tracker", "_distribute_strategy", "_compiled_trainable_state", "_compile_config"),
    *("_eval_epoch_iterator", "_functional", "_jax_state", "_jax_state_synced", "_losses_override"),
}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)
_BY_TEXT = (slice, range, np.dtype, type(Ellipsis))
# Where libraries are, whose code changes with their versions alone: of what is theirs only the identity counts.
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def model_state(model: Any) -> list[Any]:
    """Returns what a trace of a model depends on, for `same_state`: plain values, and weak references to all else."""
    content = _Reading().content
    state: list[Any] = []
    for _, layer in (("", model), *walk(model)):
        state.append(weakref.ref(layer))
        passing = _of_every_layer()
        if isinstance(layer, keras.layers.Layer):
            variables = (*layer._trainable_variables, *layer._non_trainable_variables)
            state += [layer.dtype_policy.name, layer.quantization_mode, *map(weakref.ref, variables)]
        if isinstance(layer, keras.Model):
            passing = passing | _OF_TRAINING
        for kind in _own_classes(type(layer)):
            state += [content(value) for name, value in list(vars(kind).items()) if not name.startswith("__")]
        for name, value in list(vars(layer).items()):
            if name not in passing and not name.startswith("_self_"):  # TensorFlow's notes for checkpoints.
                state += [name, content(value)]
    return state


def same_state(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Tells whether two states of a model are the same, so that a trace made in one holds in the other."""
    return len(before) == len(after) and all(map(_is_same, before, after))


def _is_same(before: Any, after: Any) -> bool:
    if before is after:  # Of one object there is one weak reference.
        return True
    if type(before) is not type(after) or not isinstance(before, (*_PLAIN, tuple)):
        return False
    return same_state(before, after) if isinstance(before, tuple) else bool(before == after)


class _Reading:
    """One look at a model, in which each object is opened once."""

    def __init__(self) -> None:
        self._opened: dict[int, Any] = {}

    def content(self, value: Any) -> Any:
        """Returns plain values as they are, and of all else what is in it, or a weak reference."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, _BY_TEXT):
            return repr(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            return value.shape, value.dtype.str, hashlib.blake2b(value.tobytes()).digest()
        if id(value) in self._opened:
            return weakly(value)
        self._opened[id(value)] = value
        try:
            return (weakly(value), *self._inside(value))
        except Exception:  # An object of a user's may raise anything where it is looked into.
            return object()

    def _inside(self, value: Any) -> Iterator[Any]:
        """Gives what a trace can have read of an object."""
        several: Iterable[Any] = ()
        if isinstance(value, Mapping):
            several = (part for item in list(value.items()) for part in item)
        elif isinstance(value, (list, tuple, set, frozenset)):
            several = list(value)
        elif isinstance(value, MethodType):
            several = (value.__func__, value.__self__)
        elif isinstance(value, partial):
            several = (value.func, value.args, value.keywords)
        elif not _is_of_library(value):
            if isinstance(value, FunctionType):
                several = _read_by(value)
            elif not isinstance(value, (type, ModuleType, keras.Operation)):
                several = (part for kind in _own_classes(type(value)) for part in list(vars(kind).values()))
                yield from map(self.content, list(vars(value).values()) if hasattr(value, "__dict__") else ())
        yield from map(self.content, several)


def weakly(value: Any) -> Any:
    """Returns a weak reference, which is one object as long as the value lives; what has none is like nothing else."""
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return type(value).__name__
    try:
        return weakref.ref(value)
    except TypeError:
        return object()


def _read_by(function: FunctionType) -> Iterator[Any]:
    """Gives what a function reads from outside: its closure, its defaults, and the globals that its code names."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # It is empty yet.
            yield None
    yield from (function.__defaults__, function.__kwdefaults__)
    names = list(_names(function.__code__))
    for name in names:
        value = function.__globals__.get(name)
        yield value
        if isinstance(value, ModuleType) and not _is_of_library(value):  # Such as a file of settings.
            yield from (part for name in names if isinstance(part := vars(value).get(name), (*_PLAIN, FunctionType)))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _own_classes(kind: type) -> list[type]:
    """Returns a class and its bases, less those of libraries."""
    return [one for one in kind.__mro__ if not _is_library(one.__module__.partition(".")[0])]


def _is_of_library(value: Any) -> bool:
    named = value if isinstance(value, (FunctionType, BuiltinFunctionType, type)) else type(value)
    module = value.__name__ if isinstance(value, ModuleType) else getattr(named, "__module__", None)
    return _is_library(str(module).partition(".")[0])


@cache
def _is_library(root: str) -> bool:
    file = getattr(sys.modules.get(root), "__file__", None)
    return root in sys.builtin_module_names or (file or "").startswith(_LIBRARIES)


@cache
def _of_every_layer() -> frozenset[str]:
    return frozenset(vars(keras.layers.Layer()))
