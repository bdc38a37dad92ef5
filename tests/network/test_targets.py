import keras
import models
import numpy as np
import pytest
from backends import tf
from keras import layers, ops
from models import LOGITS, SHAPE, assert_maps_equal, fit_both, functional, reference_gradcam
from tapes import gradient

from keras_cam_callbacks import explain
from keras_cam_callbacks.network.outputs import clues_of
from keras_cam_callbacks.network.targets import (
    PREDICTED,
    Target,
    check_classes,
    check_target,
    resolve_target,
)
from keras_cam_callbacks.passes.scores import explained_scores

Y = models.labels()
EACH = [2, 0, 1, 1, 2, 0]


def of_class(index):
    rows = np.broadcast_to(index, (6,)).astype(np.int32)[:, None]
    return lambda logits: keras.ops.take_along_axis(logits, rows, axis=1)[:, 0]


def margin(probabilities):
    return probabilities[:, 1] - probabilities[:, 0]


def grade(sigmoids):
    """The ordinal rule: as many sigmoids over a half as there are, less one, and at least class 0."""
    return ops.maximum(ops.sum(ops.cast(sigmoids > 0.5, "int32"), axis=1) - 1, 0)


def score_of_grade(logits):
    grades = ops.maximum(ops.sum(ops.cast(logits > 0, "int32"), axis=1) - 1, 0)
    return ops.sum(logits * ops.one_hot(grades, logits.shape[1], dtype=logits.dtype), axis=1)


TARGETS = {
    # target, the model's activation, score of the logits, explained classes and text if they are known
    "predicted": ("predicted", "softmax", models.highest, None, "predicted"),
    "true": ("true", "softmax", of_class(Y), Y, "true"),
    "class": (2, "softmax", of_class(2), [2] * 6, "2"),
    "class as numpy": (np.int32(2), "softmax", of_class(2), [2] * 6, "2"),
    "one for each": (EACH, "softmax", of_class(EACH), EACH, "[2, 0, 1, 1, 2, 0]"),
    "callable score": (margin, "softmax", lambda z: margin(keras.ops.softmax(z)), [None] * 6, "margin"),
    "callable score (N, 1)": (
        lambda p: p[:, 1:2],
        "softmax",
        lambda z: keras.ops.softmax(z)[:, 1],
        [None] * 6,
        "<lambda>",
    ),
    "callable class": (grade, "sigmoid", score_of_grade, None, "grade"),
}


@pytest.mark.parametrize(("target", "activation", "score", "classes", "text"), TARGETS.values(), ids=TARGETS)
def test_target_in_fit(target, activation, score, classes, text):
    keras.utils.set_random_seed(3)
    found = fit_both(functional(activation=activation), models.images(), Y, score, target=target)
    assert found.config.target == text
    for record, logits in zip(found.records, found.logits, strict=True):
        expected = keras.ops.convert_to_numpy(score(keras.ops.convert_to_tensor(logits)))
        np.testing.assert_allclose([s.score for s in record.samples], expected, rtol=1e-4, atol=1e-6)
        if classes is not None:
            assert [s.target for s in record.samples] == list(classes)


def test_ordinal_rule_by_hand():
    split, x = functional(activation="sigmoid"), models.images()
    kernel, _ = split.model.get_layer("classes").get_weights()
    medians = np.median(keras.ops.convert_to_numpy(split.rest(split.front(x))), axis=0)
    # The first unit is always on, the others for one half of the images each: grades 0 to 2.
    split.model.get_layer("classes").set_weights([kernel, np.where([True, False, False], 10, -medians)])
    logits = keras.ops.convert_to_numpy(split.rest(split.front(x)))
    grades = [max(sum(p > 0.5 for p in 1 / (1 + np.exp(-row))) - 1, 0) for row in logits]
    assert len(set(grades)) > 1
    explanation = explain(split.model, x, target=grade)
    assert explanation.targets.tolist() == explanation.predicted.tolist() == grades
    chances = 1 / (1 + np.exp(-logits[np.arange(6), grades]))
    np.testing.assert_allclose(explanation.confidences, chances, rtol=1e-5)
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, x, of_class(grades)))
    # With every unit off, the rule would give -1: it stays at 0.
    split.model.get_layer("classes").set_weights([kernel, np.full(3, -10.0)])
    assert explain(split.model, x, target=grade).targets.tolist() == [0] * 6


@pytest.mark.parametrize("classes", [False, True], ids=["score", "class"])
def test_several_outputs_by_callable(classes):
    parts = models.trunk()
    heads = {name: layers.Dense(3, name=name) for name in ("kind", "colour")}
    inputs = keras.Input(SHAPE)
    x = inputs
    for part in (*parts, layers.GlobalAveragePooling2D()):
        x = part(x)
    model = keras.Model(inputs, {name: head(x) for name, head in heads.items()})
    model.compile(keras.optimizers.SGD(0.1), {"kind": LOGITS, "colour": LOGITS})
    split = models.cut_at_conv2(model, parts, heads["colour"])
    if classes:
        with pytest.raises(ValueError, match="must have one output of shape"):
            explain(model, models.images(), target=lambda outputs: ops.argmax(outputs["colour"], axis=-1))
        return
    found = fit_both(
        split, models.images(), {"kind": Y, "colour": Y}, of_class(2), target=lambda outputs: outputs["colour"][:, 2]
    )
    sample = found.records[0].samples[0]
    assert (sample.label, sample.predicted, sample.target, sample.confidence) == (None, None, None, None)
    assert found.records[0].outputs is None


def test_resolved_targets():
    for target, text, index in [
        ("predicted", "predicted", [PREDICTED] * 3),
        ("true", "true", [2, 0, 1]),
        (1, "1", [1] * 3),
        ((2, 1, 0), "[2, 1, 0]", [2, 1, 0]),
        (np.array([0, 0, 1], np.uint8), "[0, 0, 1]", [0, 0, 1]),
    ]:
        resolved = resolve_target(target)
        classes = resolved.class_index(3, np.array([2, 0, 1]))
        assert (resolved.text, classes.tolist(), classes.dtype) == (text, index, np.int64)
    assert resolve_target(grade).rule is grade


def test_a_target_that_does_not_fit_a_batch():
    with pytest.raises(ValueError, match=r"for each of the 4 explained samples. Received: 3 indices"):
        resolve_target([2, 1, 0]).class_index(4, None)
    with pytest.raises(ValueError, match="'true' needs class labels"):
        resolve_target("true").class_index(4, None)


@pytest.mark.parametrize("target", ["prediction", "", "0"])
def test_unknown_word(target):
    with pytest.raises(ValueError, match=f"'predicted', 'true', 'both', .* a class index.* Received: '{target}'"):
        resolve_target(target)


@pytest.mark.parametrize("target", [None, 1.0, True, [0.5, 1, 2], [[0], [1], [2]]])
def test_target_of_no_kind(target):
    with pytest.raises(TypeError, match=f"of type {type(target).__name__}"):
        resolve_target(target)


def test_classes_are_checked_where_they_are_the_users():
    check_target(resolve_target([0, 2]), 3)
    check_target(resolve_target("predicted"), None)
    check_target(resolve_target(grade), None)
    for wrong, classes in [(3, 3), (-1, 3), (2, 2)]:
        with pytest.raises(ValueError, match="Received"):
            check_target(resolve_target(wrong), classes)


def test_labels_are_checked_where_they_are_explained():
    labels = np.array([0, 1, 2])
    check_classes(resolve_target("true"), labels, 3)
    check_classes(resolve_target("predicted"), np.full(3, PREDICTED), 2)
    check_classes(Target("rule", grade), np.full(3, PREDICTED), 2)
    with pytest.raises(ValueError, match=r"between 0 and 1, .* Received: \[2\] in labels"):
        check_classes(resolve_target("true"), labels, 2)


def own_crossentropy(y, logits):
    """Named like Keras' own, but takes logits."""
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


class OwnCrossentropy(keras.losses.Loss):
    def call(self, y, logits):
        return own_crossentropy(y, logits)


LOSSES = {
    "sparse_categorical_crossentropy": "probabilities",
    "binary_crossentropy": "probabilities",
    "categorical_hinge": "logits",
    "mse": None,
    keras.losses.binary_focal_crossentropy: "probabilities",
    keras.losses.CategoricalCrossentropy(): "probabilities",
    keras.losses.CategoricalCrossentropy(from_logits=True): "logits",
    keras.losses.BinaryFocalCrossentropy(from_logits=True): "logits",
    keras.losses.Hinge(): "logits",
    keras.losses.MeanSquaredError(): None,
    keras.losses.BinaryCrossentropy(from_logits=True, name="bce"): "logits",
    own_crossentropy: None,
    OwnCrossentropy(): None,
}


def expects(model):
    ((_, clue),) = clues_of(model).losses
    return clue.expects


@pytest.mark.parametrize(("loss", "expected"), LOSSES.items(), ids=map(str, range(len(LOSSES))))
def test_what_the_loss_takes_the_outputs_for(loss, expected):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", loss)
    assert expects(model) == expected
    model.compile("sgd", [loss])
    assert expects(model) == expected


def test_what_no_loss_says():
    assert clues_of(keras.Sequential([keras.Input((2,)), layers.Dense(1)])).losses == ()


def test_a_loss_of_the_users_own_on_logits():
    """It may be named like a cross-entropy, but its outputs are no probabilities."""
    model = functional(activation=None).model
    x = models.images()
    model.compile(loss=OwnCrossentropy())
    own = explain(model, x)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    known = explain(model, x)
    np.testing.assert_array_equal(own.heatmaps, known.heatmaps)
    np.testing.assert_array_equal(own.predicted, known.predicted)
    np.testing.assert_allclose(own.confidences, keras.ops.max(keras.ops.softmax(known.outputs), axis=1), rtol=1e-5)


def test_log_softmax_at_the_end_has_confidences():
    model = functional(activation="log_softmax").model
    explanation = explain(model, models.images())
    np.testing.assert_allclose(explanation.confidences, np.exp(explanation.outputs).max(axis=1), rtol=1e-5)


def test_labels_of_hinge_losses():
    model = functional(units=1, activation="tanh").model
    model.compile(loss="hinge")
    explanation = explain(model, (models.images(), np.array([-1, 1, 1, -1, -1, 1])), target="true")
    np.testing.assert_array_equal(explanation.targets, [0, 1, 1, 0, 0, 1])


def test_a_class_is_chosen_exactly():
    logits = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    logits[0, 3], logits[3, 5] = np.inf, -np.inf
    second = logits[2].argsort()[-2]
    index, noted = ops.convert_to_tensor(np.array([1, -1, -2, 6], np.int32)), []

    def chosen(values):
        scores, classes, _ = explained_scores(values, None, index, None, "logits", rank=2)
        noted[:] = scores, classes
        return scores

    slopes = gradient(chosen, logits)
    chosen(ops.convert_to_tensor(logits))
    scores, classes = map(ops.convert_to_numpy, noted)
    expected = [1, logits[1].argmax(), second, 6]
    np.testing.assert_array_equal(classes, expected)
    np.testing.assert_array_equal(scores, logits[range(4), expected])
    np.testing.assert_array_equal(slopes, np.eye(7)[expected])


@pytest.mark.only_on("tensorflow", reason="counts the operations of its graph")
def test_a_class_is_chosen_by_few_operations():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, 7)), tf.TensorSpec((None,), tf.int32)])
    def chosen(logits, index):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            scores, classes, _ = explained_scores(logits, None, index, None, "logits", rank=2)
        return scores, classes, tape.gradient(scores, logits)

    # Those of `take_along_axis` are some 250; they made a fit's start an eighth longer.
    assert len(chosen.get_concrete_function().graph.get_operations()) < 150


@pytest.mark.parametrize("loss", ["binary_crossentropy", keras.losses.BinaryFocalCrossentropy()], ids=["bce", "focal"])
def test_logits_of_labels_have_the_confidence_of_sigmoids(loss):
    """Of several labels at once, each is present or not; under a softmax they would share one probability."""
    by_sigmoid, by_logits = functional(activation="sigmoid").model, functional(activation=None).model
    by_logits.set_weights(by_sigmoid.get_weights())
    by_sigmoid.compile("sgd", loss)
    from_logits = keras.losses.BinaryCrossentropy(from_logits=True)
    by_logits.compile("sgd", from_logits if isinstance(loss, str) else type(loss)(from_logits=True))
    x = models.images()
    for settings in ({}, {"target": 0}):
        one, other = (explain(model, x, **settings) for model in (by_sigmoid, by_logits))
        np.testing.assert_allclose(one.confidences, other.confidences, rtol=1e-5)
        np.testing.assert_allclose(one.heatmaps, other.heatmaps, rtol=1e-4, atol=1e-7)
    # Where an output is not known to be of labels, it is of classes.
    by_logits.compile("sgd", LOGITS)
    assert np.abs(explain(by_logits, x).confidences - explain(by_sigmoid, x).confidences).max() > 0.01
