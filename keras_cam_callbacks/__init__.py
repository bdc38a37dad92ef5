"""Keras callbacks that show where a vision model looks while it trains.

Names are loaded when they are first used, so that importing the package costs nothing and loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .augmentations import AUGMENTATIONS, Augmentation
    from .callbacks import ActivationLogger, CAMLogger, FilterLogger, GradCAMLogger, HeatmapLogger
    from .comparison import Comparison, compare
    from .explainer import explain
    from .explanation import Explanation, Explanations
    from .features import ActivationGrids, FilterPatterns, activation_grids, filter_patterns
    from .head import build_cam_model
    from .methods import METHODS
    from .methods.cams import RandomCAM
    from .methods.fullgrad import FullGrad
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
    from .plots import plot_methods, show
    from .records import EpochRecord, RunConfig, Sample
    from .regions import Regions
    from .sanity import SanityCheck, sanity_check
    from .store import Run, read_run
    from .timelapse import write_timelapse
    from .trackers import (
        DiskTracker,
        FunctionTracker,
        MemoryTracker,
        MLflowTracker,
        TensorBoardTracker,
        Tracker,
        TrackioTracker,
        WandbTracker,
    )

__version__ = "0.1.0"

__all__ = [
    "AUGMENTATIONS",
    "METHODS",
    "RISE",
    "AblationCAM",
    "ActivationGrids",
    "ActivationLogger",
    "Augmentation",
    "CAMLogger",
    "Comparison",
    "DiskTracker",
    "EpochRecord",
    "Explanation",
    "Explanations",
    "FilterLogger",
    "FilterPatterns",
    "FullGrad",
    "FunctionTracker",
    "GradCAMLogger",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HeatmapLogger",
    "InputXGradient",
    "IntegratedGradients",
    "MLflowTracker",
    "MaxActivation",
    "MemoryTracker",
    "Occlusion",
    "Overlay",
    "RandomCAM",
    "Regions",
    "Run",
    "RunConfig",
    "Saliency",
    "Sample",
    "SanityCheck",
    "ScoreCAM",
    "SmoothGrad",
    "TensorBoardTracker",
    "Tracker",
    "TrackioTracker",
    "WandbTracker",
    "activation_grids",
    "build_cam_model",
    "compare",
    "explain",
    "filter_patterns",
    "plot_methods",
    "read_run",
    "sanity_check",
    "show",
    "write_timelapse",
]

_HOMES = {
    **dict.fromkeys(("AUGMENTATIONS", "Augmentation"), "augmentations"),
    **dict.fromkeys(
        ("ActivationLogger", "CAMLogger", "FilterLogger", "GradCAMLogger", "HeatmapLogger"),
        "callbacks",
    ),
    **dict.fromkeys(("Comparison", "compare"), "comparison"),
    "explain": "explainer",
    **dict.fromkeys(("Explanation", "Explanations"), "explanation"),
    **dict.fromkeys(("ActivationGrids", "FilterPatterns", "activation_grids", "filter_patterns"), "features"),
    "build_cam_model": "head",
    "METHODS": "methods",
    "RandomCAM": "methods.cams",
    "FullGrad": "methods.fullgrad",
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
    **dict.fromkeys(("plot_methods", "show"), "plots"),
    **dict.fromkeys(("EpochRecord", "RunConfig", "Sample"), "records"),
    "Regions": "regions",
    **dict.fromkeys(("SanityCheck", "sanity_check"), "sanity"),
    **dict.fromkeys(("Run", "read_run"), "store"),
    "write_timelapse": "timelapse",
    **dict.fromkeys(
        (
            "DiskTracker",
            "FunctionTracker",
            "MLflowTracker",
            "MemoryTracker",
            "TensorBoardTracker",
            "Tracker",
            "TrackioTracker",
            "WandbTracker",
        ),
        "trackers",
    ),
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
