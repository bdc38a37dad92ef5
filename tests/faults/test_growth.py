"""Long trainings: nothing grows with the number of epochs but what is on disk."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fits import tiny_model
from models import images, labels
from paths import ROOT, TESTS
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks import GradCAMLogger, Overlay, read_run

SAMPLES, EPOCHS, WARM = 16, 500, 100


def measured():
    """Resident memory in MiB, open files and threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return memory, len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures by /proc")
@pytest.mark.slow
def test_500_epochs_of_16_samples(tmp_path):
    run = wandb_run()
    # Without what is not in question: large pictures and many numbers.
    logger = GradCAMLogger(
        (images(SAMPLES), labels(SAMPLES)),
        tracker=["disk", "tensorboard", "wandb"],
        log_dir=tmp_path,
        overlay=Overlay(size=(16, 16), caption=False),
        metrics=["drift"],
    )
    logger.set_model(tiny_model())
    for epoch in range(EPOCHS):
        logger.on_epoch_end(epoch)
        if epoch == WARM:
            memory, files, threads = measured()
    last_memory, last_files, last_threads = measured()
    logger.on_train_end()
    # A record takes 45 KiB: if they were kept, that would be twice as much.
    assert last_memory - memory < (EPOCHS - WARM) * 45 / 1024 / 2
    assert last_files <= files
    assert last_threads <= threads
    assert [epoch.step for epoch in read_run(tmp_path).epochs] == list(range(EPOCHS))
    assert len(finished_log(run).rows_with("gradcam/overlays")) == EPOCHS


COUNTER = """
import sys
from pathlib import Path
from sample_records import make_config, make_record
from keras_cam_callbacks.store import RunWriter, read_run
writer = RunWriter(make_config(Path(sys.argv[1])))
seen = []
sys.addaudithook(lambda name, arguments: seen.append(name))
counts = []
for step in range(int(sys.argv[2])):
    record = make_record(step)
    seen.clear()
    writer.write(record)
    counts.append(len(seen))
print(*counts)
"""


def test_an_epoch_costs_the_record_as_much_as_the_one_before(tmp_path):
    """By what Python does with the disk."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", COUNTER, tmp_path / "run", str(EPOCHS)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    counts = list(map(int, done.stdout.split()))
    assert len(counts) == EPOCHS
    assert len(read_run(tmp_path / "run").epochs) == EPOCHS
    assert set(counts[10:]) == {counts[10]}
    assert 5 < counts[10] < 40
