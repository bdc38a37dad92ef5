"""What a compiled function asks of its runs, so that the next call notes and holds no more than the last one needed.

The first call of a function notes every operation and holds every tensor, which is as much memory as training takes; it
is made with a sample or a few. Each later call goes by what the one before it was asked for. Where it is asked for
more, it runs once more, and holds everything.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .recording import Unheld


@dataclass(eq=False)
class Asked:
    """What one run is asked for.

    Attributes:
        everything: Whether it may be asked for anything.
        logits: Whether its end was looked at, what went into the softmax.
        graph: Whether what comes from what was looked up, from the inputs on.
        attends: Whether gradients of attention were computed.
        watched: Whether a layer was watched.
        outputs: Of which calls of layers, by their place, the outputs were read.
        tensors: Numbers of other tensors that were read.
    """

    everything: bool = False
    logits: bool = False
    graph: bool = False
    attends: bool = False
    watched: bool = False
    outputs: set[int] = field(default_factory=set)
    tensors: set[int] = field(default_factory=set)


class Memory:
    """What the runs of one function are asked for, from call to call.

    Attributes:
        calls: How many there were.
    """

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._last: list[Asked] | None = None
        self._now: list[Asked] = []
        self.calls = 0

    def call(self, function: Callable[[], Any]) -> Any:
        """Calls a function, once more where its runs were asked for what was let go of."""
        before = _memory.set(self)
        try:
            try:
                return self._call(function)
            except Unheld:
                self._last = None
            try:
                return self._call(function)
            except Unheld as error:
                raise RuntimeError(_OVER) from error
        finally:
            _memory.reset(before)

    def _call(self, function: Callable[[], Any]) -> Any:
        self._now = []
        result = function()
        self._last, self._now = self._now, []
        self.calls += 1
        return result

    def next_run(self) -> tuple[Asked, Asked]:
        """Returns what the next run of this call is expected to be asked for, and what it is asked for is noted in."""
        now = Asked()
        at = len(self._now)
        self._now.append(now)
        if self._last is None or at >= len(self._last):
            return Asked(everything=True, graph=True, attends=True, logits=True), now
        return self._last[at], now


_memory: ContextVar[Memory | None] = ContextVar("memory", default=None)

_OVER = "A run that is over was asked for what it doesn't hold."


def unheld() -> BaseException:
    """Returns what a run raises that is asked for what it doesn't hold; one that is over can't be run once more."""
    return RuntimeError(_OVER) if _memory.get() is None else Unheld()


def next_run() -> tuple[Asked, Asked]:
    """Returns what the next run is expected to be asked for, and in what that is noted."""
    memory = _memory.get()
    if memory is None:  # Outside of a compiled function.
        return Asked(everything=True, graph=True, attends=True, logits=True), Asked()
    return memory.next_run()
