"""Films of a run: each frame is the epoch's overlay, with the epoch above, and what stands still does not flicker."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import sync_playwright
from report_runs import QUIET, find_browser
from sample_records import make_config, make_record, sample_keys

from keras_cam_callbacks import read_run
from keras_cam_callbacks.drawing.files import encode
from keras_cam_callbacks.store import RunWriter
from keras_cam_callbacks.timelapse import write_timelapse

EPOCHS = 4
SIZE = 90, 160


def drawn(step, row):
    """A still photograph-like ramp, and a patch that moves from epoch to epoch."""
    down, across = np.mgrid[: SIZE[0], : SIZE[1]]
    picture = np.stack([across + 40, down * 2 + 30, 255 - across - row * 20], axis=-1).astype(np.uint8)
    picture[30:60, 30 * step : 30 * step + 30] = 250 - 60 * row, 40, 30
    return picture


def write_run(directory, count=2, epochs=EPOCHS, caption=False, size=None, keys=None, overlays=False):
    writer = RunWriter(make_config(directory, count, keys=keys, overlay={"caption": caption}), overlays=overlays)
    for step in range(epochs):
        pictures = tuple(drawn(step, row)[: None if size is None else size(step)] for row in range(count))
        encoded = tuple(encode(picture, "png") for picture in pictures)
        writer.write(make_record(step, count, keys=keys, overlays=pictures, encoded=encoded, image_format="png"))
    return read_run(directory)


def frames_of(file):
    """All frames as RGB, and how long each is shown, in ms, where the format has its own."""
    if file.suffix == ".mp4":
        capture, found = cv2.VideoCapture(str(file)), []
        while (read := capture.read())[0]:
            found.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
        fps = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        return found, [1000 / fps] * len(found)
    with PIL.Image.open(file) as film:
        found, durations = [], []
        for place in range(film.n_frames):
            film.seek(place)
            found.append(np.asarray(film.convert("RGB")))
            durations.append(film.info["duration"])
    return found, durations


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize(("suffix", "off"), [("gif", 6), ("webp", 4), ("mp4", 8)])
def test_a_frame_for_each_epoch_shows_its_overlay(run, tmp_path, suffix, off):
    done = []
    files = write_timelapse(
        run, tmp_path / "films", film_format=suffix, fps=4, progress=lambda *counts: done.append(counts)
    )
    assert files == tuple(tmp_path / f"films/{key}.{suffix}" for key in run.sample_keys)
    total = 2 * EPOCHS * (2 if suffix == "gif" else 1)
    assert done == [(count, total) for count in range(1, total + 1)]
    for row, file in enumerate(files):
        frames, durations = frames_of(file)
        assert len(frames) == EPOCHS
        assert durations == pytest.approx([250] * 3 + [250 if suffix == "mp4" else 750], abs=1)
        for step, frame in enumerate(frames):
            assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
            overlay = frame[-SIZE[0] :, : SIZE[1]].astype(int)
            assert np.abs(overlay - drawn(step, row)).mean() < off
            # No other epoch is as near.
            errors = [np.abs(overlay - drawn(other, row)).mean() for other in range(EPOCHS)]
            assert int(np.argmin(errors)) == step


@pytest.mark.parametrize("suffix", ["gif", "webp", "mp4"])
def test_what_stands_still_does_not_flicker(run, tmp_path, suffix):
    (file,) = write_timelapse(run, tmp_path / f"film.{suffix}", samples=["sample_01"])
    frames = np.stack(frames_of(file)[0]).astype(int)
    still = frames[:, -24:, : SIZE[1]]  # Below the moving patch.
    # Pixel for pixel the same in a GIF; nearly so where frames are compressed.
    assert np.abs(np.diff(still, axis=0)).max() <= {"gif": 0, "webp": 12, "mp4": 12}[suffix]
    assert still.std() > 20


def test_a_gif_has_one_palette_and_runs_for_ever(run, tmp_path):
    (file,) = write_timelapse(run, tmp_path / "film.gif")
    data = file.read_bytes()
    assert data[10] & 0x80  # a palette for the whole film
    with PIL.Image.open(file) as film:
        assert film.info["loop"] == 0
        assert film.getpixel((0, 0)) is not None
        for place in range(film.n_frames):
            film.seek(place)
            corner = np.asarray(film.convert("RGB"))[0, 0]
            assert (corner == 255).all()


def text_rows(frame, height):
    """Which pixels above the overlay are ink."""
    return frame[:height].astype(int).sum(axis=2) < 300


def test_epoch_key_and_progress_stand_above(run, tmp_path):
    (file,) = write_timelapse(run, tmp_path / "film.webp", samples=["sample_00"])
    frames, _ = frames_of(file)
    above = frames[0].shape[0] - SIZE[0]
    inks = [text_rows(frame, above) for frame in frames]
    for ink, other in pairwise(inks):
        assert ink[:, :80].any()
        assert ink[:, 80:].any()
        assert (ink != other).any()  # Another number is burnt in.
    blue = [((f[:above, :, 2].astype(int) - f[:above, :, 0]) > 80).any(axis=0).mean() for f in frames]
    assert blue == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1], abs=0.05)


def test_captions_are_burnt_in_where_overlays_have_none(run, tmp_path):
    with_captions = write_run(tmp_path / "run", caption=True)
    (plain,) = write_timelapse(with_captions, tmp_path / "a.webp", samples=["sample_00"])
    (burnt,) = write_timelapse(run, tmp_path / "b.webp", samples=["sample_00"])
    shapes = [frames_of(file)[0][0].shape for file in (plain, burnt)]
    assert shapes[1][0] > shapes[0][0] + 20
    assert shapes[1][1] == shapes[0][1]


def test_epochs_of_several_fits_are_told_apart_and_sizes_may_change(tmp_path):
    """A second fit begins at epoch 0 again, and a caption of more lines makes a higher picture."""
    writer = RunWriter(make_config(tmp_path / "run", 1, overlay={"caption": True}))
    for step, epoch in enumerate((0, 1, 0)):
        picture = drawn(step, 0)[: 70 + 10 * step]
        encoded = (encode(picture, "png"),)
        writer.write(make_record(step, 1, epoch=epoch, overlays=(picture,), encoded=encoded, image_format="png"))
    (file,) = write_timelapse(tmp_path / "run", tmp_path / "film.webp")
    frames, _ = frames_of(file)
    assert len({frame.shape for frame in frames}) == 1
    above = frames[0].shape[0] - 90
    first, _, third = (text_rows(frame, above) for frame in frames)
    # "(step 2)" stands behind "epoch 0".
    assert third[:, 63:76].any()
    assert not first[:, 63:76].any()
    assert (frames[0][above + 72 :] > 245).all()  # White below the lower picture.


def test_a_browser_plays_the_mp4(run, tmp_path):
    (file,) = write_timelapse(run, tmp_path / "film.mp4", fps=4)
    play = """async file => {
        const video = document.createElement("video");
        video.muted = true;
        video.src = file;
        document.body.append(video);
        await new Promise((done, fail) => { video.onended = done; video.onerror = () => fail(video.error.message);
                                            video.play(); });
        return [video.videoWidth, video.videoHeight, video.duration];
    }"""
    page_file = tmp_path / "page.html"
    page_file.write_text("<!doctype html><body>")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(QUIET))
        page = browser.new_page()
        page.goto(page_file.as_uri())
        width, height, seconds = page.evaluate(play, file.as_uri())
        browser.close()
    assert [height, width] == list(frames_of(file)[0][0].shape[:2])
    assert seconds == pytest.approx(EPOCHS / 4, abs=0.05)


def test_large_films_are_shrunk(tmp_path):
    keys = sample_keys(1)
    writer = RunWriter(make_config(tmp_path / "run", 1, keys=keys))
    wide = np.full((40, 9000, 3), 128, np.uint8)
    encoded = (encode(wide, "png"),)
    writer.write(make_record(0, 1, keys=keys, overlays=(wide,), encoded=encoded, image_format="png"))
    (file,) = write_timelapse(tmp_path / "run", tmp_path / "film.webp")
    with PIL.Image.open(file) as film:
        assert film.size[0] == 4096


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"out": "film.avi"}, "A film must be GIF, WebP or MP4"),
        ({"out": "film.gif", "film_format": "mp4"}, r"Received: out=.*film\.gif', film_format='mp4'"),
        ({"film_format": "mov"}, "film_format='mov'"),
        ({"fps": 0}, r"`fps` must be a number from 0\.1 to 30"),
        ({"fps": True}, "`fps`"),
        ({"samples": ["sample_1"]}, "Received: 'sample_1'. Did you mean 'sample_01'"),
        ({"samples": []}, "at least one sample"),
    ],
)
def test_impossible_settings_leave_nothing_behind(run, tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        write_timelapse(
            run,
            **{"out": tmp_path / "films"}
            | settings
            | ({"out": tmp_path / settings["out"]} if "out" in settings else {}),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_epochs_has_no_film(tmp_path):
    RunWriter(make_config(tmp_path / "run"))
    with pytest.raises(ValueError, match="at least one logged epoch"):
        write_timelapse(tmp_path / "run", tmp_path / "film.gif")


def test_nothing_is_overwritten_unless_asked_for(run, tmp_path):
    file = tmp_path / "film.gif"
    file.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"Received: .*film\.gif, which is there already\. .*film-2\.gif works"):
        write_timelapse(run, file)
    assert file.read_bytes() == b"mine"
    write_timelapse(run, file, overwrite=True)
    assert file.read_bytes().startswith(b"GIF89a")
    (tmp_path / "films").mkdir()
    (tmp_path / "films/mine").touch()
    with pytest.raises(ValueError, match="which holds files"):
        write_timelapse(run, tmp_path / "films", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "films"]


@pytest.mark.parametrize("suffix", ["gif", "webp", "mp4"])
@pytest.mark.parametrize("damage", ["half", "gone", "bomb"])
def test_a_damaged_overlay_leaves_no_half_film(tmp_path, suffix, damage):
    from pngs import declared_png

    run = write_run(tmp_path / "run", overlays=True)
    broken = run.epochs[2].overlay_files[1]
    whole = broken.read_bytes()
    if damage == "gone":
        broken.unlink()
    else:
        # The header is whole, so that the damage shows when frames are being written.
        broken.write_bytes(whole[:60] if damage == "half" else declared_png(60000, 60000))
    film = tmp_path / f"film.{suffix}"
    film.write_bytes(b"mine")
    with pytest.raises((ValueError, OSError), match=broken.name):
        write_timelapse(run, film, overwrite=True)
    with pytest.raises((ValueError, OSError), match=broken.name):
        write_timelapse(run, tmp_path / "deep/films", film_format=suffix)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"film.{suffix}", "run"]
    assert film.read_bytes() == b"mine"
