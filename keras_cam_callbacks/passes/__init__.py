"""Running the model: taps, scores, captures, probes, channels and ascent. The only room that calls an engine."""

from __future__ import annotations

from typing import Any


def failures() -> tuple[type[Exception], ...]:
    """Returns what running a model raises beside Python's own errors."""
    from .. import engine

    return engine.load().FAILURES


def cluster(model: Any) -> dict[str, Any] | None:
    """Returns what a model's way of training tells of its workers; see `engine.contract.Engine.cluster`."""
    from .. import engine

    return engine.load().cluster(model)
