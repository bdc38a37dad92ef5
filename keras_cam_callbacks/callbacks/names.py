"""Which numbers a logger has, and their names: of views, augmentations and methods, which must not meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..checks import check_positive
from ..metrics import METRICS, resolve_metrics
from ..metrics.registry import REGISTRY, RESERVED, names_all
from ..records import Space

__all__ = ["check_names", "checked_metrics"]


def checked_metrics(
    metrics: Iterable[str] | None,
    freq: int,
    regions: Any,
    faithfulness_freq: int | None,
    space: Space | None = None,
) -> tuple[str, ...]:
    """Returns the metrics that are logged, after a check that those which were named can be measured.

    Args:
        metrics: As in `HeatmapLogger`, and likewise the others.
        freq: Likewise.
        regions: Likewise.
        faithfulness_freq: Likewise.
        space: What is explained; None where that is not known yet. Numbers of more axes are left out.

    Raises:
        ValueError: If a name is unknown, or lacks the setting or the axes that it needs.
        TypeError: If they are no names in a list.
    """
    names = resolve_metrics(metrics)
    _check_faithfulness(faithfulness_freq, freq, names)
    for group, argument, value, works in (
        ("regions", "regions", regions, "boxes"),
        ("faithfulness", "faithfulness_freq", faithfulness_freq, "5"),
    ):
        asked = [name for name in names if name in METRICS[group]]
        if not names_all(metrics) and asked and value is None:
            raise ValueError(
                f"`metrics` can name {', '.join(asked)} only with `{argument}`. "
                f"Received: {argument}=None. {argument}={works} works."
            )
    if space is None:
        return names
    lacking = [name for name in names if REGISTRY[name].axes > len(space.axes)]
    if lacking and not names_all(metrics):
        raise ValueError(
            f"`metrics` can name {', '.join(lacking)} only where maps have {REGISTRY[lacking[0]].axes} axes. "
            f"Received: a model whose input has {', '.join(space.axes)}. Leave it out."
        )
    return tuple(name for name in names if name not in lacking)


def _check_faithfulness(every: int | None, freq: int, names: Sequence[str]) -> None:
    """Checks `faithfulness_freq` against `freq` and `metrics`."""
    if every is None:
        return
    check_positive("faithfulness_freq", every)
    if every % freq:
        raise ValueError(
            "`faithfulness_freq` must be a multiple of `freq`, for it is measured in epochs that are logged. "
            f"Received: faithfulness_freq={every}, freq={freq}."
        )
    if not set(names) & set(METRICS["faithfulness"]):
        raise ValueError(
            f"With `faithfulness_freq`, `metrics` must name at least one of {', '.join(METRICS['faithfulness'])}. "
            f"Received: {', '.join(names) or 'none'}."
        )


def check_names(
    views: Sequence[str],
    metrics: Sequence[str],
    augmentations: Sequence[str] = (),
    own: Mapping[str, Iterable[str]] | None = None,
) -> list[str]:
    """Checks that each number that is logged has a name of its own.

    Args:
        views: Names of the views; "" where there is one.
        metrics: Names of the metrics that are measured of each view.
        augmentations: Names of the augmentations.
        own: By view, the names of the numbers that its method tells of itself, once they are there.

    Returns:
        The names, without prefix.

    Raises:
        ValueError: If two are the same, as view "a" has "a_first_drift" where there is a view "a_first"; or if a
            method's own number is called like a metric.
    """
    augmented = [f"{name}_{number}" for name in augmentations for number in ("correlation", "unchanged")]
    own = own or {}
    for view, names in own.items():
        taken = sorted({*names} & RESERVED)
        if taken:
            raise ValueError(
                "A method's own numbers must not have the names of metrics, nor of the columns of tables. "
                f"Received: {', '.join(map(repr, taken))}{f' of {view}' if view else ''}. 'my_{taken[0]}' works."
            )
    logged = [
        f"{view}_{name}" if view else name for view in views for name in (*metrics, *augmented, *own.get(view, ()))
    ]
    twice = sorted({name for name in logged if logged.count(name) > 1})
    if twice:
        parts = {
            "methods and targets": [*filter(None, views)],
            "augmentations": augmentations,
            "own numbers": [name for names in own.values() for name in names],
        }
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in parts.items() if names)
        raise ValueError(
            "Methods, targets, augmentations and a method's own numbers must have names whose numbers can be told "
            f"apart. Received: {listed}, of which two would log {twice[0]}. Name one of them otherwise."
        )
    return logged
