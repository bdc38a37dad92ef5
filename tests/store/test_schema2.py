"""What later versions may add is passed over; labels may be lists, and maps have any number of axes."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from comparison_records import write_run
from paths import TESTS
from sample_records import drawn_record, make_config, make_record

from keras_cam_callbacks import Overlay, compare, read_run, write_timelapse
from keras_cam_callbacks.records import Space, class_name
from keras_cam_callbacks.store import RunWriter, find_runs

RECORDS = TESTS / "data" / "records_schema2"


def test_records_of_version_0_1_stay_readable(tmp_path):
    """They were written by version 0.1.0, and are never written anew."""
    runs = {path.name: read_run(path) for path in find_runs(RECORDS)}
    assert sorted(runs) == ["drawn", "kept"]
    drawn, kept = runs["drawn"], runs["kept"]
    for run, views in ((drawn, ("predicted", "true")), (kept, ())):
        assert run.manifest["schema_version"] == 2
        assert run.manifest["versions"] == {"keras_cam_callbacks": "0.1.0"}
        assert [(epoch.step, epoch.epoch, epoch.freq) for epoch in run.epochs] == [(0, 0, 1), (1, 1, 1)]
        assert [epoch.views for epoch in run.epochs] == [views] * 2
        assert [epoch.scalars for epoch in run.epochs] == [{"drift": step / 4, "area": 0.5} for step in range(2)]
        assert run.epochs[1].captions == tuple(f"step 1, sample {row} – ✓" for row in range(3))
    assert (drawn.space, kept.space) == (
        Space(("height", "width"), (5, 7)),
        Space(("depth", "height", "width"), (3, None, 5)),
    )
    assert drawn.manifest["labels"] == [[0, 1], [], None]
    assert drawn.class_names == ("cat", "dog")
    box, mask, none = drawn.regions()
    np.testing.assert_array_equal(box.boxes, [[0.25, 0.5, 0.75, 1]])
    assert (mask.mask.sum(), none) == (40, None)
    (missing,) = drawn.missing()
    assert str(missing) == "epoch 2: failed: The heatmaps: ValueError: no place for it"
    for step in range(2):
        random = np.random.default_rng(step)
        for view in ("predicted", "true"):
            np.testing.assert_array_equal(drawn.epochs[step].heatmaps(view), random.normal(size=(3, 5, 7)).astype("f4"))
        volumes = np.random.default_rng(step).random((3, 3, 4, 5), np.float32)
        np.testing.assert_array_equal(kept.epochs[step].heatmaps(), volumes)
        np.testing.assert_array_equal(kept.epochs[step].values()["area"], [0.5, np.nan, 1])
        assert kept.epochs[step].encoded() == make_record(step).encoded
        assert {picture.shape for picture in drawn.epochs[step].overlays()} == {(64, 242, 3)}
    copy = shutil.copytree(RECORDS / "drawn", tmp_path / "copy")
    comparison = compare([RECORDS / "drawn", copy], view="true")
    np.testing.assert_allclose(comparison.agreement[np.isfinite(comparison.agreement)], 1)
    assert write_timelapse(RECORDS / "drawn", tmp_path / "film.gif") == (tmp_path / "film.gif",)


def test_fields_of_later_versions_are_passed_over(tmp_path):
    """In the manifest, in what it holds, in lines, in what they hold, in settings, and among the arrays."""
    for name in ("plain", "later"):
        config = make_config(tmp_path / name, overlay=asdict(Overlay()), space=Space(("height", "width"), (4, None)))
        RunWriter(config).write(drawn_record(0, config, Overlay(alpha=0.3)))
    plain, directory = read_run(tmp_path / "plain"), tmp_path / "later"
    manifest = json.loads((directory / "manifest.json").read_text("utf-8"))
    manifest |= {"hardware": {"gpu": None}, "signed": [1, [2]]}
    manifest["space"] |= {"units": ["mm", "mm"]}
    (directory / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    line = json.loads((directory / "metrics.jsonl").read_text("utf-8"))
    line |= {"seconds": 3.5, "tokens": {"a": []}}
    line["drawn"] |= {"legend": True}
    line["drawn"]["overlay"] |= {"contour": "thin"}
    (directory / "metrics.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    with zipfile.ZipFile(directory / "heatmaps/000000.npz", "a") as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.arange(4))
        archive.writestr("order.npy", buffer.getvalue())
        np.save(buffer := io.BytesIO(), np.array([{}], object), allow_pickle=True)
        archive.writestr("objects.npy", buffer.getvalue())
        archive.writestr("notes.txt", b"what a later version has to say")
        archive.writestr("large.npy", bytes(10**8), zipfile.ZIP_DEFLATED)
    later = read_run(directory)
    assert later.space == plain.space == Space(("height", "width"), (4, None))
    (mine,), (theirs,) = plain.epochs, later.epochs
    assert set(theirs.arrays()) == {*mine.arrays(), "order"}
    assert all(map(np.array_equal, mine.overlays(), theirs.overlays()))
    comparison = compare([tmp_path / "plain", directory])
    np.testing.assert_allclose(comparison.agreement[np.isfinite(comparison.agreement)], 1)
    comparison.report(tmp_path / "report.html")
    write_timelapse(directory, tmp_path / "film.gif")
    # Who goes on with it leaves what it doesn't know.
    RunWriter(make_config(directory)).write(make_record(1))
    assert json.loads((directory / "manifest.json").read_text("utf-8")) == manifest


@pytest.mark.parametrize("version", [3, 10**30])
def test_a_greater_schema_is_refused_with_a_way_out(tmp_path, version):
    RunWriter(make_config(tmp_path))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"schema_version": version}), "utf-8")
    with pytest.raises(ValueError, match=rf"at most 2\. Received: {version} in .* a later one"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        *({"schema_version": version} for version in (0, -1, True, "2", 2.5, None)),
        *({"labels": [0, 1, label]} for label in ("x", 1.5, [[1]], [None], {}, 2**70, [2**70], True)),
        *({"freq": freq} for freq in (0, "1", 1.5, None)),
        *({"space": space} for space in ({}, [], "x", {"axes": ["a"], "sizes": [0], "layout": "channels_last"})),
        {"space": {"axes": ["a"], "sizes": [1, 2], "layout": "channels_last"}},
        {"space": {"axes": [1], "sizes": [1], "layout": "channels_last"}},
    ],
    ids=str,
)
def test_a_damaged_manifest_is_refused(tmp_path, change):
    RunWriter(make_config(tmp_path)).write(make_record(0))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json must be whole"):
        read_run(tmp_path)


def test_labels_may_be_lists(tmp_path):
    labels = ((0, 1), (), None, 1)
    maps = np.random.default_rng(0).random((2, 4, 5, 5), np.float32)
    for name in ("one", "two"):
        write_run(tmp_path / name, maps, labels=labels, predicted=[[1, 0, 0, 0]] * 2)
    run = read_run(tmp_path / "one")
    assert run.manifest["labels"] == [[0, 1], [], None, 1]
    comparison = compare([tmp_path / "one", tmp_path / "two"])
    assert comparison.labels == labels
    np.testing.assert_array_equal(comparison.correct()[0, 0], [1, np.nan, np.nan, 0])
    assert [comparison.class_name(label) for label in labels] == ["cat, dog", "none", None, "dog"]
    comparison.report(tmp_path / "report.html")
    comparison.to_csv(tmp_path / "numbers.csv")
    assert class_name(None, (3, 4)) == "3, 4"


def test_maps_of_other_axes_are_compared_among_themselves(tmp_path):
    space = Space(("depth", "height", "width"), (3, None, 5))
    maps = np.random.default_rng(0).random((3, 3, 4, 5), np.float32)
    for name, of_run in (("one", maps), ("two", maps[:, ::-1])):
        RunWriter(make_config(tmp_path / name, space=space)).write(make_record(0, heatmaps=of_run))
    assert read_run(tmp_path / "one").space == space
    np.testing.assert_array_equal(read_run(tmp_path / "one").epochs[0].heatmaps(), maps)
    comparison = compare([tmp_path / "one", tmp_path / "two"])
    expected = [np.corrcoef(of_sample.ravel(), of_sample[::-1].ravel())[0, 1] for of_sample in maps]
    np.testing.assert_allclose(comparison.agreement[0, 0], expected, atol=1e-6)
    comparison.report(tmp_path / "report.html")
    RunWriter(make_config(tmp_path / "flat")).write(make_record(0))
    with pytest.raises(ValueError, match=r"as many axes.*one: depth, height, width; flat: height, width"):
        compare([tmp_path / "one", tmp_path / "flat"])
    assert len(write_timelapse(tmp_path / "one", tmp_path / "film.gif")) == 1
