"""Which target would do for a model: checks of what was asked for, and the code that works for that very model."""

from __future__ import annotations

from collections.abc import Sequence

from ..checks import did_you_mean
from .detection import Detection, Detector
from .objectives import Contrast, Present, Segment, Similarity
from .outputs import Output
from .targets import Target

__all__ = ["check_detection", "check_objective", "find_output", "no_detector", "working_target"]

Shape = Sequence[int | None]


def working_target(
    outputs: Sequence[Output],
    names: Sequence[Sequence[str]],
    shapes: Sequence[Shape],
    detector: Detector | None = None,
    axes: int = 2,
) -> str:
    """Returns the code of a target that works for a model of these outputs; "" where only a function does.

    Args:
        outputs: What each output is.
        names: The names of each.
        shapes: The shape of each, the samples first.
        detector: Where boxes are among them, if that is known.
        axes: How many axes the image has.
    """
    several = len(outputs) > 1
    if detector is not None:
        return f"target=Detection({0 if shapes[detector.logits][-1] == 1 else 1})"
    if any(output.kind == "boxes" for output in outputs):  # Beside boxes, what has the shape of a mask is none.
        return ""
    # What an output is certainly makes a better example than what it may be.
    for output, of_output, shape in sorted(
        zip(outputs, names, shapes, strict=True), key=lambda row: bool(row[0].guess)
    ):
        if several and not of_output:
            continue
        named = f", output={of_output[0]!r}" if several else ""
        if output.tells_classes and len(shape) <= 2:
            return f"target={{{of_output[0]!r}: 'predicted'}}" if several else "target='predicted'"
        if output.kind == "embedding" and len(shape) == 2:
            return f"target=Similarity(reference{named})"
        if output.kind == "numbers" and len(shape) <= 2:
            return f"target=Value(0{named})"
        if output.kind == "mask" and len(shape) == axes + 2:
            return f"target=Segment(1{named})"
    return ""


def find_output(target: Target, names: Sequence[Sequence[str]]) -> int | None:
    """Returns which of a model's outputs a target explains; None where it says none of several.

    Args:
        target: The target. In a dict of several, a class stands for that of the output of its name.
        names: The names that each output goes by.

    Raises:
        ValueError: If the model has no such output.
    """
    if target.output is not None:
        at = next((i for i, of_output in enumerate(names) if target.output in of_output), None)
        if at is None and (len(names) > 1 or any(names)):
            every = list(dict.fromkeys(of_output[0] for of_output in names if of_output))
            raise ValueError(
                f"A target must name one of the model's outputs, {', '.join(map(repr, every))}. "
                f"Received: {target.output!r} in {target.text}.{did_you_mean(target.output, every)}"
            )
        if at is None:
            raise ValueError(
                "A target can name an output only of a model whose outputs have names. "
                f"Received: {target.output!r} in {target.text}. Leave it out."
            )
        return at
    if len(names) == 1:
        return 0
    return next((i for i, of_output in enumerate(names) if target.name and target.name in of_output), None)


def no_detector(target: Target, described: str, works: str, example: str) -> ValueError:
    """Returns the error of a `Detection` where it isn't known that the model is a detector.

    Args:
        target: The target.
        described: The shapes of the model's outputs, in words.
        works: The code of a target that does for this model, or "".
        example: The code of a function of the outputs that does.
    """
    return ValueError(
        "Detection explains a model that puts out boxes (samples, boxes, 4) and their scores (samples, boxes, classes) "
        "side by side, and says by their names, such as 'boxes' and 'logits', or by output_kind={'name': 'boxes'}, "
        f"which they are. Received: target={target.text} for outputs of shape {described}. "
        f"{works or f'target={example}'} works."
    )


def check_detection(target: Target, objective: Detection, detector: Detector, classes: int | None) -> None:
    """Checks that a model finds boxes of a class.

    Args:
        target: The target.
        objective: What it explains.
        detector: Where boxes are among the model's outputs.
        classes: How many classes their scores tell apart; None where that is open.

    Raises:
        ValueError: If it doesn't, or how boxes are written isn't known.
    """
    highest = -1 if target.indices is None else int(target.indices.max())
    if classes is not None and highest >= classes:
        raise ValueError(
            f"Detection's `label` must lie between 0 and {classes - 1}, for the model tells {classes} classes apart. "
            f"Received: {highest}. Detection({classes - 1}) works."
        )
    if highest < 0 and detector.is_softmax:
        raise ValueError(
            "Which class is to be explained? In a softmax over each box's classes one may stand for no object, which "
            f"is the most probable one of most boxes. Received: target={target.text}. target=Detection(1) works."
        )
    decodes = detector.box_format is not None or detector.anchored is not None
    if decodes and objective.output_format is not None:
        raise ValueError(
            "Detection's `output_format` is for models that don't say how they write boxes. "
            f"Received: {objective.output_format!r} for a detector of KerasHub, which does. Leave it out."
        )
    if objective.box is not None and not decodes and objective.output_format is None:
        raise ValueError(
            "Detection can compare boxes only where it is known how the model writes its own. "
            f"Received: target={target.text} for a model that {_unlike(detector)}. "
            "Detection(..., output_format='xyxy') says it, or another format, such as 'rel_center_xywh'; without `box` "
            "none is needed."
        )


def _unlike(detector: Detector) -> str:
    """Returns why it isn't known where a detector's boxes lie."""
    return "moves pixels before its detector" if detector.moved else "is no detector of KerasHub"


def check_objective(target: Target, output: Output, shape: Shape, works: str, axes: int = 2) -> None:
    """Checks that an output has what a target explains.

    Args:
        target: The target.
        output: What its output is.
        shape: The output's shape, the samples first.
        works: The code of a target that does for this model, or "".
        axes: How many axes the image has.

    Raises:
        ValueError: If it hasn't.
    """
    objective = target.objective
    also = f" {works} works." if works else ""
    received = f"Received: target={target.text} for an output of shape {tuple(shape)} that is taken for "
    received += f"{_WORDS[output.kind]}{', ' * bool(output.why)}{output.why}."
    if isinstance(objective, Segment):
        if output.kind != "mask" or len(shape) != axes + 2:
            raise ValueError(
                "Segment explains pixels of a mask (samples, height, width, classes), or of one with the axes of a "
                f"signal, a volume or a clip. {received}{also}"
            )
        classes = None if shape[-1] is None else max(2, shape[-1])
        if classes is not None and isinstance(objective.label, int) and objective.label >= classes:
            raise ValueError(
                f"Segment's `label` must lie between 0 and {classes - 1}, for the mask tells {classes} classes apart. "
                f"Received: {objective.label}. Segment({classes - 1}) works."
            )
        _check_size(objective, shape)
    elif isinstance(objective, Contrast) and not output.tells_classes:
        raise ValueError(f"Contrast is of scores of classes. {received}{also}")
    elif isinstance(objective, Present):
        if output.kind != "labels":
            raise ValueError(
                "Present explains labels of which a sample can have several. "
                f"{received}{also} output_kind='labels' takes it for labels."
            )
        if shape[-1] is not None and target.rank > shape[-1]:
            raise ValueError(
                f"Present can't explain more labels than there are. Received: n={objective.n} for a model of "
                f"{shape[-1]} labels. Present(n={min(9, shape[-1])}) works."
            )
    elif isinstance(objective, Similarity):
        if len(shape) != 2:
            raise ValueError(f"Similarity is of an embedding (samples, numbers). {received}{also}")
        if not objective.of_images and shape[-1] not in (None, objective.reference.shape[-1]):
            raise ValueError(
                f"Similarity's `reference` must have the {shape[-1]} numbers of the model's embedding. "
                f"Received: {objective.reference.shape[-1]}. model.predict(images) of the reference's images works."
            )


_WORDS = {
    "classes": "scores of classes",
    "labels": "scores of labels",
    "numbers": "numbers",
    "embedding": "an embedding",
    "mask": "a mask",
    "boxes": "boxes",
}


def _check_size(segment: Segment, shape: Shape) -> None:
    """Checks that given pixels are those of a mask of this shape."""
    sizes, axes = shape[1:-1], len(shape) - 2
    if isinstance(segment.place, tuple) and len(segment.place) != axes:
        raise ValueError(
            f"A point as Segment's `where` must have a number for each of the output's {axes} axes. "
            f"Received: {segment.place}."
        )
    if None in sizes:
        return
    text = " x ".join(map(str, sizes))
    if segment.place == "mask" and (size := segment.masks(axes).shape[1:]) != tuple(sizes):
        raise ValueError(
            f"Segment's `where` must be of the output's size, {text} {'pixels' if axes == 2 else 'positions'}. "
            f"Received: a mask of {' x '.join(map(str, size))}."
        )
    if isinstance(segment.place, tuple):
        point = zip(segment.place, sizes, strict=True)
        if any(at >= size for at, size in point if size is not None):
            raise ValueError(
                f"Segment's `where` must be a point {'(row, column) ' * (axes == 2)}of the output's {text} pixels, "
                f"counted from 0. Received: {segment.place}."
            )
