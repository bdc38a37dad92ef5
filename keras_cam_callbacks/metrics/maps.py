"""Numbers from one raw heatmap: is there a map at all, how large is what it shows, and where is it.

Only the positive part of a map counts, as in the Grad-CAM paper's ReLU: what speaks for the explained class. The shapes
are those of images; in place of h, w there may be any number of axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Floats
from ..space import components, resize

__all__ = [
    "area",
    "at_size",
    "blobs",
    "centre",
    "clipped",
    "degenerate",
    "degenerate_cause",
    "entropy",
    "magnitude",
    "mean",
    "pooled",
]

Doubles = npt.NDArray[np.float64]

# A map whose values differ by less than a few float32 roundings of its maximum is constant in all but name:
# sums in another order differ by as much from one position to the next.
_CONSTANT = 1e-6


def degenerate(heatmaps: Floats) -> npt.NDArray[np.bool_]:
    """Tells which heatmaps explain nothing.

    A map is degenerate if it holds a NaN or an infinity, has no positive value, or is constant (its values
    differ by at most 1e-6 of its maximum). A map of one pixel is constant.

    Args:
        heatmaps: (N, h, w) float32, raw: signed and unscaled.

    Returns:
        (N,) bool, True where a map is degenerate.

    Raises:
        ValueError: If `heatmaps` has no axis besides the samples or holds no pixels.
    """
    flat = flattened(heatmaps)
    # Maximum and minimum pass NaN and infinity on. float64: a difference can overflow float32.
    with np.errstate(invalid="ignore"):
        high: Doubles = flat.max(axis=1).astype(np.float64)
        low: Doubles = flat.min(axis=1).astype(np.float64)
        explains: npt.NDArray[np.bool_] = (
            np.isfinite(high) & np.isfinite(low) & (high > 0) & (high - low > _CONSTANT * high)
        )
    return ~explains


def degenerate_cause(heatmap: Floats) -> str:
    """Says in words what is wrong with a degenerate heatmap, and what is likely to have caused it.

    Args:
        heatmap: (h, w) float32, raw, one for which `degenerate` is True.

    Returns:
        One clause without a full stop, "zero everywhere: ...", to be put into a warning.

    Raises:
        ValueError: If the heatmap is not degenerate, has no axis or holds no pixels.
    """
    heatmap = np.asarray(heatmap)
    if not degenerate(heatmap[None])[0]:
        raise ValueError(
            "degenerate_cause() explains degenerate heatmaps only. Received: a finite heatmap of shape "
            f"{heatmap.shape} with values from {heatmap.min():.3g} to {heatmap.max():.3g}. "
            "Ask degenerate() first."
        )
    if not np.isfinite(heatmap).all():
        return (
            "not finite (NaN or infinity): the weights have diverged (a smaller learning rate or gradient "
            "clipping may help), or float16 overflowed under mixed precision"
        )
    if not heatmap.any():
        return (
            "zero everywhere: no gradient arrives (a saturated or dead ReLU in between, or a score that does "
            "not depend on this layer), or the layer's output is zero"
        )
    if heatmap.max() <= 0:
        return (
            "nowhere positive: this layer holds evidence against the explained class only, which is common "
            "early in training and for a class that the model does not predict"
        )
    return (
        "constant: the layer's output is the same at every position (it has one position only, lies behind "
        "global pooling, or its filters have collapsed to their biases)"
    )


def area(heatmaps: Floats, share: float = 0.5) -> Doubles:
    """Measures how much of the image a heatmap covers.

    Small values mean that the model looks at a spot, values near 1 that it looks everywhere. A good value is about the
    object's share of the image; one that grows over the epochs says that attention dissolves.

    Args:
        heatmaps: (N, h, w) float32, raw.
        share: In [0, 1). A pixel is covered if its value is above `share` times the map's maximum.

    Returns:
        (N,) float64 in (0, 1), the covered share of the pixels; 1 where every pixel is covered; NaN where a
        map is degenerate.

    Raises:
        ValueError: If `share` is outside [0, 1), or `heatmaps` has no axis besides the samples or holds no pixels.
    """
    check_share(share)
    flat = flattened(heatmaps)
    valid = ~degenerate(heatmaps)
    covered = np.full(len(flat), np.nan)
    chosen = flat[valid]
    covered[valid] = (chosen > share * chosen.max(axis=1, keepdims=True)).mean(axis=1)
    return covered


def entropy(heatmaps: Floats) -> Doubles:
    """Measures how evenly a heatmap is spread over the image.

    H = -sum_p q_p log q_p / log(h w), with q_p = relu(heatmap)_p / sum relu(heatmap): Shannon's entropy of the map as a
    distribution, as a share of the largest that a map of its size can have. Unlike `area` it knows no threshold. A good
    value is well below 1; one that rises towards 1 says that the model looks everywhere, one that falls to 0 that it
    looks at a single point. Compare maps of one size only: the same blob has another entropy on a finer grid.

    Args:
        heatmaps: (N, h, w) float32, raw.

    Returns:
        (N,) float64 in [0, 1]: 0 for a single pixel, near 1 for an even map; NaN where a map is degenerate.

    Raises:
        ValueError: If `heatmaps` has no axis besides the samples or holds no pixels.

    Reference:
        Shannon, A Mathematical Theory of Communication, 1948.
    """
    flat = flattened(heatmaps)
    found = np.full(len(flat), np.nan)
    valid = ~degenerate(heatmaps)
    levels = _of_maximum(flat[valid])
    total = levels.sum(axis=1, dtype=np.float64)
    # With x the levels and S their sum, -sum (x/S) log (x/S) = log S - sum x log x / S.
    products = levels * np.log(np.maximum(levels, np.finfo(np.float32).tiny))
    spread = np.log(total) - products.sum(axis=1, dtype=np.float64) / total
    found[valid] = np.clip(spread / np.log(max(flat.shape[1], 2)), 0, 1)
    return found


def centre(heatmaps: Floats) -> Doubles:
    """Measures where a heatmap's centre of mass is.

    x = sum_p q_p (j_p + 1/2) / w and y = sum_p q_p (i_p + 1/2) / h, with q as in `entropy` and i_p, j_p the row and the
    column of pixel p. A good value is the object's own centre. Means over samples that come close to one corner, while
    the objects are elsewhere, tell of a watermark or a border; two blobs have their centre between them.

    Args:
        heatmaps: (N, h, w) float32, raw.

    Returns:
        (N, 2) float64 in (0, 1), x and y as shares of the image's width and height from its top left corner; NaN
        where a map is degenerate. Of maps with other numbers of axes (N, axes), the last axis first.

    Raises:
        ValueError: If `heatmaps` has no axis besides the samples or holds no pixels.
    """
    flat = flattened(heatmaps)
    space = np.shape(heatmaps)[1:]
    centres = np.full((len(flat), len(space)), np.nan)
    valid = ~degenerate(heatmaps)
    levels = _of_maximum(flat[valid]).reshape(-1, *space)
    for place, size in enumerate(reversed(space)):
        axis = len(space) - place
        sums = levels.sum(axis=tuple({*range(1, levels.ndim)} - {axis}), dtype=np.float64)
        centres[valid, place] = sums @ (np.arange(size) + 0.5) / (size * sums.sum(axis=1))
    return centres


def blobs(heatmaps: Floats, share: float = 0.5) -> Doubles:
    """Counts the separate places that a heatmap shows.

    They are the connected places of the pixels above `share` times the map's maximum; pixels that touch at a corner are
    connected. A good value is the number of objects, mostly 1; many blobs are texture, or the noise of a gradient.

    Args:
        heatmaps: (N, h, w) float32, raw.
        share: In [0, 1), as for `area`.

    Returns:
        (N,) float64, whole numbers of at least 1; NaN where a map is degenerate.

    Raises:
        ValueError: If `share` is outside [0, 1), or `heatmaps` has no axis besides the samples or holds no pixels.
    """
    check_share(share)
    heatmaps = np.asarray(heatmaps)
    found = np.full(len(heatmaps), np.nan)
    for i in np.flatnonzero(~degenerate(heatmaps)):
        above = heatmaps[i] > share * heatmaps[i].max()
        found[i] = components(above)
    return found


def magnitude(heatmaps: Floats) -> Doubles:
    """Measures how large the values of a heatmap are, before anything scales it: what pictures do not show.

    mean_p |heatmap_p|. A map is drawn by its own maximum, so that one of 1e-9 looks like one of 1. The unit is that of
    the method: compare epochs of one run, not methods. One that falls to 0 says that no gradient arrives any more, as
    where a score saturates; one that grows without end says that weights do.

    Args:
        heatmaps: (N, h, w) float32, raw: signed and unscaled.

    Returns:
        (N,) float64, at least 0, and 0 for a map that is zero everywhere; NaN where one is not finite.

    Raises:
        ValueError: If `heatmaps` has no axis besides the samples or holds no pixels.
    """
    sizes: Doubles = np.abs(flattened(heatmaps)).mean(axis=1, dtype=np.float64)
    return np.where(np.isfinite(sizes), sizes, np.nan)


def clipped(heatmaps: Floats, percentiles: tuple[float, float]) -> Floats:
    """Clips the positive part of each map at two of its percentiles, and counts it from the lower one.

    Args:
        heatmaps: (N, h, w) float32, raw.
        percentiles: Two rising numbers in [0, 100].

    Returns:
        (N, h, w) float32, nonnegative; a map with one value at both percentiles, or that is not finite, is as it was.
    """
    result = np.array(heatmaps, np.float32)
    for heatmap in result:
        if not np.isfinite(heatmap).all():
            continue
        positive = np.maximum(heatmap, 0)
        low, high = np.percentile(positive, percentiles).astype(np.float32)
        if high > low:
            heatmap[:] = np.clip(positive, low, high) - low
    return result


def at_size(heatmap: Floats, size: Sequence[int]) -> tuple[Floats, float]:
    """Brings the positive part of a heatmap to the size of an image.

    Args:
        heatmap: (h, w) float32, raw.
        size: H and W in px.

    Returns:
        (H, W) float32: averaged over areas along each side that becomes shorter, so that no heat falls between the
        pixels; bilinear along the others. And the largest value before it was enlarged, which no pixel need have.
    """
    level = np.maximum(heatmap, 0).astype(np.float32)
    least = tuple(min(side, of_map) for side, of_map in zip(size, level.shape, strict=True))
    if least != level.shape:
        level = resize(level[None], least, "area")[0]
    return resize(level[None], size)[0], float(level.max())


def pooled(heatmaps: Floats, most: int) -> Floats:
    """Averages the positive part of large maps over areas, so that no side is longer than `most`.

    Args:
        heatmaps: (N, h, w) float32, raw.
        most: Greatest height and width of the result; the limit of every axis.

    Returns:
        (N, rows, columns) float32, the positive part, averaged over areas of whole pixels where the size allows it: 14
        become 7 for `most` of 7 to 13; NaN everywhere where a map is degenerate.

    Raises:
        ValueError: If `heatmaps` has no axis besides the samples or holds no pixels.
    """
    dead = degenerate(heatmaps)
    n, *space = np.shape(heatmaps)
    size = [-(-side // -(-side // most)) for side in space]
    averaged = np.full((n, *size), np.nan, np.float32)
    positive = np.maximum(np.asarray(heatmaps)[~dead], 0).astype(np.float32)
    if size != space and len(positive):
        # Sums of large values overflow.
        positive /= positive.max(axis=tuple(range(1, positive.ndim)), keepdims=True)
        positive = resize(positive, size, "area")
    averaged[~dead] = positive.reshape(-1, *size)
    return averaged


def flattened(heatmaps: Floats) -> Floats:
    """Returns (N, *space) as (N, positions), after a check that there are any."""
    heatmaps = np.asarray(heatmaps)
    if heatmaps.ndim < 2 or 0 in heatmaps.shape[1:]:
        raise ValueError(
            "Heatmaps must have the shape (N, h, w), or another number of axes after N, each of at least 1. "
            f"Received: shape {heatmaps.shape}. Give one heatmap as heatmap[None]."
        )
    return heatmaps.reshape(len(heatmaps), math.prod(heatmaps.shape[1:]))


def mean(values: Any, axis: int | tuple[int, ...] | None = None) -> Doubles:
    """Returns the mean of what is known along an axis, or of all: what is not finite does not count.

    Args:
        values: Numbers; NaN where there was nothing to measure.
        axis: As numpy has it.

    Returns:
        float64; NaN where nothing is finite.
    """
    values = np.asarray(values)
    known = np.isfinite(values)
    counts = known.sum(axis=axis)
    sums = np.where(known, values, 0).sum(axis=axis, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def check_share(share: float) -> None:
    """Raises ValueError for a share of the maximum outside [0, 1)."""
    if not 0 <= share < 1:
        raise ValueError(
            f"`share` must be in [0, 1). Received: share={share!r}. 0.5 counts the pixels above half of the maximum."
        )


def _of_maximum(flat: Floats) -> Floats:
    """(N, P) the positive part as a share of each map's maximum, which must be positive."""
    levels: Floats = np.maximum(flat, 0).astype(np.float32)
    levels /= levels.max(axis=1, keepdims=True, initial=np.finfo(np.float32).tiny)
    return levels
