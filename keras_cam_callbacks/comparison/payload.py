"""What a report's page is made from: small pictures, heatmaps in bytes and numbers, as plain values for JSON."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..drawing.colours import colorize
from ..drawing.unfolding import as_pictures
from ..metrics import degenerate, mean
from ..records import Floats
from ..space import resize
from .compared import Compared, epoch_numbers, ordered, row_of
from .displays import kind_of_samples, make_displays, shown_samples

__all__ = [
    "MAP_SIDE",
    "MAP_SIDES",
    "PALETTES",
    "displays_of",
    "epoch_means",
    "kept_size",
    "levels_of",
    "make_block",
    "make_head",
    "make_payload",
    "packed",
    "thinned",
]

Doubles = npt.NDArray[np.float64]

MAP_SIDE = 32  # px: the longer side of what is kept of a heatmap
MAP_SIDES = {1: 256, 3: 16}  # cells along each axis of what is kept of maps of signals, and of volumes and clips
PALETTES = ("viridis", "cividis", "turbo")

_MISSING = 65535
# What tells that the heat has left the object, the best first.
_LOSSES = {
    "energy_in_region": "how far it is below the best of the epochs so far",
    "first_drift": "how far the heatmap is from that of the first epoch",
    "area": "how much it has grown since the first epoch",
}


def thinned(held: npt.NDArray[np.bool_], most: int | None) -> list[int]:
    """Returns the places of at most `most` epochs, evenly spaced, with each run's first and last one where they fit.

    Args:
        held: (R, E) bool, which epochs each run has.
        most: The greatest number; None for all.
    """
    count = held.shape[1]
    if most is None or count <= most:
        return list(range(count))
    places = set(np.linspace(0, count - 1, most).round().astype(int).tolist())
    needed = {int(place) for epochs in held for place in np.flatnonzero(epochs)[[0, -1]]}
    for place in sorted(needed - places):
        spare = places - needed
        if spare:
            places.remove(min(spare, key=lambda other: abs(other - place)))
            places.add(place)
    return sorted(places)


def make_payload(comparison: Compared, shown: Sequence[int], image_side: int, image_quality: int) -> dict[str, Any]:
    """Returns what the page of a report is made from: `make_head`, and `make_block` with all heatmaps.

    Args:
        comparison: The compared runs.
        shown: Places of the epochs that have heatmaps and numbers of each sample.
        image_side: The longer side of the images, in px; smaller ones keep their size.
        image_quality: Of the JPEG files, 1 to 100.

    Returns:
        Plain values, as JSON has them. Arrays are {"kind": dtype, "data": base64 of gzip of little-endian bytes}.

    Raises:
        ValueError: If a file of a run is damaged.
        OSError: If one is gone.
    """
    held = comparison.held()
    tops, runs = _heatmaps(comparison, shown, held)
    block = make_block(comparison, tops, shown, named=shown, means=range(held.shape[1]))
    return {**make_head(comparison, image_side, image_quality), **block, "runs": runs}


def make_head(comparison: Compared, image_side: int, image_quality: int) -> dict[str, Any]:
    """Returns what stays the same in all epochs; arguments, form and errors as of `make_payload`."""
    return {
        "names": list(comparison.names),
        "keys": list(comparison.sample_keys),
        "labels": list(comparison.labels),
        "classes": None if comparison.class_names is None else list(comparison.class_names),
        "unit": comparison.unit,
        "pairs": [list(pair) for pair in comparison.pairs],
        "targets": [str(run.manifest["target"]) for run in comparison.runs],
        **make_displays(comparison, image_side, image_quality),
        "colormaps": {
            name: packed(colorize(np.arange(256, dtype=np.uint8)[None], name), np.uint8) for name in PALETTES
        },
    }


def make_block(
    comparison: Compared, tops: Floats, shown: Sequence[int], *, named: Sequence[int], means: Sequence[int]
) -> dict[str, Any]:
    """Returns the numbers of some epochs, and what is said of all of them together.

    Args:
        comparison: The compared runs.
        tops: (R, len(shown), N) float32, the largest value of each map.
        shown: Places of the epochs of which the numbers of each sample are given.
        named: Places of the epochs that have the numbers which are listed.
        means: Places of the epochs of which the runs' means are given.

    Returns:
        As `make_payload`; without "runs".
    """
    values = {**comparison.values, "confidence": comparison.confidences.astype(np.float64)}
    known = [name for name in ordered(values) if np.isfinite(values[name][:, named]).any()]
    scalars = epoch_means(comparison)
    loss = next((name for name in _LOSSES if name in known), None)
    held = comparison.held()
    return {
        "epochs": [comparison.epochs[place] for place in shown],
        "allEpochs": [comparison.epochs[place] for place in means],
        "has": [[bool(of_run[place]) for place in shown] for of_run in held],
        "maxima": packed(tops, np.float32),
        "predicted": packed(np.clip(comparison.predicted[:, shown], -1, 2**31 - 1), np.int32),
        "metrics": [
            {"name": name, "about": row_of(name).about, "range": _range(values[name][:, shown])} for name in known
        ],
        "values": packed([_coded(values[name][:, shown]) for name in known], np.uint16),
        "agreement": packed(_coded(comparison.agreement[:, shown], (-1, 1)), np.uint16),
        "disagreement": [_number(value) for value in comparison.disagreement()],
        "parted": [None if epoch < 0 else int(epoch) for epoch in comparison.parted()],
        "loss": None if loss is None else {"name": loss, "about": _LOSSES[loss]},
        "charts": [{"name": name, "about": row_of(name).about} for name in scalars],
        "scalars": packed([of[:, means] for of in scalars.values()], np.float64),
        "pairMeans": [[_number(value) for value in row] for row in mean(comparison.agreement, 2)[:, means]],
    }


def packed(array: npt.ArrayLike, dtype: Any) -> dict[str, str]:
    """Returns an array as the page unpacks it; the same array always gives the same text."""
    kind = np.dtype(dtype)
    data = np.ascontiguousarray(array, kind.newbyteorder("<")).tobytes()
    # Without the time, so that the same runs give the same file.
    return {"kind": kind.name, "data": base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")}


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _range(values: Doubles) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 0.0
    return float(finite.min()), float(finite.max())


def _coded(values: Doubles, limits: tuple[float, float] | None = None) -> npt.NDArray[np.uint16]:
    """Numbers in 16 bits between their least and largest, or `limits`; what is not finite has the last code."""
    codes = np.full(values.shape, _MISSING, np.uint16)
    known = np.isfinite(values)
    low, high = limits or _range(values)
    codes[known] = np.round((values[known] - low) / ((high - low) or 1) * (_MISSING - 1))
    return codes


def _heatmaps(
    comparison: Compared, shown: Sequence[int], held: npt.NDArray[np.bool_]
) -> tuple[Floats, list[dict[str, Any]]]:
    """(R, E, N) each map's largest value, 0 where it is degenerate or missing; and of each run its maps in bytes."""
    tops = np.zeros((len(comparison.names), len(shown), len(comparison.sample_keys)), np.float32)
    runs, displays = [], displays_of(comparison)
    for run in range(len(comparison.names)):
        levels: list[npt.NDArray[np.uint8]] = []
        size: tuple[int, ...] = (1, 1)
        kept = size
        for e, place in enumerate(shown):
            maps = comparison.heatmaps(run, comparison.epochs[place]) if held[run, place] else None
            if maps is None:
                continue
            # Other epochs of the run are brought to the size of the first, should they differ from it.
            if not levels:
                size, kept = kept_size(maps, displays)
            of_epoch, tops[run, e] = levels_of(maps, kept, displays)
            levels.append(of_epoch)
        runs.append(
            {
                "shape": list(kept),
                "pooled": None if size == kept else list(size),
                "maps": packed(np.array(levels, np.uint8), np.uint8),
            }
        )
    return tops, runs


def displays_of(comparison: Compared) -> list[npt.NDArray[Any]]:
    """Returns what maps must be laid on to be drawn, of signals, volumes and clips; of images nothing is needed."""
    return shown_samples(comparison) if kind_of_samples(comparison) != "image" else []


def kept_size(maps: Floats, displays: Sequence[npt.NDArray[Any]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the size of maps as they are drawn, and that in which they are kept."""
    size = (as_pictures(displays, maps) if displays else maps).shape[1:]
    return size, _pooled(size)


def levels_of(
    maps: Floats, kept: tuple[int, ...], displays: Sequence[npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Returns heatmaps in bytes.

    Args:
        maps: (N, *space) float32, raw.
        kept: The size in which they are kept.
        displays: As `displays_of` returns it.

    Returns:
        (N, *kept) uint8, each map's positive part from 0 to 255, which is its largest value; and (N,) float32 these
        values, 0 where a map is degenerate.
    """
    maps = as_pictures(displays, maps) if displays else maps
    axes = tuple(range(1, maps.ndim))
    # Sums of float32 can overflow.
    positive = np.where(np.expand_dims(degenerate(maps), axes), 0, np.maximum(maps, 0)).astype(np.float64)
    space = maps.shape[1:]
    if space != kept:
        smaller = all(new <= old for new, old in zip(kept, space, strict=True))
        positive = resize(positive, kept, "area" if smaller else "linear")
    tops = positive.max(axis=axes).astype(np.float32)
    return _bytes(positive, tops), tops


def _pooled(size: tuple[int, ...]) -> tuple[int, ...]:
    if len(size) != 2:
        return tuple(min(side, MAP_SIDES[len(size)]) for side in size)
    factor = min(1.0, MAP_SIDE / max(size))
    return tuple(max(1, round(side * factor)) for side in size)


def _bytes(positive: Doubles, tops: Floats) -> npt.NDArray[np.uint8]:
    """Each map's values from 0 to 255, which is its largest one."""
    scale = np.expand_dims(np.where(tops > 0, tops, 1).astype(np.float64), tuple(range(1, positive.ndim)))
    return np.round(positive / scale * 255).astype(np.uint8)


def epoch_means(comparison: Compared) -> dict[str, Doubles]:
    """Returns (R, E) numbers of each epoch by name, in the order of reading: means over the compared samples."""
    every = epoch_numbers(comparison) | {comparison.right_name: mean(comparison.correct(), 2)}
    every.setdefault("confidence", mean(comparison.confidences, 2))
    return {name: every[name] for name in ordered(every) if np.isfinite(every[name]).any()}
