"""From whatever people validate on to one fixed batch: arrays, datasets, generators, with labels or without."""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..checks import check_positive
from ..network.layers import input_tensors
from ..records import Image, Ints, ValidationBatch
from .ranges import display_images, is_channels_first, is_displayable
from .regions import aligned_rows, resolve_regions, whom

# How far `select="balanced"` looks into a stream for samples of every class, in multiples of `max_samples`.
_LOOK_AHEAD = 64


def make_batch(
    data: Any,
    model: Any = None,
    *,
    max_samples: int | None = 16,
    select: str = "first",
    display: Any = None,
    sample_keys: Sequence[str] | None = None,
    regions: Any = None,
) -> ValidationBatch:
    """Reads as many samples as are needed, once.

    Args:
        data: `(x, y)`, `(x, y, sample_weight)`, or `x` alone, as arrays; a `tf.data.Dataset`, batched or not, finite or
            not; a `keras.utils.PyDataset`; or any iterable of batches. `x` is an array (N, H, W, C) of any number type,
            or a dict or list of arrays for a model with several inputs. `y`: class indices or one-hot rows; labels
            of other kinds are passed over.
        model: The model that will be explained, whose input shape the images must have.
        max_samples: How many samples to take; None for all.
        select: "first" takes the first ones; "balanced" takes classes in turn, the first samples of each.
        display: What people see where it differs from the model's input: one image for each sample, or a function
            of the samples' images that returns them. uint8, or floats of a recognisable range. Or several of these by
            name, as {"original": photos, "model input": None}, where None stands for the model's input: overlays are
            drawn on the last one, and the others stand beside it in a panel.
        sample_keys: Names for the samples; by default "sample_00", "sample_01", ....
        regions: Where the objects are, for each explained sample or for each sample of the data: see `Regions`.

    Returns:
        The batch.

    Raises:
        ValueError: If there are no samples, or images, labels, display or keys do not fit.
        TypeError: If `data` is of no kind that is known, or a name in `display` is no text.
    """
    if max_samples is not None:
        check_positive("max_samples", max_samples)
    most = sys.maxsize if max_samples is None else int(max_samples)
    if max_samples is None and _is_endless(data):
        raise ValueError("An endless dataset needs `max_samples`. Received: max_samples=None.")
    if select not in ("first", "balanced"):
        raise ValueError(f"`select` must be 'first' or 'balanced'. Received: {select!r}.")
    _check_display_names(display)
    with _random_state_kept():
        x, y, origins, total = _read(data, model, most, balanced=select == "balanced")
    count = _count_samples(x, y)
    labels = class_labels(y)
    rows = np.arange(min(count, most))
    if select == "balanced":
        if labels is None:
            raise ValueError(
                "select='balanced' needs class labels: integers, or one-hot rows. Received: validation data without. "
                "Give (x, y), or select='first'."
            )
        rows = _balanced(labels, most)

    # What a user gives for each sample counts the samples of the data, of which a stream has kept but some.
    sources, known = (rows, count) if origins is None else (origins[rows], total)
    inputs = keras.tree.map_structure(lambda a: _as_model_input(a[rows]), x)
    sample_shape = _sample_shape(model)
    if isinstance(inputs, np.ndarray) and sample_shape == (*inputs.shape[1:], 1):
        inputs = inputs[..., None]  # As `fit` does.
    _check_inputs(inputs, model)
    images = largest_input(inputs)
    seen = display_images(images) if display is None or is_displayable(images) else None
    columns = _display_columns(display, seen, images, sources, known)
    display_name, (shown, value_range) = columns.popitem()
    # Of the pixels as people see them, so that a photograph is the same under any preprocessing of known range.
    pixels = tuple(images) if seen is None else seen[0]
    keys = tuple(f"sample_{i:02d}" for i in range(len(rows))) if sample_keys is None else tuple(map(str, sample_keys))
    if len(keys) != len(rows) or len(set(keys)) != len(keys):
        raise ValueError(
            f"`sample_keys` must hold one name for each of the {len(rows)} explained samples, all different. "
            f"Received: {len(keys)} names, {len(set(keys))} different ones."
        )
    if regions is not None and not is_displayable(images):
        raise ValueError(
            "`regions` need images (samples, height, width, channels). "
            f"Received: inputs of shape {images.shape} of type {images.dtype}. Leave them out."
        )
    return ValidationBatch(
        inputs=inputs,
        labels=None if labels is None else labels[rows],
        sample_keys=keys,
        fingerprints=tuple(fingerprint(image) for image in pixels),
        display=shown,
        value_range=value_range,
        display_name=display_name,
        beside={name: pictures for name, (pictures, _) in columns.items()},
        regions=() if regions is None else resolve_regions(regions, sources, known, image_size(images)),
    )


def class_labels(y: Any) -> Ints | None:
    """Returns class indices (N,) int64 from integers, whole floats, one-hot or soft rows; None for anything else."""
    if y is None or isinstance(y, (dict, list, tuple)):
        return None
    y = np.asarray(y)
    if y.dtype.kind not in "biuf" or y.ndim not in (1, 2):
        return None
    if y.ndim == 2 and y.shape[1] > 1:
        # Rows that sum to one name one class, smoothed labels too; several classes in a row have no index.
        return np.argmax(y, axis=1).astype(np.int64) if np.allclose(y.sum(axis=1), 1, atol=1e-3) else None
    y = y.reshape(-1)
    if y.size and set(np.unique(y)) <= {-1, 1} and y.min() < 0:  # the labels of hinge losses
        y = (y + 1) / 2
    return y.astype(np.int64) if np.array_equal(y, np.round(y)) else None


def fingerprint(image: npt.NDArray[Any]) -> str:
    """Returns 16 hexadecimal digits that tell an image's shape and pixels apart from others'."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def largest_input(inputs: Any) -> npt.NDArray[Any]:
    """Returns the images among a model's inputs: the array with the most axes, and of those the largest."""
    arrays: list[npt.NDArray[Any]] = [a for a in keras.tree.flatten(inputs) if a.dtype.kind in "biuf"]
    return max(arrays, key=lambda a: (a.ndim, a.size))


def image_size(images: npt.NDArray[Any]) -> tuple[int, int]:
    """Returns H and W of the images (N, ...) as the model takes them."""
    height, width = images.shape[-2:] if images.ndim == 4 and is_channels_first(images[0]) else images.shape[1:3]
    return int(height), int(width)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Lets a user's generator draw random numbers without changing those that training will draw."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what is kept
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _read(data: Any, model: Any, most: int, balanced: bool) -> tuple[Any, Any, npt.NDArray[np.intp] | None, int | None]:
    """Returns x and y as numpy arrays: all of what is at hand; of a stream no more than is needed.

    Of a stream also which of its samples these are, and how many it has, None where it was not read to its end.
    """
    at_hand = _at_hand(data, model)
    if at_hand is not None:
        return *at_hand, None, None
    read: list[tuple[Any, Any]] = []
    origins: list[npt.NDArray[np.intp]] = []
    kept: dict[int, int] = {}
    count = 0
    for x, y in _stream(data, _sample_shape(model)):
        rows = np.arange(len(keras.tree.flatten(x)[0]))
        origin = count + rows
        count += len(rows)
        labels = class_labels(y) if balanced else None
        if labels is not None:
            # More of a class than are wanted in all are not needed, and would fill the memory.
            wanted = []
            for row, label in enumerate(labels.tolist()):
                kept[label] = kept.get(label, 0) + 1
                if kept[label] <= most:
                    wanted.append(row)
            x, y = keras.tree.map_structure(partial(_rows, rows=wanted), (x, y))
            origin = origin[wanted]
        read.append((x, y))
        origins.append(origin)
        if count >= most * (_LOOK_AHEAD if balanced else 1):
            total = None
            break
    else:
        total = count
    if not read:
        raise ValueError("The validation data must hold at least one sample. Received: none.")
    x = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *(x for x, _ in read))
    labelled = all(y is not None for _, y in read)
    y = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *(y for _, y in read)) if labelled else None
    return x, y, np.concatenate(origins), total


def _at_hand(data: Any, model: Any) -> tuple[Any, Any] | None:
    """Returns x and y of what is no stream, or None."""
    if _is_array(data) or isinstance(data, dict):
        return _to_numpy(data), None
    if isinstance(data, list) and data and all(_is_array(part) for part in data):
        if len(data) == len(input_tensors(model)) > 1:
            return _to_numpy(data), None
        if all(np.ndim(part) == 3 for part in data):
            return np.stack([np.asarray(part) for part in data]), None
        if len(data) in (2, 3) and len({len(part) for part in data}) == 1:
            data = tuple(data)  # `fit` takes [x, y] for (x, y).
    if not isinstance(data, tuple):
        return None
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    return _to_numpy(x), None if y is None else _to_numpy(y)


def _rows(array: npt.NDArray[Any], rows: list[int]) -> npt.NDArray[Any]:
    return array[rows]


def _is_endless(data: Any) -> bool:
    """Tells whether data is known to have no end."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1


def _stream(data: Any, sample_shape: tuple[int | None, ...]) -> Iterator[tuple[Any, Any]]:
    """Yields (x, y) batches as numpy arrays from anything that can be read in order."""
    if isinstance(data, keras.utils.PyDataset):
        indices = itertools.count() if data.num_batches is None else range(data.num_batches)
        elements: Any = (data[i] for i in indices)
    elif hasattr(data, "__iter__") and not isinstance(data, (str, bytes)):
        elements = data
    else:
        raise TypeError(
            "`validation_data` must be (x, y), x, a tf.data.Dataset, a keras.utils.PyDataset or an iterable of "
            f"batches. Received: {data!r} of type {type(data).__name__}."
        )
    for element in elements:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(tuple(element) if isinstance(element, list) else element)
        x, y = _to_numpy(x), None if y is None else _to_numpy(y)
        if _is_sample(largest_input(x).shape, sample_shape):
            x = keras.tree.map_structure(lambda a: a[None], x)
            y = None if y is None else keras.tree.map_structure(lambda a: a[None], y)
        yield x, y


def _sample_shape(model: Any) -> tuple[int | None, ...]:
    """Returns the shape of one sample of the model's largest input, with None for what is free."""
    shapes = [tuple(tensor.shape[1:]) for tensor in input_tensors(model)]
    return max(shapes, key=len, default=(None, None, None))


def _is_sample(shape: tuple[int, ...], sample_shape: tuple[int | None, ...]) -> bool:
    """Tells a sample from a batch. Grey images may lack their channel axis: a batch then has as many as a sample."""
    if sample_shape[-1] == 1 and shape[-1] != 1:
        sample_shape = sample_shape[:-1]
    return len(shape) == len(sample_shape)


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") and hasattr(data, "__array__") and not isinstance(data, type)


def _to_numpy(structure: Any) -> Any:
    """Turns arrays and tensors in any structure into numpy arrays."""

    def convert(leaf: Any) -> npt.NDArray[Any]:
        array = np.asarray(leaf.numpy() if hasattr(leaf, "numpy") else leaf)
        # A model of images and text gets strings, too.
        if array.dtype == object and not all(isinstance(item, (str, bytes)) for item in array.flat):
            raise TypeError(
                "Validation data must be arrays of numbers, all samples of the same shape. "
                f"Received: {type(leaf).__name__} that is no such array."
            )
        return array

    return keras.tree.map_structure(convert, structure)


def _as_model_input(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Casts float64 as Keras does in `fit`; other types go to the model as they are."""
    return np.ascontiguousarray(array.astype(keras.config.floatx()) if array.dtype == np.float64 else array)


def _count_samples(x: Any, y: Any) -> int:
    """Returns N, after a check that x and y agree on it."""
    arrays = keras.tree.flatten(x)
    if any(a.ndim == 0 for a in arrays) or min(len(a) for a in arrays) == 0:
        raise ValueError(
            f"The validation data must hold at least one sample. Received: arrays of shape {[a.shape for a in arrays]}."
        )
    lengths = {len(a) for a in arrays}
    labels = {len(a) for a in keras.tree.flatten(y) if a.ndim} if y is not None else lengths
    if len(lengths) != 1 or labels != lengths:
        raise ValueError(
            "Images and labels of the validation data must be of the same number. "
            f"Received: x of length {sorted(lengths)} and y of length {sorted(labels)}."
        )
    return int(lengths.pop())


def _balanced(labels: Ints, most: int) -> npt.NDArray[np.intp]:
    """Returns the rows of a selection that takes classes in turn, in the order of the data."""
    order = np.argsort(labels, kind="stable")
    turn = np.empty(len(labels), np.intp)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        turn[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:most])


def _check_inputs(inputs: Any, model: Any) -> None:
    """Checks that the inputs are finite and have the shapes that the model takes."""
    for array in keras.tree.flatten(inputs):
        if array.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
            if len(bad):
                raise ValueError(
                    "Images must hold finite numbers only. "
                    f"Received: NaN or infinite pixels in samples {bad[:10].tolist()} of {len(array)}."
                )
    images = largest_input(inputs)
    expected = input_tensors(model)
    if not expected and images.ndim != 4:
        raise ValueError(
            f"Images must have the shape (samples, height, width, channels). Received: shape {images.shape}."
        )
    given = keras.tree.flatten(inputs)
    if expected and len(given) != len(expected):
        raise ValueError(
            f"The validation data must hold one array for each of the {len(expected)} inputs of model {model.name!r}. "
            f"Received: {len(given)} arrays."
        )
    if len(expected) == 1:
        shape, need = images.shape[1:], tuple(expected[0].shape[1:])
        if len(shape) != len(need) or any(n is not None and n != s for s, n in zip(shape, need, strict=True)):
            raise ValueError(
                f"Images must have the shape {need} that model {model.name!r} takes. Received: {tuple(shape)}."
            )


def _check_display_names(display: Any) -> None:
    """Checks that what is given by name has names."""
    if not isinstance(display, Mapping):
        return
    if not all(isinstance(name, str) and name.strip() for name in display):
        raise TypeError(
            f"The names in `display` must be text. Received: {list(display)}. Use names such as 'original'."
        )
    if not display:
        raise ValueError(
            "`display` must hold at least one name. Received: {}. "
            "None shows the model's input, as does {'model input': None}."
        )


def _display_columns(
    display: Any,
    seen: tuple[tuple[Image, ...], str] | None,
    images: npt.NDArray[Any],
    rows: npt.NDArray[np.intp],
    count: int | None,
) -> dict[str, tuple[tuple[Image, ...], str]]:
    """Returns what people see, by name: images, and how they were made. `seen`: the model's input, if it is images."""
    if display is None and seen is not None:
        return {"image": seen}
    if not isinstance(display, Mapping):
        return {"image": (_aligned_display("display", display, images, rows, count), "given")}
    columns = {}
    for name, given in display.items():
        label = f"display[{name!r}]"
        if given is not None:
            columns[name] = _aligned_display(label, given, images, rows, count), "given"
        elif seen is not None:
            columns[name] = seen
        else:
            raise ValueError(
                f"`{label}` can be None only where the model's input is images. Received: input of shape "
                f"{images.shape} of type {images.dtype}. Images, or a function of the input that returns some, work."
            )
    return columns


def _aligned_display(
    label: str, display: Any, images: npt.NDArray[Any], rows: npt.NDArray[np.intp], count: int | None
) -> tuple[Image, ...]:
    """Returns the user's display images of the selected samples."""
    given: Any = display(images) if callable(display) else display
    chosen = aligned_rows(len(given), rows, count) if hasattr(given, "__len__") else None
    if chosen is None:
        raise ValueError(
            f"`{label}` must give one image for each of {whom(rows, count)}. "
            f"Received: {len(given) if hasattr(given, '__len__') else type(given).__name__}."
        )
    return display_images([np.asarray(given[int(i)]) for i in chosen])[0]
