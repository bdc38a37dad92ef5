"""From what the model sees to what people see: uint8 RGB images, by the recognised range of the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Image
from .layout import is_channels_first

# Preprocessing of keras.applications: "caffe" is BGR less the mean, "torch" is RGB less the mean, by the deviation.
_BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
_RGB_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_RGB_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def display_images(
    images: Sequence[npt.NDArray[Any]] | npt.NDArray[Any], found: str | None = None
) -> tuple[tuple[Image, ...], str]:
    """Turns images of any recognised range into uint8 RGB.

    Args:
        images: N images, (H, W) or (H, W, C) or (C, H, W), of any number type; as a list they may differ in size.
        found: The range, where it is known; else it is recognised.

    Returns:
        N uint8 RGB images (H, W, 3), and the range: "[0, 1]", "[0, 255]", "[-1, 1]", "mean-subtracted" (less the mean
        of ImageNet in BGR, as VGG and ResNet take it), "mean/std" (less the mean and by the deviation of ImageNet), or
        "min-max", where nothing is recognised and each image is stretched from its least to its largest value.

    Raises:
        ValueError: If they are no images.
    """
    pictures = [_channels_last(np.asarray(image)) for image in images]
    found = found or value_range(pictures)
    return tuple(_to_uint8(picture, found) for picture in pictures), found


def is_displayable(images: npt.NDArray[Any]) -> bool:
    """Tells whether an array (N, ...) holds images, or other data that people can't look at."""
    return images.ndim in (3, 4) and images.dtype.kind in "biuf" and 0 not in images.shape


def value_range(images: Sequence[npt.NDArray[Any]]) -> str:
    """Recognises the range of the values from their type, least and largest. A tenth over is overshoot of resizing."""
    least = min(float(image.min()) for image in images)
    most = max(float(image.max()) for image in images)
    if all(image.dtype == np.bool_ for image in images):
        return "[0, 1]"
    if all(image.dtype.kind in "iu" for image in images):
        return "[0, 255]" if least >= 0 and most <= 255 else "min-max"
    if least >= -0.1 and most <= 1.1:
        return "[0, 1]"
    if least >= -25 and most <= 280 and least > -0.1 * most:
        return "[0, 255]"
    if least >= -1.1 and most <= 1.1:
        return "[-1, 1]"
    if all(image.shape[-1] == 3 for image in images):
        if least >= -2.2 and most <= 2.7:
            return "mean/std"
        if least >= -124 and most <= 152 and most - least > 20:
            return "mean-subtracted"
    return "min-max"


def limits(found: str) -> tuple[Any, Any] | None:
    """Returns what is black and white in a recognised range, numbers or (C,) arrays; None for "min-max"."""
    return {
        "[0, 1]": (0.0, 1.0),
        "[0, 255]": (0.0, 255.0),
        "[-1, 1]": (-1.0, 1.0),
        "mean-subtracted": (-_BGR_MEAN, 255 - _BGR_MEAN),
        "mean/std": (-_RGB_MEAN / _RGB_DEVIATION, (1 - _RGB_MEAN) / _RGB_DEVIATION),
    }.get(found)


def _to_uint8(image: npt.NDArray[Any], found: str) -> Image:
    """Returns one image (H, W, C) as uint8 RGB."""
    values = image.astype(np.float32)
    if found == "[0, 1]":
        values = values * 255
    elif found == "[-1, 1]":
        values = (values + 1) * 127.5
    elif found == "mean-subtracted":
        values = (values + _BGR_MEAN)[..., ::-1]
    elif found == "mean/std":
        values = (values * _RGB_DEVIATION + _RGB_MEAN) * 255
    elif found == "min-max":
        values = values - values.min()
        values = values * (255 / max(float(values.max()), 1e-12))
    channels = values.shape[-1]
    if channels == 2 or channels > 4:  # Several spectral bands: people see their mean.
        values = values.mean(axis=-1, keepdims=True)
    values = np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values[..., :3]
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _channels_last(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns (H, W, C) from (H, W), (H, W, C) or (C, H, W)."""
    if image.dtype.kind not in "biuf" or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            "An image must be an array of numbers (height, width) or (height, width, channels). "
            f"Received: shape {image.shape} of type {image.dtype}. "
            "Where the model's input is no image, give `display=`."
        )
    if image.ndim == 2:
        return image[..., None]
    return np.moveaxis(image, 0, -1) if is_channels_first(image) else image
