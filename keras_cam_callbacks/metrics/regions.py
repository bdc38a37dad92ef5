"""Whether a heatmap is where the object is.

All functions take masks at the size of the image, to which the positive part of a map is brought (see `maps.at_size`);
`inside` makes them from boxes and masks. Only the positive part counts, as in `maps`. The shapes are those of images;
in place of h, w and H, W there may be any number of axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..records import Floats, Region
from ..space import diagonal
from .maps import Doubles, at_size, check_share, degenerate

__all__ = ["energy_in_region", "energy_ratio", "inside", "peak_outside", "pointing", "region_iou", "to_chance"]

Masks = npt.NDArray[np.bool_]


def inside(regions: Sequence[Region | None], size: tuple[int, ...]) -> Masks:
    """Marks the pixels of the objects.

    Args:
        regions: N regions, None where nothing is known.
        size: H and W of the images in px, or the positions along each axis of another space. A mask of another size is
            sampled at the pixels' centres.

    Returns:
        (N, H, W) bool, or (N, *size), True for pixels whose centre is in a box or in the mask; a box that is smaller
        than a pixel has the one that it lies in. All False where a region is None.
    """
    axes = len(size)
    found = np.zeros((len(regions), *size), np.bool_)
    for marked, region in zip(found, regions, strict=True):
        if region is None:
            continue
        for box in region.boxes:
            # The last axis comes first in a box.
            ends = zip(box[:axes][::-1], box[axes:][::-1], size, strict=True)
            marked[tuple(_pixels(low, high, side) for low, high, side in ends)] = True
        if region.mask is not None:
            sampled = (
                ((np.arange(side) + 0.5) * have / side).astype(np.intp)
                for side, have in zip(size, region.mask.shape, strict=True)
            )
            marked |= region.mask[np.ix_(*sampled)]
    return found


def energy_in_region(heatmaps: Floats, masks: Masks) -> Doubles:
    """Measures which share of the heat is on the object: the energy-based pointing game.

    E = sum_{p in R} M_p / sum_p M_p, M the positive part of the map at the size of the image. A good value is near 1,
    and far above the object's share of the image, which is what an even map has (see `energy_ratio`).

    Args:
        heatmaps: (N, h, w) float32, raw.
        masks: (N, H, W) bool, True on the object.

    Returns:
        (N,) float64 in [0, 1]; NaN where a map is degenerate or a mask is empty.

    Raises:
        ValueError: If the numbers of maps and masks differ, or those of their axes do.

    Reference:
        Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, CVPR Workshops
        2020, arXiv 1910.01279.
    """
    valid = _check(heatmaps, masks)
    found = np.full(len(valid), np.nan)
    for i in np.flatnonzero(valid):
        level, _ = at_size(heatmaps[i], masks[i].shape)
        found[i] = level[masks[i]].sum(dtype=np.float64) / level.sum(dtype=np.float64)
    return found


def energy_ratio(heatmaps: Floats, masks: Masks) -> Doubles:
    """Compares the share of the heat on the object with what chance would put there.

    ratio = E / (|R| / (H W)), E as in `energy_in_region`. A map that is spread evenly, or over places that have nothing
    to do with the object, has 1; a good value is well above it, and below 1 the model looks past the object. It makes
    large and small objects comparable.

    Args:
        heatmaps: (N, h, w) float32, raw.
        masks: (N, H, W) bool, True on the object.

    Returns:
        (N,) float64 from 0 to H W / |R|; NaN where a map is degenerate or a mask is empty.

    Raises:
        ValueError: As `energy_in_region`.
    """
    return to_chance(energy_in_region(heatmaps, masks), masks)


def pointing(heatmaps: Floats, masks: Masks, tolerance: float = 0.0) -> Doubles:
    """Tells whether the peak of the map is on the object: the pointing game.

    It is a hit if a pixel of the object is no further than `tolerance` from the peak, which is the centre of the map's
    highest cell. A good mean is near 1; a point chosen at random has the object's share of the image.

    Args:
        heatmaps: (N, h, w) float32, raw.
        masks: (N, H, W) bool, True on the object.
        tolerance: Greatest distance, in px of the image or positions of another space, which count alike along all axes
            whatever their spacing. The paper allows 15 px.

    Returns:
        (N,) float64: 1 for a hit, 0 for a miss; NaN where a map is degenerate or a mask is empty.

    Raises:
        ValueError: If `tolerance` is negative, or as `energy_in_region`.

    Reference:
        Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016, arXiv 1608.00507.
    """
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be at least 0 px. Received: {tolerance!r}. The paper takes 15.")
    valid = _check(heatmaps, masks)
    size, cells = np.shape(masks)[1:], np.shape(heatmaps)[1:]
    found = np.full(len(valid), np.nan)
    for i in np.flatnonzero(valid):
        cell = np.unravel_index(int(np.argmax(heatmaps[i])), cells)
        peak = tuple(int((at + 0.5) * whole / parts) for at, whole, parts in zip(cell, size, cells, strict=True))
        found[i] = masks[i][peak]
        if tolerance > 0 and not found[i]:
            found[i] = diagonal(np.argwhere(masks[i]) - peak).min() <= tolerance
    return found


def peak_outside(heatmaps: Floats, masks: Masks) -> Doubles:
    """Tells whether the peak of the map is off the object, with no tolerance; 1 - `pointing`.

    Its mean is the share of the samples whose peak is outside. A good value is near 0; one that rises while the
    accuracy rises too is the sign of a shortcut.

    Args:
        heatmaps: (N, h, w) float32, raw.
        masks: (N, H, W) bool, True on the object.

    Returns:
        (N,) float64: 1 where the peak is outside, 0 where it is not; NaN where a map is degenerate or a mask is empty.

    Raises:
        ValueError: As `energy_in_region`.
    """
    return 1 - pointing(heatmaps, masks)


def region_iou(heatmaps: Floats, masks: Masks, share: float = 0.5) -> Doubles:
    """Measures how far what the map shows is the object: nothing beside it, and all of it.

    IoU = |S and R| / |S or R|, S being the pixels above `share` times the map's maximum, at the image's size. A good
    value depends on the map's resolution and on whether the model needs all of the object; 0.3 to 0.6 is usual for a
    model that looks at it, and 0 says that the two don't meet.

    Args:
        heatmaps: (N, h, w) float32, raw.
        masks: (N, H, W) bool, True on the object.
        share: In [0, 1), as for `area`.

    Returns:
        (N,) float64 in [0, 1]; NaN where a map is degenerate or a mask is empty.

    Raises:
        ValueError: If `share` is outside [0, 1), or as `energy_in_region`.

    Reference:
        Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, arXiv 1512.04150, where boxes
        are found at a threshold of 0.2.
    """
    check_share(share)
    valid = _check(heatmaps, masks)
    found = np.full(len(valid), np.nan)
    for i in np.flatnonzero(valid):
        level, top = at_size(heatmaps[i], masks[i].shape)
        shown = level > share * top
        found[i] = (shown & masks[i]).sum() / (shown | masks[i]).sum()
    return found


def to_chance(energy: Doubles, masks: Masks) -> Doubles:
    """Returns (N,) `energy_ratio` from `energy_in_region`."""
    share = np.asarray(masks).mean(axis=tuple(range(1, np.ndim(masks))))
    ratio: Doubles = np.divide(energy, share, out=np.full(len(share), np.nan), where=share > 0)
    return ratio


def _pixels(low: float, high: float, count: int) -> slice:
    """Returns the pixels whose centres are between two shares of a side; at least one."""
    first, end = (int(np.ceil(share * count - 0.5)) for share in (low, high))
    if end <= first:
        first = min(int((low + high) / 2 * count), count - 1)
        end = first + 1
    return slice(first, end)


def _check(heatmaps: Floats, masks: Masks) -> Masks:
    """(N,) where there is something to measure."""
    if np.ndim(masks) != np.ndim(heatmaps) or len(masks) != len(heatmaps):
        raise ValueError(
            "`masks` must be (N, H, W), or have the axes that the heatmaps have, one for each heatmap. "
            f"Received: masks of shape {np.shape(masks)} for heatmaps of shape {np.shape(heatmaps)}. "
            "inside(regions, (H, W)) makes them from boxes."
        )
    measurable: Masks = ~degenerate(heatmaps) & np.any(masks, axis=tuple(range(1, np.ndim(masks))))
    return measurable
