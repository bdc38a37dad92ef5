"""What labels are: class indices, several at once, or numbers; by their dtype and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.outputs import LabelClue
from ..network.targets import LabelSets
from ..records import Ints
from .arrays import StoredArray

_CLOSE = 1e-3  # to 1, of a row that sums to it


def single(y: Any) -> Any:
    """Returns the labels of a single output, which may stand under its name or alone in a list; None for several."""
    if isinstance(y, (Mapping, list, tuple)) and len(y) == 1:
        (y,) = y.values() if isinstance(y, Mapping) else y
    return None if isinstance(y, (Mapping, list, tuple)) else y


def class_labels(y: Any) -> Ints | None:
    """Returns class indices (N,) int64 from integers, whole floats, one-hot or soft rows; None for anything else.

    Labels of a single output may stand under its name, or alone in a list. Smoothed labels name the class they favour.
    """
    array = _table(single(y))
    if array is None:
        return None
    if array.shape[1] > 1:
        # Rows that sum to one name one class, smoothed labels too; several classes in a row have no index.
        return np.argmax(array, axis=1).astype(np.int64) if _sums_to_one(array) else None
    column = _unsmoothed(_from_minus_one(array[:, 0]))
    return column.astype(np.int64) if np.array_equal(column, np.round(column)) else None


def label_sets(y: Any) -> LabelSets | None:
    """Returns for each sample all labels that it has, from multi-hot rows; None for anything else.

    What is -1 or NaN beside 0 and 1 is a label of which nothing is known, and is not among them.
    """
    array = _table(single(y))
    clue = None if array is None else _clue(array, array.dtype.kind)
    if array is None or clue is None or clue.kind != "multi-hot":
        return None
    present = _unsmoothed(_from_minus_one(array)) == 1
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in present)


def labels_of_rows(y: Any) -> LabelSets | None:
    """Returns for each sample its labels, one or several; None where the labels name no classes."""
    labels = class_labels(y)
    return label_sets(y) if labels is None else tuple((label,) for label in labels.tolist())


def label_clues(y: Any) -> tuple[tuple[str | int | None, LabelClue], ...]:
    """Returns what labels tell of each output of a model, by the output's name or number; None for a single one."""
    if isinstance(y, Mapping):
        parts: list[tuple[Any, Any]] = [(str(name), part) for name, part in y.items()]
    else:
        parts = list(enumerate(y)) if isinstance(y, (list, tuple)) else [(None, y)]
    if len(parts) == 1:
        parts = [(None, parts[0][1])]
    clues = []
    for key, part in parts:
        array = _table(part)
        clue = None if array is None else _clue(array, array.dtype.kind)
        if array is not None and clue is not None:
            clues.append((key, replace(clue, smoothed=_is_smoothed(array))))
        elif isinstance(part, np.ndarray) and part.dtype.kind in "OSUT":
            clues.append((key, LabelClue("text")))
    return tuple(clues)


def _table(y: Any) -> npt.NDArray[Any] | None:
    """Returns labels as (N, K) numbers; None where they are no such."""
    # Of what stays in a file, such as masks, nothing is read.
    if y is None or isinstance(y, (Mapping, list, tuple, StoredArray)):
        return None
    array: npt.NDArray[Any] = np.asarray(y)
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or not array.size:
        return None
    return array.reshape(len(array), -1)


def _clue(array: npt.NDArray[Any], dtype: str) -> LabelClue | None:
    """Returns what labels (N, K) tell; None where they leave it open."""
    finite = array[np.isfinite(array)]
    if not finite.size:
        return None
    values = _unsmoothed(_from_minus_one(array))
    known = values[np.isfinite(values)]
    whole, most = np.array_equal(known, np.round(known)), float(known.max())
    zeros_and_ones = whole and set(np.unique(known).tolist()) <= {0, 1}
    if array.shape[1] > 1:
        if _sums_to_one(array):
            return LabelClue("one-hot" if zeros_and_ones else "soft", array.shape[1] - 1)
        # Where it isn't known whether a label is there, as in some X-ray data sets, it is -1 or missing.
        uncertain = whole and set(np.unique(known).tolist()) <= {-1, 0, 1} and most == 1
        if zeros_and_ones or uncertain:
            return LabelClue("multi-hot", array.shape[1] - 1)
        return LabelClue("numbers" if whole else "fractions", most)
    if len(known) < len(array):
        return LabelClue("numbers", most)
    if not whole:
        return LabelClue("fractions", most)
    if known.min() < 0:
        return LabelClue("numbers", most)
    if zeros_and_ones:
        # All floats alike, 0 or 1, may be numbers too.
        return LabelClue("binary", 1) if dtype != "f" or len(np.unique(known)) > 1 else None
    return LabelClue("index", most)


def _sums_to_one(array: npt.NDArray[Any]) -> bool:
    return bool((array >= 0).all() and np.allclose(array.sum(axis=1), 1, atol=_CLOSE))


def _from_minus_one(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the labels of hinge losses, -1 and 1, as 0 and 1."""
    if array.dtype.kind in "if" and array.min() < 0 and set(np.unique(array).tolist()) <= {-1, 1}:
        return (array + 1) / 2
    return array


def _unsmoothed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns smoothed labels, of which all are e or 1 - e, as 0 and 1."""
    return np.round(array) if _is_smoothed(array) else array


def _is_smoothed(array: npt.NDArray[Any]) -> bool:
    """Tells whether all labels are e or 1 - e."""
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        return False
    values = np.unique(array)
    return len(values) == 2 and 0 < values[0] < 0.25 and bool(abs(values.sum() - 1) < _CLOSE)
