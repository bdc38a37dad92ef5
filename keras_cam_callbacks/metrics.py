"""Numbers from raw heatmaps: is there a map at all, how large is what it shows, how far did it move.

Only the positive part of a map counts, as in the Grad-CAM paper's ReLU: what speaks for the explained class.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .records import Floats

__all__ = ["area", "clipped", "correlation", "degenerate", "degenerate_cause", "drift", "spearman"]

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
        ValueError: If `heatmaps` has not three dimensions or holds no pixels.
    """
    flat = _flat(heatmaps)
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
        ValueError: If the heatmap is not degenerate, has not two dimensions or holds no pixels.
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

    Small values mean that the model looks at a spot, values near 1 that it looks everywhere.

    Args:
        heatmaps: (N, h, w) float32, raw.
        share: In [0, 1). A pixel is covered if its value is above `share` times the map's maximum.

    Returns:
        (N,) float64 in (0, 1), the covered share of the pixels; 1 where every pixel is covered; NaN where a
        map is degenerate.

    Raises:
        ValueError: If `share` is outside [0, 1), or `heatmaps` has not three dimensions or holds no pixels.
    """
    if not 0 <= share < 1:
        raise ValueError(
            f"`share` must be in [0, 1). Received: share={share!r}. 0.5 counts the pixels above half of the maximum."
        )
    flat = _flat(heatmaps)
    valid = ~degenerate(heatmaps)
    covered = np.full(len(flat), np.nan)
    chosen = flat[valid]
    covered[valid] = (chosen > share * chosen.max(axis=1, keepdims=True)).mean(axis=1)
    return covered


def drift(heatmaps: Floats, reference: Floats) -> Doubles:
    """Measures how far each heatmap has moved from its reference, such as the map of the epoch before.

    drift = 1 - r, where r is Pearson's correlation over the pixels of relu(heatmap) and relu(reference).
    The scale of the maps does not count, only where they are high and low: a map and twice that map have a
    drift of 0, unrelated maps have one near 1, and a map and its negative image one of 2.

    Args:
        heatmaps: (N, h, w) float32, raw.
        reference: (N, h, w) float32, raw, the same samples in the same order.

    Returns:
        (N,) float64 in [0, 2]; NaN where either map is degenerate.

    Raises:
        ValueError: If the shapes differ, have not three dimensions or hold no pixels.
    """
    _check_same_shape(heatmaps, reference, "reference")
    valid = ~(degenerate(heatmaps) | degenerate(reference))
    result = np.full(len(valid), np.nan)
    for i in np.flatnonzero(valid):
        result[i] = 1 - _pearson(heatmaps[i], reference[i])
    return result


def correlation(heatmaps: Floats, references: Floats) -> Doubles:
    """Measures how alike each heatmap and its reference are, where both are known, such as under an augmentation.

    r = sum_p (a_p - mean a) (b_p - mean b) / sqrt(sum_p (a_p - mean a)^2 sum_p (b_p - mean b)^2), Pearson's
    correlation of a = relu(heatmap) and b = relu(reference) over the pixels p at which neither is NaN. The scale of the
    maps does not count, only where they are high and low: 1 is the same place, 0 an unrelated one.

    Args:
        heatmaps: (N, H, W) float32, raw; NaN marks the pixels of which a map says nothing (see
            `augmentations.bring_back`).
        references: (N, H, W) float32, raw, the same samples in the same order; NaN likewise.

    Returns:
        (N,) float64 in [-1, 1]; NaN where fewer than two pixels are shared, or either map is degenerate on these: no
        positive value, constant or infinite (see `degenerate`).

    Raises:
        ValueError: If the shapes differ, have not three dimensions or hold no pixels.
    """
    _check_same_shape(heatmaps, references, "references")
    pairs = list(zip(_flat(heatmaps), _flat(references), strict=True))
    result = np.full(len(pairs), np.nan)
    for i, (heatmap, reference) in enumerate(pairs):
        shared = ~(np.isnan(heatmap) | np.isnan(reference))
        both = np.stack([heatmap[shared], reference[shared]])[:, None]
        if both.size and not degenerate(both).any():  # One pixel is constant.
            result[i] = _pearson(both[0], both[1])
    return result


def spearman(heatmaps: Floats, reference: Floats) -> Doubles:
    """Measures how far two heatmaps put the pixels in the same order: Spearman's rank correlation.

    It is Pearson's correlation over the ranks of the pixels of relu(heatmap) and relu(reference), where equal values
    share the mean of their ranks. Neither the scale of a map counts nor how far its peak stands out.

    Args:
        heatmaps: (N, h, w) float32, raw.
        reference: (N, h, w) float32, raw, the same samples in the same order.

    Returns:
        (N,) float64 in [-1, 1]: 1 for the same order, near 0 for unrelated maps, -1 for the reverse order; NaN where
        either map is degenerate.

    Raises:
        ValueError: If the shapes differ, have not three dimensions or hold no pixels.
    """
    return 1 - drift(_ranks(heatmaps), _ranks(reference))


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


def _flat(heatmaps: Floats) -> Floats:
    """(N, h, w) as (N, h * w), once it is sure that this is the shape."""
    heatmaps = np.asarray(heatmaps)
    if heatmaps.ndim != 3 or 0 in heatmaps.shape[1:]:
        raise ValueError(
            "Heatmaps must have the shape (N, h, w) with h and w of at least 1. "
            f"Received: shape {heatmaps.shape}. Give one heatmap as heatmap[None]."
        )
    return heatmaps.reshape(len(heatmaps), heatmaps.shape[1] * heatmaps.shape[2])


def _check_same_shape(heatmaps: Floats, others: Floats, name: str) -> None:
    if np.shape(heatmaps) != np.shape(others):
        raise ValueError(
            f"`heatmaps` and `{name}` must have the same shape. "
            f"Received: heatmaps.shape={np.shape(heatmaps)}, {name}.shape={np.shape(others)}. "
            "Compare maps of the same samples at the same layer."
        )


def _pearson(heatmap: Floats, other: Floats) -> float:
    """Pearson's correlation of the positive parts of two maps, neither of which is degenerate."""
    # Rounding can carry it past 1 by an ulp or two.
    return float(np.clip(_standard(heatmap) @ _standard(other), -1, 1))


def _ranks(heatmaps: Floats) -> Floats:
    """(N, h, w) each map's ranks from 1 up, with ties at their mean; zero everywhere where a map is degenerate."""
    ranks = np.zeros(np.shape(heatmaps), np.float32)
    for i in np.flatnonzero(~degenerate(heatmaps)):
        _, group, sizes = np.unique(np.maximum(heatmaps[i], 0), return_inverse=True, return_counts=True)
        ranks[i] = (np.cumsum(sizes) - (sizes - 1) / 2)[group.reshape(ranks[i].shape)]
    return ranks


def _standard(heatmap: Floats) -> Doubles:
    """(h * w,) the positive part less its mean, at Euclidean length 1; the map must not be degenerate."""
    # Squares of float32 numbers neither overflow nor vanish in float64.
    positive: Doubles = np.maximum(heatmap, 0).astype(np.float64).ravel()
    positive -= positive.mean()
    positive /= np.sqrt(positive @ positive)
    return positive
