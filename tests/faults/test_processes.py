"""Processes that are killed, and two that write at once: what is on disk then, and what the next one makes of it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from dying import STEPS, config_of
from fits import KERAS_WARNS, X, Y, backed_up_fit, before_epoch, epochs_on_disk, fit, new_model, weights
from paths import ROOT, TESTS
from sample_records import make_config, make_record
from tracker_logs import epochs_in_events

from keras_cam_callbacks import GradCAMLogger, MemoryTracker
from keras_cam_callbacks.drawing.files import read_image
from keras_cam_callbacks.store import RunWriter, read_run

ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}"}


def check_epochs(folder, steps, config):
    """Checks that a record holds these steps, each whole."""
    run = read_run(folder)
    assert [epoch.step for epoch in run.epochs] == list(steps)
    for epoch in run.epochs:
        record = make_record(epoch.step)
        np.testing.assert_array_equal(epoch.heatmaps(), record.heatmaps)
        np.testing.assert_array_equal(epoch.arrays()["outputs"], record.outputs)
        assert list(epoch.encoded()) == list(record.encoded)
        assert epoch.captions == tuple(sample.caption for sample in record.samples)
        assert epoch.scalars == record.scalars
    return run


@pytest.mark.parametrize("how", ["before", "middle", "full"])
def test_a_writer_that_ends_at_any_step_leaves_whole_epochs(tmp_path, how):
    """Killed before each step that changes the disk, or with half a file written, or with a disk that is full."""
    done = subprocess.run(
        [sys.executable, TESTS / "dying.py", tmp_path, how], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    codes = dict(map(int, line.split()) for line in done.stdout.splitlines())
    assert set(codes.values()) == {{"before": -9, "middle": -25, "full": 3}[how]}
    kept = []
    for case in codes:
        folder = tmp_path / str(case)
        config = config_of(folder)
        left = 0
        if (folder / "manifest.json").exists():
            left = len(read_run(folder).epochs)
            check_epochs(folder, range(left), config)
        kept.append(left)
        # The next process goes on with what is there, and leaves nothing behind that is half done.
        writer = RunWriter(config)
        for step in range(left, STEPS + 1):
            writer.write(make_record(step))
        run = check_epochs(folder, range(STEPS + 1), config)
        for path, image in zip(run.image_files, config.display, strict=True):
            np.testing.assert_array_equal(read_image(path), image)
        for region, expected in zip(run.regions(), config.regions, strict=True):
            assert (region is None) == (expected is None)
            if expected is not None:
                np.testing.assert_array_equal(region.boxes, expected.boxes)
                np.testing.assert_array_equal(region.mask, expected.mask)
        assert list(folder.rglob(".*")) == [], f"left behind by a writer that ended at step {case}"
    assert kept == sorted(kept)
    assert set(kept) == set(range(STEPS))


RACER = """
import sys
from pathlib import Path
from sample_records import make_config, make_record
from keras_cam_callbacks.store import RunWriter
writer = RunWriter(make_config(Path(sys.argv[1])))
records = [make_record(step) for step in range(100)]
print("ready", flush=True)
sys.stdin.readline()
written = 0
try:
    for record in records:
        writer.write(record)
        written += 1
except RuntimeError as error:
    print(error)
print(written)
"""


def test_two_processes_that_go_on_with_one_record(tmp_path):
    """As a job that is started twice: one of them is refused, and what the other writes is whole."""
    config = make_config(tmp_path / "run")
    RunWriter(config)
    command = [sys.executable, "-c", RACER, config.directory]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, env=ENVIRONMENT, **pipes) as one,
        subprocess.Popen(command, env=ENVIRONMENT, **pipes) as other,
    ):
        for process in (one, other):
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate()[0].splitlines() for process in (one, other)]
    counts = sorted(int(lines[-1]) for lines in said)
    assert counts[1] == 100
    assert counts[0] == 0
    assert "one writer. Received" in str(said)
    check_epochs(config.directory, range(100), config)
    assert len((config.directory / "metrics.jsonl").read_bytes().splitlines()) == 100


# ---- Fits --------------------------------------------------------------------------------------------------


# Where a fit is killed, what epochs are on disk then, and how many lines the record has in the end.
KILLED = {"in an epoch": ([0, 1], 5), "in writing": ([0, 1], 5), "before the backup": ([0, 1, 2], 6)}
# Most of their time is the loading of TensorFlow; once it has begun to compute, a process must not be copied.
KILLER = """
import sys, fits
from pathlib import Path
from dying import in_child
for how in sys.argv[2:]:
    code = in_child(lambda: fits.backed_up_fit(Path(sys.argv[1]) / how, dies=how))
    assert code == -9, code
"""


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # of Keras
@pytest.mark.slow
def test_fits_that_were_killed(tmp_path, caplog):
    """No epoch is there twice; where it was logged but not backed up, the later one counts, and that is said."""
    caplog.set_level(logging.INFO, "keras_cam_callbacks")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, tmp_path, *KILLED], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    whole = read_run(backed_up_fit(tmp_path / "whole")[0].directory).epochs
    for how, (left, lines) in KILLED.items():
        caplog.clear()
        folder, record = tmp_path / how, tmp_path / how / "logs" / "gradcam"
        assert [epoch for _, epoch in epochs_on_disk(record)] == left
        assert [epoch["step"] for epoch in epochs_in_events(record)] == left
        shutil.copytree(folder, tmp_path / "bare" / how)
        before = files_of(record / "overlays" / "000001")

        logger, ours = backed_up_fit(folder)
        assert logger.directory == record
        assert epochs_on_disk(record) == [(i, i) for i in range(5)]
        assert len((record / "metrics.jsonl").read_bytes().splitlines()) == lines
        assert sorted({epoch["step"] for epoch in epochs_in_events(record)}) == list(range(5))
        assert files_of(record / "overlays" / "000001") == before
        for epoch, other in zip(read_run(record).epochs, whole, strict=True):
            np.testing.assert_allclose(epoch.heatmaps(), other.heatmaps(), atol=1e-6)
            assert epoch.scalars == pytest.approx(other.scalars, abs=1e-4, nan_ok=True)
        assert "gradcam, which goes on after epoch 1" in caplog.text
        assert ("it holds epoch 2 too: of what is logged twice the later counts" in caplog.text) == (left == [0, 1, 2])
        assert ours == backed_up_fit(tmp_path / "bare" / how, ours=False)[1]

    # Without a backup, which the end has removed, a fit begins anew: that is another run, and overwrites nothing.
    before = files_of(record)
    logger, _ = backed_up_fit(folder, epochs=2)
    assert logger.directory == folder / "logs" / "gradcam-2"
    assert epochs_on_disk(logger.directory) == [(0, 0), (1, 1)]
    assert files_of(record) == before


@KERAS_WARNS
def test_a_second_fit_goes_on_with_the_record_while_the_first_runs(tmp_path):
    """The one that finds epochs that are not its own is refused, once, and trains on."""
    first, second, model = MemoryTracker(), MemoryTracker(), new_model()
    loggers = [GradCAMLogger((X, Y), tracker=["disk", each], log_dir=tmp_path) for each in (first, second)]
    other = before_epoch(2, lambda: fit(loggers[1], epochs=4, initial_epoch=2))
    with pytest.warns(RuntimeWarning, match="DiskTracker failed and is switched off.*one writer") as caught:
        fit(loggers[0], other, model=model, epochs=4)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert [len(memory.records) for memory in (first, second)] == [4, 2]
    assert loggers[0].directory == loggers[1].directory
    assert epochs_on_disk(tmp_path) == [(i, i) for i in range(4)]
    for step in (2, 3):
        np.testing.assert_array_equal(read_run(tmp_path).epochs[step].heatmaps(), second.records[step - 2].heatmaps)
    bare = new_model()
    fit(model=bare, epochs=4)
    assert weights(model) == weights(bare)
