"""The Keras callbacks: hooks and wiring. What they do is done by the modules that they call."""

from .activations import ActivationLogger
from .cams import CAMLogger, GradCAMLogger
from .filters import FilterLogger
from .heatmaps import HeatmapLogger
from .steps import Steps

__all__ = ["ActivationLogger", "CAMLogger", "FilterLogger", "GradCAMLogger", "HeatmapLogger", "Steps"]
