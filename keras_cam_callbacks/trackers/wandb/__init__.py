"""Weights & Biases: a run's pictures and numbers, the regions on them, and the record among its files."""

from .tracker import WandbTracker

__all__ = ["WandbTracker"]
