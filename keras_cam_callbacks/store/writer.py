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
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_cam_callbacks.records import EpochRecord, Image, RunConfig

from .displays import display_entries, display_name, encoded_display, read_display, same_display
from .events import Event, event_line
from .locks import locked
from .manifest import (
    CHANGING,
    LOG,
    MANIFEST,
    check_file,
    differing,
    manifest_of,
    plain,
    read_manifest,
    updated,
)
from .pictures import Recipe, packed, recipe, sheet
from .reader import read_run
from .regions import as_picture

# Names of an epoch's files, none of which may be there.
_NAMES = ("heatmaps/{}.npz", "overlays/{}", "pictures/{}.zip", "sheets/{}.jpg", "sheets/{}.png")


def _put_file(path: Path, data: bytes) -> None:
    # The temporary name is fixed: what a killed process leaves behind is used again, not heaped up.
    temporary = path.with_name(f".new{path.suffix}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.unlink(missing_ok=True)  # It may be anything, a pipe too.
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
    continued, in the schema that it has: one of schema 1 gets each picture as a file, and no notes of what has failed.
    One writer at a time may write to a folder: it is locked while an epoch is written. Nothing is kept open between
    epochs.

    Args:
        config: The run; `config.directory` is its folder.
        overlays: Whether each picture is also a file of its own.

    Raises:
        ValueError: If the folder holds the record of another run, or a damaged one, or what should be a file is none.
        RuntimeError: If another process is writing to the folder.
        OSError: If the folder can't be written to.
    """

    def __init__(self, config: RunConfig, *, overlays: bool = False):
        self._directory = config.directory
        self._keys = config.sample_keys
        self._log = config.directory / LOG
        self._freq = config.freq
        self._display = config.display
        self._shrunk: dict[Any, tuple[Image, ...]] = {}
        self._news: dict[str, Any] = {}
        manifest = manifest_of(config)
        shown = display_entries(config.display)
        if any(shown):
            manifest["display"] = shown
        for entry in manifest.get("inputs", ()):
            kinds = display_entries(config.displays[entry["views"][0]])
            entry |= {"display": kinds} if any(kinds) else {}
        self._directory.mkdir(parents=True, exist_ok=True)
        check_file(self._directory / MANIFEST)
        if (self._directory / MANIFEST).exists():
            stored = _latest(self._directory)
            if names := differing(stored, manifest):
                raise ValueError(
                    f"A run folder must belong to one run. Received: {self._directory}, whose record "
                    f"differs in {', '.join(names)}. Pass another log_dir or prefix."
                )
            news = updated(stored, manifest)
            nothing: tuple[Any, ...] = (None, [], {})
            self._news = {name: news[name] for name in CHANGING if news[name] not in (stored.get(name), *nothing)}
            manifest = stored
        else:
            _put_file(self._directory / MANIFEST, json.dumps(manifest, indent=2).encode("utf-8"))
        self._files: dict[str, str] = manifest["files"]
        self._manifest = manifest
        self._is_first_schema = manifest["schema_version"] == 1
        self._overlays = overlays or self._is_first_schema
        # After the manifest, which says whose pictures these are.
        masks = {
            key: as_picture(region.mask)
            for key, region in zip(self._keys, config.regions, strict=bool(config.regions))
            if region is not None and region.mask is not None
        }
        self._put_pictures("regions", masks, dict.fromkeys(masks))
        entries = manifest.get("display") or [None] * len(self._keys)
        self._shows_images = shown == entries and self._put_pictures(
            "images", dict(zip(self._keys, config.display, strict=True)), dict(zip(self._keys, entries, strict=True))
        )
        for entry in manifest.get("inputs") or ():
            further = config.displays.get(entry["views"][0])
            if further is not None:
                kinds = entry.get("display") or [None] * len(self._keys)
                shown_by_key = (dict(zip(self._keys, items, strict=True)) for items in (further, kinds))
                self._put_pictures(entry["folder"], *shown_by_key)
        check_file(self._log)
        self._log.touch()
        with self._claimed():
            self._end = self._log.stat().st_size
            with open(self._log, "rb") as log:
                log.seek(max(0, self._end - 1))
                last = log.read(1)
            if last not in (b"", b"\n"):
                # A process that was killed may leave half a line: ours start on a fresh one.
                self._append(b"\n")

    def _put_pictures(
        self, name: str, pictures: Mapping[str, npt.NDArray[Any]], entries: Mapping[str, dict[str, Any] | None]
    ) -> bool:
        """Puts a folder of files into place, one for each sample key; tells whether it holds just these.

        One that is there already stays: the same pixels for the model may be displayed otherwise than before.
        """
        if not pictures:
            return True
        folder = self._directory / name
        names = {key: display_name(self._files[key], entries[key]) for key in pictures}
        if not folder.exists():
            _put_folder(folder, {names[key]: encoded_display(shown, entries[key]) for key, shown in pictures.items()})
            return True
        try:
            return all(
                same_display(read_display(folder / names[key], entries[key]), shown) for key, shown in pictures.items()
            )
        except (ValueError, OSError):  # Damaged or gone.
            return False

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Holds the folder, so that no other process writes to it meanwhile.

        Raises:
            RuntimeError: If another process is writing for longer than an epoch takes. One that only looks, and finds
                that it is not the only writer, is gone in a moment.
        """
        self._log.stat()  # Of a record that is gone the error names its log, not the lock.
        with locked(self._directory) as held:
            if not held:
                raise RuntimeError(self._other_writer())
            yield

    def _check_end(self) -> None:
        check_file(self._log)
        if self._log.stat().st_size != self._end:
            raise RuntimeError(self._other_writer())

    def _append(self, line: bytes) -> None:
        """Adds to the log, all of it or nothing."""
        check_file(self._log)
        with open(self._log, "rb+", buffering=0) as log:
            log.seek(self._end)
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[log.write(rest) :]
            except OSError:
                with suppress(OSError):
                    log.truncate(self._end)
                raise
        self._end += len(line)

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
        pictures = {len(record.encoded), len(record.overlays)}
        if keys != self._keys or {*pictures, len(keys), *counts} != {len(keys)}:
            raise ValueError(
                f"A record must hold one heatmap and one overlay for each of the samples {list(self._keys)}. "
                f"Received: {counts} heatmaps, {len(record.encoded)} overlays, {list(keys)}."
            )
        with self._claimed():
            self._check_end()
            self._append(_line(self._put_epoch(record) | self._news))
            self._news = {}

    def note(self, event: Event) -> None:
        """Writes down that something has failed; a record of schema 1 has no place for that.

        Raises:
            RuntimeError: If another process has written to the folder.
            OSError: If the disk is full, or the folder was removed.
        """
        if self._is_first_schema:
            return
        with self._claimed():
            self._check_end()
            self._append(_line(event_line(event)))

    def _put_epoch(self, record: EpochRecord) -> dict[str, Any]:
        """Puts an epoch's files into place; returns what the line that commits them says."""
        names = (f"{record.step:06d}" if n == 1 else f"{record.step:06d}-{n}" for n in count(1))
        name = next(n for n in names if not any(os.path.lexists(self._directory / form.format(n)) for form in _NAMES))
        buffer = io.BytesIO()
        np.savez(buffer, **_arrays(record))  # type: ignore[arg-type]  # numpy takes **kwargs for allow_pickle
        _put_file(self._directory / f"heatmaps/{name}.npz", buffer.getvalue())
        return {
            "epoch": record.epoch,
            "step": record.step,
            "wall_time": time.time(),
            "scalars": record.scalars,
            "captions": [sample.caption for sample in record.samples],
            "heatmaps": f"heatmaps/{name}.npz",
            "views": list(record.views),
            "values": list(record.values),
            **self._put_overlays(record, name),
            **({"alerts": [vars(alert) for alert in record.alerts]} if record.alerts else {}),
            **({} if self._freq == self._manifest.get("freq") else {"freq": self._freq}),
            **({} if record.batch is None else {"batch": record.batch}),
        }

    def _put_overlays(self, record: EpochRecord, name: str) -> dict[str, Any]:
        """Puts an epoch's pictures into place, or keeps how they are drawn; returns what its line says of them."""
        files = [f"{self._files[key]}.{record.image_format}" for key in self._keys]
        line: dict[str, Any] = {"format": record.image_format}
        if self._overlays:
            _put_folder(self._directory / "overlays" / name, dict(zip(files, record.encoded, strict=True)))
            line["overlays"] = [f"overlays/{name}/{file}" for file in files]
        if self._is_first_schema:
            return line
        drawn = record.drawn_from if self._holds_images_of(record) else None
        made = None if drawn is None else recipe(record)
        if made is not None:
            line["drawn"] = self._changed(made, [sample.caption for sample in record.samples])
        elif len(files) == 1 and not self._overlays:  # The picture is its own sheet.
            file = f"sheets/{name}.{record.image_format}"
            _put_file(self._directory / file, record.encoded[0])
            return line | {"overlays": [file], "sheet": file}
        elif not self._overlays:
            line["pictures"] = f"pictures/{name}.zip"
            _put_file(self._directory / line["pictures"], packed(files, record.encoded))
        line["sheet"] = f"sheets/{name}.jpg"
        _put_file(self._directory / line["sheet"], sheet(record, None if made is None else drawn, self._shrunk))
        return line

    def _holds_images_of(self, record: EpochRecord) -> bool:
        """Tells whether the pictures show the images that the folder holds."""
        drawn = record.drawn_from
        if drawn is None or not self._shows_images:
            return False
        return drawn.images is self._display or (
            len(drawn.images) == len(self._display) and all(map(same_display, drawn.images, self._display))
        )

    def _changed(self, made: Recipe, captions: list[str]) -> dict[str, Any]:
        """Returns how pictures are drawn, without what the run or the samples say already."""
        entry = plain(asdict(made))
        if entry["overlay"] == self._manifest.get("overlay"):
            del entry["overlay"]
        if entry["captions"] == captions:
            del entry["captions"]
        return {name: value for name, value in entry.items() if name not in ("titles", "space") or value}


def _latest(directory: Path) -> dict[str, Any]:
    """Returns the manifest of a record, with what later fits have added where its log is whole."""
    manifest = read_manifest(directory)
    with suppress(ValueError, OSError):  # Of a log that is damaged the manifest still counts.
        return dict(read_run(directory).latest)
    return manifest


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(entry), allow_nan=False).encode("utf-8") + b"\n"


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
        if any(s.against is not None for s in samples):
            columns["against"] = np.array([-1 if s.against is None else s.against for s in samples], np.int64)
        if any(s.box is not None for s in samples):
            columns["boxes"] = np.array([[math.nan] * 4 if s.box is None else s.box for s in samples], np.float32)
        arrays |= {name + _place(view): column for name, column in columns.items()}
    if record.outputs is not None:
        arrays["outputs"] = np.asarray(record.outputs, np.float32)
    if record.values:
        arrays["values"] = np.array(list(record.values.values()), np.float64)
    return arrays
