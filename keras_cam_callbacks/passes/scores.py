"""From a model's outputs to the explained scores, before the final activation, and to probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ..records import Floats, Ints


def single_output(outputs: Any) -> Any | None:
    """Returns the output tensor of a model that has just one, else None."""
    leaves = keras.tree.flatten(outputs)
    return leaves[0] if len(leaves) == 1 else None


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
        last = 3 if output is None or output.shape[-1] is None else min(3, output.shape[-1] - 1)
        example = (
            f"outputs['name'][:, {last}]" if output is None else f"keras.ops.mean(outputs[..., {last}], axis=(1, 2))"
        )
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


def confidences(
    outputs: Floats | None, scores: Floats, targets: Ints | None, activated: bool, labels: bool = False
) -> Floats:
    """Returns the probability of the explained class, (N,) float32 in [0, 1]; NaN where there is none.

    Args:
        outputs: (N, K) what the model put out, or None.
        scores: (N,) explained scores.
        targets: (N,) explained classes, or None.
        activated: Whether the outputs come out of a softmax or sigmoid. Without it, outputs that are no probabilities
            are taken as logits of a softmax, or of a sigmoid where there is one unit.
        labels: Whether each unit is known to tell a label of its own, so that its logit is one of a sigmoid.
    """
    if outputs is None or targets is None:
        return np.full(len(scores), np.nan, np.float32)
    finite = np.where(np.isfinite(outputs), outputs, 0)
    if not activated and not labels:
        sums = finite.sum(axis=1)
        activated = bool((finite >= 0).all() and (finite <= 1).all() and np.allclose(sums, 1, atol=1e-3))
    if outputs.shape[1] == 1:
        if not activated:
            return (1 / (1 + np.exp(-np.clip(scores, -80, 80)))).astype(np.float32)
        return np.where(targets == 1, outputs[:, 0], 1 - outputs[:, 0]).astype(np.float32)
    if not activated and labels:
        return (1 / (1 + np.exp(-np.clip(scores, -80, 80)))).astype(np.float32)
    if not activated:
        exponents = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs = np.asarray(exponents / exponents.sum(axis=1, keepdims=True), outputs.dtype)
    return np.take_along_axis(outputs, targets[:, None], axis=1)[:, 0].astype(np.float32)
