"""How far two heatmaps of the same sample agree: those of two epochs, of two runs, or of an image and its copy.

Only the positive part of a map counts, as in `maps`. The shapes are those of images; in place of h, w there may be any
number of axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..checks import is_real
from ..opencv import cv2
from ..records import Floats, Ints
from ..space import diagonal, places
from .maps import Doubles, centre, degenerate, flattened, pooled

__all__ = [
    "centre_shift",
    "correlated",
    "correlation",
    "drift",
    "moved",
    "of_one_class",
    "same_class",
    "spearman",
    "standardized",
    "target_kept",
    "top_iou",
]

_BLOCK = 32  # maps

_CELLS = 64  # The earth mover's distance takes the square of this in time.


def drift(heatmaps: Floats, reference: Floats) -> Doubles:
    """Measures how far each heatmap has moved from its reference, such as the map of the epoch before.

    drift = 1 - r, where r is Pearson's correlation over the pixels of relu(heatmap) and relu(reference).
    The scale of the maps does not count, only where they are high and low: a map and twice that map have a
    drift of 0, unrelated maps have one near 1, and a map and its negative image one of 2. A good value falls towards 0
    as training settles; it saturates near 1 for maps that do not overlap, which `moved` does not.

    Args:
        heatmaps: (N, h, w) float32, raw.
        reference: (N, h, w) float32, raw, the same samples in the same order.

    Returns:
        (N,) float64 in [0, 2]; NaN where either map is degenerate.

    Raises:
        ValueError: If the shapes differ, have no axis besides the samples or hold no pixels.
    """
    valid = _comparable(heatmaps, reference)
    result = np.full(len(valid), np.nan)
    result[valid] = 1 - _pearson(flattened(heatmaps)[valid], flattened(reference)[valid])
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
        ValueError: If the shapes differ, have no axis besides the samples or hold no pixels.
    """
    _check_same_shape(heatmaps, references, "references")
    pairs = list(zip(flattened(heatmaps), flattened(references), strict=True))
    result = np.full(len(pairs), np.nan)
    for i, (heatmap, reference) in enumerate(pairs):
        shared = ~(np.isnan(heatmap) | np.isnan(reference))
        both = np.stack([heatmap[shared], reference[shared]])[:, None]
        if both.size and not degenerate(both).any():  # One pixel is constant.
            result[i] = _pearson(both[0], both[1])[0]
    return result


def spearman(heatmaps: Floats, reference: Floats) -> Doubles:
    """Measures how far two heatmaps put the pixels in the same order: Spearman's rank correlation.

    It is Pearson's correlation over the ranks of the pixels of relu(heatmap) and relu(reference), where equal values
    share the mean of their ranks. Neither the scale of a map counts nor how far its peak stands out. A good value rises
    towards 1 as training settles.

    Args:
        heatmaps: (N, h, w) float32, raw.
        reference: (N, h, w) float32, raw, the same samples in the same order.

    Returns:
        (N,) float64 in [-1, 1]: 1 for the same order, near 0 for unrelated maps, -1 for the reverse order; NaN where
        either map is degenerate.

    Raises:
        ValueError: If the shapes differ, have no axis besides the samples or hold no pixels.
    """
    return 1 - drift(_ranks(heatmaps), _ranks(reference))


def top_iou(heatmaps: Floats, reference: Floats, share: float = 0.2) -> Doubles:
    """Measures how far two heatmaps share their highest pixels.

    IoU = |S and T| / |S or T|, S and T being each map's positive pixels that are no lower than its
    ceil(share h w)-th highest. Two thirds of overlap are an IoU of 1/2. A good value rises towards 1 as training
    settles; unrelated maps have about share / (2 - share), 0.11 for a fifth.

    Args:
        heatmaps: (N, h, w) float32, raw.
        reference: (N, h, w) float32, raw, the same samples in the same order.
        share: In (0, 1], how much of the map is its top.

    Returns:
        (N,) float64 in [0, 1]; NaN where either map is degenerate.

    Raises:
        ValueError: If `share` is outside (0, 1], or the shapes differ, have no axis besides the samples or no pixels.

    Reference:
        Jaccard, The Distribution of the Flora in the Alpine Zone, 1912.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be in (0, 1]. Received: share={share!r}. 0.2 takes the top 20 %.")
    valid = _comparable(heatmaps, reference)
    tops = [_top(flattened(maps)[valid], share) for maps in (heatmaps, reference)]
    found = np.full(len(valid), np.nan)
    found[valid] = (tops[0] & tops[1]).sum(axis=1) / (tops[0] | tops[1]).sum(axis=1)
    return found


def moved(heatmaps: Floats, reference: Floats, extent: Sequence[float] | None = None) -> Doubles:
    """Measures how far the heat has moved across the image: the earth mover's distance.

    It is the least mean way by which the one map, as a distribution of heat of sum 1, is carried over into the other;
    ways are straight, between the centres of cells, and counted in shares of the space's diagonal. Larger maps are
    averaged to at most 8 x 8 cells first (64 of a signal, 4 x 4 x 4 of a volume), and what moves within a cell is not
    seen. A good value falls towards 0 as training settles; 0.1 says that all heat has moved by a tenth of the diagonal,
    or half of it by a fifth.

    Pearson's correlation, the cosine and the overlap compare pixel with pixel. They can't tell a blob that moved next
    door from one that moved to the other corner: both have no pixel in common with what was, and the numbers have
    reached their end. This distance does not saturate: it says how far, in a unit that a person can see in the picture.

    Args:
        heatmaps: (N, h, w) float32, raw.
        reference: (N, h, w) float32, raw, the same samples in the same order.
        extent: How long the space is along each axis, in one unit, such as mm; None where the cells of the maps are as
            long along all axes.

    Returns:
        (N,) float64 in [0, 1); NaN where either map is degenerate.

    Raises:
        ValueError: If the shapes differ, have no axis besides the samples or hold no pixels, or `extent` is not a
            positive number for each axis of the maps.

    Reference:
        Rubner, Tomasi and Guibas, The Earth Mover's Distance as a Metric for Image Retrieval, IJCV 2000.
    """
    valid = _comparable(heatmaps, reference)
    space = np.shape(heatmaps)[1:]
    lengths = _lengths(extent, space)
    sides = [pooled(maps, round(_CELLS ** (1 / len(space)))) for maps in (heatmaps, reference)]
    # In px of the map, or what the user says, so that the diagonal is that of the image, whatever its aspect.
    cells = places(sides[0].shape[1:], lengths)
    ours, theirs = (side[valid].reshape(-1, len(cells)).astype(np.float64) for side in sides)
    surplus = ours / ours.sum(axis=1, keepdims=True) - theirs / theirs.sum(axis=1, keepdims=True)
    ways = np.full(len(valid), np.nan)
    ways[valid] = _carried(surplus, cells)
    return ways / diagonal(lengths)


def centre_shift(heatmaps: Floats, reference: Floats, extent: Sequence[float] | None = None) -> Doubles:
    """Measures how far the centre of mass has moved.

    It is the straight way between the two maps' centres (see `centre`), in shares of the space's diagonal. For maps of
    at most 8 x 8 it is at most `moved`; it is 0 where heat spreads evenly to all sides. A good value falls towards 0 as
    training settles.

    Args:
        heatmaps: (N, h, w) float32, raw.
        reference: (N, h, w) float32, raw, the same samples in the same order.
        extent: How long the space is along each axis, in one unit, such as mm; None where the cells of the maps are as
            long along all axes.

    Returns:
        (N,) float64 in [0, 1); NaN where either map is degenerate.

    Raises:
        ValueError: If the shapes differ, have no axis besides the samples or hold no pixels, or `extent` is not a
            positive number for each axis of the maps.
    """
    _check_same_shape(heatmaps, reference, "reference")
    lengths = _lengths(extent, np.shape(heatmaps)[1:])
    return diagonal((centre(heatmaps) - centre(reference)) * lengths[::-1]) / diagonal(lengths)


def _lengths(extent: Sequence[float] | None, space: tuple[int, ...]) -> tuple[float, ...]:
    """Returns how long a space is along each axis, of which only the proportion counts."""
    if extent is None:
        return space
    if len(extent) != len(space) or not all(is_real(one) and one > 0 for one in extent):
        raise ValueError(
            f"`extent` must be {len(space)} positive finite numbers, one for each axis of the maps. "
            f"Received: {extent!r} for maps of {space}."
        )
    longest = max(extent)  # So that no unit is too large or too small for float32.
    return tuple(one / longest for one in extent)


def same_class(targets: Ints | None, others: Ints | None, count: int) -> npt.NDArray[np.bool_]:
    """Tells of which samples two maps explain the same, so that they can be compared.

    Args:
        targets: (N,) int64, the explained classes, negative where there is none; None where scores are explained that
            are no class's.
        others: Those of the other maps.
        count: N.

    Returns:
        (N,) bool: True where both explain one class; everywhere where both explain scores that are no class's.
    """
    if targets is None or others is None or len(others) != len(targets):
        return np.full(count, targets is None and others is None)
    same: npt.NDArray[np.bool_] = (np.asarray(targets) == others) & (np.asarray(targets) >= 0)
    return same


def of_one_class(reference: Floats, targets: Ints | None, others: Ints | None) -> Floats:
    """Returns reference maps, NaN throughout where they are of another class than the maps compared with them.

    Args:
        reference: (N, h, w) float32, raw.
        targets: (N,) int64, the classes of the maps that are compared with them, as for `same_class`.
        others: (N,) int64, their own.
    """
    same = same_class(targets, others, len(reference))
    if same.all():
        return reference
    return np.where(same.reshape(-1, *[1] * (np.ndim(reference) - 1)), reference, np.float32(np.nan))


def target_kept(targets: Ints, reference: Ints) -> Doubles:
    """Tells which samples still explain the class that they explained in the reference, such as the epoch before.

    Its mean is the share of samples that are compared at all: a prediction that flips has a map of another class, and
    how far apart these two are says nothing of training.

    Args:
        targets: (N,) int64, the explained classes, negative where there is none.
        reference: (N,) int64, those of the reference.

    Returns:
        (N,) float64: 1 where the class is the same, 0 where it is another, NaN where either is not there.
    """
    explained = (np.asarray(targets) >= 0) & (np.asarray(reference) >= 0)
    return np.where(explained, np.asarray(targets) == reference, np.nan)


def _check_same_shape(heatmaps: Floats, others: Floats, name: str) -> None:
    if np.shape(heatmaps) != np.shape(others):
        raise ValueError(
            f"`heatmaps` and `{name}` must have the same shape. "
            f"Received: heatmaps.shape={np.shape(heatmaps)}, {name}.shape={np.shape(others)}. "
            "Compare maps of the same samples at the same layer."
        )


def _pearson(some: Floats, others: Floats) -> Doubles:
    """(N,) Pearson's correlation of the positive parts of maps (N, P), none of which is degenerate."""
    correlations = np.empty(len(some))
    for block in range(0, len(some), _BLOCK):  # In float64, all at once may take a gigabyte.
        rows = slice(block, block + _BLOCK)
        correlations[rows] = correlated(standardized(some[rows]), standardized(others[rows]))
    return correlations


def correlated(one: Doubles, other: Doubles) -> Doubles:
    """Returns (N,) Pearson's correlation of maps that `standardized` has made, in [-1, 1]."""
    correlations: Doubles = np.clip((one * other).sum(axis=1), -1, 1)  # Rounding can carry it past 1 by an ulp or two.
    return correlations


def _ranks(heatmaps: Floats) -> Floats:
    """(N, h, w) each map's ranks from 1 up, with ties at their mean; zero everywhere where a map is degenerate."""
    ranks = np.zeros(np.shape(heatmaps), np.float32)
    valid = ~degenerate(heatmaps)
    flat = np.maximum(flattened(heatmaps)[valid], 0)
    order = np.argsort(flat, axis=1)
    values = np.take_along_axis(flat, order, axis=1)
    # In the sorted row, a group of equal values reaches from where a value is new to before the next one that is.
    places = np.broadcast_to(np.arange(flat.shape[1]), flat.shape)
    new = np.diff(values, axis=1, prepend=-1) > 0
    last = np.diff(values, axis=1, append=np.inf) > 0
    begins = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    ends = np.minimum.accumulate(np.where(last, places, flat.shape[1])[:, ::-1], axis=1)[:, ::-1]
    found = np.empty_like(flat)
    np.put_along_axis(found, order, ((begins + ends) / 2 + 1).astype(flat.dtype), axis=1)
    ranks[valid] = found.reshape(-1, *ranks.shape[1:])
    return ranks


def standardized(flat: Floats) -> Doubles:
    """Returns (N, P) the positive parts less their means, at Euclidean length 1; no map may be degenerate."""
    # Squares of float32 numbers neither overflow nor vanish in float64.
    positive: Doubles = np.maximum(flat, 0).astype(np.float64)
    positive -= positive.mean(axis=1, keepdims=True)
    # Not by BLAS, whose threads cost more than these sums.
    positive /= np.sqrt((positive * positive).sum(axis=1, keepdims=True))
    return positive


def _comparable(heatmaps: Floats, reference: Floats) -> npt.NDArray[np.bool_]:
    """(N,) where neither map is degenerate, after a check of their shapes."""
    _check_same_shape(heatmaps, reference, "reference")
    return ~(degenerate(heatmaps) | degenerate(reference))


def _top(flat: Floats, share: float) -> npt.NDArray[np.bool_]:
    """(N, P) which pixels are among the highest, and positive."""
    place = flat.shape[1] - int(np.ceil(share * flat.shape[1]))
    least = np.partition(flat, place, axis=1)[:, place, None]
    top: npt.NDArray[np.bool_] = (flat >= least) & (flat > 0)
    return top


def _carried(surplus: Doubles, at: Floats) -> Doubles:
    """(N,) the least mean way that carries what is too much (N, P) in some cells to where it is missing."""
    # What both maps have in a cell stays there, for a way around is never shorter: a quarter of the ways are left.
    amounts: Doubles = np.maximum(surplus, 0).sum(axis=1)
    differ = amounts >= 1e-7
    ways = np.zeros(len(surplus))
    shares = np.abs(surplus[differ]) / amounts[differ, None]
    placed = np.broadcast_to(at, (len(shares), *at.shape))
    cells = np.concatenate([shares[..., None], placed], axis=2).astype(np.float32)
    ways[differ] = [
        cv2.EMD(of_map[row > 0], of_map[row < 0], cv2.DIST_L2)[0]
        for of_map, row in zip(cells, surplus[differ], strict=True)
    ]
    return ways * amounts
