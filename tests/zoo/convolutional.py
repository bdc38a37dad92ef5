"""Convolutional classifiers, as examples of keras.io build them, and models of which Keras sees but a part."""

from __future__ import annotations

import tempfile
import warnings

import keras
from keras import layers
from models import images
from zoo.example import ONE_UNIT, PROBABILITIES, Example

SHAPE = (32, 32, 3)


def small_cnn(shape=SHAPE, name="cnn"):
    """Two convolutions and global average pooling, to be built into others."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
        ],
        name=name,
    )


def convmixer():
    def activated(x):
        return layers.BatchNormalization()(layers.Activation("gelu")(x))

    inputs = keras.Input(SHAPE)
    x = activated(layers.Conv2D(16, 2, 2)(layers.Rescaling(1 / 255)(inputs)))
    for _ in range(2):
        x = layers.Add()([activated(layers.DepthwiseConv2D(5, padding="same")(x)), x])
        x = activated(layers.Conv2D(16, 1)(x))
    outputs = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return Example(keras.Model(inputs, outputs), 255 * images(2, SHAPE), PROBABILITIES)


def mini_xception():
    """Image classification from scratch: separable convolutions and residuals, one unit without an activation."""
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(16, 3, 2, padding="same")(layers.Rescaling(1 / 255)(inputs))
    x = shortcut = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(24, 3, padding="same")(layers.Activation("relu")(x))
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.BatchNormalization()(x))
    x = layers.add([x, layers.Conv2D(24, 1, 2, padding="same")(shortcut)])
    x = layers.BatchNormalization()(layers.SeparableConv2D(32, 3, padding="same")(x))
    x = layers.Dropout(0.25)(layers.GlobalAveragePooling2D()(layers.Activation("relu", name="last_relu")(x)))
    return Example(keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x)), 255 * images(2, SHAPE), ONE_UNIT)


def discriminator():
    """The judge of a DCGAN."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(8, 4, 2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(16, 4, 2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    return Example(model, images(2, SHAPE), ONE_UNIT)


def quantized():
    """A dense layer in int8, behind a convolution, for which Keras has no int8."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(8, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    with warnings.catch_warnings():  # Keras names the layers for which it has none.
        warnings.filterwarnings("ignore", ".*does not have a `quantize` method")
        model.quantize("int8")
    return Example(model, images(2, SHAPE), loss=None, settings={"output_kind": "classes"})


def saved():
    """A model that was exported, as the layer that brings it back."""
    folder = tempfile.mkdtemp()
    keras.Sequential([small_cnn(), layers.Dense(3)]).export(folder, verbose=False)
    return layers.TFSMLayer(folder, call_endpoint="serve")


def saved_model():
    inputs = keras.Input(SHAPE)
    return Example(keras.Model(inputs, saved()(inputs)), images(2, SHAPE))


def saved_behind_convolution():
    front = layers.Conv2D(3, 3, padding="same", name="front")
    return Example(keras.Sequential([keras.Input(SHAPE), front, saved()]), images(2, SHAPE))


def saved_layer():
    return Example(saved(), images(2, SHAPE), loss=None)
