"""Models of signals, volumes and clips."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers
from models import images
from zoo.convolutional import small_cnn
from zoo.example import LOGITS, ONE_UNIT, PROBABILITIES, Example
from zoo.tokens import block


def cnn_3d(**settings):
    """Scans of computed tomography."""
    shape = (16, 16, 8, 1)
    x = inputs = keras.Input(shape)
    for width in (8, 16):
        x = layers.MaxPooling3D(2)(layers.Conv3D(width, 3, padding="same", activation="relu")(x))
        x = layers.BatchNormalization()(x)
    x = layers.Dense(16, activation="relu")(layers.GlobalAveragePooling3D()(x))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    return Example(model, images(2, shape), ONE_UNIT, settings=settings)


def cnn_3d_displayed():
    return cnn_3d(display=lambda scans: scans[:, :, :, 4])


def forda(channels=1):
    """Time series of an engine's sensor."""
    x = inputs = keras.Input((100, channels))
    for _ in range(3):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(8, 3, padding="same")(x)))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling1D()(x)))
    return Example(model, images(2, (100, channels)), PROBABILITIES)


def ecg():
    """The same of twelve leads."""
    return forda(12)


def time_distributed(**settings):
    """A network for each frame, and a recurrent one over them."""
    shape = (4, 32, 32, 3)
    inputs = keras.Input(shape)
    x = layers.GRU(8)(layers.TimeDistributed(small_cnn())(inputs))
    return Example(keras.Model(inputs, layers.Dense(3)(x)), images(2, shape), LOGITS, settings=settings)


def time_distributed_displayed():
    return time_distributed(display=lambda clips: clips[:, 0])


def rnn_on_features():
    """Features of frames that another network has made, and which of them there are."""
    features, present = keras.Input((4, 16)), keras.Input((4,), dtype="bool")
    x = layers.GRU(8)(features, mask=present)
    model = keras.Model([features, present], layers.Dense(3)(x))
    return Example(model, [images(2, (4, 16)), np.ones((2, 4), bool)], loss=None, settings={"output_kind": "classes"})


def conv_lstm(**settings):
    shape = (4, 16, 16, 1)
    inputs = keras.Input(shape)
    x = layers.ConvLSTM2D(8, 3, padding="same", return_sequences=True)(inputs)
    x = layers.GlobalAveragePooling2D()(layers.ConvLSTM2D(8, 3, padding="same")(x))
    return Example(keras.Model(inputs, layers.Dense(3)(x)), images(2, shape), LOGITS, settings=settings)


def conv_lstm_displayed():
    return conv_lstm(display=lambda clips: clips[:, -1])


def vivit(**settings):
    """A transformer on cubes of a clip."""
    shape = (8, 32, 32, 1)
    inputs = keras.Input(shape)
    x = layers.LayerNormalization()(block(layers.Reshape((16, 16))(layers.Conv3D(16, 8, 8)(inputs))))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    return Example(model, images(2, shape), LOGITS, settings=settings)


def vivit_displayed():
    return vivit(display=lambda clips: clips[:, 0])
