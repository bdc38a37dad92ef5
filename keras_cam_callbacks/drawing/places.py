"""A picture, and where in it the image is that it shows. Who puts pictures together moves the places along."""

from __future__ import annotations

from typing import NamedTuple

from ..records import Image, Place

__all__ = ["Drawn", "whole"]


class Drawn(NamedTuple):
    """A picture that knows where its image is.

    Attributes:
        picture: uint8 RGB (H, W, 3).
        places: Where the displayed image is, alone, as a heatmap or under one, from left to right.
    """

    picture: Image
    places: tuple[Place, ...] = ()

    def moved(self, left: int, top: int = 0) -> tuple[Place, ...]:
        """Returns the places in a picture where this one stands `left` px from the left and `top` px from the top."""
        return tuple((x0 + left, y0 + top, x1 + left, y1 + top) for x0, y0, x1, y1 in self.places)


def whole(picture: Image) -> Drawn:
    """Returns a picture that is nothing but the image."""
    height, width = picture.shape[:2]
    return Drawn(picture, ((0, 0, width, height),))
