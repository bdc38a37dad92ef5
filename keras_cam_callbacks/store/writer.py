"""What a run writes: its folder, and one epoch after the other."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from keras_cam_callbacks.records import EpochRecord, RunConfig

from .manifest import MANIFEST, check_file, differing, manifest_of, plain, read_manifest, same_run
from .reader import LOG

try:
    import fcntl
except ImportError:  # On Windows two processes that write at the same moment are told apart by the log's size alone.
    fcntl = None  # type: ignore[assignment]

_LOCK_SECONDS = 5.0


def _put_file(path: Path, data: bytes) -> None:
    # The temporary name is fixed: what a killed process leaves behind is used again, not heaped up.
    temporary = path.with_name(f".new{path.suffix}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:  # Half a file on a full disk.
        temporary.unlink(missing_ok=True)


def _put_folder(path: Path, files: Mapping[str, bytes]) -> None:
    temporary = path.with_name(".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class RunWriter:
    """Writes the record of a run, one epoch at a time.

    The manifest and the display images are written at once. A folder that holds a record of the same run is
    continued. One writer at a time may write to a folder: the log is locked while an epoch is written. Nothing is kept
    open between epochs.

    Args:
        config: The run; `config.directory` is its folder.

    Raises:
        ValueError: If the folder holds the record of another run, or a damaged one.
        RuntimeError: If another process is writing to the folder.
        OSError: If the folder can't be written to.
    """

    def __init__(self, config: RunConfig):
        self._directory = config.directory
        self._keys = config.sample_keys
        self._log = config.directory / LOG
        manifest = manifest_of(config)
        self._files: dict[str, str] = manifest["files"]
        self._directory.mkdir(parents=True, exist_ok=True)
        if (self._directory / MANIFEST).exists():
            stored = read_manifest(self._directory)
            if not same_run(stored, manifest):
                names = ", ".join(differing(stored, manifest))
                raise ValueError(
                    f"A run folder must belong to one run. Received: {self._directory}, whose record "
                    f"differs in {names}. Pass another log_dir or prefix."
                )
        else:
            _put_file(self._directory / MANIFEST, json.dumps(manifest, indent=2).encode("utf-8"))
        # After the manifest, which says whose pictures these are.
        masks = {
            key: np.dstack([region.mask.astype(np.uint8) * 255] * 3)
            for key, region in zip(self._keys, config.regions, strict=bool(config.regions))
            if region is not None and region.mask is not None
        }
        self._put_pictures("regions", masks)
        self._put_pictures("images", dict(zip(self._keys, config.display, strict=True)))
        self._log.touch()
        with self._claimed_log() as log:
            self._end = log.seek(0, os.SEEK_END)
            if self._end:
                log.seek(-1, os.SEEK_END)
                # A process that was killed may leave half a line: ours start on a fresh one.
                if log.read(1) != b"\n":
                    self._end += log.write(b"\n")

    def _put_pictures(self, name: str, pictures: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """Puts a folder of PNG files into place, one for each sample key, unless it is there already."""
        if not pictures or (self._directory / name).exists():
            return
        from keras_cam_callbacks.drawing.files import encode

        files = {f"{self._files[key]}.png": encode(picture, "png") for key, picture in pictures.items()}
        _put_folder(self._directory / name, files)

    @contextmanager
    def _claimed_log(self) -> Iterator[BinaryIO]:
        """Opens the log to append to it, while no other process can do the same.

        Raises:
            RuntimeError: If another process is writing for longer than an epoch takes. One that only looks, and finds
                that it is not the only writer, is gone in a moment.
        """
        check_file(self._log)
        with open(self._log, "rb+") as log:
            until = time.monotonic() + _LOCK_SECONDS
            while fcntl is not None:
                try:
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > until:
                        raise RuntimeError(self._other_writer()) from error
                    time.sleep(0.01)
                except OSError:  # A network disk without locks.
                    break
            try:
                yield log
                log.flush()
            finally:
                if fcntl is not None:
                    with suppress(OSError):  # Not by closing alone: a process that was forked meanwhile has it open.
                        fcntl.flock(log, fcntl.LOCK_UN)

    def _other_writer(self) -> str:
        return (
            f"A run folder must have one writer. Received: {self._directory}, to which another process "
            "has written too. Give each process a log_dir of its own."
        )

    def write(self, record: EpochRecord) -> None:
        """Writes one epoch; once this returns, a reader sees all of it.

        A step that was written before gets fresh files: readers see the later, the earlier stays on disk.

        Args:
            record: The epoch.

        Raises:
            ValueError: If the record's samples are not the run's, or its rows don't match.
            RuntimeError: If another process has written to the folder.
            OSError: If the disk is full, or the folder was removed.
        """
        keys = tuple(sample.key for sample in record.samples)
        counts = [len(maps) for maps in _heatmaps(record).values()]
        if keys != self._keys or {len(record.encoded), len(keys), *counts} != {len(keys)}:
            raise ValueError(
                f"A record must hold one heatmap and one overlay for each of the samples {list(self._keys)}. "
                f"Received: {counts} heatmaps, {len(record.encoded)} overlays, {list(keys)}."
            )
        with self._claimed_log() as log:
            if log.seek(0, os.SEEK_END) != self._end:
                raise RuntimeError(self._other_writer())
            line = self._put_epoch(record)
            log.write(line)
        self._end += len(line)  # Once it is flushed.

    def _put_epoch(self, record: EpochRecord) -> bytes:
        """Puts an epoch's files into place; returns the line that commits them."""
        heatmaps, overlays = self._directory / "heatmaps", self._directory / "overlays"
        names = (f"{record.step:06d}" if n == 1 else f"{record.step:06d}-{n}" for n in count(1))
        name = next(n for n in names if not ((heatmaps / f"{n}.npz").exists() or (overlays / n).exists()))
        buffer = io.BytesIO()
        np.savez(buffer, **_arrays(record))  # type: ignore[arg-type]  # numpy takes **kwargs for allow_pickle
        _put_file(heatmaps / f"{name}.npz", buffer.getvalue())
        files = [f"{self._files[key]}.{record.image_format}" for key in self._keys]
        _put_folder(overlays / name, dict(zip(files, record.encoded, strict=True)))
        line = {
            "epoch": record.epoch,
            "step": record.step,
            "wall_time": time.time(),
            "scalars": record.scalars,
            "captions": [sample.caption for sample in record.samples],
            "heatmaps": f"heatmaps/{name}.npz",
            "views": list(record.views),
            "values": list(record.values),
            "overlays": [f"overlays/{name}/{file}" for file in files],
        }
        return json.dumps(plain(line), allow_nan=False).encode("utf-8") + b"\n"


def _heatmaps(record: EpochRecord) -> dict[str, npt.NDArray[Any]]:
    """Returns the heatmaps of all views; names of the user's are no names of files in an archive."""
    every: list[npt.NDArray[Any] | None] = [view.heatmaps for view in record.views.values()]
    every = every or [record.heatmaps]
    return {f"heatmaps{_place(i)}": maps for i, maps in enumerate(every) if maps is not None}


def _place(view: int) -> str:
    return f"_{view}" if view else ""


def _arrays(record: EpochRecord) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {
        name: np.asarray(maps, np.float32) for name, maps in _heatmaps(record).items()
    }
    every = [view.samples for view in record.views.values()] or [record.samples]
    for view, samples in enumerate(every):
        # Class indices are never negative, so that -1 can stand for none.
        columns: dict[str, npt.NDArray[Any]] = {
            "scores": np.array([s.score for s in samples], np.float32),
            "confidences": np.array([math.nan if s.confidence is None else s.confidence for s in samples], np.float32),
            "predicted": np.array([-1 if s.predicted is None else s.predicted for s in samples], np.int64),
            "targets": np.array([-1 if s.target is None else s.target for s in samples], np.int64),
            "degenerate": np.array([s.degenerate for s in samples], np.bool_),
        }
        arrays |= {name + _place(view): column for name, column in columns.items()}
    if record.outputs is not None:
        arrays["outputs"] = np.asarray(record.outputs, np.float32)
    if record.values:
        arrays["values"] = np.array(list(record.values.values()), np.float64)
    return arrays
