"""Running the model: taps, scores, captures, probes, channels and ascent. The only room that calls an engine."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def check_backend() -> None:
    """Checks that Keras runs on a backend that heatmaps can be made on, before data are read or a model is looked at.

    Raises:
        ValueError: If it doesn't; the message tells which work.
    """
    from .. import engine

    engine.backend()


def failures() -> tuple[type[Exception], ...]:
    """Returns what running a model raises beside Python's own errors."""
    from .. import engine

    return engine.load().FAILURES


def wrapping() -> AbstractContextManager[Any]:
    """Returns the lock that is held while a model's layers are wrapped: who looks at their attributes takes it."""
    from .. import engine

    return engine.wrapping


def cluster(model: Any) -> dict[str, Any] | None:
    """Returns what a model's way of training tells of its workers; see `engine.contract.Engine.cluster`."""
    from .. import engine

    return engine.load().cluster(model)
