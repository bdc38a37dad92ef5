"""From what the model sees to what people see: uint8 RGB images, by the range of the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Image, ValueRange
from .layout import as_pictures
from .range_names import BGR_MEAN, RGB_DEVIATION, RGB_MEAN
from .recognition import recognised


def display_images(
    images: Sequence[npt.NDArray[Any]] | npt.NDArray[Any], value_range: ValueRange | str | None = None
) -> tuple[tuple[Image, ...], str]:
    """Turns images of any range into uint8 RGB.

    Args:
        images: N images, (H, W) or (H, W, C) or (C, H, W), of any number type; as a list they may differ in size.
        value_range: Their range, or its name; None to have it recognised. All images have the same one.

    Returns:
        N uint8 RGB images (H, W, 3), and the name of the range, as in `ValueRange`.

    Raises:
        ValueError: If they are no images.
    """
    pictures = as_pictures(images)
    if not isinstance(value_range, ValueRange):
        value_range = recognised(pictures, chosen=value_range)
    return tuple(_to_uint8(picture, value_range) for picture in pictures), value_range.name


def _to_uint8(image: npt.NDArray[Any], value_range: ValueRange) -> Image:
    """Returns one image (H, W, C) as uint8 RGB."""
    values = image.astype(np.float32)
    if value_range.name == "mean-subtracted":
        values = (values + BGR_MEAN)[..., ::-1]
    elif value_range.name == "mean/std":
        values = (values * RGB_DEVIATION + RGB_MEAN) * 255
    else:
        black, white = (np.asarray(end, np.float32) for end in (value_range.black, value_range.white))
        values = (values - black) * np.asarray(255 / (white - black), np.float32)
    values = np.nan_to_num(values, posinf=255, neginf=0)
    channels = values.shape[-1]
    if channels == 2 or channels > 4:  # Several spectral bands: people see their mean.
        values = values.mean(axis=-1, keepdims=True)
    values = np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values[..., :3]
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
