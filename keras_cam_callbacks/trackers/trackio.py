"""Trackio: the overlays of an epoch as one image for each sample, and the numbers."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from keras_cam_callbacks.records import EpochRecord, RunConfig

from .base import Tracker, load, numbers, settings


def _active_run() -> Any:
    """Returns the run that is active, or None, without an import: who has a run has imported trackio."""
    variable = getattr(sys.modules.get("trackio.context_vars"), "current_run", None)
    run = None if variable is None else variable.get()
    return None if run is None or _is_finished(run) else run


def _is_finished(run: Any) -> bool:
    # Only trackio.finish() makes it inactive; run.finish() sets this flag.
    flag = getattr(run, "_stop_flag", None)
    return flag is not None and bool(flag.is_set())


class TrackioTracker(Tracker):
    """Logs to the Trackio run that is active when a fit starts; never starts or finishes one.

    One row an epoch: an image with a caption `<prefix>/<sample key>` for each sample, `<prefix>/<name>` for each number
    that is finite, and `<prefix>/epoch`, at the run's step, which goes on where a second fit counts its epochs from 0
    again. The images are the record's files, not encoded again. The run's config gets layer, method and target under
    `<prefix>`; Trackio stores it with the first row of a run.

    Trackio never raises what it can't store: it warns by itself, and so it does here, whatever `on_error` is.
    """

    uses_directory = False
    timeout = 60.0

    @staticmethod
    def has_active_run() -> bool:
        """Tells whether a run is active."""
        return _active_run() is not None

    def __init__(self) -> None:
        self._run: Any = None
        self._prefix = ""

    def start(self, config: RunConfig) -> None:
        """Attaches to the active run.

        Args:
            config: What stays the same over the run.

        Raises:
            ImportError: If trackio is not installed.
            ValueError: If no run is active.
        """
        load("trackio")  # Without it no run can be active; the error must say which of the two is missing.
        run = _active_run()
        if run is None:
            raise ValueError(
                "TrackioTracker needs a Trackio run. Received: no active run. Call trackio.init(...) before fit, "
                'in the same thread, or use tracker="disk".'
            )
        run.config[config.prefix] = settings(config)
        self._run, self._prefix = run, config.prefix

    def log(self, record: EpochRecord) -> None:
        """Logs one epoch as one row.

        Args:
            record: The epoch.

        Raises:
            RuntimeError: If there was no `start`, or the run was finished since.
            OSError: If there is no room for the images.
        """
        run = self._run
        if run is None:
            raise RuntimeError("TrackioTracker.start must be called before log. Received: no run.")
        if _is_finished(run):
            raise RuntimeError(
                f"A Trackio run must stay active during fit. Received: run {run.name!r}, which was finished. Call "
                "trackio.finish() after fit, and trackio.init(...) before the next one."
            )
        import trackio

        row: dict[str, Any] = {f"{self._prefix}/{name}": value for name, value in numbers(record).items()}
        # Trackio copies files as they are; pictures it would encode anew, as PNG.
        with tempfile.TemporaryDirectory() as folder:
            for i, (sample, data) in enumerate(zip(record.samples, record.encoded, strict=True)):
                path = Path(folder, f"{i}.{record.image_format}")
                path.write_bytes(data)
                row[f"{self._prefix}/{sample.key}"] = trackio.Image(path, caption=sample.caption)
            run.log(row, step=record.step)
        for alert in record.alerts:
            if alert.is_first:
                run.alert(f"{self._prefix}/{alert.name}", alert.text, step=record.step)

    def finish(self) -> None:
        """Leaves the run to you; Trackio writes within a second what was logged, and all of it when the run ends."""
