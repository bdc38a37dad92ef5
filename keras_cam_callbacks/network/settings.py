"""Settings by which layers of one class and of equal weights compute something else, as plain values."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from .rules import rules_digest
from .weights import values_of

__all__ = ["call_settings", "layer_settings"]

# No part of what a layer computes: its name, how its weights begin and are trained, and how it is run or saved.
_NO_PART = {
    *("name", "trainable", "dtype", "autocast", "seed", "seed_generator", "module", "registered_name"),
    *("batch_shape", "batch_input_shape", "build_config", "compile_config", "shared_object_id"),
    *("unroll", "implementation", "synchronized", "flash_attention", "quantization_config"),
}
# Of weights and of the training alone.
_ENDINGS = ("initializer", "regularizer", "constraint", "momentum", "dropout")
# Layers of Keras that do nothing but while the model is trained.
_OF_TRAINING = re.compile(
    r"(Spatial|Alpha|Gaussian)?(Dropout|Noise)(\dD)?|ActivityRegularization|Rand(?!omCrop).*|.*Mix"
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LARGEST = 4096  # numbers of an array that are kept one by one


def layer_settings(layer: Any, stable: Callable[[str], str]) -> Any:
    """Returns what a layer or operation was made with, as far as what it computes depends on it.

    That is its `get_config()` without names, dtypes, seeds, how weights begin and are trained, and what is done in the
    training alone, such as a rate of dropout. Layers in it stand for themselves. None and False are left out, so that a
    setting that a later Keras adds and does not use changes nothing. Of a layer without a config the arguments count
    that it keeps under their names.

    Args:
        layer: The layer.
        stable: Returns a text without the numbers that Keras gives to names.

    Returns:
        A dict of plain values, as JSON has them.
    """
    kind = type(layer)
    if kind.__module__.startswith("keras.") and _OF_TRAINING.fullmatch(kind.__name__):
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Nothing is saved, which functions without a name would make unsafe.
            config = dict(layer.get_config())
    except Exception:  # Code of the user's, which may raise anything where it never had to save a model.
        config = {name: vars(layer).get(name) for name in _arguments(kind)}
    # Keras would write down where a function stands in a file: that changes with each line above it.
    config |= {name: function for name in config if _is_function(function := vars(layer).get(name))}
    return _plain(config, stable)


def call_settings(operation: Any, index: int, stable: Callable[[str], str]) -> Any:
    """Returns what an operation of a graph is called with besides tensors, such as the 2 of `x * 2`.

    Args:
        operation: The layer or operation.
        index: Which of its calls.
        stable: As for `layer_settings`.

    Returns:
        Plain values, in which "tensor" stands for one; None where it is called with nothing else.
    """
    arguments = operation._inbound_nodes[index].arguments
    named = {name: value for name, value in arguments.kwargs.items() if name != "training"}
    if all(isinstance(value, keras.KerasTensor) for value in keras.tree.flatten([arguments.args, named])):
        return None
    return _plain([list(arguments.args), named], stable)


def _arguments(kind: type) -> list[str]:
    try:
        return list(inspect.signature(kind).parameters)
    except (TypeError, ValueError):  # Of a class that is not written in Python.
        return []


def _is_function(value: Any) -> bool:
    """Tells whether a value is a function of the user's; those of Keras are known by their names."""
    if not hasattr(value, "__code__"):
        return False
    module = str(getattr(value, "__module__", ""))
    # One that was loaded from a file says that it is of the module of Keras that has loaded it.
    return not (module.startswith("keras.") and getattr(sys.modules.get(module), value.__name__, None) is value)


def _plain(value: Any, stable: Callable[[str], str]) -> Any:
    if isinstance(value, keras.KerasTensor):
        return "tensor"
    if isinstance(value, Mapping):
        return _mapping(value, stable)
    if isinstance(value, set | frozenset):
        return sorted((_plain(item, stable) for item in value), key=json.dumps)
    if isinstance(value, list | tuple):
        return [_plain(item, stable) for item in value]
    if isinstance(value, str):
        return _ADDRESS.sub("", stable(value))
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # A file may hold 1.0 as 1.
        return str(value) if not math.isfinite(value) else int(value) if value.is_integer() else value
    if _is_function(value):
        return rules_digest(value)
    if keras.ops.is_tensor(value) or isinstance(value, np.ndarray | np.generic | keras.Variable):
        value = values_of(value) if isinstance(value, keras.Variable) else value
        return _array(np.asarray(keras.ops.convert_to_numpy(value)), stable)
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else type(value).__name__


def _mapping(value: Mapping[Any, Any], stable: Callable[[str], str]) -> Any:
    inner = value.get("config")
    if "class_name" in value and isinstance(inner, Mapping) and "name" in inner:
        return str(value["class_name"])  # A layer, which is described where it is held, or the like.
    items = sorted((str(name), item) for name, item in value.items() if not _is_no_part(str(name)))
    plain = {stable(name): _plain(item, stable) for name, item in items}
    return {name: item for name, item in plain.items() if item is not None and item is not False}


def _is_no_part(name: str) -> bool:
    return name in _NO_PART or name.endswith(_ENDINGS)


def _array(array: np.ndarray[Any, Any], stable: Callable[[str], str]) -> Any:
    if array.size <= _LARGEST or array.dtype.kind not in "biuf":
        return _plain(array.tolist(), stable)
    return [list(array.shape), hashlib.sha256(array.astype(np.float64).tobytes()).hexdigest()]
