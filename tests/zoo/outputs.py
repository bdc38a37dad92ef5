"""Models that put out something else than scores of classes."""

from __future__ import annotations

import keras
from keras import layers, ops
from models import images
from zoo.convolutional import SHAPE, small_cnn
from zoo.example import NUMBERS, Example


def mean_of_class_1(outputs):
    """The mean score of class 1 over all pixels."""
    return ops.mean(outputs[..., 1], axis=(1, 2))


def unet(activation="softmax", target=None, **settings):
    """The segmentation of keras.io: down by separable convolutions, up by transposed ones, with residuals."""
    inputs = keras.Input(SHAPE)
    x = shortcut = layers.Activation("relu")(
        layers.BatchNormalization()(layers.Conv2D(16, 3, 2, padding="same")(inputs))
    )
    x = layers.BatchNormalization()(layers.SeparableConv2D(24, 3, padding="same")(layers.Activation("relu")(x)))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = shortcut = layers.add([x, layers.Conv2D(24, 1, 2, padding="same")(shortcut)])
    for width in (24, 16):
        x = layers.Conv2DTranspose(width, 3, padding="same")(layers.Activation("relu")(x))
        x = layers.UpSampling2D(2)(layers.BatchNormalization()(x))
        residual = layers.Conv2D(width, 1, padding="same")(layers.UpSampling2D(2)(shortcut))
        x = shortcut = layers.add([x, residual], name=f"up_{width}")
    outputs = layers.Conv2D(3, 3, activation=activation, padding="same", name="segmentation")(x)
    return Example(keras.Model(inputs, outputs), images(2, SHAPE), None, target, settings)


def unet_of_class():
    return unet(target=mean_of_class_1)


def unet_of_class_logits():
    return unet(None, mean_of_class_1)


def unet_named_layer():
    return unet(target=mean_of_class_1, layer_name="up_24")


def autoencoder(channels, target=None):
    shape = (32, 32, channels)
    inputs = keras.Input(shape)
    x = layers.MaxPooling2D()(layers.Conv2D(8, 3, padding="same", activation="relu")(inputs))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="code")(x)
    x = layers.Conv2DTranspose(8, 3, 2, padding="same", activation="relu", name="up")(x)
    outputs = layers.Conv2D(channels, 3, activation="sigmoid", padding="same", name="decoded")(x)
    return Example(keras.Model(inputs, outputs), images(2, shape), None, target)


def mean_of_pixels(outputs):
    return ops.mean(outputs, axis=(1, 2, 3))


def autoencoder_without_target():
    return autoencoder(1)


def autoencoder_grey():
    return autoencoder(1, mean_of_pixels)


def autoencoder_colour():
    return autoencoder(3, mean_of_pixels)


def age():
    return Example(keras.Sequential([small_cnn(), layers.Dense(1)]), images(2, SHAPE), NUMBERS)


def keypoints():
    """24 points as the channels of a map of 1 x 1."""
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(16, 3, 4, activation="relu", padding="same")(inputs)
    x = layers.SeparableConv2D(8, 5, 3, activation="relu")(x)
    x = layers.SeparableConv2D(48, 2, 1, activation="sigmoid")(x)
    return Example(keras.Model(inputs, x), images(2, SHAPE), None, lambda outputs: outputs[:, 0, 0, 3])


def metric_learning():
    inputs = keras.Input(SHAPE)
    x = layers.UnitNormalization()(layers.Dense(8)(small_cnn()(inputs)))
    return Example(keras.Model(inputs, x), images(2, SHAPE), None)


def several_outputs(target=None):
    inputs = keras.Input(SHAPE)
    x = small_cnn()(inputs)
    outputs = {"label": layers.Dense(3, activation="softmax", name="label")(x), "box": layers.Dense(4, name="box")(x)}
    return Example(keras.Model(inputs, outputs), images(2, SHAPE), None, target)


def several_outputs_box():
    return several_outputs(lambda outputs: outputs["box"][:, 1])


def ocr():
    """Letters by a distribution at each step, as CTC takes it: a map's rows become steps of a recurrent network."""
    shape = (32, 16, 1)
    inputs = keras.Input(shape)
    x = layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu", padding="same")(inputs))
    x = layers.Conv2D(8, 3, activation="relu", padding="same", name="conv2")(x)
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(layers.Reshape((16, 64))(x))
    model = keras.Model(inputs, layers.Dense(6, activation="softmax")(x))
    return Example(model, images(2, shape), None, lambda outputs: ops.sum(outputs[..., 1], axis=1))
