"""The rows that run together, and what comes of them: joined from chunks, split by copies, cleared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..augmentations import Augmentation
from ..records import ABSENT, Capture, Ints, ValidationBatch

OF_SCORES = ("outputs", "scores", "targets", "predicted", "confidences", "beside", "absent")


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch and its augmented copies, as the rows that run together.

    Attributes:
        augmentations: The augmentations by name.
        batches: The batch, under the name "", and its copies.
        inputs: Of all of them, row by row.
        class_index: (rows, T) int64, what each target explains of each row.
        absent: (rows, T) bool, True where a row has no such label.
        guessed: Names of the augmentations that depend on a range that is not certain.
    """

    augmentations: Mapping[str, Augmentation]
    batches: Mapping[str, ValidationBatch]
    inputs: Any
    class_index: Ints
    absent: npt.NDArray[np.bool_]
    guessed: tuple[str, ...] = ()


def parts(arrays: Mapping[str, Any], copies: int) -> list[dict[str, Any]]:
    """Splits arrays of (copies * N, ...) rows, or None, by copies."""
    split = {name: [None] * copies if a is None else np.split(a, copies) for name, a in arrays.items()}
    return [{name: parts[i] for name, parts in split.items()} for i in range(copies)]


def tiled(array: npt.NDArray[Any] | None, copies: int) -> npt.NDArray[Any] | None:
    """Returns rows (N, ...) once for each copy of a batch, or None for none."""
    return array if array is None or copies == 1 else np.tile(array, (copies, *[1] * (array.ndim - 1)))


def joined(parts: list[Any]) -> Any:
    """Returns the arrays of all chunks as one, or None where they have none."""
    return None if parts[0] is None else np.concatenate(parts)


def without_maps(capture: Capture) -> Capture:
    """Returns the capture without its large arrays, so that one chunk at a time is held."""
    rest = {name: getattr(capture, name) for name in OF_SCORES}
    return Capture(activations=None, gradients=None, kernel=None, **rest)


def without(absent: npt.NDArray[np.bool_], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arrays (rows, ...) of a view of which nothing is left in the rows without the label."""
    cleared: dict[str, Any] = {}
    for name, array in arrays.items():
        if name in ("outputs", "predicted", "segments") or array is None:
            cleared[name] = array
            continue
        cleared[name] = array = array.copy()
        array[absent] = ABSENT if name in ("targets", "against") else np.nan
    return cleared
