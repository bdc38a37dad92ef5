"""From data of any kind to arrays: what is at hand as a whole, a stream no further than is needed."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from numbers import Number
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..network.layers import input_tensors
from .arrays import StoredArray, is_stored, on_host
from .labels import labels_of_rows
from .layout import largest_input

# How far `select="balanced"` looks into a stream for samples of every class, in multiples of `max_samples`.
_LOOK_AHEAD = 64
# Labels have no more axes than this; masks do.
_MOST_LABEL_AXES = 2


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Lets a user's generator draw random numbers without changing those that training will draw.

    A DataLoader of PyTorch draws of PyTorch's, which Keras shuffles with on that backend; it isn't loaded for this.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what is kept
    torch = sys.modules.get("torch")
    try:
        with nullcontext() if torch is None else torch.random.fork_rng(_devices(torch)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _devices(torch: Any) -> list[int]:
    """Returns the numbers of the GPUs that PyTorch has drawn numbers on."""
    return [*range(torch.cuda.device_count())] if torch.cuda.is_initialized() else []


def read(data: Any, model: Any, most: int, balanced: bool) -> tuple[Any, Any, npt.NDArray[np.intp] | None, int | None]:
    """Returns x and y as arrays: all of what is at hand; of a stream no more than is needed.

    What lies in files stays there, but for labels: those tell which rows are needed.

    Of a stream also which of its samples these are, and how many it has, None where it was not read to its end.
    """
    arrays = at_hand(data, model)
    if arrays is not None:
        return *arrays, None, None
    read: list[tuple[Any, Any]] = []
    origins: list[npt.NDArray[np.intp]] = []
    kept: dict[int, int] = {}
    count = 0
    for x, y in stream(data, sample_shape(model)):
        rows = np.arange(len(keras.tree.flatten(x)[0]))
        origin = count + rows
        count += len(rows)
        labels = labels_of_rows(y) if balanced else None
        if labels is not None:
            # More of a class than are wanted in all are not needed, and would fill the memory.
            wanted = []
            for row, of_row in enumerate(labels):
                for label in of_row or (-1,):
                    kept[label] = kept.get(label, 0) + 1
                if any(kept[label] <= most for label in of_row or (-1,)):
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


def at_hand(data: Any, model: Any) -> tuple[Any, Any] | None:
    """Returns x and y of what is no stream, or None."""
    if _is_array(data) or isinstance(data, dict):
        return _to_arrays(data), None
    if isinstance(data, list) and data and all(_is_array(part) for part in data):
        if len(data) == len(input_tensors(model)) > 1:
            return _to_arrays(data), None
        if all(len(np.shape(part)) == 3 for part in data):
            return np.stack([on_host(part) for part in data]), None
        if len(data) in (2, 3) and len({len(part) for part in data}) == 1:
            data = tuple(data)  # `fit` takes [x, y] for (x, y).
    if not isinstance(data, tuple):
        return None
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    return _to_arrays(x), None if y is None else _to_arrays(_listed(y), _MOST_LABEL_AXES)


def _rows(array: npt.NDArray[Any], rows: list[int]) -> npt.NDArray[Any]:
    return array[rows]


def is_endless(data: Any) -> bool:
    """Tells whether data is known to have no end."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1


def stream(data: Any, sample_shape: tuple[int | None, ...]) -> Iterator[tuple[Any, Any]]:
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
    has_rows = hasattr(data, "shape") and hasattr(data, "__array__") and not isinstance(data, type)
    return has_rows or is_stored(data)


def _to_arrays(structure: Any, read_axes: int = 0) -> Any:
    """Returns what is in memory as numpy arrays, and what is not as `StoredArray` if it has more axes than that."""

    def convert(leaf: Any) -> Any:
        return StoredArray(leaf) if is_stored(leaf) and len(leaf.shape) > read_axes else as_arrays(leaf)

    return keras.tree.map_structure(convert, structure)


def as_arrays(structure: Any) -> Any:
    """Turns arrays and tensors in any structure into numpy arrays."""

    def convert(leaf: Any) -> npt.NDArray[Any]:
        # What can only be cut by rows has all of them read.
        leaf = leaf[0 : len(leaf)] if is_stored(leaf) and not hasattr(leaf, "__array__") else leaf
        array = on_host(leaf)
        # A model of images and text gets strings, too.
        if array.dtype == object and not all(isinstance(item, (str, bytes)) for item in array.flat):
            raise TypeError(
                "Validation data must be arrays of numbers, all samples of the same shape. "
                f"Received: {type(leaf).__name__} that is no such array."
            )
        return array

    return keras.tree.map_structure(convert, structure)


def _listed(y: Any) -> Any:
    """Returns labels that are written as a Python list as an array, under the name of an output, too.

    A list of arrays is of several outputs.
    """
    if isinstance(y, dict):
        return {name: _listed(part) for name, part in y.items()}
    if isinstance(y, (list, tuple)) and all(isinstance(leaf, (Number, str)) for leaf in keras.tree.flatten(y)):
        return np.asarray(y)
    return y


def count_samples(x: Any, y: Any) -> int:
    """Returns N, after a check that x and y agree on it."""
    arrays = keras.tree.flatten(x)
    if any(a.ndim == 0 for a in arrays) or min(len(a) for a in arrays) == 0:
        raise ValueError(
            f"The validation data must hold at least one sample. Received: arrays of shape {[a.shape for a in arrays]}."
        )
    lengths = {len(a) for a in arrays}
    parts = [] if y is None else keras.tree.flatten(y)
    if any(a.ndim == 0 for a in parts):
        raise ValueError(
            "Labels must be one array with a row for each sample, or one such array for each output of the model. "
            f"Received: {len(parts)} single values. np.asarray(y) makes one array of them."
        )
    labels = {len(a) for a in parts} if y is not None else lengths
    if len(lengths) != 1 or labels != lengths:
        raise ValueError(
            "Images and labels of the validation data must be of the same number. "
            f"Received: x of length {sorted(lengths)} and y of length {sorted(labels)}."
        )
    return int(lengths.pop())
