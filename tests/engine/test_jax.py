"""What is JAX's alone: arrays that training gives away, variables as arguments, programs for numbers of samples."""

import os
import subprocess
import sys

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import LOGITS, SHAPE, functional, images, labels
from paths import ROOT, TESTS

from keras_cam_callbacks import HeatmapLogger, MemoryTracker, explain

if keras.backend.backend() != "jax":
    pytest.skip("is of JAX alone", allow_module_level=True)

import jax

from keras_cam_callbacks.engine import jax as engine
from keras_cam_callbacks.engine.jax import frozen as frozen_part


def compiled(model, **settings):
    """Compiled as Keras does by default: the state of training is given away at each step."""
    model.compile(keras.optimizers.SGD(0.1), models.SPARSE, **settings)
    return model


class Anew(keras.callbacks.Callback):
    """Explains the same images anew at each epoch end, with the weights of that moment."""

    def __init__(self, x):
        super().__init__()
        self.x, self.maps = x, []

    def on_epoch_end(self, epoch, logs=None):
        self.maps.append(explain(self.model, self.x).heatmaps)


def fitted(*callbacks, freeze=False, epochs=3):
    keras.utils.set_random_seed(5)
    model = functional().model
    if freeze:
        for layer in model.layers[:-1]:
            layer.trainable = False
    compiled(model)
    history = model.fit(images(), labels(), epochs=epochs, batch_size=2, verbose=0, callbacks=list(callbacks)).history
    return history["loss"], [weight.tobytes() for weight in model.get_weights()]


@pytest.mark.parametrize("freeze", [False, True])
def test_a_compiled_fit_is_logged_with_the_weights_of_each_epoch_and_goes_on_as_without(freeze):
    logger = HeatmapLogger(images(), tracker=MemoryTracker(), on_error="raise")
    reuses = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: counts.append((logger._source.capturer.reuses, logger._source.capturer.traces))
    )
    anew, counts = Anew(images()), []
    logged = fitted(logger, anew, reuses, freeze=freeze)
    assert logged == fitted(freeze=freeze)
    for record, maps in zip(logger.tracker.records, anew.maps, strict=True):
        models.assert_maps_equal(record.heatmaps, maps, 1e-6)
    assert np.abs(anew.maps[0] - anew.maps[2]).max() > 1e-3 * np.abs(anew.maps[0]).max()
    assert counts == ([(0, 1), (1, 1), (2, 1)] if freeze else [(0, 1)] * 3)


def test_a_rest_that_is_not_the_same_to_the_last_bit_is_not_used(monkeypatch):
    def off(self, *arguments):
        values = rest(self, *arguments)
        return [jax.numpy.nextafter(value, value + 1) if value.dtype == "float32" else value for value in values]

    rest = frozen_part.FrozenPass._run_rest
    monkeypatch.setattr(frozen_part.FrozenPass, "_run_rest", off)
    logger, counts = HeatmapLogger(images(), tracker=MemoryTracker(), on_error="raise"), []
    fitted(
        logger,
        keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: counts.append(logger._source.capturer.reuses)),
        freeze=True,
    )
    assert counts == [0, 0, 0]


class Hidden:
    """Holds a layer where Keras doesn't look for it."""

    def __init__(self, layer):
        self.layer = layer


def test_variables_that_the_model_does_not_know_are_no_constants():
    dense = layers.Dense(3, name="outside")
    dense.build((None, 4))
    hidden = Hidden(dense)
    inputs = keras.Input(SHAPE)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(inputs))

    class Head(layers.Layer):
        def call(self, x):
            return hidden.layer(x)

    model = keras.Model(inputs, Head()(x))
    assert len(model.weights) == 2
    run = engine.compile_pass(lambda x: {"outputs": engine.plain_run(model, x).outputs}, model, (images(),))
    before = run(images())["outputs"]
    dense.bias.assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(run(images())["outputs"] - before, np.tile([[1.0, 2.0, 3.0]], (6, 1)), atol=1e-6)


def test_few_samples_are_filled_up_and_many_run_in_lots():
    model, sizes = functional().model, []

    def look(x):
        sizes.append(x.shape[0])
        return {"outputs": engine.plain_run(model, x).outputs}

    x = images(60)
    run = engine.compile_pass(look, model, (x[:8],))
    assert sizes == [8]
    for count in (8, 3, 8, 5, 20, 2, 60):
        found = run(x[:count])["outputs"]
        assert len(found) == count
        np.testing.assert_allclose(found, ops.convert_to_numpy(model(x[:count])), rtol=1e-5, atol=1e-6)
        assert not found.flags.writeable
    assert len(set(sizes)) < 5


@pytest.mark.parametrize("wrap", ["jit", "checkpoint"])
def test_logits_within_a_function_of_jax(wrap):
    ending = getattr(jax, wrap)(lambda z: jax.nn.softmax(2.0 * z))
    split = models.branched(ending)
    found = explain(split.model, images())
    expected = models.reference_gradcam(split, images(), lambda z: ops.max(2.0 * z, axis=1))
    models.assert_maps_equal(found.heatmaps, expected)


class NeedsNumbers(keras.Model):
    """Decides by a number, so that it can only run eagerly."""

    def __init__(self):
        super().__init__(name="needs_numbers")
        self.conv, self.dense = layers.Conv2D(4, 3, activation="relu", name="conv"), layers.Dense(3)

    def call(self, x):
        x = x + 1.0 if float(ops.max(x)) > 100 else x
        return self.dense(ops.mean(self.conv(x), axis=(1, 2)))


def test_an_eager_model_that_needs_numbers():
    model, x = NeedsNumbers(), images()
    model(x)
    model.compile("sgd", LOGITS, run_eagerly=True)
    found = explain(model, x, target=1)
    assert found.layer_name == "conv"
    activations = ops.convert_to_numpy(model.conv(x))
    kernel = ops.convert_to_numpy(model.dense.kernel.value)[:, 1]
    expected = (activations * kernel).sum(-1) / np.prod(activations.shape[1:3])
    models.assert_maps_equal(found.heatmaps, expected)


SEVERAL_DEVICES = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import keras, numpy as np
from models import functional, images, labels, SPARSE
from keras_cam_callbacks import GradCAMLogger, MemoryTracker, explain

def fit(distribution):
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(3)
    model = functional().model
    model.compile(keras.optimizers.SGD(0.1), SPARSE)
    logger = GradCAMLogger(images(5), tracker=MemoryTracker(), on_error="raise", metrics=["area"])
    model.fit(images(8), labels(8), batch_size=4, shuffle=False, epochs=2, verbose=0, callbacks=[logger])
    return [record.heatmaps for record in logger.tracker.records]

assert len(keras.distribution.list_devices()) == 2
one = fit(None)
two = fit(keras.distribution.DataParallel())
for a, b in zip(one, two, strict=True):
    assert np.abs(a).max() > 0
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
print("equal")
"""


def test_maps_of_a_model_on_several_devices():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SEVERAL_DEVICES],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "equal" in done.stdout, done.stderr[-2000:]


ALONE = """
import sys
import keras, numpy as np
from models import functional, images, labels, SPARSE
from keras_cam_callbacks import GradCAMLogger, explain
model = functional().model
explain(model, images())
model.compile("sgd", SPARSE)
logger = GradCAMLogger((images(), labels()), tracker="tensorboard", log_dir=sys.argv[1], on_error="raise")
model.fit(images(), labels(), verbose=0, callbacks=[logger])
print("loaded", sorted({"tensorflow", "torch"} & set(sys.modules)))
"""


def test_no_other_framework_is_imported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path)],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "loaded []" in done.stdout, done.stderr[-2000:]


def _environment():
    path = os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "KERAS_BACKEND": "jax"}
