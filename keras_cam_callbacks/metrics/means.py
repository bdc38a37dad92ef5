"""The mean of what is known: a sample of which there is nothing to measure is NaN, and does not count."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["mean"]


def mean(values: Any, axis: int | tuple[int, ...] | None = None) -> npt.NDArray[np.float64]:
    """Returns the mean of what is finite along an axis, or of all; NaN where nothing is."""
    values = np.asarray(values)
    known = np.isfinite(values)
    counts = known.sum(axis=axis)
    sums = np.where(known, values, 0).sum(axis=axis, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
