"""What becomes of pictures: drawn anew to the last pixel, or kept in one file; and a sheet for people."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
from fits import X, Y, fit
from PIL import Image
from sample_records import drawn_record, make_config, make_record, picture, sample_keys

from keras_cam_callbacks import HeatmapLogger, MemoryTracker, Overlay, read_run, write_timelapse
from keras_cam_callbacks.drawing.files import encode, read_image
from keras_cam_callbacks.records import Space
from keras_cam_callbacks.store import RunWriter


def files_of(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


OVERLAYS = {
    "plain": (Overlay(), ()),
    "panel": (Overlay(layout="panel", alpha=0.3, colormap="viridis"), ()),
    "mask": (Overlay(layout="mask", threshold=0.2, clip=(5, 95), size=(90, 130)), ()),
    "batch": (Overlay(scale="batch", image_format="png"), ()),
    "fixed": (Overlay(scale=0.75, caption=False, size=300), ()),
    "outputs": (Overlay(caption="outputs"), ()),
    "views": (Overlay(), ("gradcam", "smooth")),
    "views in panels": (Overlay(layout="panel", scale="batch"), ("gradcam", "smooth", "third one")),
}


@pytest.mark.parametrize("case", OVERLAYS)
def test_overlays_are_drawn_anew_to_the_last_pixel(tmp_path, case):
    overlay, views = OVERLAYS[case]
    display = tuple(picture(row, size) for row, size in enumerate([(40, 60), (200, 170), (300, 80)]))
    config = make_config(tmp_path, display=display, overlay=asdict(overlay), views=views)
    writer = RunWriter(config)
    # Longer captions make more room under each picture.
    records = [
        drawn_record(step, config, overlay, views, caption="a long caption " * 9 * step + "x") for step in (0, 1)
    ]
    for record in records:
        writer.write(record)
    run = read_run(tmp_path)
    for epoch, record in zip(run.epochs, records, strict=True):
        assert epoch.overlay_files == ()
        assert all(map(np.array_equal, epoch.overlays(), record.overlays))
        assert epoch.encoded() == record.encoded
        assert epoch.pictures.sizes() == tuple(one.shape[:2] for one in record.overlays)
        # As films ask for them.
        for rows in ([1], [2, 0]):
            assert all(map(np.array_equal, epoch.pictures.read(rows), [record.overlays[row] for row in rows]))
        with Image.open(epoch.sheet_file) as sheet:
            assert sheet.format == "JPEG"
            assert min(sheet.size) > 160
    names = ["heatmaps/000000.npz", "heatmaps/000001.npz", *(f"images/{key}.png" for key in sample_keys(3))]
    assert files_of(tmp_path) == sorted(
        [*names, "lock", "manifest.json", "metrics.jsonl", "sheets/000000.jpg", "sheets/000001.jpg"]
    )


def test_an_epoch_keeps_settings_of_its_own(tmp_path):
    """The overlay was changed between two fits of one run."""
    config = make_config(tmp_path, overlay=asdict(Overlay()))
    other = Overlay(alpha=0.9, colormap="inferno")
    records = [drawn_record(step, config, overlay) for step, overlay in enumerate((Overlay(), other))]
    for record, overlay in zip(records, (Overlay(), other), strict=True):
        RunWriter(replace(config, overlay=asdict(overlay))).write(record)
    for epoch, record in zip(read_run(tmp_path).epochs, records, strict=True):
        assert all(map(np.array_equal, epoch.overlays(), record.overlays))


@pytest.mark.parametrize("how", ["pictures", "maps", "images", "display", "damaged image"])
def test_what_cannot_be_drawn_is_kept_as_it_was_logged(tmp_path, how):
    """Pictures that someone changed, maps that were smoothed after drawing, images that are no longer those stored."""
    config = make_config(tmp_path, overlay=asdict(Overlay()))
    record = drawn_record(0, config, Overlay())
    if how == "pictures":
        overlays = tuple(255 - one for one in record.overlays)
        record = replace(record, overlays=overlays, encoded=tuple(map(encode, overlays)))
    elif how == "maps":
        record = replace(record, heatmaps=record.heatmaps / 2)
    elif how == "images":
        record = replace(record, drawn_from=replace(record.drawn_from, images=config.display[::-1]))
    else:
        RunWriter(config)
        if how == "display":
            config = replace(config, display=tuple(255 - image for image in config.display))
            record = drawn_record(0, config, Overlay())
        else:
            (tmp_path / "images/sample_01.png").write_bytes(b"damaged")
    RunWriter(config).write(record)
    (epoch,) = read_run(tmp_path).epochs
    assert epoch.encoded() == record.encoded
    for read, overlay in zip(epoch.overlays(), record.overlays, strict=True):
        assert np.abs(read.astype(int) - overlay).mean() < 6
    assert [name for name in files_of(tmp_path) if "/" in name and not name.startswith("images/")] == [
        "heatmaps/000000.npz",
        "pictures/000000.zip",
        "sheets/000000.jpg",
    ]
    with zipfile.ZipFile(tmp_path / "pictures/000000.zip") as archive:
        assert archive.namelist() == [f"{key}.jpg" for key in config.sample_keys]
        assert {part.compress_type for part in archive.infolist()} == {zipfile.ZIP_STORED}


def test_maps_of_any_number_of_axes_are_kept(tmp_path):
    for axes in ((7,), (3, 4, 5), (2, 3, 4, 5)):
        maps = np.random.default_rng(0).random((3, *axes), np.float32)
        directory = tmp_path / str(len(axes))
        RunWriter(make_config(directory)).write(make_record(0, heatmaps=maps))
        (epoch,) = read_run(directory).epochs
        np.testing.assert_array_equal(epoch.heatmaps(), maps)
        assert epoch.encoded() == make_record(0).encoded


def test_single_overlays_on_request(tmp_path):
    config = make_config(tmp_path, overlay=asdict(Overlay()))
    record = drawn_record(0, config, Overlay())
    RunWriter(config, overlays=True).write(record)
    (epoch,) = read_run(tmp_path).epochs
    assert [path.read_bytes() for path in epoch.overlay_files] == list(record.encoded) == list(epoch.encoded())
    assert all(map(np.array_equal, epoch.overlays(), record.overlays))
    assert epoch.sheet_file.is_file()
    assert not (tmp_path / "pictures").exists()


def test_a_sheet_shows_every_sample(tmp_path):
    """Also of many large images: they are drawn smaller, each with its caption."""
    keys = sample_keys(16)
    display = tuple(np.full((500, 400, 3), 10 + 15 * row, np.uint8) for row in range(16))
    overlay = Overlay(alpha=0)
    config = make_config(tmp_path, keys=keys, display=display, overlay=asdict(overlay))
    record = drawn_record(0, config, overlay)
    RunWriter(config).write(record)
    sheet = read_image(read_run(tmp_path).epochs[0].sheet_file).astype(int)
    assert 600 < max(sheet.shape) < 1100
    levels = np.median(sheet, axis=2)
    for image in display:
        assert (np.abs(levels - image[0, 0, 0]) < 3).sum() > 0.9 * 160 * 128
    assert (levels < 60).sum() > 16 * 50  # captions, beside the darkest samples


def test_a_film_is_of_what_was_logged(tmp_path):
    overlay = Overlay(scale="batch")
    config = make_config(tmp_path / "run", overlay=asdict(overlay))
    writer = RunWriter(config)
    records = [drawn_record(step, config, overlay) for step in range(3)]
    for record in records:
        writer.write(record)
    (file,) = write_timelapse(tmp_path / "run", tmp_path / "film.webp", samples=["sample_01"])
    with Image.open(file) as film:
        for step, record in enumerate(records):
            film.seek(step)
            frame, shown = np.asarray(film.convert("RGB")).astype(int), record.overlays[1]
            part = frame[frame.shape[0] - shown.shape[0] - frame.shape[0] % 2 :][: shown.shape[0], : shown.shape[1]]
            assert np.abs(part - shown).mean() < 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sizes": [[10**9, 10**9]] * 3}, "must describe one epoch"),
        ({"sizes": [[4, 5]]}, "must describe one epoch"),
        ({"sizes": None}, "must describe one epoch"),
        ({"captions": ["one"]}, "must describe one epoch"),
        ({"titles": {"a": ["one"]}}, "must describe one epoch"),
        ({"titles": {"a": ["1", "2", "3"], "b": ["1", "2", "3"]}}, "must be drawn as its record says"),
        ({"overlay": {"size": 10**7}}, "no pictures are of"),
        ({"overlay": {"alpha": "x"}}, "alpha"),
        ({"overlay": {"size": {}}}, "size"),
        ({"overlay": 3}, "must describe one epoch"),
    ],
    ids=str,
)
def test_a_damaged_recipe_is_refused(tmp_path, change, said):
    config = make_config(tmp_path, overlay=asdict(Overlay()))
    RunWriter(config).write(drawn_record(0, config, Overlay()))
    log = tmp_path / "metrics.jsonl"
    line = json.loads(log.read_text("utf-8"))
    line["drawn"] |= change
    log.write_text(json.dumps(line) + "\n", "utf-8")
    with pytest.raises(ValueError, match=said):
        read_run(tmp_path).epochs[0].overlays()


@pytest.mark.parametrize("damage", ["half", "compressed", "other names", "gone", "pipe", "folder"])
def test_a_damaged_picture_file_is_refused(tmp_path, damage):
    RunWriter(make_config(tmp_path)).write(make_record(0))
    file = tmp_path / "pictures/000000.zip"
    data = file.read_bytes()
    file.unlink()
    if damage == "half":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage == "folder":
        file.mkdir()
    elif damage != "gone":
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(f"x{name}" if damage == "other names" else name, bytes(10**6))
    (epoch,) = read_run(tmp_path).epochs
    for read in (epoch.overlays, epoch.encoded, epoch.pictures.sizes):
        with pytest.raises((ValueError, FileNotFoundError), match=r"000000\.zip"):
            read()
    with pytest.raises((ValueError, FileNotFoundError), match=r"000000\.zip"):
        write_timelapse(tmp_path, tmp_path / "film.gif")


LOGGERS = {
    "one view": ({}, "drawn"),
    "outputs": ({"overlay": Overlay(caption="outputs", layout="panel")}, "drawn"),
    "several": ({"method": ["gradcam", "saliency"], "target": "both"}, "drawn"),
    "batch scale": ({"overlay": Overlay(scale="batch"), "target": "top2"}, "drawn"),
    "beside, not shown": ({"display": {"a": X, "b": 1 - X}}, "drawn"),
    "beside": ({"display": {"a": X, "b": 1 - X}, "overlay": Overlay(layout="panel")}, "kept"),
    "augmented": ({"augmentations": ["flip"]}, "kept"),
}


@pytest.mark.parametrize("case", LOGGERS)
def test_what_loggers_log_comes_back(tmp_path, case):
    settings, how = LOGGERS[case]
    memory = MemoryTracker()
    logger = HeatmapLogger((X, Y), tracker=["disk", memory], log_dir=tmp_path, max_samples=4, **settings)
    fit(logger, epochs=2)
    run = read_run(logger.directory)
    for epoch, record in zip(run.epochs, memory.records, strict=True):
        assert epoch.encoded() == record.encoded
        if how == "drawn":
            assert all(map(np.array_equal, epoch.overlays(), record.overlays))
    assert (logger.directory / "pictures").exists() == (how == "kept")
    assert len(list((logger.directory / "sheets").iterdir())) == 2
    assert run.space == Space(("height", "width"), (None, None))
