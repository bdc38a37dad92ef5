"""What a run writes: its folder, and one epoch after the other."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from keras_cam_callbacks.records import EpochRecord, Region, RunConfig

from .reader import (
    LOG,
    MANIFEST,
    SCHEMA_VERSION,
    Run,
    check_file,
    differing,
    find_runs,
    read_manifest,
    read_run,
    same_run,
)

try:
    import fcntl
except ImportError:  # On Windows two processes that write at the same moment are told apart by the log's size alone.
    fcntl = None  # type: ignore[assignment]

_LOCK_SECONDS = 5.0

_DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def file_stem(text: str) -> str:
    """Returns `text` itself where it is a safe file name on every system, else a readable name of its own.

    Args:
        text: A sample key or a prefix; may hold slashes, "..", or any other character.

    Returns:
        At most 80 of A-Z, a-z, 0-9, "_", "-" and "."; a changed name ends in a digest of `text`.
    """
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._-")[:64].rstrip(".")
    if _DEVICE_NAMES.match(slug):
        slug = f"_{slug}"
    return slug if slug and slug == text else _with_digest(slug, text)


def _with_digest(slug: str, text: str) -> str:
    return f"{slug}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}".lstrip("-")


def _stems(keys: tuple[str, ...]) -> dict[str, str]:
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        # "cat" and "Cat" are one file on macOS and Windows.
        stem = file_stem(key)
        stem = _with_digest(stem, key) if stem.lower() in taken else stem
        if key in stems:
            raise ValueError(f"Sample keys must differ from each other. Received: {key!r} twice.")
        stems[key] = stem
        taken.add(stem.lower())
    return stems


def _plain(value: Any) -> Any:
    """Returns `value` as JSON has it: NaN and infinities become null, what JSON doesn't know becomes text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _manifest(config: RunConfig) -> dict[str, Any]:
    settings = (
        "versions",
        "model_name",
        "method",
        "target",
        "prefix",
        "value_range",
        "overlay",
        "class_names",
        "views",
        "augmentations",
        "training",
    )
    samples = ("sample_keys", "fingerprints", "labels")
    files = _stems(config.sample_keys)
    regions = zip(config.sample_keys, config.regions, strict=True) if config.regions else ()
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": config.layer_name,
        **{name: _plain(getattr(config, name)) for name in settings + samples},
        "files": files,
        "regions": [_region(region, f"regions/{files[key]}.png") for key, region in regions],
    }


def _region(region: Region | None, file: str) -> dict[str, Any] | None:
    if region is None:
        return None
    if region.mask is None:
        return {"boxes": region.boxes.tolist(), "mask": None}
    digest = hashlib.sha256(repr(region.mask.shape).encode() + region.mask.tobytes()).hexdigest()[:16]
    return {"boxes": region.boxes.tolist(), "mask": file, "digest": digest}


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
        manifest = _manifest(config)
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
        return json.dumps(_plain(line), allow_nan=False).encode("utf-8") + b"\n"


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


def choose_directory(log_dir: str | Path, config: RunConfig, first_epoch: int) -> tuple[Path, int | None]:
    """Chooses and makes the folder for the first fit of a process, so that nothing is ever overwritten.

    A fit that starts after epoch 0 resumes the latest stored run of the same prefix, model name, layer,
    method, target, sample keys and fingerprints. Any other fit gets a folder of its own, the first of
    log_dir/prefix, log_dir/prefix-2, and so on that is not there yet, also where processes start together.

    Args:
        log_dir: The folder of all runs.
        config: The run; its `directory` is not looked at.
        first_epoch: The epoch that the fit starts with.

    Returns:
        The folder; and the last step in it of an epoch before `first_epoch`, or None where there is none. So
        an epoch that was logged but not backed up gets the same step when it runs again, and replaces the
        first.

    Raises:
        ValueError: If the folder can't be made or written to.
    """
    log_dir = Path(log_dir)
    manifest = _manifest(config)
    stem = file_stem(config.prefix)
    try:
        directory, step = None, None
        if first_epoch > 0 and log_dir.is_dir():
            numbered = re.compile(re.escape(stem) + r"(-\d+)?")
            runs = [_read_or_none(path) for path in find_runs(log_dir) if numbered.fullmatch(path.name)]
            same = [run for run in runs if run and run.epochs and same_run(run.manifest, manifest)]
            if same:
                run = max(same, key=lambda run: run.epochs[-1].wall_time)
                directory = run.directory
                step = max((e.step for e in run.epochs if e.epoch < first_epoch), default=None)
        if directory is None:
            log_dir.mkdir(parents=True, exist_ok=True)
            names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
            directory = next(log_dir / name for name in names if _is_made(log_dir / name))
        # Permissions alone don't tell: disks are mounted read-only, and root may write to any other folder.
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(
            f"log_dir must be a folder that can be written to. Received: {str(log_dir)!r} ({error}). "
            'Pass another one, such as log_dir="logs".'
        ) from error
    return directory, step


def _read_or_none(directory: Path) -> Run | None:
    try:
        return read_run(directory)
    except ValueError:
        return None


def _is_made(directory: Path) -> bool:
    # To make it is to claim it: whoever asks whether a folder is free first may get the same answer as others.
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True
