"""Labels of pixels: the true class of each, from masks as people have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Ints
from .arrays import StoredArray, taken
from .labels import single

__all__ = ["pixel_labels"]


def pixel_labels(y: Any, rows: npt.NDArray[np.intp], axes: int = 2) -> Ints | None:
    """Returns the true class of each pixel, (N, H, W) int64; None where the labels are no masks.

    Args:
        y: Labels (N, H, W) or (N, H, W, 1) of whole numbers or of False and True, or one-hot (N, H, W, K), of which
            the last axis is that of the classes. Of what is in a file, the rows are read.
        rows: The rows that are wanted.
        axes: How many axes the image has; in place of H, W there are as many.
    """
    y = single(y)
    if not isinstance(y, (np.ndarray, StoredArray)) or y.ndim - axes not in (1, 2) or y.dtype.kind not in "biuf":
        return None
    array = taken(y, rows)
    if array.ndim == axes + 2 and array.shape[-1] > 1:
        one_hot = np.isin(array, (0, 1)).all() and (array.sum(axis=-1) == 1).all()
        return np.argmax(array, axis=-1).astype(np.int64) if one_hot else None
    array = array.reshape(array.shape[: axes + 1])
    if not np.isfinite(array).all() or not np.array_equal(array, np.round(array)):
        return None
    return array.astype(np.int64)
