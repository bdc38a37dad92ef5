"""TensorBoard: events of pictures and numbers, and which numbers are drawn together."""

from .events import TensorBoardTracker

__all__ = ["TensorBoardTracker"]
