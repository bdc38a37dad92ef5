"""Trackers that hang, for tests."""

from __future__ import annotations

import threading

from sample_records import make_config

from keras_cam_callbacks.callbacks.run import TrackedRun
from keras_cam_callbacks.trackers import Tracker

# Whoever waits longer than this hangs.
LONG = 60


class Hanging(Tracker):
    """Hangs in one call until it is let go; knows whether it does, its calls, and the threads that they came in."""

    uses_directory = False
    timeout = 1

    def __init__(self, *at):
        self.at = at
        self.hangs, self.free = threading.Event(), threading.Event()
        self.calls, self.threads = [], []

    def _called(self, *call):
        self.calls.append(call)
        self.threads.append(threading.current_thread())
        if call == self.at:
            self.hangs.set()
            assert self.free.wait(2 * LONG)

    def start(self, config):
        self._called("start")

    def log(self, record):
        self._called("log", record.step)

    def finish(self):
        self._called("finish")


def raising(what, switch_off, action):
    """What `TrackedRun` does with a failure where `on_error` is "raise"."""
    action()


def tracked(tracker, directory):
    """A run that sends records to one tracker."""
    run = TrackedRun(raising)
    run.prepare(tracker)
    run.start(make_config(directory), (run,), 0)
    return run


class Duck:
    """A user's object with a tracker's methods alone, which never returns."""

    def start(self, config):
        self.timeout = 0.3

    def log(self, record):
        threading.Event().wait()

    def finish(self):
        raise AssertionError
