"""What is PyTorch's own: modes, gradients and random states are left as found, and nothing grows."""

import gc
import os
import random
import sys

import keras
import models
import numpy as np
import pytest
from fits import KERAS_WARNS
from keras import layers, ops
from models import CLASSES, SHAPE, highest, images, labels
from seeds import set_seeds
from tapes import gradient

from keras_cam_callbacks import GradCAMLogger, MemoryTracker, Tracker, engine, explain

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.only_on("torch", reason="modes, hooks and gradients are PyTorch's own")


class Counter(layers.Layer):
    """Draws random numbers at inference too, counts its calls and adds a loss."""

    def __init__(self):
        super().__init__(name="counter")
        self.seed = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x, training=False):
        self.calls.assign(self.calls + 1)
        self.add_loss(1e-3 * ops.sum(x))
        return x + 0.1 * keras.random.normal((16, 1), seed=self.seed)[:1, :, None] + 0.0 * torch.rand(())


def module():
    """A module of PyTorch that differs in training, and that ends in a ReLU."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Dropout(0.5), torch.nn.ReLU()
    )


def wrapped(count=False):
    """A model around a module of PyTorch, which takes channels first."""
    inputs = keras.Input(SHAPE)
    x = Counter()(inputs) if count else inputs
    x = layers.Conv2D(4, 3, name="conv", activity_regularizer="l2")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.TorchModuleWrapper(module(), name="module", output_shape=(None, 5, 8, 12))(x)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D(data_format="channels_first")(x))
    model = keras.Model(inputs, layers.Dense(CLASSES, activation="softmax", name="classes")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def state(model):
    """All that a run could leave changed, with copies of what can change in place."""
    layers_ = list(model._flatten_layers())
    modules = list(torch.nn.Module.modules(model))
    attributes = [dict(vars(module)) for module in modules]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules]
    parameters = [
        (p, p.requires_grad, p._version, None if p.grad is None else p.grad.clone()) for p in model.parameters()
    ]
    buffers = [buffer.clone() for buffer in model.buffers()]
    numbers = [
        v.value.detach().clone() for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)
    ]
    noted = [(list(map(id, layer._losses)), set(layer._loss_ids)) for layer in layers_]
    modes = torch.is_grad_enabled(), torch.get_rng_state().clone(), torch.is_inference_mode_enabled()
    return modules, attributes, hooks, parameters, buffers, numbers, noted, modes


def assert_same(before, after):
    assert [id(one) for one in before[0]] == [id(one) for one in after[0]]
    for module_, old, new in zip(before[0], before[1], after[1], strict=True):
        assert list(old) == list(new), module_
        assert [name for name in old if old[name] is not new[name]] == [], module_
    assert before[2] == after[2]
    for (old, *_, gradient_before), (new, *_, gradient_after) in zip(before[3], after[3], strict=True):
        assert old is new
        assert (gradient_before is None) == (gradient_after is None)
        assert gradient_before is None or torch.equal(gradient_before, gradient_after)
    assert [part[1:3] for part in before[3]] == [part[1:3] for part in after[3]]
    for old, new in zip(before[4] + before[5], after[4] + after[5], strict=True):
        assert torch.equal(old, new)
    assert before[6] == after[6]
    assert before[7][0] == after[7][0]
    assert torch.equal(before[7][1], after[7][1])


def failing_rule(outputs):
    raise ArithmeticError("no")


RUNS = {
    "explained": {},
    "the image itself": {"method": "saliency"},
    "guided": {"method": "guided_backprop"},
    "a rule that fails": {"target": failing_rule},
    "a class out of range": {"target": 9},
}


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_as_found(settings, training):
    model = wrapped(count=True)
    model.fit(images(), labels(), verbose=0)
    model.get_layer("conv").trainable = False
    model.train(training)
    before = state(model)
    try:
        explain(model, images(), **settings)
    except ValueError:
        assert "target" in settings
    assert_same(before, state(model))


def train(callbacks, jit_compile=False):
    set_seeds(11)
    model = wrapped(count=True)
    history = model.fit(images(8), labels(8), epochs=3, batch_size=4, shuffle=True, verbose=0, callbacks=callbacks)
    draws = random.random(), np.random.random(), torch.rand(()).item(), float(keras.random.uniform(()))  # noqa: NPY002
    return history.history["loss"], model.get_weights(), draws


@KERAS_WARNS
def test_training_is_the_same_to_the_bit():
    plain = train([])
    logger = GradCAMLogger((images(), labels()), "module", tracker=MemoryTracker(), on_error="raise")
    logged = train([logger])
    assert len(logger.tracker.records) == 3
    assert plain[0] == logged[0]
    assert plain[2] == logged[2]
    for a, b in zip(plain[1], logged[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_maps_of_a_module_equal_a_plain_gradient():
    model, x = wrapped(), images()
    found = explain(model, x, "module")
    front = keras.Model(model.input, model.get_layer("module").output)
    with torch.no_grad():
        activations = front(x, training=False).numpy()
    dense = model.get_layer("classes")
    rest = lambda a: highest(ops.matmul(ops.mean(a, (2, 3)), dense.kernel.value) + dense.bias.value)  # noqa: E731
    slopes = gradient(rest, activations)
    expected = (slopes.mean(axis=(2, 3), keepdims=True) * activations).sum(axis=1)
    models.assert_maps_equal(found.heatmaps, expected)


def test_relus_of_a_module_are_guided():
    model, x = wrapped(), images(2)
    guided = explain(model, x, method="guided_backprop", target=1).attributions
    plain = explain(model, x, method="saliency", target=1).heatmaps
    assert np.abs(guided).max() > 0
    assert guided.shape == (2, *SHAPE)
    assert plain.shape == (2, *SHAPE[:2])


class Forgetful(Tracker):
    """Takes every record and keeps none."""

    def start(self, config):
        self.count = 0

    def log(self, record):
        self.count += 1

    def finish(self):
        pass


def test_no_growth_over_fifty_epochs(tmp_path):
    seen = []
    model = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logger = GradCAMLogger(
        (images(10), labels(10)), tracker=Forgetful(), log_dir=tmp_path, batch_size=4, on_error="raise"
    )

    def measure(epoch, logs):
        if epoch in (9, 29, 49):
            gc.collect()
            with open("/proc/self/statm") as statm:
                resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            seen.append(
                (len(gc.get_objects()), sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()), resident)
            )

    callbacks = [logger, keras.callbacks.LambdaCallback(on_epoch_end=measure)]
    model.fit(images(10), labels(10), epochs=50, verbose=0, callbacks=callbacks)
    assert logger.tracker.count == 50
    first, middle, last = seen
    assert last[0] - first[0] < 400
    assert last[1] == first[1]
    # What leaks, leaks in both halves; what allocators keep at some time is no leak.
    assert min(middle[2] - first[2], last[2] - middle[2]) < 16 * 2**20


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts all operations, those on the way back too."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("trainable", [True, False])
def test_an_epoch_costs_as_much_as_the_one_before(tmp_path, trainable):
    model = models.functional().model
    for layer in model.layers[:-1]:
        layer.trainable = trainable
    logger = GradCAMLogger(
        (images(10), labels(10)),
        tracker=Forgetful(),
        log_dir=tmp_path,
        batch_size=4,
        metrics=["drift"],
        on_error="raise",
    )
    logger.set_model(model)
    logger.on_train_begin()
    counts = []
    for epoch in range(50):
        calls = [0]

        def profile(frame, event, argument, calls=calls):
            calls[0] += event == "call"

        with Operations() as operations:
            sys.setprofile(profile)
            try:
                logger.on_epoch_end(epoch, {})
            finally:
                sys.setprofile(None)
        counts.append((operations.count, *calls))
    logger.on_train_end()
    assert logger.tracker.count == 50
    assert len({count for count, _ in counts[3:]}) == 1
    assert counts[49][1] <= 1.02 * counts[5][1]


def test_nothing_before_the_explained_layer_is_recorded():
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, name="first"),
            layers.Conv2D(4, 3, name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    loaded = engine.load()
    needs = {}

    class Watched(keras.layers.Layer):
        def call(self, x):
            return x

    def look(x):
        run = loaded.differentiated_run(
            model, x, lambda call: call.layer.name == "second", lambda run: ([run.outputs[:, 0]], None)
        )
        needs.update({call.layer.name: run.tensors[call.output_ids[0]].requires_grad for call in run.calls})
        return {"slope": run.gradients(0)[0]}

    loaded.compile_pass(look, model, (images(1),))(images(1))
    assert not needs["first"]
    assert needs["second"]
    assert all(parameter.grad is None for parameter in model.parameters())


def written_past_autograd(variable):
    variable.value.data.add_(0.5)


def of_other_data(variable):
    variable.value.data = variable.value.data + 0.5


def written_by_numpy(variable):
    variable.value.detach().numpy()[...] += 0.5


def exchanged(variable):
    variable._value = torch.nn.Parameter(variable.value.detach() + 0.5, requires_grad=False)


@pytest.mark.parametrize("write", [written_past_autograd, of_other_data, written_by_numpy, exchanged])
def test_every_write_into_the_frozen_part_is_noticed(write):
    model, x = models.functional().model, images()
    for layer in model.layers[:-1]:
        layer.trainable = False
    loaded = engine.load()

    def look(x):
        run = loaded.differentiated_run(
            model, x, lambda call: call.layer.name == "conv2", lambda run: ([run.outputs[:, 0]], None)
        )
        return {"activations": run.watched[0][1], "gradient": run.gradients(0)[0], "outputs": run.outputs}

    whole = loaded.compile_pass(look, model, (x[:1],))
    frozen = loaded.compile_frozen_pass(look, model, (x[:1],), None, [len(x)], 2**20)
    for _ in range(2):
        frozen.renew()
        frozen(0, x)
    assert frozen.reuses == 1
    write(model.get_layer("conv1").kernel)
    frozen.renew()
    kept, again = frozen(0, x), whole(x)
    for name in again:
        np.testing.assert_array_equal(kept[name], again[name])
    assert frozen.reuses == 1


class Scaled(layers.Layer):
    """Multiplies by a number that is Python's own, which a user's callback may change."""

    def __init__(self):
        super().__init__(trainable=False)
        self.factor = 2.0

    def call(self, x):
        return x * self.factor


def test_a_number_of_pythons_own_that_changes_is_noticed():
    scaled = Scaled()
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, trainable=False),
            scaled,
            layers.Conv2D(4, 3, name="last", trainable=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    loaded, x = engine.load(), images()

    def look(x):
        return {"outputs": loaded.plain_run(model, x).outputs}

    frozen = loaded.compile_frozen_pass(look, model, (x[:1],), None, [len(x)], 2**20)
    for factor, reuses in ((2.0, 0), (2.0, 1), (3.0, 1), (3.0, 2)):
        scaled.factor = factor
        frozen.renew()
        with torch.no_grad():
            expected = model(x, training=False).numpy()
        np.testing.assert_array_equal(frozen(0, x)["outputs"], expected)
        assert frozen.reuses == reuses


def compiled_halving():
    return torch.compile(lambda x: x / 2, backend="eager")


class Halving(layers.Layer):
    """Computes by a function that the user has compiled, as is usual for a part of a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def halved(function, wraps):
    """A model with a part that is compiled, or not."""
    set_seeds(4)
    inputs = keras.Input(SHAPE)
    x = Halving(function)(layers.Conv2D(4, 3, activation="relu", name="conv")(inputs))
    x = layers.Permute((3, 1, 2))(x)
    x = layers.TorchModuleWrapper(wraps(module()), output_shape=(None, 5, 8, 12))(x)
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax", name="classes")(x))


@pytest.mark.parametrize("method", ["gradcam", "saliency", "scorecam"])
def test_parts_that_are_compiled_are_explained_as_others(method):
    plain = halved(lambda x: x / 2, lambda inner: inner)
    compiled = halved(compiled_halving(), lambda inner: torch.compile(inner, backend="eager"))
    for one, other in zip(compiled.variables, plain.variables, strict=True):
        one.assign(other.value)
    layer = None if method == "saliency" else "conv"
    found = [explain(model, images(3), layer, method=method).heatmaps for model in (plain, compiled)]
    assert np.abs(found[0]).max() > 0
    np.testing.assert_array_equal(*found)


def test_training_that_is_compiled_is_the_same_to_the_bit():
    trained = []
    for callbacks in ([], [GradCAMLogger((images(), labels()), "conv2", tracker=MemoryTracker(), on_error="raise")]):
        set_seeds(11)
        model = models.functional().model
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=True)
        assert model.jit_compile
        model.fit(images(8), labels(8), epochs=3, batch_size=4, verbose=0, callbacks=callbacks)
        trained.append(model.get_weights())
    assert len(callbacks[0].tracker.records) == 3
    for one, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_wrapper_around_a_model_is_refused_with_what_works():
    wrapper = torch.compile(models.functional().model, backend="eager")
    with pytest.raises(TypeError, match=r"Received: one inside a OptimizedModule\. Hand over .* attribute `_orig_mod`"):
        explain(wrapper, images())


def other_activation(layer):
    layer.activation = keras.activations.tanh


def other_strides(layer):
    layer.strides = (2, 2)


def other_call(layer):
    vars(layer)["call"] = lambda x: ops.relu(type(layer).call(layer, x)) * 3


def hook(layer):
    layer.register_forward_hook(lambda module, inputs, output: output * 3)


INSIDE = ("first", "second", "norm", "sum", "last")


@pytest.mark.parametrize("change", [other_activation, other_strides, other_call, hook])
def test_what_changes_in_a_layer_of_a_frozen_base_is_noticed(change):
    set_seeds(3)
    inputs = keras.Input(SHAPE)
    first = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="second")(first)
    x = layers.Add(name="sum")([layers.BatchNormalization(name="norm")(x), first])
    base = keras.Model(inputs, layers.Conv2D(5, 3, activation="relu", name="last")(x), name="base")
    base.trainable = False
    head = [layers.GlobalAveragePooling2D(name="pooling"), layers.Dense(3, name="classes")]
    model = keras.Sequential([keras.Input(SHAPE), base, *head])
    loaded, x = engine.load(), images()

    def look(x):
        run = loaded.differentiated_run(
            model, x, lambda call: call.layer.name == "last", lambda run: ([run.outputs[:, 0]], None)
        )
        paths = [call.path for call in run.calls]
        assert paths == [*(f"base/{name}" for name in INSIDE), "base", "pooling", "classes"]
        return {"activations": run.watched[0][1], "gradient": run.gradients(0)[0], "outputs": run.outputs}

    def check(reuses):
        frozen.renew()
        kept, whole = frozen(0, x), loaded.compile_pass(look, model, (x[:1],))(x)
        for name in whole:
            np.testing.assert_array_equal(kept[name], whole[name])
        assert frozen.reuses == reuses

    frozen = loaded.compile_frozen_pass(look, model, (x[:1],), None, [len(x)], 2**20)
    check(0)
    ran = set()

    def profile(frame, event, argument):
        layer = frame.f_locals.get("self") if event == "call" and frame.f_code.co_name == "__call__" else None
        if isinstance(layer, layers.Layer):
            ran.add(layer.name)

    frozen.renew()
    sys.setprofile(profile)
    try:
        frozen(0, x)
    finally:
        sys.setprofile(None)
    assert not ran & set(INSIDE[:-1])
    assert {"base", "last"} <= ran
    check(2)
    change(base.get_layer("first"))
    check(2)
    check(3)
