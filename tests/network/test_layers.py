import keras
import models
import numpy as np
import pytest
from backends import tf
from keras import layers
from models import SHAPE
from tapes import gradient

from keras_cam_callbacks import explain
from keras_cam_callbacks.network.choosing import preferred
from keras_cam_callbacks.network.layers import (
    candidates,
    data_format,
    find_layer,
    is_feature_map,
    listing,
    walk,
)
from keras_cam_callbacks.passes.taps import layer_calls


def conv(name, **settings):
    return layers.Conv2D(4, 3, padding="same", name=name, **settings)


def stacked(*stack, name="model"):
    return keras.Sequential([keras.Input(SHAPE), *stack], name=name)


STACKS = {
    # layers, the path that is chosen, all candidates
    "convolution": ([conv("a"), conv("b")], "b", ["a", "b"]),
    "activation of its own": ([conv("a"), layers.ReLU(name="relu")], "relu", ["a", "relu"]),
    "normalisation": ([conv("a"), layers.BatchNormalization(name="norm")], "norm", ["a", "norm"]),
    "pooling": ([conv("a"), layers.MaxPooling2D(name="pool")], "a", ["a"]),
    "average pooling": ([conv("a"), layers.AveragePooling2D(2, name="pool")], "a", ["a"]),
    "dropout": ([conv("a"), layers.SpatialDropout2D(0.5), layers.Dropout(0.5), layers.GaussianNoise(1.0)], "a", ["a"]),
    "padding and resizing": (
        [conv("a"), layers.ZeroPadding2D(), layers.Cropping2D(1), layers.UpSampling2D(), layers.Permute((2, 1, 3))],
        "a",
        ["a"],
    ),
    "reshaping": ([conv("a"), layers.Reshape((16, 12, 4))], "a", ["a"]),
    "preprocessing": ([layers.Rescaling(2.0), layers.RandomFlip(), conv("a")], "a", ["a"]),
    "1 x 1": ([conv("a"), layers.MaxPooling2D((12, 16)), layers.Conv2D(2, 1, name="point")], "a", ["a"]),
    "one row": ([conv("a"), layers.MaxPooling2D((12, 1)), layers.Conv2D(2, 1, name="row")], "row", ["a", "row"]),
    "identity": ([conv("a"), layers.Activation("linear", name="nothing")], "a", ["a"]),
    "depthwise": ([layers.DepthwiseConv2D(3, name="depth")], "depth", ["depth"]),
    "nested": ([conv("a"), keras.Sequential([conv("b")], name="base")], "base/b", ["a", "base/b"]),
}


@pytest.mark.parametrize(("stack", "chosen", "all_candidates"), STACKS.values(), ids=STACKS)
def test_choice(stack, chosen, all_candidates):
    model = stacked(*stack, layers.GlobalAveragePooling2D(), layers.Dense(2))
    calls = layer_calls(model, models.images(1))
    assert [call.path for call in candidates(calls)] == all_candidates
    assert explain(model, models.images(2)).layer_name == chosen


def test_choice_of_an_addition_that_is_no_layer():
    inputs = keras.Input(SHAPE)
    x = conv("a")(inputs)
    summed = x + conv("b")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(summed)))
    assert explain(model, models.images(2)).layer_name.rstrip("_0123456789") == "add"  # Keras numbers operations.


def test_calls_in_the_order_in_which_they_end():
    split = models.nested_twice()
    calls = layer_calls(split.model, models.images(1))
    paths = [call.path for call in calls if not isinstance(call.layer, layers.InputLayer)]
    assert paths == [
        "middle/conv1",
        "middle/inner/conv2",
        "middle/inner/pool",
        "middle/inner",
        "middle",
        split.model.layers[1].name,
        "classes",
    ]
    shapes = {call.path: call.output_shape for call in calls}
    assert shapes["middle/conv1"] == (None, 10, 14, 4)
    assert shapes["middle/inner/pool"] == shapes["middle"] == (None, 5, 7, 5)


def test_each_layer_is_walked_once():
    shared = conv("shared")
    inner = keras.Sequential([keras.Input((12, 16, 4)), shared], name="inner")
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, inner(inner(conv("first")(inputs))))
    walked = list(walk(model))
    assert len({id(layer) for _, layer in walked}) == len(walked)
    assert [path for path, layer in walked if layer is shared] == ["inner/shared"]


@pytest.fixture(scope="module")
def blocks():
    """Two blocks that hold a layer of the same name, and a layer whose name is a path of the other's kind."""
    names = [("one", "conv"), ("two", "conv"), ("three", "two")]
    return stacked(*(keras.Sequential([conv(inner)], name=outer) for outer, inner in names), name="blocks")


def test_finding_by_path_name_and_object(blocks):
    two = blocks.get_layer("two")
    conv_of_two = two.get_layer("conv")
    assert find_layer(blocks, "two/conv") == ("two/conv", conv_of_two)
    assert find_layer(blocks, conv_of_two) == ("two/conv", conv_of_two)
    assert find_layer(blocks, "two") == ("two", two)  # A path goes before the name of a layer further inside.
    assert find_layer(blocks, "three/two")[0] == "three/two"


FAULTS = {
    "ambiguous": ("conv", ValueError, "the name of 2 layers: 'one/conv', 'two/conv'"),
    "misspelt": ("two/cnov", ValueError, "Received: 'two/cnov'. Did you mean 'two/conv'"),
    "far off": ("zzzzzzzz", ValueError, "must be a layer of model 'blocks'. Received: 'zzzzzzzz'.$"),
    "stranger": (conv("stranger"), ValueError, "layer 'stranger', which model 'blocks' doesn't contain"),
    "number": (-1, TypeError, "Received: -1 of type int"),
}


@pytest.mark.parametrize(("layer_name", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_faults(blocks, layer_name, kind, message):
    with pytest.raises(kind, match=message):
        find_layer(blocks, layer_name)


SHAPES = {
    (None, 7, 7, 5): (True, True),
    (None, 1, 7, 5): (True, True),
    (None, 1, 1, 5): (False, True),
    (None, 5, 1, 1): (True, False),
    (None, None, None, 5): (True, True),
    (None, 0, 7, 5): (False, True),
    (None, 49, 5): (False, False),
    (None, 5): (False, False),
    None: (False, False),
}


@pytest.mark.parametrize(("shape", "expected"), SHAPES.items(), ids=map(str, SHAPES))
def test_feature_maps(shape, expected):
    assert (is_feature_map(shape), is_feature_map(shape, "channels_first")) == expected


def test_data_format_follows_the_last_layer_that_knows():
    first, relu = layers.Conv2D(1, 1, data_format="channels_first"), layers.ReLU()
    last, after = layers.Conv2D(1, 1, data_format="channels_last"), layers.ReLU()
    order = [relu, first, layers.Dense(1), last, after]
    assert data_format(order, relu) == keras.config.image_data_format() == "channels_last"
    assert [data_format(order[i:], x) for i, x in [(1, first), (1, order[2]), (1, last), (1, after)]] == [
        *["channels_first"] * 2,
        *["channels_last"] * 2,
    ]


def test_listing_keeps_the_deepest():
    assert listing(["a", "b"]) == "'a', 'b'"
    assert listing(list("abcd"), 2) == "..., 'c', 'd'"


def test_chosen_layer_of_a_subclass_is_the_last_called_not_the_last_made():
    class Reversed(keras.Model):
        def __init__(self):
            super().__init__()
            self.late, self.early = conv("late"), conv("early")
            self.average, self.dense = layers.GlobalAveragePooling2D(), layers.Dense(2)

        def call(self, x):
            return self.dense(self.average(self.late(self.early(x))))

    explanation = explain(Reversed(), models.images(2))
    assert explanation.layer_name == "late"
    assert np.isfinite(explanation.heatmaps).all()


def tokens(x):
    return layers.Reshape((-1, x.shape[-1]))(x)


def transformer(inputs):
    x = tokens(layers.Conv2D(8, 4, 4, name="patches")(inputs))
    return layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4, name="attention")(x, x))


def pooled_by_operation(inputs):
    return layers.GlobalAveragePooling2D()(keras.ops.max_pool(conv("a")(inputs), 2))


def transposed_by_operation(inputs):
    return layers.GlobalAveragePooling2D()(keras.ops.transpose(conv("a")(inputs), (0, 2, 1, 3)))


def added_by_operation(inputs):
    x = conv("a")(inputs)
    return layers.GlobalAveragePooling2D()(x + conv("b")(x))


def gated(inputs):
    x = conv("a")(inputs)
    gate = layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    return layers.GlobalAveragePooling2D()(layers.Multiply(name="gated")([x, gate]))


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (transformer, "patches"),
        pytest.param(
            pooled_by_operation,
            "a",
            marks=pytest.mark.only_on("tensorflow", "torch", reason="Keras' own pooling by an operation fails on JAX"),
        ),
        (transposed_by_operation, "a"),
        (added_by_operation, "add"),
        (gated, "gated"),
    ],
)
def test_what_only_has_the_shape_of_a_feature_map_is_not_chosen(build, path):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.Dense(2)(build(inputs)))
    chosen = preferred(layer_calls(model, models.images(1)), None, [], True)[0].path
    assert chosen.rstrip("_0123456789") == path  # Keras numbers operations.


def two_heads():
    """A second head, called later, has the last feature map of the model, but not of the explained class."""
    inputs = keras.Input(SHAPE)
    shared = conv("shared")(inputs)
    classes = layers.Dense(3, name="classes")(layers.GlobalAveragePooling2D()(conv("own")(shared)))
    mask = conv("mask")(conv("before_mask")(shared))
    return keras.Model(inputs, {"classes": classes, "mask": mask})


def of_classes(outputs):
    return outputs["classes"][:, 1]


def test_the_chosen_layer_is_on_the_way_to_the_score():
    assert explain(two_heads(), models.images(), target=of_classes).layer_name == "own"


NEEDS_NO_GRADIENT = ["eigencam", "randomcam", "scorecam", "ablationcam", "max_activation"]


@pytest.mark.parametrize("method", ["gradcam", *NEEDS_NO_GRADIENT])
def test_a_layer_off_the_way_to_the_score_is_refused(method):
    model, x = two_heads(), models.images(2)
    with pytest.raises(ValueError, match=r"'mask', from which no gradient reaches .*would do: 'shared', 'own'"):
        explain(model, x, "mask", method=method, target=of_classes)
    for layer in ("shared", "own"):
        assert explain(model, x, layer, method=method, target=of_classes).layer_name == layer
    # For the other head it is the other way round.
    assert explain(model, x, "mask", method=method, target=lambda out: out["mask"][:, 0, 0, 0]).layer_name == "mask"
    with pytest.raises(ValueError, match=r"'own', from which no gradient reaches .*'before_mask', 'mask'"):
        explain(model, x, "own", method=method, target=lambda out: out["mask"][:, 0, 0, 0])


@pytest.mark.parametrize("method", NEEDS_NO_GRADIENT)
def test_a_layer_whose_output_is_cast_or_passed_on_is_on_the_way(method):
    def build():
        inputs = keras.Input(SHAPE)
        x = layers.Dropout(0.5, name="dropped")(conv("conv")(inputs))
        return keras.Model(inputs, layers.Dense(3, dtype="float32")(layers.GlobalAveragePooling2D()(x)))

    model = models.in_mixed_precision(build)
    for layer in ("conv", "dropped"):
        assert explain(model, models.images(2), layer, method=method).layer_name == layer


class Queried(keras.Model):
    """Gives a variable to one of its layers, as learned queries are."""

    def __init__(self):
        super().__init__()
        self.conv, self.dense, self.classes = conv("conv"), layers.Dense(4), layers.Dense(3)

    def build(self, shape):
        self.queries = self.add_weight(shape=(2, 4), name="queries")

    def call(self, x):
        keys = keras.ops.mean(self.dense(self.queries), axis=0)
        return self.classes(keras.ops.mean(self.conv(x) * keys, axis=(1, 2)))


class Compiled(keras.Model):
    """Has a `call` that is a graph of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.classes = conv("conv"), layers.GlobalAveragePooling2D(), layers.Dense(3)

    @tf.function
    def call(self, x):
        return self.classes(self.pool(self.conv(x)))


@pytest.mark.parametrize("kind", [Queried, Compiled])
def test_unusual_calls(kind):
    model, x = kind(), models.images()
    before = model(x)
    explanation = explain(model, x, target=1)
    assert explanation.layer_name == "conv"
    np.testing.assert_allclose(explanation.scores, keras.ops.convert_to_numpy(before)[:, 1], rtol=1e-4)
    assert "call" not in vars(model)

    def score(activations):
        if kind is Queried:
            keys = keras.ops.mean(model.dense(model.queries), axis=0)
            return model.classes(keras.ops.mean(activations * keys, axis=(1, 2)))[:, 1]
        return model.classes(model.pool(activations))[:, 1]

    activations = keras.ops.convert_to_numpy(model.conv(x))
    weights = gradient(score, activations).mean((1, 2), keepdims=True)
    models.assert_maps_equal(explanation.heatmaps, (weights * activations).sum(-1))


@pytest.mark.parametrize("count", [1, 3])
def test_the_output_itself_is_not_chosen(count):
    """Its map would be the prediction, scaled."""
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.Conv2D(count, 1, name="head")(conv("decoder")(inputs)))
    found = explain(model, models.images(), target=lambda outputs: keras.ops.mean(outputs[..., 0], axis=(1, 2)))
    assert found.layer_name == "decoder"
    with pytest.warns(UserWarning, match="takes the output for a mask"):
        assert explain(model, models.images()).layer_name == "decoder"
    with pytest.raises(ValueError, match=rf"outputs\[\.\.\., {count - 1}\], axis=\(1, 2\)"):  # It would work.
        explain(model, models.images(), target="top2")
