"""Numbers by class: the mean over the samples of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .maps import mean

__all__ = ["means_by_class", "rows_by_class"]


def rows_by_class(classes: Sequence[int | tuple[int, ...] | None]) -> dict[int, list[int]]:
    """Returns which samples each class has, by class, rising.

    Args:
        classes: For each sample its class, or all of its labels, of which it counts for each; None or a negative
            number for none.
    """
    rows: dict[int, list[int]] = {}
    for row, of_sample in enumerate(classes):
        every = of_sample if isinstance(of_sample, tuple) else () if of_sample is None else (of_sample,)
        for one in every:
            if one >= 0:
                rows.setdefault(int(one), []).append(row)
    return dict(sorted(rows.items()))


def means_by_class(
    values: Mapping[str, Any], classes: Sequence[int | tuple[int, ...] | None]
) -> dict[int, dict[str, float]]:
    """Returns the mean of each number over the samples of each class.

    Args:
        values: (N,) numbers by name; what is not finite does not count.
        classes: As for `rows_by_class`, true or predicted ones.

    Returns:
        By class, rising, the means by name, and "samples", how many there are; NaN where no value is finite.

    Example:
        >>> means_by_class({"area": [0.2, 0.4, 0.9]}, [0, 0, 1])
        {0: {'samples': 2, 'area': 0.30000000000000004}, 1: {'samples': 1, 'area': 0.9}}
    """
    arrays = {name: np.asarray(of_samples, np.float64) for name, of_samples in values.items()}
    return {
        one: {"samples": len(rows)} | {name: float(mean(of_samples[rows])) for name, of_samples in arrays.items()}
        for one, rows in rows_by_class(classes).items()
    }
