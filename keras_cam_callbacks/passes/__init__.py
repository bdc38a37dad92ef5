"""Running the model: taps, scores, captures, probes, channels and ascent. The only room that calls an engine."""

from __future__ import annotations

from typing import Any


def failures() -> tuple[type[Exception], ...]:
    """Returns what running a model raises beside Python's own errors."""
    from .. import engine

    errors: tuple[type[Exception], ...] = engine.load().FAILURES
    return errors


def cluster(model: Any) -> dict[str, Any] | None:
    """Returns what a model's way of training tells of its workers; as TF_CONFIG has it; None where it tells of none."""
    from .. import engine

    workers: dict[str, Any] | None = engine.load().cluster(model)
    return workers
