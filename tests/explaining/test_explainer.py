"""One trace for any number of batches: by `Explainer`, and by `explain` in a loop."""

import gc
import threading
import weakref
from typing import ClassVar

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from models import SHAPE

from keras_cam_callbacks import Explainer, Explanations, GradCAMLogger, Occlusion, explain
from keras_cam_callbacks.explaining import tracing

METHODS = ["gradcam", "layercam", "saliency", "ablationcam", "guided_gradcam", "fullgrad", Occlusion(5, 5)]


def margin(outputs):
    return outputs[:, 0] - outputs[:, 1]


TARGETS = ["predicted", "true", 1, "both", "top2", margin]


def batch(count=5, seed=0, shape=SHAPE):
    random = np.random.default_rng(seed)
    return random.uniform(size=(count, *shape)).astype(np.float32), random.integers(0, models.CLASSES, count)


def assert_same(one, other):
    if isinstance(one, Explanations):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
        return
    for name in ("heatmaps", "outputs", "scores", "targets", "predicted", "confidences"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_batch_is_explained_as_if_it_were_alone(method):
    model = models.functional().model
    explainer = Explainer(model, like=batch(1)[0], method=method)
    for count, seed in ((5, 1), (2, 2), (40, 3)):
        data = batch(count, seed)
        assert_same(explainer(data), Explainer(model, data, method=method)(data))
    assert explainer.capturer.traces == 1


@pytest.mark.parametrize("target", TARGETS, ids=["predicted", "true", "a class", "both", "top2", "a rule"])
def test_targets_are_of_each_batch(target):
    model = models.functional().model
    explainer = Explainer(model, like=batch(1)[0], target=target)
    for count, seed in ((5, 1), (2, 2)):
        data = batch(count, seed)
        assert_same(explainer(data), explain(model, data, target=target))
    assert explainer.capturer.traces == 1


def test_what_it_is_made_like():
    model, (x, y) = models.functional().model, batch()
    expected = explain(model, (x, y))
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    for like in (x, x[:1], (x, y), dataset, x.astype(np.float64)):
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
    np.testing.assert_allclose(explained[1], times * explained[0], rtol=1e-4, atol=1e-6)
    assert np.abs(explained[0]).max() > 0


def test_it_takes_the_weights_that_the_model_has_then():
    model, (x, _) = models.functional().model, batch()
    explainer = Explainer(model, x)
    before = explainer(x)
    model.get_layer("conv2").kernel.assign(-model.get_layer("conv2").kernel)
    assert_same(explainer(x), Explainer(model, x)(x))
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
    held = weakref.ref(x)
    explainer = Explainer(model, x)
    del x
    gc.collect()
    assert held() is None
    assert len(explainer(batch(2)[0]).heatmaps) == 2


# -- explain in a loop


class Counted(layers.Layer):
    """Counts how often it is traced, and multiplies by a number of its own."""

    traced: ClassVar[list[int]] = []

    def __init__(self, **settings):
        super().__init__(**settings)
        self.gain = 1.0

    def call(self, x):
        self.traced.append(1)
        return x * self.gain


def counting():
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, name="conv", activation="relu"),
            Counted(name="counted"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="classes", activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model, Counted.traced


def traces_of(model, count, *arguments, **settings):
    """How often explaining again traces the model, after a check that it gives what a new trace gives."""
    before = len(count)
    found = explain(model, *arguments, **settings)
    traced = len(count) - before
    assert_same(found, Explainer(model, *arguments, **settings)(*arguments))
    return traced


def test_a_loop_traces_once():
    model, count = counting()
    assert traces_of(model, count, batch()[0])
    for seed in range(3):
        assert not traces_of(model, count, batch(3 + seed, seed)[0])
    assert traces_of(model, count, batch()[0], method="saliency")
    assert not traces_of(model, count, batch()[0], method="saliency")
    assert not traces_of(model, count, batch()[0])
    # Other classes, names and labels are no other trace; other shapes are.
    assert traces_of(model, count, batch()[0], target=[0, 1, 2, 0, 1])
    assert not traces_of(model, count, batch()[0], target=[2, 2, 2, 0, 0], class_names=["a", "b", "c"])
    assert not traces_of(model, count, batch()[0], target=2)


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
    "a number of a layer": lambda model: setattr(model.get_layer("counted"), "gain", -2.0),
    "a layer more": lambda model: model.add(layers.Softmax()),
    "a layer less": lambda model: model.pop(),
    "another loss": lambda model: model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    "low rank adapters": lambda model: model.get_layer("classes").enable_lora(1),
    "another variable": exchange_variable,
    "a function": lambda model: vars(model.get_layer("counted")).update(call=lambda x: x * 3.0),
}


@pytest.mark.parametrize("change", KEEPS.values(), ids=KEEPS)
def test_what_leaves_the_trace(change):
    model, count = counting()
    explain(model, batch()[0])
    change(model)
    before = len(count)
    found = explain(model, batch()[0])
    assert len(count) == before
    assert_same(found, Explainer(model, batch()[0])(batch()[0]))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_makes_a_new_trace(change):
    model, _ = counting()
    explain(model, batch()[0])
    change(model)
    assert_same(explain(model, batch()[0]), Explainer(model, batch()[0])(batch()[0]))
    assert len(tracing._held[model]) == 2


BUILDS = {
    "sequential": lambda: models.sequential().model,
    "nested": lambda: models.nested_twice().model,
    "subclassed": lambda: models.branched().model,
    "functional": lambda: models.functional().model,
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
    held = weakref.ref(model)
    del model
    gc.collect()
    assert held() is None


def test_a_rule_that_holds_the_model_does_not_keep_it():
    def explained():
        model = models.functional().model
        explain(model, batch()[0], target=lambda outputs: outputs[:, 0] * len(model.layers))
        return weakref.ref(model)

    held = explained()
    gc.collect()
    assert held() is None


def test_only_the_last_traces_are_held():
    model, (x, _) = models.functional().model, batch()
    for size in range(1, 15):
        explain(model, x, batch_size=size)
    assert len(tracing._held[model]) == 8


def test_threads_that_explain_at_once():
    model, (x, _) = models.functional().model, batch()
    expected, found, failed = explain(model, x), [], []

    def work():
        try:
            found.extend(explain(model, x) for _ in range(5))
        except Exception as error:  # Shown by the assertion below.
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(found) == 20
    for explanation in found:
        np.testing.assert_allclose(explanation.heatmaps, expected.heatmaps, rtol=1e-5, atol=1e-7)


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
