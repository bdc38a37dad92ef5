"""What an output is taken for, from the user's word, the loss, the labels and the end of the graph."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_cam_callbacks.data.labels import class_labels, label_clues, label_sets
from keras_cam_callbacks.network.outputs import clues_of, said_kinds
from keras_cam_callbacks.network.structure import example_rule

BCE, MSE, SPARSE = "binary_crossentropy", "mse", "sparse_categorical_crossentropy"
FRACTIONS, ONE_HOT = np.array([0.1, 0.25, 0.7]), np.eye(3)
MULTI, INDICES, BINARY = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), np.array([0, 1, 2]), np.array([0, 1, 1])
RATINGS = np.array([0.2, 0.8, 0.8, 0.2])
BOXES = np.array([[3.5, 1, 9, 8], [0, 2, 7, 7.5]])


def own(y, outputs):
    return keras.ops.mean(outputs, axis=-1)


class Weighted(keras.losses.MeanSquaredError):
    pass


DECIDED = {
    # units, loss, labels, ending, kind
    "one unit": (1, BCE, None, "sigmoid", "classes"),
    "one logit": (1, keras.losses.BinaryCrossentropy(from_logits=True), None, None, "classes"),
    "fractions under a loss of classes": (1, BCE, FRACTIONS, "sigmoid", "numbers"),
    "smoothed labels are no fractions": (1, BCE, np.array([0.05, 0.95, 0.05]), "sigmoid", "classes"),
    "a quality score": (1, MSE, FRACTIONS, "sigmoid", "numbers"),
    "a sigmoid unit under mse with labels of 0 and 1": (1, MSE, BINARY, "sigmoid", "classes"),
    "all of them zeros": (1, MSE, np.zeros(3), "sigmoid", "numbers"),
    "an age": (1, "mae", np.array([31, 4, 60]), None, "numbers"),
    "a count": (1, "poisson", np.array([1, 0, 1]), None, "numbers"),
    "unknown loss, fractions": (1, own, FRACTIONS, "sigmoid", "numbers"),
    "a loss in a partial": (
        1,
        functools.partial(keras.losses.binary_crossentropy, from_logits=True),
        None,
        None,
        "classes",
    ),
    "hinge": (1, "hinge", np.array([-1, 1, 1]), None, "classes"),
    "classes": (3, SPARSE, INDICES, "softmax", "classes"),
    "distillation": (3, "kl_divergence", np.full((2, 3), 1 / 3), None, "classes"),
    "labels": (3, BCE, MULTI, None, "labels"),
    "labels under a focal loss": (3, "binary_focal_crossentropy", None, "sigmoid", "labels"),
    "several labels, unknown loss": (3, own, MULTI, None, "labels"),
    "a box": (4, MSE, BOXES, None, "numbers"),
    "a box in shares": (4, "huber", BOXES / 10, "sigmoid", "numbers"),
    "a box of whole pixels, unknown loss": (4, own, BOXES.round().astype(int), None, "numbers"),
    "a class of the user's own": (4, Weighted(), None, None, "numbers"),
    "one-hot labels under mse": (3, MSE, ONE_HOT, "softmax", "classes"),
    "shares, each of one part": (3, MSE, ONE_HOT, None, "numbers"),
    "a box of zeros and ones": (4, MSE, np.array([[0, 0, 1, 1.0], [0, 1, 1, 1]]), None, "numbers"),
    "steering and throttle": (2, "huber", np.array([[-1, 1], [1, 1]]), None, "numbers"),
    "a direction of length 1": (3, MSE, ONE_HOT, "normalized", "numbers"),
    "two ratings": (1, MSE, RATINGS, "sigmoid", "numbers"),
    "two ratings by a layer without an activation": (1, "mae", RATINGS, None, "numbers"),
    "smoothed labels of an unknown loss": (1, own, RATINGS, "sigmoid", "classes"),
    "several ratings": (2, MSE, np.array([[0.2, 0.8], [0.8, 0.8]]), "sigmoid", "numbers"),
    "smoothed multi-hot labels": (2, BCE, np.array([[0.2, 0.8], [0.8, 0.8]]), "sigmoid", "labels"),
    "multi-hot labels under mse": (3, MSE, MULTI, "sigmoid", "labels"),
    "an embedding": (8, "cosine_similarity", None, None, "embedding"),
    "triplets": (8, own, INDICES, "normalized", "embedding"),
    "more classes than units": (2, own, INDICES, None, "embedding"),
    "no loss, softmax": (3, None, None, "softmax", "classes"),
    "no loss, one number": (1, None, None, None, "numbers"),
}


def decided(units, loss, y, ending, **said):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(units, name="out")])
    if loss is not None:
        model.compile("sgd", loss)
    return clues_of(model, labels=label_clues(y), **said).output((None, units), ending, ["out"], 0)


@pytest.mark.parametrize(("units", "loss", "y", "ending", "kind"), DECIDED.values(), ids=DECIDED)
def test_what_an_output_is_taken_for(units, loss, y, ending, kind):
    output = decided(units, loss, y, ending)
    assert output.kind == kind
    assert output.why
    if kind in ("numbers", "embedding"):
        assert not output.has_probability
        assert output.expects is None


def test_scores_that_are_no_logits_have_no_probability():
    for units, loss, y in [(1, "hinge", None), (3, "categorical_hinge", None), (3, "squared_hinge", ONE_HOT)]:
        assert not decided(units, loss, y, None).has_probability
    assert decided(3, MSE, ONE_HOT, "softmax").has_probability


NUMBERS = {
    "name": "mean_squared_error",
    "short": "mape",
    "class": keras.losses.LogCosh,
    "object": keras.losses.Huber(0.5),
    "function": keras.losses.mean_absolute_error,
    "partial": functools.partial(keras.losses.huber, delta=0.5),
    "partial of a partial": functools.partial(functools.partial(keras.losses.huber), delta=0.5),
    "method": keras.losses.MeanSquaredError().call,
    "configuration": keras.losses.serialize(keras.losses.MeanSquaredLogarithmicError()),
    "by name": {"out": "mse"},
    "in a list": [keras.losses.Poisson()],
}


@pytest.mark.parametrize("loss", NUMBERS.values(), ids=NUMBERS)
def test_a_loss_of_numbers_in_any_form_comes_before_the_values_of_labels(loss):
    for units, y in [(1, RATINGS), (1, BINARY), (3, MULTI), (3, ONE_HOT), (3, INDICES)]:
        assert decided(units, loss, y, None).kind == "numbers"
    assert decided(1, loss, RATINGS, "sigmoid").kind == "numbers"


@pytest.mark.parametrize("said", ["numbers", {"out": "numbers"}])
def test_the_users_word_wins(said):
    assert decided(3, SPARSE, INDICES, "softmax", output_kind=said).kind == "numbers"


def test_a_guess_with_consequences_is_said():
    for units, ending in [(1, "sigmoid"), (3, None)]:
        assert "output_kind=" in decided(units, None, None, ending).guess
        assert "output_kind=" in decided(units, own, None, ending).guess
    for units, loss, y, ending in [(3, SPARSE, None, None), (1, MSE, FRACTIONS, "sigmoid"), (3, None, None, "softmax")]:
        assert not decided(units, loss, y, ending).guess


@pytest.mark.parametrize("wrong", ["class", {"out": "mask "}, {}, 3, ["classes"]])
def test_a_word_that_is_none(wrong):
    with pytest.raises((ValueError, TypeError), match="`output_kind` must be 'classes', 'labels'"):
        said_kinds(wrong)


@pytest.mark.parametrize("loss", [{"a": SPARSE, "b": MSE}, [SPARSE, MSE]], ids=["by name", "by number"])
def test_losses_of_several_outputs(loss):
    inputs = keras.Input((2,))
    a, b = layers.Dense(3, name="a")(inputs), layers.Dense(3, name="b")(inputs)
    model = keras.Model(inputs, {"a": a, "b": b} if isinstance(loss, dict) else [a, b])
    model.compile("sgd", loss)
    kinds = [clues_of(model).output((None, 3), None, [name], i).kind for i, name in enumerate("ab")]
    assert kinds == ["classes", "numbers"]


def test_labels_of_several_at_once():
    assert label_sets(MULTI) == ((0, 2), (), (1,))
    assert label_sets(2 * MULTI - 1) == ((0, 2), (), (1,))
    assert label_sets(np.where(MULTI, 0.9, 0.1)) == ((0, 2), (), (1,))
    # -1 and NaN are labels of which nothing is known.
    assert label_sets(np.array([[1, -1, 0], [1, 1, 0]])) == ((0,), (0, 1))
    assert label_sets(np.array([[1, np.nan, 0], [1, 1, 0]])) == ((0,), (0, 1))
    for other in (ONE_HOT, INDICES, FRACTIONS, BOXES, None, {"a": MULTI, "b": MULTI}):
        assert label_sets(other) is None
    assert label_sets({"out": MULTI}) == label_sets(MULTI)
    assert class_labels(np.array([0.05, 0.95, 0.05])).tolist() == [0, 1, 0]


def test_examples_are_of_the_very_outputs():
    assert example_rule([()], [(None, 2)]) == "lambda outputs: outputs[:, 1]"
    assert example_rule([(0,), (1,)], [(None, 8, 8, 1), (None, 4)]) == "lambda outputs: outputs[1][:, 3]"
    mask = example_rule([("mask",)], [(None, 8, 8, 1)])
    assert mask == "lambda outputs: keras.ops.mean(outputs['mask'][..., 0], axis=(1, 2))"
