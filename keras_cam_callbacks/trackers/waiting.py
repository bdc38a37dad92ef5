"""Calls in a thread of their own, which are waited for only so long: at once, or while training goes on."""

from __future__ import annotations

import atexit
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from threading import Condition, Thread


class CallThread:
    """Makes calls one after another, always in the same thread.

    Either `call` makes one and waits for it; what hangs is not given up then, and nothing else is called until it has
    returned. Or `put` has calls made while training goes on, and `wait` waits for all of them; what hangs or fails is
    given up then, with all that waits behind it, and the next call gets another thread.

    The thread is made by the first call and ends with this object, or by `finish`. It is a daemon: a call that never
    returns doesn't keep the process alive.

    Args:
        name: What is waited for, in messages, and the thread's name.
        timeout: Seconds that are waited while no call returns. The attribute may be changed between calls.
        room: How many calls that were put may wait to be made.
    """

    def __init__(self, name: str, timeout: float, room: int = 4) -> None:
        self.timeout = timeout
        self._name = name
        self._room = room
        self._state: _State | None = None

    def is_busy(self) -> bool:
        """Tells whether a call has not returned yet."""
        return self._state is not None and self._state.left() > 0

    def call(self, action: Callable[[], object]) -> bool:
        """Makes a call, and raises what it raises.

        Returns:
            Whether it has returned in time. Where one before is still busy, it is not made.
        """
        state = self._started()
        if state.left():
            return False
        state.failure = None  # Of a call that nobody waited for any more.
        state.put("", action)
        if not state.wait(0, self.timeout):
            return False
        failure, state.failure = state.failure, None
        try:
            if failure is not None:
                raise failure[1]
        finally:
            del failure  # Its traceback holds this frame.
        return True

    def put(self, what: str, action: Callable[[], object]) -> None:
        """Has a call made after those that wait. When Python exits, it waits for it, up to the timeout.

        Args:
            what: The call in words, for messages.
            action: What is called.

        Raises:
            RuntimeError: If a call before it has failed.
            TimeoutError: If there is no room, and no call returns in time.
        """
        state = self._started()
        atexit.unregister(self._finish_at_exit)
        atexit.register(self._finish_at_exit)
        self._wait(state, self._room)
        state.put(what, action)

    def wait(self) -> None:
        """Waits until all that was put is done.

        Raises:
            RuntimeError: If a call has failed.
            TimeoutError: If none returns in time.
        """
        if self._state is not None:
            self._wait(self._state, 0)

    def finish(self) -> None:
        """Waits until everything is done and ends the thread; raises as `wait` does. The next call makes another."""
        try:
            self.wait()
        finally:
            self._end()

    def _started(self) -> _State:
        if self._state is None:
            self._state = _State(self._name)
            self._finalizer = weakref.finalize(self, self._state.end)
            self._finalizer.atexit = False
        return self._state

    def _wait(self, state: _State, most: int) -> None:
        is_met = state.wait(most, self.timeout)
        with state.changed:
            failure, left, at_work = state.failure, state.left(), state.at_work
        if failure is not None:
            self._end()
            what, cause = failure
            raise RuntimeError(f"{what} failed: {type(cause).__name__}: {cause}") from cause
        if not is_met:
            self._end()
            now = f"{at_work[0]}, for {time.monotonic() - at_work[1]:.0f} s" if at_work else "nothing"
            raise TimeoutError(
                f"{self._name} must take what it is sent within {self.timeout:g} s. Received: {left} left, at work on "
                f"{now}. They are given up."
            )

    def _end(self) -> None:
        """Drops what waits, and has the thread end after what it does now."""
        if self._state is not None:
            self._finalizer.detach()  # It would hold the thread's state, and an epoch that failed, as long as this.
            self._state.end()
            self._state.failure = None
            if not self._state.left():
                self._state.thread.join()
            self._state = None
            atexit.unregister(self._finish_at_exit)

    def _finish_at_exit(self) -> None:
        """After an exception or Ctrl-C in `fit` nobody calls `finish`."""
        try:
            self.finish()
        except (RuntimeError, TimeoutError) as error:
            # Nobody is left to catch it, and Python would print its traceback.
            print(f"keras_cam_callbacks: {error}")


class _State:
    """What one thread and those who wait for it share; of threads that were given up, each has its own."""

    def __init__(self, name: str) -> None:
        self.changed = Condition()
        self.waiting: deque[tuple[str, Context, Callable[[], object]]] = deque()
        self.at_work: tuple[str, float] | None = None  # what is called, and since when
        self.done = 0
        self.ended = False
        self.failure: tuple[str, BaseException] | None = None
        self.thread = Thread(target=self._make_calls, name=name, daemon=True)
        self.thread.start()

    def left(self) -> int:
        """How many calls have not returned."""
        return len(self.waiting) + (self.at_work is not None)

    def put(self, what: str, action: Callable[[], object]) -> None:
        with self.changed:
            # Variables that belong to a context, as a notebook's output does, are the caller's.
            self.waiting.append((what, copy_context(), action))
            self.changed.notify_all()

    def wait(self, most: int, timeout: float) -> bool:
        """Waits until at most so many calls are left, as long as one returns in time; tells whether it is so."""
        with self.changed:
            while self.left() > most:
                if not self.changed.wait_for(self._is_further_than(self.done), timeout):
                    return False
            return True

    def _is_further_than(self, done: int) -> Callable[[], bool]:
        """Tells whether a call has returned since: one that is slow, and goes on, is not one that hangs."""
        return lambda: self.done > done

    def end(self) -> None:
        with self.changed:
            self.waiting.clear()
            self.ended = True
            self.changed.notify_all()

    def _make_calls(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.ended)
                if self.ended:
                    return
                what, context, action = self.waiting.popleft()
                self.at_work = what, time.monotonic()
            failure = None
            try:
                context.run(action)
            except BaseException as error:  # Raised where it is waited for.
                failure = what, error
            # While it waits for the next call it holds no epoch in memory.
            del context, action
            with self.changed:
                self.at_work = None
                self.done += 1
                if failure is not None:
                    self.failure = failure
                    self.waiting.clear()
                self.changed.notify_all()
            del failure
