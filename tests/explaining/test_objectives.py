"""What is explained beyond a class, against eager tapes, functions of the outputs and twins with one output."""

import warnings

import keras
import models
import numpy as np
import pytest
from keras import layers
from models import assert_maps_equal, fit_both, functional, reference_gradcam

from keras_cam_callbacks import (
    Contrast,
    HeatmapLogger,
    MemoryTracker,
    Present,
    Similarity,
    Value,
    explain,
    sanity_check,
)

X, Y = models.images(), models.labels()
METHODS = ["gradcam", "scorecam", "saliency", "smoothgrad", "integrated_gradients"]


def first_two(logits):
    best = keras.ops.top_k(logits, 2)[0]
    return best[:, 0] - best[:, 1]


def logits_model():
    """Puts out the scores themselves, so that a function of them is an independent way to what is explained."""
    model = functional(activation=None).model
    model.compile("sgd", models.LOGITS)
    return model


@pytest.mark.parametrize("activation", ["softmax", None])
def test_a_contrast_is_the_gradient_of_a_difference(activation):
    split = functional(activation=activation)
    split.model.compile("sgd", models.SPARSE if activation else models.LOGITS)
    explanation = explain(split.model, X, target="contrast")
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, X, first_two))
    order = np.argsort(keras.ops.convert_to_numpy(split.rest(split.front(X))), axis=1)
    np.testing.assert_array_equal(explanation.targets, order[:, -1])
    np.testing.assert_array_equal(explanation.against, order[:, -2])
    assert np.isnan(explanation.confidences).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_contrast_by_every_way_to_a_map(method):
    """Copies of a sample, noisy or masked, are of the two classes that the sample itself is of."""
    model = logits_model()
    model.layers[-1].bias.assign([0.0, 9.0, 4.0])
    outputs = model.predict(X, verbose=0)
    (first, second), *others = np.argsort(-outputs, axis=1)[:, :2].tolist()
    assert all(pair == [first, second] for pair in others)
    expected = explain(model, X, target=lambda z: z[:, first] - z[:, second], method=method)
    assert_maps_equal(explain(model, X, target="contrast", method=method).heatmaps, expected.heatmaps)


def test_a_contrast_of_one_unit_is_its_logit():
    model = functional(units=1, activation="sigmoid").model
    model.compile("sgd", "binary_crossentropy")
    of_one, contrast, reverse = (explain(model, X, target=t) for t in (1, Contrast(1, 0), Contrast(0, 1)))
    np.testing.assert_allclose(contrast.scores, of_one.scores, rtol=1e-6)
    np.testing.assert_allclose(reverse.scores, -of_one.scores, rtol=1e-6)
    assert_maps_equal(contrast.heatmaps, of_one.heatmaps)
    assert_maps_equal(reverse.heatmaps, -of_one.heatmaps)


def test_what_has_nothing_to_contrast_is_nan():
    model = logits_model()
    predicted = explain(model, X).predicted
    explanation = explain(model, (X, Y), target=Contrast("true", "predicted"))
    same = predicted == Y
    assert 0 < same.sum() < len(same)
    np.testing.assert_array_equal(explanation.absent, same)
    np.testing.assert_array_equal(np.isnan(explanation.heatmaps).all(axis=(1, 2)), same)
    np.testing.assert_array_equal(explanation.targets[~same], Y[~same])
    sample = explanation.samples()[int(np.flatnonzero(~same)[0])]
    assert (sample.against, sample.target) == (int(predicted[0]), sample.label)
    assert f"{sample.target} rather than {sample.against}" in sample.caption


def test_a_contrast_while_training():
    runs = fit_both(functional(), X, Y, first_two, target="contrast")
    assert runs.config.target == "Contrast(predicted, runner_up)"
    assert "confidence" not in runs.records[0].scalars


def test_contrasts_in_a_loop_share_a_trace():
    model = logits_model()
    maps = [explain(model, X, target=Contrast(a, b)).heatmaps for a, b in ((0, 1), (1, 0), (2, 0))]
    assert_maps_equal(maps[0], -maps[1])
    assert np.abs(maps[2] - maps[0]).max() > 1e-3 * np.abs(maps[0]).max()


def test_cam_tells_what_it_explains():
    with pytest.raises(ValueError, match="CAM explains a class"):
        explain(functional().model, X, method="cam", target="contrast")


def test_a_sanity_check_is_of_what_stays():
    model = logits_model()
    assert sanity_check(model, X, target=Contrast(1, 0), steps=1).passed
    with pytest.raises(ValueError, match=r"Contrast\(1, 0\)"):
        sanity_check(model, X, target="contrast", steps=1)


def outputs_of(structure):
    """A classifier, two numbers and an age on one trunk; and for each a twin that has it alone."""
    parts = models.trunk()
    inputs = x = keras.Input(models.SHAPE)
    for part in (*parts, layers.GlobalAveragePooling2D()):
        x = part(x)
    heads = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(x),
        "box": layers.Dense(4, name="box")(x),
        "age": layers.Dense(1, name="age")(x),
    }
    twins = {name: keras.Model(inputs, head) for name, head in heads.items()}
    return keras.Model(inputs, structure(heads)), twins


STRUCTURES = {"dict": dict, "list": lambda heads: list(heads.values())}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("method", ["gradcam", "scorecam", "smoothgrad"])
def test_one_output_of_several(structure, method):
    model, twins = outputs_of(structure)
    for target, name, plain in [
        (Value("age"), "age", Value(0)),
        (Value(2, output="box"), "box", Value(2)),
        (Contrast(2, 0, output="kind"), "kind", Contrast(2, 0)),
    ]:
        found, expected = (
            explain(model, X, target=target, method=method),
            explain(twins[name], X, target=plain, method=method),
        )
        assert_maps_equal(found.heatmaps, expected.heatmaps)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_a_class_of_the_output_of_its_name():
    model, twins = outputs_of(dict)
    model.compile("sgd", {"kind": models.SPARSE, "box": "mse", "age": "mse"})
    views = explain(model, X, target={"kind": "predicted", "box": Value(1), "age": "predicted"})
    expected = explain(twins["kind"], X)
    assert_maps_equal(views["kind"].heatmaps, expected.heatmaps)
    np.testing.assert_array_equal(views["kind"].predicted, expected.predicted)
    np.testing.assert_allclose(views["kind"].confidences, expected.confidences, rtol=1e-5)
    np.testing.assert_allclose(views["box"].scores, twins["box"].predict(X, verbose=0)[:, 1], rtol=1e-5)
    assert np.isnan(views["box"].confidences).all()
    assert views["age"].title(0).startswith("value ")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("predicted", r"target=Value\(0, output='age'\) works"),
        (Value("kinds"), "Did you mean 'kind'"),
        (Value("box"), r"Value\(0, output='box'\) works"),
        (Value(4, output="box"), "from 0 to 3"),
        (Present(2, output="kind"), "labels of which a sample can have several"),
        (Contrast(1, 3, output="kind"), "Received: \\[3\\]"),
        (Similarity(np.ones(5), output="box"), "must have the 4 numbers"),
    ],
)
def test_what_an_output_has_not(target, message):
    with pytest.raises(ValueError, match=message):
        explain(outputs_of(dict)[0], X, target=target)


def test_the_value_of_a_sigmoid_unit_is_not_negated():
    model = functional(units=1, activation="sigmoid").model
    model.layers[-1].bias.assign([-3.0])
    model.compile("sgd", "binary_crossentropy")
    found = explain(model, X, target=Value(0))
    np.testing.assert_allclose(found.scores, np.log(found.outputs[:, 0] / (1 - found.outputs[:, 0])), rtol=1e-3)
    assert (found.scores < 0).all()
    assert np.isnan(found.confidences).all()


def embedder():
    inputs = keras.Input(models.SHAPE)
    x = inputs
    for part in models.trunk():
        x = part(x)
    return keras.Model(inputs, layers.UnitNormalization()(layers.Dense(6)(layers.GlobalAveragePooling2D()(x))))


@pytest.mark.parametrize("method", METHODS)
def test_similarity_to_an_embedding(method):
    model = embedder()
    reference = np.random.default_rng(1).standard_normal(6).astype(np.float32)

    def cosine(outputs):
        return keras.ops.sum(keras.ops.multiply(outputs, reference / np.linalg.norm(reference)), axis=1)

    found, expected = (explain(model, X, target=target, method=method) for target in (Similarity(reference), cosine))
    assert_maps_equal(found.heatmaps, expected.heatmaps, 1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
    assert found.title(0) == f"similarity {found.scores[0]:.2f}"


def test_similarity_to_embeddings_and_images():
    model = embedder()
    embeddings = model.predict(X, verbose=0)
    each = explain(model, X, target=Similarity(embeddings[::-1]))
    np.testing.assert_allclose(each.scores, (embeddings * embeddings[::-1]).sum(axis=1), rtol=1e-4)
    assert_maps_equal(explain(model, X, target=Similarity(X[::-1])).heatmaps, each.heatmaps, 1e-3)
    of_one = explain(model, X, target=Similarity(embeddings[2]))
    assert_maps_equal(explain(model, X, target=Similarity(X[2])).heatmaps, of_one.heatmaps, 1e-3)
    assert np.abs(explain(model, X[2:3], target=Similarity(X[2])).scores - 1).max() < 1e-5
    with pytest.raises(ValueError, match="one for each of the 6 explained"):
        explain(model, X, target=Similarity(embeddings[:4]))


def test_references_are_embedded_with_the_weights_of_the_epoch():
    model = embedder()
    model.compile(keras.optimizers.SGD(1.0), "cosine_similarity")
    x = X * np.linspace(-2, 2, 6, dtype=np.float32)[:, None, None, None]
    logger = HeatmapLogger(x, target=Similarity(x[::-1]), tracker=MemoryTracker(), on_error="raise")
    expected = []

    class Embeds(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            now = self.model.predict(x, verbose=0)
            expected.append((now * now[::-1]).sum(axis=1))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*heatmaps explain nothing")
        model.fit(x, np.eye(6, dtype=np.float32), epochs=2, verbose=0, callbacks=[logger, Embeds()])
    for record, scores in zip(logger.tracker.records, expected, strict=True):
        np.testing.assert_allclose([sample.score for sample in record.samples], scores, rtol=1e-3)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_an_embedding_has_to_be_asked_for():
    with pytest.raises(ValueError, match=r"target=Similarity\(reference\).*Value\(0\)"):
        explain(embedder(), X)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_present_labels_are_the_most_probable_above_one_half(activation):
    model = functional(units=4, activation=activation).model
    model.layers[-1].bias.assign([2.0, -3.0, 1.0, 0.0])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=activation is None))
    raw = model.predict(X, verbose=0)
    probabilities = raw if activation else 1 / (1 + np.exp(-raw))
    views = explain(model, X, target=Present(n=4))
    order = np.argsort(-probabilities, axis=1)
    for k, view in enumerate(views.values()):
        probability = np.take_along_axis(probabilities, order[:, k : k + 1], axis=1)[:, 0]
        absent = probability <= 0.5
        np.testing.assert_array_equal(view.absent, absent)
        np.testing.assert_array_equal(np.isnan(view.heatmaps).all(axis=(1, 2)), absent)
        np.testing.assert_array_equal(view.targets[~absent], order[~absent, k])
        np.testing.assert_allclose(view.confidences[~absent], probability[~absent], rtol=1e-5)
    assert views["present4"].absent.all()
    with pytest.raises(ValueError, match=r"Present\(n=4\) works"):
        explain(model, X, target=Present(n=5))


def test_faithfulness_is_of_one_output():
    model, _ = outputs_of(lambda heads: {"kind": heads["kind"], "other": layers.Softmax()(heads["box"])})
    settings = {"tracker": None, "faithfulness_freq": 1, "on_error": "raise"}
    logger = HeatmapLogger(X, target={"kind": "predicted", "other": 1}, **settings)
    with pytest.raises(ValueError, match="of one output"):
        logger.explain(model)
    with pytest.raises(ValueError, match="gives none"):
        HeatmapLogger(X, target="contrast", **settings).explain(functional().model)
