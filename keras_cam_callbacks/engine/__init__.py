"""The frameworks: a room for each of Keras' backends that the package runs on, loaded when it is in use.

What each of them does is written in `contract`.
"""

from __future__ import annotations

import importlib
import threading
from typing import cast

import keras

from .contract import Engine

ENGINES = ("tensorflow", "jax", "torch")

wrapping = threading.RLock()
"""Held while layers of a model are wrapped, or what is around them is undone: two threads must not do it at once."""


def backend() -> str:
    """Returns the active Keras backend, of which nothing more is imported.

    Raises:
        ValueError: If there is no engine for it.
    """
    name = str(keras.backend.backend())
    if name not in ENGINES:
        raise ValueError(
            f"Heatmaps need Keras on one of these backends: {', '.join(ENGINES)}. Received: {name!r}. "
            "Set the environment variable KERAS_BACKEND to one of them before Keras is imported."
        )
    return name


def load() -> Engine:
    """Returns the engine of the active Keras backend.

    Raises:
        ValueError: If there is none for that backend.
    """
    return cast(Engine, importlib.import_module(f".{backend()}", __name__))
