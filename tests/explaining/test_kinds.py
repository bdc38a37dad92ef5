"""Explanations of classes, labels, numbers and several outputs, against a tape over a model that is cut by hand."""

import re

import keras
import models
import numpy as np
import pytest
from backends import tf
from keras import layers
from models import assert_maps_equal, functional, reference_gradcam

from keras_cam_callbacks import GradCAMLogger, explain
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.network.weights import values_of

X = models.images()
MULTI = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]])
FRACTIONS = np.array([0.1, 0.3, 0.2, 0.9, 0.4, 0.05])


def compiled(loss, **settings):
    split = functional(**settings)
    split.model.compile("sgd", loss)
    return split


def column(j):
    return lambda logits: logits[:, j]


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "binary_crossentropy"])
@pytest.mark.filterwarnings("ignore:explain takes the")
def test_a_number_is_not_negated(loss):
    split = compiled(loss, units=1, activation="sigmoid")
    split.model.get_layer("classes").bias.assign([-2.0])
    explanation = explain(split.model, (X, FRACTIONS))
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, X, column(0)))
    assert explanation.targets is None
    assert explanation.predicted is None
    assert np.isnan(explanation.confidences).all()
    value = float(split.model.predict(X[:1], verbose=0)[0, 0])
    assert explanation.samples()[0].caption == f"value {value:.3g}"
    # What is told to be a classifier explains the predicted class.
    classes = explain(split.model, (X, FRACTIONS), output_kind="classes")
    assert_maps_equal(classes.heatmaps, reference_gradcam(split, X, models.either_side))


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
@pytest.mark.parametrize(
    ("units", "y"),
    [(1, np.array([0.2, 0.8, 0.8, 0.2, 0.2, 0.8])), (4, MULTI.astype(float)), (4, np.eye(4)[[0, 1, 2, 3, 0, 1]])],
)
def test_values_of_labels_are_no_classes_under_a_loss_of_numbers(units, y):
    split = compiled("mae", units=units, activation=None)
    logger = GradCAMLogger((X, y), tracker="memory", target="predicted" if units == 1 else 1, on_error="raise")
    split.model.fit(X, y, verbose=0, callbacks=[logger])
    (record,) = logger.trackers[0].records
    value = float(split.model.predict(X[:1], verbose=0)[0, min(units - 1, 1)])
    assert record.samples[0].caption == f"{'value' if units == 1 else 'output 1'} {value:.3g}"
    assert record.samples[0].label is None
    assert logger.trackers[0].config.labels == (None,) * 6
    explanation = explain(split.model, (X, y), target="predicted" if units == 1 else 1)
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, X, column(min(units - 1, 1))))


def test_cam_of_a_number_is_of_its_own_weights():
    inputs = keras.Input(models.SHAPE)
    conv = layers.Conv2D(5, 3, activation="relu")
    dense = layers.Dense(1, activation="sigmoid")
    model = keras.Model(inputs, dense(layers.GlobalAveragePooling2D()(conv(inputs))))
    model.compile("sgd", "mse")
    dense.bias.assign([-3.0])
    expected = (keras.ops.convert_to_numpy(conv(X)) * values_of(dense.kernel)[:, 0]).sum(-1)
    np.testing.assert_allclose(explain(model, (X, FRACTIONS), method="cam").heatmaps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_of_several_numbers(activation):
    split = compiled("mse", units=4, activation=activation)
    y = np.random.default_rng(0).random((6, 4))
    with pytest.raises(ValueError, match=r"Which number is to be explained\?.* target=0"):
        split.model.fit(X, y, verbose=0, callbacks=[GradCAMLogger((X, y), tracker="memory")])
    explanation = explain(split.model, (X, y), target=2, class_names=["left", "top", "right", "bottom"])
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, X, column(2)))
    assert np.isnan(explanation.confidences).all()
    value = float(split.model.predict(X[:1], verbose=0)[0, 2])
    assert explanation.samples()[0].caption == f"right {value:.3g}"
    logger = GradCAMLogger((X, y), tracker="memory", target=2)
    history = split.model.fit(X, y, verbose=0, callbacks=[logger]).history
    assert "gradcam_area" in history
    assert "gradcam_confidence" not in history
    with pytest.raises(ValueError, match="'confidence' only where"):
        GradCAMLogger((X, y), target=2, metrics=["confidence"]).explain(split.model)
    with pytest.raises(ValueError, match="from 0 to 3"):
        explain(split.model, (X, y), target=4)


def multi_label(activation=None):
    return compiled(keras.losses.BinaryCrossentropy(from_logits=activation is None), units=4, activation=activation)


def test_each_true_label_has_a_view():
    split = multi_label()
    views = explain(split.model, (X, MULTI), target="true", class_names=["a", "b", "c", "d"])
    assert list(views) == ["true1", "true2", "true3"]
    labels = [np.flatnonzero(row) for row in MULTI]
    for k, view in enumerate(views.values()):
        has = np.array([len(of) > k for of in labels])
        index = np.array([of[k] if len(of) > k else 0 for of in labels])
        own = np.eye(4, dtype=np.float32)[index]
        expected = reference_gradcam(split, X, lambda z, own=own: keras.ops.sum(keras.ops.multiply(z, own), axis=1))
        assert_maps_equal(view.heatmaps[has], expected[has])
        assert np.isnan(view.heatmaps[~has]).all()
        assert np.isnan(view.confidences[~has]).all()
        assert not view.degenerate[~has].any()
        assert view.metrics()["area"][~has].tolist() == pytest.approx([np.nan] * int((~has).sum()), nan_ok=True)
        logits = keras.ops.convert_to_numpy(split.rest(split.front(X)))[np.arange(6), index]
        np.testing.assert_allclose(view.confidences[has], 1 / (1 + np.exp(-logits[has])), rtol=1e-4)
    samples = views["true2"].samples()
    assert samples[0].label == (0, 2)
    assert samples[0].caption.startswith("true a, c; predicted ")
    assert samples[3].caption.startswith("true none; predicted ")
    assert samples[1].target is None
    assert "no further label" in samples[1].caption
    assert "no heatmap" not in samples[1].caption


def test_the_views_of_true_labels_do_not_depend_on_the_samples():
    split = multi_label()
    for rows in ([1, 3], [3], [0, 2]):
        logger = GradCAMLogger((X[rows], MULTI[rows]), tracker="memory", target="true", on_error="raise", metrics="all")
        assert list(logger.explain(split.model)) == ["true1", "true2", "true3"]
    few = np.array([[1, 0, 0, 0], [0, 0, 0, 0]])
    logger = GradCAMLogger((X[:2], few), tracker="memory", target="true", on_error="raise", metrics="all")
    split.model.fit(X, MULTI, verbose=0, callbacks=[logger])
    (record,) = logger.trackers[0].records
    assert np.isnan(record.values["true2_area"]).all()
    assert record.scalars["true2_degenerate"] == 0
    assert np.isnan(record.scalars["true3_confidence"])
    two = compiled("binary_crossentropy", units=2, activation="sigmoid").model
    assert list(explain(two, (X[:2], np.array([[1, 0], [0, 0]])), target="true")) == ["true1", "true2"]


WORDS = np.array(["cat", "dog", "cat", "dog", "dog", "cat"])


@pytest.mark.parametrize("y", [WORDS, WORDS.tolist(), WORDS.astype(object), WORDS.astype("S"), {"classes": WORDS}])
def test_labels_that_are_text(y):
    model = compiled("sparse_categorical_crossentropy", units=2).model
    with pytest.raises(ValueError, match=r"labels as numbers.*Received: labels that are text.*return_inverse=True"):
        explain(model, (X, y), target="true")
    assert explain(model, (X, y)).labels == (None,) * 6
    names, numbers = np.unique(WORDS, return_inverse=True)
    explanation = explain(model, (X, numbers), target="true", class_names=list(names))
    assert explanation.samples()[1].caption.startswith("true dog")


def test_labels_of_several_outputs():
    model = two_outputs(lambda a, b: {"kind": a, "age": b})[0]
    y = {"kind": np.array([0, 1, 2, 0, 1, 2]), "age": np.linspace(0, 9, 6)}
    with pytest.raises(ValueError, match=r"one output.*Received: labels of several outputs: 'kind', 'age'") as caught:
        explain(model, (X, y), target="true")
    (code,) = re.findall(r"target=(lambda outputs: .*?\])\.", str(caught.value))
    assert np.isfinite(explain(model, (X, y), target=eval(code)).scores).all()  # It is the text of our own message.
    with pytest.raises(ValueError, match=r"labels of several outputs: 0, 1.*outputs\[0\]"):
        explain(two_outputs(lambda a, b: [a, b])[0], (X, list(y.values())), target="true")


@pytest.mark.parametrize("y", [{"classes": [0, 1, 2, 0, 1, 2]}, {"classes": np.eye(3)[[0, 1, 2, 0, 1, 2]].tolist()}])
def test_lists_of_labels_under_the_name_of_an_output(y):
    model = compiled("sparse_categorical_crossentropy", units=3).model
    assert explain(model, (X, y), target="true").targets.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(
        ValueError, match=r"one array with a row for each sample.*Received: 6 single values. np.asarray"
    ):
        explain(model, (X, [np.array(k) for k in range(6)]))


def test_what_a_sample_lacks_counts_in_no_mean():
    split = multi_label("sigmoid")
    logger = GradCAMLogger(
        (X, MULTI), tracker="memory", target="true", augmentations=["flip"], faithfulness_freq=1, on_error="raise"
    )
    split.model.fit(X, MULTI, verbose=0, callbacks=[logger])
    (record,) = logger.trackers[0].records
    assert list(record.views) == ["true1", "true2", "true3"]
    has = np.array([row.sum() > 1 for row in MULTI])
    for name in ("true2_area", "true2_confidence", "true2_flip_unchanged", "true2_insertion", "true2_average_drop"):
        assert np.isnan(np.asarray(record.values[name], float)[~has]).all(), name
    confidence = np.asarray(record.values["true2_confidence"])
    assert record.scalars["true2_confidence"] == pytest.approx(confidence[has].mean())
    assert record.scalars["true3_degenerate"] <= 1
    assert logger.trackers[0].config.labels[0] == (0, 2)


def test_regions_by_class():
    split = multi_label()
    left, right = (0, 0, 8, 12), (8, 0, 16, 12)
    regions = [{0: left, "c": right}, {0: left}, None, right, {2: left}, {0: right}]
    settings = {"regions": regions, "class_names": ["a", "b", "c", "d"]}
    one, other = (explain(split.model, (X, MULTI), target=k, **settings).metrics() for k in (0, 2))
    plain = [left, left, None, right, left, right]
    expected = explain(split.model, (X, MULTI), target=0, regions=plain).metrics()["energy_in_region"]
    assert np.isnan(one["energy_in_region"][[2, 4]]).all()
    np.testing.assert_allclose(one["energy_in_region"][[0, 1, 3, 5]], expected[[0, 1, 3, 5]])
    assert np.isnan(other["energy_in_region"][[1, 2, 5]]).all()
    with pytest.raises(ValueError, match="name in `regions` must be of a class"):
        explain(split.model, (X, MULTI), target=0, regions=[{"e": left}] * 6, class_names=["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="between 0 and 3"):
        explain(split.model, (X, MULTI), target=0, regions=[{7: left}] * 6)


def test_balanced_over_several_labels():
    rows = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]])
    model = functional().model
    keys = [str(i) for i in range(7)]
    batch = make_batch((models.images(7), rows), model, max_samples=3, select="balanced", sample_keys=keys)
    counts = np.sum([[k in of for k in range(3)] for of in batch.label_sets], axis=0)
    assert batch.sample_keys == ("0", "2", "4")
    assert counts.tolist() == [2, 1, 1]
    stream = [(models.images(7)[i : i + 2], rows[i : i + 2]) for i in range(0, 7, 2)]
    if keras.backend.backend() == "tensorflow":
        stream = tf.data.Dataset.from_tensor_slices((models.images(7), rows)).batch(2)
    assert make_batch(stream, model, max_samples=3, select="balanced").label_sets == batch.label_sets
    with pytest.raises(ValueError, match=r"multi-hot rows of several labels.* of shape and type"):
        make_batch((models.images(7), np.linspace(0, 1, 7)), model, select="balanced")


def two_outputs(structure):
    """One net with a saturated softmax and a number, and its twin that has the softmax alone."""
    parts, kind = models.trunk(), layers.Dense(3, activation="softmax", name="kind")
    inputs = x = keras.Input(models.SHAPE)
    for part in (*parts, layers.GlobalAveragePooling2D()):
        x = part(x)
    first = kind(x)
    kind.bias.assign([200.0, -200.0, 0.0])
    return keras.Model(inputs, structure(first, layers.Dense(1, name="age")(x))), keras.Model(inputs, first)


PICKED = {
    "dict": (lambda a, b: {"kind": a, "age": b}, lambda outputs: outputs["kind"][:, 0]),
    "list": (lambda a, b: [b, a], lambda outputs: outputs[1][:, 0]),
    "nested": (lambda a, b: {"x": {"kind": a}, "y": b}, lambda outputs: outputs["x"]["kind"][:, 0]),
    "highest": (lambda a, b: [a, b], lambda outputs: keras.ops.max(outputs[0], axis=-1)),
}


@pytest.mark.parametrize("method", ["gradcam", "saliency", "scorecam"])
@pytest.mark.parametrize(("structure", "rule"), PICKED.values(), ids=PICKED)
def test_a_picked_output_is_explained_before_its_activation(structure, rule, method):
    both, twin = two_outputs(structure)
    expected, explanation = explain(twin, X, target=0, method=method), explain(both, X, target=rule, method=method)
    assert_maps_equal(explanation.heatmaps, expected.heatmaps)
    np.testing.assert_allclose(explanation.scores, expected.scores, rtol=1e-5)


def test_what_a_function_computes_of_several_outputs():
    both, twin = two_outputs(lambda a, b: {"kind": a, "age": b})
    logits = explain(twin, X, target=0).scores - explain(twin, X, target=2).scores
    weighed = explain(both, X, target=lambda outputs: outputs["kind"][:, 0] - outputs["kind"][:, 2])
    np.testing.assert_allclose(weighed.scores, logits, rtol=1e-4)
    # A logarithm is of probabilities, and a product has them as weights.
    said = pytest.warns(RuntimeWarning, match="target '<lambda>' gets probabilities, as it does more than pick")
    with said:
        own = explain(both, X, target=lambda outputs: -keras.ops.log(outputs["kind"][:, 0]) + 1, method="smoothgrad")
    np.testing.assert_allclose(own.scores, 1, atol=1e-5)
    ages = both.predict(X, verbose=0)["age"][:, 0]
    with said:
        product = explain(both, X, target=lambda outputs: outputs["kind"][:, 0] * outputs["age"][:, 0])
    np.testing.assert_allclose(product.scores, ages, rtol=1e-4, atol=1e-6)
    # Of numbers there is nothing to be said.
    double = explain(both, X, target=lambda outputs: 2 * outputs["age"][:, 0])
    np.testing.assert_allclose(double.scores, 2 * ages, rtol=1e-4, atol=1e-6)


BINS = np.array([10.0, 40.0, 70.0, 90.0], np.float32)
COMPUTED = {
    "expectation": (
        lambda p: keras.ops.sum(keras.ops.multiply(p, BINS), axis=-1),
        lambda p: keras.ops.sum(keras.ops.multiply(p, BINS), -1),
    ),
    "gate": (
        lambda p: keras.ops.where(p[:, 1] > 0.5, p[:, 1], p[:, 0]),
        lambda p: keras.ops.where(p[:, 1] > 0.5, p[:, 1], p[:, 0]),
    ),
    "sum of two": (lambda p: p[:, 0] + p[:, 3], lambda p: p[:, 0] + p[:, 3]),
}


@pytest.mark.parametrize(("rule", "by_hand"), COMPUTED.values(), ids=COMPUTED)
def test_what_is_computed_is_of_probabilities(rule, by_hand):
    split = functional(units=4)
    split.model.get_layer("classes").bias.assign([1.0, 0.2, 0.0, -1.0])
    x = split.model.inputs[0]
    named = keras.Model(x, {"kind": split.model.outputs[0], "size": layers.Dense(1)(layers.Flatten()(x))})
    with pytest.warns(RuntimeWarning, match="gets probabilities") as caught:
        explanation = explain(named, X, split.layer, target=lambda outputs: rule(outputs["kind"]))
    assert len(caught) == 1
    expected = reference_gradcam(split, X, lambda logits: by_hand(keras.ops.softmax(logits)))
    assert_maps_equal(explanation.heatmaps, expected)
    probabilities = split.model.predict(X, verbose=0)
    np.testing.assert_allclose(explanation.scores, by_hand(probabilities), rtol=1e-4)


def unet(name=None):
    inputs = keras.Input(models.SHAPE)
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x)
    return keras.Model(inputs, {name: mask} if name else mask)


ENDS = {
    "activation": lambda: [layers.Activation("softmax")],
    "softmax": lambda: [layers.Softmax()],
    "relu": lambda: [layers.ReLU()],
    "and a cast": lambda: [layers.Activation("sigmoid"), layers.Activation("linear", dtype="float16")],
    "in a model": lambda: [keras.Sequential([layers.Conv2D(3, 1), layers.Activation("softmax")])],
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_the_logits_of_a_mask_are_not_chosen(end):
    front = [layers.Conv2D(4, 3, activation="relu", name="before")]
    ends = end()
    if not isinstance(ends[0], keras.Sequential):
        front.append(layers.Conv2D(3, 1, name="logits"))
    model = keras.Sequential([keras.Input(models.SHAPE), *front, *ends])

    def share(mask):
        return keras.ops.mean(mask[..., 1], axis=(1, 2))

    assert explain(model, X, target=share).layer_name == "before"
    if len(front) > 1:  # Who names it has it.
        assert explain(model, X, "logits", target=share).layer_name == "logits"


def reconstructing(model):
    """What is trained on the error of numbers puts out no classes of pixels."""
    model.compile("sgd", "mse")
    return model


def embedding():
    inputs = keras.Input(models.SHAPE)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs))
    unit = layers.Lambda(lambda z: keras.ops.normalize(z, axis=-1))(layers.Dense(6)(x))
    model = keras.Model(inputs, unit)
    model.compile("sgd", lambda y, z: keras.ops.mean(z, axis=-1))
    return model


ASKED = {
    "several numbers": lambda: compiled("mse", units=2, activation=None).model,
    "an embedding": embedding,
    "a decoder": lambda: reconstructing(unet()),
    "a decoder by name": lambda: reconstructing(unet("mask")),
    "a dict": lambda: two_outputs(lambda a, b: {"kind": a, "age": b})[0],
    "a list": lambda: two_outputs(lambda a, b: [b, a])[0],
    "nested": lambda: two_outputs(lambda a, b: {"x": [a], "y": b})[0],
}


@pytest.mark.parametrize("build", ASKED.values(), ids=ASKED)
def test_what_a_message_advises_works_for_the_model_that_got_it(build):
    model = build()
    with pytest.raises(ValueError, match="Received") as caught:
        explain(model, X)
    (code,) = re.findall(r"`(lambda outputs: .*?)`", str(caught.value))
    explanation = explain(model, X, target=eval(code, {"keras": keras}))  # It is the text of our own message.
    assert np.abs(explanation.heatmaps).max() > 0
    if "target=0" in str(caught.value):
        assert np.abs(explain(model, X, target=0).heatmaps).max() > 0
    if "output_kind='classes'" in str(caught.value):
        assert explain(model, X, output_kind="classes").targets is not None


def test_a_trace_is_of_the_kind_that_was_asked_for():
    model = compiled("sparse_categorical_crossentropy", units=3).model
    assert explain(model, X, target=0).confidences.min() > 0
    assert np.isnan(explain(model, X, target=0, output_kind="numbers").confidences).all()
    assert explain(model, X, target=0).confidences.min() > 0


@pytest.mark.parametrize(("kind", "message"), [({"other": "classes"}, "must name outputs"), ("class", "must be")])
def test_a_kind_that_does_not_fit(kind, message):
    with pytest.raises(ValueError, match=message):
        explain(functional().model, X, output_kind=kind)
    with pytest.raises(ValueError, match="only for an output of shape"):
        explain(unet(), X, output_kind="classes")


def test_a_guess_is_said():
    model = functional(activation=None).model
    with pytest.warns(UserWarning, match=r"takes the 3 outputs for scores of classes.*output_kind="):
        explain(model, X)
