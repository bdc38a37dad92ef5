"""A run over all its fits: its folder, the count of its steps, and the trackers that it is sent to."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import is_seconds
from ..records import EpochRecord, Floats, Ints, Region, RunConfig
from ..store import Event, Place, StoredEpoch, choose_directory, find_run, moved_class, new_run_id, read_run
from ..store.displays import same_display
from ..trackers import resolve
from ..trackers.base import Tracker
from ..trackers.waiting import CallThread

# What a fit must share with the one before to belong to the same run, besides the models, the folder of all runs and
# the pictures; all else an instance keeps.
_IDENTITY = ("prefix", "layer_name", "method", "target", "rules", "sample_keys", "fingerprints", "labels")


class TrackedRun:
    """Sends records to trackers and keeps those that fail away from the training.

    Args:
        attempt: Takes a name, what to do if an action fails, and the action.

    Attributes:
        is_new: Whether the last fit has begun a run, and goes on with none.
        doubt: Why a new record has begun where several could go on; "" where that is clear.
        trackers: The trackers of the last fit, or of the next one once it is prepared.
        config: The run, from its first fit on.
        last_heatmaps: (N, h, w) float32 of the last logged epoch by view; empty before the first.
        first_heatmaps: The same of the first logged epoch of the run.
        last_targets: (N,) int64 by view, the classes that `last_heatmaps` explain; None where they explain none.
        first_targets: The same of `first_heatmaps`.
    """

    def __init__(self, attempt: Callable[[str, Callable[[], object], Callable[[], object]], None]) -> None:
        self._attempt = attempt
        self._named: dict[str, Tracker] = {}
        self._live: list[Tracker] = []
        self._started: list[Tracker] = []
        self._epoch, self._step = 0, 0
        self._threads: dict[int, CallThread] = {}
        self._models: tuple[weakref.ref[Any], ...] = ()
        self._log_dir: Path | None = None
        self._has_folder = False
        self._resumed = ""
        self._choice = ""
        self._offset = 0
        self._last_step = -1
        self.doubt, self.is_new = "", True
        self.trackers: tuple[Tracker, ...] = ()
        self.config: RunConfig | None = None
        self.last_heatmaps: dict[str, Floats] = {}
        self.first_heatmaps: dict[str, Floats] = {}
        self.last_targets: dict[str, Ints | None] = {}
        self.first_targets: dict[str, Ints | None] = {}

    @property
    def is_tracked(self) -> bool:
        """Whether a tracker is left that records can be sent to."""
        return bool(self._live)

    @property
    def is_recorded(self) -> bool:
        """Whether no tracker that writes into the folder has failed in this fit."""
        return all(tracker in self._live for tracker in self._started if _uses_directory(tracker))

    @property
    def directory(self) -> Path | None:
        """The run's folder, once a tracker writes into it."""
        return self.config.directory if self.config and self._has_folder else None

    @property
    def description(self) -> str:
        """The trackers and the folder, in words; and what of its record goes on."""
        inside, outside = (
            ", ".join(tracker_name(t) for t in self.trackers if _uses_directory(t) is uses) for uses in (True, False)
        )
        inside += f" in {self.directory}{self._resumed}" if inside else ""
        shown = "two files an epoch are the record, which TensorBoard's tab Heatmaps shows"
        shown = shown if any(getattr(tracker, "wants_record", False) for tracker in self.trackers) else ""
        return ("; ".join(filter(None, (inside, outside, shown))) or "no tracker") + self._choice

    def prepare(self, tracker: Any) -> None:
        """Finds the trackers of the next fit.

        Args:
            tracker: What the user gave as `tracker`; "auto" may stand for others than in the last fit.

        Raises:
            ValueError: If a tracker's name is unknown, or its `timeout` is impossible.
            TypeError: If an object is no tracker.
        """
        self.trackers = tuple(resolve(tracker, self._named))
        for each in self.trackers:
            _check_timeout(each)
        self._threads = {id(t): self._threads[id(t)] for t in self.trackers if id(t) in self._threads}

    def start(self, config: RunConfig, models: Sequence[Any], epoch: int, run: Any = None) -> None:
        """Finds the run's folder and its next step, and starts the trackers.

        Args:
            config: The run; as directory it has the folder of all runs, in which its own is chosen here.
            models: The model that is trained, and the one that is explained.
            epoch: The first epoch of the fit. The run goes on where this process has logged another fit of the same
                model, layer, method, target and batch, or with a stored run, as `choose_directory` says.
            run: What the user named as the run to go on with, or None.

        Raises:
            ValueError: If the folder can't be written to, a tracker can't work as configured, or `run` names no run
                that can go on. Another start goes on in the folder that was made for this one.
            TimeoutError: If a tracker's `start` has not returned in time.
        """
        uses_folder = any(map(_uses_directory, self.trackers))
        if run is not None and not uses_folder:
            raise ValueError(
                "`run` needs a tracker that writes into the run's folder. "
                f"Received: run={str(run)!r}, and {self.description}. "
                'tracker="disk" works, alone or in a list with others; without `run` no record is asked for.'
            )
        goes_on = self._is_run_of(config, models) and (run is None or self._is_here(config.directory, run))
        held = () if goes_on else self._held(config.prefix)
        place = Place(config.directory / config.prefix, None, next((n for n in held if ":" not in n and epoch), ""))
        if goes_on and self.config and (self._has_folder or not uses_folder):
            place = Place(self.config.directory, None, self.config.run_id)
        elif uses_folder:
            place = choose_directory(config.directory, config, 0 if goes_on else epoch, run, held)
        self._resumed, self.is_new = "", not goes_on and place.last_step is None
        self._choice, self.doubt = place.said, place.said.removeprefix("; ") if place.is_doubtful else ""
        first = 0 if config.steps is not None else epoch  # what is counted where this fit begins
        if goes_on:
            # Steps are counted when they are done, epochs from 0.
            self._offset = max(self._offset, self._last_step + (config.steps is None) - first)
        else:
            self._offset, self._last_step, self.last_heatmaps, self.first_heatmaps = 0, -1, {}, {}
            self.last_targets, self.first_targets = {}, {}
            self._models, self._log_dir = tuple(map(weakref.ref, models)), config.directory
            self._has_folder = False
        if place.last_step is not None:
            self._resume(place)
        self._has_folder |= uses_folder
        run_id = place.run_id if place.last_step is not None or place.run_id else new_run_id()
        tracked = tuple(name for name in held if ":" in name)
        if goes_on and self.config:
            run_id, tracked = self.config.run_id, self.config.tracked
        self.config = dataclasses.replace(config, directory=place.directory, run_id=run_id, tracked=tracked)
        self._epoch, self._step, self._live, self._started = epoch, self._offset + first, [], []

        def start(tracker: Tracker) -> None:
            self._call(tracker, "start", self.config)
            self._started.append(tracker)

        for tracker in self.trackers:
            thread = self._threads.get(id(tracker))
            if thread is not None and thread.is_busy():
                self._attempt(tracker_name(tracker), lambda: None, partial(start, tracker))
            else:
                start(tracker)
        self._live = list(self._started)

    def _held(self, prefix: str) -> tuple[str, ...]:
        """Returns the runs that trackers go on with: ours, that their libraries' runs hold, and the latter's names."""
        pairs = [held(prefix) for tracker in self.trackers if (held := getattr(tracker, "held_run", None))]
        return tuple(name for pair in pairs for name in pair if name)

    def _is_here(self, log_dir: Path, run: Any) -> bool:
        """Tells whether a run that the user names is the one whose folder is in use."""
        return self.directory is not None and find_run(log_dir, run).directory.resolve() == self.directory.resolve()

    def _is_run_of(self, config: RunConfig, models: Sequence[Any]) -> bool:
        """Tells whether a fit goes on with the run of the last one."""
        old = self.config
        # A model that was built again may have the old one's name, but not its weights.
        same_models = len(self._models) == len(models) and all(
            h() is m for h, m in zip(self._models, models, strict=True)
        )
        if old is None or not same_models or self._log_dir != config.directory:
            return False
        same = all(getattr(old, name) == getattr(config, name) for name in _IDENTITY)
        same = same and (old.steps is None) == (config.steps is None)
        same = same and moved_class(old.class_names or (), config.class_names or ()) is None
        same = same and len(old.regions) == len(config.regions) and all(map(_same_region, old.regions, config.regions))
        if not same or old.displays.keys() != config.displays.keys():
            return False
        shown = [(old.display, config.display), *((old.displays[view], config.displays[view]) for view in old.displays)]
        return all(all(map(same_display, *pair)) for pair in shown)

    def _resume(self, place: Place) -> None:
        """Goes on with the steps of a run that another process has logged as they were counted."""
        epochs = read_run(place.directory).epochs
        last = next(e for e in epochs if e.step == place.last_step)
        self._offset = place.offset
        again = dict.fromkeys(str(e.epoch) for e in epochs if e.step > last.step)
        self._resumed = f", which goes on after epoch {last.epoch}" + (
            f" (it holds epoch {', '.join(again)} too: of what is logged twice the later counts)" if again else ""
        )
        with suppress(ValueError, OSError):  # A damaged file costs one number, not the training.
            self.last_heatmaps, self.last_targets = _stored_maps(last)
        with suppress(ValueError, OSError):
            self.first_heatmaps, self.first_targets = _stored_maps(epochs[0])

    def count(self, epoch: int, trained: int | None = None) -> int:
        """Returns the step of an epoch that has ended, logged or not; steps grow over all fits of a process.

        Args:
            epoch: The epoch as Keras counts it.
            trained: How many training steps this fit has done, where the run counts these.
        """
        self._epoch, self._step = epoch, self._offset + (epoch if trained is None else trained)
        self._last_step = self._step
        return self._step

    def log(self, record: EpochRecord) -> None:
        """Sends a record to all trackers; one that fails is left out from then on."""
        for tracker in list(self._live):
            self._attempt_last(tracker, "log", record)

    def fail(self, what: str, error: str) -> None:
        """Tells the trackers of this fit what has failed in its last epoch; also one that is switched off.

        Args:
            what: What has failed, as it is called in messages.
            error: The error in words.
        """
        event = Event(self._epoch, self._step, time.time(), what, error)
        for tracker in self._started:
            # It may have another class than Tracker, and what has failed may be the disk: it is told already.
            if getattr(type(tracker), "fail", Tracker.fail) is not Tracker.fail:
                with suppress(Exception):
                    self._call(tracker, "fail", event)

    def attach(self, path: Path, name: str) -> None:
        """Hands a file that was made of the run to all trackers that take one; a class of the user's need not."""
        for tracker in [tracker for tracker in self._live if hasattr(tracker, "attach")]:
            self._attempt_last(tracker, "attach", path, name)

    def finish(self) -> None:
        """Ends a fit for all trackers."""
        for tracker in list(self._live):
            self._attempt_last(tracker, "finish")
        self._live = []

    def _attempt_last(self, tracker: Tracker, method: str, *args: Any) -> None:
        """Calls a tracker; where that fails, it is for the last time in this fit."""
        switch_off = partial(self._live.remove, tracker)
        self._attempt(tracker_name(tracker), switch_off, partial(self._call, tracker, method, *args))

    def _call(self, tracker: Tracker, method: str, *args: Any) -> None:
        """Calls a tracker, in the thread of its own where it is waited for only so long."""
        action, timeout = partial(getattr(tracker, method), *args), _timeout(tracker)
        if timeout is None:
            action()
            return
        name = tracker_name(tracker)
        if (thread := self._threads.get(id(tracker))) is None:
            thread = self._threads[id(tracker)] = CallThread(name, timeout)
        hung, thread.timeout = thread.is_busy(), timeout
        if not thread.call(action):
            raise TimeoutError(
                f"{name}.{method} must return within {timeout:g} s. Received: "
                + ("no call, as one before still hangs." if hung else "no answer.")
                + " Its `timeout` may be more seconds, or None to wait without end."
            )


def _stored_maps(epoch: StoredEpoch) -> tuple[dict[str, Floats], dict[str, Ints | None]]:
    """Returns the heatmaps of an epoch by view, and the classes that they explain."""
    names = epoch.views or ("",)
    return {name: epoch.heatmaps(name) for name in names}, {name: epoch.targets(name) for name in names}


def tracker_name(tracker: Tracker) -> str:
    """Returns what a tracker is called in messages."""
    return type(tracker).__name__


def _same_region(one: Region | None, other: Region | None) -> bool:
    if one is None or other is None:
        return one is other
    masks = (one.mask, other.mask) if one.mask is not None and other.mask is not None else None
    same_mask = one.mask is other.mask if masks is None else np.array_equal(*masks)
    return same_mask and np.array_equal(one.boxes, other.boxes)


def _timeout(tracker: Tracker) -> float | None:
    timeout: float | None = getattr(tracker, "timeout", Tracker.timeout)
    return timeout


def _check_timeout(tracker: Tracker) -> None:
    timeout = _timeout(tracker)
    if timeout is not None and not is_seconds(timeout):
        raise ValueError(
            "A tracker's `timeout` must be a positive number of seconds, or None to wait without end. "
            f"Received: {timeout!r} of {tracker_name(tracker)}. timeout=60 works."
        )


def _uses_directory(tracker: Tracker) -> bool:
    return bool(getattr(tracker, "uses_directory", True))
