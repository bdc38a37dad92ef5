"""Models of several inputs."""

from __future__ import annotations

import keras
from keras import layers, ops
from models import images
from zoo.convolutional import SHAPE, small_cnn
from zoo.example import ONE_UNIT, PROBABILITIES, Example


def image_and_numbers():
    image, meta = keras.Input(SHAPE, name="image"), keras.Input((4,), name="meta")
    x = layers.Concatenate()([small_cnn()(image), layers.Dense(8, activation="relu")(meta)])
    model = keras.Model({"image": image, "meta": meta}, layers.Dense(3, activation="softmax")(x))
    return Example(model, {"image": images(2, SHAPE), "meta": images(2, (4,))}, PROBABILITIES)


def siamese_contrastive():
    """Are two images of one class? One network sees both."""
    encoder, left, right = small_cnn(), keras.Input(SHAPE, name="left"), keras.Input(SHAPE, name="right")
    distance = ops.sqrt(ops.maximum(ops.sum(ops.square(encoder(left) - encoder(right)), 1, keepdims=True), 1e-7))
    outputs = layers.Dense(1, activation="sigmoid")(layers.BatchNormalization()(distance))
    inputs = {"left": images(2, SHAPE), "right": images(2, SHAPE, seed=1)}
    return Example(keras.Model({"left": left, "right": right}, outputs), inputs, ONE_UNIT)


class Triplet(keras.Model):
    """An encoder's distances of an anchor to a positive and to a negative sample."""

    def __init__(self):
        super().__init__()
        encoder = small_cnn()
        tensors = {name: keras.Input(SHAPE, name=name) for name in ("anchor", "positive", "negative")}
        anchor, positive, negative = (encoder(tensor) for tensor in tensors.values())
        distances = [ops.sum((anchor - other) ** 2, -1) for other in (positive, negative)]
        self.net = keras.Model(tensors, distances)

    def call(self, inputs):
        return self.net(inputs)


def siamese_triplet():
    inputs = {name: images(2, SHAPE, seed=i) for i, name in enumerate(("anchor", "positive", "negative"))}
    return Example(Triplet(), inputs, loss=None, target=lambda outputs: outputs[1] - outputs[0])


def two_views():
    """Two X-ray images of a breast and what is known beside them; each view has its own size, channels and network."""
    shapes = {"cc": (32, 16, 3), "mlo": (24, 24, 1)}
    tensors = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    meta = keras.Input((2,), name="meta")
    ends = [layers.Dense(4)(meta)]
    for name, tensor in tensors.items():
        whole = small_cnn(shapes[name], f"network_{name}")
        ends.append(whole(layers.Rescaling(1 / 255)(tensor) if name == "cc" else tensor))
    model = keras.Model({**tensors, "meta": meta}, layers.Dense(3, activation="softmax")(layers.Concatenate()(ends)))
    inputs = {"cc": (255 * images(2, shapes["cc"])).astype("uint8"), "mlo": images(2, shapes["mlo"], seed=1)}
    return Example(model, {**inputs, "meta": images(2, (2,))}, PROBABILITIES)


def before_and_after():
    """What has changed? Both images are the channels of one."""
    before, after = keras.Input(SHAPE, name="before"), keras.Input(SHAPE, name="after")
    x = layers.Conv2D(4, 3, padding="same", strides=2, activation="relu")(layers.Concatenate()([before, after]))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    outputs = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    inputs = {"before": images(2, SHAPE), "after": images(2, SHAPE, seed=1)}
    return Example(keras.Model({"before": before, "after": after}, outputs), inputs, PROBABILITIES)
