"""Augmentations that move the pixels: flip, shift, rotation, crop and resize.

Of volumes and clips each slice or frame is moved alike, in its plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from ..checks import check, is_real
from ..opencv import cv2
from ..records import Floats
from .base import Augmentation, check_position

Box = tuple[slice, slice]


_WIDTH, _HEIGHT, _DEPTH = -1, -2, -3  # Axes of heatmaps; those of images lie one further from the end.


def flip(horizontal: bool = True, vertical: bool = False, slices: bool = False) -> Augmentation:
    """Mirrors the images; the way back is exact to the last bit.

    Args:
        horizontal: Whether left and right change places; of signals, begin and end.
        vertical: Whether top and bottom change places.
        slices: Whether the first and the last slice of a volume, or frame of a clip, change places.

    Raises:
        ValueError: If none is asked for, or an option is no bool.
    """
    options = {"horizontal": horizontal, "vertical": vertical, "slices": slices}
    for name, value in options.items():
        check(name, value, isinstance(value, bool), "True or False", "True")
    if not any(options.values()):
        raise ValueError(
            "`horizontal` or `vertical` must be True. Received: horizontal=False, vertical=False. flip() works."
        )
    axes = (_DEPTH,) * slices + (_HEIGHT,) * vertical + (_WIDTH,) * horizontal
    return Augmentation(
        partial(_flipped, axes=tuple(axis - 1 for axis in axes)), partial(_flipped, axes=axes), _taken(axes)
    )


def shift(horizontal: float = 0.1, vertical: float = 0.0, slices: float = 0.0) -> Augmentation:
    """Moves what is shown by whole pixels, at least one; what this bares shows the image reflected at its border.

    What is bared does not come back. What was moved out of the frame is NaN.

    Args:
        horizontal: How far to the right, as a share of the width, in (-1, 1); of signals, how much later.
        vertical: How far down, as a share of the height.
        slices: How far towards the last slice of a volume, or frame of a clip, as a share of their number.

    Raises:
        ValueError: If an option is impossible, or all are 0.
    """
    shares = {_DEPTH: slices, _HEIGHT: vertical, _WIDTH: horizontal}
    for name, share in zip(("slices", "vertical", "horizontal"), shares.values(), strict=True):
        check(name, share, is_real(share) and abs(share) < 1, "a number in (-1, 1)", "0.1")
    along = {axis: float(share) for axis, share in shares.items() if share}
    if not along:
        raise ValueError("`horizontal`, `vertical` or `slices` must not be 0. Received: 0 for all. shift() works.")
    return Augmentation(partial(_moved, along=along), partial(_moved_back, along=along), _taken(along))


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
    turned = partial(_turned, degrees=float(degrees)), partial(_turned_back, degrees=float(degrees))
    return Augmentation(*turned, axes=(2, 3))


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
    return Augmentation(partial(_cropped, box=box), partial(_cropped_back, box=box), axes=(2, 3))


def _flipped(arrays: Floats, axes: tuple[int, ...]) -> Floats:
    return np.array(np.flip(arrays, axes))


def _taken(axes: Iterable[int]) -> tuple[int, ...]:
    """Returns how many axes a map must have to have these, counted from the end."""
    return tuple(range(-min(axes), 4))


def _steps(share: float, size: int) -> int:
    return round(share * size) or (1 if share > 0 else -1)


def _moved(images: Floats, along: Mapping[int, float]) -> Floats:
    for axis, share in along.items():
        size = images.shape[axis - 1]
        at = np.abs(np.arange(size) - _steps(share, size))  # Reflected at the first position, and at the last one.
        images = np.take(images, np.where(at < size, at, 2 * (size - 1) - at), axis - 1)
    return images


def _moved_back(heatmaps: Floats, along: Mapping[int, float]) -> Floats:
    for axis, share in along.items():
        size = heatmaps.shape[axis]
        at = np.arange(size) + _steps(share, size)
        inside = (at >= 0) & (at < size)
        kept = np.take(heatmaps, np.where(inside, at, 0), axis)
        heatmaps = np.where(inside.reshape(-1, *[1] * (-axis - 1)), kept, np.float32(np.nan))
    return heatmaps


def _turned(images: Floats, degrees: float) -> Floats:
    matrix = _turn(images.shape[-3:-1], -degrees)
    return _each_channel(images, lambda plane: _warped(plane, matrix, cv2.BORDER_REFLECT_101))


def _turned_back(heatmaps: Floats, degrees: float) -> Floats:
    matrix = _turn(heatmaps.shape[-2:], degrees)
    return _without_nan(heatmaps, heatmaps.shape[-2:], lambda plane: _warped(plane, matrix, cv2.BORDER_CONSTANT))


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
    height, width = images.shape[-3:-1]
    rows, columns = box((height, width))
    return _each_channel(
        images,
        lambda plane: np.asarray(cv2.resize(plane[rows, columns], (width, height), interpolation=cv2.INTER_LINEAR)),
    )


def _cropped_back(heatmaps: Floats, box: Callable[[tuple[int, ...]], Box]) -> Floats:
    rows, columns = box(heatmaps.shape[-2:])
    height, width = rows.stop - rows.start, columns.stop - columns.start

    def shrunk(plane: Floats) -> Floats:
        return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA))

    result = np.full_like(heatmaps, np.nan)
    result[..., rows, columns] = _without_nan(heatmaps, (height, width), shrunk)
    return result


def _each_channel(images: Floats, resample: Callable[[Floats], Floats]) -> Floats:
    """Resamples each channel of each plane by itself, as OpenCV takes four at most, and keeps rounding within them."""
    result = np.empty(images.shape, np.float32)
    for *which, channel in np.ndindex(*images.shape[:-3], images.shape[-1]):
        place = (*which, slice(None), slice(None), channel)
        plane = np.ascontiguousarray(images[place])
        result[place] = np.clip(resample(plane), plane.min(), plane.max())
    return result


def _without_nan(heatmaps: Floats, size: tuple[int, ...], resample: Callable[[Floats], Floats]) -> Floats:
    """Resamples each plane of each map to `size`, NaN where a NaN or the outside takes part.

    NaN itself must not be resampled: 0 * NaN is NaN, so that it would spread to pixels in which it has no part.
    """
    result = np.empty((*heatmaps.shape[:-2], *size), np.float32)
    for place in np.ndindex(*heatmaps.shape[:-2]):
        heatmap = heatmaps[place]
        known = ~np.isnan(heatmap)
        result[place] = resample(np.where(known, heatmap, np.float32(0)))
        result[place][resample(known.astype(np.float32)) < 0.999] = np.nan
    return result
