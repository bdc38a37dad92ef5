"""Augmentations that move the pixels: flip, rotation, crop and resize."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from ..checks import check, is_real
from ..opencv import cv2
from ..records import Floats
from .base import Augmentation, check_position

Box = tuple[slice, slice]


def flip(horizontal: bool = True, vertical: bool = False) -> Augmentation:
    """Mirrors the images; the way back is exact to the last bit.

    Args:
        horizontal: Whether left and right change places.
        vertical: Whether top and bottom change places.

    Raises:
        ValueError: If neither is asked for, or an option is no bool.
    """
    for name, value in (("horizontal", horizontal), ("vertical", vertical)):
        check(name, value, isinstance(value, bool), "True or False", "True")
    if not (horizontal or vertical):
        raise ValueError(
            "`horizontal` or `vertical` must be True. Received: horizontal=False, vertical=False. flip() works."
        )
    axes = (1,) * vertical + (2,) * horizontal
    return Augmentation(partial(_flipped, axes=axes), partial(_flipped, axes=axes))


def rotation(degrees: float = 15.0) -> Augmentation:
    """Turns the images about their centre, bilinearly; the frame keeps its size.

    The corners that this bares show the image reflected at its border, so that no black corner draws attention. They
    do not come back. What was turned out of the frame is NaN.

    Args:
        degrees: Angle, counter-clockwise.

    Raises:
        ValueError: If `degrees` is no finite number.
    """
    check("degrees", degrees, is_real(degrees), "a finite number", "15")
    return Augmentation(partial(_turned, degrees=float(degrees)), partial(_turned_back, degrees=float(degrees)))


def crop_and_resize(share: float = 0.75, position: tuple[float, float] = (0.5, 0.5)) -> Augmentation:
    """Cuts a box out of the images, in whole pixels, and enlarges it bilinearly to their size.

    On the way back the map is shrunk by area to the box; around the box it is NaN.

    Args:
        share: In (0, 1], the part of the height and of the width that is kept.
        position: Down and across, in [0, 1]: (0, 0) keeps the upper left corner, (0.5, 0.5) the middle.

    Raises:
        ValueError: If an option is impossible.
    """
    check("share", share, is_real(share, most=1) and share > 0, "a number in (0, 1]", "0.75")
    check_position(position)
    box = partial(_box, share=float(share), position=(float(position[0]), float(position[1])))
    return Augmentation(partial(_cropped, box=box), partial(_cropped_back, box=box))


def _flipped(arrays: Floats, axes: tuple[int, ...]) -> Floats:
    return np.array(np.flip(arrays, axes))


def _turned(images: Floats, degrees: float) -> Floats:
    matrix = _turn(images.shape[1:3], -degrees)
    return _each_channel(images, lambda plane: _warped(plane, matrix, cv2.BORDER_REFLECT_101))


def _turned_back(heatmaps: Floats, degrees: float) -> Floats:
    matrix = _turn(heatmaps.shape[1:], degrees)
    return _without_nan(heatmaps, heatmaps.shape[1:], lambda plane: _warped(plane, matrix, cv2.BORDER_CONSTANT))


def _turn(size: tuple[int, ...], degrees: float) -> npt.NDArray[np.float64]:
    """(2, 3): where a pixel (x, y) goes when the picture is turned counter-clockwise about its centre."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    y, x = (size[0] - 1) / 2, (size[1] - 1) / 2
    return np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]])


def _warped(plane: Floats, source: npt.NDArray[np.float64], border: int) -> Floats:
    """(H, W) whose pixel p is the given plane's at `source` p, bilinearly; 0 outside if the border is constant."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(plane, source, plane.shape[::-1], flags=flags, borderMode=border))


def _box(size: tuple[int, ...], share: float, position: tuple[float, float]) -> Box:
    """Rows and columns that are kept."""
    kept = [max(1, round(share * side)) for side in size]
    starts = [round(place * (side - part)) for place, side, part in zip(position, size, kept, strict=True)]
    return slice(starts[0], starts[0] + kept[0]), slice(starts[1], starts[1] + kept[1])


def _cropped(images: Floats, box: Callable[[tuple[int, ...]], Box]) -> Floats:
    height, width = images.shape[1:3]
    rows, columns = box((height, width))
    return _each_channel(
        images,
        lambda plane: np.asarray(cv2.resize(plane[rows, columns], (width, height), interpolation=cv2.INTER_LINEAR)),
    )


def _cropped_back(heatmaps: Floats, box: Callable[[tuple[int, ...]], Box]) -> Floats:
    rows, columns = box(heatmaps.shape[1:])
    height, width = rows.stop - rows.start, columns.stop - columns.start

    def shrunk(plane: Floats) -> Floats:
        return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA))

    result = np.full_like(heatmaps, np.nan)
    result[:, rows, columns] = _without_nan(heatmaps, (height, width), shrunk)
    return result


def _each_channel(images: Floats, resample: Callable[[Floats], Floats]) -> Floats:
    """Resamples each channel by itself, as OpenCV takes four at most, and keeps rounding within its values."""
    result = np.empty(images.shape, np.float32)
    for i, channel in np.ndindex(len(images), images.shape[3]):
        plane = np.ascontiguousarray(images[i, ..., channel])
        result[i, ..., channel] = np.clip(resample(plane), plane.min(), plane.max())
    return result


def _without_nan(heatmaps: Floats, size: tuple[int, ...], resample: Callable[[Floats], Floats]) -> Floats:
    """Resamples each map to `size`, NaN where a NaN or the outside takes part.

    NaN itself must not be resampled: 0 * NaN is NaN, so that it would spread to pixels in which it has no part.
    """
    result = np.empty((len(heatmaps), *size), np.float32)
    for i, heatmap in enumerate(heatmaps):
        known = ~np.isnan(heatmap)
        result[i] = resample(np.where(known, heatmap, np.float32(0)))
        result[i][resample(known.astype(np.float32)) < 0.999] = np.nan
    return result
