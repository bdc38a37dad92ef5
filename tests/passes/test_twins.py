"""A tower that is called several times on one image counts as one: against a tape in which it is called once."""

import keras
import models
import numpy as np
import pytest
from backends import tf
from keras import layers, ops
from tapes import watched

from keras_cam_callbacks import GradCAMLogger, explain
from keras_cam_callbacks.methods import cams

pytestmark = pytest.mark.only_on(
    "tensorflow", "jax", reason="on eager PyTorch calls aren't numbered by value, so that one of them is to be named"
)

IMAGE = (14, 12, 3)
NAMES = ("anchor", "positive", "negative")


def encoder(*between):
    return keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Conv2D(4, 3, activation="relu"),
            *between,
            # Its gradient is a function of its own, another one for each call.
            layers.Conv2D(5, 3, activation="silu", name="last"),
            layers.GlobalAveragePooling2D(),
        ],
        name="tower",
    )


def distance(one, other):
    return ops.sum((one - other) ** 2, axis=-1)


class Triplet(keras.Model):
    """Distances of an anchor to two other images; the anchor is embedded anew for each of them, or once."""

    def __init__(self, tower, twice=True):
        super().__init__()
        self.tower, self.twice = tower, twice

    def call(self, inputs):
        anchor, positive, negative = (inputs[name] for name in NAMES)
        if not self.twice:
            embedded = self.tower(anchor)
            return [distance(embedded, self.tower(other)) for other in (positive, negative)]
        # What is no layer's is followed as well: by it the anchor is another tensor at each call.
        return [distance(self.tower(anchor * 1.0), self.tower(other)) for other in (positive, negative)]


def graph(tower):
    tensors = {name: keras.Input(IMAGE, name=name) for name in NAMES}
    pairs = [(tensors["anchor"], tensors[name]) for name in NAMES[1:]]
    return keras.Model(tensors, [distance(tower(one), tower(other)) for one, other in pairs])


def batch(count=2):
    return {name: models.images(count, IMAGE, seed=i) for i, name in enumerate(NAMES)}


def loss(outputs):
    return outputs[1] - outputs[0]


def of_tape(tower, x, score=loss, images=NAMES):
    """Activations and gradients of the last map of the first of the images, where the tower is called on it once."""
    front = keras.Model(tower.inputs[0], tower.get_layer("last").output)
    others = [tower(x[name]) for name in images[1:]]

    def scores(watch):
        embedded = ops.mean(watch(front(x[images[0]])), (1, 2))
        return score([ops.sum((embedded - other) ** 2, -1) for other in others])

    (activations,), (slopes,) = watched(scores)
    return activations, slopes


SETTINGS = {"target": loss, "input": "anchor"}


@pytest.mark.parametrize("build", [graph, Triplet], ids=["graph", "plain code"])
@pytest.mark.parametrize("layer_name", [None, "last"])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "xgradcam"])
def test_gradients_are_summed(build, layer_name, method):
    tower, x = encoder(), batch()
    found = explain(build(tower), x, layer_name, method=method, **SETTINGS)
    assert found.layer_name.endswith("tower/last")
    expected = getattr(cams, method)(*of_tape(tower, x))
    np.testing.assert_allclose(found.heatmaps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "method", ["scorecam", "ablationcam", "guided_gradcam", "guided_backprop", "max_activation", "eigencam"]
)
def test_methods_give_what_they_give_of_a_tower_that_is_called_once(method):
    """Ablation takes the channels of all the calls away."""
    x, settings = batch(), dict(SETTINGS)
    tower = encoder()
    tower.get_layer("last").activation = keras.activations.relu
    twice, once = (explain(Triplet(tower, twice), x, method=method, **settings).heatmaps for twice in (True, False))
    assert np.ptp(once) > 0
    np.testing.assert_allclose(twice, once, rtol=1e-3, atol=1e-4 * np.abs(once).max())


def test_targets_that_read_different_calls():
    """Those of the second distance get nothing by way of the first call, and are explained at it all the same."""
    tower, x = encoder(), batch()
    targets = {"near": lambda outputs: outputs[0], "far": lambda outputs: outputs[1], "loss": loss}
    for method in ("hirescam", "eigencam"):  # With gradients and without.
        explained = explain(Triplet(tower), x, method=method, target=targets, input="anchor")
        for name, target in targets.items():
            rule = cams.hirescam if method == "hirescam" else lambda activations, gradients: cams.eigencam(activations)
            expected = rule(*of_tape(tower, x, target))
            np.testing.assert_allclose(
                explained[name].heatmaps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
            )
    alone = explain(Triplet(tower), x, method="hirescam", target=targets["far"], input="anchor")
    assert alone.layer_name == "tower/last"


def test_calls_that_are_one_have_one_map_whichever_is_named():
    tower, x = encoder(), batch()
    expected = cams.hirescam(*of_tape(tower, x))
    model, maps = Triplet(tower), {}
    for name in ("last#1", "tower/last#2", "last#3", "last#4"):
        maps[name] = explain(model, x, name, method="hirescam", target=loss)
    assert [found.layer_name for found in maps.values()] == [f"tower/last{end}" for end in ("", "#2", "", "#4")]
    assert [found.batch.image_input for found in maps.values()] == [0, 2, 0, 1]  # Sorted by name.
    for name in ("last#1", "last#3"):
        np.testing.assert_allclose(maps[name].heatmaps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_each_image_has_the_calls_on_it():
    tower, x = encoder(), batch()
    views = explain(graph(tower), x, target=loss)
    assert {view.layer_name for view in views.values()} == {"tower/last", "tower/last#2", "tower/last#4"}
    expected = cams.gradcam(*of_tape(tower, x))
    np.testing.assert_allclose(views["anchor"].heatmaps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")  # Raw maps are compared.
def test_a_logger_in_fit():
    tower, x = encoder(), batch(4)
    model = graph(tower)
    model.compile("sgd", ["mae", "mae"])
    logger = GradCAMLogger(x, tracker="memory", on_error="raise", **SETTINGS)
    model.fit(x, [np.zeros(4), np.ones(4)], verbose=0, callbacks=[logger])
    expected = cams.gradcam(*of_tape(tower, x))
    np.testing.assert_allclose(
        logger.trackers[0].records[0].heatmaps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


class Noise(layers.Layer):
    """Draws other numbers at each call, in inference, too."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed)


class Drawn(layers.Layer):
    """Draws numbers by an operation that keeps a state."""

    def call(self, x):
        if keras.backend.backend() == "torch":
            import torch

            return x + torch.randn_like(x)
        return x + tf.random.normal(tf.shape(x))


class Counting(layers.Layer):
    """Does something else at each call."""

    calls = 0

    def call(self, x):
        type(self).calls += 1
        return x * float(type(self).calls)


class Written(layers.Layer):
    """Reads a variable that it has written to."""

    def __init__(self):
        super().__init__()
        self.count = self.new_count()

    def new_count(self):
        return self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x * ops.convert_to_tensor(self.count)


class WrittenByTensorFlow(Written):
    def new_count(self):
        return tf.Variable(0.0, trainable=False)


DRAWN = pytest.mark.only_on("tensorflow", "torch", reason="JAX draws from keys alone, and keeps no state")
OF_TENSORFLOW = pytest.mark.only_on("tensorflow", reason="a variable of its own")
DIFFERENT = (
    *(Noise, pytest.param(Drawn, marks=DRAWN), Counting, Written),
    pytest.param(WrittenByTensorFlow, marks=OF_TENSORFLOW),
)


@pytest.mark.parametrize("layer", DIFFERENT)
def test_calls_that_may_differ_are_no_single_one(layer):
    model = Triplet(encoder(layer()))
    model(batch())
    with pytest.raises(ValueError, match=r"called 2 times; 'tower/last#3' names its last call"):
        explain(model, batch(), "last", **SETTINGS)
    assert explain(model, batch(), "last#2", target=loss).heatmaps.shape == (2, 10, 8)


def test_dropout_in_inference_is_nothing():
    tower, x = encoder(layers.Dropout(0.5), layers.BatchNormalization()), batch()
    found = explain(graph(tower), x, method="hirescam", **SETTINGS)
    expected = cams.hirescam(*of_tape(tower, x))
    np.testing.assert_allclose(found.heatmaps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.only_on("tensorflow", "torch", reason="JAX traces what can be traced, whatever the user does")
def test_a_model_that_runs_eagerly_names_the_call():
    model = graph(encoder())
    model.compile("sgd", ["mae", "mae"], run_eagerly=True)
    with pytest.raises(ValueError, match="'tower/last#4' names its last call"):
        explain(model, batch(), "last", **SETTINGS)


@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "hirescam"])
def test_attention_of_a_tower_that_is_called_several_times(method):
    """Blocks of other images, and the same ones once more, are none of the explained image's."""
    inputs = keras.Input(IMAGE)
    x = layers.Reshape((42, 8))(layers.Conv2D(8, 2, 2)(inputs))
    for block in range(2):
        y = layers.LayerNormalization(name=f"norm_{block}")(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(y, y)])
    tower = keras.Model(inputs, layers.GlobalAveragePooling1D()(x), name="tower")
    x, maps = batch(), []
    for twice in (True, False):
        found = explain(Triplet(tower, twice), x, method=method, **SETTINGS)
        assert found.layer_name == "tower/norm_1"
        maps.append(found.heatmaps)
    assert np.ptp(maps[1]) > 0
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-4 * np.abs(maps[1]).max())
    alone = explain(tower, x["anchor"], method=method, target=lambda outputs: outputs[:, 0])
    if method == "attention_rollout":  # It is the same for every score.
        np.testing.assert_allclose(maps[0], alone.heatmaps, rtol=1e-4)
