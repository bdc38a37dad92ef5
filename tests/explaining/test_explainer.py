"""One trace for any number of batches: by `Explainer`, and by `explain` in a loop."""

import gc
import sys
import threading
import types
import weakref
from functools import partial

import keras
import models
import numpy as np
import pytest
from backends import most_traces, tf
from keras import layers, ops
from models import SHAPE

from keras_cam_callbacks import (
    Explainer,
    Explanations,
    GradCAMLogger,
    MaxActivation,
    Occlusion,
    activation_grids,
    explain,
)
from keras_cam_callbacks.explaining import tracing

METHODS = ["gradcam", "layercam", "saliency", "ablationcam", "guided_gradcam", "fullgrad", Occlusion(5, 5)]


def margin(outputs):
    return outputs[:, 0] - outputs[:, 1]


TARGETS = ["predicted", "true", 1, "both", "top2", margin]


def batch(count=5, seed=0, shape=SHAPE):
    random = np.random.default_rng(seed)
    return random.uniform(size=(count, *shape)).astype(np.float32), random.integers(0, models.CLASSES, count)


def anew(model, data, **settings):
    """What a new trace gives."""
    tracing._held.pop(model, None)
    return Explainer(model, data, **settings)(data)


def assert_same(one, other):
    if isinstance(one, Explanations):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
        return
    for name in ("heatmaps", "outputs", "scores", "targets", "predicted", "confidences"):
        if keras.backend.backend() == "tensorflow":
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        elif getattr(one, name) is not None:  # Compiled for another number of samples, the last bit may differ.
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_batch_is_explained_as_if_it_were_alone(method):
    model = models.functional().model
    explainer = Explainer(model, like=batch(1)[0], method=method)
    for count, seed in ((5, 1), (2, 2), (40, 3)):
        data = batch(count, seed)
        assert_same(explainer(data), anew(model, data, method=method))
    assert explainer.capturer.traces <= most_traces(3)


@pytest.mark.parametrize("target", TARGETS, ids=["predicted", "true", "a class", "both", "top2", "a rule"])
def test_targets_are_of_each_batch(target):
    model = models.functional().model
    explainer = Explainer(model, like=batch(1)[0], target=target)
    for count, seed in ((5, 1), (2, 2)):
        data = batch(count, seed)
        assert_same(explainer(data), explain(model, data, target=target))
    assert explainer.capturer.traces <= most_traces(3)


def test_what_it_is_made_like():
    model, (x, y) = models.functional().model, batch()
    expected = explain(model, (x, y))
    likes = [x, x[:1], (x, y), x.astype(np.float64)]
    if keras.backend.backend() == "tensorflow":
        likes.append(tf.data.Dataset.from_tensor_slices((x, y)).batch(2))
    for like in likes:
        assert_same(Explainer(model, like)(x), expected)


class Gated(keras.Model):
    """An image, and a number that is multiplied in behind the convolution."""

    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3, activation="relu", name="conv")
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(ops.mean(self.conv(inputs["image"]), axis=(1, 2)) * inputs["gain"])


# Ablation-CAM's weights are shares of the score, and so know no gain.
@pytest.mark.parametrize(("method", "times"), [("gradcam", 3), ("saliency", 3), ("ablationcam", 1), ("smoothgrad", 3)])
def test_inputs_beside_the_images_are_those_of_each_batch(method, times):
    model, explained = Gated(), []
    explainer = None
    for gain in (1.0, 3.0):
        inputs = {"image": batch()[0], "gain": np.full((5, 1), gain, np.float32)}
        explainer = explainer or Explainer(model, inputs, method=method, target=0)
        explained.append(explainer(inputs).heatmaps)
        np.testing.assert_allclose(explained[-1], explain(model, inputs, method=method, target=0).heatmaps, rtol=1e-5)
    # Where channels cancel out, the last bits of the scores are left.
    exact = 1e-6 if keras.backend.backend() == "tensorflow" else 1e-5 * np.abs(explained[1]).max()
    np.testing.assert_allclose(explained[1], times * explained[0], rtol=1e-4, atol=exact)
    assert np.abs(explained[0]).max() > 0


def test_it_takes_the_weights_that_the_model_has_then():
    model, (x, _) = models.functional().model, batch()
    explainer = Explainer(model, x)
    before = explainer(x)
    model.get_layer("conv2").kernel.assign(-model.get_layer("conv2").kernel)
    assert_same(explainer(x), anew(model, x))
    assert np.abs(explainer(x).heatmaps - before.heatmaps).max() > 0


WRONG = {
    "another size": (lambda x: np.ones((2, 20, 20, 3), np.float32), "of the one that the model was traced for"),
    "another dtype": (lambda x: (255 * x).astype(np.uint8), "of the one that the model was traced for"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_a_batch_that_is_not_like_it(changed, message):
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
    explainer = Explainer(model, batch()[0])
    with pytest.raises(ValueError, match=message):
        explainer(changed(batch()[0]))


def test_a_batch_of_another_structure():
    model = Gated()
    inputs = {"image": batch()[0], "gain": np.ones((5, 1), np.float32)}
    explainer = Explainer(model, inputs, target=0)
    with pytest.raises(ValueError, match=r"of the one that the model was traced for\. Received: samples of .*'gainn'"):
        explainer({"image": inputs["image"], "gainn": inputs["gain"]})


@pytest.mark.only_on("tensorflow", reason="neither JAX nor PyTorch has tensors of texts")
def test_texts_of_any_length_beside_the_images():
    image, text = keras.Input(SHAPE), keras.Input((1,), dtype="string")
    tokens = layers.StringLookup(vocabulary=["a", "long one"], output_mode="one_hot")(text)
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    model = keras.Model([image, text], layers.Dense(2)(layers.Concatenate()([pooled, tokens])))
    texts = [np.array([[word]] * 5) for word in ("a", "long one")]
    explainer = Explainer(model, [batch()[0], texts[0]])
    for words in texts:
        expected = model([tf.constant(batch()[0]), tf.constant(words)])
        np.testing.assert_allclose(explainer([batch()[0], words]).outputs, expected, rtol=1e-5)


def test_what_is_asked_of_an_explainer():
    model, x = models.functional().model, batch()[0]
    with pytest.raises(TypeError, match=r"`keeps` needs `like` to be a ValidationBatch\. Received: ndarray"):
        Explainer(model, x, keeps=True)
    explainer = Explainer(model, x)
    with pytest.raises(ValueError, match=r"measures_faithfulness=True\) works"):
        explainer.faithfulness({"": explainer(x)}, ["insertion"])
    measuring = Explainer(model, x, measures_faithfulness=True)
    with pytest.raises(ValueError, match=r"Received: 'insertio'\. Did you mean 'insertion'"):
        measuring.faithfulness({"": measuring(x)}, ["insertio"])
    assert list(measuring.faithfulness({"": measuring(x)}, ["insertion"])[""]) == ["insertion"]


def test_a_cast_of_a_layer_is_not_taken_for_it():
    inputs = keras.Input(SHAPE)
    conv = layers.Conv2D(4, 3, name="conv")(inputs)
    whole = layers.Lambda(lambda z: ops.cast(z, "int32"), name="whole")(conv)
    outputs = layers.GlobalAveragePooling2D()(conv)
    model = keras.Model(inputs, [outputs, whole])
    found = explain(model, batch()[0], "conv", method=MaxActivation(), target=lambda outputs: outputs[0][:, 0])
    assert np.abs(found.heatmaps).max() > 0


def test_a_fit_logs_its_own_batch_whatever_is_explained_beside_it():
    model, (x, y) = models.functional().model, batch()
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    other = models.functional().model
    logger = GradCAMLogger((x, y), tracker="memory", on_error="raise")

    def beside(epoch, logs):
        logger.max_samples = 2
        logger.explain(other)

    callbacks = [logger, keras.callbacks.LambdaCallback(on_epoch_end=beside)]
    model.fit(x, y, epochs=3, verbose=0, callbacks=callbacks)
    assert [len(record.samples) for record in logger.trackers[0].records] == [5, 5, 5]


def test_labels_and_indices_are_checked_for_each_batch():
    model, (x, y) = models.functional().model, batch()
    explainer = Explainer(model, x, target="true")
    with pytest.raises(ValueError, match="'true' needs class labels"):
        explainer(x)
    with pytest.raises(ValueError, match=r"Received: \[9\] in labels"):
        explainer((x, y * 0 + 9))
    assert explainer((x, y)).targets.tolist() == y.tolist()
    with pytest.raises(ValueError, match=r"for each of the 5 explained samples\. Received: 2 indices"):
        Explainer(model, x, target=[0, 1])(x)
    with pytest.raises(ValueError, match="between 0 and 2"):
        Explainer(model, x, target=7)


def test_it_does_not_hold_what_it_was_made_like():
    model, (x, _) = models.functional().model, batch()
    reference = weakref.ref(x)
    explainer = Explainer(model, x)
    del x
    gc.collect()
    assert reference() is None
    assert len(explainer(batch(2)[0]).heatmaps) == 2


# -- explain in a loop


class Gained(layers.Layer):
    """Multiplies by a number of its own."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.gain = 1.0

    def call(self, x):
        return x * self.gain


def gained():
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, name="conv", activation="relu"),
            Gained(name="gained"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="classes", activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def held(model):
    return [trace for _, _, trace in tracing._held.get(model, [])]


def is_traced(model, *arguments, **settings):
    """Whether explaining again traces the model, after a check that it gives what a new trace gives."""
    before = held(model)
    found = explain(model, *arguments, **settings)
    after, kept = held(model), tracing._held[model]
    assert_same(found, anew(model, *arguments, **settings))
    tracing._held[model] = kept
    return any(all(trace is not other for other in before) for trace in after)


def test_a_loop_traces_once():
    model = gained()
    assert is_traced(model, batch()[0])
    for seed in range(3):
        assert not is_traced(model, batch(3 + seed, seed)[0])
    assert is_traced(model, batch()[0], method="saliency")
    assert not is_traced(model, batch()[0], method="saliency")
    assert not is_traced(model, batch()[0])
    # Other classes, names and labels are no other trace; other shapes are.
    assert is_traced(model, batch()[0], target=[0, 1, 2, 0, 1])
    assert not is_traced(model, batch()[0], target=[2, 2, 2, 0, 0], class_names=["a", "b", "c"])
    assert not is_traced(model, batch()[0], target=2)
    assert is_traced(model, batch()[0].astype(np.float16))


def set_weights(model):
    model.set_weights([-weight for weight in model.get_weights()])


KEEPS = {
    "weights": set_weights,
    "training": lambda model: model.fit(*batch(8), verbose=0),
    "predictions": lambda model: model.predict(batch()[0], verbose=0),
    "trainable": lambda model: setattr(model.layers[0], "trainable", False),
    "another optimizer": lambda model: model.compile("adam", "sparse_categorical_crossentropy"),
}


def exchange_variable(model):
    """As a layer that is shared with another model would be."""
    dense, fresh = model.get_layer("classes"), layers.Dense(3)
    fresh.build((None, 4))
    vars(dense)["_kernel"] = dense._trainable_variables[0] = fresh.kernel


CHANGES = {
    "an activation": lambda model: setattr(model.layers[-1], "activation", keras.activations.linear),
    "a number of a layer": lambda model: setattr(model.get_layer("gained"), "gain", -2.0),
    "a layer more": lambda model: model.add(layers.Softmax()),
    "a layer less": lambda model: model.pop(),
    "another loss": lambda model: model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    "low rank adapters": lambda model: model.get_layer("classes").enable_lora(1),
    "another variable": exchange_variable,
    "a function": lambda model: vars(model.get_layer("gained")).update(call=lambda x: x * 3.0),
}


@pytest.mark.parametrize("change", KEEPS.values(), ids=KEEPS)
def test_what_leaves_the_trace(change):
    model = gained()
    explain(model, batch()[0])
    change(model)
    assert not is_traced(model, batch()[0])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_makes_a_new_trace(change):
    model = gained()
    explain(model, batch()[0])
    change(model)
    assert is_traced(model, batch()[0])


SETTINGS = types.ModuleType("settings")
SETTINGS.SCALE = 1.0
SCALE = 1.0


def helper(x):
    return x * SCALE


class Reading(layers.Layer):
    """Reads numbers from everywhere."""

    gain = 1.0

    def __init__(self, **settings):
        super().__init__(**settings)
        self.options = types.SimpleNamespace(gain=1.0)
        self.mask = np.ones((10, 14, 300), np.float32)[..., :4]
        self.large = np.ones(2**17, np.float32)
        of_closure = {"gain": 1.0}
        self.inner = lambda x: x * of_closure["gain"]

    def call(self, x):
        x = helper(x) * SETTINGS.SCALE * self.gain * self.options.gain * float(self.large[-1])
        return ops.multiply(self.inner(x), self.mask)


def set_global(name, value):
    globals()[name] = value


ELSEWHERE = {
    "a global of a helper": lambda layer: set_global("SCALE", 3.0),
    "a module of settings": lambda layer: setattr(SETTINGS, "SCALE", 3.0),
    "the layer's class": lambda layer: setattr(Reading, "gain", 3.0),
    "an object of the layer": lambda layer: setattr(layer.options, "gain", 3.0),
    "an array": lambda layer: layer.mask.fill(3.0),
    "a large array": lambda layer: layer.large.fill(3.0),
    "a closure": lambda layer: layer.inner.__closure__[0].cell_contents.update(gain=3.0),
    "nothing": lambda layer: None,
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_a_layer_reads_elsewhere_counts(what, monkeypatch):
    for owner, name in ((sys.modules[__name__], "SCALE"), (SETTINGS, "SCALE"), (Reading, "gain")):
        monkeypatch.setattr(owner, name, 1.0)
    parts = [layers.Conv2D(4, 3, name="conv"), Reading(name="reading"), layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input(SHAPE), *parts, layers.Dense(3)])
    before = explain(model, batch()[0], target=0)
    ELSEWHERE[what](model.get_layer("reading"))
    found = explain(model, batch()[0], target=0)
    assert_same(found, anew(model, batch()[0], target=0))
    bias = np.asarray(model.layers[-1].bias)[0]
    times = 1 if what == "nothing" else 3
    np.testing.assert_allclose(found.scores - bias, times * (before.scores - bias), rtol=1e-4, atol=1e-5)


class Closed(dict):
    """Can't be looked into."""

    def items(self):
        raise OSError("closed")


def test_what_can_not_be_read_makes_a_new_trace():
    model = gained()
    explain(model, batch()[0])
    vars(model.get_layer("gained"))["closed"] = Closed()
    for _ in range(2):
        assert is_traced(model, batch()[0])


UNIT = 0


def of_unit(outputs):
    return outputs[:, UNIT]


def test_a_rule_is_asked_anew_each_time(monkeypatch):
    model, x = models.functional().model, batch()[0]
    outputs = explain(model, x).outputs
    for unit in range(3):
        monkeypatch.setattr(sys.modules[__name__], "UNIT", unit)
        np.testing.assert_allclose(explain(model, x, target=of_unit).scores, outputs[:, unit], rtol=1e-5)


class Itself(keras.Model):
    """A layer of it reaches the model."""

    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3, activation=self.squared, name="conv")
        self.dense = layers.Dense(3)

    def squared(self, x):
        return x * x

    def call(self, x):
        return self.dense(ops.mean(self.conv(x), axis=(1, 2)))


BUILDS = {
    "sequential": lambda: models.sequential().model,
    "nested": lambda: models.nested_twice().model,
    "subclassed": lambda: models.branched().model,
    "functional": lambda: models.functional().model,
    "one that its layer reaches": Itself,
}


@pytest.mark.parametrize("method", ["gradcam", "saliency", "ablationcam", "cam"])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_model_is_let_go_of_with_its_traces(build, method):
    model = build()
    try:
        explain(model, models.images(), method=method)
    except ValueError:
        assert method == "cam"
    explain(model, models.images())
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_a_rule_that_holds_the_model_does_not_keep_it():
    def explained():
        model = models.functional().model
        explain(model, batch()[0], target=lambda outputs: outputs[:, 0] * len(model.layers))
        explain(model, batch()[0], "conv1", target=lambda outputs, *, own=model: outputs[:, 0] * len(own.layers))
        return weakref.ref(model)

    reference = explained()
    gc.collect()
    assert reference() is None


def test_only_the_last_traces_are_held():
    model, (x, _) = models.functional().model, batch()
    for size in range(1, 15):
        explain(model, x, batch_size=size)
    assert len(held(model)) == 8


def at_once(*works):
    """Does all of it in threads that change often; returns what was raised."""
    failed, interval = [], sys.getswitchinterval()

    def work(action):
        try:
            action()
        except Exception as error:  # Returned.
            failed.append(error)

    threads = [threading.Thread(target=work, args=(action,)) for action in works]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return failed


def test_threads_that_explain_at_once():
    model, x, found = models.functional().model, batch()[0], []
    assert at_once(*[lambda: found.append(explain(model, x))] * 4) == []
    assert len(held(model)) == 1
    expected = anew(model, x)
    assert len(found) == 4
    for explanation in found:
        np.testing.assert_allclose(explanation.heatmaps, expected.heatmaps, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("eager", [False, True])
def test_threads_that_look_into_one_model_leave_it_as_it_was(eager):
    model, x = models.functional().model, batch()[0]
    model.run_eagerly = eager
    works = [partial(activation_grids, model, x), partial(explain, model, x, method="saliency")]
    assert at_once(*works * 2) == []
    assert [layer.name for layer in model.layers if "call" in vars(layer)] == []


def test_a_callback_beside_it():
    """A fit in between, and the fixed batch of a callback, have traces of their own."""
    model, (x, y) = models.functional().model, batch()
    explain(model, x)
    logger = GradCAMLogger((x, y), tracker="memory", on_error="raise")
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[logger])
    assert_same(explain(model, (x, y)), logger.explain())


def test_pictures_are_made_when_they_are_wanted():
    model, (x, _) = models.functional().model, batch()
    explanation = explain(model, x)
    assert "look" not in vars(explanation.batch)
    before = explanation.batch.inputs.copy()
    x[:] = 0  # The user's own array, which may be used again.
    assert len(explanation.overlays()) == 5
    assert "look" in vars(explanation.batch)
    np.testing.assert_array_equal(explanation.batch.inputs, before)
    shown = explain(model, before, display=[np.full((4, 4, 3), 7, np.uint8)] * 5)
    assert shown.batch.value_range == "given"
