"""What a stored epoch holds of the samples that are compared, checked, and how far two epochs' heatmaps agree."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics import REGISTRY, degenerate
from ..metrics.agreement import correlated, standardized
from ..records import Floats, Ints
from ..space import resize
from ..store import Run, StoredEpoch, check_file
from ..store.arrays import is_known

__all__ = ["Reader", "SampleEpoch", "agreements", "peaks_of", "put", "unlike"]

Doubles = npt.NDArray[np.float64]

_ENCRYPTED = 1  # flag of a member of a zip file
_MOST_NAMES = 1000  # numbers that are kept; no logger writes nearly as many
_CHUNK = 2**25  # bytes of float64 maps that are correlated at once


@dataclass(frozen=True, eq=False)
class SampleEpoch:
    """One epoch of one run, its rows in the order of the comparison's samples.

    Attributes:
        heatmaps: (N, *space) float32, raw.
        predicted: (N,) int64, -1 where none.
        targets: (N,) int64, the explained classes, -1 where a score is explained that is no class's.
        confidences: (N,) float32, NaN where none.
        values: (N,) float64 by name, without the view's name.
        scalars: Numbers by name, without the view's name.
    """

    heatmaps: Floats
    predicted: Ints
    targets: Ints
    confidences: Floats
    values: Mapping[str, Doubles]
    scalars: Mapping[str, float]


class Reader:
    """Reads the epochs of one run.

    Args:
        run: The run.
        keys: The N sample keys that are compared, all of which the run has.
        view: Which view; "" for the first. A run without views has its only one in every comparison.
    """

    def __init__(self, run: Run, keys: Sequence[str], view: str = "") -> None:
        places = {key: row for row, key in enumerate(run.sample_keys)}
        self._rows = np.array([places[key] for key in keys], np.int64)
        self._count = len(places)
        self._run = run
        self._view = view

    def read(self, epoch: StoredEpoch) -> SampleEpoch:
        """Reads one epoch.

        Raises:
            ValueError: If its arrays are damaged, don't fit the manifest, hold no heatmaps, or lack the view.
            OSError: If their file is gone.
        """
        place = self._place(epoch)
        arrays = self._arrays(epoch)
        heatmaps = self._heatmaps(epoch, arrays, place)
        ending = f"_{place}" if place else ""
        predicted = self._column(epoch, arrays, f"predicted{ending}", "iu")
        targets = self._column(epoch, arrays, f"targets{ending}", "iu")
        confidences = self._column(epoch, arrays, f"confidences{ending}", "f")
        values = np.asarray(arrays.get("values", np.empty((0, self._count))))
        shape = (len(epoch.value_names), self._count)
        if values.shape != shape or values.dtype.kind != "f":
            raise self._wrong(epoch, f"values of shape {values.shape} and type {values.dtype}, not float {shape}")
        names = self._names(epoch, epoch.value_names)
        return SampleEpoch(
            heatmaps=heatmaps,
            predicted=predicted.astype(np.int64),
            targets=targets.astype(np.int64),
            confidences=confidences.astype(np.float32),
            values={name: values[row, self._rows].astype(np.float64) for name, row in names.items()},
            scalars={name: list(epoch.scalars.values())[i] for name, i in self._names(epoch, epoch.scalars).items()},
        )

    def heatmaps(self, epoch: StoredEpoch) -> Floats:
        """Reads the raw heatmaps of one epoch, (N, *space) float32; raises as `read` does."""
        return self._heatmaps(epoch, self._arrays(epoch), self._place(epoch))

    def _place(self, epoch: StoredEpoch) -> int:
        if not self._view or not epoch.views:
            return 0
        if self._view not in epoch.views:
            raise self._wrong(epoch, f"the views {list(epoch.views)}, without {self._view!r}")
        return epoch.views.index(self._view)

    def _names(self, epoch: StoredEpoch, names: Any) -> dict[str, int]:
        """Which of the names are of this view, without its lead, and where they stand."""
        views = sorted(epoch.views, key=len, reverse=True)  # "true_top" before "true"
        mine = epoch.views[self._place(epoch)] if epoch.views else ""
        found: dict[str, int] = {}
        for row, name in enumerate(names):
            leads = [view for view in views if name.startswith(f"{view}_")]
            # "true_top_iou" is a number of the view "true", also where there is a view "true_top".
            lead = next((view for view in leads if name[len(view) + 1 :] in REGISTRY), leads[0] if leads else "")
            if lead in ("", mine):
                found[name[len(lead) + 1 :] if lead else name] = row
        return found

    def _arrays(self, epoch: StoredEpoch) -> dict[str, npt.NDArray[Any]]:
        check_file(epoch.heatmap_file)
        try:
            with zipfile.ZipFile(epoch.heatmap_file) as file:
                members = [member for member in file.infolist() if is_known(member.filename)]
        except zipfile.BadZipFile:
            members = []  # `arrays` says what is wrong.
        # So that no small file is unpacked into all memory; ours are stored as they are.
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED for member in members):
            raise self._wrong(epoch, "compressed or encrypted arrays")
        if sum(member.file_size for member in members) > epoch.heatmap_file.stat().st_size:
            raise self._wrong(epoch, "arrays larger than the file")
        return epoch.arrays()

    def _heatmaps(self, epoch: StoredEpoch, arrays: Mapping[str, npt.NDArray[Any]], place: int) -> Floats:
        name = f"heatmaps_{place}" if place else "heatmaps"
        if name not in arrays:
            raise ValueError(
                "Runs must have heatmaps to be compared. "
                f"Received: {self._run.directory} ({self._run.manifest['method']}), whose step {epoch.step} has none. "
                "Records of GradCAMLogger, CAMLogger and HeatmapLogger work."
            )
        maps = arrays[name]
        space = self._run.space
        axes = 2 if space is None else len(space.axes)
        if maps.ndim != 1 + axes or len(maps) != self._count or 0 in maps.shape or maps.dtype.kind != "f":
            received = f"heatmaps of shape {maps.shape} and type {maps.dtype}, not float of {1 + axes} axes"
            raise self._wrong(epoch, received)
        return np.asarray(maps[self._rows], np.float32)

    def _column(
        self, epoch: StoredEpoch, arrays: Mapping[str, npt.NDArray[Any]], name: str, kinds: str
    ) -> npt.NDArray[Any]:
        column = arrays.get(name)
        if column is None or column.shape != (self._count,) or column.dtype.kind not in kinds:
            held = "no such array" if column is None else f"shape {column.shape} and type {column.dtype}"
            raise self._wrong(epoch, f"{held} for {name!r}")
        return column[self._rows]

    def _wrong(self, epoch: StoredEpoch, received: str) -> ValueError:
        return ValueError(
            f"A heatmap file must fit its run's manifest, with {self._count} samples. "
            f"Received: {epoch.heatmap_file} with {received}. "
            f"Delete the line of step {epoch.step} from metrics.jsonl to do without it."
        )


def put(into: dict[str, Doubles], found: Mapping[str, Any], place: Any, shape: tuple[int, ...]) -> None:
    """Puts numbers by name at one place of arrays of that shape, which are NaN elsewhere.

    Raises:
        ValueError: If a record has more names than any logger writes.
    """
    for name, value in found.items():
        if name not in into:
            if len(into) == _MOST_NAMES:
                raise ValueError(
                    f"Records must name at most {_MOST_NAMES} numbers. Received: {name!r} beyond these. "
                    "Leave out the run that has it."
                )
            into[name] = np.full(shape, np.nan)
        into[name][place] = value


def unlike(targets: Ints, pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Tells which maps of pairs of runs explain different classes, and so can't be compared.

    Args:
        targets: (R, ..., N) int64, the explained classes, -1 where a score is explained that is no class's: such a
            score is no class, and the same as another one as far as is known.
        pairs: P pairs of runs.

    Returns:
        (P, ..., N) bool.
    """
    differ = [targets[one] != targets[other] for one, other in pairs]
    return np.array(differ, np.bool_).reshape(len(pairs), *targets.shape[1:])


def agreements(maps: Sequence[Floats | None], pairs: Sequence[tuple[int, int]]) -> Doubles:
    """Measures how far the heatmaps of pairs of runs agree: Pearson's correlation of their positive parts.

    As `metrics.correlation` does for maps of one size. Of two sizes, the positive parts are resized linearly to the
    larger size along each axis first.

    Args:
        maps: R times (N, *space) float32, raw; or None where a run has none.
        pairs: P pairs of runs.

    Returns:
        (P, N) float64 in [-1, 1]; NaN where either map is missing or degenerate (see `metrics.degenerate`).
    """
    count = next((len(each) for each in maps if each is not None), 0)
    found = np.full((len(pairs), count), np.nan)
    size = max((each[0].size for each in maps if each is not None and len(each)), default=1)
    step = max(1, _CHUNK // (8 * size * max(1, len(maps))))
    for start in range(0, count, step):
        chunk = slice(start, start + step)
        standards: dict[tuple[int, tuple[int, ...]], Doubles] = {}
        for pair, (one, other) in enumerate(pairs):
            first, second = maps[one], maps[other]
            if first is None or second is None:
                continue
            common = tuple(np.maximum(first.shape[1:], second.shape[1:]).tolist())
            for run, each in ((one, first), (other, second)):
                if (run, common) not in standards:
                    standards[run, common] = _standards(each[chunk], common)
            found[pair, chunk] = correlated(standards[one, common], standards[other, common])
    return found


def peaks_of(maps: Floats) -> Floats:
    """Finds where heatmaps are highest.

    Args:
        maps: (N, *space) float32, raw.

    Returns:
        (N, axes) float32 in [0, 1], the middle of each map's highest position as shares of the axes, from the last one
        to the first: of images x and y, of volumes and clips what lies along the first axis behind them; NaN where a
        map is degenerate.
    """
    space = maps.shape[1:]
    places = np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), space)
    shares = [(place + 0.5) / side for place, side in zip(places, space, strict=True)]
    peaks = np.stack(shares[::-1], axis=1).astype(np.float32)
    peaks[degenerate(maps)] = np.nan
    return peaks


def _standards(maps: Floats, size: tuple[int, ...]) -> Doubles:
    """(N, positions) maps of that size as `correlated` takes them; NaN where degenerate."""
    valid = ~degenerate(maps)
    positive = np.maximum(maps[valid], 0)
    if positive.shape[1:] != size:
        positive = resize(positive, size)
    standards = np.full((len(maps), math.prod(size)), np.nan)
    standards[valid] = standardized(positive.reshape(len(positive), math.prod(size)))
    return standards
