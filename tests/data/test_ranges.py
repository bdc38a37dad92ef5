import keras
import numpy as np
import pytest
from skimage import data

from keras_cam_callbacks.data.ranges import display_images, value_range

PHOTO = data.chelsea()[30:270:2, 80:400:2]  # (120, 160, 3) uint8 RGB, with a black border here and a white one there
PHOTO = np.pad(PHOTO, ((2, 2), (2, 2), (0, 0)))
PHOTO[-2:] = 255


def preprocessed(mode):
    return keras.applications.imagenet_utils.preprocess_input(PHOTO.astype(np.float32), mode=mode)


RANGES = {
    "uint8": (PHOTO, "[0, 255]"),
    "int64": (PHOTO.astype(np.int64), "[0, 255]"),
    "float 255": (PHOTO.astype(np.float32), "[0, 255]"),
    "float 1": ((PHOTO / 255).astype(np.float32), "[0, 1]"),
    "float16 1": ((PHOTO / 255).astype(np.float16), "[0, 1]"),
    "float64 1": (PHOTO / 255, "[0, 1]"),
    "tf": (preprocessed("tf"), "[-1, 1]"),
    "torch": (preprocessed("torch"), "mean/std"),
    "caffe": (preprocessed("caffe"), "mean-subtracted"),
}


@pytest.mark.parametrize(("image", "expected"), RANGES.values(), ids=RANGES)
def test_preprocessing_is_undone(image, expected):
    shown, found = display_images(image[None])
    assert found == value_range([image]) == expected
    assert (shown[0].dtype, shown[0].flags["C_CONTIGUOUS"]) == (np.uint8, True)
    assert np.abs(shown[0].astype(int) - PHOTO).max() <= 1


def test_overshoot_of_resizing_is_clipped():
    sharpened = PHOTO * 1.08 - 8
    (shown,), found = display_images(sharpened[None])
    assert found == "[0, 255]"
    assert np.abs(shown - np.clip(sharpened, 0, 255)).max() <= 0.5


def test_a_batch_has_one_range():
    """A dark image of a batch in [0, 255] is not taken for one in [0, 1]."""
    dark = np.zeros_like(PHOTO, np.float32) + 0.5
    shown, found = display_images([PHOTO.astype(np.float32), dark])
    assert found == "[0, 255]"
    assert shown[1].max() <= 1


def test_unknown_range_is_stretched_image_by_image():
    rows = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
    shown, found = display_images([rows * 1e4, rows * -2e3])
    assert found == "min-max"
    assert shown[0][..., 0].tolist() == [[0, 85], [170, 255]]
    assert shown[1][..., 0].tolist() == [[255, 170], [85, 0]]
    constant, found = display_images(np.full((1, 2, 2, 1), 1e6))
    assert (found, constant[0].max()) == ("min-max", 0)


BANDS = np.array([[[0, 100, 200], [40, 60, 80]]], np.uint8)  # (1, 2, 3)
SHAPES = {
    "grey (H, W)": (BANDS[..., 0], [[[0] * 3, [40] * 3]]),
    "grey (H, W, 1)": (BANDS[..., :1], [[[0] * 3, [40] * 3]]),
    "with alpha": (np.concatenate([BANDS, BANDS[..., :1]], -1), BANDS.tolist()),
    "two bands: their mean": (BANDS[..., :2], [[[50] * 3, [50] * 3]]),
    "five bands: their mean": (np.concatenate([BANDS, BANDS[..., :2]], -1), [[[80] * 3, [56] * 3]]),
    "bool": (np.array([[True, False]]), [[[255] * 3, [0] * 3]]),
}


@pytest.mark.parametrize(("image", "expected"), SHAPES.values(), ids=SHAPES)
def test_channels(image, expected):
    # Two rows more, so that no axis of the image is taken for one of channels.
    tall = np.repeat(image, 7, axis=0)
    wide = np.tile(tall, (1, 3, *[1] * (image.ndim - 2)))
    (shown,), _ = display_images([wide])
    assert shown.shape == (7, 6, 3)
    assert shown[:1, :2].tolist() == expected


def test_channels_first():
    (shown,), _ = display_images(PHOTO.transpose(2, 0, 1)[None])
    np.testing.assert_array_equal(shown, PHOTO)


def test_sizes_may_differ_in_a_list():
    shown, _ = display_images([PHOTO, PHOTO[:50]])
    assert [image.shape for image in shown] == [PHOTO.shape, (50, *PHOTO.shape[1:])]


def test_faults():
    for wrong in (np.zeros(4), np.zeros((2, 2, 2, 2)), np.zeros((0, 4, 3)), np.array([["a"]])):
        with pytest.raises(ValueError, match=r"\(height, width\) or \(height, width, channels\). Received: shape"):
            display_images([wrong])
