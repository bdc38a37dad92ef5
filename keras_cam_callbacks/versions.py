"""The versions of this package and of what heatmaps depend on, as every record holds them."""

from __future__ import annotations

import importlib
import platform

from . import __version__

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Returns the versions by name: "keras_cam_callbacks", "python", "keras", its backend, "numpy" and "opencv"."""
    import keras
    import numpy as np

    from .opencv import cv2

    backend = str(keras.backend.backend())
    return {
        "keras_cam_callbacks": __version__,
        "python": platform.python_version(),
        "keras": str(keras.version()),
        backend: str(importlib.import_module(backend).__version__),
        "numpy": np.__version__,
        "opencv": str(cv2.__version__),
    }
