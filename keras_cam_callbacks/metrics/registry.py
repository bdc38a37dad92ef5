"""The metrics by name, one row for each: all that logs, reports and tables say of a number is read from its row.

To add one: a function in its family's file, a row here, a hand-worked test. The site's table is made of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..checks import did_you_mean
from ..records import Floats, Ints
from .agreement import centre_shift, drift, moved, of_one_class, spearman, target_kept, top_iou
from .faithfulness import average_drop, deletion, increase, insertion
from .maps import Doubles, area, blobs, centre, degenerate, entropy, magnitude, pooled
from .regions import Masks, energy_in_region, pointing, region_iou, to_chance

__all__ = [
    "IN_LOGS",
    "METRICS",
    "QUESTIONS",
    "REGISTRY",
    "RESERVED",
    "Metric",
    "measured",
    "names_all",
    "resolve_metrics",
    "worst",
]

_RANKED = 32**2  # Most pixels that are put in order; sorting those of a saliency map takes a second.

QUESTIONS = {
    "regions": "does it look at the object?",
    "last": "does it still change, from epoch to epoch?",
    "first": "how far has it come since the first epoch?",
    "map": "what is its heatmap like?",
    "faithfulness": "does it depend on what is hot?",
}
"""What the numbers of each group answer, in the order in which people should see them."""


@dataclass(frozen=True)
class Metric:
    """A number and all that is said of it.

    Attributes:
        name: Its only name, in logs, trackers, files, reports and figures.
        group: What it needs: "map", the map alone; "last" and "first", the map of the last and of the first logged
            epoch; "regions", where the objects are; "faithfulness", further passes of the model.
        about: What it says, in a clause.
        good: What a good value is, in a clause; "" where there is none.
        limits: The least and the greatest value.
        better: 1 where higher values are better, -1 where lower ones are, 0 where neither can be said. Of numbers of
            change: where they go as training settles.
        function: What measures it, of (heatmaps), of (heatmaps, those of the other epoch), of (heatmaps, masks), or of
            the model's confidences; None where whoever has the numbers counts them.
        of: The metric whose values `function` takes in place of heatmaps.
        ranked: Whether the pixels of a map are put in order, for which large maps are averaged first.
        of_targets: Whether `function` is of the explained classes of both epochs, not of their maps.
        in_logs: Whether Keras' logs get it where `metrics` names nothing.
        axes: How many axes a map must have for it; maps of fewer have no such number.
        of_ways: Whether `function` takes how long the space is along each axis, as `extent`.
    """

    name: str
    group: str
    about: str
    good: str = ""
    limits: tuple[float, float] = (0, 1)
    better: int = 0
    function: Callable[..., Any] | None = None
    of: str = ""
    ranked: bool = False
    of_targets: bool = False
    in_logs: bool = False
    axes: int = 1
    of_ways: bool = False

    @property
    def judged(self) -> bool:
        """Whether one value is better than another: those of change only say that training goes on."""
        return self.better != 0 and self.group not in ("last", "first")

    @property
    def range(self) -> str:
        """The limits in words: "0 to 1", "from 0"."""
        low, high = self.limits
        return f"from {low:g}" if np.isinf(high) else f"{low:g} to {high:g}".replace("-", "−")


_OF_MAP = (
    Metric("confidence", "map", "probability of the explained class", in_logs=True),
    Metric(
        "area", "map", "share of the map above half of its maximum", "about the object's share of the image",
        function=area, in_logs=True,
    ),
    Metric(
        "entropy", "map", "how evenly the heat is spread: 0 is one spot, 1 the whole image alike", function=entropy,
        in_logs=True,
    ),
    Metric(
        "centre_x", "map", "the heat's centre, across: 0 is left, 1 is right; of a signal in time, from its start",
        "the object's, not always one corner", function=lambda heatmaps: centre(heatmaps)[:, 0],
    ),
    Metric(
        "centre_y", "map", "the heat's centre, down: 0 is the top, 1 the bottom; signals have none",
        "the object's, not always one corner", function=lambda heatmaps: centre(heatmaps)[:, 1], axes=2,
    ),
    Metric(
        "centre_z", "map",
        "the heat's centre along the slices of a volume, or the frames of a clip: 0 is the first, 1 the last",
        "the object's, not always one end", function=lambda heatmaps: centre(heatmaps)[:, 2], axes=3,
    ),
    Metric("blobs", "map", "separate hot places", "the number of objects", (1, np.inf), function=blobs),
    Metric(
        "magnitude", "map",
        "mean size of the raw map's values, before any scaling: near 0 no gradient arrives",
        limits=(0, np.inf), function=magnitude,
    ),
    Metric(
        "degenerate", "map", "how many maps are nowhere positive, constant or not finite, a count", "0", (0, np.inf),
        better=-1, in_logs=True,
    ),
)  # fmt: skip
_CHANGE = (
    Metric(
        "drift", "last", "1 − correlation with the map of the last logged epoch: 0 is no move, 1 an unrelated place",
        "towards 0", (0, 2), -1, drift,
    ),
    Metric(
        "spearman", "last", "rank correlation with the map of the last logged epoch", "towards 1", (-1, 1), 1, spearman,
        ranked=True,
    ),
    Metric(
        "top_iou", "last", "overlap of the hottest fifth of the pixels with that of the last logged epoch", "towards 1",
        (0, 1), 1, top_iou, ranked=True,
    ),
    Metric(
        "moved", "last",
        "how far the heat has moved since the last logged epoch, in diagonals of the image (earth mover's distance)",
        "towards 0", (0, 1), -1, moved, of_ways=True,
    ),
    Metric(
        "centre_shift", "last",
        "how far the heat's centre has moved since the last logged epoch, in diagonals of the image", "towards 0",
        (0, 1), -1, centre_shift, of_ways=True,
    ),
    Metric(
        "target_kept", "last",
        "share of the samples whose explained class is that of the last logged epoch; numbers of change are of these "
        "alone", "towards 1", (0, 1), 1, target_kept, of_targets=True,
    ),
)  # fmt: skip
_OF_REGIONS = (
    Metric(
        "energy_in_region", "regions", "share of the heat on the object", "near 1", (0, 1), 1, energy_in_region,
        in_logs=True,
    ),
    Metric(
        "energy_ratio", "regions",
        "share of the heat on the object, divided by the object's share of the image: 1 is chance", "well above 1",
        (0, np.inf), 1, to_chance, of="energy_in_region",
    ),
    Metric("pointing", "regions", "share of the maps whose peak is on the object", "near 1", (0, 1), 1, pointing),
    Metric(
        "region_iou", "regions", "overlap of the hot area and the object: intersection over union", "higher", (0, 1), 1,
        region_iou,
    ),
    Metric(
        "peak_outside", "regions", "share of the maps whose peak is off the object", "near 0", (0, 1), -1,
        lambda hits, _: 1 - hits, of="pointing",
    ),
)  # fmt: skip
_OF_FAITH = (
    Metric(
        "insertion", "faithfulness", "mean confidence while the hottest pixels are put in first", "high", (0, 1), 1,
        insertion,
    ),
    Metric(
        "deletion", "faithfulness", "mean confidence while the hottest pixels are taken out first", "low", (0, 1), -1,
        deletion,
    ),
    Metric(
        "average_drop", "faithfulness", "share of the confidence that is lost where only what the map shows is left",
        "near 0", (0, 1), -1, average_drop,
    ),
    Metric(
        "increase", "faithfulness", "share of the images whose confidence grows where only what the map shows is left",
        "near 1", (0, 1), 1, increase,
    ),
)  # fmt: skip
_FIRST = tuple(
    replace(
        row, name=f"first_{row.name}", group="first", about=row.about.replace("the last logged", "the first logged")
    )
    for row in _CHANGE
)

REGISTRY: dict[str, Metric] = {row.name: row for row in (*_OF_MAP, *_CHANGE, *_FIRST, *_OF_REGIONS, *_OF_FAITH)}
"""All metrics by name, in the order in which they are logged."""

METRICS: dict[str, tuple[str, ...]] = {
    group: tuple(row.name for row in REGISTRY.values() if row.group == group)
    for group in dict.fromkeys(row.group for row in REGISTRY.values())
}
"""The names of all metrics, by what they need: the map alone, those of the last and of the first logged epoch, regions
of the objects, further passes of the model."""

IN_LOGS: tuple[str, ...] = tuple(name for name, row in REGISTRY.items() if row.in_logs)
"""The numbers that Keras' logs get where `metrics` names none: few, and there from the first epoch on."""

RESERVED = frozenset(
    {
        *REGISTRY,
        "accuracy",
        "agreement",
        "correct",
        "epoch",
        "explained",
        "label",
        "label_name",
        "predicted",
        "predicted_name",
        "top_label",
    }
    | {"run", "sample", "samples", "step"}
)
"""Names that no method's own number may have: those of the metrics, and of the columns in which runs are compared."""


def names_all(metrics: Iterable[str] | None) -> bool:
    """Tells whether `metrics` stands for all that can be measured: None, "all" or ["all"]."""
    return metrics is None or (isinstance(metrics, (str, list, tuple)) and metrics in ("all", ["all"], ("all",)))


def resolve_metrics(names: Iterable[str] | None) -> tuple[str, ...]:
    """Returns the metrics that are to be logged, in the order of `METRICS`.

    Args:
        names: Some of the names; None, "all" or ["all"] for all.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If they are no names in a list.
    """
    if names_all(names):
        return tuple(REGISTRY)
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(
            f"`metrics` must be a list of names, 'all' or None. Received: {names!r}. ['drift', 'area'] works."
        )
    chosen: list[Any] = list(names)
    for name in chosen:
        if name not in REGISTRY:
            raise ValueError(
                f"`metrics` must be some of {', '.join(REGISTRY)}, or 'all' alone. "
                f"Received: {name!r}.{did_you_mean(name, REGISTRY)}"
            )
    return tuple(name for name in REGISTRY if name in chosen)


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
    tails = ("_".join(parts[i:]) for i in range(len(parts)))
    row = next((REGISTRY[tail] for tail in tails if tail in REGISTRY and REGISTRY[tail].group != "map"), None)
    return np.nan if row is None else -row.better * np.inf


def measured(
    heatmaps: Floats,
    names: Iterable[str],
    *,
    last: Floats | None = None,
    first: Floats | None = None,
    masks: Masks | None = None,
    targets: Ints | None = None,
    last_targets: Ints | None = None,
    first_targets: Ints | None = None,
    of_class: bool = True,
    extent: Sequence[float] | None = None,
) -> dict[str, Doubles]:
    """Measures heatmaps by every metric of the map that is asked for.

    Spearman's correlation and the IoU of the top fifth are of maps averaged to at most 32 x 32.

    Args:
        heatmaps: (N, h, w) float32, raw, or with another number of axes.
        names: Names of metrics; those that need what is not given are passed over, as are those that need a model.
        last: The maps of the epoch before, of the same shape; maps of another shape are compared with nothing. None
            leaves these metrics out.
        first: The maps of the first epoch, likewise.
        masks: (N, H, W) bool, True on the object; None where no object is known.
        targets: (N,) int64, the classes that the maps explain, negative for none; None where they explain no class.
        last_targets: Those of the epoch before. A sample whose class was another is not compared with it.
        first_targets: Those of the first epoch, likewise.
        of_class: Whether the maps depend on the explained class. Those that don't are compared whatever it is.
        extent: How long the space is along each axis, for distances; None where the cells of the maps are as long along
            all axes.

    Returns:
        By name (N,) float64, NaN where there is nothing to measure; without those that need more axes.
    """
    wanted = set(names)
    rows = [
        row
        for row in REGISTRY.values()
        if row.name in wanted and row.function is not None and row.axes < np.ndim(heatmaps)
    ]
    values: dict[str, Doubles] = {}
    for row in rows:
        if row.group == "map":
            values[row.name] = _of(row, heatmaps)
    most = round(_RANKED ** (1 / (heatmaps.ndim - 1)))
    small = None
    for group, earlier, earlier_targets in (("last", last, last_targets), ("first", first, first_targets)):
        change = [row for row in rows if row.group == group]
        if earlier is None or not change:
            continue
        reference = of_one_class(earlier, targets, earlier_targets) if of_class else earlier
        comparable = reference.shape == heatmaps.shape and not degenerate(reference).all()
        pools = None
        for row in change:
            since_last = row.name.removeprefix("first_")
            if group == "first" and earlier is last and since_last in values:  # In the second epoch.
                values[row.name] = values[since_last]
            elif row.of_targets:
                known = targets is not None and earlier_targets is not None
                values[row.name] = _of(row, targets, earlier_targets) if known else np.full(len(heatmaps), np.nan)
            elif not comparable:
                values[row.name] = np.full(len(heatmaps), np.nan)
            elif row.ranked:
                small = pooled(heatmaps, most) if small is None else small
                pools = pools or (small, pooled(reference, most))
                values[row.name] = _of(row, *pools)
            else:
                values[row.name] = _of(row, heatmaps, reference, *[extent] * row.of_ways)
    if masks is not None:
        values |= _in_regions([row for row in rows if row.group == "regions"], heatmaps, masks)
    return values


def _in_regions(rows: Iterable[Metric], heatmaps: Floats, masks: Masks) -> dict[str, Doubles]:
    """By name the values of these rows; what two of them need is computed once."""
    computed: dict[str, Doubles] = {}

    def value(row: Metric) -> Doubles:
        if row.name not in computed:
            computed[row.name] = _of(row, value(REGISTRY[row.of]) if row.of else heatmaps, masks)
        return computed[row.name]

    return {row.name: value(row) for row in rows}


def _of(row: Metric, *arrays: Any) -> Doubles:
    assert row.function is not None
    values: Doubles = row.function(*arrays)
    return values
