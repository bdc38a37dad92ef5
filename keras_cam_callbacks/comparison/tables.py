"""A comparison as rows of plain values, and as files of these: CSV that spreadsheets can open, and JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..metrics import mean, means_by_class
from ..store.whole import whole_file
from .compared import Compared, Doubles, epoch_numbers

__all__ = ["rows", "write_csv", "write_json"]

GRAINS = ("sample", "epoch", "class", "predicted")
# A spreadsheet takes a cell for a formula that begins with one of these, also behind spaces, also in full width.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def rows(comparison: Compared, grain: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table one after the other; see `Comparison.table`."""
    if grain not in GRAINS:
        raise ValueError(f'`grain` must be one of {", ".join(GRAINS)}. Received: {grain!r}. grain="epoch" is short.')
    held = comparison.held()
    of_epoch = _of_samples if grain == "sample" else _of_epoch
    if grain in ("class", "predicted"):
        for run in range(len(comparison.names)):
            for place in np.flatnonzero(held[run]).tolist():
                yield from of_classes(comparison, run, place, grain == "predicted")
        return
    numbers = dict(comparison.values) if grain == "sample" else epoch_numbers(comparison)
    right = comparison.correct()
    for run in range(len(comparison.names)):
        for place in np.flatnonzero(held[run]).tolist():
            yield from of_epoch(comparison, run, place, numbers, right[run, place])


def _of_samples(
    comparison: Compared, run: int, place: int, numbers: Mapping[str, Any], right: Doubles
) -> Iterator[dict[str, Any]]:
    columns = {name: values[run, place] for name, values in numbers.items()}
    columns = _agreements(comparison, run, place) | columns
    listed = {name: [_plain(value) for value in column.tolist()] for name, column in columns.items()}
    predicted = comparison.predicted[run, place].tolist()
    targets = comparison.targets[run, place].tolist()
    confidences = comparison.confidences[run, place].astype(np.float64).tolist()
    place_of = _place(comparison, run, place)
    for i, (key, label) in enumerate(zip(comparison.sample_keys, comparison.labels, strict=True)):
        found = predicted[i] if predicted[i] >= 0 else None
        row = {
            "run": comparison.names[run],
            **place_of,
            "sample": key,
            "label": label,
            "label_name": comparison.class_name(label),
            "predicted": found,
            "predicted_name": comparison.class_name(found),
            "explained": targets[i] if targets[i] >= 0 else None,
            "correct": None if math.isnan(right[i]) else bool(right[i]),
            "confidence": _plain(confidences[i]),
        }
        yield row | {name: column[i] for name, column in listed.items() if name not in row}


def _of_epoch(
    comparison: Compared, run: int, place: int, numbers: Mapping[str, Any], right: Doubles
) -> Iterator[dict[str, Any]]:
    agreements = {name: mean(each, 0) for name, each in _agreements(comparison, run, place).items()}
    columns = agreements | {name: values[run, place] for name, values in numbers.items()}
    confidence = mean(comparison.confidences[run, place], 0)
    row = {
        "run": comparison.names[run],
        **_place(comparison, run, place),
        "samples": len(comparison.sample_keys),
        comparison.right_name: _plain(float(mean(right, 0))),
        "confidence": _plain(float(confidence)),
    }
    yield row | {name: _plain(float(value)) for name, value in columns.items() if name not in row}


def of_classes(comparison: Compared, run: int, place: int, predicted: bool = False) -> Iterator[dict[str, Any]]:
    """Yields a row for each class of an epoch of a run: the means over the samples that have it.

    Args:
        comparison: The runs.
        run: Which of them.
        place: Which of the epochs.
        predicted: Whether it is the predicted classes; else the true ones.
    """
    classes: Any = comparison.predicted[run, place].tolist() if predicted else comparison.labels
    right = comparison.correct()[run, place]
    values = {comparison.right_name: right, "confidence": comparison.confidences[run, place].astype(np.float64)}
    values |= {name: of_run[run, place] for name, of_run in comparison.values.items() if name not in values}
    for one, means in means_by_class(values, classes).items():
        yield {
            "run": comparison.names[run],
            **_place(comparison, run, place),
            "predicted" if predicted else "label": one,
            "predicted_name" if predicted else "label_name": comparison.class_name(one),
            **{name: _plain(value) for name, value in means.items()},
        }


def _place(comparison: Compared, run: int, place: int) -> dict[str, int]:
    """Returns the columns that say when it was: the epoch; where runs count training steps, the step too."""
    step = comparison.epochs[place]
    if comparison.unit == "epoch":
        return {"epoch": step}
    stored = comparison.stored(run, step)
    assert stored is not None
    return {"epoch": stored.epoch, "step": step}


def _agreements(comparison: Compared, run: int, place: int) -> dict[str, Any]:
    """Returns (N,) a run's mean agreement with the others; of more than two runs also that with each."""
    with_each = {
        comparison.names[one + other - run]: comparison.agreement[pair, place]
        for pair, (one, other) in enumerate(comparison.pairs)
        if run in (one, other)
    }
    if not with_each:
        return {}
    nothing = np.full(len(comparison.sample_keys), np.nan)  # with itself
    each = {f"agreement with {name}": with_each.get(name, nothing) for name in comparison.names}
    return {"agreement": mean(np.stack(list(with_each.values())), 0)} | (each if len(comparison.names) > 2 else {})


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_csv(comparison: Compared, path: str | Path, grain: str) -> None:
    """Writes a table as CSV; see `Comparison.to_csv`."""
    lines = rows(comparison, grain)
    with whole_file(Path(path), overwrite=True) as temporary, _opened(temporary) as file:
        writer = csv.writer(file)
        for i, row in enumerate(lines):
            if i == 0:
                writer.writerow(map(_defused, row))
            writer.writerow(map(_defused, row.values()))


def _defused(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(_FORMULA) else cell


def write_json(comparison: Compared, path: str | Path, grain: str) -> None:
    """Writes a table as JSON; see `Comparison.to_json`."""
    lines = rows(comparison, grain)
    with whole_file(Path(path), overwrite=True) as temporary, _opened(temporary) as file:
        for i, row in enumerate(lines):
            file.write(",\n" if i else "[\n")
            file.write(json.dumps(row, allow_nan=False))
        file.write("\n]\n")


def _opened(path: Path) -> TextIO:
    # Lone surrogates, as JSON may hold them, are no UTF-8.
    return open(path, "x", encoding="utf-8", errors="backslashreplace", newline="")
