"""A default layer behind which most of the model lies is not taken in silence."""

import warnings

import keras
import models
import pytest
from keras import layers

from keras_cam_callbacks import explain

SHAPE = (32, 32, 3)


def attended(x, blocks=2):
    """Transformer blocks on tokens (N, T, 16)."""
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
        x = layers.Add()([x, layers.Dense(16)(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x)))])
    return x


def headed(inputs, tokens):
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(tokens)))


def vision_transformer():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(16, 8, 8, name="patches")(inputs)
    return headed(inputs, attended(layers.Reshape((16, 16))(x)))


def mixer():
    inputs = keras.Input(SHAPE)
    x = layers.Reshape((16, 16))(layers.Conv2D(16, 8, 8, name="patches")(inputs))
    for _ in range(3):
        y = layers.Permute((2, 1))(layers.Dense(16, activation="gelu")(layers.Permute((2, 1))(x)))
        x = layers.Add()([x, layers.Dense(16, activation="gelu")(y)])
    return headed(inputs, x)


def stem_and_transformer():
    inputs = x = keras.Input(SHAPE)
    for _ in range(3):
        x = layers.MaxPooling2D()(layers.Conv2D(16, 3, padding="same", activation="relu")(x))
    return headed(inputs, attended(layers.Reshape((16, 16))(x)))


def channels_as_tokens():
    """Attention from channel to channel, as XCiT has it: its rows are no places."""
    inputs = keras.Input(SHAPE)
    x = layers.Reshape((16, 16))(layers.Conv2D(16, 8, 8, name="patches")(inputs))
    return headed(inputs, attended(layers.Permute((2, 1))(x)))


def test_a_layer_before_most_of_the_model_is_told():
    model = channels_as_tokens()
    with pytest.warns(
        RuntimeWarning, match=r"was chosen, the last feature map; but \d+ of the model's .* lie behind it"
    ):
        assert explain(model, models.images(1, SHAPE), output_kind="classes").layer_name == "patches"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(model, models.images(1, SHAPE), "patches", output_kind="classes")


@pytest.mark.parametrize("build", [vision_transformer, mixer, stem_and_transformer])
def test_tokens_are_explained_behind_most_of_the_model(build):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explanation = explain(build(), models.images(1, SHAPE), method="hirescam", output_kind="classes")
    assert explanation.heatmaps.shape == (1, 4, 4)
    assert explanation.layer_name.rstrip("_0123456789") in ("layer_normalization", "add")


def dense_heavy():
    """As LeNet: more layers behind the last map than before it, none of which works at positions."""
    x = inputs = keras.Input(SHAPE)
    for width in (4, 8):
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, activation="relu")(x))
    x = layers.Flatten()(x)
    for width in (512, 256, 64):
        x = layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def text_beside():
    """A transformer of text that is joined behind the map."""
    image, tokens = keras.Input(SHAPE, name="image"), keras.Input((16, 16), name="text")
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(image))
    joined = layers.Concatenate()([pooled, layers.GlobalAveragePooling1D()(attended(tokens))])
    return keras.Model({"image": image, "text": tokens}, layers.Dense(3)(joined))


def attention_pooling():
    """As many layers at positions behind the last map as before it, for one that reads it out."""
    x = inputs = keras.Input(SHAPE)
    for width in (8, 16, 16):
        x = layers.Conv2D(width, 3, 2, padding="same", activation="relu")(x)
    tokens = layers.Reshape((16, 16))(x)
    return headed(inputs, layers.Dense(8)(tokens))


APPLICATIONS = {
    name: lambda name=name: getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=3)
    for name in ("VGG16", "MobileNetV3Small", "EfficientNetB0")
}
SILENT = {"LeNet": dense_heavy, "attention pooling": attention_pooling, **APPLICATIONS}


@pytest.mark.parametrize("build", SILENT.values(), ids=SILENT)
def test_ordinary_networks_are_explained_in_silence(build):
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(model, models.images(1, model.input_shape[1:]), output_kind="classes")


def test_a_tower_of_text_lies_not_behind_the_map():
    x = {"image": models.images(1, SHAPE), "text": models.images(1, (16, 16))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain(text_beside(), x, output_kind="classes").layer_name == "conv"
