"""A run over all its fits: its folder, the count of its steps, and the trackers that it is sent to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..records import EpochRecord, Floats, RunConfig
from ..store import choose_directory, read_run
from . import resolve
from .base import Tracker


class TrackedRun:
    """Sends records to trackers and keeps those that fail away from the training.

    Args:
        attempt: Takes a name, what to do if an action fails, and the action.

    Attributes:
        config: The run, from its first fit on.
        last_heatmaps: (N, h, w) float32 of the last logged epoch, or None.
    """

    def __init__(self, attempt: Callable[[str, Callable[[], object], Callable[[], object]], None]) -> None:
        self._attempt = attempt
        self._trackers: list[Tracker] = []
        self._live: list[Tracker] = []
        self._offset = 0
        self._last_step = -1
        self.config: RunConfig | None = None
        self.last_heatmaps: Floats | None = None

    @property
    def is_tracked(self) -> bool:
        """Whether a tracker is left that records can be sent to."""
        return bool(self._live)

    @property
    def directory(self) -> Path | None:
        """The run's folder, once a tracker writes into it."""
        return self.config.directory if self.config and _uses_directory(self._trackers) else None

    @property
    def description(self) -> str:
        """The trackers and the folder, in words."""
        names = ", ".join(map(tracker_name, self._trackers)) or "no tracker"
        return f"{names} in {self.directory}" if self.directory else names

    def prepare(self, tracker: Any) -> None:
        """Finds the trackers of the next fit.

        Args:
            tracker: What the user gave as `tracker`; "auto" may stand for others than in the last fit.

        Raises:
            ValueError: If a tracker's name is unknown.
            TypeError: If an object is no tracker.
        """
        found = resolve(tracker)
        # Those that are made from a name go on from fit to fit.
        if list(map(type, found)) != list(map(type, self._trackers)):
            self._trackers = found

    def start(self, config: RunConfig, epoch: int) -> None:
        """Finds the run's folder and its next step, and starts the trackers.

        Args:
            config: The run; as directory it has the folder of all runs, in which its own is chosen here.
            epoch: The first epoch of the fit. The run goes on where the process has logged another fit of the same
                model and layer, or where the folder holds a run that stopped before this epoch.

        Raises:
            ValueError: If the folder can't be written to, or a tracker can't work as configured.
        """
        if self.config is None or _explained(self.config) != _explained(config):
            self._offset, self.last_heatmaps = 0, None
            directory, last_step = config.directory / config.prefix, None
            if _uses_directory(self._trackers):
                directory, last_step = choose_directory(config.directory, config, epoch)
            if last_step is not None:
                # A run is being resumed by a new process: its steps go on as they were counted.
                last = next(e for e in read_run(directory).epochs if e.step == last_step)
                self._offset = last.step - last.epoch
                with suppress(ValueError, OSError):  # A damaged file costs one number, not the training.
                    self.last_heatmaps = last.heatmaps()
        else:
            directory = self.config.directory
            self._offset = max(self._offset, self._last_step + 1 - epoch)
        config = dataclasses.replace(config, directory=directory)
        for tracker in self._trackers:
            tracker.start(config)
        self._live, self.config = list(self._trackers), config

    def count(self, epoch: int) -> int:
        """Returns the step of an epoch that has ended, logged or not; steps grow over all fits of a process."""
        self._last_step = self._offset + epoch
        return self._last_step

    def log(self, record: EpochRecord) -> None:
        """Sends a record to all trackers; one that fails is left out from then on."""
        for tracker in list(self._live):
            self._attempt(tracker_name(tracker), partial(self._live.remove, tracker), partial(tracker.log, record))

    def finish(self) -> None:
        """Ends a fit for all trackers."""
        for tracker in list(self._live):
            self._attempt(tracker_name(tracker), partial(self._live.remove, tracker), tracker.finish)
        self._live = []


def tracker_name(tracker: Tracker) -> str:
    """Returns what a tracker is called in messages."""
    return type(tracker).__name__


def _explained(config: RunConfig) -> tuple[str, str]:
    """Returns what another fit must share to belong to the same run; all else an instance keeps."""
    return config.model_name, config.layer_name


def _uses_directory(trackers: list[Tracker]) -> bool:
    return any(getattr(tracker, "uses_directory", True) for tracker in trackers)
