"""Which numbers TensorBoard draws together: its page Custom Scalars, by what they answer.

The page Scalars sorts by name: there, where a model looks is spread over three pages among two dozen numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["TAG", "layout"]

TAG = "custom_scalars__config__"
"""The one tag under which TensorBoard looks for a layout."""


def layout(prefix: str, names: Iterable[str]) -> Any:
    """Returns the page for a run's numbers.

    Runs with the same numbers have the same charts, in which TensorBoard then draws all of them; several methods or
    targets are lines of one chart.

    Args:
        prefix: First part of the tags.
        names: Names of the numbers; those that are in no chart stand on the page Scalars alone.

    Returns:
        A Layout of TensorBoard's, or None where there is nothing to draw together.
    """
    from tensorboard.plugins.custom_scalar import layout_pb2

    from keras_cam_callbacks.metrics import METRICS, QUESTIONS

    page = layout_pb2.Layout()
    names = list(names)
    for group, question in QUESTIONS.items():
        patterns = {metric: _pattern(metric) for metric in METRICS[group]}
        shown = {metric: p for metric, p in patterns.items() if any(re.search(f"^{p}$", name) for name in names)}
        if shown:
            category = page.category.add(title=f"{prefix}: {question}")
            for metric, pattern in shown.items():
                tags = layout_pb2.MultilineChartContent(tag=[f"^{re.escape(prefix)}/{pattern}$"])
                category.chart.add(title=metric, multiline=tags)
    return page if page.category else None


def _pattern(metric: str) -> str:
    """Matches a number of any view, such as "layercam_drift", but not "first_drift" where "drift" is meant."""
    return f"(.+_)?{metric}" if metric.startswith("first_") else f"(.+_)?(?<!first_){metric}"
