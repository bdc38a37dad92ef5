"""Alerts: a number that crosses a line is said once in a run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checks import did_you_mean
from ..records import Alert
from ..store import read_run

__all__ = ["Alerts", "alerts_of", "check_lines", "checked_lines"]

_LINE = re.compile(r"\s*([<>])\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
_BACK = 0.1  # By what share of the limit a number must return, or one that hovers would cross it again and again.


@dataclass(frozen=True)
class _Line:
    below: bool
    limit: float

    def is_crossed(self, value: float) -> bool:
        return value < self.limit if self.below else value > self.limit

    def is_back(self, value: float) -> bool:
        way = value - self.limit if self.below else self.limit - value
        return way >= _BACK * abs(self.limit) and not self.is_crossed(value)

    def __str__(self) -> str:
        return f"{'below' if self.below else 'above'} {self.limit:g}"


def checked_lines(alerts: Mapping[str, str] | None) -> dict[str, _Line]:
    """Returns the line of each number.

    Args:
        alerts: As in `HeatmapLogger`.

    Raises:
        TypeError: If it is no dict of texts.
        ValueError: If a text is no line.
    """
    works = "alerts={'drift': '> 0.6'} works."
    if alerts is None:
        return {}
    if not isinstance(alerts, Mapping) or not all(isinstance(text, str) for pair in alerts.items() for text in pair):
        raise TypeError(f"`alerts` must be a dict of lines by the names of numbers. Received: {alerts!r}. {works}")
    lines = {}
    for name, text in alerts.items():
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"A line of `alerts` must be '<' or '>' and a number. Received: {text!r} of {name!r}. {works}"
            )
        lines[name] = _Line(match[1] == "<", float(match[2]))
    return lines


def check_lines(lines: Iterable[str], numbers: Sequence[str]) -> None:
    """Raises ValueError for a line of a number that isn't measured.

    Args:
        lines: The names that have lines.
        numbers: The names of all numbers that are measured.
    """
    for name in lines:
        if name not in numbers:
            raise ValueError(
                f"`alerts` must name numbers that are measured. Received: {name!r}.{did_you_mean(name, numbers)} "
                f"There are {', '.join(numbers)}."
            )


def alerts_of(directory: Path | None) -> set[str]:
    """Returns the numbers of which a run's record says that they have crossed their lines."""
    try:
        epochs = read_run(directory).epochs if directory is not None else ()
    except (ValueError, OSError):  # There is none yet, or it is damaged: a line more costs less than a training.
        return set()
    return {alert.name for epoch in epochs for alert in epoch.alerts}


class Alerts:
    """Watches the numbers of a run.

    A number that is beyond its line is said at the first epoch in which it is. It is noted again, and not said, where
    it had come back by a tenth of the limit and crosses once more.

    Attributes:
        run_id: The run.
    """

    def __init__(self, lines: Mapping[str, _Line], run_id: str, said: Iterable[str] = ()) -> None:
        """Begins.

        Args:
            lines: The lines.
            run_id: The run that is watched.
            said: Numbers of which the run's record says it already.
        """
        self._lines, self.run_id = lines, run_id
        self._said = set(said)
        self._beyond = set(self._said)

    def crossed(self, scalars: Mapping[str, float], epoch: int) -> tuple[Alert, ...]:
        """Returns which numbers cross their lines in an epoch.

        Args:
            scalars: The epoch's numbers; one that is not finite crosses nothing.
            epoch: The epoch.
        """
        crossing = []
        for name, line in self._lines.items():
            value = scalars.get(name, math.nan)
            if name in self._beyond:
                if line.is_back(value):
                    self._beyond.remove(name)
            elif line.is_crossed(value) and math.isfinite(value):
                self._beyond.add(name)
                crossing.append(Alert(name, f"{name} is {value:.3g} in epoch {epoch}, {line}", name not in self._said))
                self._said.add(name)
        return tuple(crossing)
