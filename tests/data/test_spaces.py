"""What the axes of a model's input are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_cam_callbacks import explain
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.data.spaces import displayed_space, input_space, kind_of
from keras_cam_callbacks.explaining.augmented import augmented_batch, resolved_for

SIGNAL, ROWS = (24, 2), (28, 28)


def sequential(shape, *inside):
    return keras.Sequential([keras.Input(shape), *inside])


def nested(shape):
    return sequential(shape, sequential(shape, layers.Conv1D(3, 3)), layers.GlobalAveragePooling1D())


def attending(shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.MultiHeadAttention(1, 2)(inputs, inputs))


MODELS = {
    "Conv1D": (lambda: sequential(SIGNAL, layers.Conv1D(3, 3)), SIGNAL, "signal"),
    "nested": (lambda: nested(SIGNAL), SIGNAL, "signal"),
    "LSTM": (lambda: sequential(SIGNAL, layers.LSTM(3)), SIGNAL, "signal"),
    "attention": (lambda: attending(SIGNAL), SIGNAL, "signal"),
    "of one channel": (lambda: sequential((28, 1), layers.Conv1D(3, 3)), (28, 1), "signal"),
    "without channels": (lambda: sequential((24,), layers.Reshape((24, 1)), layers.Conv1D(3, 3)), (24,), "signal"),
    "a grey image": (lambda: sequential(ROWS, layers.Reshape((28, 28, 1)), layers.Conv2D(3, 3)), ROWS, "image"),
    "a grey image, flattened": (lambda: sequential(ROWS, layers.Flatten(), layers.Dense(3)), ROWS, "image"),
    "rows of an image": (lambda: sequential(ROWS, layers.LSTM(3)), ROWS, "signal"),
    "image": (lambda: sequential((8, 9, 3), layers.Conv2D(3, 3)), (8, 9, 3), "image"),
    "volume": (lambda: sequential((6, 8, 9, 1), layers.Conv3D(3, 3)), (6, 8, 9, 1), "volume"),
    "clip by colours": (lambda: sequential((6, 8, 9, 3), layers.Conv3D(3, 3)), (6, 8, 9, 3), "clip"),
    "clip by layers": (lambda: sequential((6, 8, 9, 1), layers.ConvLSTM2D(3, 3)), (6, 8, 9, 1), "clip"),
}


@pytest.mark.parametrize(("make", "shape", "kind"), MODELS.values(), ids=MODELS)
def test_the_kind_of_an_input(make, shape, kind):
    inputs = np.random.default_rng(0).random((2, *shape), np.float32)
    space = input_space(make(), inputs)
    assert kind_of(space) == kind
    lacks_channels = len(shape) == 1 or (kind == "image" and len(shape) == 2)
    assert space.size == (shape if lacks_channels else shape[:-1])
    assert make_batch(inputs, make()).space == space


def test_what_has_no_places():
    table = sequential((5,), layers.Dense(3), layers.Reshape((3, 1)), layers.Flatten(), layers.Dense(2))
    text = sequential((5,), layers.Embedding(9, 4), layers.Conv1D(3, 3))
    for model in (table, text):
        assert input_space(model, np.zeros((2, 5), np.float32)) is None
    for array in (np.zeros((2, 5)), np.zeros((2, 5, 5, 5, 5, 1)), np.array([["a b"]]), np.zeros((2, 0, 3))):
        assert input_space(None, array) is None


def test_channels_first():
    model = sequential((2, 6, 8, 9), layers.Conv3D(3, 3, data_format="channels_first"))
    volumes = np.random.default_rng(0).random((2, 2, 6, 8, 9), np.float32)
    space = input_space(model, volumes)
    assert (space.size, space.layout) == ((6, 8, 9), "channels_first")
    shown, _ = displayed_space(volumes, space, make_batch(volumes, model).pixel_range)
    assert [one.shape for one in shown] == [(6, 8, 9, 3)] * 2


BANDS = (12, 20, 30)
FIRST = "channels_first"
BANDED = {
    "pooled": (BANDS, layers.AveragePooling2D(2, data_format=FIRST)),
    "permuted": (BANDS, layers.Permute((2, 3, 1)), layers.Conv2D(3, 3)),
    "a signal": ((12, 30), layers.Permute((2, 1)), layers.Conv1D(3, 3)),
    "a volume": ((12, 9, 20, 30), layers.Permute((2, 3, 4, 1)), layers.Conv3D(3, 3)),
}


@pytest.mark.parametrize("inside", BANDED.values(), ids=BANDED)
def test_bands_first(inside):
    model = sequential(*inside, layers.Flatten(), layers.Dense(2))
    values = np.random.default_rng(0).random((2, *inside[0]), np.float32)
    batch = make_batch(values, model, max_samples=None)
    assert batch.space.layout == FIRST
    assert batch.space.size == values.shape[2:]
    *size, channels = batch.display[0].shape
    assert (tuple(size), channels) == (values.shape[2:], 12 if len(size) == 1 else 3)
    (turned,) = resolved_for({"turned": lambda images: images[..., ::-1, :]}, batch).values()
    changed = augmented_batch(batch, turned, "turned")
    np.testing.assert_array_equal(changed.inputs, values[..., ::-1])
    assert explain(model, values, method="occlusion", target=0).heatmaps.shape == (2, *values.shape[2:])


def test_what_people_see():
    signals = np.random.default_rng(0).random((2, *SIGNAL), np.float32) * 9
    batch = make_batch(signals, MODELS["Conv1D"][0]())
    assert batch.value_range == "values"
    np.testing.assert_array_equal(np.stack(batch.display), signals)
    volumes = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 9, 1), np.uint8)
    shown = np.stack(make_batch(volumes, MODELS["volume"][0]()).display)
    np.testing.assert_array_equal(shown, np.repeat(volumes, 3, axis=-1))


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_slices_that_are_shown_in_place_of_the_models_input(channels):
    volumes = np.random.default_rng(0).random((2, 6, 8, 9, 1), np.float32)
    size = (6, 8, 9) if not channels else (6, 16, 18)
    shown = np.random.default_rng(1).integers(0, 256, (2, *size, *channels), np.uint8)
    batch = make_batch(volumes, MODELS["volume"][0](), display=shown)
    expected = shown[..., None] if not channels else shown
    np.testing.assert_array_equal(np.stack(batch.display), np.broadcast_to(expected, (2, *size, 3)))
    middle = make_batch(volumes, MODELS["volume"][0](), display=shown[:, 3])
    assert middle.display[0].shape == (*size[1:], 3)
