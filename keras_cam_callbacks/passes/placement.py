"""Where a layer's map lies on the image: the image's way to the first convolutions, followed or measured."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import keras
import numpy as np

from .. import engine
from ..data.layout import as_images, in_layout
from ..engine.contract import Run
from ..network.layers import Tap, walk

Box = tuple[tuple[float, float], ...]
"""For each axis of a map where it begins and ends, as shares of the image; beyond [0, 1] where it is larger."""

# A border of so many px is what "valid" convolutions behind it take off again.
_OWN_BORDER = 3
_LEAST_CUT = 1.5  # px that make a difference
# Of so many px that are not where a straight line has them, the way is no crop, border or change of size.
_STRAY = 1.0
_STRAIGHT = 0.5
"""Least share of the pixels that arrive on a straight line; a mirrored border takes the others twice."""
_MOST_FRONTS = 8
# At which axis height and width begin: layers may take another layout than the model.
_PLANES = (1, 2)

_MOVING = ("Cropping2D", "CenterCrop", "RandomCrop")


def whole(axes: int) -> Box:
    """Returns the box of the whole image."""
    return ((0.0, 1.0),) * axes


def moving_layer(model: Any) -> bool:
    """Tells whether a model has a layer that cuts images, or resizes them with another aspect's crop or border."""
    return any(
        type(layer).__name__ in _MOVING
        or getattr(layer, "crop_to_aspect_ratio", False)
        or getattr(layer, "pad_to_aspect_ratio", False)
        for _, layer in walk(model)
    )


def needs_measuring(run: Run, tensor: Hashable, model: Any, at: int, size: tuple[int, ...]) -> bool:
    """Tells whether the place of a layer's map is not known from the kinds of ways that the image goes to it.

    Args:
        run: The run of the model.
        tensor: Id of what the layer puts out.
        model: The model.
        at: Which of its inputs, flattened, is the image.
        size: H and W of the images.
    """
    fronts = run.fronts(tensor, at)
    if fronts is None:
        return moving_layer(model)
    return any(how == "moved" or (how == "padded" and not _own(tensor, size)) for tensor, how in fronts)


def unknown_place(model: Any, tap: Tap) -> str:
    """Returns what is to be said of a layer whose map's place on the image isn't known."""
    return (
        f"Where the map of layer {tap.path!r} lies on the image isn't known: model {model.name!r} moves pixels, "
        "otherwise than by cropping, padding or resizing before its first convolution. The map is drawn over the whole "
        "image, and numbers of regions and of faithfulness are NaN."
    )


def _own(tensor: Any, size: tuple[int, ...]) -> bool:
    return len(tensor.shape) == 4 and any(_bordered(tensor.shape[at : at + 2], size) for at in _PLANES)


def _bordered(sizes: Any, size: tuple[int, ...]) -> bool:
    return all(
        side is not None and 0 <= side - whole <= 2 * _OWN_BORDER for side, whole in zip(sizes, size, strict=True)
    )


def measured_box(model: Any, inputs: Any, at: int, layout: str, tap: Tap) -> Box | None:
    """Measures which part of the image a layer sees.

    What goes into the first convolutions is summed, and summed times each value's place along an axis. The gradients
    of these sums at a pixel tell at which row and column it arrives; on a straight line for crops, borders and changes
    of size, wherever they are made.

    Args:
        model: The model.
        inputs: One sample of its inputs.
        at: Which of them, flattened, is the image.
        layout: Its layout, as the model takes it.
        tap: The layer.

    Returns:
        The box, ((0, 1), (0, 1)) for a layer that sees the whole image; None where that can't be told: pixels are
        turned, bent or not differentiated, or several ways differ.
    """
    loaded = engine.load()
    leaves = keras.tree.flatten(inputs)
    images = as_images(leaves[at][:1], layout)
    grey = leaves[at].ndim == 3
    fronts: list[tuple[int, ...]] = []

    def traced(values: Any, rest: tuple[Any, ...]) -> dict[str, Any]:
        results = {}
        for axis in range(4):
            for k in range(_MOST_FRONTS):

                def weighted(image: Any, axis: int = axis, k: int = k) -> Any:
                    return _weighted_sum(front(image)[k], axis)

                def front(image: Any) -> list[Any]:
                    fed = list(rest)
                    image = in_layout(image, layout)
                    image = image[..., 0] if grey else image
                    if leaves[at].dtype.kind == "f":
                        image = keras.ops.cast(image, leaves[at].dtype.name)
                    fed.insert(at, image)
                    run = loaded.tapped_run(model, keras.tree.pack_sequence_as(inputs, fed))
                    call = next(call for call in run.calls if call.makes(tap.layer, tap.number))
                    entries = run.fronts(call.output_ids[0], at) or []
                    fronts[:] = [tuple(tensor.shape) for tensor, _ in entries]
                    return [tensor for tensor, _ in entries]

                with loaded.left_as_found(model):
                    _, gradient, _ = loaded.gradient(weighted, values, model)
                if gradient is None:
                    return {}
                results[f"{axis} {k}"] = gradient
                if k + 1 >= len(fronts):
                    break
        return results

    rest = tuple(leaf[:1] for i, leaf in enumerate(leaves) if i != at)
    failing: tuple[type[Exception], ...] = (*loaded.FAILURES, ValueError, TypeError, LookupError)
    try:
        run = loaded.compile_pass(traced, model, (images, rest), 1, traced=True)
        results = run(images, rest)
    except failing:  # What has no gradient can't be measured.
        return None
    if not results or len(fronts) > _MOST_FRONTS:
        return None
    boxes = []
    for k, shape in enumerate(fronts):
        if len(shape) != 4:
            return None
        total, *weighted = (results[f"{axis} {k}"][0] for axis in range(4))
        found = (_box(total, weighted[at - 1 : at + 1], shape[at : at + 2]) for at in _PLANES)
        boxes.append(next((box for box in found if box is not None), None))
    first = boxes[0]
    if first is None or any(box is None or np.abs(np.subtract(box, first)).max() > 0.02 for box in boxes):
        return None
    return _settled(first, tap, images.shape[1:3])


def _weighted_sum(tensor: Any, axis: int) -> Any:
    """Returns (N,): a tensor's sum, or for an axis that times each value's place along it, as a share of the whole."""
    ops = keras.ops
    tensor = ops.cast(tensor, "float32")
    if axis and len(tensor.shape) == 4:
        side = tensor.shape[axis]
        places = (ops.arange(side, dtype="float32") + 0.5) / side
        tensor = tensor * ops.reshape(places, [-1 if i == axis else 1 for i in range(4)])
    return ops.sum(ops.reshape(tensor, (ops.shape(tensor)[0], -1)), axis=1)


def _box(total: Any, weighted: Sequence[Any], sides: Sequence[int]) -> Box | None:
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
        # At the edges resizing takes pixels twice, and a mirrored border more of them.
        inner = (places > low + 1) & (places < high - 1)
        central = np.abs(places - (low + high) / 2) <= (high - low) / 4
        inner = central if np.unique(places[central]).size > 3 else inner
        inner = inner if np.unique(places[inner]).size > 3 else np.full(len(places), True)
        if np.unique(places[inner]).size < 2:
            return None
        slope, start = np.polyfit(places[inner], arrived[inner], 1)
        stray = np.abs(arrived - slope * places - start) * side
        straight = stray <= max(_STRAY, slope * side)
        # From one end to the other pixels must arrive a px apart at least; a turned image moves along the other axis.
        if slope * (high - low) * side < 1 or not straight[inner].all() or straight.mean() < _STRAIGHT:
            return None
        whole = total.shape[axis]
        box.append((float(-start / slope / whole), float((1 - start) / slope / whole)))
    return tuple(box)


def _settled(box: Box, tap: Tap, size: Sequence[int]) -> Box:
    """Returns the whole image for a box that differs from it by a px, or by a border such as convolutions have."""
    covers = True
    for (low, high), cells, side in zip(box, tap.space.sizes, size, strict=True):
        cell = (high - low) / (cells or side)
        least, border = _LEAST_CUT / side, max(cell, _OWN_BORDER / side) * 1.01
        covers = covers and -border <= low <= least and 1 - least <= high <= 1 + border
    return whole(2) if covers else box
