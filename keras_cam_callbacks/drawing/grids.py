"""Pictures in a grid. uint8 RGB throughout."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..checks import is_whole
from ..opencv import cv2
from ..records import Image, Place
from .columns import checked_image
from .places import Drawn

__all__ = ["grid", "grid_placed", "shrunk"]

_GAP = 8  # px around the samples of a grid


def grid(pictures: Sequence[Image], columns: int | None = None) -> Image:
    """Puts pictures into one, row by row, with white gaps of 8 px; each is centred in its cell.

    Args:
        pictures: At least one picture, uint8 RGB (H, W, 3); they may differ in size.
        columns: Pictures in a row; None makes the grid about as many rows high as it is columns wide.

    Returns:
        uint8 RGB (H', W', 3).

    Raises:
        ValueError: If there is no picture, one is not uint8 RGB, or `columns` is not a positive whole number.
    """
    return grid_placed([Drawn(picture) for picture in pictures], columns).picture


def grid_placed(drawn: Sequence[Drawn], columns: int | None = None) -> Drawn:
    """Does as `grid`, and tells where the images of all pictures are then."""
    if not len(drawn):
        raise ValueError("A grid needs at least one picture. Received: 0 pictures. Draw some samples first.")
    if columns is not None and not is_whole(columns, 1):
        raise ValueError(
            f"`columns` must be a positive whole number or None. Received: columns={columns!r}. "
            "None chooses a square grid."
        )
    pictures = [checked_image(one.picture, f"pictures[{i}]") for i, one in enumerate(drawn)]
    across = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    down = math.ceil(len(pictures) / across)
    heights = [max(picture.shape[0] for picture in pictures[i * across :][:across]) for i in range(down)]
    widths = [max(picture.shape[1] for picture in pictures[i::across]) for i in range(across)]
    tops = np.cumsum([_GAP, *(height + _GAP for height in heights)])
    lefts = np.cumsum([_GAP, *(width + _GAP for width in widths)])
    sheet = np.full((tops[-1], lefts[-1], 3), 255, np.uint8)
    places: list[Place] = []
    for i, picture in enumerate(pictures):
        row, column = divmod(i, across)
        height, width = picture.shape[:2]
        top = int(tops[row]) + (heights[row] - height) // 2
        left = int(lefts[column]) + (widths[column] - width) // 2
        sheet[top : top + height, left : left + width] = picture
        places += drawn[i].moved(left, top)
    return Drawn(sheet, tuple(places))


def shrunk(picture: Image, longest: int) -> Image:
    """Returns the picture, shrunk by area where a side is longer than `longest` px. uint8 RGB (H, W, 3)."""
    side = max(picture.shape[:2])
    if side <= longest:
        return picture
    height, width = (max(1, round(length * longest / side)) for length in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
