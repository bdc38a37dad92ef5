"""Which score is explained: what users name, turned into classes or a rule; and what a loss takes outputs for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ..records import Ints

PREDICTED = -1

_KINDS = (
    "'predicted', 'true', 'both', 'top2' to 'top9', a class index, one index for each sample, a callable on the "
    "model's outputs, or a dict of these by name"
)

_CROSSENTROPIES = tuple(
    getattr(keras.losses, name)
    for name in (
        *("BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy"),
        *("SparseCategoricalCrossentropy", "binary_crossentropy", "binary_focal_crossentropy"),
        *("categorical_crossentropy", "categorical_focal_crossentropy", "sparse_categorical_crossentropy"),
    )
)
_CROSSENTROPIES_OF_LABELS = tuple(
    getattr(keras.losses, name)
    for name in ("BinaryCrossentropy", "BinaryFocalCrossentropy", "binary_crossentropy", "binary_focal_crossentropy")
)
_HINGES = tuple(
    getattr(keras.losses, name)
    for name in ("Hinge", "SquaredHinge", "CategoricalHinge", "hinge", "squared_hinge", "categorical_hinge")
)


@dataclass(frozen=True, eq=False)
class Target:
    """Which score is explained, for any batch.

    Attributes:
        text: The target as it stands in records: "predicted", "true", "3", "[0, 1]", or a callable's name.
        rule: A user's function of the model's outputs, or None.
        rank: k where the class with the k-th highest score is explained, else 0.
        indices: () or (N,) int64, the class or the classes that the user named; None where none are named.
    """

    text: str
    rule: Callable[[Any], Any] | None = None
    rank: int = 0
    indices: Ints | None = None

    def class_index(self, samples: int, labels: Ints | None) -> Ints:
        """Returns what is explained of each sample of a batch.

        Args:
            samples: N.
            labels: (N,) true classes or None.

        Returns:
            (N,) int64 classes; -k stands for the class with the k-th highest score, so that `PREDICTED` is -1.

        Raises:
            ValueError: If the target needs labels that are not there, or has the wrong length.
        """
        if self.text == "true" and self.rule is None:
            if labels is None:
                raise ValueError(
                    "target='true' needs class labels: integers, or one-hot rows. "
                    "Received: validation data without class labels. "
                    "Give (x, y), or explain target='predicted'."
                )
            return labels
        if self.indices is None:
            return np.full(samples, -self.rank or PREDICTED, np.int64)
        if self.indices.ndim == 1 and len(self.indices) != samples:
            raise ValueError(
                f"`target` must hold one class index for each of the {samples} explained samples. "
                f"Received: {len(self.indices)} indices. See `max_samples`."
            )
        return np.broadcast_to(self.indices, (samples,)).copy()


def resolve_targets(target: Any) -> dict[str, Target]:
    """Turns what the user gave as `target` into one target or several under their names.

    Args:
        target: As for `resolve_target`; "both" for "predicted" and "true"; "top2" to "top9" for so many classes with
            the highest scores; or a dict of targets by names of the user's.

    Returns:
        The targets by name; a single one has the name "".

    Raises:
        ValueError: As `resolve_target`, or if the dict is empty.
        TypeError: As `resolve_target`.
    """
    if isinstance(target, Mapping):
        if not target or not all(isinstance(name, str) and name for name in target):
            raise ValueError(
                "`target` as a dict must hold targets by their names. "
                f"Received: {target!r}. {{'predicted': 'predicted', 'grade 3': 3}} works."
            )
        return {name: resolve_target(single) for name, single in target.items()}
    if isinstance(target, str) and target == "both":
        return {name: resolve_target(name) for name in ("predicted", "true")}
    if isinstance(target, str) and re.fullmatch("top[2-9]", target):
        return {f"top{k}": Target(f"top{k}", rank=k) for k in range(1, int(target[3]) + 1)}
    return {"": resolve_target(target)}


def resolve_target(target: Any) -> Target:
    """Turns what the user gave as `target` into class indices or a rule.

    Args:
        target: "predicted", "true", a class index, one index for each sample, or a callable on the model's outputs.

    Raises:
        ValueError: If the target is unknown.
        TypeError: If it is none of these kinds.
    """
    if callable(target):
        return Target(getattr(target, "__name__", type(target).__name__), target)
    if isinstance(target, str):
        if target == "predicted":
            return Target(target, rank=1)
        if target == "true":
            return Target(target)
        raise ValueError(f"`target` must be {_KINDS}. Received: {target!r}.")
    index = np.asarray(target)
    if index.dtype.kind not in "iu" or index.ndim > 1:
        raise TypeError(f"`target` must be {_KINDS}. Received: {target!r} of type {type(target).__name__}.")
    return Target(str(index.tolist()), indices=index.astype(np.int64))


def check_target(target: Target, classes: int | None) -> None:
    """Checks that a model tells apart what a target explains.

    Args:
        target: The target.
        classes: How many classes the model's outputs tell apart; None where they tell none.

    Raises:
        ValueError: If a named class is out of range, or the outputs tell no classes.
    """
    if target.rule is not None or target.rank == 1:
        return
    if classes is not None and target.rank > classes:
        raise ValueError(
            f"The model must tell as many classes apart as are explained. Received: target={target.text!r} for a model "
            f"of {classes} classes. target='top{classes}' works."
        )
    if classes is None:
        raise ValueError(
            "A class can be explained only where the model puts out a score for each class. "
            f"Received: target={target.text} for a model with one output that is no classifier's. "
            "Give target='predicted' to explain the output itself, or a callable on the outputs."
        )
    if target.indices is not None:
        check_classes(target, target.indices.ravel(), classes)


def check_classes(target: Target, class_index: Ints, classes: int | None) -> None:
    """Checks that the explained classes of a batch exist.

    Args:
        target: The target.
        class_index: (N,) explained classes.
        classes: How many classes the model's outputs tell apart; None where they tell none.

    Raises:
        ValueError: If a class index is out of range.
    """
    if target.rule is not None or target.rank or classes is None:
        return
    wrong = sorted({int(c) for c in class_index if not 0 <= c < classes})
    if wrong:
        what = "labels" if target.text == "true" else "`target`"
        raise ValueError(
            f"Class indices must lie between 0 and {classes - 1}, for the model tells {classes} classes apart. "
            f"Received: {wrong} in {what}."
        )


def _loss(model: Any) -> Any | None:
    """Returns the loss that a model was compiled with, an object or a function; None for none, or several."""
    parts = keras.tree.flatten(getattr(model, "loss", None))
    if len(parts) != 1:
        return None
    try:
        return keras.losses.get(parts[0]) if isinstance(parts[0], str) else parts[0]
    except ValueError:
        return None


def _is_one_of(loss: Any, losses: Sequence[Any]) -> bool:
    return loss in losses or isinstance(loss, tuple(kind for kind in losses if isinstance(kind, type)))


def loss_expects(model: Any) -> str | None:
    """Tells what the compiled loss takes the outputs for: "logits", "probabilities", or None where it doesn't say.

    Only Keras' own losses are known; one that the user wrote may take anything.
    """
    loss = _loss(model)
    if _is_one_of(loss, _HINGES):
        return "logits"
    if _is_one_of(loss, _CROSSENTROPIES):
        return "logits" if getattr(loss, "from_logits", False) else "probabilities"
    return None


def tells_labels(model: Any) -> bool:
    """Tells whether the compiled loss takes each output for a label of its own, present or not: a sigmoid for each."""
    return _is_one_of(_loss(model), _CROSSENTROPIES_OF_LABELS)
