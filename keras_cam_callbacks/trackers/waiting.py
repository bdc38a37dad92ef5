"""Calls that are waited for only so long: those of one tracker, in a thread of its own."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent import futures
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Thread
from typing import TypeAlias

_Calls: TypeAlias = "SimpleQueue[tuple[Context, Callable[[], object], futures.Future[None]] | None]"


class CallThread:
    """Makes calls one after the other, always in the same thread.

    The thread ends with this object. It is a daemon: a call that never returns doesn't keep the process alive.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._calls: _Calls = SimpleQueue()
        self._open: futures.Future[None] | None = None
        Thread(target=_make_calls, args=(self._calls,), name=name, daemon=True).start()
        weakref.finalize(self, self._calls.put, None).atexit = False

    def is_busy(self) -> bool:
        """Tells whether a call that is no longer waited for has not returned yet."""
        return self._open is not None and not self._open.done()

    def call(self, action: Callable[[], object], timeout: float) -> bool:
        """Makes a call, and raises what it raises.

        Args:
            action: What is called.
            timeout: How long it is waited for, in seconds.

        Returns:
            Whether it has returned in time. Where one before is still busy, it is not made.
        """
        if self.is_busy():
            return False
        self._open = futures.Future()
        # Variables that belong to a context, as a notebook's output does, are the caller's.
        self._calls.put((copy_context(), action, self._open))
        try:
            error = self._open.exception(timeout)
        except futures.TimeoutError:
            return False
        self._open = None
        try:
            if error is not None:
                raise error
        finally:
            del error  # Its traceback holds this frame.
        return True


def _make_calls(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        context, action, answer = call
        try:
            context.run(action)
            answer.set_result(None)
        except BaseException as error:  # Raised where the call is waited for.
            answer.set_exception(error)
        # While it waits for the next call it holds no epoch in memory.
        del call, context, action, answer
