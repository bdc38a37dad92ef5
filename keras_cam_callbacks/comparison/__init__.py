"""Stored runs side by side: where they look at the same place, from which epoch they part, and what they differ in.

Reads records only: no framework is loaded, and heatmaps are read one epoch at a time and not kept.
"""

from .comparing import Comparison, compare

__all__ = ["Comparison", "compare"]
