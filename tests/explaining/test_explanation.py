import keras
import models
import numpy as np
import pytest
from keras import layers
from models import CLASSES, LOGITS, SHAPE, Split, functional

from keras_cam_callbacks import GradCAMLogger, HeatmapLogger, MemoryTracker, Overlay, explain


class Twice(keras.Model):
    """Calls one convolution twice and another never."""

    def __init__(self):
        super().__init__(name="twice")
        self.twice = layers.Conv2D(3, 3, padding="same", name="again")
        self.never = layers.Conv2D(3, 3, name="never")
        self.never.build((None, *SHAPE))
        self.once = layers.Conv2D(4, 3, name="once")
        self.average = layers.GlobalAveragePooling2D(name="average")
        self.dense = layers.Dense(CLASSES, activation="softmax", name="classes")

    def call(self, x):
        return self.dense(self.average(self.once(self.twice(self.twice(x)))))


class Pair(layers.Layer):
    def call(self, x):
        return x, 2 * x


def side_branch():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, name="used")(inputs)
    y = layers.Conv2D(4, 3, name="aside")(inputs)
    flat = layers.GlobalAveragePooling2D(name="average")
    outputs = {"main": layers.Dense(3, name="main")(flat(x)), "other": layers.Dense(3, name="other")(flat(y))}
    model = keras.Model(inputs, outputs, name="branches")
    model.compile("sgd", {"main": LOGITS, "other": LOGITS})
    return model


def two_of_a_name():
    def block(name):
        return keras.Sequential([layers.Conv2D(3, 3, name="conv")], name=name)

    return keras.Sequential(
        [keras.Input(SHAPE), block("first"), block("second"), layers.GlobalAveragePooling2D(), layers.Dense(3)],
        name="blocks",
    )


def with_pair():
    inputs = keras.Input(SHAPE)
    a, b = Pair(name="pair")(layers.Conv2D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Add(name="add")([a, b]))))


def only_dense():
    return keras.Sequential([keras.Input(SHAPE), layers.Flatten(name="flat"), layers.Dense(3)], name="flat_model")


def regression():
    model = functional(1, None).model
    model.compile("sgd", "mse")
    return model


def failing_rule(outputs):
    raise ArithmeticError("no")


def main_output(outputs):
    return outputs["main"][:, 0]


X, Y = models.images(), models.labels()
NAN = X.copy()
NAN[4, 0, 0, 0] = np.nan
TWICE_WOULD_DO = "These layers would do: 'once'"
BOTH = {"main": Y, "other": Y}
ERRORS = {
    # model, settings, validation data, type, what the message says
    "unknown layer": (
        functional, {"layer_name": "conv3"}, (X, Y), ValueError,
        ["'functional'", "Received: 'conv3'", "Did you mean 'conv", "These layers would do: 'conv1', 'conv2'."],
    ),
    "no spatial output": (
        functional, {"layer_name": "average"}, (X, Y), ValueError,
        ["of more than one position", "layer 'average' with output shape (None, 5)", "would do: 'conv1', 'conv2'"],
    ),
    "several tensors": (
        with_pair, {"layer_name": "pair"}, (X, Y), ValueError, ["'pair' with output shape of several tensors", "'add'"]
    ),
    "called twice": (Twice, {"layer_name": "again"}, (X, Y), ValueError, ["'again', called 2 times", TWICE_WOULD_DO]),
    "never called": (
        Twice, {"layer_name": "never"}, (X, Y), ValueError, ["'never', called no times", "doesn't use", TWICE_WOULD_DO]
    ),
    "no gradient": (
        side_branch, {"layer_name": "aside", "target": main_output}, (X, BOTH), ValueError,
        ["must depend on the explained layer", "layer 'aside'", "target 'main_output'"],
    ),
    "several outputs": (
        side_branch, {}, (X, BOTH), ValueError,
        ["one output of shape (samples, classes)", "'main': (None, 3)", "lambda outputs: outputs['main'][:, 2]"],
    ),
    "nothing to choose": (
        only_dense, {}, (X, Y), ValueError, ["needs a layer whose output is a feature map", "'flat_model'", "'flat'"]
    ),
    "ambiguous name": (
        two_of_a_name, {"layer_name": "conv"}, (X, Y), ValueError,
        ["the name of 2 layers: 'first/conv', 'second/conv'", "Give one of these paths"],
    ),
    "layer of another model": (
        functional, {"layer_name": layers.Conv2D(1, 1, name="stranger")}, (X, Y), ValueError,
        ["layer 'stranger', which model 'functional' doesn't contain", "'conv2'"],
    ),
    "neither name nor layer": (functional, {"layer_name": 3}, (X, Y), TypeError, ["Received: 3 of type int"]),
    "no samples": (functional, {}, (X[:0], Y[:0]), ValueError, ["at least one sample", "(0, 12, 16, 3)"]),
    "labels too few": (
        functional, {}, (X, Y[:4]), ValueError, ["of the same number", "x of length [6] and y of length [4]"]
    ),
    "class out of range": (
        functional, {"target": 3}, (X, Y), ValueError, ["between 0 and 2", "Received: [3] in `target`"]
    ),
    "negative class": (functional, {"target": -1}, (X, Y), ValueError, ["between 0 and 2", "Received: [-1]"]),
    "label out of range": (
        functional, {"target": "true"}, (X, Y + 2), ValueError, ["between 0 and 2", "Received: [3, 4] in labels"]
    ),
    "true without labels": (
        functional, {"target": "true"}, X, ValueError, ["target='true' needs class labels", "Give (x, y)"]
    ),
    "one index too few": (
        functional, {"target": [0, 1]}, (X, Y), ValueError, ["each of the 6 explained samples", "Received: 2 indices"]
    ),
    "target of no kind": (functional, {"target": 0.5}, (X, Y), TypeError, ["Received: 0.5 of type float"]),
    "class of a regression": (
        regression, {"target": 1}, (X, Y), ValueError, ["from 0 to 0", "Received: [1]"]
    ),
    "NaN": (functional, {}, (NAN, Y), ValueError, ["finite numbers only", "samples [4] of 6"]),
    "wrong size": (
        functional, {}, (X[:, :8], Y), ValueError, ["(12, 16, 3) that model 'functional' takes", "Received: (8, 16, 3)"]
    ),
    "wrong number of inputs": (
        functional, {}, ({"a": X, "b": X}, Y), ValueError, ["one array for each of the 1 inputs", "Received: 2 arrays"]
    ),
    "rule of wrong shape": (
        functional, {"target": lambda outputs: outputs}, (X, Y), ValueError, ["one number for each sample", "(None, 3)"]
    ),
    "rule that fails": (
        functional, {"target": failing_rule}, (X, Y), ValueError, ["failing_rule", "ArithmeticError: no"]
    ),
    "too few class names": (
        functional, {"class_names": ["a"]}, (X, Y), ValueError, ["model's 3 classes", "Received: ['a']"]
    ),
    "batch size": (functional, {"batch_size": 0}, (X, Y), ValueError, ["`batch_size` must be", "Received: 0"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")  # The layer that is never called.
@pytest.mark.parametrize(("build", "settings", "data", "kind", "parts"), ERRORS.values(), ids=ERRORS)
def test_errors_come_before_the_first_batch(build, settings, data, kind, parts):
    built = build()
    model = built.model if isinstance(built, Split) else built
    if not model.compiled:
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    batches = []
    count = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: batches.append(batch))
    logger = GradCAMLogger(data, tracker=MemoryTracker(), **settings)
    y = BOTH if model.name == "branches" else Y
    with pytest.raises(kind) as error:
        model.fit(X, y, verbose=0, callbacks=[logger, count])
    assert batches == []
    assert logger.tracker.records == []
    for part in parts:
        assert part in str(error.value)
    model.fit(X, y, verbose=0, callbacks=[count])
    assert batches  # The count works, and the model trains after the error.


def test_rule_out_of_range_is_told_once_the_model_has_run():
    split = functional()

    def seven(outputs):
        return keras.ops.full(keras.ops.shape(outputs)[:1], 7, "int32")

    with pytest.raises(ValueError, match=r"between 0 and 2. Received: \[7\] from 'seven'"):
        explain(split.model, X, target=seven)


def test_unknown_method_is_told_when_the_logger_is_made():
    with pytest.raises(ValueError, match=r"must be one of cam, gradcam.* Received: 'gradcampp'. Did you mean"):
        HeatmapLogger((X, Y), method="gradcampp")


class WithGivenValue(layers.Layer):
    """Makes a variable of a given value, which Keras refuses in a stateless scope."""

    def build(self, shape):
        self.factor = keras.Variable(np.float32(2.0), trainable=False)

    def call(self, x):
        return x * self.factor


def test_a_model_that_has_not_run_yet_is_built():
    model = keras.Sequential([layers.Conv2D(4, 3), WithGivenValue(), layers.GlobalAveragePooling2D(), layers.Dense(2)])
    x = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    assert not model.built
    explanation = explain(model, x, model.layers[0], target=1)
    assert explanation.heatmaps.shape == (2, 6, 6)
    np.testing.assert_allclose(explanation.scores, keras.ops.convert_to_numpy(model(x))[:, 1], rtol=1e-5)


def test_what_is_no_model_is_told():
    with pytest.raises(TypeError, match=r"must be a Keras 3 model\. Received: 'vgg16' of type str"):
        explain("vgg16", np.zeros((1, 8, 8, 3), np.float32))


# Pictures


def negative(images):
    return 1 - images


COLUMNS = {"original": list(np.full((6, 50, 80, 3), 40, np.uint8)), "model input": None, "negative": negative}


def test_named_displays_are_the_columns_of_a_panel():
    model = functional().model
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    panel = Overlay(layout="panel", caption=False)
    explanation = explain(model, (X, Y), display=COLUMNS)
    drawn = explanation.overlays(panel)
    beside = {"original": COLUMNS["original"], "model input": explain(model, (X, Y)).batch.display}
    shown = explain(model, (X, Y), display=negative)
    expected = panel.draw(shown.batch.display, shown.heatmaps, beside=beside, title="negative")
    np.testing.assert_array_equal(drawn, expected)
    # 12 x 16 px enlarged by 10: the original, 50 x 80, is 192 px wide.
    assert {picture.shape for picture in drawn} == {(120 + 17 + 6, 192 + 4 * 160 + 16, 3)}
    logger = GradCAMLogger((X, Y), display=COLUMNS, overlay=panel, tracker=MemoryTracker())
    model.fit(X, Y, verbose=0, callbacks=[logger])
    assert {picture.shape for picture in logger.tracker.records[0].overlays} == {drawn[0].shape}
    # What is not a panel is as with the last one alone.
    np.testing.assert_array_equal(explanation.overlays(), shown.overlays())


def test_outputs_are_printed_below_the_captions():
    explanation = explain(functional().model, (X, Y))
    captions = [
        f"{sample.caption}\noutputs {' '.join(f'{value:.2f}' for value in row)}"
        for sample, row in zip(explanation.samples(), explanation.outputs, strict=True)
    ]
    drawn = explanation.overlays(Overlay(caption="outputs"))
    np.testing.assert_array_equal(drawn, Overlay().draw(explanation.batch.display, explanation.heatmaps, captions))
    assert drawn[0].shape[0] > explanation.overlays()[0].shape[0]


def test_a_model_of_several_outputs_has_no_line_of_them():
    explanation = explain(side_branch(), (X, BOTH), "used", target=main_output)
    assert explanation.outputs is None
    np.testing.assert_array_equal(explanation.overlays(Overlay(caption="outputs")), explanation.overlays())


def test_newlines_in_class_names_break_no_line():
    model = functional().model
    names, read = ["a ", "b ", "c "], ["a\n", "b\n", "c\n"]
    expected, drawn = (explain(model, (X, Y), class_names=each).overlays() for each in (names, read))
    np.testing.assert_array_equal(drawn, expected)
