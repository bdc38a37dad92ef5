"""What can be explained of an object detector, and where the boxes are among a model's outputs."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import did_you_mean, is_whole
from .layers import walk

__all__ = ["FORMATS", "MOST_TRUE", "OVERLAP", "Detection", "Detector", "find_detector"]

OVERLAP = 0.5
"""Boxes count that overlap the box that is asked for by an intersection over union of more than this."""

MOST_TRUE = 16
"""How many true boxes of a sample can be asked for."""

FORMATS = tuple(prefix + kind for prefix in ("", "rel_") for kind in ("xyxy", "yxyx", "xywh", "center_xywh"))
"""How boxes can be written, in px of the model's input, or as shares of its sides."""

# The names by which KerasHub's detectors put out scores and boxes.
_NAMES = (("cls_logits", "bbox_regression"), ("logits", "pred_boxes"))


@dataclass(frozen=True, eq=False)
class Detection:
    """Why an object detector finds an object: a class of the model's best box, anywhere or near a box.

    The score is max z_bc over the boxes b with IoU(b, box) > 0.5, of scores z before the final sigmoid or softmax,
    where c is the class, and IoU the area of the intersection over that of the union. Without `box` it is the
    maximum over all boxes that the model puts out, before any of them are suppressed. Only the score of the best box
    is differentiated: where it lies has no part in it. A sample without such a box is NaN. There is no confidence.

    Without a layer that is named, all levels of the feature pyramid are explained and fused, each divided by its
    maximum; levels that have no heat in a sample, as no gradient reaches them from its box, are left out of the mean.
    `Explanation.boxes` has the best box, which is outlined in pictures; "energy_in_box" in `Explanation.values` is the
    share of the heat in it.

    Attributes:
        label: The class, by its index, or by its name among `class_names`; "predicted", or None, for the class of the
            best box.
        box: (left, top, right, bottom) in px of the model's input; one (N, 4) for each sample, or several (N, M, 4);
            "true" for those that `regions` name, of the class where they are named by class; None for boxes anywhere.
        output_format: How the model's boxes are written, where it is none of KerasHub's detectors: "xyxy", "yxyx",
            "xywh" or "center_xywh" in px of the model's input, or "rel_xyxy" and so on in shares of its sides. None
            where they are not needed; without it they are not drawn.

    Raises:
        ValueError: If a setting is impossible.
        TypeError: If `label` is neither an index nor text.

    Reference:
        Selvaraju et al., Grad-CAM, arXiv 1610.02391, of the score of a box. Boxes are matched by their overlap as in
        Petsiuk et al., Black-box Explanation of Object Detectors via Saliency Maps (D-RISE), arXiv 2006.03204.

    Example:
        >>> explain(detector, images, target=Detection(1, box=(40, 60, 120, 200)))
    """

    label: int | str | None = "predicted"
    box: Any = None
    output_format: str | None = None

    def __repr__(self) -> str:
        return self.text

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", _label(self.label))
        object.__setattr__(self, "box", _boxes(self.box))
        if self.output_format is not None and self.output_format not in FORMATS:
            raise ValueError(
                f"Detection's `output_format` must be {', '.join(map(repr, FORMATS))}, or None. "
                f"Received: {self.output_format!r}.{did_you_mean(str(self.output_format), FORMATS)}"
            )

    @property
    def text(self) -> str:
        """The target as it stands in records, the same in another process."""
        parts = [str(self.label)]
        if isinstance(self.box, str):
            parts.append(f"box={self.box}")
        elif self.box is not None:
            one = self.box.shape[:2] == (1, 1)
            shown = str(tuple(float(f"{side:g}") for side in self.box[0, 0])) if one else f"boxes {_digest(self.box)}"
            parts.append(f"box={shown}")
        if self.output_format is not None:
            parts.append(f"output_format={self.output_format}")
        return f"Detection({', '.join(parts)})"

    @property
    def place(self) -> str:
        """What a trace depends on beside the class and the boxes."""
        return f"{'anywhere' if self.box is None else 'near boxes'} {self.output_format}"

    @property
    def asked(self) -> npt.NDArray[np.float32]:
        """(1 or N, M + 1, 4) float32 px, the boxes that are named, or room for true ones; then room for the best."""
        count = 0 if self.box is None else MOST_TRUE
        named = self.box if isinstance(self.box, np.ndarray) else np.zeros((1, count, 4), np.float32)
        return np.concatenate([named, np.zeros((len(named), 1, 4), np.float32)], axis=1)


def _label(label: Any) -> int | str:
    if label is None:
        return "predicted"
    if isinstance(label, str) and label:
        return label
    if not is_whole(label, 0):
        kind = ValueError if is_whole(label) or isinstance(label, str) else TypeError
        raise kind(
            "Detection's `label` must be an index from 0, the name of a class, or 'predicted'. "
            f"Received: {label!r}. 0 works."
        )
    return int(label)


def _boxes(box: Any) -> Any:
    """Returns boxes (1 or N, M, 4) float32, "true" or None, after a check."""
    options = "(left, top, right, bottom) in px of the model's input, one (N, 4) for each sample, 'true', or None"
    if box is None or (isinstance(box, str) and box == "true"):
        return box
    if isinstance(box, str):
        raise ValueError(f"Detection's `box` must be {options}. Received: {box!r}.{did_you_mean(box, ('true',))}")
    array: npt.NDArray[Any] = np.asarray(box)
    if array.dtype.kind not in "iuf" or not 1 <= array.ndim <= 3 or array.shape[-1] != 4 or not array.size:
        raise ValueError(
            f"Detection's `box` must be {options}. Received: shape {array.shape} of type {array.dtype}. "
            "box=(40, 60, 120, 200) works."
        )
    array = array.astype(np.float32).reshape(-1, *((1, 4) if array.ndim < 3 else array.shape[1:]))
    if not np.isfinite(array).all() or (array[..., 2:] <= array[..., :2]).any():
        raise ValueError(
            "Boxes must have their right edge to the right of the left one, and the bottom below the top. "
            f"Received: {np.asarray(box).tolist()} as Detection's `box`. box=(40, 60, 120, 200) works."
        )
    return array


def _digest(array: npt.NDArray[Any]) -> str:
    """Returns 8 hexadecimal digits that tell an array from others."""
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()[:8]


@dataclass(frozen=True, eq=False)
class Detector:
    """Where an object detector's boxes are among the flattened outputs of a model.

    Attributes:
        logits: Which output has the scores of boxes, (N, boxes, classes).
        boxes: Which has the boxes, (N, boxes, 4).
        box_format: How these are written, of `FORMATS`; None where that isn't told.
        is_softmax: Whether the scores of each box end in a softmax.
        moved: Whether the model moves pixels on their way to the detector inside it, so that its boxes lie elsewhere
            on the model's own image.
        anchored: A weak reference to the layer by whose anchors they are written, as KerasHub's RetinaNet has them.
    """

    logits: int
    boxes: int
    box_format: str | None = None
    anchored: weakref.ref[Any] | None = None
    is_softmax: bool = False
    moved: bool = False


def find_detector(
    model: Any,
    names: Sequence[Sequence[str]],
    shapes: Sequence[Sequence[int | None]],
    said: Sequence[tuple[str | None, str]],
) -> Detector | None:
    """Returns where the boxes are among a model's outputs, as far as names, or the user's word, tell it.

    Args:
        model: The model.
        names: The names that each output goes by.
        shapes: The shape of each, the samples first.
        said: What the user says that outputs are; see `outputs.said_kinds`.

    Returns:
        None for a model that is no detector of many boxes, or of which that isn't told.
    """
    of_boxes = {name for name, kind in said if kind == "boxes"}
    rows = [i for i, shape in enumerate(shapes) if len(shape) == 3]
    for logits_name, boxes_name in _NAMES:
        pair = [next((i for i in rows if name in names[i]), None) for name in (logits_name, boxes_name)]
        if pair[0] is not None and pair[1] is not None:
            return _of_hub(model, pair[0], pair[1], boxes_name)
    boxes = [i for i in rows if shapes[i][2] == 4 and (None in of_boxes or of_boxes.intersection(names[i]))]
    boxes = boxes if len(boxes) == 1 else [i for i in rows if shapes[i][2] == 4 and _says_box(names[i])]
    if len(boxes) != 1:
        return None
    others = [i for i in rows if i not in boxes and shapes[i][1] == shapes[boxes[0]][1]]
    return Detector(others[0], boxes[0]) if len(others) == 1 else None


def _says_box(names: Sequence[str]) -> bool:
    return any("box" in name.lower() for name in names)


def _of_hub(model: Any, logits: int, boxes: int, name: str) -> Detector:
    """Returns how boxes of this name are written, where the model is one of KerasHub's detectors, or has one inside."""
    if name == "pred_boxes" and any(_is_a(layer, "DFineObjectDetector") for layer in _layers(model)):
        return Detector(logits, boxes, "rel_center_xywh")
    if name == "bbox_regression":
        retinanet = next((layer for layer in _layers(model) if _is_a(layer, "RetinaNetObjectDetector")), None)
        return Detector(logits, boxes, None, None if retinanet is None else weakref.ref(retinanet))
    return Detector(logits, boxes)


def _layers(model: Any) -> Iterator[Any]:
    yield model
    yield from (layer for _, layer in walk(model))


def _is_a(layer: Any, name: str) -> bool:
    """Tells whether a layer is of a class of this name, or of one derived from it; KerasHub is not imported for it."""
    return any(kind.__name__ == name for kind in type(layer).__mro__)
