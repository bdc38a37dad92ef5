"""Attributes of a layer's instance that are another one for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def exchanged(layer: Any, name: str, value: Any) -> Iterator[None]:
    """Puts a value in the place of a layer's own for a while, past `__setattr__`, with which Keras would track it."""
    own, original = name in vars(layer), getattr(layer, name)
    vars(layer)[name] = value
    try:
        yield
    finally:
        if own:
            vars(layer)[name] = original
        else:
            del vars(layer)[name]
