"""What is JAX's alone: arrays that training gives away, variables as arguments, programs for numbers of samples."""

import os
import subprocess
import sys
from contextlib import contextmanager

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import LOGITS, SHAPE, functional, images, labels
from paths import ROOT, TESTS

from keras_cam_callbacks import Explainer, HeatmapLogger, MemoryTracker, explain

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


@contextmanager
def compilations():
    """Counts what is traced or compiled meanwhile, as JAX itself tells."""
    names = []

    def note(event, duration, **settings):
        if event.endswith(("jaxpr_trace_duration", "backend_compile_duration")):
            names.append(settings.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


class Counting(HeatmapLogger):
    """Notes what each of its epoch ends has traced or compiled."""

    def on_epoch_end(self, epoch, logs=None):
        with compilations() as names:
            super().on_epoch_end(epoch, logs)
        self.names = [*getattr(self, "names", []), names]


@pytest.mark.parametrize("batch_size", [32, 4], ids=["at once", "with a smaller last chunk"])
@pytest.mark.parametrize("freeze", [False, True])
def test_nothing_is_compiled_in_later_epochs(freeze, batch_size):
    logger = Counting((images(), labels()), batch_size=batch_size, tracker=MemoryTracker(), on_error="raise")
    fitted(logger, freeze=freeze, epochs=4)
    assert logger.names[1:] == [[], [], []]


def test_a_smaller_last_chunk_is_compiled_with_the_others():
    """Sixteen images in chunks of six: what runs is compiled once, and so it is where a batch has one more image."""
    model, x = functional().model, images(16)
    explainer = Explainer(model, x, target=1, batch_size=6)
    whole = explain(model, x, target=1).heatmaps
    for count, runs in ((16, 1), (13, 0), (16, 0)):
        with compilations() as names:
            found = explainer(x[:count])
        assert names.count("jit(function)") == runs
        np.testing.assert_allclose(found.heatmaps, whole[:count], atol=1e-6 * np.abs(whole).max())


def test_weights_are_no_constants_of_the_program():
    model = functional().model
    program = Explainer(model, images(), target=1).capturer._pass._program
    assert sum(np.size(constant) for constant in program.traced.jaxpr.consts) < 10
    assert {id(variable) for variable in model.weights} <= set(map(id, program.variables))


class InTheMiddle(keras.callbacks.Callback):
    """Explains at the end of each batch, where Keras holds the weights elsewhere."""

    def __init__(self, x, error=None):
        super().__init__()
        self.x, self.error, self.maps, self.weights = x, error, [], []

    def on_train_batch_end(self, batch, logs=None):
        self.maps.append(explain(self.model, self.x, target=1).heatmaps)
        self.weights.append(self.model.get_weights())
        if self.error is not None and len(self.maps) == 3:
            raise self.error


@pytest.mark.parametrize("settings", [{}, {"steps_per_execution": 2}, {"run_eagerly": True}])
def test_maps_in_the_middle_of_an_epoch_are_of_the_weights_of_that_moment(settings):
    keras.utils.set_random_seed(5)
    model, x = compiled(functional().model, **settings), images()
    logger, middle = HeatmapLogger(x, tracker=MemoryTracker(), target=1, on_error="raise"), InTheMiddle(x)
    model.fit(x, labels(), epochs=2, batch_size=1, shuffle=False, verbose=0, callbacks=[logger, middle])
    assert len(middle.maps) == (6 if settings.get("steps_per_execution") else 12)
    models.assert_maps_equal(logger.tracker.records[-1].heatmaps, middle.maps[-1], 1e-6)
    for weights, maps in zip(middle.weights, middle.maps, strict=True):
        model.set_weights(weights)
        models.assert_maps_equal(maps, explain(model, x, target=1).heatmaps, 1e-6)
    assert np.abs(middle.maps[0] - middle.maps[-1]).max() > 1e-3 * np.abs(middle.maps[0]).max()


def test_a_second_fit_after_one_that_was_interrupted():
    keras.utils.set_random_seed(5)
    model, x = compiled(functional().model), images()
    logger = HeatmapLogger(x, tracker=MemoryTracker(), target=1, on_error="raise")
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, labels(), batch_size=1, verbose=0, callbacks=[logger, InTheMiddle(x, KeyboardInterrupt())])
    models.assert_maps_equal(logger.explain().heatmaps, explain(model, x, target=1).heatmaps, 1e-6)
    model.fit(x, labels(), epochs=2, batch_size=1, verbose=0, callbacks=[logger])
    models.assert_maps_equal(logger.tracker.records[-1].heatmaps, explain(model, x, target=1).heatmaps, 1e-6)


class OfAPart(keras.callbacks.Callback):
    """Explains a part of the model that is trained, in the middle of an epoch."""

    def __init__(self, part, x):
        super().__init__()
        self.part, self.x, self.maps = part, x, []

    def on_train_batch_end(self, batch, logs=None):
        with pytest.raises(ValueError, match=r"must have its weights.*'part'.*jax_state_sync\(\)"):
            explain(self.part, self.x, target=1)
        self.model.jax_state_sync()
        self.maps.append(explain(self.part, self.x, target=1).heatmaps)


def test_a_part_of_the_model_in_training_is_refused_until_it_has_its_weights():
    part, x = keras.Sequential(functional().model.layers, name="part"), images()
    model = compiled(keras.Sequential([keras.Input(SHAPE), part]))
    explaining = OfAPart(part, x)
    model.fit(x, labels(), batch_size=3, verbose=0, callbacks=[explaining])
    models.assert_maps_equal(explaining.maps[-1], explain(part, x, target=1).heatmaps, 1e-6)


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

    def __init__(self, activation=None, ending=None, units=3):
        super().__init__(name="needs_numbers")
        self.conv = layers.Conv2D(4, 3, activation="relu", name="conv")
        self.dense, self.ending = layers.Dense(units, activation), ending or (lambda x: x)

    def call(self, x):
        x = x + 1.0 if float(ops.max(x)) > 100 else x
        return self.ending(self.dense(ops.mean(self.conv(x), axis=(1, 2))))


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


ENDINGS = {
    "Keras' activation": {"activation": "softmax"},
    "a layer": {"ending": layers.Softmax()},
    "keras.ops": {"ending": ops.softmax},
    "jax.nn": {"ending": lambda x: jax.nn.softmax(x)},
    "sigmoid": {"activation": "sigmoid", "units": 1},
}


@pytest.mark.parametrize("settings", ENDINGS.values(), ids=ENDINGS)
def test_logits_of_an_eager_model_that_needs_numbers(settings):
    model, x = NeedsNumbers(**settings), images()
    model(x)
    model.compile("sgd", "mse", run_eagerly=True)
    softmax = jax.nn.softmax
    found = explain(model, x, target=1, output_kind="classes")
    activations = ops.convert_to_numpy(model.conv(x))
    kernel, bias = map(ops.convert_to_numpy, (model.dense.kernel.value, model.dense.bias.value))
    logits = activations.mean(axis=(1, 2)) @ kernel + bias
    column = min(1, kernel.shape[1] - 1)
    np.testing.assert_allclose(found.scores, logits[:, column], rtol=1e-4, atol=1e-6)
    models.assert_maps_equal(
        found.heatmaps, (activations * kernel[:, column]).sum(-1) / np.prod(activations.shape[1:3])
    )
    assert jax.nn.softmax is softmax


SEVERAL_DEVICES = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, keras, numpy as np
from keras import distribution as over
from models import functional, images, labels, SPARSE
from keras_cam_callbacks import HeatmapLogger, MemoryTracker, explain

METHODS = ["gradcam", "ablationcam", "guided_backprop", "fullgrad"]

def maps(distribution, freeze):
    over.set_distribution(distribution)
    keras.utils.set_random_seed(3)
    model = functional().model
    for layer in model.layers[:-1]:
        layer.trainable = not freeze
    model.compile(keras.optimizers.SGD(0.1), SPARSE)
    logger = HeatmapLogger(images(5), tracker=MemoryTracker(), target=1, on_error="raise", metrics=["area"])
    reuses = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: reuses.append(logger._source.capturer.reuses))
    model.fit(images(8), labels(8), batch_size=4, shuffle=False, epochs=3, verbose=0, callbacks=[logger, count])
    assert reuses == ([0, 1, 2] if freeze else [0, 0, 0])
    logged = [record.heatmaps for record in logger.tracker.records]
    if freeze:
        return logged
    explained = explain(model, images(5), method=METHODS, target=1)
    elsewhere = explain(model, jax.device_put(images(5), jax.devices()[2]), target=1)
    return [*logged, *(explained[method].heatmaps for method in METHODS), elsewhere.heatmaps]

def by_layers():
    layout = over.LayoutMap(over.DeviceMesh((2, 2), ["batch", "model"], over.list_devices()))
    layout[".*conv1.*kernel"] = (None, None, None, "model")
    layout[".*conv1.*bias"] = ("model",)
    return over.ModelParallel(layout_map=layout, batch_dim_name="batch")

assert len(jax.devices()) == 4
for freeze in (False, True):
    one = maps(None, freeze)
    for distribution in (over.DataParallel(), by_layers()):
        for a, b in zip(one, maps(distribution, freeze), strict=True):
            assert np.abs(a).max() > 0
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
print("equal")
"""


def in_its_own_process(code, *arguments, **environment):
    path = os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "KERAS_BACKEND": "jax"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_maps_of_a_model_on_several_devices():
    assert "equal" in in_its_own_process(SEVERAL_DEVICES)


OF_64_BITS = """
import sys
import keras, numpy as np
keras.config.set_dtype_policy(sys.argv[1])
from models import functional, images, labels, SPARSE
from keras_cam_callbacks import HeatmapLogger, MemoryTracker, explain

METHODS = ["gradcam", "scorecam", "ablationcam", "guided_backprop", "integrated_gradients", "fullgrad"]
random, x = np.random.default_rng(0), images(6)
model = functional().model
model.set_weights([random.normal(0, 0.3, weight.shape) for weight in model.get_weights()])
explained = explain(model, x, method=METHODS, target=1)
model.compile(keras.optimizers.SGD(0.1), SPARSE)
logger = HeatmapLogger((x, labels(6)), tracker=MemoryTracker(), target=1, on_error="raise")
model.fit(x, labels(6), batch_size=3, shuffle=False, epochs=2, verbose=0, callbacks=[logger])
maps = [explained[method].heatmaps for method in METHODS] + [record.heatmaps for record in logger.tracker.records]
assert {array.dtype for array in (*maps, explained["gradcam"].scores)} == {np.dtype("float32")}
np.save(sys.argv[2], np.stack([array.ravel() for array in map(np.asarray, maps) if array.shape == maps[0].shape]))
"""


def test_maps_in_a_process_of_64_bits(tmp_path):
    arrays = {}
    for bits, policy in (("0", "float32"), ("1", "float32"), ("1", "float64")):
        file = tmp_path / f"{bits}{policy}.npy"
        in_its_own_process(OF_64_BITS, policy, file, JAX_ENABLE_X64=bits)
        arrays[bits, policy] = np.load(file)
    expected = arrays.pop(("0", "float32"))
    assert len(expected) >= 5
    for maps in arrays.values():
        for one, other in zip(maps, expected, strict=True):
            assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


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
    assert "loaded []" in in_its_own_process(ALONE, tmp_path)
