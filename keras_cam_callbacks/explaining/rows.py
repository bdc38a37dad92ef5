"""The rows that run together, and what comes of them: joined from chunks, split by copies, cleared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..augmentations import Augmentation
from ..network.targets import Target
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


def labels_at_most(batch: ValidationBatch) -> int:
    """Returns how many labels a sample can have at most: as many as there are, whichever samples are in the batch."""
    clue = next((clue for _, clue in batch.label_clues if clue.kind == "multi-hot"), None)
    return max(map(len, batch.label_sets or ((),))) if clue is None else int(clue.most) + 1


def check_true(targets: Sequence[Target], batch: ValidationBatch) -> None:
    """Checks that a batch has labels where a target is "true", as far as more can be said than that there are none.

    Raises:
        ValueError: If they are text, or of several outputs.
    """
    asked = any(target.label is not None for target in targets)
    if not asked or batch.labels is not None or batch.label_sets is not None:
        return
    if len(batch.label_clues) > 1:
        keys = [key for key, _ in batch.label_clues]
        raise ValueError(
            "target='true' can be explained only of a model with one output, whose labels are classes. "
            f"Received: labels of several outputs: {', '.join(map(repr, keys))}. A function of the outputs can be "
            f"explained, such as target=lambda outputs: outputs[{keys[0]!r}][:, 0]."
        )
    if any(clue.kind == "text" for _, clue in batch.label_clues):
        raise ValueError(
            "target='true' needs class labels as numbers: integers, one-hot rows, or multi-hot rows. Received: labels "
            "that are text. names, y = np.unique(labels, return_inverse=True) makes integers of them; "
            "class_names=list(names) shows the text."
        )


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


def cleared(
    arrays: dict[str, Any], numbers: dict[str, Any], absent: npt.NDArray[np.bool_], of_class: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arrays (rows, ...) of a view, of which nothing is left in the rows that explain no class.

    Args:
        arrays: By name, what becomes of an `Explanation`.
        numbers: By name, what the method tells of each row.
        absent: (rows,) True where a row has no such label.
        of_class: Whether the maps depend on the class. What methods make of varied images would be of others, where
            the outputs name none.
    """
    targets = arrays["targets"]
    none = absent if targets is None or not of_class else absent | (targets < 0)
    if not none.any():
        return arrays, numbers
    return _without(none, arrays), _without(none, numbers)


def _without(rows: npt.NDArray[np.bool_], arrays: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, array in arrays.items():
        if name in ("outputs", "predicted", "segments") or array is None:
            kept[name] = array
            continue
        kept[name] = array = array.copy()
        array[rows] = ABSENT if name in ("targets", "against") else np.nan
    return kept
