"""The records below TensorBoard's log folders: what may be shown, looked for in a thread of its own."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any

__all__ = ["Record", "Records", "log_folders"]

_MANIFEST, _LOG = "manifest.json", "metrics.jsonl"
_OWN = frozenset({"heatmaps", "images", "overlays", "pictures", "regions", "sheets"})  # of a record: no runs in there
_MOST_FOLDERS = 50_000  # that one search looks into
_MOST_BYTES = 1 << 26  # of a manifest
_PAUSE = 3.0  # s between two searches


@dataclass(frozen=True)
class Record:
    """A record below a log folder.

    Attributes:
        ident: Its name in addresses, made of its path: what is asked for is looked up, and never is a path.
        name: What people read: its path below the log folder.
        folder: The run's folder.
        written: When an epoch was written last, in seconds since 1970; 0 where none was.
        samples: The sample keys with what their pixels are.
    """

    ident: str
    name: str
    folder: Path
    written: float
    samples: frozenset[tuple[str, str]]


class Records:
    """Looks for records below folders, again where it is asked and the last search is some seconds old.

    Links to folders are not followed, so that all that is shown lies below the folders; one is searched by its own
    name.

    Args:
        folders: The folders by the names that they have in TensorBoard, "" for the only one.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._lock = Lock()
        self._thread: Thread | None = None
        self._searched = float("-inf")
        self._manifests: dict[Path, tuple[Any, frozenset[tuple[str, str]] | None]] = {}
        self._records: dict[str, Record] = {}

    def latest(self) -> Mapping[str, Record]:
        """Returns the records by their idents as they are known now, those written last first. It waits for nothing."""
        with self._lock:
            is_due = time.monotonic() - self._searched > _PAUSE
            if is_due and self._folders and (self._thread is None or not self._thread.is_alive()):
                self._thread = Thread(target=self._search, name="keras_cam_callbacks records", daemon=True)
                self._thread.start()
        return self._records

    def wait(self) -> Mapping[str, Record]:
        """Returns the records as `latest` does, but waits for the first search."""
        records, thread = self.latest(), self._thread
        if self._searched > float("-inf") or thread is None:
            return records
        thread.join()
        return self._records

    def _search(self) -> None:
        records = []
        for name, root in self._folders.items():
            opened = (self._opened(name, root, folder) for folder in _walk(root))
            records += [record for record in opened if record is not None]
        records.sort(key=lambda record: (-record.written, record.name))
        self._records = {record.ident: record for record in records}
        self._manifests = {folder: of for folder, of in self._manifests.items() if folder.exists()}
        self._searched = time.monotonic()

    def _opened(self, name: str, root: Path, folder: Path) -> Record | None:
        samples = self._samples(folder)
        if samples is None:
            return None
        below = folder.relative_to(root).as_posix()
        parts = (name, below) if below != "." else (name or root.name,)
        ident = hashlib.sha256(os.fsencode(f"{name}\0{below}")).hexdigest()[:16]
        return Record(ident, "/".join(filter(None, parts)), folder, _written(folder), samples)

    def _samples(self, folder: Path) -> frozenset[tuple[str, str]] | None:
        """Returns what a record's samples are; None where the folder holds none, or one that leads elsewhere."""
        try:
            if any((folder / name).is_symlink() for name in (_MANIFEST, _LOG)):
                return None
            stat = os.stat(folder / _MANIFEST)
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            before = self._manifests.get(folder)
            if before is None or before[0] != stamp:
                read = _read_samples(folder / _MANIFEST) if stat.st_size <= _MOST_BYTES else None
                before = self._manifests[folder] = (stamp, read)
            return before[1]
        except OSError:  # Gone meanwhile, or not ours to read.
            return None


def _read_samples(path: Path) -> frozenset[tuple[str, str]] | None:
    """Many programs have a manifest.json: ours names the samples and what their pixels are."""
    try:
        manifest = json.loads(path.read_bytes())
        keys, prints = manifest["sample_keys"], manifest["fingerprints"]
        return frozenset((str(key), str(one)) for key, one in zip(keys, prints, strict=True))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _written(folder: Path) -> float:
    try:
        stat = os.stat(folder / _LOG)
    except OSError:
        return 0.0
    return stat.st_mtime if stat.st_size else 0.0


def _walk(root: Path) -> Iterator[Path]:
    """Yields folders with a manifest, those near the root first."""
    waiting, count = deque([root]), 0
    while waiting and count < _MOST_FOLDERS:
        folder, count = waiting.popleft(), count + 1
        try:
            with os.scandir(folder) as entries:
                below = list(entries)
        except OSError:
            continue
        is_record = any(entry.name == _MANIFEST for entry in below)
        if is_record:
            yield folder
        for entry in below:
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError:
                continue
            if is_folder and not (is_record and entry.name in _OWN):
                waiting.append(folder / entry.name)


def log_folders(flags: Any) -> dict[str, Path]:
    """Returns the local folders that TensorBoard was started with, by the names that it gives them.

    Args:
        flags: TensorBoard's own; `logdir_spec` is a list "name:folder,name:folder". Buckets are no folders.
    """
    logdir, spec = (getattr(flags, name, None) or "" for name in ("logdir", "logdir_spec"))
    parts: Sequence[tuple[str, str]] = [("", logdir)] if logdir else [_named(part) for part in spec.split(",") if part]
    return {name: Path(os.path.realpath(os.path.expanduser(path))) for name, path in parts if "://" not in path}


def _named(part: str) -> tuple[str, str]:
    """A part of `--logdir_spec`, as TensorBoard reads it: a folder without a name has its path for one."""
    name, separator, path = part.partition(":")
    return (name, path) if separator and not part.startswith("/") and not path.startswith("//") else (part, part)
