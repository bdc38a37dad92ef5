"""Reads the log of an offline W&B run; the package has no reader for it.

The file is a 7-byte header, then records as LevelDB logs them: in blocks of 32 KiB, each piece after a header
of checksum, length and type.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import FilesItem, Record

_BLOCK = 32 * 1024
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def _payloads(data: bytes) -> Iterator[bytes]:
    ident, magic, _version = struct.unpack("<4sHB", data[:7])
    if (ident, magic) != (b":W&B", 0xBEE1):
        raise ValueError(f"not a W&B log: {data[:7]!r}")
    position, pieces = 7, b""
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        piece = data[position + 7 : position + 7 + length]
        if zlib.crc32(bytes([kind]) + piece) != checksum:
            raise ValueError(f"wrong checksum at byte {position}")
        position += 7 + length
        pieces = piece if kind in (_FULL, _FIRST) else pieces + piece
        if kind in (_FULL, _LAST):
            yield pieces


@dataclass
class WandbLog:
    """What a run logged.

    Attributes:
        files: The folder of the run's files.
        rows: The history.
        config: The config.
        metrics: Metric definitions as (glob or name, step metric).
        summary: What the summary was updated to, row by row.
        saved: Files or globs of them that were told to be uploaded, with when.
        alerts: Titles and texts.
    """

    files: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, str]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    saved: list[tuple[str, str]] = field(default_factory=list)
    alerts: list[tuple[str, str]] = field(default_factory=list)

    def rows_with(self, key: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if key in row]

    def images(self, entry: dict[str, Any]) -> list[bytes]:
        """The bytes of the images of one logged list."""
        return [(self.files / name).read_bytes() for name in entry["filenames"]]


def read_log(directory: str | Path) -> WandbLog:
    """Reads the log in a run's folder, above `run.dir`; call `wandb.teardown()` before, so that it is whole."""
    (path,) = Path(directory).glob("run-*.wandb")
    log = WandbLog(Path(directory) / "files")
    for payload in _payloads(path.read_bytes()):
        record = Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            log.rows.append(_set({}, record.history.item))
        elif kind == "config":
            _set(log.config, record.config.update)
        elif kind == "run":
            _set(log.config, record.run.config.update)
        elif kind == "metric":
            if not record.metric.expanded_from_glob:  # Older versions of W&B write these too.
                log.metrics.append((record.metric.glob_name or record.metric.name, record.metric.step_metric))
        elif kind == "summary":
            _set(log.summary, record.summary.update)
        elif kind == "alert":
            log.alerts.append((record.alert.title, record.alert.text))
        elif kind == "files":
            log.saved += [(item.path, FilesItem.PolicyType.Name(item.policy)) for item in record.files.files]
    return log


def _set(entries: dict[str, Any], items: Any) -> dict[str, Any]:
    for item in items:
        *outer, last = item.nested_key or [item.key]
        inner = entries
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = json.loads(item.value_json)
    return entries


def wandb_run(**settings):
    """Starts an offline run that collects nothing of the machine."""
    return wandb.init(project="test", settings=wandb.Settings(x_disable_stats=True, **settings))


def finished_log(run):
    """Finishes a run and reads its log, which is whole only once W&B's process has ended."""
    run.finish()
    wandb.teardown()
    return read_log(Path(run.dir).parent)
