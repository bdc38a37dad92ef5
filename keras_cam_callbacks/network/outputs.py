"""What each output of a model is: classes, labels, numbers, an embedding, a mask or boxes. Decided here, once.

What is certain comes first: the user's word, the loss, the labels, the end of the graph; the shape comes last.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import keras

from ..checks import did_you_mean

__all__ = ["KINDS", "Clues", "LabelClue", "LossClue", "Output", "check_said", "clues_of", "said_kinds"]

KINDS = ("classes", "labels", "numbers", "embedding", "mask", "boxes")
"""What an output can be said to be.

- classes: a score for each class, of which one is right; one unit tells two classes apart.
- labels: a score for each label, of which several can be present.
- numbers: quantities, such as an age, a box, or steering and throttle.
- embedding: numbers of which none has a meaning of its own.
- mask: a score for each pixel.
- boxes: boxes of objects, and their scores.
"""

_T = TypeVar("_T")
_OF_NUMBERS = ("numbers", "embedding")
"""What losses take outputs for that are no scores: then values of labels that look like classes are numbers."""

# What Keras' own losses take outputs for, and whether these are probabilities where there is no `from_logits`.
_LOSSES: Mapping[tuple[str | None, str | None], tuple[str, ...]] = {
    ("classes", "probabilities"): (
        *("CategoricalCrossentropy", "CategoricalFocalCrossentropy", "SparseCategoricalCrossentropy"),
        *("CategoricalGeneralizedCrossEntropy", "KLDivergence", "categorical_crossentropy", "kl_divergence"),
        *("categorical_focal_crossentropy", "sparse_categorical_crossentropy"),
        "categorical_generalized_cross_entropy",
    ),
    ("labels", "probabilities"): (
        *("BinaryCrossentropy", "BinaryFocalCrossentropy", "binary_crossentropy", "binary_focal_crossentropy"),
        *("Dice", "Tversky", "dice", "tversky"),
    ),
    ("margin", "logits"): (
        *("Hinge", "SquaredHinge", "CategoricalHinge", "hinge", "squared_hinge", "categorical_hinge"),
    ),
    ("numbers", None): (
        *("MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredLogarithmicError"),
        *("Huber", "LogCosh", "Poisson", "mean_squared_error", "mean_absolute_error", "huber", "log_cosh", "poisson"),
        *("mean_absolute_percentage_error", "mean_squared_logarithmic_error"),
    ),
    ("embedding", None): ("CosineSimilarity", "Circle", "cosine_similarity", "circle"),
}
_BY_LOSS = {
    getattr(keras.losses, name): clue
    for clue, names in _LOSSES.items()
    for name in names
    if hasattr(keras.losses, name)
}


@dataclass(frozen=True)
class LossClue:
    """What a loss tells of an output.

    Attributes:
        name: Its name, for messages.
        kind: "classes", "labels", "margin" (scores of classes that are no logits), "numbers" or "embedding"; None for a
            loss that the user wrote, which may take anything.
        expects: "logits", "probabilities", or None where it doesn't say.
    """

    name: str
    kind: str | None = None
    expects: str | None = None


@dataclass(frozen=True)
class LabelClue:
    """What labels tell of an output.

    Attributes:
        kind: "binary" (0 and 1, or -1 and 1), "index" (whole numbers from 0), "one-hot", "soft" (rows that sum to one),
            "multi-hot", "fractions", "numbers" (whole ones that are no classes), or "text", which tells nothing of it.
        most: The largest value; once it has been compared with an output, whether it is beyond its units.
        smoothed: Whether they are so by having been smoothed: all are e or 1 - e. They may be such numbers, too.
    """

    kind: str
    most: float = 0.0
    smoothed: bool = False


@dataclass(frozen=True)
class Clues:
    """What is known of a model's outputs before it runs; each by the output's name or number, None for any output.

    Attributes:
        said: The user's words, of `KINDS`.
        losses: What losses tell.
        labels: What labels tell.
        names: 2 where the user gave two class names, else None.
    """

    said: tuple[tuple[str | None, str], ...] = ()
    losses: tuple[tuple[str | int | None, LossClue], ...] = ()
    labels: tuple[tuple[str | int | None, LabelClue], ...] = ()
    names: int | None = None

    def output(self, shape: Sequence[int | None], ending: str | None, names: Iterable[str], index: int) -> Output:
        """Decides what an output is.

        Args:
            shape: Its shape, the samples first.
            ending: What it ends in: "softmax", "log_softmax", "sigmoid", "normalized", or None.
            names: All names that it goes by.
            index: Its number.

        Raises:
            ValueError: If it can't be what the user says.
        """
        names = set(names)
        said = _of(self.said, names, index)
        loss, labels = _of(self.losses, names, index), _of(self.labels, names, index)
        expects = None if loss is None else loss.expects
        if labels is not None and labels.smoothed and loss is not None and loss.kind in _OF_NUMBERS:
            labels = LabelClue("fractions")
        rank = len(shape)
        units = 1 if rank == 1 else shape[-1]
        if said in ("classes", "labels", "embedding") and rank > 2:
            raise ValueError(
                f"`output_kind` can be {said!r} only for an output of shape (samples, {said}). "
                f"Received: an output of shape {tuple(shape)}. 'mask' and 'boxes' are of any shape."
            )
        guess = ""
        if said is not None:
            kind, why = said, "as output_kind says"
        elif rank == 4 and loss is not None and loss.kind in ("numbers", "embedding"):
            kind, why = "numbers", f"for the loss is {loss.name!r}"
        elif rank > 2:
            kind, why = ("boxes" if rank == 3 and shape[-1] == 4 else "mask"), "by its shape"
        elif units == 1:
            kind, why, guess = _kind_of_unit(loss, labels, ending, self.names)
        else:
            kind, why, guess = _kind_of_units(units or 0, loss, labels, ending)
        if kind == "labels" and units == 1:
            kind = "classes"
        tells = kind in ("classes", "labels")
        activated = ending in ("softmax", "sigmoid") or (ending is None and expects == "probabilities")
        scores = loss is None or loss.kind in (None, "classes", "labels")
        return Output(
            kind=kind,
            expects=expects if tells or kind == "mask" else None,
            activated=tells and activated,
            has_probability=tells and (activated or ending == "log_softmax" or scores),
            why=why,
            guess=guess,
        )


@dataclass(frozen=True)
class Output:
    """What an output is.

    Attributes:
        kind: One of `KINDS`.
        expects: What the loss takes it for: "logits", "probabilities" or None.
        activated: Whether it is known to be probabilities.
        has_probability: Whether there is a probability of a class to be told.
        why: Why it is taken for that, in words.
        guess: What is to be said where that is a guess with consequences; else "".
    """

    kind: str
    expects: str | None = None
    activated: bool = False
    has_probability: bool = True
    why: str = ""
    guess: str = ""

    @property
    def tells_classes(self) -> bool:
        """Whether it has a score for each class or label."""
        return self.kind in ("classes", "labels")


def _kind_of_unit(
    loss: LossClue | None, labels: LabelClue | None, ending: str | None, names: int | None
) -> tuple[str, str, str]:
    """Returns what one unit is, why, and what is to be said of it."""
    tells, gives = None if loss is None else loss.kind, None if labels is None else labels.kind
    as_class = " output_kind='classes' explains the predicted class instead, which is class 0 below the middle."
    if names == 2:
        return "classes", "for there are two class names", ""
    if tells in ("classes", "labels", "margin"):
        if gives == "fractions":
            text = f"for the labels are fractions, though the loss is {_name(loss)!r}"
            return "numbers", text, f"takes the output for a number, {text}.{as_class}"
        return "classes", f"for the loss is {_name(loss)!r}", ""
    if tells in _OF_NUMBERS:
        if ending == "sigmoid" and gives == "binary":
            return "classes", "for a sigmoid unit has labels of 0 and 1", ""
        text = f"for the loss is {_name(loss)!r}"
        unsure = ending == "sigmoid" and gives is None
        return "numbers", text, f"takes the output for a number, {text}.{as_class}" if unsure else ""
    if ending == "sigmoid":
        if gives in ("fractions", "index", "numbers"):
            return "numbers", "for the labels are numbers", ""
        guess = (
            "takes the sigmoid unit for a classifier of two classes, for neither a loss of Keras nor labels say what "
            "it is: where it is below 0.5, class 0 is explained. output_kind='numbers' explains its value."
        )
        return "classes", "for it is a sigmoid unit", "" if gives else guess
    text = "for it has no final sigmoid, and no loss of Keras says otherwise"
    return "numbers", text, f"takes the output for a number, {text}.{as_class}" if gives == "binary" else ""


def _kind_of_units(
    units: int, loss: LossClue | None, labels: LabelClue | None, ending: str | None
) -> tuple[str, str, str]:
    """Returns what several units are, why, and what is to be said of it."""
    tells, gives = None if loss is None else loss.kind, None if labels is None else labels.kind
    by_loss = f"for the loss is {_name(loss)!r}"
    if ending in ("softmax", "log_softmax"):
        several = gives == "multi-hot" and tells != "classes"
        return ("labels" if several else "classes"), "for it ends in a softmax", ""
    if tells in ("classes", "labels") or (tells in _OF_NUMBERS and ending != "sigmoid"):
        return str(tells), by_loss, ""
    if gives == "multi-hot":
        return "labels", "for the labels are multi-hot", ""
    if tells == "margin":
        return "classes", by_loss, ""
    if ending == "normalized":
        return "embedding", "for its rows are brought to length 1", ""
    if gives == "one-hot":
        return "classes", "for the labels are one-hot", ""
    if tells is not None:
        return tells, by_loss, ""
    if gives in ("fractions", "numbers"):
        return "numbers", "for the labels are numbers", ""
    if gives in ("index", "binary") and labels is not None and labels.most:
        return "embedding", f"for there are labels of more than {units} classes", ""
    if gives == "soft":
        return "classes", "for each row of the labels sums to one", ""
    if ending == "sigmoid":
        return ("classes" if gives else "labels"), "for it ends in sigmoids", ""
    by = "the labels are class indices, though no loss of Keras" if gives else "neither a loss of Keras nor labels"
    verb = "says" if gives else "say"
    guess = (
        f"takes the {units} outputs for scores of classes, for {by} {verb} what they are. Say output_kind='numbers', "
        "'embedding' or 'labels' where they are others, or 'classes'."
    )
    return "classes", "by its shape", guess


def _name(loss: LossClue | None) -> str:
    return "" if loss is None else loss.name


def _of(entries: Sequence[tuple[str | int | None, _T]], names: set[str], index: int) -> _T | None:
    """Returns what is known of the output of these names or this number."""
    return next((value for key, value in entries if key is None or key == index or key in names), None)


def said_kinds(output_kind: Any) -> tuple[tuple[str | None, str], ...]:
    """Returns the user's word by the names of outputs; None stands for any output.

    Args:
        output_kind: One of `KINDS`, or these by name, or None.

    Raises:
        ValueError: If there is no such kind, or none in a dict.
        TypeError: If it is no text.
    """
    if output_kind is None:
        return ()
    entries = list(output_kind.items()) if isinstance(output_kind, Mapping) else [(None, output_kind)]
    options = f"{', '.join(map(repr, KINDS))}, or a dict of these by the names of the outputs"
    if not entries:
        raise ValueError(f"`output_kind` must be {options}. Received: an empty dict. None has it found out.")
    for name, kind in entries:
        if not isinstance(kind, str) or not isinstance(name, (str, type(None))):
            raise TypeError(f"`output_kind` must be {options}. Received: {output_kind!r}.")
        if kind not in KINDS:
            raise ValueError(f"`output_kind` must be {options}. Received: {kind!r}.{did_you_mean(kind, KINDS)}")
    return tuple(entries)


def check_said(said: Sequence[tuple[str | None, str]], names: Sequence[str]) -> None:
    """Raises ValueError for a kind of an output that the model doesn't have; `names` are those that it has."""
    for name, _ in said:
        if name is not None and name not in names:
            raise ValueError(
                f"`output_kind` must name outputs of the model, which are {', '.join(map(repr, names))}. "
                f"Received: {name!r}.{did_you_mean(name, names)}"
            )


def clues_of(
    model: Any,
    output_kind: Any = None,
    labels: Sequence[tuple[str | int | None, LabelClue]] = (),
    names: int | None = None,
) -> Clues:
    """Returns what is known of a model's outputs before it runs.

    Args:
        model: The model.
        output_kind: The user's word, as for `said_kinds`.
        labels: What the labels tell.
        names: How many class names the user gave.

    Raises:
        ValueError: As `said_kinds`.
        TypeError: As `said_kinds`.
    """
    labels = [(key, clue) for key, clue in labels if clue.kind != "text"]
    try:
        units = getattr(model, "output_shape", None)
    except ValueError:  # Keras 3.5 raises it for a Sequential model that is not built, later ones AttributeError.
        units = None
    if isinstance(units, tuple) and units and isinstance(units[-1], int):
        # No more than that is kept of the largest label: other labels of the same kind need no other trace.
        labels = [(key, replace(clue, most=float(clue.most >= units[-1] > 1))) for key, clue in labels]
    else:
        labels = [(key, replace(clue, most=0.0)) for key, clue in labels]
    own = tuple(_losses(getattr(model, "loss", None)))
    return Clues(said_kinds(output_kind), own, tuple(labels), 2 if names == 2 else None)


def _losses(loss: Any, path: str = "") -> Iterable[tuple[str | int | None, LossClue]]:
    """Yields what the compiled losses tell, by output, in any structure in which Keras takes them."""
    if isinstance(loss, Mapping) and "class_name" not in loss:
        for name, part in loss.items():
            yield from _losses(part, f"{path}/{name}" if path else str(name))
    elif isinstance(loss, (list, tuple)):
        for i, part in enumerate(loss):
            clue = _loss_clue(part)
            if clue is not None:  # One loss in a list is that of the only output, or Keras refuses it.
                yield (f"{path}/{i}" if path else i), clue
    else:
        clue = _loss_clue(loss)
        if clue is not None:
            yield (path or None), clue


def _loss_clue(loss: Any) -> LossClue | None:
    """Returns what a loss tells; None for none. Only Keras' own are known."""
    if loss is None:
        return None
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__))
    logits = False
    if isinstance(loss, (str, Mapping)):
        try:
            loss = keras.losses.get(loss)
        except (ValueError, TypeError):  # `compile` has taken it, so it is somebody's own.
            return LossClue(str(name))
    while isinstance(loss, functools.partial):
        logits |= bool(loss.keywords.get("from_logits"))
        loss, name = loss.func, getattr(loss.func, "__name__", "")
    owner = getattr(loss, "__self__", None)
    if isinstance(owner, keras.losses.Loss):  # Its method stands for it.
        loss = owner
    if isinstance(loss, keras.losses.Loss) and not isinstance(loss, tuple(k for k in _BY_LOSS if isinstance(k, type))):
        # A class of the user's own may yet wrap one of Keras' functions.
        logits |= bool(getattr(loss, "_fn_kwargs", {}).get("from_logits"))
        loss = getattr(loss, "fn", loss)
    for member, (kind, expects) in _BY_LOSS.items():
        if loss is member or (isinstance(member, type) and isinstance(loss, member)):
            logits |= bool(getattr(loss, "from_logits", False))
            return LossClue(str(name), kind, "logits" if logits and expects else expects)
    return LossClue(str(name))
