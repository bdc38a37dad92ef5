"""The names under which metrics are logged, and all metrics of maps at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..checks import did_you_mean
from ..records import Floats
from .agreement import centre_shift, drift, moved, spearman, top_iou
from .maps import Doubles, area, blobs, centre, degenerate, entropy, pooled
from .regions import NAMES, Masks, in_regions

__all__ = ["METRICS", "measured", "resolve_metrics", "worst"]

_RANKED = 32  # Greatest side of maps whose pixels are put in order; sorting those of a saliency map takes a second.

_OF_MAP: dict[str, Callable[[Floats], Doubles]] = {
    "area": area,
    "entropy": entropy,
    "centre_x": lambda heatmaps: centre(heatmaps)[:, 0],
    "centre_y": lambda heatmaps: centre(heatmaps)[:, 1],
    "blobs": blobs,
}
_AGAINST: dict[str, Callable[[Floats, Floats], Doubles]] = {
    "drift": drift,
    "spearman": spearman,
    "top_iou": top_iou,
    "moved": moved,
    "centre_shift": centre_shift,
}
_OF_ORDER = ("spearman", "top_iou")
_FAITHFULNESS = ("insertion", "deletion", "average_drop", "increase")

# For those that may have nothing to be compared with: whether the largest value is the best.
_LARGER_IS_BETTER = {
    **{lead + name: name in ("spearman", "top_iou") for lead in ("", "first_") for name in _AGAINST},
    **{name: name != "peak_outside" for name in NAMES},
    **{name: name in ("insertion", "increase") for name in _FAITHFULNESS},
}

METRICS: dict[str, tuple[str, ...]] = {
    "map": ("confidence", *_OF_MAP, "degenerate"),
    "last": tuple(_AGAINST),
    "first": tuple(f"first_{name}" for name in _AGAINST),
    "regions": NAMES,
    "faithfulness": _FAITHFULNESS,
}
"""The names of all metrics, by what they need: the map alone, those of the last and of the first logged epoch, regions
of the objects, further passes of the model."""


def resolve_metrics(names: Iterable[str] | None) -> tuple[str, ...]:
    """Returns the metrics that are to be logged, in the order of `METRICS`.

    Args:
        names: Some of the names; None for all.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If they are no names in a list.
    """
    every = [name for group in METRICS.values() for name in group]
    if names is None:
        return tuple(every)
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(
            f"`metrics` must be a list of names, or None for all. Received: {names!r}. ['drift', 'area'] works."
        )
    chosen: list[Any] = list(names)
    for name in chosen:
        if name not in every:
            raise ValueError(
                f"`metrics` must be some of {', '.join(every)}. Received: {name!r}.{did_you_mean(name, every)}"
            )
    return tuple(name for name in every if name in chosen)


def worst(name: str) -> float:
    """Returns what stands for a mean of no value where a NaN would be kept as the best for ever.

    Args:
        name: The metric, with or without the name of a view before it.

    Returns:
        The infinity that is worse than any value, for metrics that compare the map with another, of an augmentation
        too, with regions or with the model; NaN for the others.
    """
    if name.endswith("_correlation"):  # of an augmentation
        return -np.inf
    parts = name.split("_")
    # The longest name counts: "first_drift" ends in "drift", too.
    found = next((tail for i in range(len(parts)) if (tail := "_".join(parts[i:])) in _LARGER_IS_BETTER), None)
    return np.nan if found is None else -np.inf if _LARGER_IS_BETTER[found] else np.inf


def measured(
    heatmaps: Floats,
    names: Iterable[str],
    *,
    last: Floats | None = None,
    first: Floats | None = None,
    masks: Masks | None = None,
) -> dict[str, Doubles]:
    """Measures heatmaps by every metric of the map that is asked for.

    Spearman's correlation and the IoU of the top fifth are of maps averaged to at most 32 x 32.

    Args:
        heatmaps: (N, h, w) float32, raw.
        names: Names of metrics; those that need what is not given are passed over, as are those that need a model.
        last: (N, h, w) the maps of the epoch before; maps of another shape are compared with nothing. None leaves these
            metrics out.
        first: The maps of the first epoch, likewise.
        masks: (N, H, W) bool, True on the object; None where no object is known.

    Returns:
        By name (N,) float64, NaN where there is nothing to measure.
    """
    names = set(names)
    found = {name: metric(heatmaps) for name, metric in _OF_MAP.items() if name in names}
    small = None
    for lead, reference in (("", last), ("first_", first)):
        asked = {name for name in _AGAINST if lead + name in names}
        if reference is None or not asked:
            continue
        comparable = reference.shape == heatmaps.shape and not degenerate(reference).all()
        pools = None
        for name in _AGAINST:  # In this order, so that all epochs of all runs have the same.
            if name not in asked:
                continue
            if lead and reference is last and name in found:  # In the second epoch.
                found[lead + name] = found[name]
            elif comparable and name in _OF_ORDER:
                small = pooled(heatmaps, _RANKED) if small is None else small
                pools = pools or (small, pooled(reference, _RANKED))
                found[lead + name] = _AGAINST[name](*pools)
            elif comparable:
                found[lead + name] = _AGAINST[name](heatmaps, reference)
            else:
                found[lead + name] = np.full(len(heatmaps), np.nan)
    if masks is not None:
        found |= in_regions(heatmaps, masks, names)
    return found
