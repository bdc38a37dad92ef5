"""Layers that may be chosen and are no picture are refused at once, and not by a trace for each of them."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from tapes import gradient

from keras_cam_callbacks import Explainer, explain
from keras_cam_callbacks.methods import cams

# That most of these models lies behind the chosen layer is said, and right.
pytestmark = pytest.mark.filterwarnings("ignore:Layer 'patches' was chosen, the last feature map")

SHAPE = (32, 32, 3)
# The others can't run a trace with another number of samples, or have none: each refused layer costs them a run.
AT_ONCE = keras.backend.backend() == "tensorflow"
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(2)


class Windows(layers.Layer):
    """Convolutions in windows of 4 x 4 that are samples of their own, and the mean over all places."""

    def __init__(self, count, **settings):
        super().__init__(**settings)
        self.convs = [layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(count)]

    def call(self, x):
        _, height, width, channels = x.shape
        x = ops.reshape(x, (-1, height // 4, 4, width // 4, 4, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 4, 4, channels))
        for conv in self.convs:
            x = conv(x)
        return ops.mean(ops.reshape(x, (-1, height * width, 8)), axis=1)


class Counted(layers.Layer):
    """Counts how often the model runs in Python."""

    runs = 0

    def call(self, x):
        self.runs += 1
        return x * 1.0


def in_windows(count=3):
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 4, 4, activation="relu", name="patches")(Counted(name="counted")(inputs))
    return keras.Model(inputs, layers.Dense(3)(Windows(count)(x)))


def by_hand(model, x, layer, target):
    """Grad-CAM by a plain tape behind the layer."""
    front = keras.Model(model.inputs[0], model.get_layer(layer).output)
    behind = keras.Model(model.get_layer(layer).output, model.output)
    activations = front(x)
    slopes = gradient(lambda values: behind(values)[:, target], activations)
    return cams.gradcam(ops.convert_to_numpy(activations), slopes)


def test_layers_in_windows_are_refused_by_one_trace():
    model, x = in_windows(), models.images(2, SHAPE)
    explainer = Explainer(model, x, target=1)
    assert explainer.capturer.traces == 2 or not AT_ONCE
    found = explainer(x)
    assert found.layer_name == "patches"
    expected = by_hand(model, x, "patches", 1)
    np.testing.assert_allclose(found.heatmaps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "settings", [{"batch_size": 4}, {"run_eagerly": True}, {"layer_name": "patches"}], ids=lambda s: next(iter(s))
)
def test_the_same_layer_is_chosen_where_one_pass_does_not_do(settings):
    """In lots of four samples the first isn't in each of them, and an eager model has no trace."""
    model, x = in_windows(), models.images(2, SHAPE)
    model.compile("sgd", LOGITS, run_eagerly=settings.pop("run_eagerly", False))
    maps = [explain(model, x, target=1, **options) for options in (settings, {"layer_name": "patches"})]
    assert maps[0].layer_name == "patches"
    np.testing.assert_allclose(maps[0].heatmaps, maps[1].heatmaps, rtol=1e-4, atol=1e-7)


def test_a_model_of_one_number_of_samples():
    inputs = keras.Input(batch_shape=(16, *SHAPE))
    x = layers.Conv2D(8, 4, 4, name="patches")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(Windows(2)(x)))
    explainer = Explainer(model, models.images(16, SHAPE), target=1)
    assert explainer.capturer.traces == 2 or not AT_ONCE
    assert explainer(models.images(16, SHAPE)).layer_name == "patches"


class Cut(layers.Layer):
    """Hands numbers on without a gradient."""

    def call(self, x):
        return ops.stop_gradient(x)


@pytest.mark.parametrize("eager", [False, True], ids=["traced", "eager"])
def test_tokens_that_are_cut_off_are_refused_by_one_run(eager):
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 4, 4, activation="relu", name="patches")(Counted(name="counted")(inputs))
    y = layers.Reshape((64, 8))(x)
    for i in range(4):
        y = layers.Dense(8, name=f"queries_{i}")(y)
    pooled = layers.Add()([layers.GlobalAveragePooling2D()(x), Cut()(layers.GlobalAveragePooling1D()(y))])
    model = keras.Model(inputs, layers.Dense(3)(pooled))
    model.compile("sgd", LOGITS, run_eagerly=eager)
    x = models.images(2, SHAPE)
    before = model.get_layer("counted").runs
    explainer = Explainer(model, x, target=1)
    # That of all candidates, that of the queries, and that of the patches.
    assert eager or not AT_ONCE or model.get_layer("counted").runs - before == 3
    found = explainer(x)
    assert found.layer_name == "patches"
    expected = by_hand_pooled(model, x)
    np.testing.assert_allclose(found.heatmaps, expected, rtol=1e-3, atol=1e-5)


def by_hand_pooled(model, x):
    activations = ops.convert_to_numpy(keras.Model(model.inputs[0], model.get_layer("patches").output)(x))
    slopes = model.layers[-1].get_weights()[0][:, 1] / 64
    return cams.gradcam(activations, np.broadcast_to(slopes, activations.shape))
