"""Records of schema 1, as they are kept in tests/data: they stay readable, and who goes on with one leaves it so."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from paths import TESTS

from keras_cam_callbacks import compare, read_run, write_timelapse
from keras_cam_callbacks.records import EpochRecord, Region, RunConfig, Sample
from keras_cam_callbacks.store import Event, RunWriter, choose_directory, find_runs

RECORDS = TESTS / "data" / "records_schema1"


def config_of(directory, run):
    """The config of a fit that goes on with a run."""
    manifest = run.manifest
    same = ("prefix", "method", "target", "model_name", "value_range", "overlay")
    listed = ("sample_keys", "fingerprints", "labels", "views", "augmentations")
    return RunConfig(
        directory=directory,
        layer_name=manifest["layer"],
        class_names=run.class_names,
        display=tuple(np.zeros((16, 20, 3), np.uint8) for _ in run.sample_keys),
        regions=run.regions() if manifest["regions"] else (),
        **{name: manifest[name] for name in same},
        **{name: tuple(manifest[name]) for name in listed},
    )


def test_all_of_them_can_be_read():
    runs = {path.name: read_run(path) for path in find_runs(RECORDS)}
    assert sorted(runs) == ["activations", "filters", "one", "several"]
    shapes = {"one": (2, 14, 18), "several": (3, 14, 18)}
    for name, run in runs.items():
        assert run.manifest["schema_version"] == 1
        assert [(epoch.step, epoch.epoch, epoch.freq) for epoch in run.epochs] == [(0, 0, 1), (1, 1, 1)]
        assert (run.events, run.missing(), run.space) == ((), (), None)
        for epoch in run.epochs:
            count = len(run.sample_keys)
            assert len(epoch.overlay_files) == len(epoch.overlays()) == len(epoch.captions) == count
            assert epoch.encoded() == tuple(path.read_bytes() for path in epoch.overlay_files)
            assert epoch.sheet_file is None
            assert epoch.pictures.sizes() == tuple(picture.shape[:2] for picture in epoch.overlays())
            if name in shapes:
                assert [epoch.heatmaps(view).shape for view in epoch.views or ("",)] == [shapes[name]] * (
                    len(epoch.views) or 1
                )
                assert np.isfinite(epoch.heatmaps()).all()
                assert set(epoch.values()) <= set(epoch.scalars) | {"confidence"}
    several = runs["several"]
    assert several.epochs[0].views == ("predicted", "true")
    box, mask, none = several.regions()
    np.testing.assert_allclose(box.boxes, [[6 / 20, 4 / 16, 14 / 20, 9 / 16]])
    assert mask.mask.sum() == 40
    assert none is None
    assert runs["one"].class_names == ("cat", "dog")


def test_they_are_compared_reported_and_filmed(tmp_path):
    copy = shutil.copytree(RECORDS / "one", tmp_path / "copy")
    comparison = compare([RECORDS / "one", copy])
    np.testing.assert_allclose(comparison.agreement[np.isfinite(comparison.agreement)], 1)
    assert comparison.report(tmp_path / "report.html").epochs == (0, 1)
    assert compare([RECORDS / "several"], view="true").report(tmp_path / "one.html").size > 1000
    for run in find_runs(RECORDS):
        assert len(write_timelapse(run, tmp_path / run.name, film_format="webp")) == len(read_run(run).sample_keys)


def record_of(run, step):
    keys = run.sample_keys
    overlays = tuple(np.full((20, 30, 3), 40 * row, np.uint8) for row in range(len(keys)))
    samples = tuple(Sample(key, "0", 0, 1, 1, 0.5, 0.5, False, "goes on") for key in keys)
    return EpochRecord(
        epoch=step,
        step=step,
        heatmaps=np.ones((len(keys), 14, 18), np.float32),
        overlays=overlays,
        encoded=tuple(bytes([255, row]) for row in range(len(keys))),
        image_format="jpg",
        scalars={"drift": 0.5},
        samples=samples,
    )


@pytest.mark.parametrize("name", ["one", "several"])
def test_one_that_goes_on_stays_of_its_schema(tmp_path, name):
    """What was there stays, an earlier version still reads all of it, and no file of ours lies beside."""
    directory = shutil.copytree(RECORDS / name, tmp_path / name)
    run = read_run(directory)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    config = config_of(directory, run)
    assert choose_directory(tmp_path, config, 2)[:2] == (directory, 1)
    writer = RunWriter(config)
    writer.note(Event(2, 2, 0.0, "The heatmaps", "ValueError: no place for it"))
    writer.write(record_of(run, 3))
    for path, data in before.items():
        assert path.read_bytes().startswith(data) if path.name == "metrics.jsonl" else path.read_bytes() == data
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text("utf-8").splitlines()]
    required = {"epoch", "step", "wall_time", "scalars", "captions", "heatmaps", "overlays"}
    assert [required <= line.keys() for line in lines] == [True] * 3
    assert not {"sheets", "pictures"} & {path.name for path in directory.iterdir()}
    after = read_run(directory)
    assert [epoch.step for epoch in after.epochs] == [0, 1, 3]
    assert after.epochs[2].encoded() == record_of(run, 3).encoded
    assert [str(missing).split(",")[0] for missing in after.missing()] == ["epoch 2: not logged"]
    assert isinstance(after.regions()[0], Region if name == "several" else type(None))
