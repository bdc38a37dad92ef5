"""Since when something has held."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["lasting"]


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
