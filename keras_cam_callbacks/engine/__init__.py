"""The frameworks: one file for each of Keras' backends that the package runs on, loaded when it is in use."""

from __future__ import annotations

import importlib
from types import ModuleType

import keras

ENGINES = ("tensorflow",)


def load() -> ModuleType:
    """Returns the engine of the active Keras backend.

    Raises:
        ValueError: If there is none for that backend.
    """
    backend = str(keras.backend.backend())
    if backend not in ENGINES:
        raise ValueError(
            f"Heatmaps need Keras on one of these backends: {', '.join(ENGINES)}. Received: {backend!r}. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )
    return importlib.import_module(f".{backend}", __name__)
