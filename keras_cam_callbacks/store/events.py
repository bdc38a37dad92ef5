"""What became of the epochs that a record does not hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

__all__ = ["Event", "Missing", "event_line", "missing_ends", "missing_epochs", "read_event"]

_FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """Something that failed while a run was logged, and was switched off until its next fit.

    Attributes:
        epoch: The epoch as Keras counted it.
        step: The run's own count.
        wall_time: When it was, in seconds since 1970.
        what: What has failed: "The heatmaps", or the name of a tracker.
        error: The error, such as "ValueError: ...".
    """

    epoch: int
    step: int
    wall_time: float
    what: str
    error: str

    def __str__(self) -> str:
        return f"epoch {self.epoch}: failed: {self.what}: {self.error}"


@dataclass(frozen=True)
class Missing:
    """Epochs of a run, one after another, that its record does not hold.

    Attributes:
        first: The first of them, as Keras counted it.
        last: The last of them.
        reason: Why, in words.
        failed: Whether something failed in it; the run's events say what.
        freq: The setting that has passed over them; None where it was not that.
    """

    first: int
    last: int
    reason: str
    failed: bool = False
    freq: int | None = None

    def __str__(self) -> str:
        which = f"epoch {self.first}" if self.first == self.last else f"epochs {self.first} to {self.last}"
        return f"{which}: {self.reason}"


def event_line(event: Event) -> dict[str, Any]:
    """Returns an event as a line of the log has it."""
    return {"event": _FAILED, **vars(event)}


def read_event(entry: Mapping[str, Any]) -> Event | None:
    """Returns the event of a line, or None for a kind that later versions may write.

    Raises:
        KeyError: If it lacks something.
        TypeError: If something is of the wrong type.
        ValueError: If a number can't be read.
    """
    if entry["event"] != _FAILED:
        return None
    return Event(
        epoch=int(entry["epoch"]),
        step=int(entry["step"]),
        wall_time=float(entry["wall_time"]),
        what=str(entry["what"]),
        error=str(entry["error"]),
    )


def missing_epochs(logged: Iterable[tuple[int, int, int]], events: Iterable[Event]) -> tuple[Missing, ...]:
    """Finds the epochs that lie between those which were logged, or in which something failed.

    Args:
        logged: Step, epoch and `freq` of each logged epoch.
        events: What has failed.
    """
    epochs = {step: (epoch, freq) for step, epoch, freq in logged}
    failures: dict[int, Event] = {}
    for event in events:
        if event.step not in epochs:
            failures.setdefault(event.step, event)
    steps = sorted({*epochs, *failures})
    lacking: list[Missing] = []
    for step, following in zip_longest(steps, steps[1:]):
        failure = failures.get(step)
        epoch = failure.epoch if failure else epochs[step][0]
        if failure:
            lacking.append(Missing(epoch, epoch, f"failed: {failure.what}: {failure.error}", failed=True))
        if following is None or following == step + 1:
            continue
        first, last = epoch + 1, epoch + following - step - 1
        if failure:
            reason = f"not logged, for what had failed in epoch {epoch} was switched off until the next fit"
            lacking.append(Missing(first, last, reason))
            continue
        freq = epochs.get(following, epochs[step])[1]
        if last // freq == (first - 1) // freq:  # None of them is a multiple.
            lacking.append(Missing(first, last, f"passed over by freq={freq}", freq=freq))
        else:
            lacking.append(
                Missing(first, last, "not logged, and the record does not say why: was the process stopped?")
            )
    return tuple(lacking)


def missing_ends(logged: Iterable[tuple[int, int]], events: Iterable[Event]) -> tuple[Missing, ...]:
    """As `missing_epochs`, of a run whose steps are training steps, and which logs each epoch.

    Args:
        logged: Step and epoch of all that was logged, also within epochs.
        events: What has failed.
    """
    places: dict[int, tuple[int, Event | None]] = {step: (epoch, None) for step, epoch in logged}
    for event in events:
        places.setdefault(event.step, (event.epoch, event))
    lacking: list[Missing] = []
    before: tuple[int, Event | None] | None = None
    for _, (epoch, failure) in sorted(places.items(), key=lambda item: item[0]):
        if before is not None and epoch > before[0] + 1:
            off = f"for what had failed in epoch {before[0]} was switched off until the next fit"
            unknown = "and the record does not say why: was the process stopped?"
            lacking.append(Missing(before[0] + 1, epoch - 1, f"not logged, {off if before[1] else unknown}"))
        if failure:
            lacking.append(Missing(epoch, epoch, f"failed: {failure.what}: {failure.error}", failed=True))
        before = epoch, failure
    return tuple(lacking)
