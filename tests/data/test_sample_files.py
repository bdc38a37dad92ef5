"""Signals, volumes and clips from files: what is read is what numpy, nibabel and a second reader say."""

import zipfile

import cv2
import numpy as np
import pytest

from keras_cam_callbacks.data.files import find_images
from keras_cam_callbacks.data.sample_files import SUFFIXES_OF, Taken, read_samples

RNG = np.random.default_rng(0)
SIGNAL, VOLUME, CLIP = Taken("signal", (50, 2)), Taken("volume", (6, 8, 10, 1)), Taken("clip", (5, 24, 32, 3))


def saved(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("taken", "shape", "count"),
    [
        (SIGNAL, (50, 2), 1),
        (SIGNAL, (3, 50, 2), 3),
        (VOLUME, (6, 8, 10, 1), 1),
        (VOLUME, (6, 8, 10), 1),
        (VOLUME, (2, 6, 8, 10), 2),
        (VOLUME, (2, 6, 8, 10, 1), 2),
        (Taken("volume", (None, None, None, 1)), (2, 3, 4), 1),
        (Taken("volume", (2, 6, 8, 10), True), (2, 6, 8, 10), 1),
        (Taken("volume", (1, 6, 8, 10), True), (3, 6, 8, 10), 3),
        (Taken("volume", (1, 6, 8, 10), True), (6, 8, 10), 1),
        (Taken("signal", (50, 1)), (50,), 1),
        (Taken("signal", (50, 1)), (4, 50), 4),
        (Taken("clip", (None, 8, 8, 3)), (7, 8, 8, 3), 1),
    ],
)
def test_one_sample_or_several_with_their_channel_or_without(tmp_path, taken, shape, count):
    array = RNG.normal(size=shape)
    read = read_samples(saved(tmp_path / "a.npy", array), taken).arrays
    assert len(read) == count
    np.testing.assert_array_equal(np.stack(read).ravel(), array.ravel())
    for sample in read:
        assert len(sample.shape) == len(taken.shape)
        assert all(need in (None, side) for need, side in zip(taken.shape, sample.shape, strict=True))


def test_the_array_in_an_npz(tmp_path):
    first, x = RNG.normal(size=(2, 50, 2))
    np.savez(tmp_path / "named.npz", labels=np.arange(3), x=x)
    np.savez_compressed(tmp_path / "other.npz", series=first, labels=np.arange(3))
    np.savez(tmp_path / "images.npz", other=first, images=x)
    for name, expected in (("named", x), ("other", first), ("images", x)):
        np.testing.assert_array_equal(read_samples(tmp_path / f"{name}.npz", SIGNAL).arrays[0], expected)


def test_what_cannot_be_read_says_why(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\0" * 2**27)
    np.savez(tmp_path / "empty.npz")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.csv").write_text("1,2")
    (tmp_path / "cut.npy").write_bytes(saved(tmp_path / "whole.npy", RNG.normal(size=(50, 2))).read_bytes()[:-8])
    np.save(tmp_path / "objects.npy", np.array([{}, None], object), allow_pickle=True)
    saved(tmp_path / "texts.npy", np.array(["a"]))
    saved(tmp_path / "short.npy", np.zeros((49, 2)))
    saved(tmp_path / "none.npy", np.zeros((0, 50, 2)))
    with open(tmp_path / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**23, 50, 2)})
        file.truncate(2**30)
    for name, says in {
        "bomb.npz": "too large, it would unpack to 128 MiB",
        "empty.npz": "holds no array",
        "text.npy": "pickled|magic|Failed",
        "text.npz": "not a zip file",
        "text.csv": r"files of signals must be \.npy, \.npz",
        "cut.npy": "mmap length",
        "objects.npy": "allow_pickle|Object arrays|objects",
        "texts.npy": "must be of numbers",
        "short.npy": r"of shape \(49, 2\), and the model takes samples of 50 x 2, one or several",
        "none.npy": "empty",
        "huge.npy": "too large, of shape|mmap length",
        "gone.npy": "not a file",
    }.items():
        with pytest.raises(ValueError, match=says):
            read_samples(tmp_path / name, SIGNAL)


def test_files_of_a_kind_are_found_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.nii.gz", "b.nii", "c.npy", "d.png", ".nii", "deep/a.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_images(["."], 10, SUFFIXES_OF["volume"], "volume")
    assert list(found) == ["a", "b", "c", "deep/a"]
    with pytest.raises(ValueError, match=r"must be volume files, .*\.nii\.gz"):
        find_images(["none"], 10, SUFFIXES_OF["volume"], "volume")
    with pytest.raises(ValueError, match="At most 2 volumes"):
        find_images(["."], 2, SUFFIXES_OF["volume"], "volume")


# ---- NIfTI -------------------------------------------------------------------------------------------------


def test_a_scan_brings_its_spacing(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="an extra")
    values = RNG.integers(-1000, 1000, (6, 8, 10)).astype(np.int16)
    scan = nibabel.Nifti1Image(values, np.diag([5.0, 0.7, 0.7, 1.0]))
    for name in ("scan.nii", "scan.nii.gz"):
        nibabel.save(scan, tmp_path / name)
        read = read_samples(tmp_path / name, VOLUME)
        np.testing.assert_array_equal(read.arrays[0][..., 0], values)
        assert read.spacing == (5.0, 0.7, 0.7)
    channels = RNG.normal(size=(6, 8, 10, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(channels, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "two.nii")
    read = read_samples(tmp_path / "two.nii", Taken("volume", (6, 8, 10, 2)))
    np.testing.assert_array_equal(read.arrays[0], channels)
    assert read.spacing == (2, 3, 4)
    with pytest.raises(ValueError, match=r"of shape \(6, 8, 10, 2\), and the model takes samples of 6 x 8 x 10 x 1"):
        read_samples(tmp_path / "two.nii", VOLUME)
    data = (tmp_path / "scan.nii").read_bytes()
    (tmp_path / "cut.nii").write_bytes(data[:-100])
    (tmp_path / "text.nii").write_text("no scan")
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "scan.nii.gz").read_bytes()[:300])
    for name in ("cut.nii", "text.nii", "cut.nii.gz"):
        with pytest.raises((ValueError, OSError)):
            read_samples(tmp_path / name, VOLUME)


# ---- Videos ------------------------------------------------------------------------------------------------


def film(path, count, size=(24, 32)):
    """A video whose frame i has the brightness 10 + 5 i on the left, and twice that on the right."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size[::-1])
    assert writer.isOpened()
    for i in range(count):
        frame = np.full((*size, 3), 10 + 5 * i, np.uint8)
        frame[:, size[1] // 2 :] *= 2
        frame[:4, :, 2] = 255  # A red band above; OpenCV's order is blue, green, red.
        writer.write(frame)
    writer.release()
    return path


def brightness(clip):
    return clip[:, 8:, 2:12].mean(axis=(1, 2, 3))


@pytest.mark.parametrize(("count", "expected"), [(5, [0, 1, 2, 3, 4]), (21, [0, 5, 10, 15, 20]), (2, [0, 0, 0, 1, 1])])
def test_frames_are_taken_evenly(tmp_path, count, expected):
    read = read_samples(film(tmp_path / "film.avi", count), CLIP, (24, 32))
    (clip,) = read.arrays
    assert (clip.shape, clip.dtype, read.is_video) == ((5, 24, 32, 3), np.uint8, True)
    np.testing.assert_allclose(brightness(clip), 10 + 5 * np.array(expected), atol=2)
    assert clip[0, :3, :, 0].mean() > 200 > 100 > clip[0, :3, :, 2].mean()  # Red is the first channel.
    assert ("some are taken twice" in read.note) == (count < 5)


def test_frames_are_brought_to_a_size_and_grey(tmp_path):
    file = film(tmp_path / "film.avi", 5, (48, 32))
    (clip,) = read_samples(file, Taken("clip", (3, 12, 16, 1)), (12, 16)).arrays
    assert clip.shape == (3, 12, 16, 1)
    (whole,) = read_samples(file, Taken("clip", (None, None, None, 3))).arrays
    assert whole.shape == (16, 48, 32, 3)
    (cut,) = read_samples(file, Taken("clip", (5, 24, 32, 3)), (24, 32), crop=True).arrays
    np.testing.assert_allclose(cut, whole[[0, 4, 8, 11, 15], 12:36], atol=6)  # The middle, without the band.


def test_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    film(tmp_path / "whole.avi", 30)
    (tmp_path / "cut.avi").write_bytes((tmp_path / "whole.avi").read_bytes()[:100])
    for name in ("text.mp4", "cut.avi"):
        with pytest.raises(ValueError, match="no video that OpenCV can read"):
            read_samples(tmp_path / name, CLIP, (24, 32))
