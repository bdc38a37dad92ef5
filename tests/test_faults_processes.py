"""Processes that are killed, and two that write at once: what is on disk then, and what the next one makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dying import STEPS, config_of
from sample_records import make_config, make_record

from keras_cam_callbacks.store import RunWriter, read_image, read_run

TESTS = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}


def check_epochs(folder, steps, config):
    """Checks that a record holds these steps, each whole."""
    run = read_run(folder)
    assert [epoch.step for epoch in run.epochs] == list(steps)
    for epoch in run.epochs:
        record = make_record(epoch.step)
        np.testing.assert_array_equal(epoch.heatmaps(), record.heatmaps)
        np.testing.assert_array_equal(epoch.arrays()["outputs"], record.outputs)
        assert [path.read_bytes() for path in epoch.overlay_files] == list(record.encoded)
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
