"""What the axes of a model's input are: an image's, a signal's, a volume's or a clip's.

The shape tells how many axes there are. Where that leaves two readings, the model's own layers decide: rows of numbers
that go into layers for signals are no grey image, and a volume that layers step through in time is a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..network.layers import input_tensors, walk
from ..records import Image, Space, ValueRange
from .layout import channels_last, model_layout, recognized_layout, stated_layout
from .ranges import display_images

AXES = {
    "signal": ("time",),
    "image": ("height", "width"),
    "volume": ("depth", "height", "width"),
    "clip": ("time", "height", "width"),
}
"""Names of the axes, in the array's order."""

_STEPPING = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)
_ATTENDING = (keras.layers.MultiHeadAttention, keras.layers.Attention)
# Behind these rows of pixels are an image, or no longer a signal.
_FLAT = (keras.layers.Reshape, keras.layers.Flatten)
_COLOURS = 3


def kind_of(space: Space) -> str:
    """Returns "signal", "image", "volume" or "clip"."""
    return next(kind for kind, axes in AXES.items() if axes == space.axes)


def input_space(model: Any, images: npt.NDArray[Any]) -> Space | None:
    """Returns what the axes of an input are.

    Three axes are a signal (N, T, C) where layers for signals come first in the model, or where it has them and takes
    images beside, else grey images (N, H, W) without an axis for their channel. Two are a signal without one where the
    model makes a row of it that it convolves or steps through. Five are a clip where the model steps through time or
    takes three channels, which are colours; else a volume.

    Args:
        model: The model; None where there is none.
        images: The input, (N, ...).

    Returns:
        The space with its sizes and its layout; None for an array without places.
    """
    if images.dtype.kind not in "biuf" or 0 in images.shape or not 2 <= images.ndim <= 5:
        return None
    layers = [layer for _, layer in walk(model)] if isinstance(model, keras.layers.Layer) else []
    if images.ndim == 2:
        return Space(AXES["signal"], images.shape[1:]) if images.dtype.kind == "f" and _is_for_signals(layers) else None
    taken = list(filter(None, map(_axes_taken, layers)))
    if any(len(tensor.shape) > images.ndim for tensor in input_tensors(model)):  # Those layers are for the other one.
        taken = [axes for axes in taken if axes == 1]
    if images.ndim == 4 or (images.ndim == 3 and (taken or [2])[0] != 1):
        layout = model_layout(images, layers) if layers else recognized_layout(images)
        height, width = images.shape[2:] if layout == "channels_first" else images.shape[1:3]
        return Space(AXES["image"], (int(height), int(width)), layout)
    layout = stated_layout(layers) or "channels_last"
    sizes = tuple(map(int, images.shape[2:] if layout == "channels_first" else images.shape[1:-1]))
    if images.ndim == 3:
        return Space(AXES["signal"], sizes, layout)
    space = Space(AXES["volume"], sizes, layout)
    clip = any(isinstance(layer, _STEPPING) for layer in layers) or _count_channels(images, space) == _COLOURS
    return Space(AXES["clip"], sizes, layout) if clip else space


def _is_for_signals(layers: Sequence[Any]) -> bool:
    """Tells whether a model of rows of numbers takes them for steps of a signal: no text, and no table's columns."""
    kinds = [layer for layer in layers if not isinstance(layer, (*_FLAT, *_ATTENDING)) and _axes_taken(layer)]
    texts = any(isinstance(layer, keras.layers.Embedding) for layer in layers)
    return bool(kinds) and _axes_taken(kinds[0]) == 1 and not texts


def _axes_taken(layer: Any) -> int:
    """Returns for how many axes a layer is: 1, 2 or 3, and 0 where it takes any."""
    if isinstance(layer, (*_STEPPING, *_ATTENDING, keras.layers.Masking)):
        return 1
    if isinstance(layer, _FLAT):
        return 2
    name = type(layer).__name__
    return next((axes for axes in (1, 2, 3) if name.endswith(f"{axes}D") and not name.startswith("Global")), 0)


def pixels_of(images: npt.NDArray[Any], space: Space) -> npt.NDArray[Any] | None:
    """Returns what has pixels as images (M, H, W, C) or (M, C, H, W): of volumes and clips all slices; None of signals.

    Args:
        images: The input, (N, ...).
        space: What its axes are.
    """
    if len(space.axes) == 1:
        return None
    if len(space.axes) == 2:
        # What takes these for images knows a channels first of 1, 3 or 4, but no bands.
        return (
            images
            if images.ndim == 3 or space.layout == recognized_layout(images)
            else channels_last(images, space.layout)
        )
    pixels: npt.NDArray[Any] = channels_last(images, space.layout)
    return pixels.reshape(-1, *space.size[1:], pixels.shape[-1])


def displayed_space(
    images: npt.NDArray[Any], space: Space, pixel_range: ValueRange | None
) -> tuple[tuple[Image, ...], str]:
    """Returns what people see of an input, as in `Look`, and the name of its value range.

    Args:
        images: The input, (N, ...).
        space: What its axes are.
        pixel_range: Which values are black and white; None for a signal, of which people see the values.
    """
    pixels = pixels_of(images, space)
    if pixels is None:
        signals = channels_last(images, space.layout) if has_channels(space, images) else images[..., None]
        return tuple(np.ascontiguousarray(signals, np.float32)), "values"
    seen, name = display_images(pixels, pixel_range)
    if len(space.axes) == 2:
        return seen, name
    depth = space.size[0]
    return tuple(np.stack(seen[i : i + depth]) for i in range(0, len(seen), depth)), name


def shows_slices(picture: npt.NDArray[Any], space: Space) -> bool:
    """Tells whether what a user shows of a sample is all slices of a volume or a clip: (d, H, W, C), or grey (d, h, w).

    Without channels it is told from a picture by the model's own sizes.
    """
    depth = len(space.axes) == 3 and picture.ndim > 2 and len(picture) == space.size[0]
    return depth and (picture.ndim == 4 or picture.shape == space.size)


def _count_channels(images: npt.NDArray[Any], space: Space) -> int:
    return int(images.shape[1 if space.layout == "channels_first" else -1])


def has_channels(space: Space, images: npt.NDArray[Any]) -> bool:
    """Tells whether an input (N, ...) has an axis for its channels."""
    return images.ndim == len(space.axes) + 2
