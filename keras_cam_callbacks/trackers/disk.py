"""The run record on disk; see `keras_cam_callbacks.store` for what it holds."""

from __future__ import annotations

from keras_cam_callbacks.records import EpochRecord, RunConfig
from keras_cam_callbacks.store import RunWriter

from .base import Tracker


class DiskTracker(Tracker):
    """Writes the run record into the run's folder, `RunConfig.directory`; `store.read_run` reads it back."""

    def __init__(self) -> None:
        self._writer: RunWriter | None = None

    def start(self, config: RunConfig) -> None:
        """Makes the folder, or continues the record in it; raises as `store.RunWriter` does."""
        self._writer = RunWriter(config)

    def log(self, record: EpochRecord) -> None:
        """Writes one epoch; raises as `store.RunWriter.write` does."""
        if self._writer is None:
            raise RuntimeError("DiskTracker.start must be called before log. Received: a record and no run.")
        self._writer.write(record)

    def finish(self) -> None:
        """Nothing is left to write: `log` keeps nothing back."""
        self._writer = None
