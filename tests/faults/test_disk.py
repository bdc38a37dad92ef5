"""Disks that are full or read-only from epoch 2 on: what is there can be read, and training and the run go on."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import warnings

import pytest
from fits import X, Y, bare_weights, before_epoch, fit, steps_on_disk, tiny_model, weights
from paths import ROOT, TESTS
from sample_records import make_config, make_record
from tracker_logs import epochs_in_events

from keras_cam_callbacks import GradCAMLogger, MemoryTracker, read_run
from keras_cam_callbacks.callbacks.run import TrackedRun


def check_fits(folder, trackers, spoil, mend, error):
    """Fits with a disk that is spoilt in epoch 2, and again once it is mended."""
    memory, model = MemoryTracker(), tiny_model()
    logger = GradCAMLogger((X, Y), tracker=[*trackers, memory], log_dir=folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(logger, before_epoch(2, spoil), model=model, epochs=5)
    said = sorted(str(each.message) for each in caught if each.category is RuntimeWarning)
    names = {"disk": "DiskTracker", "tensorboard": "TensorBoardTracker"}
    for text, name in zip(said, map(names.get, trackers), strict=True):
        assert text.startswith(f"gradcam: {name} failed and is switched off until the next fit; training goes on. ")
        assert error in text
    assert [record.step for record in memory.records] == list(range(5))
    assert weights(model) == bare_weights(5)
    assert steps_on_disk(logger.directory) == [0, 1]
    assert list(logger.directory.rglob(".*")) == []
    mend()
    fit(logger, model=model, epochs=2)
    assert steps_on_disk(logger.directory) == [0, 1, 5, 6]
    if "tensorboard" in trackers:
        assert [epoch["step"] for epoch in epochs_in_events(logger.directory)] == [0, 1, 5, 6]


def test_files_that_can_grow_no_more(tmp_path):
    """As under a quota; a limit that a process sets itself needs no rights."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        check_fits(
            tmp_path,
            ["disk", "tensorboard"],
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1])),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
            "File too large",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# ---- Disks of our own --------------------------------------------------------------------------------------


def mount(*options):
    subprocess.run(["mount", *map(str, options)], check=True, capture_output=True)


def check_wandb(directory, spoil, mend, names):
    """Logs to W&B on a disk that is full in epochs 2 and 3, where W&B fails and maybe the record."""
    from wandb_log import finished_log, wandb_run

    run = wandb_run()
    failed = []

    def attempt(name, switch_off, action):
        try:
            action()
        except OSError as error:
            failed.append((name, error.strerror))
            switch_off()

    tracked = TrackedRun(attempt)
    tracked.prepare(["disk", "wandb"])
    for steps in ((0, 1, 2, 3), (4, 5)):
        tracked.start(make_config(directory), (attempt,), steps[0])
        for step in steps:
            if step == 2:
                spoil()
            tracked.log(make_record(step))
        tracked.finish()
        if 2 in steps:
            mend()
    assert failed == [(name, "No space left on device") for name in names]
    log, whole = finished_log(run), [0, 1, 4, 5]
    rows = log.rows_with("gradcam/overlays")
    assert [row["gradcam/step"] for row in rows] == whole
    assert [log.images(row["gradcam/overlays"]) for row in rows] == [list(make_record(i).encoded) for i in whole]
    # The record among W&B's files catches up with that on another disk.
    recorded = whole if "DiskTracker" in names else list(range(6))
    for folder in (tracked.directory, log.files):
        epochs = read_run(folder).epochs
        assert [epoch.step for epoch in epochs] == recorded
        assert {(len(epoch.heatmaps()), len(epoch.overlays())) for epoch in epochs} == {(3, 3)}


def fits_on_disks_of_our_own(folder):
    """Called in a process that sees disks of its own."""
    for name in ("full", "read-only"):
        (folder / name).mkdir()
        mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", folder / name)

    def fill():
        with open(folder / "full" / "filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    free = (folder / "full" / "filler").unlink
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        os.environ[f"WANDB_{name}"] = str(folder / "full" / name.lower())
    check_wandb(folder / "full" / "records", fill, free, ["DiskTracker", "WandbTracker"])
    check_wandb(folder / "records", fill, free, ["WandbTracker"])
    check_fits(folder / "full" / "logs", ["disk", "tensorboard"], fill, free, "No space left on device")
    # No tracker holds a file open, with which no disk becomes read-only.
    disk = folder / "read-only"
    spoil, mend = (lambda how=how: mount("-o", f"remount,{how}", disk) for how in ("ro", "rw"))
    check_fits(disk / "logs", ["disk", "tensorboard"], spoil, mend, "Read-only file system")


@pytest.mark.slow
def test_a_disk_that_is_full_or_read_only(tmp_path):
    alone = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a process may not have disks of its own here: {error}")
    script = "import pathlib, sys, test_disk as test; test.fits_on_disks_of_our_own(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": f"{TESTS / 'faults'}:{TESTS}:{ROOT}"}
    done = subprocess.run(
        [*alone, sys.executable, "-c", script, tmp_path], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
