"""Records of signals, volumes and clips: what people see comes back as it was, and pictures are drawn anew."""

import json

import numpy as np
import pytest
from sample_records import make_config
from unfolded import KINDS, SPACES, display, explained

from keras_cam_callbacks.drawing.files import read_image
from keras_cam_callbacks.drawing.overlay import Overlay
from keras_cam_callbacks.explaining.recorded import epoch_record
from keras_cam_callbacks.store import RunWriter, read_run
from keras_cam_callbacks.store.displays import display_entries, encoded_display, read_display
from keras_cam_callbacks.timelapse import write_timelapse


def write(folder, kind, overlay, views=("",), steps=2):
    """Writes a run whose pictures are drawn from its maps; returns what was drawn, by step."""
    first = explained(kind)
    config = make_config(
        folder,
        keys=first.batch.sample_keys,
        fingerprints=first.batch.fingerprints,
        display=first.batch.display,
        labels=(None,) * 3,
        overlay=vars(overlay),
        space=SPACES[kind],
        views=views if views != ("",) else (),
    )
    writer, drawn = RunWriter(config), []
    for step in range(steps):
        of_views = {name: explained(kind, seed=10 * step + i) for i, name in enumerate(views)}
        record = epoch_record(of_views, overlay, epoch=step, step=step, scalars={}, values={})
        writer.write(record)
        drawn.append(record.overlays)
    return drawn


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "overlay", [Overlay(), Overlay(layout="panel", scale="batch", size=300)], ids=["plain", "panel"]
)
def test_pictures_are_drawn_anew_pixel_for_pixel(tmp_path, kind, overlay):
    drawn = write(tmp_path / "run", kind, overlay)
    run = read_run(tmp_path / "run")
    assert not (tmp_path / "run" / "pictures").exists()
    for shown, stored in zip(display(kind), run.display(), strict=True):
        assert stored.dtype == shown.dtype
        np.testing.assert_array_equal(stored, shown)
    for pictures, epoch in zip(drawn, run.epochs, strict=True):
        for picture, again in zip(pictures, epoch.overlays(), strict=True):
            np.testing.assert_array_equal(picture, again)
        np.testing.assert_array_equal(epoch.pictures.read([1])[0], pictures[1])
        assert epoch.heatmaps().ndim == 1 + len(SPACES[kind].axes)
        assert read_image(epoch.sheet_file).ndim == 3


def test_several_views_are_drawn_anew(tmp_path):
    drawn = write(tmp_path / "run", "volume", Overlay(slices="strip"), views=("a", "b"))
    for pictures, epoch in zip(drawn, read_run(tmp_path / "run").epochs, strict=True):
        for picture, again in zip(pictures, epoch.overlays(), strict=True):
            np.testing.assert_array_equal(picture, again)


def test_a_run_is_continued_as_it_was(tmp_path):
    write(tmp_path / "run", "signal", Overlay(), steps=1)
    write(tmp_path / "run", "signal", Overlay(), steps=2)
    epochs = read_run(tmp_path / "run").epochs
    assert all(epoch.pictures.recipe is not None for epoch in epochs), "a missing value is equal to itself"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_time_lapse_over_the_epochs(tmp_path, kind):
    write(tmp_path / "run", kind, Overlay())
    (film,) = write_timelapse(tmp_path / "run", tmp_path / "run.gif")
    assert film.stat().st_size > 1000


@pytest.mark.parametrize("shape", [(1, 3, 4), (7, 5, 3), (64, 2, 2), (3, 200, 10)])
def test_slices_in_one_image(tmp_path, shape):
    slices = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    (entry,) = display_entries([slices])
    assert entry == {"kind": "slices", "shape": [*shape, 3]}
    (tmp_path / "a.png").write_bytes(encoded_display(slices, entry))
    np.testing.assert_array_equal(read_display(tmp_path / "a.png", entry), slices)
    with pytest.raises(ValueError, match="as the manifest says"):
        read_display(tmp_path / "a.png", {"kind": "slices", "shape": [shape[0] + 999, *shape[1:], 3]})


def test_arrays_that_are_none_of_ours_are_refused(tmp_path):
    entry = {"kind": "array", "shape": [4, 2]}
    good = np.arange(8, dtype=np.float32).reshape(4, 2)
    (tmp_path / "a.npy").write_bytes(encoded_display(good, entry))
    np.testing.assert_array_equal(read_display(tmp_path / "a.npy", entry), good)
    for array in (good[:3], good.astype(np.float64), np.array([[None] * 2] * 4, object)):
        np.save(tmp_path / "b.npy", array, allow_pickle=True)
        with pytest.raises(ValueError, match=r"as the manifest says|pickle|[Pp]ython objects"):
            read_display(tmp_path / "b.npy", entry)
    (tmp_path / "c.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"."):
        read_display(tmp_path / "c.npy", entry)


@pytest.mark.parametrize(
    "wrong",
    [
        [None],
        ["slices"] * 3,
        [{"kind": "pickle", "shape": [40, 2]}] * 3,
        [{"kind": "array", "shape": [40, -2]}] * 3,
        [{"kind": "slices", "shape": [40, 2]}] * 3,
        [{"kind": "array"}] * 3,
        5,
    ],
)
def test_manifests_that_say_something_impossible_are_refused(tmp_path, wrong):
    write(tmp_path / "run", "signal", Overlay(), steps=1)
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"display": wrong}))
    with pytest.raises(ValueError, match="must be whole"):
        read_run(tmp_path / "run")


def test_records_of_images_say_nothing_of_it(tmp_path):
    RunWriter(make_config(tmp_path / "run"))
    assert "display" not in json.loads((tmp_path / "run" / "manifest.json").read_text())
