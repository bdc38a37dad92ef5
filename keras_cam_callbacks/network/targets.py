"""Which score is explained: the rule, and the score before the final activation, in Keras' operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ..records import Floats, Ints

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
_HINGES = tuple(
    getattr(keras.losses, name)
    for name in ("Hinge", "SquaredHinge", "CategoricalHinge", "hinge", "squared_hinge", "categorical_hinge")
)


@dataclass(frozen=True, eq=False)
class Target:
    """A target, resolved for one batch.

    Attributes:
        text: The target as it stands in records: "predicted", "true", "3", "[0, 1]", or a callable's name.
        class_index: (N,) int64 explained classes; -k stands for the class with the k-th highest score, so that
            `PREDICTED` is -1.
        rule: A user's function of the model's outputs, or None.
        rank: k where a class is explained by its rank, else 0.
    """

    text: str
    class_index: Ints
    rule: Callable[[Any], Any] | None = None
    rank: int = 0


def resolve_targets(target: Any, samples: int, labels: Ints | None) -> dict[str, Target]:
    """Turns what the user gave as `target` into one target or several under their names.

    Args:
        target: As for `resolve_target`; "both" for "predicted" and "true"; "top2" to "top9" for so many classes with
            the highest scores; or a dict of targets by names of the user's.
        samples: N.
        labels: (N,) true classes or None.

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
        return {name: resolve_target(single, samples, labels) for name, single in target.items()}
    if isinstance(target, str) and target == "both":
        return {name: resolve_target(name, samples, labels) for name in ("predicted", "true")}
    if isinstance(target, str) and re.fullmatch("top[2-9]", target):
        ranks = range(1, int(target[3]) + 1)
        return {f"top{k}": Target(f"top{k}", np.full(samples, -k, np.int64), rank=k) for k in ranks}
    return {"": resolve_target(target, samples, labels)}


def resolve_target(target: Any, samples: int, labels: Ints | None) -> Target:
    """Turns what the user gave as `target` into class indices or a rule.

    Args:
        target: "predicted", "true", a class index, one index for each sample, or a callable on the model's outputs.
        samples: N.
        labels: (N,) true classes or None.

    Raises:
        ValueError: If the target is unknown, needs labels that are not there, or has the wrong length.
        TypeError: If it is none of these kinds.
    """
    if callable(target):
        name = getattr(target, "__name__", type(target).__name__)
        return Target(name, np.full(samples, PREDICTED, np.int64), target)
    if isinstance(target, str):
        if target == "predicted":
            return Target(target, np.full(samples, PREDICTED, np.int64), rank=1)
        if target == "true":
            if labels is None:
                raise ValueError(
                    "target='true' needs class labels: integers, or one-hot rows. "
                    "Received: validation data without class labels. "
                    "Give (x, y), or explain target='predicted'."
                )
            return Target(target, labels)
        raise ValueError(f"`target` must be {_KINDS}. Received: {target!r}.")
    index = np.asarray(target)
    if index.dtype.kind not in "iu" or index.ndim > 1:
        raise TypeError(f"`target` must be {_KINDS}. Received: {target!r} of type {type(target).__name__}.")
    if index.ndim == 1 and len(index) != samples:
        raise ValueError(
            f"`target` must hold one class index for each of the {samples} explained samples. "
            f"Received: {len(index)} indices. See `max_samples`."
        )
    return Target(str(index.tolist()), np.broadcast_to(index.astype(np.int64), (samples,)).copy())


def check_classes(target: Target, classes: int | None) -> None:
    """Checks that the classes exist.

    Args:
        target: The target.
        classes: How many classes the model's outputs tell apart; None where they tell none.

    Raises:
        ValueError: If a class index is out of range, or the outputs tell no classes.
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
    wrong = sorted({int(c) for c in target.class_index if not 0 <= c < classes})
    if wrong and not target.rank:
        what = "labels" if target.text == "true" else "`target`"
        raise ValueError(
            f"Class indices must lie between 0 and {classes - 1}, for the model tells {classes} classes apart. "
            f"Received: {wrong} in {what}."
        )


def single_output(outputs: Any) -> Any | None:
    """Returns the output tensor of a model that has just one, else None."""
    leaves = keras.tree.flatten(outputs)
    return leaves[0] if len(leaves) == 1 else None


def loss_expects(model: Any) -> str | None:
    """Tells what the compiled loss takes the outputs for: "logits", "probabilities", or None where it doesn't say.

    Only Keras' own losses are known; one that the user wrote may take anything.
    """
    loss = getattr(model, "loss", None)
    parts = keras.tree.flatten(loss)
    if len(parts) != 1:
        return None
    loss = parts[0]
    try:
        loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    except ValueError:
        return None
    if loss in _HINGES or isinstance(loss, tuple(kind for kind in _HINGES if isinstance(kind, type))):
        return "logits"
    if loss in _CROSSENTROPIES or isinstance(loss, tuple(kind for kind in _CROSSENTROPIES if isinstance(kind, type))):
        return "logits" if getattr(loss, "from_logits", False) else "probabilities"
    return None


def scores_before_activation(output: Any, logits: Any, expects: str | None) -> Any:
    """Returns what is explained of an output (N, K), differentiable, as (N, K) float32.

    Args:
        output: What the model puts out.
        logits: What went into the final activation, if that could be found. It is then the answer.
        expects: `loss_expects(model)`. Where the activation is hidden and the loss takes probabilities p, the answer is
            log p, for one unit log p - log(1 - p). Otherwise it is the output itself.
    """
    ops = keras.ops
    if logits is not None:
        return ops.cast(logits, "float32")
    raw = ops.cast(output, "float32")
    if expects == "probabilities":
        p = ops.clip(raw, 1e-7, 1 - 1e-7)
        return ops.log(p) - ops.log1p(-p) if raw.shape[1] == 1 else ops.log(p)
    return raw


def explained_scores(
    outputs: Any,
    logits: Any,
    class_index: Any,
    rule: Callable[[Any], Any] | None,
    expects: str | None,
    rank: int = 1,
) -> tuple[Any, Any | None, Any | None]:
    """Computes each sample's explained score, differentiable with respect to the activations.

    A classifier with one unit tells two classes apart: its score is the logit for class 1, and -logit for class 0.
    One unit with no activation, under a loss that is no classifier's, is a regression: its value is explained.

    Args:
        outputs: The model's outputs, tensors in any structure.
        logits: What went into the final activation, or None where there was none to be found.
        class_index: (N,) int32 tensor, -k for the class with the k-th highest score.
        rule: A user's function of the outputs: whole numbers are taken as class indices, others as the scores.
        expects: `loss_expects(model)`.
        rank: The largest k.

    Returns:
        (N,) float32 scores, (N,) int32 explained classes and (N,) int32 predicted classes; None where there are none.

    Raises:
        ValueError: If the outputs have no classes and no rule is given, or the rule's result has the wrong shape.
    """
    ops = keras.ops
    output: Any = single_output(outputs)
    if output is not None and len(output.shape) == 1:
        output, logits = output[:, None], None if logits is None else logits[:, None]
    flat = output is not None and len(output.shape) == 2
    raw: Any = scores_before_activation(output, logits, expects) if flat else None
    unit = flat and raw.shape[1] == 1
    no_class = unit and logits is None and expects is None
    predicted = None
    if flat and not no_class:
        predicted = ops.cast(raw[:, 0] > 0 if unit else ops.argmax(raw, axis=-1), "int32")

    if rule is not None:
        result = _applied(rule, outputs)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(result.dtype)):
            return ops.cast(result, "float32"), None, predicted
        classes = predicted = ops.cast(result, "int32")
    elif predicted is not None:
        ranked = predicted
        if rank > 1:
            # More ranks than classes are refused once it is known that there is no other fault.
            order = (
                ops.stack([predicted, 1 - predicted], axis=1) if unit else ops.top_k(raw, min(rank, raw.shape[1]))[1]
            )
            ranked = _chosen(ops.cast(order, "int32"), -1 - class_index)
        classes = ops.where(class_index < 0, ranked, class_index)
    if not flat:
        shapes = keras.tree.map_structure(lambda t: tuple(t.shape), outputs)
        example = "outputs['name'][:, 3]" if output is None else "keras.ops.mean(outputs[..., 3], axis=(1, 2))"
        raise ValueError(
            "The model must have one output of shape (samples, classes) for a class to be explained. "
            f"Received: outputs of shape {shapes}. "
            f"Give as `target` a function of the outputs, such as `lambda outputs: {example}`."
        )
    if no_class:
        return raw[:, 0], None, None
    if unit:
        return ops.where(classes == 1, raw[:, 0], -raw[:, 0]), classes, predicted
    # A rule may be out of range, which is found and told once its numbers are there.
    return _chosen(raw, classes), classes, predicted


def _chosen(values: Any, columns: Any) -> Any:
    """Returns the value of each row (N, K) in its column (N,) int32, or in the nearest one there is.

    The sum has one term, and so is that value. `take_along_axis` gives the same by a hundred operations, which take a
    tenth of the time in which a model is traced.
    """
    ops = keras.ops
    count = values.shape[1]
    chosen = ops.clip(columns, 0, count - 1)[:, None] == ops.arange(count, dtype="int32")
    return ops.sum(ops.where(chosen, values, ops.zeros_like(values)), axis=1)


def _applied(rule: Callable[[Any], Any], outputs: Any) -> Any:
    """Applies a user's rule to the outputs and checks what it gives."""
    try:
        result = keras.ops.convert_to_tensor(rule(outputs))
    except Exception as error:
        raise ValueError(
            "A callable `target` must turn the model's outputs into one number for each sample, with operations of "
            f"keras.ops or of the backend. Received: {rule!r}, which raised {type(error).__name__}: {error}"
        ) from error
    if len(result.shape) == 2 and result.shape[1] == 1:
        result = result[:, 0]
    if len(result.shape) != 1:
        raise ValueError(
            "A callable `target` must return one number for each sample, shape (samples,): whole numbers for class "
            f"indices, others for the scores themselves. Received: shape {tuple(result.shape)} from {rule!r}."
        )
    return result


def confidences(outputs: Floats | None, scores: Floats, targets: Ints | None, activated: bool) -> Floats:
    """Returns the probability of the explained class, (N,) float32 in [0, 1]; NaN where there is none.

    Args:
        outputs: (N, K) what the model put out, or None.
        scores: (N,) explained scores.
        targets: (N,) explained classes, or None.
        activated: Whether the outputs come out of a softmax or sigmoid. Without it, outputs that are no probabilities
            are taken as logits of a softmax, or of a sigmoid where there is one unit.
    """
    if outputs is None or targets is None:
        return np.full(len(scores), np.nan, np.float32)
    finite = np.where(np.isfinite(outputs), outputs, 0)
    if not activated:
        sums = finite.sum(axis=1)
        activated = bool((finite >= 0).all() and (finite <= 1).all() and np.allclose(sums, 1, atol=1e-3))
    if outputs.shape[1] == 1:
        if not activated:
            return (1 / (1 + np.exp(-np.clip(scores, -80, 80)))).astype(np.float32)
        return np.where(targets == 1, outputs[:, 0], 1 - outputs[:, 0]).astype(np.float32)
    if not activated:
        exponents = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs = np.asarray(exponents / exponents.sum(axis=1, keepdims=True), outputs.dtype)
    return np.take_along_axis(outputs, targets[:, None], axis=1)[:, 0].astype(np.float32)
