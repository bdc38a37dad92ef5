"""Where a layer's map lies on the image: the image's way to the first convolutions, followed or measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from .. import engine
from ..data.layout import in_layout
from ..network.layers import Tap, walk

Box = tuple[tuple[float, float], ...]
"""For each axis of a map where it begins and ends, as shares of the image; beyond [0, 1] where it is larger."""

WHOLE: Box = ((0.0, 1.0), (0.0, 1.0))
# A border of so many px is what "valid" convolutions behind it take off again.
_OWN_BORDER = 3
_LEAST_CUT = 1.5  # px that make a difference
# Of so many px that are not where a straight line has them, the way is no crop, border or change of size.
_STRAY = 1.0
_MOST_FRONTS = 8

_MOVING = ("Cropping2D", "CenterCrop", "RandomCrop")


def moving_layer(model: Any) -> bool:
    """Tells whether a model has a layer that cuts images, or resizes them with another aspect's crop or border."""
    return any(
        type(layer).__name__ in _MOVING
        or getattr(layer, "crop_to_aspect_ratio", False)
        or getattr(layer, "pad_to_aspect_ratio", False)
        for _, layer in walk(model)
    )


def needs_measuring(fronts: Iterable[tuple[Any, str]], size: tuple[int, int], layout: str) -> bool:
    """Tells whether the place of a map is not known from the kinds of ways that the image goes.

    Args:
        fronts: What goes into the first convolutions, and how; see `engine.contract.Run.fronts`.
        size: H and W of the images.
        layout: Their layout.
    """
    return any(how == "moved" or (how == "padded" and not _own(tensor, size, layout)) for tensor, how in fronts)


def _own(tensor: Any, size: tuple[int, int], layout: str) -> bool:
    if len(tensor.shape) != 4:
        return False
    sizes = tensor.shape[2:4] if layout == "channels_first" else tensor.shape[1:3]
    return all(side is not None and side - whole <= 2 * _OWN_BORDER for side, whole in zip(sizes, size, strict=True))


def measured_box(
    model: Any, leaves: list[Any], structure: Any, at: int, images: npt.NDArray[Any], layout: str, tap: Tap
) -> Box | None:
    """Measures which part of the image a layer sees.

    What goes into the first convolutions is summed, and summed times each position's row and column. The gradients of
    these three at a pixel tell at which row and column it arrives; on a straight line for crops, borders and changes of
    size, wherever they are made.

    Args:
        model: The model.
        leaves: One sample of its inputs, flattened.
        structure: The same sample in its structure.
        at: Which of them is the image.
        images: (1, H, W, C) float32, the image.
        layout: Its layout, as the model takes it.
        tap: The layer.

    Returns:
        The box, ((0, 1), (0, 1)) for a layer that sees the whole image; None where that can't be told: pixels are
        turned, bent or not differentiated, or several ways differ.
    """
    loaded = engine.load()
    grey = leaves[at].ndim == 3
    fronts: list[tuple[int, ...]] = []

    def traced(values: Any, rest: tuple[Any, ...]) -> dict[str, Any]:
        results = {}
        for name in ("all", "rows", "columns"):
            for k in range(_MOST_FRONTS):

                def weighted(image: Any, name: str = name, k: int = k) -> Any:
                    return _weighted_sum(front(image)[k], name, layout)

                def front(image: Any) -> list[Any]:
                    inputs = list(rest)
                    image = in_layout(image, layout)
                    image = image[..., 0] if grey else image
                    if leaves[at].dtype.kind == "f":
                        image = keras.ops.cast(image, leaves[at].dtype.name)
                    inputs.insert(at, image)
                    run = loaded.tapped_run(model, keras.tree.pack_sequence_as(structure, inputs))
                    call = next(call for call in run.calls if call.layer is tap.layer)
                    entries = run.fronts(call.output_ids[0], at) or []
                    fronts[:] = [tuple(tensor.shape) for tensor, _ in entries]
                    return [tensor for tensor, _ in entries]

                with loaded.left_as_found(model):
                    _, gradient, _ = loaded.gradient(weighted, values, model)
                if gradient is None:
                    return {}
                results[f"{name} {k}"] = gradient
                if k + 1 >= len(fronts):
                    break
        return results

    rest = tuple(leaf[:1] for i, leaf in enumerate(leaves) if i != at)
    failing: tuple[type[Exception], ...] = (*loaded.FAILURES, ValueError, TypeError, LookupError)
    try:
        run = loaded.compile_pass(traced, model, (images[:1], rest), 1, traced=True)
        results = run(images[:1], rest)
    except failing:  # What has no gradient can't be measured.
        return None
    if not results or len(fronts) > _MOST_FRONTS:
        return None
    boxes = []
    for k, shape in enumerate(fronts):
        if len(shape) != 4:
            return None
        sides = shape[2:4] if layout == "channels_first" else shape[1:3]
        total, rows, columns = (results[f"{name} {k}"][0] for name in ("all", "rows", "columns"))
        boxes.append(_box(total, (rows, columns), sides))
    first = boxes[0]
    if first is None or any(box is None or np.abs(np.subtract(box, first)).max() > 0.02 for box in boxes):
        return None
    return first


def _weighted_sum(tensor: Any, name: str, layout: str) -> Any:
    """Returns (N,): a tensor's sum, or its sum times the row or the column of each value, as shares of the whole."""
    ops = keras.ops
    tensor = ops.cast(tensor, "float32")
    if len(tensor.shape) == 4 and layout == "channels_first":
        tensor = ops.moveaxis(tensor, 1, -1)
    if name != "all" and len(tensor.shape) == 4:
        axis = 1 if name == "rows" else 2
        side = tensor.shape[axis]
        places = (ops.arange(side, dtype="float32") + 0.5) / side
        tensor = tensor * ops.reshape(places, [-1 if i == axis else 1 for i in range(4)])
    return ops.sum(ops.reshape(tensor, (ops.shape(tensor)[0], -1)), axis=1)


def _box(total: Any, weighted: tuple[Any, Any], sides: tuple[int, int]) -> Box | None:
    """Returns the box of a tensor of these sides on the image, from three gradients (H, W, C)."""
    strength = np.abs(total)
    seen = strength > 1e-3 * strength.max()
    if not np.isfinite(strength).all() or not seen.any():
        return None
    box = []
    for axis, (of_places, side) in enumerate(zip(weighted, sides, strict=True)):
        arrived = (of_places[seen] / total[seen]).astype(np.float64)
        places = np.nonzero(seen)[axis] + 0.5
        low, high = places.min(), places.max()
        inner = (places > low + 1) & (places < high - 1)  # At the edges resizing takes pixels twice.
        inner = inner if np.unique(places[inner]).size > 3 else np.full(len(places), True)
        if np.unique(places[inner]).size < 2:
            return None
        slope, start = np.polyfit(places[inner], arrived[inner], 1)
        stray = np.abs(arrived[inner] - slope * places[inner] - start).max() * side
        if slope <= 0 or stray > max(_STRAY, slope * side):
            return None
        whole = total.shape[axis]
        box.append((float(-start / slope / whole), float((1 - start) / slope / whole)))
    return tuple(box)


def settled(box: Box | None, tap: Tap, size: tuple[int, int]) -> Box | None:
    """Returns the whole image for a box that differs from it by a px, or by a border such as convolutions have."""
    if box is None:
        return None
    whole = True
    for (low, high), cells, side in zip(box, tap.space.sizes, size, strict=True):
        cell = (high - low) / (cells or side)
        least, border = _LEAST_CUT / side, max(cell, _OWN_BORDER / side) * 1.01
        whole = whole and -border <= low <= least and 1 - least <= high <= 1 + border
    return WHOLE if whole else box
