"""Calls in a thread of their own: in order, waited for only so long, and nothing of them kept."""

import gc
import threading
import time
import weakref
from functools import partial

import pytest

from keras_cam_callbacks.trackers.waiting import CallThread


def threads(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_what_is_slow_and_goes_on_is_waited_for():
    """Longer in all than the timeout, and never so long without anything done."""
    calls, done = CallThread("slow", timeout=2.0), []
    for number in range(5):
        calls.put(f"action {number}", lambda number=number: (time.sleep(0.5), done.append(number)))
    calls.finish()
    assert done == list(range(5))


def test_calls_that_were_put_keep_their_order_and_the_thread_ends():
    calls, done = CallThread("slow", timeout=60), []
    for part in range(2):
        for i in range(20):
            calls.put(str(i), partial(done.append, (part, i, threading.current_thread())))
        calls.wait()
        assert [entry[:2] for entry in done] == [(p, i) for p in range(part + 1) for i in range(20)]
        (thread,) = threads("slow")
        calls.finish()
        calls.finish()
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.mark.parametrize("full", [True, False])
def test_what_hangs_is_given_up(full):
    calls, release, done = CallThread("slow", timeout=0.1, room=2), threading.Event(), []
    calls.put("the first", release.wait)
    for i in range(2):
        calls.put("another", partial(done.append, i))
    (thread,) = threads("slow")
    with pytest.raises(TimeoutError, match=r"slow must take.*3 left, at work on the first, for \d+ s.*given up"):
        calls.put("one too many", partial(done.append, 2)) if full else calls.finish()
    calls.finish()
    # What comes later does not wait for it.
    calls.put("the next", partial(done.append, 3))
    calls.finish()
    release.set()
    thread.join(timeout=60)
    assert done == [3]


class Payload:
    """Stands for an epoch's record."""


def fails(payload):
    raise OSError("no")


@pytest.mark.parametrize("failing", [True, False])
def test_nothing_is_kept_of_calls_that_are_over(failing):
    calls, kept = CallThread("done", timeout=60), []
    for _ in range(3):
        payload = Payload()
        kept.append(weakref.ref(payload))
        calls.put("one", partial(fails if failing else repr, payload))
        del payload
        if failing:
            with pytest.raises(RuntimeError, match="one failed: OSError: no"):
                calls.finish()
        else:
            calls.finish()
    gc.collect()
    assert [reference for reference in kept if reference() is not None] == []
