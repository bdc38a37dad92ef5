"""Models of tokens, as examples of keras.io and scripts of one's own build them."""

from __future__ import annotations

import keras
from keras import layers, ops
from models import images
from zoo.example import PROBABILITIES, Example

SHAPE = (32, 32, 3)
PATCH = 8


class Patches(layers.Layer):
    """Cuts images into patches, (N, H, W, C) to (N, patches, values of each)."""

    def __init__(self, size, **settings):
        super().__init__(**settings)
        self.size = size

    def call(self, x):
        patches = ops.image.extract_patches(x, size=self.size)
        return ops.reshape(patches, (ops.shape(patches)[0], patches.shape[1] * patches.shape[2], patches.shape[3]))


class PatchEncoder(layers.Layer):
    """Projects patches and adds where they are."""

    def __init__(self, count, width, **settings):
        super().__init__(**settings)
        self.count, self.projection, self.position = count, layers.Dense(width), layers.Embedding(count, width)

    def call(self, patches):
        return self.projection(patches) + self.position(ops.expand_dims(ops.arange(self.count), 0))


def mlp(x, units):
    for width in units:
        x = layers.Dropout(0.1)(layers.Dense(width, activation=keras.activations.gelu)(x))
    return x


def block(x, heads=2, width=16):
    """A transformer block with its norms in front."""
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Add()([layers.MultiHeadAttention(heads, width, dropout=0.1)(y, y), x])
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    return layers.Add()([mlp(y, [2 * x.shape[-1], x.shape[-1]]), x])


def usual_augment():
    return keras.Sequential(
        [
            layers.Normalization(),
            layers.Resizing(*SHAPE[:2]),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.02),
            layers.RandomZoom(0.2, 0.2),
        ]
    )


def embedded(x, shape=SHAPE):
    """A strided convolution for each patch, as tokens."""
    count = (shape[0] // PATCH) * (shape[1] // PATCH)
    return layers.Reshape((count, 16))(layers.Conv2D(16, PATCH, PATCH, name="patch_conv")(x))


def classified(inputs, tokens, shape=SHAPE):
    """A model that averages tokens and classifies."""
    return Example(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(tokens))), images(2, shape))


def vit(front=None):
    """The vision transformer of keras.io: patches, no class token, all tokens read out by a dense layer."""
    inputs = keras.Input(SHAPE)
    x = inputs if front is None else front(inputs)
    x = PatchEncoder(16, 16)(Patches(PATCH)(x))
    for _ in range(2):
        x = block(x)
    x = mlp(layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x)), [32])
    return Example(keras.Model(inputs, layers.Dense(3)(x)), images(2, SHAPE))


def vit_augmented():
    return vit(usual_augment())


def vit_colour_jitter():
    return vit(keras.Sequential([layers.RandomColorJitter((0, 1), 0.1, 0.1, 0.1, 0.1)]))


def vit_shear():
    return vit(layers.RandomShear(0.1, 0.1))


def vit_erasing():
    return vit(layers.RandomErasing())


def vit_scaled():
    return vit(layers.Lambda(lambda x: x / 127.5 - 1))


def vit_pooled(shape=SHAPE):
    inputs = keras.Input(shape)
    x = embedded(inputs, shape)
    for _ in range(2):
        x = block(x)
    return classified(inputs, layers.LayerNormalization(epsilon=1e-6)(x), shape)


def vit_wide():
    return vit_pooled((32, 48, 3))


class ClassToken(layers.Layer):
    """Puts tokens of its own, which are no places, in front of the others."""

    def __init__(self, count=1, **settings):
        super().__init__(**settings)
        self.count = count

    def build(self, shape):
        self.token = self.add_weight(shape=(1, self.count, shape[-1]), initializer="random_normal")

    def call(self, x):
        return ops.concatenate([ops.repeat(self.token, ops.shape(x)[0], axis=0), x], axis=1)


def vit_registers(frozen=False):
    """A nested transformer with a class token and four registers; the class token is read out."""
    base_inputs = keras.Input(SHAPE)
    x = ClassToken(5)(embedded(base_inputs))
    for _ in range(2):
        x = block(x)
    base = keras.Model(base_inputs, layers.LayerNormalization()(x), name="base")
    base.trainable = not frozen
    inputs = keras.Input(SHAPE)
    return Example(keras.Model(inputs, layers.Dense(3)(base(inputs)[:, 0])), images(2, SHAPE))


def vit_frozen():
    return vit_registers(frozen=True)


class DistilledTransformer(keras.Model):
    def __init__(self):
        super().__init__()
        inputs = keras.Input(SHAPE)
        x = ClassToken(2)(embedded(inputs))
        for _ in range(2):
            x = block(x)
        self.body = keras.Model(inputs, x, name="body")
        self.head, self.head_dist = layers.Dense(3), layers.Dense(3)

    def call(self, x, training=False):
        tokens = self.body(x, training=training)
        return self.head(tokens[:, 0]), self.head_dist(tokens[:, 1])


def deit_distilled():
    """A class token and a distillation token, each with a head of its own."""
    return Example(DistilledTransformer(), images(2, SHAPE), loss=None, target=lambda outputs: outputs[0][:, 1])


def in_windows(x, side):
    """Windows of maps, (N, h, w, C) to (N x windows, side, side, C)."""
    _, h, w, c = x.shape
    x = ops.reshape(x, (-1, h // side, side, w // side, side, c))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, side, side, c))


def from_windows(x, side, h, w):
    c = x.shape[-1]
    x = ops.reshape(x, (-1, h // side, w // side, side, side, c))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, h, w, c))


class WindowAttention(layers.Layer):
    """Self-attention in plain operations."""

    def __init__(self, width, heads, **settings):
        super().__init__(**settings)
        self.heads = heads
        self.qkv, self.drop, self.projection = layers.Dense(3 * width), layers.Dropout(0.1), layers.Dense(width)

    def call(self, x):
        _, n, c = x.shape
        each_head = c // self.heads
        qkv = ops.reshape(self.qkv(x), (-1, n, 3, self.heads, each_head))
        query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
        scores = ops.matmul(query * each_head**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        weights = self.drop(keras.activations.softmax(scores, axis=-1))
        return self.projection(ops.reshape(ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3)), (-1, n, c)))


class SwinBlock(layers.Layer):
    """Attention within windows, which are shifted in every second block."""

    def __init__(self, width, grid, heads, side, shift, **settings):
        super().__init__(**settings)
        self.grid, self.side, self.shift = grid, side, shift
        self.norm1, self.norm2 = layers.LayerNormalization(epsilon=1e-5), layers.LayerNormalization(epsilon=1e-5)
        self.attention = WindowAttention(width, heads)
        self.mlp = keras.Sequential([layers.Dense(2 * width, activation="gelu"), layers.Dense(width)])

    def call(self, x):
        h, w = self.grid
        y = ops.reshape(self.norm1(x), (-1, h, w, x.shape[-1]))
        y = ops.roll(y, (-self.shift, -self.shift), axis=(1, 2)) if self.shift else y
        y = self.attention(ops.reshape(in_windows(y, self.side), (-1, self.side**2, x.shape[-1])))
        y = from_windows(ops.reshape(y, (-1, self.side, self.side, x.shape[-1])), self.side, h, w)
        y = ops.roll(y, (self.shift, self.shift), axis=(1, 2)) if self.shift else y
        x = x + ops.reshape(y, (-1, h * w, x.shape[-1]))
        return x + self.mlp(self.norm2(x))


class PatchMerging(layers.Layer):
    """Four neighbours become one token."""

    def __init__(self, grid, width, **settings):
        super().__init__(**settings)
        self.grid, self.linear = grid, layers.Dense(2 * width, use_bias=False)

    def call(self, x):
        h, w = self.grid
        x = ops.reshape(x, (-1, h, w, x.shape[-1]))
        x = ops.concatenate((x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]), axis=-1)
        return self.linear(ops.reshape(x, (-1, (h // 2) * (w // 2), x.shape[-1])))


def swin():
    inputs = keras.Input(SHAPE)
    x = layers.RandomFlip("horizontal")(layers.RandomCrop(*SHAPE[:2])(inputs))
    x = PatchEncoder(256, 16)(Patches(2)(x))
    for shift in (0, 2):
        x = SwinBlock(16, (16, 16), 2, 4, shift)(x)
    return classified(inputs, PatchMerging((16, 16), 16)(x))


def mixer():
    inputs = keras.Input(SHAPE)
    x = layers.Dense(16)(Patches(PATCH)(usual_augment()(inputs)))
    for _ in range(2):
        y = mlp(ops.transpose(layers.LayerNormalization()(x), (0, 2, 1)), [32, 16])
        x = x + ops.transpose(y, (0, 2, 1))
        x = x + mlp(layers.LayerNormalization()(x), [32, 16])
    return classified(inputs, x)


def eanet():
    """Attention to a memory of its own, which is softmaxed over the tokens and then over the memory."""

    def external_attention(x, width, heads, factor=4):
        count, heads = x.shape[1], heads * factor
        x = ops.reshape(layers.Dense(width * factor)(x), (-1, count, heads, width * factor // heads))
        x = layers.Softmax(axis=2)(layers.Dense(width // factor)(ops.transpose(x, (0, 2, 1, 3))))
        x = layers.Lambda(lambda a: a / (1e-9 + ops.sum(a, axis=-1, keepdims=True)))(x)
        x = layers.Dense(width * factor // heads)(layers.Dropout(0.1)(x))
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, count, width * factor))
        return layers.Dropout(0.1)(layers.Dense(width)(x))

    inputs = keras.Input(SHAPE)
    x = PatchEncoder(16, 16)(Patches(PATCH)(inputs))
    for _ in range(2):
        x = layers.add([external_attention(layers.LayerNormalization()(x), 16, 2), x])
        x = layers.add([mlp(layers.LayerNormalization()(x), [16, 16]), x])
    return classified(inputs, x)


class ConvTokenizer(layers.Layer):
    """Convolutions whose map becomes tokens."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.conv_model = keras.Sequential()
        for width in (8, 16):
            self.conv_model.add(layers.Conv2D(width, 3, use_bias=False, activation="relu"))
            self.conv_model.add(layers.ZeroPadding2D(1))
            self.conv_model.add(layers.MaxPooling2D(3, 2, "same"))

    def call(self, x):
        x = self.conv_model(x)
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))


class SequencePooling(layers.Layer):
    """A mean of tokens with weights that are learned."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.attention = layers.Dense(1)

    def call(self, x):
        weights = ops.transpose(ops.softmax(self.attention(x), axis=1), (0, 2, 1))
        return ops.squeeze(ops.matmul(weights, x), -2)


def cct():
    inputs = keras.Input(SHAPE)
    x = ConvTokenizer()(usual_augment()(inputs))
    for _ in range(2):
        x = block(x)
    x = SequencePooling()(layers.LayerNormalization()(x))
    return Example(keras.Model(inputs, layers.Dense(3)(x)), images(2, SHAPE))


def _folded_attention(x):
    """Tokens folded to 4 rows of 64, as MobileViT has them, through one block of attention."""
    tokens = layers.Reshape((4, 64, 24))(x)
    y = layers.LayerNormalization()(tokens)
    tokens = layers.Add()([layers.MultiHeadAttention(2, 24)(y, y), tokens])
    tokens = layers.Add()([mlp(layers.LayerNormalization()(tokens), [48, 24]), tokens])
    return layers.Reshape((16, 16, 24))(tokens)


def mobilevit():
    def conv(x, filters=16, size=3, strides=1):
        return layers.Conv2D(filters, size, strides, padding="same", activation=keras.activations.swish)(x)

    inputs = keras.Input(SHAPE)
    x = conv(layers.Rescaling(1 / 255)(inputs), strides=2)
    attended = conv(_folded_attention(conv(conv(x), 24, 1)), size=1)
    x = conv(conv(layers.Concatenate()([x, attended]), 24), 32, 1)
    outputs = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return Example(keras.Model(inputs, outputs), 255 * images(2, SHAPE), PROBABILITIES)


def mobilevit_tail():
    """The same, where the map that folded tokens are made into is pooled."""
    inputs = keras.Input(SHAPE)
    x = _folded_attention(layers.Conv2D(24, 3, 2, padding="same", activation="swish")(inputs))
    return Example(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))), images(2, SHAPE))


def token_learner():
    """Two learned maps pick what the last block of attention sees."""
    inputs = keras.Input(SHAPE)
    x = layers.LayerNormalization()(block(embedded(inputs)))
    maps = layers.Conv2D(2, 3, padding="same", activation="gelu")(layers.Reshape((4, 4, 16))(x))
    maps = layers.Conv2D(2, 3, padding="same", activation="sigmoid", name="token_maps")(maps)
    picks = layers.Permute((2, 1))(layers.Reshape((16, 2))(maps))
    return classified(inputs, block(ops.matmul(picks, x)))


def patchconvnet():
    """A convolutional trunk, and attention by one query that pools it."""
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(16, 3, 2, padding="same", activation="gelu")(inputs)
    x = layers.Reshape((64, 16))(layers.Conv2D(16, 3, 2, padding="same", activation="gelu", name="trunk")(x))
    query = layers.Lambda(lambda tokens: tokens[:, :1] * 0 + 1.0)(x)
    x = layers.Flatten()(layers.MultiHeadAttention(1, 16)(query, x))
    return Example(keras.Model(inputs, layers.Dense(3)(x)), images(2, SHAPE))


class ConvInWindows(layers.Layer):
    """A convolution within windows that are samples of their own there."""

    def __init__(self, as_tokens, **settings):
        super().__init__(**settings)
        self.as_tokens = as_tokens
        self.conv = layers.Conv2D(16, 3, padding="same", name="in_window")

    def call(self, x):
        x = from_windows(self.conv(in_windows(x, 4)), 4, 8, 8)
        return ops.reshape(x, (-1, 64, 16)) if self.as_tokens else x


def windows_in_the_batch():
    inputs = keras.Input(SHAPE)
    x = ConvInWindows(as_tokens=False, name="windows")(layers.Conv2D(16, 4, 4)(inputs))
    return Example(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))), images(2, SHAPE))


def windows_to_tokens():
    """The same, where the last map of all is the one within the windows."""
    inputs = keras.Input(SHAPE)
    return classified(inputs, ConvInWindows(as_tokens=True, name="windows")(layers.Conv2D(16, 4, 4)(inputs)))


def named_in_windows():
    """A layer that puts out windows as samples, named by its user."""
    example = windows_in_the_batch()
    example.settings = {"layer_name": "windows/in_window"}
    return example
