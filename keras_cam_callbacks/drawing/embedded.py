"""A picture within the HTML that a notebook shows."""

from __future__ import annotations

import base64
import html

from ..opencv import cv2
from ..records import Image
from .files import encode

__all__ = ["image_tag"]

_BYTES = 700_000  # of the image file, which base64 makes longer by a third
_SHRINK = 0.8  # of each side, as often as it takes


def image_tag(picture: Image, text: str) -> str:
    """Returns the HTML element that holds a picture, as a JPEG of at most 0.7 MB.

    Args:
        picture: uint8 RGB (H, W, 3); a larger one is shrunk.
        text: What is read or shown in place of the picture.

    Returns:
        An `img` element of less than 1 MB.
    """
    longest = max(picture.shape)
    while longest >= 2**16 or len(data := encode(picture)) > _BYTES:  # JPEG has no longer sides.
        height, width = (max(1, int(side * _SHRINK)) for side in picture.shape[:2])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        longest = max(picture.shape)
    return f'<img alt="{html.escape(text)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
