import numpy as np
import pytest

from keras_cam_callbacks.data.arrays import StoredArray
from keras_cam_callbacks.data.masks import pixel_labels

MASKS = np.arange(24).reshape(2, 3, 4) % 3
ROWS = np.array([1])


@pytest.mark.parametrize(
    "y",
    [
        MASKS,
        MASKS[..., None],
        MASKS.astype(np.float32),
        np.eye(3)[MASKS],
        {"mask": MASKS},
        [MASKS],
        StoredArray(MASKS),
    ],
    ids=["whole", "one channel", "floats", "one-hot", "by name", "in a list", "in a file"],
)
def test_the_true_class_of_each_pixel(y):
    found = pixel_labels(y, ROWS)
    np.testing.assert_array_equal(found, MASKS[1:])
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    "y",
    [None, np.arange(4), MASKS + 0.5, np.full((2, 3, 4), np.nan), np.ones((2, 3, 4, 3)), {"a": MASKS, "b": MASKS}],
    ids=["none", "classes", "fractions", "missing", "several at once", "two outputs"],
)
def test_what_names_no_classes_of_pixels(y):
    assert pixel_labels(y, ROWS) is None
