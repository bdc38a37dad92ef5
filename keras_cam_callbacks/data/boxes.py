"""Boxes in any usual format, as shares of what they lie in: a signal, an image, a volume or a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BOX_FORMATS", "WORDS", "Words", "check_edges", "check_format", "check_unit", "corners", "edges"]

BOX_FORMATS = tuple(lead + name for lead in ("", "rel_") for name in ("xyxy", "yxyx", "xywh", "center_xywh"))
"""The formats of boxes, named as Keras names them."""

_ROUNDING = 1e-4  # As shares of a side: what float32 boxes may be over the border.


@dataclass(frozen=True)
class Words:
    """What errors call the parts of a region, by the number of axes.

    Attributes:
        noun: What the model takes, "image".
        plural: The same for several.
        unit: What places are counted in, "px".
        place: One of these, "pixel".
        order: What the numbers of a box are, "(first, last)"; "" for an image's, which people know.
        mask: The shape of a mask, "(H, W)".
        masks: The shape of several masks, "(M, H, W)".
        box: A box as an example.
        edges: Which edges lie behind which, and what may have been meant.
    """

    noun: str
    plural: str
    unit: str
    place: str
    order: str
    mask: str
    masks: str
    box: str
    edges: tuple[str, str]


WORDS = {
    1: Words(
        "signal", "signals", "positions", "position", "(first, last)", "(T,)", "(M, T)", "(10, 90)",
        ("of a signal must have their last position behind the first",
         "Both count from 0, and the last one is exclusive: (0, 10) is ten positions."),
    ),
    2: Words(
        "image", "images", "px", "pixel", "", "(H, W)", "(M, H, W)", "(10, 20, 90, 80)",
        ("must have their right edge to the right of the left one, and the bottom below the top",
         "Regions(boxes, 'xywh') takes widths and heights, 'yxyx' the top first."),
    ),
    3: Words(
        "volume or clip", "volumes or clips", "positions", "position", "(left, top, first, right, bottom, last)",
        "(D, H, W)", "(M, D, H, W)", "(10, 20, 0, 90, 80, 8)",
        ("of a volume or clip must have right behind left, bottom below top, and last behind first",
         "First and last count along the array's first axis, and stand third and sixth."),
    ),
}  # fmt: skip
"""By the number of axes of the model's input."""


def check_format(box_format: str, axes: int) -> None:
    """Raises ValueError for a format of boxes that only images have."""
    if axes != 2 and box_format.removeprefix("rel_") != "xyxy":
        words = WORDS[axes]
        raise ValueError(
            f"Boxes of a {words.noun} must be in 'xyxy', {words.order} in positions, or in 'rel_xyxy', the same as "
            f"shares. Received: {box_format!r}, which is for images."
        )


def check_unit(every: Sequence[npt.NDArray[np.float64]], box_format: str, size: tuple[int, ...]) -> None:
    """Raises ValueError unless boxes are in positions or in shares, as their format says.

    Args:
        every: Boxes (B, 2 x axes) of each item, as they were given.
        box_format: Their format.
        size: Positions along each axis of the model's input.
    """
    words = WORDS[len(size)]
    boxes = np.concatenate([np.zeros((0, 2 * len(size))), *every])
    if not len(boxes):
        return
    highest = float(boxes.max())
    if box_format.startswith("rel_"):
        if highest > 1 + _ROUNDING:
            raise ValueError(
                f"Boxes in {box_format!r} must be shares of the {words.noun}, in [0, 1]. Received: values up to "
                f"{highest:g}. Did you mean {box_format.removeprefix('rel_')!r}, in {words.unit}?"
            )
    elif highest <= 1 and max(size) > 1:
        raise ValueError(
            f"Boxes in {box_format!r} must be in {words.unit} of the model's input {words.noun}, {size}. Received: no "
            f"value above {highest:g}. Did you mean Regions(boxes, 'rel_{box_format}'), in shares of the {words.noun}?"
        )


def corners(boxes: npt.NDArray[np.float64], box_format: str, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Returns where boxes begin along each axis, the last axis first, and then where they end, as shares.

    Args:
        boxes: (B, 2 x axes), as they were given.
        box_format: Their format.
        size: Positions along each axis of the model's input.
    """
    found = np.stack(edges(box_format, *boxes.T), axis=1) if len(size) == 2 else boxes
    return found if box_format.startswith("rel_") else found / (*size[::-1], *size[::-1])


def edges(box_format: str, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any, Any, Any]:
    """Returns left, top, right and bottom of images' boxes, arrays or tensors, from their numbers in a format."""
    kind = box_format.removeprefix("rel_")
    if kind == "yxyx":
        return b, a, d, c
    if kind == "xywh":
        return a, b, a + c, b + d
    if kind == "center_xywh":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a, b, c, d


def check_edges(
    shares: npt.NDArray[np.float64], received: npt.NDArray[np.float64], label: str, size: tuple[int, ...]
) -> None:
    """Raises ValueError for boxes that are empty, or not inside the model's input.

    Args:
        shares: (B, 2 x axes) from `corners`.
        received: (B, 2 x axes), as they were given, for messages.
        label: What they are called there.
        size: Positions along each axis of the model's input.
    """
    axes = len(size)
    words = WORDS[axes]
    must, works = words.edges
    one = f"{'an' if axes == 2 else 'a'} {words.noun}"
    extent = f", {size[0]} high and {size[1]} wide" if axes == 2 else f" of {' x '.join(map(str, size))} positions"
    for box, share in zip(received.tolist(), shares, strict=True):
        if (share[axes:] <= share[:axes]).any():
            raise ValueError(f"Boxes {must}. Received: {box} in `{label}`. {works}")
        if share[:axes].min() < -_ROUNDING or share[axes:].max() > 1 + _ROUNDING:
            raise ValueError(
                f"Boxes must lie inside the model's input {words.noun}{extent}. Received: {box} in "
                f"`{label}`. Boxes of {one} that was resized must be resized with it."
            )
