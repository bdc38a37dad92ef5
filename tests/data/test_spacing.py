"""How far positions are apart: what is accepted, and what is refused."""

import keras
import numpy as np
import pytest

from keras_cam_callbacks import GradCAMLogger
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.data.spacing import extent_of

VOLUMES = np.random.default_rng(0).random((2, 4, 6, 8, 1), np.float32)
MODEL = keras.Sequential([keras.Input((4, 6, 8, 1)), keras.layers.Conv3D(2, 3), keras.layers.GlobalMaxPooling3D()])


def test_a_batch_has_it():
    space = make_batch(VOLUMES, MODEL, spacing=[5, 0.5, np.float32(0.5)]).space
    assert space.spacing == (5.0, 0.5, 0.5)
    assert extent_of(space) == (20.0, 3.0, 4.0)
    assert extent_of(make_batch(VOLUMES, MODEL).space) == (4.0, 6.0, 8.0)


def test_of_images_maps_tell_unless_it_is_said():
    images = VOLUMES[:, 0]
    assert extent_of(make_batch(images).space) is None
    assert extent_of(make_batch(images, spacing=(2, 1)).space) == (12.0, 8.0)
    assert extent_of(None) is None


@pytest.mark.parametrize(
    ("spacing", "error", "message"),
    [
        ((1, 2), ValueError, r"each axis of the model's input: depth, height, width.*\(1.0, 1.0, 1.0\) works"),
        ((1, 2, 0), ValueError, "positive finite"),
        ((1, 2, np.inf), ValueError, "positive finite"),
        ((), ValueError, "positive finite"),
        (3, TypeError, "tuple of one number for each axis"),
        ("mm", TypeError, "tuple of one number for each axis"),
    ],
)
def test_what_is_no_spacing_is_refused(spacing, error, message):
    with pytest.raises(error, match=message):
        make_batch(VOLUMES, MODEL, spacing=spacing)
    if spacing != (1, 2):
        with pytest.raises(error, match=message):
            GradCAMLogger(VOLUMES, spacing=spacing)


def test_what_has_no_places_has_no_spacing():
    with pytest.raises(ValueError, match="without places"):
        make_batch(
            np.ones((2, 5)),
            keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]),
            display=[np.zeros((4, 4, 3), np.uint8)] * 2,
            spacing=(1,),
        )
