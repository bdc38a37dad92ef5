"""What every tracker must do: nothing that was sent may be lost, moved or changed, and nothing is kept back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..records import EpochRecord, RunConfig
from ..store import Event
from ..trackers import Tracker, resolve
from ..trackers.waiting import CallThread
from .records import make_config, make_record

_PATIENCE = 30.0  # seconds until what was sent can be read


class TrackerContract:
    """Tests of one tracker; inherit it under a name that begins with Test, and write `make` and `read`.

    Calls are made as the callbacks make them: in a thread of their own where the tracker has a `timeout`.

    Example:
        >>> class TestMyTracker(TrackerContract):
        ...     def make(self):
        ...         return MyTracker(url="sqlite:///test.db")
        ...
        ...     def read(self, tracker, config, run):
        ...         return [{"step": row.step, "scalars": row.numbers} for row in read_my_database()]
    """

    def make(self) -> Tracker:
        """Returns a new tracker, as a user makes one."""
        raise NotImplementedError("A subclass of TrackerContract must have `make`, which returns a new tracker.")

    def begin(self, directory: Path) -> Any:
        """Returns the run of the tracker's library that is active while it logs; by default None, as it needs none.

        Args:
            directory: An empty folder for what the library stores.
        """
        return None

    def read(self, tracker: Tracker, config: RunConfig, run: Any) -> Sequence[Mapping[str, Any]]:
        """Reads what was logged, at best by other means than the tracker's own code.

        Args:
            tracker: What `make` returned.
            config: What it was started with; its `directory` is the run's folder.
            run: What `begin` returned.

        Returns:
            One dict an epoch, in the order of their steps: "step", and of what the tracker keeps "epoch"; "scalars", a
            dict of numbers by their names without prefix; "captions", a list of texts; and "images", a list of the
            bytes of image files in the order of the samples. What is missing or None is not compared.
        """
        raise NotImplementedError("A subclass of TrackerContract must have `read`, which reads what was logged.")

    def test_a_callback_takes_it(self) -> None:
        """As an object with three methods, whose `timeout` is possible."""
        tracker = self.make()
        assert tracker in resolve(tracker)
        timeout = getattr(tracker, "timeout", None)
        assert timeout is None or timeout > 0, f"`timeout` must be None or a positive number of seconds: {timeout!r}"

    def test_all_that_is_logged_comes_back(self, tmp_path: Path) -> None:
        """Over two fits, of which the second counts its epochs from 0 again; `finish` may be called twice."""
        run, tracker, config = self.begin(tmp_path), self.make(), make_config(tmp_path / "run")
        formats = "jpg", "jpg", "png", "png"
        records = [make_record(step, epoch=step % 2, image_format=name) for step, name in enumerate(formats)]
        call = _caller(tracker)
        for fit in (records[:2], records[2:]):
            call(tracker.start, config)
            for record in fit:
                call(tracker.log, record)
            call(tracker.finish)
            call(tracker.finish)
        _compare(self.read(tracker, config, run), records)

    def test_nothing_is_kept_back_until_a_fit_ends(self, tmp_path: Path) -> None:
        """Nobody calls `finish` after an exception or Ctrl-C in `fit`."""
        run, tracker, config = self.begin(tmp_path), self.make(), make_config(tmp_path / "run")
        records = [make_record(step) for step in range(2)]
        call = _caller(tracker)
        call(tracker.start, config)
        for record in records:
            call(tracker.log, record)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                _compare(self.read(tracker, config, run), records)
                break
            except Exception:  # Of an epoch that a thread has sent in part, whatever reads it may fail.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        call(tracker.finish)

    def test_numbers_that_are_not_there_do_not_become_others(self, tmp_path: Path) -> None:
        """NaN is left out or stays NaN: as 0 it would be a lie. All others come, those of numpy's types, too."""
        run, tracker, config = self.begin(tmp_path), self.make(), make_config(tmp_path / "run")
        call = _caller(tracker)
        call(tracker.start, config)
        call(tracker.log, make_record(0, scalars={"drift": math.nan, "area": np.float32(0.25)}))
        call(tracker.finish)
        (epoch,) = self.read(tracker, config, run)
        if epoch.get("scalars") is not None:
            assert {name: value for name, value in epoch["scalars"].items() if not np.isnan(value)} == {"area": 0.25}

    def test_arrays_are_left_as_they_are(self, tmp_path: Path) -> None:
        """Other trackers get the same ones, which can't be written to here."""
        self.begin(tmp_path)
        record = make_record(0, values={"area": np.array([0.5, math.nan, 1])})
        arrays = [record.heatmaps, record.outputs, record.values["area"], *record.overlays]
        for array in arrays:
            assert array is not None
            array.flags.writeable = False
        tracker = self.make()
        call = _caller(tracker)
        call(tracker.start, make_config(tmp_path / "run"))
        call(tracker.log, record)
        call(tracker.finish)

    def test_what_has_failed_elsewhere_stops_nothing(self, tmp_path: Path) -> None:
        """It may be told of it by a fourth method, `fail`; and an epoch may be missing then."""
        run, tracker, config = self.begin(tmp_path), self.make(), make_config(tmp_path / "run")
        call = _caller(tracker)
        call(tracker.start, config)
        call(tracker.log, make_record(0))
        if hasattr(tracker, "fail"):
            call(tracker.fail, Event(1, 1, 0.0, "The heatmaps", "ValueError: no place for it"))
        call(tracker.log, make_record(2))
        call(tracker.finish)
        _compare(self.read(tracker, config, run), [make_record(0), make_record(2)])


def _caller(tracker: Tracker) -> Callable[..., None]:
    """Returns what calls a tracker's methods, as the callbacks do."""
    timeout = getattr(tracker, "timeout", None)
    thread = None if timeout is None else CallThread(type(tracker).__name__, timeout)

    def call(method: Callable[..., object], *args: Any) -> None:
        if thread is None:
            method(*args)
        else:
            assert thread.call(lambda: method(*args)), f"`{method.__name__}` must return within {timeout} s"

    return call


def _compare(logged: Sequence[Mapping[str, Any]], records: Sequence[EpochRecord]) -> None:
    """Raises AssertionError where what was read is not what was logged, as far as it is there."""
    assert [epoch["step"] for epoch in logged] == [record.step for record in records]
    for epoch, record in zip(logged, records, strict=True):
        expected = {
            **{name: getattr(record, name) for name in ("step", "epoch", "scalars")},
            "captions": [sample.caption for sample in record.samples],
            "images": list(record.encoded),
        }
        kept = {name: value for name, value in epoch.items() if value is not None}
        assert kept.keys() <= expected.keys(), f"`read` must return {', '.join(expected)}: {', '.join(kept)}"
        assert len(kept) > 1, "`read` must return something beside the step"
        for name, value in kept.items():
            assert value == expected[name], f"{name} of step {record.step}: {value!r}, and not {expected[name]!r}"
