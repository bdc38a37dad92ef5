"""Samples that are chosen by one pass over all of the data, of which no more is kept than is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from .arrays import taken
from .sources import at_hand, count_samples, is_endless, sample_shape, stream

__all__ = ["Choose", "best_samples", "matching_samples"]

Rows = npt.NDArray[np.intp]
Taken = tuple[Any, Any, Rows, int]
"""x and y of the chosen samples, which rows of the data they are, and how many rows it has."""
Choose = Callable[[Any, Any, int], Taken]
"""Chooses from data, for a model, at most so many samples."""


def best_samples(
    data: Any, model: Any, most: int, values: Callable[[Any, Any], npt.NDArray[np.float64]], size: int
) -> Taken:
    """Returns the samples of which a value is highest, the highest first; of equal ones the first of the data.

    Args:
        data: As for `make_batch`.
        model: The model, whose inputs x has.
        most: How many at most.
        values: Takes x and y of some samples, numpy arrays with n rows, and returns (n,) float64; what is not finite
            is not chosen.
        size: How many samples are handed to it at once, at most.

    Returns:
        x, y, rows and number of the data; x may have no row, where no value is finite.

    Raises:
        ValueError: If the data is empty or has no known end, or labels are missing in a part of it.
    """
    kept: tuple[Any, Any] | None = None
    scores, rows, count = np.empty(0), np.empty(0, np.intp), 0
    for x, y in _chunks(data, model, size):
        length = count_samples(x, y)
        of_chunk = np.asarray(values(x, y), np.float64)
        scores = np.concatenate([scores, np.where(np.isfinite(of_chunk), of_chunk, -np.inf)])
        rows = np.concatenate([rows, np.arange(count, count + length)])
        count += length
        order = np.argsort(-scores, kind="stable")
        order = order[np.isfinite(scores[order])][:most]
        if kept is None:
            kept = _map(lambda a: a[:0], (x, y))
        pieces = _joined(kept, (x, y))
        kept = _map(lambda a, order=order: a[order], pieces)
        scores, rows = scores[order], rows[order]
    if kept is None:
        raise ValueError("The validation data must hold at least one sample. Received: none.")
    return *kept, rows, count


def matching_samples(
    data: Any, model: Any, wanted: Sequence[str], digests: Callable[[Any, Any], Sequence[str]], size: int
) -> tuple[Taken, tuple[str, ...]]:
    """Returns the samples that have some digests, in the order of these; where two have one, the first.

    Args:
        data: As for `make_batch`.
        model: The model, whose inputs x has.
        wanted: The digests.
        digests: Takes x and y of some samples, numpy arrays with n rows, and returns n digests.
        size: How many samples are handed to it at once, at most.

    Returns:
        What `best_samples` returns, and the digests that no sample has.

    Raises:
        ValueError: As `best_samples`.
    """
    places: dict[str, tuple[int, Any]] = {}
    count = 0
    for x, y in _chunks(data, model, size):
        length = count_samples(x, y)
        for row, digest in enumerate(digests(x, y)):
            if digest in wanted and digest not in places:
                places[digest] = count + row, _map(lambda a, row=row: a[row : row + 1].copy(), (x, y))
        count += length
    if not count:
        raise ValueError("The validation data must hold at least one sample. Received: none.")
    lacking = tuple(digest for digest in wanted if digest not in places)
    if lacking:
        return (None, None, np.empty(0, np.intp), count), lacking
    x, y = _joined(*(places[digest][1] for digest in wanted))
    return (x, y, np.array([places[digest][0] for digest in wanted], np.intp), count), ()


def _map(function: Callable[..., Any], pair: tuple[Any, Any]) -> tuple[Any, Any]:
    x, y = pair
    return keras.tree.map_structure(function, x), None if y is None else keras.tree.map_structure(function, y)


def _joined(*pairs: tuple[Any, Any]) -> tuple[Any, Any]:
    """Returns several (x, y) as one."""
    labelled = [y is not None for _, y in pairs]
    if len(set(labelled)) > 1:
        raise ValueError("All batches of the validation data must have labels, or none. Received: some of each.")
    x = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *(x for x, _ in pairs))
    y = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *(y for _, y in pairs)) if labelled[0] else None
    return x, y


def _chunks(data: Any, model: Any, size: int) -> Iterator[tuple[Any, Any]]:
    """Yields (x, y) of at most so many rows, through all of the data."""
    arrays = at_hand(data, model)
    if arrays is not None:
        count = count_samples(*arrays)
        for start in range(0, count, size):
            rows = np.arange(start, min(start + size, count))
            yield _map(lambda a, rows=rows: taken(a, rows), arrays)
        return
    if is_endless(data) or (hasattr(data, "__next__") and not hasattr(data, "__len__")):
        raise ValueError(
            "Samples can be chosen by one pass only over data that is known to end, and can be read again. "
            f"Received: {data!r}. Arrays, a tf.data.Dataset, a PyDataset or a DataLoader work; so does select='first'."
        )
    waiting: list[tuple[Any, Any]] = []
    for x, y in stream(data, sample_shape(model)):
        waiting.append((x, y))
        # Samples one by one are run together.
        if sum(len(keras.tree.flatten(part)[0]) for part, _ in waiting) >= size:
            yield from _cut(_joined(*waiting), size)
            waiting = []
    if waiting:
        yield from _cut(_joined(*waiting), size)


def _cut(pair: tuple[Any, Any], size: int) -> Iterator[tuple[Any, Any]]:
    for start in range(0, len(keras.tree.flatten(pair[0])[0]), size):
        yield _map(lambda a, start=start: a[start : start + size], pair)
