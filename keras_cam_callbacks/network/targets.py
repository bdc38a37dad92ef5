"""Which score is explained: what users name, turned into classes, labels, numbers or a rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Ints
from .detection import Detection
from .objectives import Contrast, Objective, Present, Segment, Similarity, Value
from .outputs import Output

PREDICTED = -1
UNDECIDED = -1
"""The class of a sample that has none, as the outputs that it would follow from are not finite."""

LabelSets = tuple[tuple[int, ...], ...]
"""For each sample the indices of all labels that it has, in their order."""

_KINDS = (
    "'predicted', 'true', 'both', 'contrast', 'top2' to 'top9', a class index, one index for each sample, a Contrast, "
    "Value, Present, Similarity, Segment or Detection, a callable on the model's outputs, or a dict of these by name"
)

MOST_LABELS = 3
"""How many of a sample's labels target="true" explains at most, where it can have several: the first ones by index."""


@dataclass(frozen=True, eq=False)
class Target:
    """Which score is explained, for any batch.

    Attributes:
        text: The target as it stands in records: "predicted", "true", "3", "[0, 1]", or a callable's name.
        rule: A user's function of the model's outputs, or None.
        rank: k where the class with the k-th highest score is explained, else 0.
        indices: () or (N,) int64, the class or the classes that the user named; None where none are named.
        label: Which of each sample's true labels is explained, counted from 0; None where none is.
        objective: What is explained other than a class's score, or None.
        output: Name of the output that is explained, where the user says it.
        against: The class that this one is contrasted with, or None.
        name: What the user calls it, in a dict of several; "" outside of one.
    """

    text: str
    rule: Callable[[Any], Any] | None = None
    rank: int = 0
    indices: Ints | None = None
    label: int | None = None
    objective: Objective | Detection | None = None
    output: str | None = None
    against: Target | None = None
    name: str = ""

    @property
    def names_pixels(self) -> bool:
        """Whether it names pixels of the images, which stay where they are when an image is augmented."""
        if isinstance(self.objective, Detection):
            return self.objective.box is not None
        return isinstance(self.objective, Segment) and self.objective.place not in ("predicted", "all")

    @property
    def is_fixed(self) -> bool:
        """Whether what it explains beyond a class stays the same, whatever the model predicts."""
        if isinstance(self.objective, Detection):
            return self.indices is not None
        if isinstance(self.objective, Segment):
            return self.indices is not None and self.objective.place != "predicted"
        return not self.rank and not (self.against is not None and self.against.rank)

    @property
    def asked(self) -> tuple[Any, ...]:
        """What a trace of a model depends on: all but the classes, pixels and references, which are handed to it."""
        place = self.objective.place if isinstance(self.objective, (Segment, Detection)) else None
        ranks = max(self.rank, 0 if self.against is None else self.against.rank)
        # Whether a number is named says whether there is one to be explained.
        return (
            *(ranks, self.label, self.indices is not None, type(self.objective).__name__, place, self.output),
            self.name if self.rule is None else "",
        )

    def class_index(self, samples: int, labels: Ints | None, label_sets: LabelSets | None = None) -> Ints:
        """Returns what is explained of each sample of a batch.

        Args:
            samples: N.
            labels: (N,) true classes or None.
            label_sets: For each sample all of its labels, where there can be several.

        Returns:
            (N,) int64 classes; -k stands for the class with the k-th highest score, so that `PREDICTED` is -1. A sample
            that has no such label, see `absent`, has that too.

        Raises:
            ValueError: If the target needs labels that are not there, or has the wrong length.
        """
        if self.label is not None:
            if label_sets is not None:
                at = self.label
                return np.array([of[at] if at < len(of) else PREDICTED for of in label_sets], np.int64)
            if labels is None:
                raise ValueError(
                    "target='true' needs class labels: integers, one-hot rows, or multi-hot rows of several labels. "
                    "Received: validation data without class labels. "
                    "Give (x, y) with such a y, or explain a class: target=0."
                )
            return labels if self.label == 0 else np.full(samples, PREDICTED, np.int64)
        if self.indices is None:
            return np.full(samples, -self.rank or PREDICTED, np.int64)
        if self.indices.ndim == 1 and len(self.indices) != samples:
            raise ValueError(
                f"`target` must hold one class index for each of the {samples} explained samples. "
                f"Received: {len(self.indices)} indices. See `max_samples`."
            )
        return np.broadcast_to(self.indices, (samples,)).copy()

    def beside(
        self,
        samples: int,
        labels: Ints | None,
        label_sets: LabelSets | None = None,
        pixel_labels: Ints | None = None,
        references: npt.NDArray[Any] | None = None,
        axes: int = 2,
    ) -> npt.NDArray[Any] | None:
        """Returns what beside a class is needed to say what is explained of each sample of a batch.

        Args:
            samples: N.
            labels: As for `class_index`.
            label_sets: Likewise.
            pixel_labels: (N, H, W) true classes of pixels, or None.
            references: (N or 1, D) embeddings of the images that a `Similarity` refers to.
            axes: How many axes masks have.

        Returns:
            (N,) int64, the class that it is contrasted with; (N, H, W) bool, the pixels that were said; (N, D) float32,
            the reference; None where there is no such thing.

        Raises:
            ValueError: If it is of another number of samples, or labels are not there.
        """
        if self.against is not None:
            return self.against.class_index(samples, labels, label_sets)
        if isinstance(self.objective, Similarity):
            references = self.objective.reference if references is None else references
            return _broadcast(references.astype(np.float32, copy=False), samples, "Similarity's `reference`")
        if not isinstance(self.objective, Segment) or self.objective.place not in ("mask", "true"):
            return None
        if self.objective.place == "mask":
            return _broadcast(self.objective.masks(axes), samples, "Segment's `where`")
        if pixel_labels is None:
            raise ValueError(
                "Segment with where='true' needs labels of pixels: whole numbers (samples, height, width), or one-hot. "
                "Received: validation data without. "
                f"Give (x, y) with such a y, or Segment({self.objective.label}), the pixels predicted as that class."
            )
        pixels: npt.NDArray[np.bool_] = pixel_labels == self.objective.label
        return pixels

    def beside_like(self, axes: int = 2) -> npt.NDArray[Any] | None:
        """Returns what stands for `beside` of one sample before a batch is known; of true pixels any number."""
        if self.against is not None:
            return np.full(1, self.against.rank and -self.against.rank, np.int64)
        if isinstance(self.objective, Similarity):
            return np.ones((1, 1), np.float32) if self.objective.of_images else self.objective.reference[:1]
        if isinstance(self.objective, Detection):
            return self.objective.asked
        if not isinstance(self.objective, Segment) or self.objective.place not in ("mask", "true"):
            return None
        return self.objective.masks(axes)[:1] if self.objective.place == "mask" else np.ones((1, 1, 1), np.bool_)

    def absent(self, samples: int, label_sets: LabelSets | None) -> npt.NDArray[np.bool_]:
        """Tells which samples, (N,), have fewer labels than there would have to be for this one."""
        if self.against is not None:
            return replace(self, against=None).absent(samples, label_sets) | self.against.absent(samples, label_sets)
        if self.label is None or (label_sets is None and self.label == 0):
            return np.zeros(samples, np.bool_)
        if label_sets is None:
            return np.ones(samples, np.bool_)
        return np.array([len(of) <= self.label for of in label_sets], np.bool_)


def with_labels(targets: Mapping[str, Target], most: int | None) -> dict[str, Target]:
    """Returns the targets with one in place of "true" for each label that a sample can have.

    Args:
        targets: The targets by name.
        most: How many labels a sample has at most; None where each has one class. No more than `MOST_LABELS` are
            explained.

    Returns:
        The targets by name: "true1", "true2" and so on, where there are several.
    """
    count = 1 if most is None else max(1, min(most, MOST_LABELS))
    if count == 1:
        return dict(targets)
    expanded: dict[str, Target] = {}
    for name, target in targets.items():
        if target.label is None or target.objective is not None:
            expanded[name] = target
            continue
        for k in range(count):
            expanded[f"{name or 'true'}{k + 1}"] = replace(target, text=f"true{k + 1}", label=k)
    return expanded


def resolve_targets(target: Any) -> dict[str, Target]:
    """Turns what the user gave as `target` into one target or several under their names.

    Args:
        target: As for `resolve_target`; "both" for "predicted" and "true"; "top2" to "top9" for so many classes with
            the highest scores; `Present`; or a dict of targets by names of the user's.

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
        resolved: dict[str, Target] = {}
        for name, single in target.items():
            of_name = _present(single, name) if isinstance(single, Present) else {name: resolve_target(single)}
            resolved |= {view: replace(one, name=name) for view, one in of_name.items()}
        return resolved
    if isinstance(target, Present):
        return _present(target, "present")
    if isinstance(target, str) and target == "both":
        return {name: resolve_target(name) for name in ("predicted", "true")}
    if isinstance(target, str) and re.fullmatch("top[2-9]", target):
        return {f"top{k}": Target(f"top{k}", rank=k) for k in range(1, int(target[3]) + 1)}
    return {"": resolve_target(target)}


def resolve_target(target: Any) -> Target:
    """Turns what the user gave as `target` into class indices or a rule.

    Args:
        target: "predicted", "true", "contrast", a class index, one index for each sample, one of `objectives`, or a
            callable on the model's outputs.

    Raises:
        ValueError: If the target is unknown.
        TypeError: If it is none of these kinds.
    """
    if isinstance(target, (Contrast, Value, Similarity, Segment, Detection)):
        return _of_objective(target)
    if callable(target):
        name = getattr(target, "__name__", type(target).__name__)
        return Target(f"{name}()" if name in ("predicted", "true") else name, target)
    if isinstance(target, str):
        if target == "predicted":
            return Target(target, rank=1)
        if target == "true":
            return Target(target, label=0)
        if target == "contrast":
            return _of_objective(Contrast("predicted", "runner_up"))
        raise ValueError(f"`target` must be {_KINDS}. Received: {target!r}.")
    index = np.asarray(target)
    if index.dtype.kind not in "iu" or index.ndim > 1:
        raise TypeError(f"`target` must be {_KINDS}. Received: {target!r} of type {type(target).__name__}.")
    return Target(str(index.tolist()), indices=index.astype(np.int64))


def _of_objective(objective: Contrast | Value | Similarity | Segment | Detection) -> Target:
    """Returns the target of what the user wants explained beyond a class."""
    text = objective.text
    if isinstance(objective, Detection):  # A class by its name is looked up once the names are known.
        label = objective.label if isinstance(objective.label, int) else "predicted"
        return replace(_of_class(label), text=text, objective=objective)
    output = objective.output
    if isinstance(objective, Contrast):
        return replace(
            _of_class(objective.a), text=text, objective=objective, output=output, against=_of_class(objective.b)
        )
    if isinstance(objective, Value) and isinstance(objective.index, str):
        return replace(_of_class(0), text=text, objective=objective, output=objective.index)
    if isinstance(objective, Value):
        return replace(_of_class(objective.index), text=text, objective=objective, output=output)
    if isinstance(objective, Segment):
        return replace(_of_class(objective.label), text=text, objective=objective, output=output)
    return Target(text, objective=objective, output=output)


def _of_class(which: int | str) -> Target:
    """Returns the target of an index, "predicted", "true" or "runner_up"."""
    if which == "runner_up":
        return Target(which, rank=2)
    return resolve_target(which)


def _present(objective: Present, name: str) -> dict[str, Target]:
    """Returns a target for each of the most probable labels, by names that begin with one."""
    return {
        f"{name}{k}": Target(f"present{k}", rank=k, objective=objective, output=objective.output)
        for k in range(1, objective.n + 1)
    }


def _broadcast(array: npt.NDArray[Any], samples: int, what: str) -> npt.NDArray[Any]:
    """Returns rows for all samples of an array that has one, or one for each."""
    if len(array) not in (1, samples):
        raise ValueError(
            f"{what} must hold one for all samples, or one for each of the {samples} explained ones. "
            f"Received: {len(array)}. See `max_samples`."
        )
    return np.ascontiguousarray(np.broadcast_to(array, (samples, *array.shape[1:])))


def check_target(target: Target, classes: int | None, output: Output | None = None, example: str = "") -> None:
    """Checks that a model tells apart what a target explains.

    Args:
        target: The target.
        classes: How many classes, labels or numbers the model's outputs tell apart; None where they tell none.
        output: What the output is; None for classes.
        example: The code of a function of the outputs that works.

    Raises:
        ValueError: If a named class is out of range, or the outputs tell no classes.
    """
    output = output or Output("classes")
    if target.rule is not None:
        return
    if not output.tells_classes:
        _check_number(target, classes, output, example)
    elif target.rank == 1:
        return
    elif classes is not None and target.rank > classes:
        raise ValueError(
            f"The model must tell as many classes apart as are explained. Received: target={target.text!r} for a model "
            f"of {classes} classes. target='top{classes}' works."
        )
    if target.indices is not None:
        check_classes(target, target.indices.ravel(), classes, output)


def _check_number(target: Target, numbers: int | None, output: Output, example: str) -> None:
    """Checks that a target says which number is explained, where the outputs are no scores of classes."""
    if target.indices is not None or (numbers == 1 and target.rank == 1 and target.text == "predicted"):
        return
    what = {"embedding": "an embedding", "mask": "a mask"}.get(output.kind, output.kind)
    alike = (
        "target=Similarity(reference) explains how alike it is to another one, " if output.kind == "embedding" else ""
    )
    if numbers == 1:
        raise ValueError(
            "A class can be explained only where the model puts out a score for each class. "
            f"Received: target={target.text!r} for a model with one output that is taken for a number, {output.why}. "
            "target='predicted' explains its value; output_kind='classes' takes it for the score of class 1."
        )
    raise ValueError(
        "Which number is to be explained? A model whose output is no score of classes has none that is predicted. "
        f"Received: target={target.text!r} for {numbers} outputs that are taken for {what}, {output.why}. "
        f"{alike}target=0, which is Value(0), explains the first of them, and a "
        f"function such as `{example}` any number that follows from them; "
        "output_kind='classes' takes them for scores of classes."
    )


def check_classes(target: Target, class_index: Ints, classes: int | None, output: Output | None = None) -> None:
    """Checks that the explained classes of a batch exist.

    Args:
        target: The target.
        class_index: (N,) explained classes.
        classes: How many classes, labels or numbers the model's outputs tell apart; None where they tell none.
        output: What the output is; None for classes.

    Raises:
        ValueError: If a class index is out of range.
    """
    if target.rule is not None or target.rank or classes is None:
        return
    wrong = sorted({int(c) for c in class_index if not 0 <= c < classes})
    if wrong:
        what = "labels" if target.label is not None else "`target`"
        if output is not None and not output.tells_classes:
            raise ValueError(
                f"`target` must be the index of one of the model's {classes} outputs, from 0 to {classes - 1}. "
                f"Received: {wrong}."
            )
        raise ValueError(
            f"Class indices must lie between 0 and {classes - 1}, for the model tells {classes} classes apart. "
            f"Received: {wrong} in {what}."
        )
