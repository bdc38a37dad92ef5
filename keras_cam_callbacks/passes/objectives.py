"""The scores of what is explained beyond a class: of contrasts, similarities and segments, as tensors."""

from __future__ import annotations

from typing import Any

import keras

from ..data.layout import channels_last

__all__ = ["contrasted", "segment", "similarity"]


def contrasted(score: Any, other: Any, unit: bool) -> Any:
    """Returns (N,) score of one class less that of another.

    Args:
        score: (N,) score of the class.
        other: (N,) score of the class that it is set against.
        unit: Whether there is one unit, whose class 0 has the negated score: the classes are one logit apart, not two.
    """
    return (score - other) / 2 if unit else score - other


def similarity(embedding: Any, references: Any) -> Any:
    """Returns (N,) float32, the cosines of the angles between embeddings (N, D) and references (N, D)."""
    ops = keras.ops
    embedding = ops.cast(embedding, "float32")
    lengths = ops.sqrt(ops.sum(embedding**2, axis=1)) * ops.sqrt(ops.sum(references**2, axis=1))
    return ops.sum(embedding * references, axis=1) / ops.maximum(lengths, keras.config.epsilon())


def segment(logits: Any, classes: Any, place: str | tuple[int, ...], pixels: Any = None) -> tuple[Any, Any, Any]:
    """Computes the mean score of a class over pixels.

    Args:
        logits: (N, H, W, K) float32 scores of the pixels' classes, in Keras' layout; K is 1 for a foreground. In place
            of H, W there may be any number of axes.
        classes: (N,) int32, -1 for the most frequent class that is predicted for these pixels and is not 0.
        place: "predicted", "all", "mask", "true" or a point (row, column).
        pixels: (N, H, W) bool, the pixels, where these are held: whatever `place` is, they are taken.

    Returns:
        (N,) float32 scores, 0 where there is no pixel; (N,) int32 classes, -1 where there is none but 0; and
        (N, H, W) bool pixels.
    """
    ops = keras.ops
    logits = channels_last(logits, keras.config.image_data_format())
    space = tuple(range(1, len(logits.shape) - 1))
    if logits.shape[-1] == 1:
        logits = ops.concatenate([-logits, logits], axis=-1)
    predicted, numbers = ops.argmax(logits, axis=-1), ops.arange(logits.shape[-1], dtype="int32")
    predicted = ops.cast(predicted, "int32")
    among = ops.ones_like(predicted, dtype="bool")
    if pixels is not None:
        among = ops.logical_and(among, pixels)
    elif isinstance(place, tuple):
        for axis, index in enumerate(place):
            at = ops.arange(ops.shape(predicted)[axis + 1], dtype="int32") == index
            among = ops.logical_and(among, ops.reshape(at, (-1, *[1] * (len(place) - 1 - axis))))
    own = ops.logical_and(predicted[..., None] == numbers, among[..., None])
    counts = ops.sum(ops.cast(own, "int32"), axis=space) * ops.cast(numbers > 0, "int32")
    frequent = ops.where(ops.max(counts, axis=-1) > 0, ops.cast(ops.argmax(counts, axis=-1), "int32"), -1)
    classes = ops.where(classes < 0, frequent, classes)
    if pixels is None and place == "predicted":
        among = predicted == ops.reshape(classes, (-1, *[1] * len(space)))
    of_class = ops.reshape(classes, (-1, *[1] * len(space), 1)) == numbers
    chosen = ops.logical_and(of_class, among[..., None])
    total = ops.sum(ops.where(chosen, logits, ops.zeros_like(logits)), axis=(*space, len(space) + 1))
    count = ops.sum(ops.cast(among, "float32"), axis=space)
    return total / ops.maximum(count, 1.0), classes, among
