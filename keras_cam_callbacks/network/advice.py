"""Which target would do for a model: checks of what was asked for, and the code that works for that very model."""

from __future__ import annotations

from collections.abc import Sequence

from ..checks import did_you_mean
from .objectives import Contrast, Present, Segment, Similarity
from .outputs import Output
from .targets import Target

__all__ = ["check_objective", "find_output", "working_target"]

Shape = Sequence[int | None]


def working_target(outputs: Sequence[Output], names: Sequence[Sequence[str]], shapes: Sequence[Shape]) -> str:
    """Returns the code of a target that works for a model of these outputs; "" where only a function does.

    Args:
        outputs: What each output is.
        names: The names of each.
        shapes: The shape of each, the samples first.
    """
    several = len(outputs) > 1
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
        if output.kind == "mask" and len(shape) == 4:
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


def check_objective(target: Target, output: Output, shape: Shape, works: str) -> None:
    """Checks that an output has what a target explains.

    Args:
        target: The target.
        output: What its output is.
        shape: The output's shape, the samples first.
        works: The code of a target that does for this model, or "".

    Raises:
        ValueError: If it hasn't.
    """
    objective = target.objective
    also = f" {works} works." if works else ""
    received = f"Received: target={target.text} for an output of shape {tuple(shape)} that is taken for "
    received += f"{_WORDS[output.kind]}{', ' * bool(output.why)}{output.why}."
    if isinstance(objective, Segment):
        if output.kind != "mask" or len(shape) != 4:
            raise ValueError(f"Segment explains pixels of a mask (samples, height, width, classes). {received}{also}")
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
    sizes = shape[1:3]
    if None in sizes:
        return
    if segment.place == "mask" and segment.where.shape[1:] != tuple(sizes):
        raise ValueError(
            f"Segment's `where` must be of the output's size, {sizes[0]} x {sizes[1]} pixels. "
            f"Received: a mask of {segment.where.shape[1]} x {segment.where.shape[2]}."
        )
    if isinstance(segment.place, tuple):
        point = zip(segment.place, sizes, strict=True)
        if any(at >= size for at, size in point if size is not None):
            raise ValueError(
                f"Segment's `where` must be a point (row, column) of the output's {sizes[0]} x {sizes[1]} pixels, "
                f"counted from 0. Received: {segment.place}."
            )
