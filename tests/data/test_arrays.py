"""Arrays that lie in files: only the rows that are explained are read of the images."""

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from keras_cam_callbacks import GradCAMLogger, explain
from keras_cam_callbacks.data.arrays import StoredArray, is_stored
from keras_cam_callbacks.data.batches import make_batch

N, SHAPE = 60, (8, 10, 3)
X = np.random.default_rng(0).random((N, *SHAPE), np.float32)
Y = np.arange(N) // 25  # 25 of 0, 25 of 1, 10 of 2


class Stored:
    """What zarr and others have in common: an array that can only be cut, and that notes what was read."""

    def __init__(self, array):
        self._array, self.read = array, []
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self):
        return len(self._array)

    def __getitem__(self, key):
        assert isinstance(key, slice)
        self.read += range(*key.indices(len(self)))
        return self._array[key]


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as opened:
        opened["x"], opened["y"], opened["rows"] = X, Y, np.eye(3)[Y]
        yield opened


@pytest.mark.parametrize("labels", ["y", "rows"])
def test_h5py(file, labels):
    batch = make_batch((file["x"], file[labels]), max_samples=5)
    np.testing.assert_array_equal(batch.inputs, X[:5])
    assert batch.labels.tolist() == Y[:5].tolist()
    balanced = make_batch((file["x"], file[labels]), max_samples=6, select="balanced")
    assert balanced.rows == (0, 1, 25, 26, 50, 51)
    np.testing.assert_array_equal(balanced.inputs, X[[0, 1, 25, 26, 50, 51]])
    assert balanced.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(make_batch(file["x"], max_samples=None)) == N


def test_a_file_that_does_not_fit_into_memory(tmp_path):
    """8 TiB, of which 3 images were written."""
    with h5py.File(tmp_path / "large.h5", "w") as file:
        x = file.create_dataset("x", (2**28, 64, 64, 2), "float32", chunks=(1, 64, 64, 2))
        y = np.zeros(2**16, np.int64)
        x[:3] = 0.5
        batch = make_batch(x, max_samples=3)
        assert (batch.inputs == 0.5).all()
        with pytest.raises(ValueError, match=r"x of length \[268435456\] and y of length \[65536\]"):
            make_batch((x, y), max_samples=3)


def test_only_the_rows_that_are_taken_are_read():
    x = Stored(X)
    assert make_batch((x, Y), max_samples=4).inputs.dtype == np.float32
    assert x.read == [0, 1, 2, 3]
    x.read.clear()
    np.testing.assert_array_equal(make_batch((x, Y), max_samples=3, select="balanced").inputs, X[[0, 25, 50]])
    assert x.read == [0, 25, 50]
    x.read.clear()
    masks = Stored(X[..., :1])  # Labels of a segmentation are not read at all.
    assert make_batch((x, masks), max_samples=2).labels is None
    assert (x.read, masks.read) == ([0, 1], [])


def test_labels_in_files_and_several_inputs():
    x, y = Stored(X), Stored(Y)
    batch = make_batch(({"image": x, "other": Stored(X[:, 0, 0])}, y), max_samples=2, select="balanced")
    np.testing.assert_array_equal(batch.inputs["other"], X[[0, 25], 0, 0])
    assert x.read == [0, 25]
    assert y.read == list(range(N))
    listed = Stored(X)
    assert make_batch([listed, Y], max_samples=1).labels.tolist() == [0]
    assert listed.read == [0]


def test_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    batch = make_batch((mapped, Y), max_samples=2, select="balanced")
    np.testing.assert_array_equal(batch.inputs, X[[0, 25]])
    assert not isinstance(batch.inputs, np.memmap)


def test_types_become_those_that_fit_would_pass():
    assert make_batch(Stored(X.astype(np.float64)), max_samples=1).inputs.dtype == np.float32
    assert make_batch(Stored((X * 255).astype(np.uint8)), max_samples=1).inputs.dtype == np.uint8
    short = Stored(X.astype(np.float16))
    assert make_batch(short, max_samples=1).inputs.dtype == np.float16


def test_what_is_stored():
    assert is_stored(Stored(X))
    for other in (X, keras.ops.convert_to_tensor(X), [X], X[0, 0, 0, 0], Stored, {"x": X}, "text"):
        assert not is_stored(other)
    rows = StoredArray(Stored(X)).rows(np.array([5, 3, 4, 9]))
    np.testing.assert_array_equal(rows, X[[5, 3, 4, 9]])
    np.testing.assert_array_equal(np.asarray(StoredArray(Stored(X))), X)


def test_in_fit_and_explain(file):
    parts = [layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    model = keras.Sequential([keras.Input(SHAPE), *parts])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    x = Stored(X)
    logger = GradCAMLogger((x, file["y"]), max_samples=3, select="balanced", tracker="memory", on_error="raise")
    model.fit(X, Y, verbose=0, callbacks=[logger])
    assert x.read == [0, 25, 50]
    expected = explain(model, X[[0, 25, 50]]).heatmaps
    np.testing.assert_allclose(logger.trackers[0].records[0].heatmaps, expected, atol=1e-6)
    np.testing.assert_allclose(explain(model, file["x"], max_samples=2).heatmaps, explain(model, X[:2]).heatmaps)
