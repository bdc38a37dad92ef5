"""From data of any kind to arrays: what is at hand as a whole, a stream no further than is needed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from numbers import Number
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..network.layers import input_tensors
from ..records import Ints
from .layout import largest_input

# How far `select="balanced"` looks into a stream for samples of every class, in multiples of `max_samples`.
_LOOK_AHEAD = 64


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Lets a user's generator draw random numbers without changing those that training will draw."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what is kept
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def read(data: Any, model: Any, most: int, balanced: bool) -> tuple[Any, Any, npt.NDArray[np.intp] | None, int | None]:
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
    for x, y in _stream(data, sample_shape(model)):
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
        return as_arrays(data), None
    if isinstance(data, list) and data and all(_is_array(part) for part in data):
        if len(data) == len(input_tensors(model)) > 1:
            return as_arrays(data), None
        if all(np.ndim(part) == 3 for part in data):
            return np.stack([np.asarray(part) for part in data]), None
        if len(data) in (2, 3) and len({len(part) for part in data}) == 1:
            data = tuple(data)  # `fit` takes [x, y] for (x, y).
    if not isinstance(data, tuple):
        return None
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    return as_arrays(x), None if y is None else as_arrays(_listed(y))


def _rows(array: npt.NDArray[Any], rows: list[int]) -> npt.NDArray[Any]:
    return array[rows]


def is_endless(data: Any) -> bool:
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
        x, y = as_arrays(x), None if y is None else as_arrays(y)
        if _is_sample(largest_input(x).shape, sample_shape):
            x = keras.tree.map_structure(lambda a: a[None], x)
            y = None if y is None else keras.tree.map_structure(lambda a: a[None], y)
        yield x, y


def sample_shape(model: Any) -> tuple[int | None, ...]:
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


def as_arrays(structure: Any) -> Any:
    """Turns arrays and tensors in any structure into numpy arrays."""

    def convert(leaf: Any) -> npt.NDArray[Any]:
        array = np.asarray(leaf.numpy() if hasattr(leaf, "numpy") else leaf)
        if array.dtype.kind == "V" and array.dtype.names is None:  # bfloat16 and its like
            array = array.astype(np.float32)
        # A model of images and text gets strings, too.
        if array.dtype == object and not all(isinstance(item, (str, bytes)) for item in array.flat):
            raise TypeError(
                "Validation data must be arrays of numbers, all samples of the same shape. "
                f"Received: {type(leaf).__name__} that is no such array."
            )
        return array

    return keras.tree.map_structure(convert, structure)


def _listed(y: Any) -> Any:
    """Returns labels that are written as a Python list as an array; a list of arrays is of several outputs."""
    if isinstance(y, (list, tuple)) and all(isinstance(leaf, (Number, str)) for leaf in keras.tree.flatten(y)):
        return np.asarray(y)
    return y


def class_labels(y: Any) -> Ints | None:
    """Returns class indices (N,) int64 from integers, whole floats, one-hot or soft rows; None for anything else.

    Labels of a single output may stand under its name, or alone in a list.
    """
    if isinstance(y, (Mapping, list, tuple)) and len(y) == 1:
        (y,) = y.values() if isinstance(y, Mapping) else y
    if y is None or isinstance(y, (Mapping, list, tuple)):
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


def count_samples(x: Any, y: Any) -> int:
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
