"""`keras-cam` on signals, volumes and clips, in processes of its own: from saved models and files to pictures."""

import json
import os
import subprocess
import sys
import warnings

import cv2
import keras
import numpy as np
import pytest
from keras import layers
from paths import ROOT
from PIL import Image
from scipy.ndimage import uniform_filter

from keras_cam_callbacks import read_run

pytestmark = pytest.mark.slow

# Shape as the model takes it, and the block that differs from the rest.
SHAPES = {
    "signal": ((120, 1), np.s_[70:82]),
    "volume": ((12, 40, 32, 1), np.s_[7:9, 8:14, 20:26]),
    "clip": ((6, 32, 48, 3), np.s_[4:5, 18:24, 30:40]),
}


def sample(kind):
    """One sample: dark noise, and a bright block."""
    shape, block = SHAPES[kind]
    values = np.random.default_rng(0).uniform(0, 0.2, shape).astype(np.float32)
    values[block] = 1
    return values


def save_model(kind, path):
    """A model whose score is the mean of a map: the sum over 3 positions along each axis, above a threshold."""
    shape, _ = SHAPES[kind]
    axes = len(shape) - 1
    conv = (layers.Conv1D if axes == 1 else layers.Conv3D)(2, 3, padding="same", activation="relu", name="sums")
    pool = layers.GlobalAveragePooling1D if axes == 1 else layers.GlobalAveragePooling3D
    model = keras.Sequential([keras.Input(shape), conv, pool(), layers.Dense(2, name="score")])
    size = 3**axes * shape[-1]
    kernel = np.zeros((*[3] * axes, shape[-1], 2))
    kernel[..., 0] = 1
    conv.set_weights([kernel, np.array([-0.3 * size, 0])])
    model.get_layer("score").set_weights([np.array([[-1.0, 1.0], [0, 0]]), np.zeros(2)])
    with warnings.catch_warnings():
        # Keras reads TensorFlow's variables in a way that NumPy has deprecated.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        model.save(path)


def expected_map(kind):
    """The same map by scipy."""
    values = sample(kind).mean(axis=-1)
    return np.maximum(uniform_filter(values, 3, mode="constant") - 0.3, 0)


def save_npy(path):
    np.save(path / "one.npy", sample("signal"))
    return path / "one.npy"


def save_npz(path):
    np.savez(path / "one.npz", x=sample("volume")[None])
    return path / "one.npz"


def save_nifti(path):
    nibabel = pytest.importorskip("nibabel", reason="an extra")
    # NIfTI's axes are taken in the order in which the file has them.
    nibabel.save(nibabel.Nifti1Image(sample("volume")[..., 0], np.diag([5.0, 0.7, 0.7, 1.0])), path / "one.nii.gz")
    return path / "one.nii.gz"


def save_video(path):
    frames = np.rint(sample("clip") * 255).astype(np.uint8)
    file = path / "one.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, frames.shape[2:0:-1])
    if not writer.isOpened():
        pytest.skip("OpenCV writes no such videos here")
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return file


FILES = {
    "signal": ("signal", save_npy),
    "volume": ("volume", save_npz),
    "NIfTI": ("volume", save_nifti),
    "clip": ("clip", save_video),
}


def keras_cam(*arguments):
    """Runs the command; returns its output."""
    command = [sys.executable, "-m", "keras_cam_callbacks.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def opened(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def warmth(picture):
    """How much redder than blue, (H, W), which the colours are where there is most heat; 0 elsewhere."""
    return np.maximum(picture[..., 0] - picture[..., 2] - 30, 0)


# Of pictures so many px wide, whose first px are a border: from where to where the first slice, or the frame with the
# block, is looked at, and where the block is in it, across and down: of the volume 4 px to a position, of the clip 2.
PLACES = {
    "one.npy": (656, (0, 656), (8 + 640 * 70 / 120, 8 + 640 * 82 / 120)),
    "one.npz": (448, (0, 136), (8 + 4 * 20, 8 + 4 * 26), (8 + 4 * 8, 8 + 4 * 14)),
    "one.avi": (632, (0, 520), (8 + 104 * 3 + 2 * 30, 8 + 104 * 4 + 2 * 40), (8 + 2 * 18, 8 + 2 * 24)),
}


@pytest.mark.parametrize(("kind", "save"), FILES.values(), ids=FILES)
def test_from_files_to_pictures(kind, save, tmp_path):
    save_model(kind, tmp_path / "model.keras")
    file, out = save(tmp_path), tmp_path / "out"
    scale = ("--scale", "0-1") if kind == "clip" else ()
    arguments = "explain", tmp_path / "model.keras", file, "--target", "1", "--out", out, *scale, "--json"
    told = json.loads(keras_cam(*arguments))
    assert told["layer"] == "sums"
    run = read_run(out)
    (epoch,) = run.epochs
    (heatmap,) = epoch.heatmaps()
    expected = expected_map(kind)
    assert heatmap.shape == expected.shape
    assert np.corrcoef(heatmap.ravel(), expected.ravel())[0, 1] > (0.98 if kind == "clip" else 0.9999)
    if file.name.endswith(".nii.gz"):
        assert run.space.spacing == pytest.approx((5, 0.7, 0.7))

    picture = opened(next(iter([*out.glob("grid.jpg"), *out.glob("overlays/*"), *out.glob("sheets/*.jpg")])))
    assert picture.shape[2] == 3
    assert min(picture.shape[:2]) > 60
    assert picture.std() > 20
    heat = warmth(picture)
    assert 0 < (heat > 0).mean() < 0.2
    if file.name in PLACES:  # NIfTI's slices are drawn as thick as they are.
        width, (left, right), *boxes = PLACES[file.name]
        warm = np.argwhere(heat > 0)[:, ::-1] * width / picture.shape[1]
        warm = warm[(warm[:, 0] >= left) & (warm[:, 0] < right)]
        assert len(warm)
        for along, (first, last) in zip(warm.T, boxes, strict=False):
            assert first - 6 <= along.min() < along.max() <= last + 6

    films = json.loads(keras_cam("timelapse", out, "--out", tmp_path / "films", "--json"))["films"]
    with Image.open(films[0]) as film:
        assert film.n_frames >= 1
        frame = np.asarray(film.convert("RGB")).astype(int)
    assert frame.std() > 20
    page = json.loads(keras_cam("report", out, "--out", tmp_path / "page.html", "--json"))
    assert os.path.getsize(page["path"]) > 10_000
