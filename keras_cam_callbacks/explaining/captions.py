"""What is said of one sample of an explanation: what it is, what was predicted, and what is explained of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..records import ValidationBatch, class_name

if TYPE_CHECKING:
    from .explanation import Explanation


def prediction(explanation: Explanation, i: int) -> str:
    """Returns the true and the predicted class of one sample in words."""
    parts, label = [], explanation.labels[i]
    if label is not None:
        parts.append(f"true {class_name(explanation.class_names, label)}")
    if explanation.predicted is not None:
        parts.append(f"predicted {_name(explanation, int(explanation.predicted[i]))}")
    return _between(explanation).join(parts)


def title(explanation: Explanation, i: int) -> str:
    """Returns the explained class of one sample and its probability, or its score or value, in words."""
    if explanation.absent[i]:
        if explanation.segments is not None:
            return "no such pixel"
        if explanation.kind == "boxes":
            return "no such box"
        return "no further label" if explanation.against is None else "none, as both classes are the same"
    names, outputs = explanation.class_names, explanation.outputs
    column = None if explanation.targets is None else int(explanation.targets[i])
    if column is not None and column < 0:  # The outputs are not finite.
        return "?"
    if explanation.kind not in ("classes", "labels", "boxes") and outputs is not None:
        name = "value" if column is None else f"output {column}"
        only = explanation.target in ("predicted", "0") or explanation.target.startswith("Value(")
        if column is None and only:  # The only number; else a function's score.
            column = 0
        if column is not None:
            return f"{names[column] if names else name} {float(outputs[i, column]):.3g}"
    score, confidence = float(explanation.scores[i]), float(explanation.confidences[i])
    if explanation.target.startswith("Similarity("):
        return f"similarity {score:.2f}"
    value = f"score {score:.3g}" if np.isnan(confidence) else f"{confidence:.2f}"
    if column is not None and explanation.against is not None:
        return f"{class_name(names, column)} rather than {class_name(names, int(explanation.against[i]))}, {value}"
    if column is not None and explanation.segments is not None:
        return f"{int(explanation.segments[i].sum())} pixels of {class_name(names, column)}, {value}"
    if column is not None and explanation.kind == "boxes":
        return f"box of {class_name(names, column)}{_sides(explanation, i)}, {value}"
    return value if column is None else f"{class_name(names, column)} {value}"


def _sides(explanation: Explanation, i: int) -> str:
    """Returns where an explained box lies, in px of the model's input as `Detection` takes it; "" where none is."""
    box = None if explanation.boxes is None else explanation.boxes[i]
    return "" if box is None or not np.isfinite(box).all() else f" at {tuple(round(float(side)) for side in box)}"


def display_title(batch: ValidationBatch) -> str:
    """Returns what the display of a batch is called where others stand beside it, of several inputs with its name."""
    return f"{_display_name(batch)} {batch.input_name}".rstrip()


def _display_name(batch: ValidationBatch) -> str:
    axes = () if batch.space is None else batch.space.axes
    if batch.display_name != "image" or len(axes) == 2 or not all(np.ndim(shown) in (2, 4) for shown in batch.display):
        return batch.display_name
    return "signal" if len(axes) == 1 else "clip" if axes[:1] == ("time",) else "volume"


def _name(explanation: Explanation, index: int) -> str:
    """Returns the name of a predicted class; "?" where the outputs are not finite, and tell none."""
    return class_name(explanation.class_names, index) if index >= 0 else "?"


def caption(explanation: Explanation, i: int) -> str:
    """Returns what stands under the picture of one sample."""
    known, text, between = prediction(explanation, i), title(explanation, i), _between(explanation)
    if explanation.predicted is None or explanation.targets is None:
        return between.join(filter(None, (known, text)))
    predicted = int(explanation.predicted[i])
    if int(explanation.targets[i]) == predicted:
        return known.removesuffix(_name(explanation, predicted)) + text
    return f"{known}{between}explained {text}"


def _between(explanation: Explanation) -> str:
    """Returns what stands between parts, of which several labels have commas inside."""
    return ", " if explanation.batch.label_sets is None else "; "
