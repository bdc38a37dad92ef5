"""What is measured of one view in one epoch, against the run's earlier ones, and what is said of its maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.spacing import extent_of
from ..explaining.explanation import Explanation
from ..metrics import METRICS, degenerate_cause, measured
from ..metrics.agreement import same_class
from .run import TrackedRun

__all__ = ["degenerate_causes", "flipped_group", "keep", "numbers_of_samples"]


def numbers_of_samples(
    view: Explanation,
    name: str,
    metrics: Sequence[str],
    run: TrackedRun,
    *,
    faithful: Mapping[str, Any],
    of_class: bool,
    has_probability: bool,
) -> dict[str, Any]:
    """Returns (N,) numbers by their names: the method's own, those that `metrics` names, and those of augmentations.

    Args:
        view: What is measured.
        name: The view's name.
        metrics: Names of metrics.
        run: Has the heatmaps of the run's first and last logged epoch.
        faithful: The numbers that took further passes.
        of_class: Whether a class is explained.
        has_probability: Whether what is explained has one.
    """
    nothing = np.full_like(view.heatmaps, np.nan)
    numbers: dict[str, Any] = dict(view.values)
    if "confidence" in metrics and has_probability:
        numbers["confidence"] = view.confidences
    numbers |= measured(
        view.heatmaps,
        metrics,
        last=run.last_heatmaps.get(name, nothing),
        first=run.first_heatmaps.get(name, nothing),
        masks=view.masks(),
        targets=view.targets,
        last_targets=run.last_targets.get(name),
        first_targets=run.first_targets.get(name),
        of_class=of_class,
        extent=extent_of(view.batch.space),
    )
    numbers |= faithful
    for augmentation, augmented in view.augmented.items():
        if augmented.guessed:
            continue
        numbers[f"{augmentation}_correlation"] = augmented.correlation
        if augmented.unchanged is not None and view.predicted is not None:
            none = view.absent | (view.predicted < 0)
            numbers[f"{augmentation}_unchanged"] = np.where(none, np.nan, augmented.unchanged)
    return numbers


def keep(view: Explanation, name: str, run: TrackedRun) -> None:
    """Has a run's next epoch be compared with this one."""
    run.last_heatmaps[name], run.last_targets[name] = view.heatmaps, view.targets
    run.first_heatmaps.setdefault(name, view.heatmaps)
    run.first_targets.setdefault(name, view.targets)


def flipped_group(view: Explanation, name: str, metrics: Sequence[str], run: TrackedRun) -> str | None:
    """Returns "last" or "first" where no sample has the class any more that was explained in that logged epoch."""
    for group, earlier in (("last", run.last_targets), ("first", run.first_targets)):
        others = earlier.get(name)
        if view.targets is None or others is None or {*metrics}.isdisjoint(METRICS[group]):
            continue
        if not same_class(view.targets, others, len(view.targets)).any():
            return group
    return None


def degenerate_causes(view: Explanation) -> Iterator[tuple[str, int]]:
    """Yields why maps explain nothing, and how many do for that."""
    causes = [degenerate_cause(heatmap) for heatmap in view.heatmaps[view.degenerate]]
    counts: Mapping[str, int] = {cause: causes.count(cause) for cause in causes}
    yield from counts.items()
