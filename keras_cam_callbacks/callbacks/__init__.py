"""The Keras callbacks: hooks and wiring. What they do is done by the modules that they call."""

from .features import ActivationLogger, FilterLogger
from .heatmaps import CAMLogger, GradCAMLogger, HeatmapLogger

__all__ = ["ActivationLogger", "CAMLogger", "FilterLogger", "GradCAMLogger", "HeatmapLogger"]
