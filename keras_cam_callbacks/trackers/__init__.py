"""Where records go. `TRACKERS` has a row for each tracker; one with a library is a file or folder and loads it late.

Trackers of other packages are found by name, too, see `plugins`.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from .. import plugins
from ..checks import did_you_mean
from .base import Tracker
from .mlflow import MLflowTracker
from .plain import DiskTracker, FunctionTracker, MemoryTracker
from .tensorboard import TensorBoardTracker
from .trackio import TrackioTracker
from .wandb import WandbTracker

__all__ = [
    "TRACKERS",
    "DiskTracker",
    "FunctionTracker",
    "MLflowTracker",
    "MemoryTracker",
    "TensorBoardTracker",
    "Tracker",
    "TrackioTracker",
    "WandbTracker",
    "resolve",
]

TRACKERS: dict[str, type[Tracker]] = {
    "disk": DiskTracker,
    "memory": MemoryTracker,
    "mlflow": MLflowTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "wandb": WandbTracker,
}

_CALLS = ("start", "log", "finish")


def resolve(tracker: Any, named: MutableMapping[str, Tracker] | None = None) -> list[Tracker]:
    """Returns the trackers that the argument `tracker` of a callback stands for.

    Args:
        tracker: A name in `TRACKERS`, or one that another package brings; "auto"; a Tracker, or any object with its
            methods start, log and finish; a list or tuple of these; or None for no tracker. "auto" is the record on
            disk, and every library with an active run; where none is active, TensorBoard.
        named: The trackers that were made from names so far, which are used again; new ones are added.

    Returns:
        The trackers, each once; behind them the record on disk, where one of them wants it and it is not there yet.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If an object is no tracker.
        ImportError: If another package's tracker can't be imported or made.
    """
    named = {} if named is None else named
    listed = _listed(tracker, named)
    wanted = any(getattr(one, "wants_record", False) for one in listed)
    if wanted and not any(isinstance(one, DiskTracker) for one in listed):
        listed += _listed("disk", named)
    return listed


def _listed(tracker: Any, named: MutableMapping[str, Tracker]) -> list[Tracker]:
    """Returns the trackers that are given, in their order."""
    if tracker is None:
        return []
    if isinstance(tracker, str) and tracker == "auto":
        active = [name for name, kind in TRACKERS.items() if kind.has_active_run()]
        tracker = ["disk", *(active or ["tensorboard"])]
    if isinstance(tracker, list | tuple):
        several = [found for item in tracker for found in _listed(item, named)]
        return list({id(found): found for found in several}.values())
    if isinstance(tracker, str):
        if tracker not in named:
            named[tracker] = TRACKERS[tracker]() if tracker in TRACKERS else _brought(tracker)
        return [named[tracker]]
    if not _is_tracker(tracker):
        raise TypeError(
            f"tracker must be one of {['auto', *TRACKERS]}, an object with the methods {', '.join(_CALLS)}, or a list "
            f"of these. Received: {tracker!r}. Call a class first; give a W&B run to WandbTracker(run), and a function "
            "to FunctionTracker(function)."
        )
    found: Tracker = tracker
    return [found]


def _is_tracker(tracker: Any) -> bool:
    """Tells whether an object has what a tracker needs; a class has not been called yet."""
    return not isinstance(tracker, type) and all(callable(getattr(tracker, name, None)) for name in _CALLS)


def _brought(name: str) -> Tracker:
    """Returns a new tracker of another package.

    Raises:
        ValueError: If no package brings that name.
        ImportError: If it can't be imported or made.
        TypeError: If it is no tracker.
    """
    others = plugins.plugin_names(plugins.TRACKERS)
    if name not in others:
        names = ["auto", *TRACKERS, *others]
        raise ValueError(
            f"tracker must be one of {names}, a Tracker, or a list of these. Received: {name!r}."
            + did_you_mean(name, names)
        )
    make = plugins.load_plugin(plugins.TRACKERS, name)
    must, works = "make one when it is called without arguments", "A subclass of Tracker works."
    tracker: Tracker = plugins.call_plugin(plugins.TRACKERS, name, make, must, works)
    if not _is_tracker(tracker):
        raise TypeError(
            f"What a package brings as the tracker {name!r} must make an object with the methods "
            f"{', '.join(_CALLS)}. Received: {tracker!r}. {works}"
        )
    return tracker
