"""Every kind of model is right, or refused with a way out that works; see `table`."""

import gc
import re
import warnings
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256

import keras
import numpy as np
import pytest
from backends import hub_pipelines
from paths import ROOT
from zoo import hub, pages, table
from zoo.example import LOGITS, NUMBERS, PROBABILITIES, Example
from zoo.independent import activations_and_gradients, gradcam, layer_at

from keras_cam_callbacks import Detection, Explanations, GradCAMLogger, Overlay, explain
from keras_cam_callbacks.network.layers import walk
from keras_cam_callbacks.passes.bands import LEAST, agreement, answers, banded
from keras_cam_callbacks.records import Space

# KerasHub's Swin makes Keras say the one in any call; the other is of Keras' own quantizers, with NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{table.MASK}"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),  # See NO_COPY.
]
# Keras says it in `fit`, of variables that only a pretraining uses.
WITHOUT_GRADIENTS = "Gradients do not exist for variables"
# Keras' own `convert_to_numpy` makes NumPy 2 say it, of a tensor in the settings of D-FINE's layers.
NO_COPY = "__array__ implementation doesn't accept a copy keyword"

# The share of a map's largest value, or of float32's last bit in the terms that it is a sum of, whichever is more.
SHARE, BITS = 1e-5, 2 * float(np.finfo(np.float32).eps)


def parameters(rows):
    return [pytest.param(row, id=f"{family}: {row.name}", marks=marks(row)) for family, row in rows]


def marks(row):
    wrong = [pytest.mark.xfail(strict=True, reason=row.wrong)] if row.wrong else []
    return wrong if row.fast else [pytest.mark.zoo, *wrong]


ROWS = [(family, row) for family, rows in table.FAMILIES.items() for row in rows]


@pytest.fixture(autouse=True)
def memory():
    """Lets go of the last test's model."""
    yield
    gc.collect()


def built(row) -> Example:
    if row.build.__module__ == hub.__name__:
        pytest.importorskip("keras_hub")
    with in_precision("float64" if row.precise else "float32"):
        example = row.build()
    example.model(example.inputs)
    if example.loss is not None:
        example.model.compile("sgd", loss_of(example), jit_compile=False)
    return example


@contextmanager
def in_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def loss_of(example):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True) if example.loss == LOGITS else example.loss


def settings_of(example):
    return {**example.settings} | ({} if example.target is None else {"target": example.target})


@contextmanager
def says(*parts):
    """Checks what is said inside: all parts, and nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Of what tests before left to the garbage collector, such as the sockets of an old W&B; see conftest.
        warnings.simplefilter("ignore", ResourceWarning)
        yield
    # Raw maps are compared, and those of an untrained net may well be nowhere positive.
    passed_over = "explain nothing in epoch", WITHOUT_GRADIENTS, NO_COPY
    said = [
        text for text in (str(warning.message) for warning in caught) if not any(part in text for part in passed_over)
    ]
    assert [text for text in said if not any(part in text for part in parts)] == []
    assert [part for part in parts if not any(part in text for text in said)] == []


def state(model):
    """All that an explanation must leave as it is: weights, flags, and what layers hold."""
    weights = [sha256(keras.ops.convert_to_numpy(weight.value).tobytes()).digest() for weight in model.variables]
    layers = {path: (getattr(layer, "trainable", None), sorted(vars(layer))) for path, layer in walk(model)}
    return weights, layers, sorted(vars(model))


def without_numbers(path):
    """A path without the numbers by which Keras tells layers of one name apart."""
    return re.sub(r"_\d+(?=/|$)", "", path)


def assert_is_expected(row, model, path, heatmaps):
    assert re.fullmatch(row.layer, without_numbers(path)), path
    alike = [other for other, _ in walk(model) if without_numbers(other) == without_numbers(path)]
    assert alike.index(path) == row.nth, path
    assert heatmaps.shape[1:] == row.cells


def assert_close(heatmaps, activations, gradients):
    terms = activations * gradients.mean(axis=tuple(range(1, activations.ndim - 1)), keepdims=True)
    expected = terms.sum(axis=-1)
    if expected.ndim < heatmaps.ndim:  # A clip's map without an axis for time.
        expected = expected[:, None]
    assert heatmaps.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(heatmaps - expected).max() <= max(SHARE * largest, BITS * np.abs(terms).sum(axis=-1).max())


def is_close(*arrays):
    try:
        assert_close(*arrays)
    except AssertionError:
        return False
    return True


class Independent(keras.callbacks.Callback):
    """Computes the map at each epoch end, with the weights of that moment."""

    def __init__(self, example, path, tokens):
        super().__init__()
        self.example, self.path, self.tokens, self.captured = example, path, tokens, []

    def on_epoch_end(self, epoch, logs=None):
        self.captured.append(activations_and_gradients(self.example, self.path, *self.tokens))


def begin(logger, model):
    """What a loop of one's own calls first."""
    logger.set_model(model)
    logger.on_train_begin()


def fitted(example, path, tokens):
    """One epoch with the callback, or the same by hand for a model without a loss; returns its record."""
    settings = settings_of(example)
    labels = np.array([0.2, 0.7] if example.loss == NUMBERS else [0, 1])
    data = example.inputs if example.loss is None else (example.inputs, labels)
    logger = GradCAMLogger(data, tracker="memory", on_error="raise", **settings)
    reference = Independent(example, path, tokens)
    if example.loss is not None:
        example.model.fit(example.inputs, labels, shuffle=False, verbose=0, callbacks=[logger, reference])
    else:
        begin(logger, example.model)
        logger.on_epoch_end(0)
        logger.on_train_end()
        reference.on_epoch_end(0)
    (record,), (captured,) = logger.trackers[0].records, reference.captured
    assert logger.trackers[0].config.layer_name == path
    return record, captured


@pytest.mark.parametrize("row", parameters((family, row) for family, row in ROWS if row.levels))
def test_a_detector_is_explained(row):
    example = built(row)
    before = state(example.model)
    with says(*row.says):
        explanation = explain(example.model, example.inputs)
    assert state(example.model) == before
    paths = explanation.layer_name.removeprefix("mean(").removesuffix(")").split(", ")
    alike = [[path for path, _ in walk(example.model) if without_numbers(path) == layer] for layer, _ in row.levels]
    assert paths == [of_layer[nth] for of_layer, (_, nth) in zip(alike, row.levels, strict=True)]
    assert explanation.heatmaps.shape[1:] == row.cells
    outputs = example.model(example.inputs, training=False)
    np.testing.assert_allclose(explanation.scores, row.score(outputs), rtol=1e-5)

    with says(*row.says):
        logger = GradCAMLogger(example.inputs, tracker="memory", on_error="raise")
        begin(logger, example.model)
        logger.on_epoch_end(0)
        logger.on_train_end()
    example.target = row.score
    expected = joined([gradcam(example, path) for path in paths], row.cells)
    assert expected.max(axis=(1, 2)).min() > 0
    for heatmaps in (explanation.heatmaps, logger.trackers[0].records[0].heatmaps):
        np.testing.assert_allclose(heatmaps, expected, atol=1e-4)

    # The best box is the first that the model's own decoder gives, of logits small enough for a sigmoid.
    (name,) = row.score.args
    outputs[name] /= np.abs(outputs[name]).max() / 4
    predicted = {
        key: keras.ops.convert_to_numpy(value) for key, value in decoded(example.model, outputs, example.inputs).items()
    }
    best = predicted["boxes"][:, 0][:, [1, 0, 3, 2]]
    seen = predicted["confidence"][:, 0] > 0
    np.testing.assert_allclose(explanation.boxes[seen], best[seen], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(explanation.targets[seen], predicted["labels"][:, 0][seen])
    near = explain(example.model, example.inputs, target=Detection(int(explanation.targets[0]), explanation.boxes))
    np.testing.assert_allclose(near.scores[0], explanation.scores[0], rtol=1e-5)
    (picture, _) = explanation.overlays(Overlay(size=image_size(example), caption=False))
    assert np.ptp(picture.astype(int)) > 0


def decoded(model, outputs, inputs):
    return model.decode_predictions(outputs, keras.ops.convert_to_tensor(inputs))


def joined(maps, cells):
    """The mean of the maps that are somewhere positive, each divided by its largest value."""
    levels = [np.maximum(of_level, 0) for of_level in maps]
    tops = [of_level.max(axis=(1, 2), keepdims=True) for of_level in levels]
    scaled = [(level / np.where(top > 0, top, 1))[..., None] for level, top in zip(levels, tops, strict=True)]
    scaled = [keras.ops.convert_to_numpy(keras.ops.image.resize(level, cells))[..., 0] for level in scaled]
    return np.sum(scaled, axis=0) / np.maximum(np.sum([top > 0 for top in tops], axis=0), 1)


@pytest.mark.parametrize("row", parameters((family, row) for family, row in ROWS if row.images))
def test_each_image_of_a_model_is_explained(row):
    example = built(row)
    before = state(example.model)
    with says(*row.says):
        explanations = explain(example.model, example.inputs, **settings_of(example))
    assert state(example.model) == before
    assert list(explanations) == [name for name, *_ in row.images]
    paths = {}
    for (name, layer, nth, call, cells), view in zip(row.images, explanations.values(), strict=True):
        alike = [path for path, _ in walk(example.model) if without_numbers(path) == layer]
        paths[name] = alike[nth], call
        assert view.layer_name == alike[nth] + (f"#{call + 1}" if call else "")
        assert view.heatmaps.shape[1:] == cells
        activations, gradients = activations_and_gradients(example, alike[nth], call=call)
        assert_close(view.heatmaps, activations, gradients)
        turned = replace(example, inputs={**example.inputs, name: example.inputs[name][::-1]})
        of_turned, _ = activations_and_gradients(turned, alike[nth], call=call)
        np.testing.assert_allclose(of_turned, activations[::-1], rtol=1e-4, atol=1e-6)  # The call is on this image.
        assert view.batch.image_size == example.inputs[name].shape[1:3]

    settings = settings_of(example)
    data = example.inputs if example.loss is None else (example.inputs, np.array([0, 1]))
    logger = GradCAMLogger(data, tracker="memory", on_error="raise", **settings)
    captured = {}

    def capture(epoch=0, logs=None):
        for name, (path, call) in paths.items():
            captured[name] = activations_and_gradients(example, path, call=call)

    with says(*row.says):
        if example.loss is not None:
            reference = keras.callbacks.LambdaCallback(on_epoch_end=capture)
            example.model.fit(*data, shuffle=False, verbose=0, callbacks=[logger, reference])
        else:
            begin(logger, example.model)
            logger.on_epoch_end(0)
            logger.on_train_end()
            capture()
    (record,) = logger.trackers[0].records
    assert list(record.views) == list(captured)
    for name, view in record.views.items():
        assert_close(view.heatmaps, *captured[name])
    assert len(record.overlays) == 2


ONE_LAYER = [(family, row) for family, row in ROWS if not (row.refused or row.levels or row.images)]


@pytest.mark.parametrize("row", parameters(ONE_LAYER))
def test_a_model_is_explained(row):
    example = built(row)
    before = state(example.model)
    with says(*row.says):
        explanation = explain(example.model, example.inputs, method="gradcam", **settings_of(example))
    assert state(example.model) == before
    path = explanation.layer_name
    assert_is_expected(row, example.model, path, explanation.heatmaps)
    tokens = () if row.special is None else (row.cells, tuple(range(row.special)))
    assert_close(explanation.heatmaps, *activations_and_gradients(example, path, *tokens))

    (picture, _) = explanation.overlays(Overlay(size=image_size(example), caption=False))
    if is_of_image(example):
        assert picture.shape == (*image_size(example), 3)
    assert picture.dtype == np.uint8
    assert np.ptp(picture.astype(int)) > 0

    trainable = [layer.trainable for _, layer in walk(example.model) if hasattr(layer, "trainable")]
    if hasattr(example.model, "preprocessor"):
        hub_pipelines()
    with says(*row.says):
        record, captured = fitted(example, path, tokens)
    assert_close(record.heatmaps, *captured)
    assert len(record.overlays) == 2
    assert trainable == [layer.trainable for _, layer in walk(example.model) if hasattr(layer, "trainable")]
    assert "call" not in vars(layer_at(example.model, path))


def is_of_image(example):
    """Whether people see an image, or its display; pictures of signals, volumes and clips are of many sizes."""
    return "display" in example.settings or max(array.ndim for array in keras.tree.flatten(example.inputs)) == 4


def image_size(example):
    """Height and width of the image that is shown: of the display, or the largest input."""
    shown = example.settings["display"](example.inputs) if "display" in example.settings else example.inputs
    return max(keras.tree.flatten(shown), key=lambda array: array.size).shape[1:3]


@pytest.mark.parametrize("row", parameters((family, row) for family, row in ROWS if row.refused))
def test_a_model_is_refused_with_a_way_out(row):
    example = built(row)
    settings = settings_of(example)
    with pytest.raises((ValueError, TypeError), match=re.escape(row.refused)):
        explain(example.model, example.inputs, **settings)
    logger = GradCAMLogger(example.inputs, tracker="memory", on_error="raise", **settings)
    with pytest.raises((ValueError, TypeError), match=re.escape(row.refused)):
        begin(logger, example.model)

    way_out = {"method": "gradcam"} | settings | dict(row.way_out)
    model = way_out.pop("model", lambda layer: layer)(example.model)
    with says(*row.says):
        explained = explain(model, example.inputs, **way_out)
    # A target by the name of an output is a view of that name.
    (explanation,) = explained.values() if isinstance(explained, Explanations) else (explained,)
    assert np.isfinite(explanation.heatmaps).all()
    assert np.ptp(explanation.heatmaps) > 0
    # Of a signal (N, T, C) a map (N, T) or (N, T, 1): channels are no places.
    first = keras.tree.flatten(example.inputs)[0]
    assert first.ndim != 3 or explanation.heatmaps[0].size <= first.shape[1]


@pytest.mark.zoo
@pytest.mark.parametrize("name", table.APPLICATIONS)
def test_an_application_is_explained(name):
    layer, nth, size = table.APPLICATIONS[name]
    with in_precision("float64" if name in table.PRECISE else "float32"):
        model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=3)
    model.compile("sgd", PROBABILITIES)
    # The sample twice, and then with bands of it changed.
    sample = np.random.default_rng(0).random((1, size, size, 3)).astype(np.float32) * 255
    example = Example(model, banded(sample, 0, Space(("height", "width"), (size, size))), PROBABILITIES)
    before = state(model)
    with says():
        explanation = explain(model, example.inputs)
    assert state(model) == before
    path = explanation.layer_name
    row = table.of_map(name, None, layer, nth, (3, 3))
    assert_is_expected(row, model, path, explanation.heatmaps)
    activations, gradients = activations_and_gradients(example, path)
    assert_close(explanation.heatmaps, activations, gradients)
    if name not in table.PRECISE:
        assert agreement(answers(activations)) >= LEAST
    logger = GradCAMLogger(example.inputs, tracker="memory", on_error="raise", max_samples=None)
    with says():
        begin(logger, model)
        logger.on_epoch_end(0)
        logger.on_train_end()
    assert_close(logger.trackers[0].records[0].heatmaps, activations, gradients)


def test_every_application_is_in_the_table():
    assert set(table.APPLICATIONS) == {name for name in dir(keras.applications) if name[0].isupper()}


def test_a_wrong_map_is_seen():
    """The check that all models are put to fails for maps that are nearly right."""
    (row,) = [row for row in table.FAMILIES["Tokens"] if row.fast]
    example = built(row)
    tokens = row.cells, tuple(range(row.special))
    alike = [path for path, _ in walk(example.model) if without_numbers(path) == row.layer]
    path = alike[row.nth]
    right = activations_and_gradients(example, path, *tokens)
    heatmaps = gradcam(example, path, *tokens)
    assert_close(heatmaps, *right)
    wrong = {
        "turned": heatmaps.swapaxes(1, 2),
        "of another sample": heatmaps[::-1],
        "with a special token for a cell": gradcam(example, path, row.cells, (0, 1, 2, 3, 20)),
        "of another layer": gradcam(example, alike[-1], *tokens),
    }
    example.target = lambda outputs: keras.ops.min(outputs, axis=-1)
    wrong["of another target"] = gradcam(example, path, *tokens)
    assert [name for name, maps in wrong.items() if is_close(maps, *right)] == []


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "kinds.md").read_text("utf-8") == pages.kinds_of_model()
