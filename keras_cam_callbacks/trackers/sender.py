"""A thread of its own for trackers that are slow to take what they get, with waits that have an end."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable


class Sender:
    """Does actions one after another in a thread, so that training goes on meanwhile.

    What fails in the thread is raised by the next call; what was waiting behind it is dropped. The thread is made by
    the first action and ended by `finish`, or when Python exits, which waits for it up to `limit`.

    Args:
        name: What is waited for, in messages and in the thread's name.
        limit: Longest time in seconds that a call waits while no action ends. What takes longer is given up: it is not
            waited for again.
        room: How many actions may wait to be done before `put` waits for one of them.
    """

    def __init__(self, name: str, limit: float, room: int = 4):
        self._name = name
        self._limit = limit
        self._room = room
        self._state: _State | None = None

    def put(self, what: str, action: Callable[[], object]) -> None:
        """Has an action done after those that wait.

        Args:
            what: The action in words, for messages.
            action: What is done in the thread.

        Raises:
            RuntimeError: If an action before it has failed.
            TimeoutError: If no action ends within the limit, and there is no room.
        """
        if self._state is None:
            self._state = _State()
            atexit.register(self._at_exit)
            # A daemon, for one that hangs must not keep Python from exiting.
            threading.Thread(target=_work, args=(self._state,), name=f"sender to {self._name}", daemon=True).start()
        self._wait(lambda state: len(state.waiting) < self._room)
        with self._state.changed:
            self._state.waiting.append((what, action))
            self._state.changed.notify_all()

    def wait(self) -> None:
        """Waits until everything is done.

        Raises:
            RuntimeError: If an action has failed.
            TimeoutError: If none of them ends within the limit.
        """
        if self._state is not None:
            self._wait(lambda state: not state.waiting and not state.busy)

    def finish(self) -> None:
        """Waits until everything is done and ends the thread; raises as `wait` does. `put` starts another."""
        try:
            self.wait()
        finally:
            self._end()

    def _wait(self, is_met: Callable[[_State], bool]) -> None:
        state = self._state
        assert state is not None
        with state.changed:
            done = state.done
            while not (met := self._wait_once(state, is_met)) and state.done != done:
                done = state.done  # One that is slow, and goes on, is not one that hangs.
            error, left = state.error, len(state.waiting) + bool(state.busy)
            since = f"{state.busy}, for {time.monotonic() - state.since:.0f} s" if state.busy else "nothing"
        if error is not None:
            self._end()
            what, cause = error
            raise RuntimeError(f"{what} failed: {type(cause).__name__}: {cause}") from cause
        if not met:
            self._end()
            raise TimeoutError(
                f"{self._name} must take what it is sent within {self._limit:g} s. Received: {left} left, at work on "
                f"{since}. They are given up."
            )

    def _wait_once(self, state: _State, is_met: Callable[[_State], bool]) -> bool:
        """Waits until an action ends, at most for the limit; returns whether the wait is over, well or not."""
        done = state.done
        state.changed.wait_for(lambda: state.error or is_met(state) or state.done != done, self._limit)
        return state.error is not None or is_met(state)

    def _end(self) -> None:
        """Drops what waits, and has the thread end after what it does now."""
        if self._state is not None:
            with self._state.changed:
                self._state.waiting.clear()
                self._state.ended = True
                self._state.changed.notify_all()
            self._state = None
            atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        """After an exception or Ctrl-C in `fit` nobody calls `finish`."""
        try:
            self.finish()
        except (RuntimeError, TimeoutError) as error:
            # Nobody is left to catch it, and Python would print its traceback.
            print(f"keras_cam_callbacks: {error}")


class _State:
    """What one thread and those who wait for it share; of threads that were given up, each has its own."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self.busy = ""
        self.since = 0.0
        self.done = 0
        self.ended = False
        self.error: tuple[str, BaseException] | None = None


def _work(state: _State) -> None:
    while True:
        with state.changed:
            state.done += bool(state.busy)
            state.busy = ""
            state.changed.notify_all()
            state.changed.wait_for(lambda: state.waiting or state.ended)
            if state.ended:
                return
            state.busy, action = state.waiting.popleft()
            state.since = time.monotonic()
        try:
            action()
        except BaseException as error:  # Whatever a tracker's library raises must reach the one who trains.
            with state.changed:
                state.error = (state.busy, error)
                state.busy = ""
                state.changed.notify_all()
            return
        del action  # It holds an epoch's record.
