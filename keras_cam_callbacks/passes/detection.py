"""The score of a box that an object detector puts out, as a tensor, and where that box lies."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ..data.boxes import edges
from ..engine.contract import Run
from ..network.detection import OVERLAP, Detector
from ..records import ABSENT
from .placement import needs_measuring

__all__ = ["best_box", "decoded", "on_image", "unknown_boxes"]


def on_image(run: Run, detector: Detector, boxes: Any, model: Any, at: int, size: tuple[int, int] | None) -> bool:
    """Tells whether a detector inside a model has its boxes at the same places as the model's own image.

    They lie elsewhere where the model crops the image or puts a border around it before. Of boxes whose format only the
    user knows it is the user's word that they lie on the model's input.

    Args:
        run: The run of the model.
        detector: How boxes are written.
        boxes: The boxes as the run has put them out.
        model: The model.
        at: Which of its inputs, flattened, is the image.
        size: Height and width of the image; None where there is none.
    """
    if size is None or (detector.box_format is None and detector.anchored is None):
        return True
    return not needs_measuring(run, run.id_of(boxes), model, at, size)


def unknown_boxes(model: Any) -> str:
    """Returns what is to be said where boxes are explained of which it isn't known where they lie on the image."""
    return (
        f"Where the boxes lie on the image isn't known: model {model.name!r} moves pixels on their way to the detector "
        "inside it, by cropping, padding or the like. No box is drawn, and numbers of it are left out. "
        "Detection(..., output_format='rel_xyxy'), or another format, says that the model has them for its own input."
    )


def decoded(boxes: Any, detector: Detector, box_format: str | None, size: tuple[int, int], needed: bool) -> Any | None:
    """Returns the boxes that a detector puts out, (N, A, 4) float32 left, top, right, bottom in px; None if not told.

    Args:
        boxes: (N, A, 4) as the model puts them out.
        detector: How they are written.
        box_format: The same where the user says it, of `FORMATS`, or None.
        size: Height and width of the model's input.
        needed: Whether boxes are compared, and not only drawn.

    Raises:
        ValueError: If they are needed, and there are other numbers of anchors and boxes.
    """
    ops = keras.ops
    height, width = size
    boxes = ops.cast(boxes, "float32")
    if detector.anchored is not None:
        return _by_anchors(boxes, detector.anchored(), size, needed)
    box_format = detector.box_format or box_format
    if box_format is None:
        return None
    corners = ops.stack(edges(box_format, *(boxes[..., i] for i in range(4))), axis=-1)
    if not box_format.startswith("rel_"):
        return corners
    return ops.multiply(corners, np.array([width, height] * 2, np.float32))


def _by_anchors(boxes: Any, retinanet: Any, size: tuple[int, int], needed: bool) -> Any | None:
    """Decodes what KerasHub's RetinaNet puts out, as its `decode_predictions` does before boxes are suppressed."""
    generator = retinanet.anchor_generator
    # It reads no more of images than their size.
    anchors = keras.ops.concatenate(list(generator(keras.ops.zeros((1, *size, 3))).values()), axis=0)
    if boxes.shape[1] is not None and anchors.shape[0] != boxes.shape[1]:
        if not needed:
            return None
        raise ValueError(
            "Boxes of a RetinaNet inside a model lie on the model's images only where it sees them at their size. "
            f"Received: {boxes.shape[1]} boxes, and {anchors.shape[0]} anchors for images of {size[0]} x {size[1]}. "
            "Explain the RetinaNet itself, or boxes anywhere, as Detection(1) does."
        )
    corners = keras.utils.bounding_boxes.decode_deltas_to_boxes(
        anchors=anchors,
        boxes_delta=boxes,
        encoded_format="center_xywh",
        anchor_format=generator.bounding_box_format,
        box_format="xyxy",
        image_shape=(*size, 3),
    )
    return keras.ops.cast(corners, "float32")


def best_box(
    logits: Any, ranking: Any, boxes: Any | None, classes: Any, asked: Any | None
) -> tuple[Any, Any, Any | None]:
    """Computes the score of the best box of a class.

    Args:
        logits: (N, A, K) float32 scores of classes, of A boxes.
        ranking: (N, A, K) by what boxes are compared: the same, or probabilities.
        boxes: (N, A, 4) float32 left, top, right, bottom in px; None where that isn't known.
        classes: (N,) int32, -1 for the class of the best box.
        asked: (N, M, 4) float32, the boxes with one of which a box must overlap, of zeros where a sample has fewer;
            None for boxes anywhere.

    Returns:
        (N,) float32 scores; (N,) int32 classes, `ABSENT` where there is no such box; and (N, 4) float32 the best box,
        NaN where there is none; None where boxes aren't known.
    """
    ops = keras.ops
    per_class, among = ranking, None
    if asked is not None and boxes is not None:
        # Where boxes are NaN so are the scores, which is to be seen.
        among = ops.logical_not(ops.max(_overlaps(boxes, asked), axis=-1) <= OVERLAP)
        per_class = ops.where(among[..., None], ranking, -np.inf)
    predicted = ops.cast(ops.argmax(ops.max(per_class, axis=1), axis=-1), "int32")
    classes = ops.where(classes < 0, predicted, classes)
    of_class = classes[:, None] == ops.arange(logits.shape[-1], dtype="int32")
    at = ops.argmax(_chosen(per_class, of_class[:, None], axis=2), axis=1)
    of_box = ops.cast(at, "int32")[:, None] == ops.arange(ops.shape(logits)[1], dtype="int32")
    scores = _chosen(_chosen(logits, of_class[:, None], axis=2), of_box, axis=1)
    # A factor, as it makes the gradients NaN, too.
    scores *= ops.where(ops.isnan(scores), np.nan, 1.0)
    box = None if boxes is None else _chosen(boxes, of_box[..., None], axis=1)
    if among is not None:
        present = ops.any(among, axis=1)
        classes = ops.where(present, classes, ABSENT)
        box = ops.where(present[:, None], box, np.nan)
    return scores, classes, box


def _chosen(values: Any, which: Any, axis: int) -> Any:
    """Returns what is chosen along an axis, one each: the sum has one term; see `scores._chosen`."""
    return keras.ops.sum(keras.ops.where(which, values, keras.ops.zeros_like(values)), axis=axis)


def _overlaps(boxes: Any, others: Any) -> Any:
    """Returns (N, A, M), the intersections over unions of boxes (N, A, 4) and others (N, M, 4)."""
    ops = keras.ops
    boxes, others = boxes[:, :, None], others[:, None]
    low = ops.maximum(boxes[..., :2], others[..., :2])
    high = ops.minimum(boxes[..., 2:], others[..., 2:])
    shared = _area(low, high)
    union = _area(boxes[..., :2], boxes[..., 2:]) + _area(others[..., :2], others[..., 2:]) - shared
    return shared / ops.maximum(union, keras.config.epsilon())


def _area(low: Any, high: Any) -> Any:
    sides = keras.ops.maximum(high - low, 0.0)
    return sides[..., 0] * sides[..., 1]
