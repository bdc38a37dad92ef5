"""Images from files: found once each, upright, of any mode; and what is no safe image is refused from its header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from pngs import declared_png

from keras_cam_callbacks.data.files import find_images, read_image, read_images


def colours(height=40, width=60):
    """Left red, right blue, below green: every turn and every exchange of channels shows."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2] = 220, 30, 30
    picture[:, width // 2 :] = 30, 30, 220
    picture[height // 2 :] = 30, 200, 30
    return picture


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_files_folders_and_patterns_are_found_once_each_under_stable_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "one.PNG", "photos/cats/1.jpg", "photos/dogs/1.jpg", "photos/notes.txt", "photos/.hidden/2.jpg")
    touch(tmp_path, "photos/.3.jpg", "other/1.jpg", "other/1.png", "no suffix")
    found = find_images(["one.PNG", "photos", "photos/**/*.jpg", "no suffix", "./one.PNG"], 10)
    assert {key: file.as_posix() for key, file in found.items()} == {
        "one": "one.PNG",
        "cats/1": "photos/cats/1.jpg",
        "dogs/1": "photos/dogs/1.jpg",
        "no suffix": "no suffix",
    }
    # What two have in common is told apart: by suffix, and where that is the same too, by what was typed.
    assert list(find_images(["other"], 10)) == ["1.jpg", "1.png"]
    clash = find_images(["other", "photos/cats/1.jpg"], 10)
    assert list(clash) == ["other/1.jpg", "1.png", "photos/cats/1.jpg"]


@pytest.mark.parametrize("name", ["missing.png", "*.gif", "empty", "missing/**"])
def test_a_name_that_stands_for_nothing_is_an_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.png", "empty/notes.txt")
    with pytest.raises(ValueError, match=r"IMAGES must be image files.*where there is none") as error:
        find_images(["a.png", name], 10)
    assert f"Received: {name}," in str(error.value)


def test_too_many_are_an_error_and_none_is_left_out_in_silence(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png")
    with pytest.raises(ValueError, match=r"At most 2 images.*Received: 3\. --max-images 3 takes"):
        find_images([str(tmp_path)], 2)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_photograph_is_turned_upright(tmp_path, orientation):
    turns = {
        2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
        3: PIL.Image.Transpose.ROTATE_180,
        4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        5: PIL.Image.Transpose.TRANSPOSE,
        6: PIL.Image.Transpose.ROTATE_90,
        7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_270,
    }
    stored = PIL.Image.fromarray(colours())
    stored = stored.transpose(turns[orientation]) if orientation in turns else stored
    exif = PIL.Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "photo.jpg", quality=98, exif=exif)
    found = read_image(tmp_path / "photo.jpg", (40, 60), 3)
    for row, column in ((5, 10), (5, 50), (35, 30)):  # JPEG blurs the borders between colours.
        assert np.abs(found[row, column].astype(int) - colours()[row, column]).max() < 12


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_rgb(tmp_path, mode, channels):
    rgb = PIL.Image.fromarray(colours())
    picture = rgb.quantize(8) if mode == "P" else rgb.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(0)  # As Keras does, colours below transparency are what counts.
    file = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    picture.save(file)
    found = read_image(file, (40, 60), channels)
    assert found.dtype == np.uint8
    assert found.shape == (40, 60, channels)
    if mode == "1":
        assert set(np.unique(found)) == {0, 255}
    else:
        expected = colours() if channels == 3 and mode not in ("L", "LA") else np.asarray(rgb.convert("L"))[..., None]
        assert np.abs(found.astype(int) - expected).max() <= 2


def test_palette_with_transparency_keeps_its_colours(tmp_path):
    picture = PIL.Image.fromarray(colours()).quantize(4)
    picture.save(tmp_path / "picture.png", transparency=bytes([0, 255, 0, 255]))
    found = read_image(tmp_path / "picture.png", (40, 60), 3)
    assert np.abs(found.astype(int) - colours()).max() < 40


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight_and_are_not_cut_off(tmp_path, suffix):
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    PIL.Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    found = read_image(tmp_path / f"deep.{suffix}", (40, 60), 3)
    assert np.abs(found[..., 0] - values / 257).max() <= 0.5
    assert (found == found[..., :1]).all()


def test_floating_point_images_are_from_0_to_1(tmp_path):
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    PIL.Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.abs(read_image(tmp_path / "a.tif", (3, 4), 1)[..., 0] - values * 255).max() <= 0.5
    PIL.Image.fromarray(values * 7).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match="values of mode F beyond 0 to 1"):
        read_image(tmp_path / "b.tif", (3, 4), 1)


def test_stretched_whole_or_cut_in_the_middle(tmp_path):
    picture = np.zeros((40, 120, 3), np.uint8)
    picture[:, 40:80] = 255
    PIL.Image.fromarray(picture).save(tmp_path / "wide.png")
    stretched = read_image(tmp_path / "wide.png", (20, 20), 3)
    assert (stretched[:, :5] == 0).all()
    assert (stretched[:, 8:12] == 255).all()
    assert (read_image(tmp_path / "wide.png", (20, 20), 3, crop=True) == 255).all()
    assert read_image(tmp_path / "wide.png", (80, 300), 3, crop=True).shape == (80, 300, 3)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(declared_png(60000, 60000))
    assert bomb.stat().st_size < 200
    with pytest.raises(ValueError, match=r"bomb\.png: too large, decompression could exhaust the memory"):
        read_image(bomb, (8, 8), 3)
    # Also below the size at which Pillow itself only warns.
    bomb.write_bytes(declared_png(10000, 10000))
    with pytest.raises(ValueError, match="too large"):
        read_image(bomb, (8, 8), 3)


def test_bad_files_are_told_from_good_ones(tmp_path):
    PIL.Image.fromarray(colours()).save(tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    # Pillow would start Ghostscript for it.
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    (tmp_path / "folder.png").mkdir()
    files = {path.stem: path for path in sorted(tmp_path.iterdir())}
    files["gone"] = Path("gone.png")
    read, bad = read_images(files, (8, 8), 3)
    assert list(read) == ["good"]
    assert sorted(bad) == ["empty", "folder", "gone", "half", "script", "text"]
    for key in ("text", "empty", "script"):
        assert "no image of a known format" in bad[key]
    assert "damaged" in bad["half"]
    assert bad["gone"] == "gone.png: not a file"
