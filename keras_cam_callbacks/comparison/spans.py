"""Means over what is known, and since when something has held."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["lasting", "mean"]


def mean(values: npt.NDArray[Any], axis: int | tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Returns the mean of what is finite along an axis, NaN where nothing is."""
    known = np.isfinite(values)
    counts = known.sum(axis=axis)
    sums = np.where(known, values, 0).sum(axis=axis, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def lasting(holds: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Finds since when something holds without a break up to the end.

    Args:
        holds: (E, N) bool, whether it holds in each epoch.
        known: (E, N) bool, whether that is known; other epochs are passed over.

    Returns:
        (N,) int64, the first row from which it holds in every known one; -1 where it does not hold in the last known
        one, or none is known.
    """
    rows = np.arange(len(holds))[:, None]
    last_break = np.where(known & ~holds, rows, -1).max(axis=0, initial=-1)
    later = known & (rows > last_break)
    return np.where(later.any(axis=0), later.argmax(axis=0), -1).astype(np.int64)
