"""What can be explained beyond a class: contrasts, numbers, similarities, present labels and segments of a mask."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import did_you_mean, is_whole

__all__ = ["Contrast", "Objective", "Present", "Segment", "Similarity", "Value", "check_output_name"]

_CLASSES = ("predicted", "true", "runner_up")
_PLACES = ("predicted", "all", "true")


@dataclass(frozen=True)
class Contrast:
    """Why one class rather than another: the difference of their scores.

    The score is z_a - z_b, of scores z before the final softmax or sigmoid; of a model with one unit, which tells two
    classes apart, the unit's logit, negated for class 0. Its gradient is that of z_a less that of z_b, so that what
    speaks for both classes is not in the map. The paper takes the gradient of a loss between the two classes as the
    contrast. With cross-entropy that is softmax(z) less the one-hot row of b: the same as here, where the model is
    sure of a. A sample for which both are one class has nothing to contrast and is NaN. There is no confidence.

    Attributes:
        a: The class that is explained: an index, "predicted", "true" (the label) or "runner_up" (the class with the
            second highest score).
        b: The class that it is set against, likewise.
        output: Which of several outputs of the model, by name; None for its only one.

    Raises:
        ValueError: If there is no such class, or both are the same.
        TypeError: If one is neither an index nor text.

    Reference:
        Prabhushankar et al., Contrastive Explanations in Neural Networks, arXiv 2008.00178.

    Example:
        >>> explain(model, images, target=Contrast("predicted", 3))
    """

    a: int | str
    b: int | str
    output: str | None = None

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            object.__setattr__(self, name, _class(f"Contrast's `{name}`", getattr(self, name), _CLASSES))
        check_output_name(self.output)
        if self.a == self.b:
            raise ValueError(
                f"Contrast must be of two different classes. Received: {self.a!r} twice. "
                "Contrast('predicted', 'runner_up') works."
            )

    @property
    def text(self) -> str:
        """The target as it stands in records."""
        return _text("Contrast", self.a, self.b, output=self.output)


@dataclass(frozen=True)
class Value:
    """A number that the model puts out, such as an age, or one side of a box.

    The score is z_i, the output's number i, before a final sigmoid or softmax if the output has one. It is never
    negated, and has no confidence.

    Attributes:
        index: Which of the output's numbers, from 0; or the name of an output that is one number.
        output: Which of several outputs of the model, by name; None for its only one.

    Raises:
        ValueError: If the index is negative, or an output is named twice.
        TypeError: If it is neither a whole number nor text.

    Example:
        >>> explain(model, images, target=Value(2))
        >>> explain(model, images, target=Value(0, output="box"))
    """

    index: int | str
    output: str | None = None

    def __post_init__(self) -> None:
        check_output_name(self.output)
        if isinstance(self.index, str) and self.index:
            if self.output is not None:
                raise ValueError(
                    "Value must name an output once. "
                    f"Received: {self.index!r} and output={self.output!r}. Value(0, output={self.output!r}) works."
                )
            return
        object.__setattr__(self, "index", _class("Value's `index`", self.index, ()))

    @property
    def text(self) -> str:
        """The target as it stands in records."""
        return _text("Value", self.index, output=self.output)


@dataclass(frozen=True)
class Present:
    """The labels that the model finds in an image, one view each: "present1", "present2" and so on.

    Of each sample the n most probable labels, where their probability is above 0.5. The score of each is its logit. A
    sample with fewer such labels is NaN in the views of the further ones.

    Attributes:
        n: How many labels are explained at most.
        output: Which of several outputs of the model, by name; None for its only one.

    Raises:
        ValueError: If `n` is not 1 to 9.

    Example:
        >>> explain(model, images, target=Present(n=2))["present1"].heatmaps
    """

    n: int = 3
    output: str | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.n, 1) or self.n > 9:
            raise ValueError(f"Present's `n` must be a whole number from 1 to 9. Received: {self.n!r}. 3 works.")
        object.__setattr__(self, "n", int(self.n))
        check_output_name(self.output)


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike an image's embedding is to a reference: what makes the two alike.

    The score is the cosine of the angle between them, e . r / (|e| |r|), in [-1, 1], where e is the embedding that the
    model puts out, and r the reference. r is taken as it is: no gradient goes to it.

    Attributes:
        reference: An embedding (D,) for all samples; (N, D), one for each; or images as the model takes them, one
            (H, W, C) for all samples or (N, H, W, C), whose embeddings the model computes each time with the weights
            that it then has.
        output: Which of several outputs of the model, by name; None for its only one.

    Raises:
        ValueError: If the reference is of another shape, not finite, or an embedding of length 0.

    Reference:
        Grad-CAM of a similarity: Stylianou et al., Visualizing Deep Similarity Networks, arXiv 1901.00536, whose maps
        are of the same dot product.

    Example:
        >>> explain(model, images, target=Similarity(query))
    """

    reference: Any
    output: str | None = None

    def __repr__(self) -> str:
        return self.text

    def __post_init__(self) -> None:
        check_output_name(self.output)
        array = np.asarray(self.reference)
        if array.dtype.kind not in "biuf" or not 1 <= array.ndim <= 4 or not array.size:
            raise ValueError(
                "Similarity's `reference` must be an embedding (D,), one for each sample (N, D), or images as the "
                f"model takes them. Received: shape {array.shape} of type {array.dtype}."
            )
        if not np.isfinite(array).all():
            raise ValueError(
                "Similarity's `reference` must hold finite numbers. Received: NaN or infinite ones. "
                "model.predict(images) of the reference's images works."
            )
        if array.ndim < 3:
            array = array.astype(np.float32).reshape(-1, array.shape[-1])
            if not np.linalg.norm(array, axis=1).all():
                raise ValueError(
                    "Similarity's `reference` must have a direction. Received: an embedding of zeros. "
                    "model.predict(images) of the reference's images works."
                )
        object.__setattr__(self, "reference", array)

    @property
    def of_images(self) -> bool:
        """Whether the reference is of images, whose embeddings are to be computed."""
        return bool(self.reference.ndim > 2)

    @property
    def text(self) -> str:
        """The target as it stands in records, the same in another process."""
        what = "images" if self.of_images else "embedding"
        return _text("Similarity", f"{what} {_digest(self.reference)}", output=self.output)


@dataclass(frozen=True, eq=False)
class Segment:
    """Why pixels are what they are: a class of a mask, over some of the image's pixels.

    The score is the mean over the pixels M of z_c, the class's score before the final softmax or sigmoid. The paper
    takes the sum; the mean is that divided by the number of pixels, so that maps look the same and scores of small and
    large objects compare. Of a mask with one channel, the foreground is class 1, where the logit is above 0; class 0
    has the negated logit. A sample in which M is empty is NaN. There is no confidence.

    Without a layer that is named, the last of the smallest maps is explained: the paper finds the bottleneck to say
    most. `Explanation.segments` has M, which is outlined in pictures; "energy_in_segment" in `Explanation.values` is
    the share of the heat in M, and the rest is the share outside.

    Attributes:
        label: The class, by its index; "predicted" for the most frequent predicted class that is not 0.
        where: M: "predicted", the pixels predicted as the class; "all"; "true", those that the labels (N, H, W) name
            so; a mask (H, W) or (N, H, W) of the output's size; or one point (row, column) of it. Masks, labels and
            points of signals, volumes and clips have their axes: (T,) or (N, T), (D, H, W) or (N, D, H, W).
        output: Which of several outputs of the model, by name; None for its only one.

    Raises:
        ValueError: If a setting is impossible.
        TypeError: If `label` is neither an index nor text.

    Reference:
        Vinogradova et al., Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping,
        arXiv 2002.11434.

    Example:
        >>> explain(model, images, target=Segment(1, where=(120, 80)))
    """

    label: int | str = "predicted"
    where: Any = "predicted"
    output: str | None = None

    def __repr__(self) -> str:
        return self.text

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", _class("Segment's `label`", self.label, ("predicted",)))
        check_output_name(self.output)
        object.__setattr__(self, "where", _place(self.where))
        if self.label == "predicted" and isinstance(self.where, str) and self.where == "true":
            raise ValueError(
                "Segment must name the class whose true pixels are explained. Received: label='predicted' with "
                "where='true'. Segment(1, where='true') works."
            )

    @property
    def place(self) -> str | tuple[int, ...]:
        """Where the pixels are, "mask" for masks that are given."""
        return self.where if isinstance(self.where, (str, tuple)) else "mask"

    def masks(self, axes: int) -> npt.NDArray[np.bool_]:
        """Returns the masks that are given, (1 or N, *space) bool.

        Args:
            axes: How many axes the model's output has between samples and classes.

        Raises:
            ValueError: If the masks have other ones.
        """
        masks: npt.NDArray[np.bool_] = np.asarray(self.where)
        if masks.ndim == axes:
            return masks[None]
        if masks.ndim == axes + 2 and len(masks) == 1:  # Rows, which may be those of an image.
            masks = masks[0]
        if masks.ndim != axes + 1:
            what = {1: "(T,) or (N, T)", 2: "(H, W) or (N, H, W)", 3: "(D, H, W) or (N, D, H, W)"}[axes]
            raise ValueError(
                f"A mask as Segment's `where` must be {what} for this model. "
                f"Received: shape {masks.shape[1:] if len(masks) == 1 else masks.shape}. where='predicted' needs none."
            )
        return masks

    @property
    def text(self) -> str:
        """The target as it stands in records, the same in another process."""
        where = self.place if self.place != "mask" else f"mask {_digest(self.where)}"
        return _text("Segment", self.label, where=None if where == "predicted" else where, output=self.output)


Objective = Contrast | Value | Present | Similarity | Segment
"""What users give as target beyond classes and functions."""


def check_output_name(name: Any) -> None:
    """Raises TypeError for what names no output."""
    if name is not None and not (isinstance(name, str) and name):
        raise TypeError(f"`output` must be the name of one of the model's outputs, or None. Received: {name!r}.")


def _class(what: str, value: Any, words: tuple[str, ...]) -> int | str:
    """Returns a class index as int, or one of the words, after a check."""
    options = ", ".join(["an index from 0", *map(repr, words)])
    if isinstance(value, str):
        if value in words:
            return value
        raise ValueError(f"{what} must be {options}. Received: {value!r}.{did_you_mean(value, words)}")
    if not is_whole(value, 0):
        kind = ValueError if is_whole(value) else TypeError
        raise kind(f"{what} must be {options}. Received: {value!r}. 0 works.")
    return int(value)


def _place(where: Any) -> Any:
    """Returns the pixels of a segment: a word, a point, or masks as they are given, an image's (1 or N, H, W) bool."""
    options = (
        "'predicted', 'all', 'true', a mask of False and True, (H, W) or (N, H, W) of images, or a point (row, column)"
    )
    if isinstance(where, str):
        if where in _PLACES:
            return where
        raise ValueError(f"Segment's `where` must be {options}. Received: {where!r}.{did_you_mean(where, _PLACES)}")
    array: npt.NDArray[Any] = np.asarray(where)
    if array.shape in ((1,), (2,), (3,)) and array.dtype.kind in "iu" and (array >= 0).all():
        return tuple(map(int, array))
    zeros_and_ones = array.dtype.kind in "biuf" and bool(np.isin(array, (0, 1)).all())
    if not 1 <= array.ndim <= 4 or not zeros_and_ones or not array.any():
        raise ValueError(
            f"Segment's `where` must be {options}. Received: shape {array.shape} of type {array.dtype}"
            + (", with no pixel. " if zeros_and_ones and 1 <= array.ndim <= 4 else ". ")
            + "where='all' takes every pixel."
        )
    return array.astype(np.bool_)[None] if array.ndim == 2 else array.astype(np.bool_)


def _text(kind: str, *values: Any, **named: Any) -> str:
    parts = [*map(str, values), *(f"{name}={value}" for name, value in named.items() if value is not None)]
    return f"{kind}({', '.join(parts)})"


def _digest(array: npt.NDArray[Any]) -> str:
    """Returns 8 hexadecimal digits that tell an array from others."""
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()[:8]
