"""Where the images are among the inputs, and their channels, first or last: told apart here, brought there and back.

Images are (N, H, W, C) everywhere but at the model's own door, and activations (N, *space, C) everywhere but at the
layer's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..checks import did_you_mean, is_whole
from ..network.layers import input_tensors
from ..records import Floats
from .arrays import on_host

_OF_KERAS = re.compile(r"(keras_tensor|input_layer|input)?(_?\d+)?")
_FEW = (1, 3, 4)  # what a number of channels looks like, and a height does not


def largest_input(inputs: Any) -> npt.NDArray[Any]:
    """Returns the images among a model's inputs: the array with the most axes, and of those the largest."""
    arrays: list[npt.NDArray[Any]] = [a for a in keras.tree.flatten(inputs) if a.dtype.kind in "biuf"]
    return max(arrays, key=lambda a: (a.ndim, a.size))


def image_inputs(inputs: Any) -> list[int]:
    """Returns which of a model's inputs, flattened, may be images: the arrays with the most axes, three at least."""
    arrays = keras.tree.flatten(inputs)
    axes = max((a.ndim for a in arrays if a.dtype.kind in "biuf"), default=0)
    return [i for i, a in enumerate(arrays) if a.dtype.kind in "biuf" and a.ndim == axes >= 3]


def placed_inputs(inputs: Any) -> list[int]:
    """Returns which of a model's inputs, flattened, may have places: images, and signals beside them."""
    return [i for i, a in enumerate(keras.tree.flatten(inputs)) if a.dtype.kind in "biuf" and a.ndim >= 3]


def input_tensor(inputs: Any, index: int, model: Any) -> Any | None:
    """Returns the model's own symbolic input for one of the inputs, flattened; None where it knows of none."""
    tensors, names = input_tensors(model), input_names(inputs, model)
    if len(tensors) != len(names):
        return None
    return next((tensor for tensor in tensors if tensor.name == names[index]), tensors[index])


def largest_index(inputs: Any) -> int:
    """Returns which of a model's inputs, flattened, is `largest_input`."""
    largest = largest_input(inputs)
    return next(i for i, array in enumerate(keras.tree.flatten(inputs)) if array is largest)


def input_at(inputs: Any, index: int) -> npt.NDArray[Any]:
    """Returns one of a model's inputs, flattened."""
    array: npt.NDArray[Any] = keras.tree.flatten(inputs)[index]
    return array


def input_names(inputs: Any, model: Any) -> list[str]:
    """Returns what a model's inputs are called: by their keys in a dict, else by the model's own names, else "0", "1".

    Args:
        inputs: The inputs, in any structure that the model takes.
        model: The model.
    """
    if isinstance(inputs, Mapping) and not any(isinstance(value, (Mapping, list, tuple)) for value in inputs.values()):
        return list(map(str, keras.tree.flatten({key: key for key in inputs})))
    count = len(keras.tree.flatten(inputs))
    tensors = input_tensors(model)
    if len(tensors) == count:
        return [str(tensor.name) for tensor in tensors]
    return [str(i) for i in range(count)]


def shown_names(inputs: Any, model: Any) -> list[str]:
    """Returns what a model's inputs are called in pictures and names of numbers: text that is the same in each build.

    A name that Keras has made is "input_0" by the input's place, and what is no letter, digit or "_" is "_".

    Args:
        inputs: The inputs, in any structure that the model takes.
        model: The model.
    """
    names = []
    for i, name in enumerate(input_names(inputs, model)):
        name = f"input_{i}" if _OF_KERAS.fullmatch(name) else re.sub(r"\W", "_", name)
        names.append(f"{name}_{i}" if name in names else name)
    return names


def resolve_inputs(chosen: Any, inputs: Any, model: Any) -> list[int]:
    """Returns which of a model's inputs, flattened, a user's `input` names: one, or several in a list.

    Args:
        chosen: As for `resolve_input`, or a list of such.
        inputs: The inputs.
        model: The model.

    Raises:
        ValueError: As `resolve_input`, or if the list is empty, or names an input twice.
        TypeError: As `resolve_input`.
    """
    if not isinstance(chosen, (list, tuple)):
        return [resolve_input(chosen, inputs, model)]
    places = [resolve_input(one, inputs, model) for one in chosen]
    if not places or len(set(places)) < len(places):
        names = [input_names(inputs, model)[i] for i in image_inputs(inputs)]
        raise ValueError(f"`input` as a list must name different images. Received: {chosen!r}. input={names!r} works.")
    return places


def resolve_input(chosen: Any, inputs: Any, model: Any) -> int:
    """Returns which of a model's inputs, flattened, a user's `input` names.

    Args:
        chosen: A name or an index.
        inputs: The inputs.
        model: The model.

    Raises:
        ValueError: If there is no such input, or it is no image.
        TypeError: If it is neither text nor a whole number.
    """
    names, arrays = input_names(inputs, model), keras.tree.flatten(inputs)
    if not isinstance(chosen, str) and not is_whole(chosen, 0):
        raise TypeError(
            f"`input` must be the name or the index of one of the model's inputs, or None. Received: {chosen!r}."
        )
    at = names.index(chosen) if chosen in names else chosen
    if isinstance(at, str) or at >= len(arrays):
        raise ValueError(
            f"`input` must be one of the model's inputs: {', '.join(map(repr, names))}, or an index below "
            f"{len(arrays)}. Received: {chosen!r}.{did_you_mean(chosen, names) if isinstance(chosen, str) else ''}"
        )
    if arrays[at].ndim < 3 or arrays[at].dtype.kind not in "biuf":
        raise ValueError(
            "`input` must name an input of images (samples, height, width, channels). "
            f"Received: {chosen!r}, of shape {arrays[at].shape} and type {arrays[at].dtype}."
        )
    return int(at)


def is_channels_first(image: npt.NDArray[Any]) -> bool:
    """Tells whether an image with three axes is (C, H, W) rather than (H, W, C).

    A square patch of few pixels and many bands, such as (4, 4, 10), has its channels last.
    """
    if keras.config.image_data_format() == "channels_first":
        return image.shape[0] in _FEW
    return puts_channels_first(image.shape)


def puts_channels_first(shape: Sequence[int | None]) -> bool:
    """Tells whether three axes can only be (C, H, W): the first is a number of channels, and the last is none."""
    return len(shape) == 3 and shape[0] in _FEW and shape[-1] not in _FEW and shape[0] != shape[1]


def recognized_layout(images: npt.NDArray[Any]) -> str:
    """Returns the layout of images (N, ...) by their shape: grey images without an axis for it are channels last."""
    return "channels_first" if images.ndim == 4 and is_channels_first(images[0]) else "channels_last"


def model_layout(images: npt.NDArray[Any], layers: Iterable[Any]) -> str:
    """Tells whether a model takes its images "channels_last" or "channels_first".

    A first axis of 1, 3 or 4 where the last one is no such number can't be the height, whatever a layer behind a
    transposition says.

    Args:
        images: (N, H, W) or (N, ...) with an axis for channels, as the model takes them.
        layers: Its layers in call order, the first of which with a data format says so.
    """
    if images.ndim == 3:
        return "channels_last"
    if puts_channels_first(images.shape[1:]):
        return "channels_first"
    return stated_layout(layers) or str(keras.config.image_data_format())


def stated_layout(layers: Iterable[Any]) -> str | None:
    """Returns the layout that the first layer with a data format asks of the input; None where none has one.

    Behind a `Permute` that moves the channels it is the other one.
    """
    order: tuple[int, ...] = ()
    for layer in layers:
        if isinstance(layer, keras.layers.Permute):
            order = tuple(layer.dims)
        stated = getattr(layer, "data_format", None)
        if stated == "channels_last" and order == (*range(2, len(order) + 1), 1):
            return "channels_first"
        if stated == "channels_first" and order == (len(order), *range(1, len(order))):
            return "channels_last"
        if stated:
            return str(stated)
    return None


def image_size(images: npt.NDArray[Any], layout: str | None = None) -> tuple[int, int]:
    """Returns H and W of the images (N, ...) as the model takes them, of a layout that is recognized if not given."""
    height, width = (
        images.shape[-2:] if (layout or recognized_layout(images)) == "channels_first" else images.shape[1:3]
    )
    return int(height), int(width)


def as_images(images: npt.NDArray[Any], layout: str | None = None, axes: int = 2) -> Floats:
    """Returns what a model takes, (N, ...), as (N, *space, C) float32, of images (N, H, W, C).

    Args:
        images: The images; grey ones may lack the axis for it.
        layout: Their layout, where it is known; else it is recognized by their shape.
        axes: How many axes the space has.
    """
    layout = layout or recognized_layout(images)
    images = images[..., None] if images.ndim == axes + 1 else images
    return np.ascontiguousarray(channels_last(images, layout), np.float32)


def as_type(array: Floats, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Returns numbers in another type: rounded and cut to its range where that is of whole numbers."""
    if dtype.kind == "b":
        return np.ascontiguousarray(array > 0.5)
    if dtype.kind in "iu":
        array = np.clip(np.rint(array), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.ascontiguousarray(array, dtype)


def channels_last(array: Any, layout: str) -> Any:
    """Returns an array or a tensor in `layout` as (N, *space, C)."""
    return _moved(array, 1, -1) if layout == "channels_first" else array


def in_layout(array: Any, layout: str) -> Any:
    """Returns an array or a tensor (N, *space, C) in `layout`."""
    return _moved(array, -1, 1) if layout == "channels_first" else array


def _moved(array: Any, source: int, destination: int) -> Any:
    moveaxis = np.moveaxis if isinstance(array, np.ndarray) else keras.ops.moveaxis
    return moveaxis(array, source, destination)


def as_pictures(images: Sequence[npt.NDArray[Any]] | npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Returns N images (H, W, C) from images (H, W), (H, W, C) or (C, H, W).

    Raises:
        ValueError: If one is no image.
    """
    return [_channels_last(on_host(image)) for image in images]


def _channels_last(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns (H, W, C) from (H, W), (H, W, C) or (C, H, W)."""
    if image.dtype.kind not in "biuf" or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            "An image must be an array of numbers (height, width) or (height, width, channels). "
            f"Received: shape {image.shape} of type {image.dtype}. "
            "Where the model's input is no image, give `display=`."
        )
    if image.ndim == 2:
        return image[..., None]
    return np.moveaxis(image, 0, -1) if is_channels_first(image) else image
