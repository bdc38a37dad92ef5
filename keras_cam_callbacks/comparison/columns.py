"""What is known of all compared runs at one epoch, and many such columns as the arrays of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Floats, Ints
from ..store import Run, StoredEpoch
from .reading import Reader, agreements, peaks_of, put, unlike

__all__ = ["Column", "count_axes", "read_column", "stacked"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Column:
    """One epoch of R runs, with N samples and P pairs; what a run lacks is -1 or NaN, as in `Comparison`.

    Attributes:
        predicted: (R, N) int64.
        targets: (R, N) int64.
        confidences: (R, N) float32.
        peaks: (R, N, axes) float32.
        values: (R, N) float64 by name.
        scalars: (R,) float64 by name.
        agreement: (P, N) float64.
    """

    predicted: Ints
    targets: Ints
    confidences: Floats
    peaks: Floats
    values: Mapping[str, Doubles]
    scalars: Mapping[str, Doubles]
    agreement: Doubles


def read_column(
    readers: Sequence[Reader],
    epochs: Sequence[StoredEpoch | None],
    pairs: Sequence[tuple[int, int]],
    shape: tuple[int, int],
) -> tuple[Column, list[Floats | None]]:
    """Reads one epoch of all runs.

    Args:
        readers: R readers.
        epochs: The epoch of each run; None where it lacks it.
        pairs: P pairs of runs.
        shape: N samples, and the number of axes of heatmaps.

    Returns:
        The column; and of each run the raw heatmaps, (N, *space) float32, or None.

    Raises:
        ValueError: If a file is damaged.
        OSError: If one is gone.
    """
    runs, (samples, axes) = len(readers), shape
    predicted = np.full((runs, samples), -1, np.int64)
    targets = np.full((runs, samples), -1, np.int64)
    confidences = np.full((runs, samples), np.nan, np.float32)
    peaks = np.full((runs, samples, axes), np.nan, np.float32)
    values: dict[str, Doubles] = {}
    scalars: dict[str, Doubles] = {}
    maps: list[Floats | None] = [None] * runs
    for run, (reader, epoch) in enumerate(zip(readers, epochs, strict=True)):
        if epoch is not None:
            read = reader.read(epoch)
            maps[run] = read.heatmaps
            predicted[run], targets[run], confidences[run] = read.predicted, read.targets, read.confidences
            peaks[run] = peaks_of(read.heatmaps)
            put(values, read.values, run, (runs, samples))
            put(scalars, read.scalars, run, (runs,))
    # A cat's map and a dog's map of one image differ also where the runs look alike.
    agreed = agreements(maps, pairs) if any(of_run is not None for of_run in maps) else np.nan
    agreement = np.where(unlike(targets, pairs), np.nan, agreed)
    return Column(predicted, targets, confidences, peaks, values, scalars, agreement), maps


def stacked(columns: Sequence[Column]) -> dict[str, Any]:
    """Returns the fields of a comparison that have an axis of epochs, of E columns, of which there is at least one.

    Raises:
        ValueError: If they name more numbers than any logger writes.
    """
    runs, samples = columns[0].predicted.shape
    numbers: dict[str, dict[str, Doubles]] = {"values": {}, "scalars": {}}
    for e, column in enumerate(columns):
        put(numbers["values"], column.values, (slice(None), e), (runs, len(columns), samples))
        put(numbers["scalars"], column.scalars, (slice(None), e), (runs, len(columns)))
    plain = ("predicted", "targets", "confidences", "peaks", "agreement")
    return {name: np.stack([getattr(column, name) for column in columns], axis=1) for name in plain} | numbers


def count_axes(opened: Sequence[Run], called: Sequence[str]) -> int:
    """Returns how many axes the heatmaps of all runs have; raises ValueError where they differ."""
    axes = ["height, width" if run.space is None else ", ".join(run.space.axes) for run in opened]
    counts = [text.count(",") + 1 for text in axes]
    if len(set(counts)) > 1:
        listed = "; ".join(f"{name}: {text}" for name, text in zip(called, axes, strict=True))
        raise ValueError(f"Runs must have heatmaps of as many axes to be compared. Received: {listed}.")
    return counts[0]
