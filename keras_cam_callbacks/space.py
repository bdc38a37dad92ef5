"""What must know the number of axes of a map: resizing, blurring, connected places, and how far apart places are.

A space is the axes between samples and channels: (t,) of a signal, (h, w) of an image, (d, h, w) of a volume. Two axes
go through OpenCV; any other number goes through scipy, and through matrices of numpy where that has nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .opencv import cv2
from .records import Floats

__all__ = ["blur", "components", "diagonal", "laid", "places", "resize"]

Maps = TypeVar("Maps", npt.NDArray[np.float32], npt.NDArray[np.float64])

# By scipy's names: "reflect" repeats the outermost position, "mirror" does not.
_BORDERS = {"reflect": cv2.BORDER_REFLECT, "mirror": cv2.BORDER_REFLECT_101}


def resize(maps: Maps, size: Sequence[int], how: Literal["linear", "area"] = "linear") -> Maps:
    """Brings maps to another size. Positions are cells with their value in the middle, not points on a grid's corners.

    Args:
        maps: (N, *space) float32 or float64.
        size: The new space: as many sizes as `maps` has axes after the first.
        how: "linear" between the two cells next to a place, along each axis; "area", the mean over the area of the new
            cell, for sizes that are no larger than the old ones.

    Returns:
        (N, *size), of the same type; a new array, also where the size is the same.

    Raises:
        ValueError: If the numbers of axes differ, or `how` is "area" and an axis would become longer.
    """
    space: tuple[int, ...] = maps.shape[1:]
    size = tuple(map(int, size))
    if len(space) != len(size) or (how == "area" and any(new > old for new, old in zip(size, space, strict=True))):
        raise ValueError(
            'Maps must have an axis for each of the new sizes, and none that becomes longer by "area". '
            f"Received: a space of {space}, size={size}, how={how!r}."
        )
    if len(space) == 2:
        flag = cv2.INTER_LINEAR if how == "linear" else cv2.INTER_AREA
        resized: Maps = np.empty((len(maps), *size), maps.dtype)
        for one, result in zip(maps, resized, strict=True):
            cv2.resize(one, size[::-1], dst=result, interpolation=flag)
        return resized
    if how == "linear":
        from scipy import ndimage  # Not needed where maps have two axes, and takes a while.

        zoom = [new / old for new, old in zip(size, space, strict=True)]
        enlarged: Maps = np.empty((len(maps), *size), maps.dtype)
        # One by one: NaN in a sample would spread to the one before it.
        for one, result in zip(maps, enlarged, strict=True):
            ndimage.zoom(one, zoom, output=result, order=1, mode="nearest", grid_mode=True)
        return enlarged
    averaged = maps.copy()
    for axis, (old, new) in enumerate(zip(space, size, strict=True), start=1):
        weights = _shares(old, new).astype(maps.dtype)
        averaged = np.moveaxis(np.tensordot(averaged, weights, (axis, 1)), -1, axis)
    return np.ascontiguousarray(averaged)


def laid(maps: Maps, box: Sequence[tuple[float, float]], size: Sequence[int]) -> Maps:
    """Lays maps of a part of an image over the whole image.

    Where the part's edges lie on a grid of the map's own cells, these stay as they are; else the map is brought to the
    image's size, linearly.

    Args:
        maps: (N, *space).
        box: For each axis where the map begins and ends, as shares of the image; beyond [0, 1] where it is larger.
        size: The sizes of the image along these axes.

    Returns:
        (N, *cells), of the same type: 0 beside the part. A map that is the same everywhere stays so.

    Raises:
        ValueError: If the part is empty.
    """
    if not all(high > low for low, high in box):
        raise ValueError(f"A part of an image must have a height and a width. Received: {box}.")
    steps = [(high - low) / cells for (low, high), cells in zip(box, maps.shape[1:], strict=True)]
    exact = all(
        abs(value - round(value)) < 1e-2
        for (low, _), step in zip(box, steps, strict=True)
        for value in (low / step, 1 / step)
    )
    covering = maps
    for axis, ((low, _), step) in enumerate(zip(box, steps, strict=True), start=1):
        count = round(1 / step) if exact else int(size[axis - 1])
        centres = (np.arange(count) + 0.5) / count
        cells = maps.shape[axis]
        at = (centres - low) / step - 0.5
        weights = np.maximum(1 - np.abs(np.clip(at, 0, cells - 1)[:, None] - np.arange(cells)), 0)
        if exact:
            weights = (np.rint(at)[:, None] == np.arange(cells)).astype(maps.dtype)
        weights = (weights * ((at > -0.5) & (at < cells - 0.5))[:, None]).astype(maps.dtype)
        with np.errstate(invalid="ignore"):  # Values that are not finite.
            covering = np.moveaxis(np.tensordot(covering, weights, (axis, 1)), -1, axis)
    covering = np.ascontiguousarray(covering)
    flat = maps.reshape(len(maps), -1)
    same = (flat == flat[:, :1]).all(axis=1)
    covering[same] = flat[same, 0].reshape(-1, *[1] * len(size))
    return covering


def blur(images: Floats, sigma: float | Sequence[float], border: Literal["reflect", "mirror"] = "reflect") -> Floats:
    """Blurs images by a Gaussian, each channel by itself.

    Args:
        images: (N, *space, C) float32.
        sigma: Standard deviation in positions, the same along each axis of the space, or one for each.
        border: What lies beyond the border: the image mirrored, with its outermost position twice ("reflect":
            b a | a b) or once ("mirror": b | a b).

    Returns:
        (N, *space, C) float32.
    """
    axes = images.ndim - 2
    sigmas = tuple(sigma) if isinstance(sigma, Sequence) else (sigma,) * axes
    if axes == 2:
        down, across = sigmas
        blurred = np.empty_like(images, np.float32)
        for image, result in zip(images, blurred, strict=True):
            # OpenCV takes a single channel's axis away.
            soft = cv2.GaussianBlur(image, (0, 0), across, sigmaY=down, borderType=_BORDERS[border])
            result[:] = soft.reshape(image.shape)
        return blurred
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(images, (0.0, *sigmas, 0.0), mode=border), np.float32)


def components(mask: npt.NDArray[np.bool_]) -> int:
    """Counts the connected places of a mask; positions that touch at a corner are connected.

    Args:
        mask: (*space) bool.

    Returns:
        How many there are; 0 where the mask is False throughout.
    """
    if mask.ndim == 2:
        return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1  # Less the background.
    from scipy import ndimage

    return int(ndimage.label(mask, np.ones((3,) * mask.ndim))[1])


def places(cells: Sequence[int], space: Sequence[float]) -> Floats:
    """Returns where the cells of a grid are that is laid over a space.

    Args:
        cells: Cells of the grid along each axis.
        space: Positions along each axis, or how long it is in any unit.

    Returns:
        (P, axes) float32, one row for each of the P cells in the order of a flattened grid: the cell's place in
        positions of the space, or in that unit, counted from the first cell.
    """
    steps = [whole / parts for whole, parts in zip(space, cells, strict=True)]
    along = np.indices(tuple(cells), np.float32)
    return np.stack([axis.ravel() * step for axis, step in zip(along, steps, strict=True)], axis=1).astype(np.float32)


def diagonal(ways: Any) -> npt.NDArray[np.float64]:
    """Returns how long ways are, straight from one end to the other; of a space, its diagonal.

    Args:
        ways: (..., axes), how far each goes along every axis.

    Returns:
        (...) float64, nonnegative, in the unit of `ways`.
    """
    lengths: npt.NDArray[np.float64] = np.hypot.reduce(np.asarray(ways, np.float64), axis=-1, initial=0.0)
    return lengths


def _shares(old: int, new: int) -> npt.NDArray[np.float64]:
    """(new, old), which share of each new cell lies on each old one; rows sum to 1."""
    edges = np.arange(new + 1) * old / new
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(old)
    shares: npt.NDArray[np.float64] = np.maximum(np.minimum(high, cells + 1) - np.maximum(low, cells), 0) * new / old
    return shares
