"""The Keras callbacks: hooks and wiring. What they do is done by the modules that they call."""

from .heatmaps import CAMLogger, GradCAMLogger, HeatmapLogger

__all__ = ["CAMLogger", "GradCAMLogger", "HeatmapLogger"]
