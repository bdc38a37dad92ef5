"""Runs side by side while they are trained: epochs are read as they come, and a page is told what is new."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Floats
from ..store import Run, StoredEpoch, read_run
from . import alignment
from .columns import Column, count_axes, read_column, stacked
from .compared import Compared
from .page import contents, template
from .payload import displays_of, kept_size, levels_of, make_block, make_head, packed
from .reading import Reader

__all__ = ["LiveRuns", "StaleError", "message_page"]

_SIDE, _QUALITY = 224, 80  # of the images, as in a report
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self'"
)
_SIGNS = ("labels", "class_names")  # what a later fit may add to a record, and the page shows of all epochs


class StaleError(Exception):
    """A run is another one than when it was opened: who shows it must begin anew."""


@dataclass(frozen=True, eq=False)
class _ReadColumn:
    """One epoch as it was read, from these heatmap files, and when: by the count of all readings."""

    column: Column
    tops: Floats
    files: tuple[Path | None, ...]
    version: int


class LiveRuns:
    """Some stored runs, read further each time that it is asked for what is new.

    Heatmaps are read one epoch at a time and not kept; what is kept of an epoch is its numbers. It may be called from
    several threads.

    Args:
        folders: Folders of runs, each with an epoch at least.
        view: Which heatmaps, as for `compare`.

    Attributes:
        instance: A random name.

    Raises:
        ValueError: As `compare` does, but for files of single epochs.
        OSError: If a file is gone.
    """

    def __init__(self, folders: Sequence[Path], view: str = "") -> None:
        self.instance = secrets.token_hex(8)
        self._lock = Lock()
        self._view = view
        self._stamps = [_stamp(folder) for folder in folders]
        self._runs = alignment.open_runs([read_run(folder) for folder in folders])
        self._names = alignment.named(self._runs, None)
        alignment.check_view(self._runs, self._names, view)
        self._keys, self._labels, self._left_out = alignment.align_samples(self._runs, self._names)
        self._runs = alignment.counted_alike(self._runs)
        self._axes = count_axes(self._runs, self._names)
        self._pairs = tuple(combinations(range(len(self._runs)), 2))
        self._readers = [Reader(run, self._keys, view) for run in self._runs]
        self._columns: dict[int, _ReadColumn] = {}
        self._version = 0
        self._sizes: list[tuple[int, ...] | None] = [None] * len(self._runs)
        self._damaged: dict[Path, str] = {}
        self._lost: dict[int, str] = {}
        self._displays: list[npt.NDArray[Any]] | None = None
        self._head: dict[str, Any] | None = None

    @property
    def views(self) -> tuple[str, ...]:
        """The views that all runs have."""
        first, *others = (run.epochs[-1].views for run in self._runs)
        return tuple(name for name in first if all(name in of_run for of_run in others))

    # ---- Reading

    def _reload(self) -> None:
        """Reads the logs that have grown."""
        for place, run in enumerate(self._runs):
            try:
                stamp = _stamp(run.directory)
                if stamp == self._stamps[place]:
                    self._lost.pop(place, None)
                    continue
                fresh = read_run(run.directory)
            except (ValueError, OSError) as error:
                self._lost[place] = f"{self._names[place]} can't be read any more; what was read of it stays. {error}"
                continue
            if _is_other(run, fresh):
                raise StaleError(self._names[place])
            self._lost.pop(place, None)
            self._stamps[place] = stamp
            self._runs = (*self._runs[:place], fresh, *self._runs[place + 1 :])
            self._readers[place] = Reader(fresh, self._keys, self._view)
        self._runs = alignment.counted_alike(self._runs)

    def _by_step(self) -> dict[int, tuple[StoredEpoch | None, ...]]:
        stored = [{epoch.step: self._readable(epoch) for epoch in run.epochs} for run in self._runs]
        return {step: tuple(of_run.get(step) for of_run in stored) for step in sorted(set().union(*stored))}

    def _readable(self, epoch: StoredEpoch) -> StoredEpoch | None:
        return None if epoch.heatmap_file in self._damaged else epoch

    def _read(self, seconds: float) -> int:
        """Reads what is new, for about so long, the last epochs first; returns how many epochs are left."""
        end = time.monotonic() + seconds
        self._reload()
        epochs = self._by_step()
        alignment.steps(self._runs)
        due = [step for step in reversed(epochs) if self._is_due(step, epochs[step])]
        for count, step in enumerate(due, 1):
            self._read_step(step)
            if time.monotonic() > end and self._columns:
                return len(due) - count
        return 0

    def _is_due(self, step: int, epochs: Sequence[StoredEpoch | None]) -> bool:
        read, files = self._columns.get(step), _files(epochs)
        return files != (read.files if read else (None,) * len(files))

    def _read_step(self, step: int) -> None:
        """Reads one epoch; what is damaged of it is left out, and remembered."""
        epochs = self._by_step()[step]
        shape = (len(self._keys), self._axes)
        try:
            column, maps = read_column(self._readers, epochs, self._pairs, shape)
        except (ValueError, OSError):
            # One at a time tells whose it is.
            for run, epoch in enumerate(epochs):
                if epoch is None:
                    continue
                try:
                    self._readers[run].read(epoch)
                except (ValueError, OSError) as error:
                    self._damaged[epoch.heatmap_file] = f"Epoch {step} of {self._names[run]} is left out. {error}"
            epochs = self._by_step()[step]
            column, maps = read_column(self._readers, epochs, self._pairs, shape)
        if self._displays is None:
            # How many axes they have is what counts here, and volumes are large.
            displays = displays_of(self._whole([step], [column]))
            self._displays = [np.empty((0,) * display.ndim, np.uint8) for display in displays]
        tops = np.zeros(column.predicted.shape, np.float32)
        for run, of_run in enumerate(maps):
            if of_run is not None:
                _, tops[run] = self._levels(run, of_run)
        self._version += 1
        self._columns[step] = _ReadColumn(column, tops, _files(epochs), self._version)

    def _levels(self, run: int, maps: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
        displays = self._displays or []
        size = self._sizes[run]
        if size is None:
            size = self._sizes[run] = kept_size(maps, displays)[1]
        return levels_of(maps, size, displays)

    def _whole(self, steps: Sequence[int], columns: Sequence[Column]) -> Compared:
        """The comparison of some epochs."""
        runs = tuple(
            replace(run, epochs=tuple(epoch for epoch in run.epochs if self._readable(epoch))) for run in self._runs
        )
        return Compared(
            names=self._names,
            runs=runs,
            view=self._view,
            sample_keys=self._keys,
            labels=self._labels,
            class_names=alignment.class_names(self._runs, self._names),
            epochs=tuple(steps),
            pairs=self._pairs,
            **stacked(columns),
            differences=alignment.differences(self._runs, self._keys),
            left_out=self._left_out,
        )

    def _compared(self) -> Compared:
        epochs = [[epoch for epoch in run.epochs if self._readable(epoch)] for run in self._runs]
        if empty := [name for name, of_run in zip(self._names, epochs, strict=True) if not of_run]:
            raise ValueError(f"No epoch of {', '.join(empty)} can be read. {' '.join(self.problems())}")
        steps = [step for step, read in sorted(self._columns.items()) if any(read.files)]
        return self._whole(steps, [self._columns[step].column for step in steps])

    # ---- Answers

    def problems(self) -> list[str]:
        """Says what of the runs can't be read."""
        return [*self._lost.values(), *list(self._damaged.values())[:3]]

    def news(self, since: int, seconds: float) -> dict[str, Any]:
        """Returns what the page is to be told.

        Args:
            since: The "version" of the last answer, 0 for none.
            seconds: How long epochs may be read for this answer; one at least is.

        Returns:
            As `payload.make_block`, of the epochs that are new; with "instance", "version", "left" (how many epochs are
            still to be read), "shapes" (R sizes of kept maps, null where none was read yet) and "problems" (texts). The
            first answer has what `payload.make_head` returns, too; its pictures have the sources "picture/<i>/<part>".

        Raises:
            StaleError: If a run is another one than before.
            ValueError: If no epoch of a run can be read.
            OSError: If files of the samples are gone.
        """
        with self._lock:
            left = self._read(seconds)
            comparison = self._compared()
            columns = [self._columns[step] for step in comparison.epochs]
            new = [place for place, read in enumerate(columns) if read.version > since]
            shape = (len(self._runs), 0, len(self._keys))
            tops = np.stack([columns[place].tops for place in new], axis=1) if new else np.empty(shape, np.float32)
            named = range(len(columns))
            answer: dict[str, Any] = {
                "instance": self.instance,
                "version": self._version,
                "left": left,
                "shapes": [None if size is None else list(size) for size in self._sizes],
                "problems": self.problems(),
                **make_block(comparison, tops, new, named=named, means=new),
            }
            if since == 0:
                head = dict(self._made_head(comparison))
                head["images"] = [_linked(image, i) for i, image in enumerate(head["images"])]
                answer |= head
            return answer

    def _made_head(self, comparison: Compared) -> dict[str, Any]:
        if self._head is None:
            self._head = make_head(comparison, _SIDE, _QUALITY)
        return self._head

    def page(self, live: dict[str, Any], seconds: float) -> str:
        """Returns the page, whose scripts then ask for the rest.

        Args:
            live: What its template says of runs to choose from.
            seconds: As for `news`; raises as that does.
        """
        with self._lock:
            left = self._read(seconds)
            comparison = self._compared()
            head = self._made_head(comparison)
            return template("report.html.jinja").render(
                contents(comparison, left),
                live={"view": self._view or next(iter(self.views), ""), "views": self.views, **live},
                kind=head["kind"],
                slices=head["slices"],
                notes=self._notes(),
                policy=_POLICY,
            )

    def _notes(self) -> list[str]:
        return [
            f"{len(keys)} samples of {name} are left out, as not all runs have them."
            for name, keys in self._left_out.items()
        ]

    def picture(self, sample: int, part: str) -> str | None:
        """Returns a picture of the page as a data URL; None where there is no such."""
        with self._lock:
            if self._head is None:
                self._read(0)
            images = (self._head or self._made_head(self._compared()))["images"]
        return images[sample].get(part) if 0 <= sample < len(images) and part in _PARTS else None

    def maps(self, wanted: Iterable[tuple[int, int]]) -> dict[str, Any]:
        """Returns heatmaps in bytes.

        Args:
            wanted: Runs by their places, and steps.

        Returns:
            By "<run>:<step>" an array as `payload.packed` returns it, (N, *shape) uint8; null where there is none.
        """
        answer: dict[str, Any] = {}
        for run, step in wanted:
            made = None
            if 0 <= run < len(self._runs):
                epoch = next((epoch for epoch in self._runs[run].epochs if epoch.step == step), None)
                try:
                    if epoch is not None:
                        made = packed(self._levels(run, self._readers[run].heatmaps(epoch))[0], np.uint8)
                except (ValueError, OSError):
                    made = None  # It is gone: the page goes on without it.
            answer[f"{run}:{step}"] = made
        return answer


_PARTS = ("source", "thumb", "ink")


def _linked(image: dict[str, Any], sample: int) -> dict[str, Any]:
    return image | {part: f"picture/{sample}/{part}" for part in _PARTS if part in image}


def _stamp(folder: Path) -> tuple[Any, ...]:
    """Tells one state of a record from another without reading it; raises OSError where it is gone."""
    stats = [os.stat(folder / name) for name in ("manifest.json", "metrics.jsonl")]
    return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def _files(epochs: Iterable[StoredEpoch | None]) -> tuple[Path | None, ...]:
    return tuple(None if epoch is None else epoch.heatmap_file for epoch in epochs)


def _is_other(old: Run, new: Run) -> bool:
    """Tells whether what was shown of a run is not true of it any more."""
    steps = {epoch.step for epoch in new.epochs}
    gone = any(epoch.step not in steps for epoch in old.epochs)
    return gone or old.manifest != new.manifest or any(old.latest.get(n) != new.latest.get(n) for n in _SIGNS)


def message_page(message: str, live: dict[str, Any]) -> str:
    """Returns the page where there is nothing to show, which looks again by and by.

    Args:
        message: Why.
        live: What its template says of runs to choose from.
    """
    return template("report_message.html.jinja").render(
        message=message, live={"view": "", "views": (), **live}, policy=_POLICY
    )
