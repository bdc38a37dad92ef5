"""What a Weights & Biases run has besides pictures and numbers: regions, values of samples, best values, the record."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from fits import SAMPLES, X, Y, fit
from PIL import Image
from sample_records import drawn_record, make_config, make_record, picture
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks import GradCAMLogger, HeatmapLogger, Overlay, read_run
from keras_cam_callbacks.records import Region
from keras_cam_callbacks.store import Event
from keras_cam_callbacks.trackers import DiskTracker, WandbTracker
from keras_cam_callbacks.trackers.wandb.regions import Marks

BOXES = np.array([[0.25, 0.5, 0.75, 1.0], [0, 0, 0.125, 0.25]])
MASK = np.zeros((24, 32), bool)
MASK[6:12, 8:24] = True


def logged(tracker, config, records, run=None):
    """The log of a run to which the records were sent."""
    run = run or wandb_run()
    tracker.start(config)
    for record in records:
        tracker.log(record)
    tracker.finish()
    return finished_log(run)


# ---- Regions -----------------------------------------------------------------------------------------------


def region_config(tmp_path, regions, overlay=None, count=3, **changes):
    overlay = overlay or Overlay(size=(24, 32), caption=False)
    return make_config(tmp_path / "run", count, regions=regions, overlay=dataclasses.asdict(overlay), **changes)


def boxes_of(log, row, key="gradcam/overlays"):
    """For each image of a row its boxes as (corners, class, caption), or None."""
    found = []
    for entry in row[key].get("all_boxes") or [None] * row[key]["count"]:
        boxes = entry and json.loads((log.files / entry["region"]["path"]).read_text("utf-8"))["box_data"]
        found.append(boxes and [(_corners(box["position"]), box["class_id"], box["box_caption"]) for box in boxes])
    return found


def _corners(position):
    return [position[side] for side in ("minX", "minY", "maxX", "maxY")]


def test_boxes_are_on_their_images_in_every_epoch(tmp_path):
    regions = (None, Region(BOXES), Region(BOXES[:1]))
    records = [make_record(step) for step in range(3)]
    log = logged(WandbTracker(), region_config(tmp_path, regions), records)
    expected = [
        None,
        [(BOXES[0].tolist(), 1, "dog"), (BOXES[1].tolist(), 1, "dog")],
        [(BOXES[0].tolist(), 1, "cat")],
    ]
    assert [boxes_of(log, row) for row in log.rows] == [expected] * 3
    # The bytes of the pictures are still ours, and the boxes are saved once.
    assert [log.images(row["gradcam/overlays"]) for row in log.rows] == [list(record.encoded) for record in records]
    assert len(list(log.files.rglob("*.boxes2D.json"))) == 2
    assert all(path in dict(log.saved) for path in {str(p.relative_to(log.files)) for p in log.files.rglob("*.json")})
    labels = log.config["_wandb"]["bounding_box/class_labels"]
    assert labels["gradcam/overlays_wandb_delimeter_region"]["value"] == {"1": "object"}


def test_masks_are_on_their_images(tmp_path):
    regions = (None, Region(np.zeros((0, 4)), MASK), Region(BOXES[:1], ~MASK))
    log = logged(WandbTracker(), region_config(tmp_path, regions), [make_record(step) for step in range(2)])
    for row in log.rows:
        masks = row["gradcam/overlays"]["all_masks"]
        assert masks[0] is None
        for entry, mask in zip(masks[1:], (MASK, ~MASK), strict=True):
            with Image.open(log.files / entry["region"]["path"]) as stored:
                np.testing.assert_array_equal(np.asarray(stored), mask)
        assert boxes_of(log, row) == [None, None, [(BOXES[0].tolist(), 1, "cat")]]
    assert len(list(log.files.rglob("*.mask.png"))) == 2


@pytest.mark.parametrize("layout", ["overlay", "mask", "panel"])
def test_boxes_lie_on_each_column_of_a_picture_with_a_caption(tmp_path, layout):
    overlay = Overlay(layout=layout)
    images = [picture(row, (30, 50)) for row in range(2)]
    drawn = overlay.draw_placed(images, np.ones((2, 3, 3), np.float32), ["one", "two"])
    drawn, places = zip(*drawn, strict=True)
    record = make_record(0, 2, overlays=drawn, places=places)
    config = region_config(tmp_path, (None, Region(BOXES[:1])), overlay, 2, display=tuple(images))
    log = logged(WandbTracker(), config, [record])
    height, width = drawn[1].shape[:2]
    assert height > 120
    _, boxes = boxes_of(log, log.rows[0])
    # 50 x 30 px are enlarged four times.
    found = [(np.array(corners) * [width, height, width, height]).tolist() for corners, *_ in boxes]
    offsets = [0, 204, 408] if layout == "panel" else [0]
    np.testing.assert_allclose(found, [[left + 50, 60, left + 150, 120] for left in offsets])


def test_boxes_lie_on_the_image_beside_others(tmp_path):
    """Not on those beside it, of which nobody knows where the object is in them."""
    images = [picture(row, (30, 50)) for row in range(2)]
    overlay = Overlay(layout="panel", caption=False)
    drawn = overlay.draw_placed(images, np.ones((2, 3, 3), np.float32), beside={"original": images})
    drawn, places = zip(*drawn, strict=True)
    config = region_config(tmp_path, (None, Region(BOXES[:1])), overlay, 2, display=tuple(images))
    log = logged(WandbTracker(), config, [make_record(0, 2, overlays=drawn, places=places)])
    height, width = drawn[1].shape[:2]
    _, boxes = boxes_of(log, log.rows[0])
    found = [(np.array(corners) * [width, height, width, height]).tolist() for corners, *_ in boxes]
    np.testing.assert_allclose(found, [[left + 50, 60, left + 150, 120] for left in (204, 408, 612)])


def test_pictures_of_something_else_have_no_boxes(tmp_path):
    config = region_config(tmp_path, (Region(BOXES),) * 3)
    log = logged(WandbTracker(), config, [make_record(0, places=())])
    assert "all_boxes" not in log.rows[0]["gradcam/overlays"]


@pytest.mark.parametrize("axes", [1, 3])
def test_pictures_of_signals_and_volumes_have_no_boxes(tmp_path, axes):
    boxes, mask = np.array([[0.0] * axes + [0.5] * axes]), np.ones((4,) * axes, bool)
    regions = (None, Region(boxes), Region(boxes[:0], mask))
    log = logged(WandbTracker(), region_config(tmp_path, regions), [make_record(0)])
    assert boxes_of(log, log.rows[0]) == [None] * 3
    assert "all_masks" not in log.rows[0]["gradcam/overlays"]


def test_boxes_in_a_fit(tmp_path):
    """Of the user's regions, through drawing and captions, in two runs with one logger."""
    boxes = np.array([[2, 4, 10, 12]] * SAMPLES)
    logger = HeatmapLogger((X, Y), tracker=WandbTracker(), log_dir=tmp_path, regions=boxes)
    for _ in range(2):
        run = wandb_run()
        fit(logger, epochs=2)
        log = finished_log(run)
        assert [row["gradcam/epoch"] for row in log.rows] == [0, 1]
        for row in log.rows:
            picture = row["gradcam/overlays"]
            width = X.shape[2]
            factor = int(picture["width"] / width)  # Enlarged by a whole factor; the caption is below.
            for ((corners, *_),) in boxes_of(log, row):
                found = np.array(corners) * ([picture["width"], picture["height"]] * 2)
                np.testing.assert_allclose(found, boxes[0] * factor)
        assert 0 <= log.summary["gradcam/energy_in_region"]["max"] <= 1


# ---- Numbers -----------------------------------------------------------------------------------------------


def tables_of(log, key):
    return [json.loads((log.files / row[key]["path"]).read_text("utf-8")) for row in log.rows_with(key)]


def test_the_table_has_a_column_for_each_value(tmp_path):
    """Also for one that is NaN in the first epoch, or that not all epochs have."""
    nan = np.full(3, np.nan)
    area = np.array([0.25, 0.5, np.inf])
    values = [
        {"confidence": nan, "area": area, "drift": nan},
        {"confidence": nan, "area": area, "drift": area},
        {"area": area},
    ]
    records = [make_record(step, values=each) for step, each in enumerate(values)]
    log = logged(WandbTracker(table=True), make_config(tmp_path / "run"), records)
    tables = tables_of(log, "gradcam_table")
    names = ["epoch", "sample", "true", "predicted", "score", "confidence", "area", "drift", "overlay"]
    assert [table["columns"] for table in tables] == [names] * 3
    rows = [row for table in tables for row in table["data"]]
    assert [row[6] for row in rows] == [0.25, 0.5, None] * 3
    assert [row[7] for row in rows] == [None, None, None, 0.25, 0.5, None, None, None, None]
    assert [row[5] for row in rows] == [None, 1 / 2, 1 / 3] * 3


def test_values_that_come_later_begin_another_table(tmp_path):
    values = [{"area": np.zeros(3)}, {"insertion": np.ones(3)}, {"area": np.zeros(3)}]
    records = [make_record(step, values=each) for step, each in enumerate(values)]
    log = logged(WandbTracker(table=True), make_config(tmp_path / "run"), records)
    (first,) = tables_of(log, "gradcam_table")
    second = tables_of(log, "gradcam_table_2")
    assert first["columns"][6:] == ["area", "overlay"]
    assert [table["columns"][6:] for table in second] == [["area", "insertion", "overlay"]] * 2
    assert [row[6:8] for table in second for row in table["data"]] == [[None, 1]] * 3 + [[0, None]] * 3


def test_the_table_takes_images_with_and_without_marks(tmp_path):
    regions = (None, Region(BOXES), Region(BOXES, MASK))
    log = logged(WandbTracker(table=True), region_config(tmp_path, regions), [make_record(step) for step in range(2)])
    assert [len(table["data"]) for table in tables_of(log, "gradcam_table")] == [3, 3]
    staging = Path(os.environ["WANDB_DATA_DIR"]) / "artifacts" / "staging"
    staged = {path.read_bytes() for path in staging.iterdir()}
    assert staged >= {data for step in range(2) for data in make_record(step).encoded}


def test_steps_are_the_x_axis_of_a_run_that_counts_them(tmp_path):
    records = [make_record(step, epoch=0, batch=step, scalars={"pointing": 0.5}) for step in (500, 1000)]
    log = logged(WandbTracker(table=True), make_config(tmp_path / "run", steps=500), records)
    rows = [row for table in tables_of(log, "gradcam_table") for row in table["data"]]
    assert [row[:3] for row in rows[::3]] == [[0, 500, "sample_00"], [0, 1000, "sample_00"]]
    assert {axis for _, axis in log.metrics} == {"gradcam/step"}
    assert [(row["gradcam/epoch"], row["gradcam/step"]) for row in log.rows] == [(0, 500), (0, 1000)]


def test_the_summary_holds_last_and_best(tmp_path):
    energy = [np.nan, 0.5, 0.75, np.nan, 0.25]
    deletion = [0.5, 0.25, 0.125, 0.75, np.nan]
    records = [
        make_record(step, scalars={"energy_in_region": e, "layercam_deletion": d, "drift": e})
        for step, (e, d) in enumerate(zip(energy, deletion, strict=True))
    ]
    log = logged(WandbTracker(), make_config(tmp_path / "run"), records)
    assert log.summary["gradcam/energy_in_region"] == {"last": 0.25, "max": 0.75}
    assert log.summary["gradcam/layercam_deletion"] == {"last": 0.75, "min": 0.125}
    assert log.summary["gradcam/drift"] == 0.25
    # What is not finite is no value: it would stay the best for ever.
    assert ["gradcam/drift" in row for row in log.rows] == [False, True, True, False, True]
    assert {step for _, step in log.metrics} == {"gradcam/epoch"}
    assert sorted(name for name, _ in log.metrics) == [
        "gradcam/*",
        "gradcam/energy_in_region",
        "gradcam/layercam_deletion",
    ]


# ---- The record --------------------------------------------------------------------------------------------


def assert_same_record(one, other):
    assert one.manifest == other.manifest
    assert [epoch.step for epoch in one.epochs] == [epoch.step for epoch in other.epochs]
    for mine, theirs in zip(one.epochs, other.epochs, strict=True):
        np.testing.assert_array_equal(mine.heatmaps(), theirs.heatmaps())
        assert list(mine.encoded()) == list(theirs.encoded())
    assert [f.read_bytes() for f in one.image_files] == [f.read_bytes() for f in other.image_files]


def saved_files(log, folder):
    """Name and policy of each file of a record that W&B was told of, each of which must be there."""
    found = {path: policy for path, policy in log.saved if path.startswith(f"{folder}/")}
    there = {str(path.relative_to(log.files)) for path in (log.files / folder).rglob("*") if path.is_file()}
    assert set(found) == there
    return found


@pytest.mark.parametrize("overlays", [False, True])
def test_the_record_brings_no_picture_twice(tmp_path, overlays):
    """What is drawn from images and heatmaps is not there, also where the disk has it; what is kept is there."""
    run = wandb_run()
    config = make_config(tmp_path / "run", overlay=asdict(Overlay()))
    records = [drawn_record(0, config, Overlay()), make_record(1), drawn_record(2, config, Overlay(alpha=0.9))]
    trackers = [DiskTracker(overlays=overlays), WandbTracker()]
    for tracker in trackers:
        tracker.start(config)
    for record in records:
        for tracker in trackers:
            tracker.log(record)
    trackers[0].fail(Event(3, 3, 0.0, "The heatmaps", "ValueError: boom"))
    for tracker in trackers:
        tracker.finish()
    log = finished_log(run)
    kept = {path.split("/")[1] for path in saved_files(log, "run")}
    assert kept == {"manifest.json", "metrics.jsonl", "images", "heatmaps", "overlays" if overlays else "pictures"}
    assert len(list((log.files / "run" / ("overlays/000001" if overlays else "pictures")).iterdir())) == (
        3 if overlays else 1
    )
    stored = read_run(log.files)
    assert_same_record(stored, read_run(config.directory))
    assert [one.step for one in stored.events] == [3]
    assert [epoch.sheet_file for epoch in stored.epochs] == [None] * 3
    for epoch, record in zip(stored.epochs, records, strict=True):
        assert epoch.encoded() == record.encoded
        if record.drawn_from is not None:
            assert all(map(np.array_equal, epoch.overlays(), record.overlays))


@pytest.mark.parametrize("disk_first", [True, False])
def test_the_record_travels_with_the_run(tmp_path, disk_first):
    """Epoch by epoch; also through a second fit, and where the disk comes last."""
    run = wandb_run()
    config = region_config(tmp_path, (None, Region(BOXES), Region(BOXES, MASK)))
    disk, tracker = DiskTracker(), WandbTracker()
    trackers = [disk, tracker] if disk_first else [tracker, disk]
    for part in range(2):
        for each in trackers:
            each.start(config)
        for step in (2 * part, 2 * part + 1):
            for each in trackers:
                each.log(make_record(step))
            if disk_first:
                assert len(read_run(Path(run.dir) / "run").epochs) == step + 1
        for each in trackers:
            each.finish()
    log = finished_log(run)
    found = saved_files(log, "run")
    assert found["run/metrics.jsonl"] == "LIVE"
    assert set(found.values()) == {"LIVE", "NOW"}
    # No links that lead out of the folder: it goes wherever it is moved to.
    shutil.copytree(log.files, tmp_path / "moved", symlinks=True)
    moved, stored = read_run(tmp_path / "moved"), read_run(tmp_path / "run")
    assert len(moved.epochs) == 4
    assert_same_record(moved, stored)
    assert [region is None for region in moved.regions()] == [True, False, False]


def test_the_record_is_copied_where_it_cannot_be_linked(tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    run = wandb_run()
    config = make_config(tmp_path / "run")
    trackers = [DiskTracker(), WandbTracker()]
    for tracker in trackers:
        tracker.start(config)
    for step in range(3):
        for tracker in trackers:
            tracker.log(make_record(step))
        assert len(read_run(run.dir).epochs) == step + 1
    log = finished_log(run)
    assert_same_record(read_run(log.files), read_run(tmp_path / "run"))


def test_the_record_of_an_earlier_run_stays_where_it_is(tmp_path):
    disk, config = DiskTracker(), make_config(tmp_path / "run")
    disk.start(config)
    disk.log(make_record(0))
    log = logged(WandbTracker(), config, [make_record(0)])
    assert not (log.files / "run").exists()
    assert len(log.rows) == 1
    # One that goes on is put there whole.
    run, tracker = wandb_run(), WandbTracker()
    tracker.start(config)
    disk.log(make_record(1))
    tracker.log(make_record(1))
    assert_same_record(read_run(finished_log(run).files), read_run(config.directory))


def test_records_of_one_name_get_folders_of_their_own(tmp_path):
    run = wandb_run()
    trackers = [DiskTracker(), WandbTracker()]
    for step, parent in enumerate(("one", "two")):
        for tracker in trackers:
            tracker.start(make_config(tmp_path / parent / "run"))
        for tracker in trackers:
            tracker.log(make_record(step))
    log = finished_log(run)
    for name, parent in (("run", "one"), ("run-2", "two")):
        assert_same_record(read_run(log.files / name), read_run(tmp_path / parent / "run"))


def test_no_record_on_request(tmp_path):
    run = wandb_run()
    config, trackers = make_config(tmp_path / "run"), [DiskTracker(), WandbTracker(record=False)]
    for tracker in trackers:
        tracker.start(config)
    for tracker in trackers:
        tracker.log(make_record(0))
        tracker.finish()
    log = finished_log(run)
    assert not (log.files / "run").exists()


def test_auto_puts_the_record_there(tmp_path):
    run = wandb_run()
    logger = GradCAMLogger((X, Y), log_dir=tmp_path)
    fit(logger, epochs=2)
    log = finished_log(run)
    assert_same_record(read_run(log.files), read_run(logger.directory))
    saved_files(log, "gradcam")


def test_regions_of_volumes_are_no_boxes_of_pictures(tmp_path):
    record = make_record(0, 2)
    regions = (Region(np.array([[0.1, 0.1, 0.1, 0.5, 0.5, 0.5]])), Region(np.empty((0, 4)), np.ones((3, 4, 5), bool)))
    marks = Marks(make_config(tmp_path, 2, regions=regions))
    assert [marks.of(row, record) for row in range(2)] == [{}, {}]
