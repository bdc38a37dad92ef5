"""The Keras callbacks: hooks and wiring. What they do is done by the modules that they call."""

from .cams import CAMLogger, GradCAMLogger
from .features import ActivationLogger, FilterLogger
from .heatmaps import HeatmapLogger

__all__ = ["ActivationLogger", "CAMLogger", "FilterLogger", "GradCAMLogger", "HeatmapLogger"]
