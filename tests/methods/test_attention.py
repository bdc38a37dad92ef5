"""Attention methods against a loop over paths, and through models against Keras' own attention scores."""

import itertools

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from tapes import watched

from keras_cam_callbacks import explain, plot_methods
from keras_cam_callbacks.methods import attention

SHAPE = (32, 48, 3)
GRID = (4, 6)


def rows(random, *shape):
    values = random.random(shape)
    return (values / values.sum(-1, keepdims=True)).astype("float32")


def paths(parts, readout):
    """Sums over every way of each token through the blocks to the read-out, one by one."""
    samples, blocks, count, _ = parts.shape
    total = np.zeros((samples, count))
    for n, way in itertools.product(range(samples), itertools.product(range(count), repeat=blocks + 1)):
        weight = readout[n, way[-1]]
        for block in range(blocks):
            weight = weight * parts[n, block, way[block + 1], way[block]]
        total[n, way[0]] += weight
    return total


@pytest.mark.parametrize("method", ["rollout", "relevance"])
def test_every_way_through_the_blocks_is_counted(method):
    random = np.random.default_rng(0)
    matrices, readout = rows(random, 2, 3, 5, 5), rows(random, 2, 5)
    positions = np.array([[3, 1], [2, 4]])
    identity = np.eye(5)
    if method == "rollout":
        heatmaps = attention.attention_rollout(matrices, readout, positions)
        wanted = paths((matrices + identity) / 2, readout)
    else:
        heatmaps = attention.attention_relevance(matrices, readout, positions)
        wanted = paths(matrices + identity, readout) - readout
    np.testing.assert_allclose(heatmaps, wanted[:, positions], rtol=1e-5)
    assert heatmaps.dtype == np.float32


class ClassToken(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        return ops.concatenate([ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1])), x], axis=1)


class ByHand(layers.Layer):
    """Self-attention as people write it, with one product for queries, keys and values."""

    def __init__(self, heads, **settings):
        super().__init__(**settings)
        self.heads, self.qkv, self.out = heads, layers.Dense(48), layers.Dense(16)

    def call(self, x):
        n, size = x.shape[1], 16 // self.heads
        every = ops.transpose(ops.reshape(self.qkv(x), (-1, n, 3, self.heads, size)), (2, 0, 3, 1, 4))
        q, k, v = every[0], every[1], every[2]
        weights = ops.softmax(ops.matmul(q * size**-0.5, ops.transpose(k, (0, 1, 3, 2))))
        return self.out(ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (-1, n, 16)))


def transformer(token, hand=False):
    inputs = keras.Input(SHAPE)
    x = layers.Reshape((24, 16))(layers.Conv2D(16, 8, 8)(inputs))
    x = ClassToken()(x) if token else x
    for block in range(2):
        y = layers.LayerNormalization(name=f"norm_{block}")(x)
        y = (
            ByHand(2, name=f"attention_{block}")(y)
            if hand
            else layers.MultiHeadAttention(2, 8, name=f"attention_{block}")(y, y)
        )
        x = layers.Add()([x, y])
        x = layers.Add()([x, layers.Dense(16)(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x)))])
    x = layers.LayerNormalization()(x)
    x = x[:, 0] if token else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def scores_of(model, images):
    """The attention scores (N, heads, T, T) of both blocks, by MultiHeadAttention's own way to hand them out."""
    results = []
    for block in range(2):
        norm = keras.Model(model.input, model.get_layer(f"norm_{block}").output)(images)
        results.append(model.get_layer(f"attention_{block}")(norm, norm, return_attention_scores=True)[1])
    return [ops.convert_to_numpy(scores).astype(np.float64) for scores in results]


@pytest.mark.parametrize("token", [False, True], ids=["pooled", "class token"])
def test_rollout_of_a_model_follows_from_the_scores_that_keras_hands_out(token):
    model, images = transformer(token), models.images(2, SHAPE)
    special = 1 if token else 0
    rolled = np.eye(24 + special)[None]
    for scores in scores_of(model, images):
        rolled = ((scores.mean(axis=1) + np.eye(24 + special)) / 2) @ rolled
    wanted = (rolled[:, 0] if token else rolled.mean(axis=1))[:, special:].reshape(2, *GRID)
    explanation = explain(model, images, method="attention_rollout")
    np.testing.assert_allclose(explanation.heatmaps, wanted, rtol=1e-4)
    assert explanation.layer_name == "norm_1"


def test_relevance_weighs_attention_by_its_gradient():
    model, images = transformer(False), models.images(2, SHAPE)

    def score(watch):
        x = kept = images
        for layer in model.layers[1:-1]:
            if isinstance(layer, layers.MultiHeadAttention):
                # The same block, by hand.
                dense = (layer._query_dense, layer._key_dense, layer._value_dense)
                query, key, values = (ops.einsum("ntc,chd->nthd", x, part.kernel) + part.bias for part in dense)
                weights = watch(ops.softmax(ops.einsum("nqhd,nkhd->nhqk", query, key) / 8**0.5))
                mixed = ops.einsum("nhqk,nkhd->nqhd", weights, values)
                x = ops.einsum("nqhd,hdc->nqc", mixed, layer._output_dense.kernel) + layer._output_dense.bias
            elif isinstance(layer, layers.Add):
                x = kept = kept + x
            else:
                x = layer(x)
                kept = x if isinstance(layer, layers.Reshape) else kept
        return (ops.matmul(x, model.layers[-1].kernel) + model.layers[-1].bias)[:, 1]

    rolled = np.eye(24)[None]
    for scores, slope in zip(*watched(score), strict=True):
        of_block = np.maximum(slope * scores, 0).mean(axis=1)
        rolled = rolled + of_block @ rolled
    wanted = (rolled.mean(axis=1) - 1 / 24).reshape(2, *GRID)
    explained = explain(model, images, method=["attention_relevance", "attention_rollout"], target=1)
    np.testing.assert_allclose(explained["attention_relevance"].heatmaps, wanted, atol=1e-4 * np.abs(wanted).max())


def test_attention_that_is_written_by_hand_is_seen():
    model, images = transformer(True, hand=True), models.images(2, SHAPE)
    explanations = explain(model, images, method=["attention_rollout", "attention_relevance"])
    for explanation in explanations.values():
        assert explanation.heatmaps.shape == (2, *GRID)
        assert np.ptp(explanation.heatmaps) > 0
    assert explanations["attention_rollout"].layer_name == "norm_1"
    assert 0 < explanations["attention_rollout"].heatmaps.sum() < 2  # Some of it is the class token's.


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance"])
def test_the_tokens_of_a_map_that_a_layer_reshapes_are_chosen(method):
    """The map itself holds no tokens; what it is reshaped to gives the same as where it is named."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="map")(inputs)
    x = layers.Reshape((-1, 8), name="tokens")(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    images = np.random.default_rng(0).random((2, 12, 16, 3), np.float32)
    chosen = explain(model, images, method=method, target=1, output_kind="classes")
    assert (chosen.layer_name, chosen.heatmaps.shape) == ("tokens", (2, 6, 8))
    named = explain(model, images, "tokens", method=method, target=1, output_kind="classes")
    np.testing.assert_array_equal(chosen.heatmaps, named.heatmaps)


def test_a_model_without_attention_is_refused():
    model = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    with pytest.raises(ValueError, match=r"need a model with self-attention.*'gradcam'"):
        explain(model, models.images(1, SHAPE), method="attention_rollout", output_kind="classes")


def test_attention_of_fewer_keys_is_refused():
    inputs = keras.Input(SHAPE)
    tokens = layers.LayerNormalization()(layers.Reshape((24, 16))(layers.Conv2D(16, 8, 8)(inputs)))
    fewer = layers.AveragePooling1D(4)(tokens)
    x = layers.MultiHeadAttention(2, 8)(tokens, fewer)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    with pytest.raises(ValueError, match=r"every token to attend to every other one.*hirescam"):
        explain(model, models.images(1, SHAPE), method="attention_rollout", output_kind="classes")


@pytest.mark.slow
def test_a_plot_of_all_methods_has_them_where_there_is_attention():
    figure = plot_methods(transformer(True), models.images(1, SHAPE)[0])
    titles = [axes.get_title() for axes in figure.axes]
    assert any("attention_rollout" in title for title in titles)
    assert any("attention_relevance" in title for title in titles)
