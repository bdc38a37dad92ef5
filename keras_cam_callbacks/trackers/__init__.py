"""Where records go. `TRACKERS` names the trackers; each is one file, and loads its library when it starts."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Any

from .base import Tracker
from .disk import DiskTracker
from .memory import MemoryTracker
from .tensorboard import TensorBoardTracker
from .wandb import WandbTracker

__all__ = [
    "TRACKERS",
    "DiskTracker",
    "MemoryTracker",
    "TensorBoardTracker",
    "Tracker",
    "WandbTracker",
    "resolve",
]

TRACKERS: dict[str, type[Tracker]] = {
    "disk": DiskTracker,
    "memory": MemoryTracker,
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
}


def resolve(tracker: Any) -> list[Tracker]:
    """Returns the trackers that the argument `tracker` of a callback stands for.

    Args:
        tracker: A name in `TRACKERS`; "auto"; a Tracker, or any object with its methods start, log and
            finish; a list or tuple of these; or None for no tracker. "auto" is the record on disk, and every
            library with an active run; where none is active, TensorBoard.

    Returns:
        The trackers; those that were named are new.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If an object is no tracker.
    """
    if tracker is None:
        return []
    if isinstance(tracker, list | tuple):
        return [found for item in tracker for found in resolve(item)]
    if tracker == "auto":
        return [DiskTracker(), WandbTracker() if _wandb_is_active() else TensorBoardTracker()]
    names = ["auto", *TRACKERS]
    if isinstance(tracker, str):
        if tracker not in TRACKERS:
            close = get_close_matches(tracker.lower(), names, n=1)
            raise ValueError(
                f"tracker must be one of {names}, a Tracker, or a list of these. Received: {tracker!r}."
                + (f" Did you mean {close[0]!r}?" if close else "")
            )
        return [TRACKERS[tracker]()]
    methods = ("start", "log", "finish")
    if isinstance(tracker, type) or not all(callable(getattr(tracker, name, None)) for name in methods):
        raise TypeError(
            f"tracker must be one of {names}, an object with the methods {', '.join(methods)}, or a list of "
            f"these. Received: {tracker!r}. Call a class first; give a W&B run to WandbTracker(run)."
        )
    found: Tracker = tracker
    return [found]


def _wandb_is_active() -> bool:
    # Who has a run has imported wandb; importing it here would cost everyone else.
    run = getattr(sys.modules.get("wandb"), "run", None)
    return run is not None and not run.disabled
