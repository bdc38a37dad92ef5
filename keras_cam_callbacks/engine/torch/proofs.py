"""Whether tensors from outside have the bits, and layers the attributes, that they had when something was computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import torch

from .arrays import address, same_bits


class Proofs:
    """The tensors from outside that kept ones come from, with the bits that they had."""

    def __init__(self, most: int) -> None:
        """Begins; as many bytes may be copied, and of more a digest is made."""
        self._most = most
        self._copied = 0
        self._bits: dict[Any, tuple[Any, Any]] = {}
        self._views: list[tuple[Any, Any, Any]] = []

    def add(self, tensor: Any) -> Any:
        """Takes a tensor, and returns what it is asked for by."""
        key = address(tensor), tensor.storage_offset(), tuple(tensor.size()), tensor.stride(), tensor.dtype
        if key not in self._bits:
            size = tensor.numel() * tensor.element_size()
            if self._copied + size <= self._most:
                self._copied += size
                self._bits[key] = tensor, tensor.clone()
            else:
                self._bits[key] = tensor, _digest(tensor)
            self._views.append(_views(*self._bits[key]))
        return key

    def is_proven(self, key: Any, tensor: Any) -> bool:
        """Tells whether a tensor has the bits of the one that was taken before, whose are checked in each round."""
        held, bits = self._bits[key]
        if (address(tensor), tensor.storage_offset()) == key[:2] and tensor.stride() == held.stride():
            return True
        return _has_bits(tensor, bits)

    def are_same(self) -> bool:
        """Tells whether all of them have the bits that they had."""
        return all(
            (_in_place(tensor) == place and bool((now == before).all())) if place else _has_bits(tensor, bits)
            for (tensor, bits), (place, now, before) in zip(self._bits.values(), self._views, strict=True)
        )


def _in_place(tensor: Any) -> tuple[Any, ...]:
    """Returns what tells that a tensor is in the memory where it was, in the same form."""
    return tensor.data_ptr(), tensor.dtype, tensor.size(), tensor.stride()


def _views(tensor: Any, bits: Any) -> tuple[Any, Any, Any]:
    """Returns where a tensor is, and its memory and that of its copy as numbers, which are compared faster.

    They are None of one whose memory is on another device, or isn't in its order, or of which there is no copy.
    """
    if isinstance(bits, bytes) or tensor.device.type != "cpu" or not tensor.is_contiguous() or not tensor.numel():
        return None, None, None
    # Of its own alias, which holds the memory as long as it is looked at.
    now, before = (one.detach().reshape(-1).view(torch.uint8).numpy() for one in (tensor, bits))
    if not any((len(now) % 8, now.ctypes.data % 8, before.ctypes.data % 8)):
        now, before = now.view(np.int64), before.view(np.int64)
    return _in_place(tensor), now, before


def _digest(tensor: Any) -> bytes:
    whole = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
    return str((tuple(tensor.size()), tensor.dtype)).encode() + hashlib.blake2b(whole).digest()


def _has_bits(tensor: Any, bits: Any) -> bool:
    return _digest(tensor) == bits if isinstance(bits, bytes) else same_bits(tensor, bits)


_PASSING = {"_losses", "_loss_ids", "_called", "training", "_inbound_nodes", "_outbound_nodes"}
"""Attributes of a layer that what it computes doesn't depend on."""
_PLAIN = (int, float, bool, str, bytes, type(None))
_ROOTS = ("keras", "torch", "builtins", "collections", "inspect", "_thread", "threading")


def is_plain(layer: Any) -> bool:
    """Tells whether in a layer no code runs but Keras' own, so that its attributes tell what it computes."""
    attributes = vars(layer)
    return (
        _is_own(type(layer))
        and not isinstance(layer, (keras.layers.Lambda, keras.layers.TorchModuleWrapper))
        and "call" not in attributes
        and not any(attributes.get(name) for name in ("_forward_hooks", "_forward_pre_hooks"))
        and all(map(_is_plain_value, attributes.values()))
    )


def _is_own(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in _ROOTS


def _is_plain_value(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain_value, value))
    if isinstance(value, dict):
        return all(map(_is_plain_value, value.values()))
    # A function that is no class has its own module, and a layer or an object that of its class.
    function = callable(value) and not isinstance(value, torch.nn.Module) and hasattr(value, "__module__")
    return _is_own(value if function else type(value))


def _parts(value: Any) -> list[Any] | None:
    """Returns what a container holds; None of anything else."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else None


class Attributes:
    """The attributes of some layers, as they were, and where their variables are in memory."""

    def __init__(self, layers: Iterable[Any]) -> None:
        """Notes them."""
        self._layers = [(layer, *self._noted(layer)) for layer in {id(layer): layer for layer in layers}.values()]

    @staticmethod
    def _noted(layer: Any) -> tuple[dict[str, Any], dict[str, list[Any]], list[Any]]:
        values = {name: value for name, value in vars(layer).items() if name not in _PASSING}
        parts = {name: inside for name, value in values.items() if (inside := _parts(value)) is not None}
        return values, parts, _memory(layer)

    def are_same(self) -> bool:
        """Tells whether all of them are the same objects, and hold the same."""
        return all(
            _are_same(vars(layer), values, parts) and _memory(layer) == memory
            for layer, values, parts, memory in self._layers
        )


def _memory(layer: Any) -> list[tuple[Any, ...]]:
    """Returns where the variables of a layer are, whose bits are proven."""
    own = getattr(layer, "_trainable_variables", ()), getattr(layer, "_non_trainable_variables", ())
    return [_in_place(variable._value) for variables in own for variable in variables]


def _are_same(now: Mapping[str, Any], values: Mapping[str, Any], parts: Mapping[str, list[Any]]) -> bool:
    if len(now.keys() - _PASSING) != len(values):
        return False
    for name, value in values.items():
        if name not in now or not _is_same(now[name], value):
            return False
    for name, inside in parts.items():
        inside_now = _parts(now[name])
        if inside_now is None or len(inside_now) != len(inside) or not all(map(_is_same, inside_now, inside)):
            return False
    return True


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, _PLAIN) and one == other)
