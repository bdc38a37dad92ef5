"""Regions and spacing of signals, volumes and clips in a record: written, read back, refused where damaged."""

import json

import numpy as np
import pytest
from sample_records import make_config, make_record

from keras_cam_callbacks.records import Region, Space
from keras_cam_callbacks.store import RunWriter, read_run

RNG = np.random.default_rng(0)
SPACES = {
    "signal": Space(("time",), (5,), spacing=(0.004,)),
    "volume": Space(("depth", "height", "width"), (2, 3, 4), spacing=(5.0, 0.7, 0.7)),
    "clip": Space(("time", "height", "width"), (None, 3, 4)),
    "image": Space(("height", "width"), (3, 4)),
}
SIZES = {"signal": (9000,), "volume": (5, 7, 6), "clip": (5, 7, 6), "image": (7, 6)}


def regions_of(kind):
    size = SIZES[kind]
    boxes = np.array([[0.0] * len(size) + [0.5] * len(size), [0.25] * len(size) + [1.0] * len(size)])
    return (None, Region(boxes), Region(boxes[:0], RNG.random(size) > 0.7), Region(boxes, RNG.random(size) > 0.7))


@pytest.mark.parametrize("kind", SPACES)
def test_regions_and_space_are_read_back(tmp_path, kind):
    written = regions_of(kind)
    config = make_config(tmp_path / "run", 4, regions=written, space=SPACES[kind])
    RunWriter(config).write(make_record(0, 4))
    run = read_run(tmp_path / "run")
    assert run.space == SPACES[kind]
    assert ("spacing" in run.manifest["space"]) == bool(SPACES[kind].spacing)
    for before, after in zip(written, run.regions(), strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(after.boxes, before.boxes)
            np.testing.assert_array_equal(after.mask, before.mask)
    RunWriter(config).write(make_record(1, 4))  # The record goes on.
    with pytest.raises(ValueError, match="differs in regions"):
        RunWriter(make_config(tmp_path / "run", 4, regions=written[::-1], space=SPACES[kind]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest["regions"][1].update(boxes=[[0, 0, 1, 1]]), "no region"),
        (lambda manifest: manifest["regions"][1].update(boxes=[[0, 0, 0, 1, 1, None]]), "no region"),
        (lambda manifest: manifest["regions"][2].update(size=[5, 42]), "no region"),
        (lambda manifest: manifest["regions"][2].update(size=[5, 7, -6]), "no region"),
        (lambda manifest: manifest["regions"][2].update(size="571"), "no region"),
        (lambda manifest: manifest["space"].update(spacing=[1, 2]), "no space"),
        (lambda manifest: manifest["space"].update(spacing=[1, 2, 0]), "no space"),
        (lambda manifest: manifest["space"].update(spacing=["a", 2, 1]), "could not convert"),
    ],
)
def test_what_is_no_region_of_the_space_is_refused(tmp_path, change, message):
    RunWriter(make_config(tmp_path, 4, regions=regions_of("volume"), space=SPACES["volume"])).write(make_record(0, 4))
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)


def test_a_mask_that_is_larger_than_its_picture_is_refused(tmp_path):
    RunWriter(make_config(tmp_path, 4, regions=regions_of("volume"), space=SPACES["volume"])).write(make_record(0, 4))
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    manifest["regions"][2]["size"] = [50, 7, 6]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ValueError, match=r"size that its manifest says, \[50, 7, 6\].*of 210 positions"):
        read_run(tmp_path).regions()
