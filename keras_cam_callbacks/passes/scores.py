"""From a model's outputs to the explained scores, before the final activation, and to probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from ..network.structure import example_rule, leaves
from ..network.targets import UNDECIDED
from ..records import Floats, Ints


def single_output(outputs: Any) -> Any | None:
    """Returns the output tensor of a model that has just one, else None."""
    leaves = keras.tree.flatten(outputs)
    return leaves[0] if len(leaves) == 1 else None


def row_shape(tensor: Any) -> tuple[int | None, ...]:
    """Returns a tensor's shape for any number of samples; what runs eagerly has the number of the first try."""
    return (None, *tensor.shape[1:]) if len(tensor.shape) else ()


def example_of(outputs: Any, at: int | None = None) -> str:
    """Returns the code of a function of these outputs, or of one of them, that works as a target."""
    parts = leaves(outputs) if at is None else leaves(outputs)[at : at + 1]
    return example_rule([path for path, _ in parts], [tuple(tensor.shape) for _, tensor in parts])


def before_activation(outputs: Any, handed: Sequence[Any]) -> Any:
    """Returns a model's outputs in their structure, each in place of which something else is handed, or None, by that.

    Args:
        outputs: The outputs.
        handed: One for each in Keras' order.
    """
    flat = keras.tree.flatten(outputs)
    flat = [own if other is None else other for own, other in zip(flat, handed, strict=True)]
    return keras.tree.pack_sequence_as(outputs, flat)


def scores_before_activation(output: Any, logits: Any, expects: str | None, unit: bool | None = None) -> Any:
    """Returns what is explained of an output (N, K), or of a mask, differentiable, as float32 of its shape.

    Args:
        output: What the model puts out.
        logits: What went into the final activation, if that could be found. It is then the answer.
        expects: `loss_expects(model)`. Where the activation is hidden and the loss takes probabilities p, the answer is
            log p, for one unit log p - log(1 - p). Otherwise it is the output itself.
        unit: Whether there is one unit, or a mask has one channel; by default of an output (N, 1).
    """
    ops = keras.ops
    if logits is not None:
        return ops.cast(logits, "float32")
    raw = ops.cast(output, "float32")
    if expects == "probabilities":
        p = ops.clip(raw, 1e-7, 1 - 1e-7)
        unit = raw.shape[1] == 1 if unit is None else unit
        return ops.log(p) - ops.log1p(-p) if unit else ops.log(p)
    return raw


def explained_scores(
    outputs: Any,
    logits: Any,
    class_index: Any,
    rule: Callable[[Any], Any] | None,
    expects: str | None,
    rank: int = 1,
    tells_classes: bool = True,
) -> tuple[Any, Any | None, Any | None]:
    """Computes each sample's explained score, differentiable with respect to the activations.

    A classifier with one unit tells two classes apart: its score is the logit for class 1, and -logit for class 0. Of
    numbers none is predicted: the only one is explained, or the one of the index. Of outputs that are not finite no
    class is predicted, see `_decided`: classes that follow from them are `UNDECIDED`, and their scores NaN.

    Args:
        outputs: The model's outputs, tensors in any structure.
        logits: What went into the final activation, or None where there was none to be found.
        class_index: (N,) int32 tensor, -k for the class with the k-th highest score.
        rule: A user's function of the outputs: whole numbers are taken as class indices, others as the scores.
        expects: `loss_expects(model)`.
        rank: The largest k.
        tells_classes: Whether the output has a score for each class or label; else it is of numbers.

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
    predicted = decided = None
    if flat and tells_classes:
        decided = _decided(raw, ops.cast(output, "float32"))
        predicted = ops.cast(raw[:, 0] > 0 if unit else ops.argmax(raw, axis=-1), "int32")

    if rule is not None:
        result = _applied(rule, outputs)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(result.dtype)):
            return ops.cast(result, "float32"), None, predicted
        classes = ops.cast(result, "int32")
        predicted = classes = classes if decided is None else ops.where(decided, classes, UNDECIDED)
    elif predicted is not None:
        ranked = predicted
        if rank > 1:
            # More ranks than classes are refused once it is known that there is no other fault.
            order = (
                ops.stack([predicted, 1 - predicted], axis=1) if unit else ops.top_k(raw, min(rank, raw.shape[1]))[1]
            )
            ranked = _chosen(ops.cast(order, "int32"), -1 - class_index)
        predicted, ranked = (ops.where(decided, classes, UNDECIDED) for classes in (predicted, ranked))
        classes = ops.where(class_index < 0, ranked, class_index)
    if not flat:
        shapes = keras.tree.map_structure(row_shape, outputs)
        raise ValueError(
            "The model must have one output of shape (samples, classes) for a class to be explained. "
            f"Received: outputs of shape {shapes}. "
            f"Give as `target` a function of the outputs, such as `{example_of(outputs)}`."
        )
    if not tells_classes:
        columns = classes if rule is not None else class_index
        return (raw[:, 0], None, None) if unit else (_chosen(raw, columns), columns, None)
    # A rule may be out of range, which is found and told once its numbers are there.
    scores = ops.where(classes == 1, raw[:, 0], -raw[:, 0]) if unit else _chosen(raw, classes)
    # A factor, as it makes the gradients NaN, too.
    return scores * ops.where(ops.logical_or(decided, classes >= 0), 1.0, np.nan), classes, predicted


def _decided(raw: Any, output: Any) -> Any:
    """Tells which rows, (N,) bool, have a largest number: none is NaN, nor are the largest ones alike and infinite.

    Args:
        raw: (N, K) float32, what a class is predicted by.
        output: (N, K) float32, what the model puts out. A softmax of an infinite logit is NaN.
    """
    ops = keras.ops
    largest = ops.max(raw, axis=-1)
    ties = ops.sum(ops.cast(raw == largest[:, None], "int32"), axis=-1)
    numbers = ops.logical_not(ops.any(ops.logical_or(ops.isnan(raw), ops.isnan(output)), axis=-1))
    return ops.logical_and(numbers, ops.logical_or(ops.isfinite(largest), ties == 1))


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
            f"indices, others for the scores themselves. Received: shape {row_shape(result)} from {rule!r}."
        )
    return result


def confidences(
    outputs: Floats | None, scores: Floats, targets: Ints | None, activated: bool, labels: bool = False
) -> Floats:
    """Returns the probability of the explained class, (N,) float32 in [0, 1]; NaN where there is none.

    Args:
        outputs: (N, K) what the model put out, or None.
        scores: (N,) explained scores.
        targets: (N,) explained classes, negative where there is none; or None.
        activated: Whether the outputs come out of a softmax or sigmoid. Without it, outputs that are no probabilities
            are taken as logits of a softmax, or of a sigmoid where there is one unit.
        labels: Whether each unit is known to tell a label of its own, so that its logit is one of a sigmoid.
    """
    if outputs is None or targets is None:
        return np.full(len(scores), np.nan, np.float32)
    sums_to_one = False
    if not activated and not labels:
        finite = outputs[np.isfinite(outputs).all(axis=1)]  # A row that is not finite tells nothing of the others.
        within = bool(len(finite)) and bool((finite >= 0).all() and (finite <= 1).all())
        sums_to_one = within and bool(np.allclose(finite.sum(axis=1), 1, atol=1e-3))
    with np.errstate(invalid="ignore"):
        probabilities = _probabilities(outputs, scores, targets, activated or sums_to_one, labels)
    return np.where(targets < 0, np.nan, probabilities).astype(np.float32)


def _probabilities(outputs: Floats, scores: Floats, targets: Ints, activated: bool, labels: bool) -> Floats:
    """Returns the probability of each class (N,), where there is one; arguments are those of `confidences`."""
    one = outputs.shape[1] == 1
    if not activated and (one or labels):
        return np.asarray(1 / (1 + np.exp(-np.clip(scores, -80, 80))))
    if one:
        return np.where(targets == 1, outputs[:, 0], 1 - outputs[:, 0])
    if not activated:
        exponents = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs = np.asarray(exponents / exponents.sum(axis=1, keepdims=True), outputs.dtype)
    return np.take_along_axis(outputs, targets[:, None], axis=1)[:, 0]
