"""Keras callbacks that show where a vision model looks while it trains.

Names are loaded when they are first used, so that importing the package costs nothing and loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callbacks import ActivationLogger, CAMLogger, FilterLogger, GradCAMLogger, HeatmapLogger
    from .explainer import explain
    from .explanation import Explanation, Explanations
    from .features import ActivationGrids, FilterPatterns, activation_grids, filter_patterns
    from .head import build_cam_model
    from .methods import METHODS
    from .methods.perturbation import RISE, AblationCAM, Occlusion, ScoreCAM
    from .methods.saliency import (
        GuidedBackprop,
        GuidedGradCAM,
        InputXGradient,
        IntegratedGradients,
        MaxActivation,
        Saliency,
        SmoothGrad,
    )
    from .overlay import Overlay
    from .records import EpochRecord, RunConfig, Sample
    from .store import Run, read_run
    from .trackers import DiskTracker, MemoryTracker, TensorBoardTracker, Tracker, WandbTracker

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "RISE",
    "AblationCAM",
    "ActivationGrids",
    "ActivationLogger",
    "CAMLogger",
    "DiskTracker",
    "EpochRecord",
    "Explanation",
    "Explanations",
    "FilterLogger",
    "FilterPatterns",
    "GradCAMLogger",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HeatmapLogger",
    "InputXGradient",
    "IntegratedGradients",
    "MaxActivation",
    "MemoryTracker",
    "Occlusion",
    "Overlay",
    "Run",
    "RunConfig",
    "Saliency",
    "Sample",
    "ScoreCAM",
    "SmoothGrad",
    "TensorBoardTracker",
    "Tracker",
    "WandbTracker",
    "activation_grids",
    "build_cam_model",
    "explain",
    "filter_patterns",
    "read_run",
]

_HOMES = {
    **dict.fromkeys(
        ("ActivationLogger", "CAMLogger", "FilterLogger", "GradCAMLogger", "HeatmapLogger"),
        "callbacks",
    ),
    "explain": "explainer",
    **dict.fromkeys(("Explanation", "Explanations"), "explanation"),
    **dict.fromkeys(("ActivationGrids", "FilterPatterns", "activation_grids", "filter_patterns"), "features"),
    "build_cam_model": "head",
    "METHODS": "methods",
    **dict.fromkeys(("RISE", "AblationCAM", "Occlusion", "ScoreCAM"), "methods.perturbation"),
    **dict.fromkeys(
        (
            "GuidedBackprop",
            "GuidedGradCAM",
            "InputXGradient",
            "IntegratedGradients",
            "MaxActivation",
            "Saliency",
            "SmoothGrad",
        ),
        "methods.saliency",
    ),
    "Overlay": "overlay",
    **dict.fromkeys(("EpochRecord", "RunConfig", "Sample"), "records"),
    **dict.fromkeys(("Run", "read_run"), "store"),
    **dict.fromkeys(("DiskTracker", "MemoryTracker", "TensorBoardTracker", "Tracker", "WandbTracker"), "trackers"),
}


def __getattr__(name: str) -> Any:
    """Loads a public name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
