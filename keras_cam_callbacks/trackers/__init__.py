"""Where records go. `TRACKERS` has a row for each tracker; one with a library is a file or folder and loads it late."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

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


def resolve(tracker: Any, named: MutableMapping[str, Tracker] | None = None) -> list[Tracker]:
    """Returns the trackers that the argument `tracker` of a callback stands for.

    Args:
        tracker: A name in `TRACKERS`; "auto"; a Tracker, or any object with its methods start, log and
            finish; a list or tuple of these; or None for no tracker. "auto" is the record on disk, and every
            library with an active run; where none is active, TensorBoard.
        named: The trackers that were made from names so far, which are used again; new ones are added.

    Returns:
        The trackers, each once; behind them the record on disk, where one of them wants it and it is not there yet.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If an object is no tracker.
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
    names = ["auto", *TRACKERS]
    if isinstance(tracker, str):
        if tracker not in TRACKERS:
            raise ValueError(
                f"tracker must be one of {names}, a Tracker, or a list of these. Received: {tracker!r}."
                + did_you_mean(tracker, names)
            )
        if tracker not in named:
            named[tracker] = TRACKERS[tracker]()
        return [named[tracker]]
    methods = ("start", "log", "finish")
    if isinstance(tracker, type) or not all(callable(getattr(tracker, name, None)) for name in methods):
        raise TypeError(
            f"tracker must be one of {names}, an object with the methods {', '.join(methods)}, or a list of "
            f"these. Received: {tracker!r}. Call a class first; give a W&B run to WandbTracker(run), and a function to "
            "FunctionTracker(function)."
        )
    found: Tracker = tracker
    return [found]
