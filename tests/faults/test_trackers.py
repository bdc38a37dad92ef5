"""Trackers that hang, or whose library's process dies: training goes on, and that is said once."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import wandb
from fits import X, Y, bare_weights, before_epoch, fit, steps_on_disk, tiny_model, weights
from hanging import LONG, Duck, Hanging, tracked
from paths import ROOT, TESTS
from sample_records import make_config, make_record
from wandb_log import finished_log, read_log, wandb_run

from keras_cam_callbacks import GradCAMLogger, MemoryTracker, WandbTracker
from keras_cam_callbacks.trackers import DiskTracker, TensorBoardTracker

# ---- Trackers that hang ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "calls"),
    [
        (("log", 1), [("start",), ("log", 0), ("log", 1)]),
        (("finish",), [("start",), ("log", 0), ("log", 1), ("log", 2), ("finish",)]),
    ],
)
def test_a_tracker_that_hangs_is_switched_off(tmp_path, at, calls):
    hanging, memory, model = Hanging(*at), MemoryTracker(), tiny_model()
    logger = GradCAMLogger(X, tracker=[hanging, "disk", memory], log_dir=tmp_path)
    message = (
        r"gradcam: Hanging failed and is switched off until the next fit; training goes on\. TimeoutError: Hanging\."
        rf"{at[0]} must return within 1 s\. Received: no answer\. Its `timeout` may be more seconds, or None"
    )
    with pytest.warns(RuntimeWarning, match=message) as caught:
        fit(logger, model=model)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert hanging.calls == calls
    assert steps_on_disk(tmp_path) == [record.step for record in memory.records] == [0, 1, 2]
    assert weights(model) == bare_weights(3)

    # It is not waited for again, nor called while it still hangs.
    with pytest.warns(RuntimeWarning, match="Hanging.start must return.*Received: no call, as one before") as caught:
        fit(logger, model=model, epochs=1)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert hanging.calls == calls
    # In the next fit after it has come back, it is used.
    hanging.free.set()
    _wait_for(lambda: not logger._run._threads[id(hanging)].is_busy())
    hanging.at = None
    fit(logger, model=model, epochs=1)
    assert hanging.calls == [*calls, ("start",), ("log", 4), ("finish",)]
    assert steps_on_disk(tmp_path) == [0, 1, 2, 3, 4]


def test_a_tracker_that_hangs_at_the_start_is_told_before_the_first_batch(tmp_path):
    hanging, model = Hanging("start"), tiny_model()
    with pytest.raises(TimeoutError, match=r"Hanging\.start must return within 1 s\. Received: no answer"):
        fit(GradCAMLogger(X, tracker=hanging, log_dir=tmp_path), model=model)
    assert int(model.optimizer.iterations) == 0
    hanging.free.set()


def test_on_error_raise_tells_of_a_tracker_that_hangs(tmp_path):
    hanging = Hanging("log", 1)
    logger = GradCAMLogger(X, tracker=["disk", hanging], log_dir=tmp_path, on_error="raise")
    with pytest.raises(TimeoutError, match=r"Hanging\.log must return within 1 s"):
        fit(logger)
    assert steps_on_disk(tmp_path) == [0, 1]
    hanging.free.set()


def test_any_object_with_the_methods_is_waited_for_only_so_long(tmp_path):
    run = tracked(Duck(), tmp_path)
    with pytest.raises(TimeoutError, match=r"Duck\.log must return within 0\.3 s"):
        run.log(make_record(0))


def test_calls_come_in_one_thread_that_ends_with_the_run(tmp_path):
    """Over all fits, as a database's connection needs it; and in the caller's where the tracker says so."""
    own, callers = Hanging(), Hanging()
    callers.timeout = None
    for tracker in (own, callers):
        run = tracked(tracker, tmp_path)
        run.log(make_record(0))
        run.finish()
        run.start(make_config(tmp_path), (run,), 1)
        run.log(make_record(1))
        run.finish()
    assert [call for call, *_ in own.calls] == ["start", "log", "finish"] * 2
    assert own.calls == callers.calls
    (thread,) = set(own.threads)
    assert thread.daemon
    assert thread.name == "Hanging"
    assert set(callers.threads) == {threading.current_thread()}
    for tracker in (DiskTracker(), MemoryTracker(), TensorBoardTracker()):
        assert tracker.timeout is None
    del run
    gc.collect()
    thread.join(LONG)
    assert not thread.is_alive()


def test_errors_come_as_they_were_raised(tmp_path):
    """Also one of the tracker's own that a call timed out, and what ends a program."""

    class Failing(Hanging):
        def log(self, record):
            raise self.error

    failing = Failing()
    run = tracked(failing, tmp_path)
    for error in (TimeoutError("the server's"), OSError("no route"), KeyboardInterrupt("Ctrl-C"), SystemExit(3)):
        failing.error = error
        with pytest.raises(type(error)) as caught:
            run.log(make_record(0))
        assert caught.value is error
        assert caught.traceback[-1].frame.f_locals["self"] is failing


def test_ctrl_c_is_not_held_up_by_a_tracker_that_hangs(tmp_path):
    """It is pressed once the tracker hangs, and the fit has ended while it still does."""
    hanging, memory, model, over, pressed = Hanging("log", 1), MemoryTracker(), tiny_model(), threading.Event(), []
    hanging.timeout = 2 * LONG
    logger = GradCAMLogger(X, tracker=[memory, hanging], log_dir=tmp_path)

    def press():
        hanging.hangs.wait()
        # Python doesn't notice a signal that comes just before it waits for a lock, until there is another.
        while not over.wait(0.1):
            os.kill(os.getpid(), signal.SIGINT)

    def interrupt(*_):
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt

    pressing = threading.Thread(target=press)
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            fit(logger, model=model)
        assert logger._run._threads[id(hanging)].is_busy()
    finally:
        over.set()
        hanging.hangs.set()
        pressing.join()
        signal.signal(signal.SIGINT, before)
        hanging.free.set()
    assert len(memory.records) == 2


def _wait_for(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_tracker_that_hangs_does_not_keep_the_process_alive(tmp_path):
    script = f"""
import sys
from pathlib import Path
from sample_records import make_record
from hanging import Duck, tracked
print("loaded", file=sys.stderr, flush=True)
run = tracked(Duck(), Path({str(tmp_path)!r}))
try:
    run.log(make_record(0))
except TimeoutError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=5 * LONG
    )
    # A framework has its own lines, while it is loaded.
    assert (done.returncode, done.stderr.rpartition("loaded\n")[1:]) == (0, ("loaded\n", ""))
    assert "Duck.log must return" in done.stdout


@pytest.mark.parametrize("timeout", [0, -1, True, "60", (3, 30), float("nan"), float("inf")])
def test_impossible_timeouts_are_told_at_once(timeout):
    hanging = Hanging()
    hanging.timeout = timeout
    with pytest.raises(
        ValueError, match=r"`timeout` must be a positive number.*or None.*of Hanging\. timeout=60 works"
    ):
        GradCAMLogger(X, tracker=hanging)


# ---- W&B's process -----------------------------------------------------------------------------------------

of_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds W&B's process in /proc")


def wandb_processes():
    """The processes that W&B has started for us."""
    return [pid for pid, stat in _running() if int(stat.rpartition(")")[2].split()[1]) == os.getpid()]


def _running():
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # Others end meanwhile.
            if b"wandb-core" in (folder / "cmdline").read_bytes():
                yield int(folder.name), (folder / "stat").read_text()


def wait_until_written(run):
    """Has W&B write out what it holds back: it keeps the last 32 KiB, or some seconds, in its process."""
    (path,) = Path(run.dir).parent.glob("*.wandb")
    size = path.stat().st_size
    run.log({"filler": "x" * 70_000})
    _wait_for(lambda: path.stat().st_size > size + 64 * 1024)


@of_linux
def test_wandb_process_that_is_killed(tmp_path):
    """What W&B had written is there whole, its part of the record too; the next fit logs to the next run."""
    run, memory, model = wandb_run(), MemoryTracker(), tiny_model()

    def kill():
        wait_until_written(run)
        (process,) = wandb_processes()
        os.kill(process, signal.SIGKILL)
        # Python would complain of a process that nobody has waited for.
        (handle,) = (each for each in gc.get_objects() if type(each) is subprocess.Popen and each.pid == process)
        handle.wait()

    logger = GradCAMLogger((X, Y), tracker=["auto", memory], log_dir=tmp_path / "logs")
    with pytest.warns(
        RuntimeWarning, match="WandbTracker failed and is switched off.*(Connection|Broken pipe)"
    ) as caught:
        fit(logger, before_epoch(2, kill), model=model, epochs=4)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert steps_on_disk(logger.directory) == [record.step for record in memory.records] == [0, 1, 2, 3]
    assert weights(model) == bare_weights(4)
    log = read_log(Path(run.dir).parent)
    rows = log.rows_with("gradcam/overlays")
    assert [row["gradcam/step"] for row in rows] == [0, 1]
    assert [log.images(row["gradcam/overlays"]) for row in rows] == [list(r.encoded) for r in memory.records[:2]]
    assert steps_on_disk(log.files) == [0, 1]

    for end in (run.finish, wandb.teardown):
        with suppress(ConnectionError):
            end()
    run = wandb_run()
    fit(logger, model=model, epochs=1)
    log = finished_log(run)
    assert [row["gradcam/step"] for row in log.rows_with("gradcam/overlays")] == [4]
    assert steps_on_disk(log.files) == steps_on_disk(logger.directory) == [0, 1, 2, 3, 4]


@of_linux
@pytest.mark.slow
def test_wandb_process_that_hangs(tmp_path):
    """What it was sent arrives once it is back."""
    run, tracker = wandb_run(), WandbTracker()
    tracked_run = tracked(tracker, tmp_path / "run")
    tracked_run.log(make_record(0))
    (process,) = wandb_processes()
    tracker.timeout = 2
    os.kill(process, signal.SIGSTOP)
    try:
        # More than what waits on its way.
        with pytest.raises(TimeoutError, match=r"WandbTracker\.log must return within 2 s"):
            tracked_run.log(make_record(1, scalars={"x" * 20_000_000: 0.5}))
    finally:
        os.kill(process, signal.SIGCONT)
    _wait_for(lambda: not tracked_run._threads[id(tracker)].is_busy())
    rows = finished_log(run).rows_with("gradcam/overlays")
    assert [row["gradcam/step"] for row in rows] == [0, 1]
