"""Of outputs that are not finite no class is predicted, and no number is told."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from models import SHAPE, images

from keras_cam_callbacks import GradCAMLogger, MemoryTracker, compare, explain

X = images(4)
X[1] = 0  # A model that divides each image by its largest value makes NaN of it.
Y = np.array([0, 0, 1, 2])
LOST = [False, True, False, False]


def scaling_model(units=3, activation="softmax", loss="sparse_categorical_crossentropy", infinite=False):
    keras.utils.set_random_seed(3)
    inputs = keras.Input(SHAPE)
    x = inputs if infinite else inputs / keras.ops.max(inputs, axis=(1, 2, 3), keepdims=True)
    x = layers.Conv2D(5, 3, activation="softplus", name="conv")(x)
    x = layers.Dense(units, name="logits")(layers.GlobalAveragePooling2D()(x))
    if infinite:  # Logits of infinity, where the image is black.
        x = x + 1 / (keras.ops.max(inputs, axis=(1, 2, 3))[:, None] * keras.ops.ones(units))
    model = keras.Model(inputs, layers.Activation(activation)(x))
    model.compile("sgd", loss, jit_compile=False)
    return model


BINARY = {"units": 1, "activation": "sigmoid", "loss": "binary_crossentropy"}
LABELS = {"activation": "sigmoid", "loss": "binary_crossentropy"}
LOGITS = {"activation": "linear", "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}


@pytest.mark.parametrize("method", ["gradcam", "cam", "saliency", "scorecam"])
@pytest.mark.parametrize("target", ["predicted", "top2"])
def test_nothing_is_told_of_a_sample_without_numbers(target, method):
    model = scaling_model()
    explanation = explain(model, X, target=target, method=method)
    views = [explanation] if target == "predicted" else list(explanation.values())
    for view in views:
        assert (view.predicted == -1).tolist() == LOST
        assert (view.targets == -1).tolist() == LOST
        assert view.predicted[0] == model.predict(X[:1], verbose=0).argmax()
        for numbers in (view.scores, view.confidences, view.heatmaps.mean((1, 2))):
            assert np.isnan(numbers).tolist() == LOST
        assert view.degenerate[1]
        sample = view.samples()[1]
        assert (sample.predicted, sample.target, sample.confidence) == (None, None, None)
        assert (
            sample.caption == "predicted ?, no heatmap"
            if view.target == "predicted"
            else "predicted ?" in sample.caption
        )


@pytest.mark.parametrize("settings", [BINARY, LABELS, LOGITS, {**LOGITS, "infinite": True}, {"infinite": True}])
def test_kinds_of_outputs(settings):
    model = scaling_model(**settings)
    explanation = explain(model, X)
    assert (explanation.predicted == -1).tolist() == LOST
    assert np.isnan(explanation.confidences).tolist() == LOST
    assert np.isnan(explanation.scores).tolist() == LOST
    assert explanation.samples()[1].caption == "predicted ?, no heatmap"


def test_one_infinite_logit_is_the_largest():
    """Without an activation it is a prediction; the unit that a sigmoid takes to 1, too."""
    model = scaling_model(infinite=True, **BINARY)
    assert model.predict(X, verbose=0)[1] == 1
    explanation = explain(model, X)
    assert explanation.predicted[1] == 1
    assert explanation.confidences[1] == 1


def test_labels_that_are_named_stay():
    explanation = explain(scaling_model(), (X, Y), target="true")
    assert explanation.targets.tolist() == Y.tolist()
    assert np.isnan(explanation.confidences).tolist() == LOST
    assert explanation.samples()[1].caption == "true 0, predicted ?, explained 0 score nan, no heatmap"
    assert not explanation.absent.any()
    several = explain(
        scaling_model(**LABELS), (X, np.eye(3)[[0, 0, 1, 2]] + np.eye(3)[[1, 0, 1, 2]] > 0), target="true"
    )
    assert several["true2"].absent.tolist() == [False, True, True, True]
    assert several["true1"].degenerate[1]


def test_classes_by_a_function_follow_from_nothing():
    explanation = explain(scaling_model(), X, target=lambda outputs: keras.ops.argmin(outputs, axis=-1))
    assert (explanation.targets == -1).tolist() == LOST


def test_probabilities_of_others_stay():
    """A softmax that is hidden is recognised by the rows that are finite."""
    model = scaling_model(activation=lambda x: keras.ops.exp(x) / keras.ops.sum(keras.ops.exp(x), -1, keepdims=True))
    model.compile("sgd", lambda y, p: keras.ops.mean(p))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explanation = explain(model, X)
    expected = model.predict(X, verbose=0).max(axis=1)
    np.testing.assert_allclose(explanation.confidences, expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*explain nothing", "ignore:invalid value")
def test_a_fit_counts_it_nowhere(tmp_path):
    memory = MemoryTracker()
    logger = GradCAMLogger(
        (X, Y),
        tracker=["disk", memory],
        log_dir=tmp_path,
        metrics="all",
        faithfulness_freq=1,
        augmentations={"same": lambda image: image},
    )
    model = scaling_model()
    model.fit(X[[0, 2, 3]], Y[[0, 2, 3]], epochs=2, callbacks=[logger], verbose=0)
    second = memory.records[1]
    for name in ("confidence", "area", "insertion", "deletion", "average_drop", "increase", "same_unchanged"):
        assert np.isnan(second.values[name]).tolist() == LOST, name
    assert np.isnan(second.values["target_kept"][1])
    assert second.scalars["same_unchanged"] == 1
    run = compare([logger.directory])
    assert run.predicted[0, :, 1].tolist() == [-1, -1]
