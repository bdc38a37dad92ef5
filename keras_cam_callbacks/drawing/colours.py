"""Colours of heat: OpenCV's colormaps as RGB, and which heat is the hottest colour."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from ..checks import check_choice
from ..opencv import cv2
from ..records import Floats, Image

__all__ = ["COLORMAPS", "colorize", "tops"]

COLORMAPS = tuple(sorted(name[9:].lower() for name in dir(cv2) if name.startswith("COLORMAP_")))
"""Names of the colormaps: OpenCV's, in lower case."""


def colorize(tones: npt.NDArray[np.uint8], colormap: str = "turbo") -> Image:
    """Gives each tone its colour.

    Args:
        tones: (H, W) uint8, 0 is the cold end of the colormap, 255 the hot one.
        colormap: One of `COLORMAPS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: If there is no such colormap.
    """
    return np.asarray(cv2.applyColorMap(tones, _palette(colormap)))


def tops(heatmaps: Floats, dead: npt.NDArray[np.bool_], scale: str | float) -> Floats:
    """Returns what is drawn as 1 of each map.

    Args:
        heatmaps: (N, *space) float32.
        dead: (N,) bool, True where a map is degenerate.
        scale: As in `Overlay`.

    Returns:
        (N,) float32, without meaning where a map is degenerate.
    """
    if not isinstance(scale, str):
        return np.full(len(heatmaps), scale, np.float32)
    largest: Floats = heatmaps.max(axis=tuple(range(1, heatmaps.ndim)))
    if scale == "batch" and not dead.all():
        largest[:] = largest[~dead].max()
    return largest


@cache
def _palette(colormap: str) -> Image:
    """(256, 1, 3) uint8 RGB: the colours of the tones, in the shape OpenCV wants for a colormap of ours."""
    check_choice("colormap", colormap, COLORMAPS)
    number = getattr(cv2, f"COLORMAP_{colormap.upper()}")
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)
    return np.ascontiguousarray(bgr[..., ::-1])
