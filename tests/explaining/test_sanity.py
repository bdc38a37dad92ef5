import json
import random
import sys

import keras
import models
import numpy as np
import pytest
from backends import most_traces, tf
from keras import layers
from models import CLASSES, SHAPE

import keras_cam_callbacks
from keras_cam_callbacks import Occlusion, Overlay, SanityCheck, explain, sanity_check
from keras_cam_callbacks.explaining.sanity import MOST
from keras_cam_callbacks.network.weights import fresh_values, weights_from_top
from keras_cam_callbacks.passes.taps import layer_calls

X, Y = models.images(), models.labels()


@pytest.fixture(scope="module")
def digits():
    """A small net that has learned handwritten digits, and digits that it has not seen."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = np.kron(data.images / 16, np.ones((2, 2)))[..., None].astype(np.float32), data.target
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv3"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="fc"),
            layers.Dense(10, activation="softmax", name="classes"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), models.SPARSE, metrics=["accuracy"], jit_compile=False)
    model.fit(x[:1500], y[:1500], epochs=3, batch_size=64, verbose=0)
    assert model.evaluate(x[1500:], y[1500:], verbose=0)[1] > 0.8
    return model, x[1500:1516], y[1500:1516]


def state(model):
    """All that a check could leave behind."""
    every = [model, *model._flatten_layers(include_self=False)]
    optimizer = [] if getattr(model, "optimizer", None) is None else model.optimizer.variables
    globally = keras.src.random.seed_generator.global_seed_generator().state
    variables = [*model.variables, *optimizer, globally]
    seeds = [generator.state for layer in every for generator in layer._seed_generators]
    return {
        "variables": [np.array(v.numpy()).tobytes() for v in (*variables, *seeds)],
        "trainable": [(layer.trainable, [v.trainable for v in layer.variables]) for layer in every],
        "attributes": [sorted(vars(layer)) for layer in every],
        "losses": [len(layer.losses) for layer in every],
        "python": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002 - must be left alone
        "framework": state_of_framework(),
    }


def state_of_framework():
    """Where the framework's own generator of random numbers stands; JAX has none."""
    if keras.backend.backend() == "tensorflow":
        return tf.random.get_global_generator().state.numpy().tolist()
    if keras.backend.backend() == "torch":
        import torch

        return torch.get_rng_state().tolist()
    return None


def small(build=models.functional):
    """A model that has not been trained; its head is not quite balanced, so that maps have positive parts."""
    split = build()
    for variable in split.model.weights:
        if variable.name == "bias":
            variable.assign(np.linspace(0.1, 0.3, variable.shape[0]))
    return split.model


def in_the_middle(activations, gradients):
    """A method that ignores both the image and the weights."""
    h, w = activations.shape[1:3]
    hill = np.exp(-((np.arange(h) - h / 2)[:, None] ** 2) - (np.arange(w) - w / 2) ** 2)
    return np.repeat(hill[None], len(activations), axis=0)


class Noise:
    """A method whose maps are independent of everything."""

    name = "noise"

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, activations, gradients):
        return self.rng.random(activations.shape[:3])


class Watcher:
    """Edge strength, and a look at the model's weights at each step; fails at a given step."""

    name = "watcher"

    def __init__(self, model, fail_at=None, error=RuntimeError):
        self.model, self.fail_at, self.error, self.seen = model, fail_at, error, []

    def __call__(self, activations, gradients):
        if len(self.seen) == self.fail_at:
            raise self.error("in the middle")
        self.seen.append([np.array(v.numpy()) for v in self.model.weights])
        return activations.mean(-1) * np.abs(gradients).mean(-1)


def test_gradcam_depends_on_what_was_learned_and_guided_backprop_hardly(digits):
    model, x, _ = digits
    for seed in range(3):
        check = sanity_check(model, x, ["gradcam", "saliency", "guided_backprop"], seed=seed, max_samples=None)
        print(check)
        assert isinstance(check, SanityCheck)
        assert check.passed == {"gradcam": True, "saliency": True, "guided_backprop": False}
        means = {row["method"]: row["correlation"] for row in check.rows if row["step"] == 5}
        # Measured over 3 nets and 3 seeds each: 0.05 to 0.16, 0.32 to 0.38, 0.63 to 0.75.
        assert means["gradcam"] < 0.3
        assert means["saliency"] < 0.45
        assert means["guided_backprop"] > 0.55
        head = {row["method"]: row["correlation"] for row in check.rows if row["layer"] == "classes"}
        assert head["gradcam"] < 0.6 < 0.8 < head["guided_backprop"]


def test_constant_maps_fail_and_random_maps_pass_as_documented(digits):
    model, x, _ = digits
    check = sanity_check(model, x, [in_the_middle, Noise()], max_samples=16)
    assert check.passed == {"in_the_middle": False, "noise": True}
    np.testing.assert_allclose(check.correlations["in_the_middle"], 1)
    assert np.abs(check.correlations["noise"][1:].mean(axis=1)).max() < 0.2
    assert "random numbers" in sanity_check.__doc__
    assert "in_the_middle: failed, for 1.00 is not below 0.5" in str(check)
    assert "noise: passed" in str(check)


BUILDS = {
    "functional": models.functional,
    "sequential": models.sequential,
    "nested": models.nested_twice,
    "subclassed": models.branched,
    "mixed precision": lambda: models.in_mixed_precision(models.functional),
    "unbuilt": models.unbuilt_sequential,
    "fixed batch": lambda: models.functional(batch=4),
}
FROM_TOP = {"nested": ["classes", "middle/inner/conv2", "middle/conv1"]}


@pytest.mark.parametrize("kind", BUILDS)
def test_layers_forget_from_the_top_and_maps_are_those_of_the_weights(kind):
    """Maps at each step equal those of `explain`, which traces the model anew, with the weights of that step."""
    model = BUILDS[kind]().model
    if not model.built:
        model(X[:1])
    watcher = Watcher(model)
    before = model.get_weights()
    check = sanity_check(model, X, [watcher, "gradcam"], seed=3)
    order = FROM_TOP.get(kind, ["classes", "conv2", "conv1"])
    assert check.layers == ("", *order)
    assert check.randomized == (0, 1, 2, 3)
    chunks = len(watcher.seen) // 4  # A model of a fixed batch runs several times at each step.
    owners = [id(v) for v in model.weights]
    changed = set()
    for step, weights in enumerate([before, *watcher.seen[chunks::chunks]]):
        if step:
            layer = keras_cam_callbacks.network.layers.find_layer(model, order[step - 1])[1]
            changed |= {owners.index(id(v)) for v in layer.weights if v.name == "kernel"}
        moved = {i for i, (new, old) in enumerate(zip(weights, before, strict=True)) if not np.array_equal(new, old)}
        assert moved == changed
        model.set_weights(weights)
        expected = explain(model, X, method="gradcam", target=check.originals["gradcam"].targets).heatmaps
        found = check.heatmaps["gradcam"][step]
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
        model.set_weights(before)


def with_everything():
    """Frozen layers, dropout, batch normalisation, a statistic of the data, a depthwise kernel."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Normalization(mean=[0.5] * 3, variance=[0.1] * 3),
            layers.Normalization(name="adapted"),
            layers.Conv2D(4, 3, name="frozen", trainable=False),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES, activation="softmax", name="classes"),
        ]
    )
    model.get_layer("adapted").adapt(X)
    model.compile(keras.optimizers.Adam(0.01), models.SPARSE, jit_compile=False)
    model.fit(X, Y, epochs=1, verbose=0)
    for variable in model.weights:
        if variable.name in ("bias", "beta"):
            variable.assign(np.full(variable.shape, 0.25))
    # Bits that only an exact copy keeps.
    model.get_layer("classes").bias.assign([-0.0, np.float32(1e-42), 0.5])
    return model


@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_and_all_random_states_are_left_as_found(ending):
    model = with_everything()
    before = state(model)
    watcher = Watcher(model, 3 if ending else None, ending)
    if ending is None:
        sanity_check(model, X, [watcher, "saliency"])
    else:
        with pytest.raises(ending, match="in the middle"):
            sanity_check(model, X, watcher)
    assert not all(np.array_equal(a, b) for a, b in zip(watcher.seen[0], watcher.seen[-1], strict=True))
    assert state(model) == before
    model.fit(X, Y, epochs=1, verbose=0)
    assert state(model)["variables"] != before["variables"]


def test_all_is_randomised_but_what_is_not_trained():
    model = with_everything()
    watcher = Watcher(model)
    check = sanity_check(model, X, watcher, layer_name="frozen")
    assert check.layers[1:] == ("classes", "depthwise", "norm", "frozen")
    kept = {"moving_mean", "moving_variance", "mean", "variance", "count"}
    for variable, old, new in zip(model.weights, watcher.seen[0], watcher.seen[-1], strict=True):
        assert np.array_equal(old, new) == (variable.name in kept), variable.path
    by_path = {"/".join(v.path.split("/")[-2:]): new for v, new in zip(model.weights, watcher.seen[-1], strict=True)}
    assert (by_path["norm/gamma"] == 1).all()
    assert not by_path["norm/beta"].any()
    assert not by_path["classes/bias"].any()


class Own(layers.Layer):
    """Weights that no initializer of the layer is known for."""

    def build(self, shape):
        self.table = self.add_weight(shape=(60, 50), initializer="ones", name="table")
        self.spread = self.add_weight(shape=(50,), initializer="ones", name="spread")
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")
        self.table.assign(np.random.default_rng(0).normal(3, 0.5, (60, 50)))
        self.spread.assign(np.arange(1.0, 51.0))


def test_values_that_fit_the_variable():
    rng = np.random.default_rng(0)
    dense = layers.Dense(300, kernel_initializer="he_normal")
    dense.build((None, 200))
    dense.kernel.assign(np.full((200, 300), 7.0))
    he = fresh_values(dense, dense.kernel, rng)
    assert he.std() == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    assert he.mean() == pytest.approx(0, abs=0.002)
    assert not fresh_values(dense, dense.bias, rng).any()

    depthwise = layers.DepthwiseConv2D(3, depthwise_initializer=keras.initializers.RandomUniform(2, 3))
    depthwise.build((None, 8, 8, 16))
    uniform = fresh_values(depthwise, depthwise.kernel, rng)
    assert 2 <= uniform.min() < uniform.max() <= 3

    orthogonal = layers.Dense(5, kernel_initializer="orthogonal")
    orthogonal.build((None, 5))
    drawn = fresh_values(orthogonal, orthogonal.kernel, rng)
    np.testing.assert_allclose(drawn @ drawn.T, np.eye(5), atol=1e-5)

    own = Own()
    own.build(None)
    table = fresh_values(own, own.table, rng)
    assert table.mean() == pytest.approx(own.table.numpy().mean(), abs=0.03)
    assert table.std() == pytest.approx(own.table.numpy().std(), rel=0.04)
    assert np.abs(np.corrcoef(table.ravel(), own.table.numpy().ravel())[0, 1]) < 0.1
    spread = fresh_values(own, own.spread, rng)
    assert sorted(spread) == sorted(own.spread.numpy())
    assert not np.array_equal(spread, own.spread.numpy())
    assert fresh_values(own, own.factor, rng) == 1

    # An output layer that starts at zero would leave no map: normal, as the trained kernel is.
    zeros = layers.Dense(50, kernel_initializer="zeros")
    zeros.build((None, 60))
    zeros.kernel.assign(np.random.default_rng(1).normal(0, 0.2, (60, 50)))
    assert fresh_values(zeros, zeros.kernel, rng).std() == pytest.approx(0.2, rel=0.05)


def test_initializers_of_the_user_keep_their_state():
    generator = keras.random.SeedGenerator(5)
    dense = layers.Dense(4, kernel_initializer=keras.initializers.GlorotNormal(seed=generator))
    dense.build((None, 3))
    before = generator.state.numpy().copy()
    values = [fresh_values(dense, dense.kernel, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(generator.state.numpy(), before)
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_same_seed_same_table():
    model = small()
    first, second, other = (sanity_check(model, X, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.heatmaps["gradcam"], second.heatmaps["gradcam"])
    assert str(first) == str(second)
    np.testing.assert_array_equal(first.heatmaps["gradcam"][0], other.heatmaps["gradcam"][0])
    assert not np.array_equal(first.heatmaps["gradcam"][1:], other.heatmaps["gradcam"][1:])
    assert (first.seed, other.seed) == (0, 1)


def test_methods_together_see_what_they_see_alone():
    model = small(models.sequential)
    both = sanity_check(model, X, ["layercam", "saliency", Occlusion(window=4, stride=4)], "conv1")
    assert [both.originals[m].layer_name for m in both.originals] == ["conv1", "", ""]
    for method, text in (
        ("layercam", "layercam"),
        ("saliency", "saliency"),
        (Occlusion(window=4, stride=4), "occlusion(window=4, stride=4)"),
    ):
        alone = sanity_check(model, X, method, "conv1" if method == "layercam" else None)
        np.testing.assert_allclose(both.heatmaps[text], alone.heatmaps[text], rtol=1e-4, atol=1e-6)


class Counted(layers.Layer):
    calls = 0

    def call(self, x):
        Counted.calls += 1
        return x


def test_steps_are_groups_of_all_layers_and_trace_nothing():
    inputs = x = keras.Input(SHAPE)
    for i in range(7):
        x = layers.Conv2D(3, 3, padding="same", activation="relu", name=f"conv{i}")(x)
    x = layers.GlobalAveragePooling2D()(Counted()(x))
    model = keras.Model(inputs, layers.Dense(CLASSES, name="classes")(x))
    order = ["classes", *(f"conv{i}" for i in reversed(range(7)))]
    expected = {
        1: [8],
        3: [3, 6, 8],
        5: [2, 4, 6, 7, 8],
        8: list(range(1, 9)),
        10: list(range(1, 9)),
        None: list(range(1, 9)),
    }
    last, traced = [], set()
    for steps, counts in expected.items():
        Counted.calls = 0
        check = sanity_check(model, X[:2], ["gradcam", "saliency"], steps=steps)
        traced.add(Counted.calls)
        assert list(check.randomized) == [0, *counts]
        assert list(check.layers) == ["", *(order[count - 1] for count in counts)]
        assert [row["step"] for row in check.rows] == [0, *counts] * 2
        last.append(check.heatmaps["gradcam"][-1])
    assert len(traced) <= most_traces(1)  # As many for one step as for eight.
    for maps in last:
        np.testing.assert_array_equal(maps, last[0])  # The weights don't depend on the grouping.


class Holder(keras.Model):
    """Holds a weight of its own, shares a kernel, calls a layer twice, and never calls another."""

    def __init__(self):
        super().__init__(name="holder")
        self.first = layers.Conv2D(3, 3, padding="same", name="first")
        self.again = layers.Conv2D(3, 3, padding="same", name="again")
        self.unused = layers.Dense(2, name="unused")
        self.unused.build((None, 3))
        self.offset = self.add_weight(shape=(3,), initializer="ones", name="offset")
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="count")
        self.head = layers.Dense(CLASSES, name="head")

    def call(self, x):
        x = self.again(self.first(self.again(x))) + self.offset
        return self.head(keras.ops.mean(x, axis=(1, 2)))


def test_order_of_shared_own_and_unused_weights():
    model = Holder()
    model(X)
    found = weights_from_top(model, layer_calls(model, X))
    assert [one.path for one in found] == ["holder", "head", "again", "first", "unused"]
    listed = [id(v) for one in found for v in one.variables]
    assert len(listed) == len(set(listed)) == len(model.weights) - 1  # All but the counter.
    assert [v.name for v in found[0].variables] == ["offset"]
    check = sanity_check(model, X, layer_name="first")
    assert check.layers[-1] == "unused"


def test_classes_stay_those_of_the_untouched_model():
    model = small()
    seen = []

    def rule(outputs):
        return keras.ops.argmin(outputs, axis=-1)

    class Targets:
        name, needs = "targets", ("activations", "gradients", "scores")

        def __call__(self, activations, gradients, scores):
            seen.append(scores)
            return activations.mean(-1)

    # The same seed draws the same weights whatever the model has; it now prefers another class than it then will.
    drawn = Watcher(model)
    sanity_check(model, X, drawn, steps=1)
    before = model.get_weights()
    model.set_weights(drawn.seen[-1])
    then = model.predict(X, verbose=0).argmax(1)
    model.set_weights(before)
    model.layers[-1].bias.assign(5 * np.eye(CLASSES)[(then[0] + 1) % CLASSES])

    for target in ("predicted", rule):
        outputs = model.predict(X, verbose=0)
        classes = outputs.argmax(1) if target == "predicted" else outputs.argmin(1)
        check = sanity_check(model, X, "gradcam", target=target)
        np.testing.assert_array_equal(check.originals["gradcam"].targets, classes)
    watcher = Watcher(model)
    both = sanity_check(model, X, [watcher, Targets()], steps=1)
    predicted = both.originals["watcher"].targets
    before = model.get_weights()
    model.set_weights(watcher.seen[-1])
    changed = model.predict(X, verbose=0).argmax(1)
    logits = keras.Model(model.inputs, model.layers[-2].output).predict(X, verbose=0) @ watcher.seen[-1][-2]
    np.testing.assert_allclose(seen[-1], logits[np.arange(len(X)), predicted], rtol=1e-4, atol=1e-6)
    model.set_weights(before)
    assert (changed != predicted).any()  # The randomised model would choose others.


def test_scores_by_a_function_of_the_outputs_and_of_a_regression():
    model = small()
    check = sanity_check(model, X, "gradcam", target=lambda outputs: outputs[:, 0] - outputs[:, 1])
    assert check.originals["gradcam"].targets is None
    assert check.heatmaps["gradcam"].shape[:2] == (4, 6)
    regression = models.functional(1, None).model
    regression.compile("sgd", "mse")
    assert sanity_check(regression, X).originals["gradcam"].targets is None


def test_cam_reads_the_kernel_of_each_step():
    check = sanity_check(small(), X, ["cam", "gradcam"], "pool")
    # Behind that layer is the head that CAM is for: the two agree up to a factor, and so in their ranks.
    np.testing.assert_allclose(check.correlations["cam"], check.correlations["gradcam"], atol=1e-6)
    assert np.abs(check.heatmaps["cam"][1] - check.heatmaps["cam"][0]).max() > 0.01


def test_rows_and_text_say_what_the_arrays_do():
    check = sanity_check(small(), X, ["gradcam", "layercam"])
    rows = check.rows
    assert json.loads(json.dumps(rows))[0]["layer"] == ""
    assert [(row["method"], row["layer"]) for row in rows[:5]] == [
        *(("gradcam", layer) for layer in ("", "classes", "conv2", "conv1")),
        ("layercam", ""),
    ]
    for row in rows:
        known = [value for value in row["correlations"] if not np.isnan(value)]
        assert len(row["correlations"]) == 6
        assert (
            row["correlation"] == pytest.approx(np.mean(known), nan_ok=True) if known else np.isnan(row["correlation"])
        )
        assert row["degenerate"] <= 6
    for value in rows[0]["correlations"]:
        assert np.isnan(value) or value == pytest.approx(1)
    lines = str(check).splitlines()
    assert lines[1].split() == ["randomised", "down", "to", "gradcam", "layercam"]
    assert lines[2].startswith("the original")
    assert lines[-2].startswith("gradcam: ")


def nothing(activations, gradients):
    return np.zeros(activations.shape[:3])


class OnlyAtFirst:
    name = "only_at_first"

    def __init__(self):
        self.calls = 0

    def __call__(self, activations, gradients):
        self.calls += 1
        return activations.mean(-1) * (self.calls == 1)


def test_degenerate_maps_are_counted_and_do_not_pass():
    check = sanity_check(small(), X, [nothing, OnlyAtFirst()])
    assert check.passed == {"nothing": False, "only_at_first": False}
    assert [row["degenerate"] for row in check.rows] == [6, 6, 6, 6, 0, 6, 6, 6]
    assert np.isnan(check.rows[1]["correlation"])
    assert "nothing: not known, for all original heatmaps are degenerate" in str(check)
    assert "only_at_first: not known, for no heatmaps were left to compare" in str(check)
    assert "- (6)" in str(check)
    assert check.picture().dtype == np.uint8


def test_the_limit_decides():
    maps = np.ones((2, 1, 2, 2), np.float32)
    for value, expected in ((MOST - 0.01, True), (MOST, False), (np.nan, False)):
        check = SanityCheck({}, {"m": maps}, {"m": np.array([[1.0], [value]])}, ("", "a"), (0, 1), 0)
        assert check.passed == {"m": expected}


def test_picture():
    check = sanity_check(small(), X, ["gradcam", "layercam"])
    picture = check.picture(Overlay(caption=False))
    # The images are enlarged to 120 x 160; a row for each method: the image and four maps.
    assert picture.shape == (2 * 128 + 8, 5 * 168 + 8, 3)
    assert picture.dtype == np.uint8
    image, first, last = (picture[8:128, 8 + 168 * i :][:, :160] for i in (0, 1, 4))
    expected = Overlay().draw(check.originals["gradcam"].batch.display[:1], check.heatmaps["gradcam"][0, :1])[0]
    np.testing.assert_array_equal(first, expected)
    expected = Overlay().draw(check.originals["gradcam"].batch.display[:1], check.heatmaps["gradcam"][-1, :1])[0]
    np.testing.assert_array_equal(last, expected)
    bare = Overlay().draw(check.originals["gradcam"].batch.display[:1], np.zeros((1, 2, 2), np.float32))[0]
    np.testing.assert_array_equal(image, bare)
    assert check.picture(Overlay(caption=False), columns=2, samples=[5, 0, 1]).shape == (6 * 128 + 8, 3 * 168 + 8, 3)
    assert check.picture().shape[0] > picture.shape[0]  # With captions.
    for samples in (0, 7, [6], [-1], []):
        with pytest.raises(ValueError, match=r"`samples` must be .* the 6 there are. Received: samples="):
            check.picture(samples=samples)
    with pytest.raises(ValueError, match="`columns` must be a whole number of at least 2"):
        check.picture(columns=1)


class Constant(layers.Layer):
    """Keeps what is in its variable when it is built."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, CLASSES), initializer="glorot_uniform", name="kernel")
        self.value = keras.ops.convert_to_tensor(self.kernel.numpy())

    def call(self, x):
        return keras.ops.matmul(keras.ops.mean(x, axis=(1, 2)), self.value)


def test_a_model_that_does_not_read_its_weights_is_told():
    model = keras.Sequential([keras.Input(SHAPE), layers.ReLU(), Constant()])
    with pytest.raises(ValueError, match="scores stay the same to the last bit when all are randomised"):
        sanity_check(model, X, "saliency")


def test_a_model_without_weights_is_told():
    model = keras.Sequential([keras.Input(SHAPE), layers.ReLU(), layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match="must have weights that can be randomised"):
        sanity_check(model, X, "saliency")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own, as it quantizes.
def test_a_quantized_model_is_refused():
    model = small()
    model.get_layer("classes").quantize("int8")
    before = [np.array(v.numpy()) for v in model.weights]
    with pytest.raises(ValueError, match="layer 'classes', quantized to int8"):
        sanity_check(model, X, Occlusion(window=4, stride=4))
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    ("settings", "kind", "match"),
    [
        ({"steps": 0}, ValueError, "`steps` must be a whole number of at least 1"),
        ({"seed": -1}, ValueError, "`seed` must be a whole number of at least 0"),
        ({"method": []}, ValueError, r"a list of methods that differ.* Received: \[\]"),
        ({"method": ["gradcam", "gradcam"]}, ValueError, r"Received: \['gradcam', 'gradcam'\]"),
        ({"method": ["gradcam", "gradcan"]}, ValueError, "Received: 'gradcan'. Did you mean"),
        ({"method": 3}, TypeError, "Received: 3 of type int"),
        ({"method": "saliency", "layer_name": "conv1"}, ValueError, "knows no layer"),
        ({"layer_name": "conv9"}, ValueError, "Received: 'conv9'"),
        ({"target": "true"}, ValueError, "needs class labels"),
        ({"target": 7}, ValueError, "between 0 and 2"),
        ({"max_samples": 0}, ValueError, "`max_samples` must be"),
    ],
)
def test_wrong_settings_are_told_before_a_weight_is_touched(settings, kind, match):
    model = small()
    before = state(model)
    with pytest.raises(kind, match=match):
        sanity_check(model, X, **settings)
    assert state(model) == before


def test_the_module_and_its_names_live_together():
    assert sys.modules["keras_cam_callbacks.explaining.sanity"] is keras_cam_callbacks.explaining.sanity
    assert keras_cam_callbacks.explaining.sanity.sanity_check is sanity_check
