"""Writers of a record that die, or whose disk is full, at one step of what they do; no framework is loaded.

Run as a script, it makes a folder for each step: `<folder>/<number>`, with the record as it was left behind.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
from sample_records import make_config, make_record

from keras_cam_callbacks.records import Region
from keras_cam_callbacks.store import RunWriter

STEPS = 2
# What Python tells of before it does it: all that changes a disk. To give a lock back changes nothing.
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "fcntl.flock"}
# More than nothing and less than each of the files has.
BYTES = 40


def config_of(folder):
    mask = np.zeros((24, 32), bool)
    mask[3:9, 5:20] = True
    boxes = np.array([[5 / 32, 3 / 24, 20 / 32, 9 / 24]])
    return make_config(folder, regions=(None, Region(boxes, mask), Region(boxes)))


def write(folder):
    writer = RunWriter(config_of(folder))
    for step in range(STEPS):
        writer.write(make_record(step))


def watch(action):
    """Calls `action(number, name, arguments)` before each step."""
    number = 0

    def hook(name, arguments):
        nonlocal number
        if name in EVENTS and arguments[1:] != (fcntl.LOCK_UN,):
            number += 1
            action(number - 1, name, arguments)

    sys.addaudithook(hook)


def in_child(work):
    """Runs `work` in a copy of this process; returns how that ended, as `os.waitstatus_to_exitcode` has it."""
    if (child := os.fork()) == 0:
        try:
            code = work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 99
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_steps(folder):
    seen = []
    watch(lambda *event: seen.append(event))
    write(folder)
    return len(seen)


def write_until(folder, step, how):
    """Writes and is killed before a step, or with some bytes of its file written; or finds the disk full then."""

    def act(number, name, arguments):
        if number != step:
            return
        if how == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        # Of the file that is opened, or of the log, which has been opened before.
        path = arguments[0] if name == "open" else folder / "metrics.jsonl"
        size = os.path.getsize(path) if os.path.exists(path) else 0
        # What is written beyond this is not; then comes a signal that kills, or else an error.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + BYTES, resource.RLIM_INFINITY))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN if how == "full" else signal.SIG_DFL)
    watch(act)
    try:
        write(folder)
    except OSError:
        return 3
    return 0


def main(folder, how):
    write(folder / "warm")  # Loads what is loaded late.
    last = in_child(lambda: count_steps(folder / "whole"))
    assert last > 20
    for step in range(last):
        print(step, in_child(lambda step=step: write_until(folder / str(step), step, how)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
