"""The outline of pixels on a picture: a white line with black edges, which can be seen on any colour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..opencv import cv2
from ..records import Image

__all__ = ["outlined"]


def outlined(picture: Image, mask: npt.NDArray[np.bool_] | None) -> Image:
    """Draws the outline of a mask on a picture.

    Light and dark side by side can be told apart by everybody, and in grey print.

    Args:
        picture: uint8 RGB (H, W, 3).
        mask: (h, w) bool, of any size, laid over the whole picture; None for none.

    Returns:
        uint8 RGB (H, W, 3): a new picture, or the same one where the mask is empty.
    """
    if mask is None or not mask.any():
        return picture
    height, width = picture.shape[:2]
    shown = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(shown, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    line = max(1, round(min(height, width) / 200))
    drawn = picture.copy()
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), 3 * line)
    cv2.drawContours(drawn, contours, -1, (255, 255, 255), line)
    return np.asarray(drawn, np.uint8)
