"""Where the objects are, as a record holds it: boxes in the manifest, masks as pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_cam_callbacks.records import Image, Region

__all__ = ["as_picture", "check_region", "region_entry", "stored_region"]

_LINE = 4096  # px, of a picture that holds a signal's mask


def region_entry(region: Region | None, file: str) -> dict[str, Any] | None:
    """Returns a region as JSON has it.

    Args:
        region: The region.
        file: The picture of its mask, if it has one, as `as_picture` makes it.
    """
    if region is None:
        return None
    if region.mask is None:
        return {"boxes": region.boxes.tolist(), "mask": None}
    digest = hashlib.sha256(repr(region.mask.shape).encode() + region.mask.tobytes()).hexdigest()[:16]
    size = {} if region.mask.ndim == 2 else {"size": list(region.mask.shape)}
    return {"boxes": region.boxes.tolist(), "mask": file, "digest": digest, **size}


def as_picture(mask: npt.NDArray[np.bool_]) -> Image:
    """Returns a mask as a picture, white on the object: a volume's slices below each other, a signal in lines."""
    plane = mask
    if mask.ndim != 2:
        width = mask.shape[-1] if mask.ndim > 1 else min(mask.size, _LINE)
        height = -(-mask.size // width)
        plane = np.pad(mask.ravel(), (0, height * width - mask.size)).reshape(height, width)
    return np.dstack([plane.astype(np.uint8) * 255] * 3)


def stored_region(stored: Mapping[str, Any], picture: Image | None) -> Region:
    """Returns a region from what `region_entry` and `as_picture` made of it.

    Raises:
        ValueError: If the picture holds less than the mask.
    """
    boxes = np.array(stored["boxes"], np.float64).reshape(-1, 2 * _axes(stored))
    if picture is None:
        return Region(boxes)
    mask = picture[..., 0] > 127
    if "size" in stored:
        count = math.prod(stored["size"])
        if mask.size < count:
            raise ValueError(
                f"A mask of a record must have the size that its manifest says, {stored['size']}. "
                f"Received: {stored['mask']} of {mask.size} positions."
            )
        mask = mask.ravel()[:count].reshape(stored["size"])
    return Region(boxes, mask)


def check_region(stored: Mapping[str, Any], axes: int) -> None:
    """Raises ValueError for what is no region of a space with so many axes."""
    boxes = np.array(stored["boxes"], np.float64)
    boxes = boxes.reshape(-1, 2 * axes) if axes == 2 or not boxes.size else boxes
    size = stored.get("size", [1] * axes)
    whole = isinstance(size, list) and len(size) == axes and all(type(side) is int and side > 0 for side in size)
    if not (boxes.ndim == 2 and boxes.shape[1] == 2 * axes and np.isfinite(boxes).all()) or not whole:
        raise ValueError(f"{stored!r} is no region")
    if not isinstance(stored["mask"], str | None):
        raise ValueError(f"{stored!r} is no region")


def _axes(stored: Mapping[str, Any]) -> int:
    """Returns of how many axes a region is: its boxes tell, or the size of its mask."""
    if "size" in stored:
        return len(stored["size"])
    return len(stored["boxes"][0]) // 2 if stored["boxes"] else 2
