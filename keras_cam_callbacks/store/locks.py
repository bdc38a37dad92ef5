"""One writer at a time, also among processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .manifest import check_file

LOCK = "lock"

_SECONDS = 5.0  # longer than an epoch takes to be written


@contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Holds a folder's lock; gives False where another process has held it for too long.

    The lock is a file of its own, for on Windows nobody can read what is locked. The file stays: who removes it may
    remove that of another process. A network disk that knows no locks has as many writers as there are.

    Args:
        directory: The folder.

    Raises:
        ValueError: If the lock is no file.
        OSError: If the folder can't be written to.
    """
    from filelock import unlock_descriptor  # Takes a while, and readers need none.

    path = directory / LOCK
    check_file(path)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)
    try:
        held = _is_held(lock)
        try:
            yield held
        finally:
            if held:
                with suppress(OSError):  # Not by closing alone: a process that was forked meanwhile has it open.
                    unlock_descriptor(lock)
    finally:
        os.close(lock)


def _is_held(lock: int) -> bool:
    from filelock import lock_descriptor

    until = time.monotonic() + _SECONDS
    try:
        while not lock_descriptor(lock, blocking=False):
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
    except OSError:  # A network disk without locks.
        pass
    return True
