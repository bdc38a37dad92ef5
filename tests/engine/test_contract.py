"""What every engine must do, by its contract alone: against closed forms, finite differences and plain calls.

Nothing here names a framework, so that the same tests hold for each backend.
"""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_cam_callbacks import engine
from keras_cam_callbacks.engine import contract

SHAPE = (6, 5, 3)
TENSORFLOW = keras.backend.backend() == "tensorflow"
loaded = engine.load()


def images(count=4, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *shape)).astype(np.float32)


def stack(*parts, shape=SHAPE, name="model"):
    return keras.Sequential([keras.Input(shape), *parts], name=name)


def pooled(activation=None, trainable=True):
    """A convolution, global average pooling and a dense layer: its gradients are known."""
    model = stack(
        layers.Conv2D(4, 3, name="conv", activation="relu"),
        layers.GlobalAveragePooling2D(name="average"),
        layers.Dense(3, name="classes", activation=activation, bias_initializer="normal"),
    )
    model.get_layer("conv").trainable = trainable
    return model


class SharedConvolution(keras.Model):
    """One convolution of the images times some factors, each on its own."""

    def __init__(self, *factors):
        super().__init__()
        self.factors, self.conv = factors, layers.Conv2D(2, 3, activation="silu", name="conv")
        self.conv.build((None, *SHAPE))

    def call(self, x):
        return [self.conv(x * factor) for factor in self.factors]


def numbers(variable):
    """The values of a variable, as no framework's own array."""
    value = getattr(variable, "value", variable)
    # Of a TensorFlow variable, Keras' own way makes NumPy 2 warn.
    return value.numpy() if keras.backend.backend() == "tensorflow" else ops.convert_to_numpy(value)


def traced(model, function, *examples):
    """Compiles a function for one model and calls it with the examples."""
    return loaded.compile_pass(function, model, examples)(*examples)


def is_layer(name):
    return lambda call: call.layer.name == name


def test_an_engine_has_what_the_contract_names_and_takes_what_it_names():
    named = {name: value for name, value in vars(contract.Engine).items() if inspect.isfunction(value)}
    assert {"tapped_run", "differentiated_run", "gradient", "compile_pass"} < named.keys()
    for name, wanted in named.items():
        if not name.startswith("_"):
            _, *parameters = inspect.signature(wanted).parameters
            assert list(inspect.signature(getattr(loaded, name)).parameters) == parameters, name
    assert all(issubclass(kind, Exception) for kind in loaded.FAILURES)


def test_calls_are_seen_at_any_depth_in_their_order():
    inner = stack(layers.Conv2D(4, 3, name="deep"), layers.ReLU(name="relu"), name="inner")
    model = stack(inner, layers.Flatten(name="flat"), layers.Dense(2, name="dense"))
    seen = {}

    def look(x):
        run = loaded.tapped_run(model, x)
        seen["calls"] = run.calls
        seen["known"] = set(run.tensors)
        seen["output"] = run.output_id
        return {"output": run.outputs, **{call.path: run.tensors[call.output_ids[0]] for call in run.calls}}

    arrays = traced(model, look, images())
    calls = {call.path: call for call in seen["calls"]}
    assert list(calls) == ["inner/deep", "inner/relu", "inner", "flat", "dense"]
    assert calls["inner/deep"].output_shape == (None, 4, 3, 4)
    assert calls["inner/deep"].output_ids == calls["inner/relu"].input_ids
    assert calls["inner"].output_ids == calls["inner/relu"].output_ids  # It hands the tensor on.
    assert calls["dense"].output_ids == (seen["output"],)
    assert seen["output"] in seen["known"]
    np.testing.assert_allclose(arrays["output"], numbers(model(images())), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(arrays["inner/relu"], np.maximum(arrays["inner/deep"], 0))


class Activated(keras.Model):
    """Ends in an activation by Keras' operations, within its own `call`."""

    def __init__(self, activation):
        super().__init__()
        self.dense = layers.Dense(3)
        self.activation = activation

    def call(self, x):
        return self.activation(self.dense(ops.mean(x, axis=(1, 2))))


ENDS = {
    "argument": (lambda: pooled("softmax"), True),
    "sigmoid": (lambda: pooled("sigmoid"), True),
    "layer": (lambda: stack(layers.Flatten(), layers.Dense(3), layers.Softmax()), True),
    "layer of an activation": (lambda: stack(layers.Flatten(), layers.Dense(3), layers.Activation("softmax")), True),
    "in call": (lambda: Activated(lambda z: ops.softmax(z, axis=-1)), True),
    "none": (pooled, False),
    "relu": (lambda: pooled("relu"), False),
}


@pytest.mark.parametrize(("build", "activated"), ENDS.values(), ids=ENDS)
def test_logits_are_what_went_into_the_final_activation(build, activated):
    model, x = build(), images()
    model(x)
    seen = []

    def look(x):
        run = loaded.tapped_run(model, x)
        logits, probabilities = run.find_logits()
        seen.append((logits is not None, probabilities))
        return {"outputs": run.outputs, "logits": run.outputs if logits is None else logits}

    arrays = traced(model, look, x)
    assert seen[-1] == (activated, activated)
    if activated:
        z = np.asarray(arrays["logits"], np.float64)
        sigmoid = model.layers[-1].get_config().get("activation") == "sigmoid"
        expected = 1 / (1 + np.exp(-z)) if sigmoid else np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(arrays["outputs"], expected, rtol=1e-4)


def test_several_outputs_have_no_logits_and_no_id():
    inputs = keras.Input(SHAPE)
    x = layers.Flatten()(inputs)
    model = keras.Model(inputs, [layers.Dense(2, activation="softmax")(x), layers.Dense(3)(x)])
    seen = []

    def look(x):
        run = loaded.tapped_run(model, x)
        seen.append((run.find_logits(), run.output_id))
        return dict(enumerate(run.outputs))

    traced(model, look, images())
    assert seen[-1] == ((None, False), None)


def test_a_plain_run_has_outputs_and_logits():
    model, x = pooled("softmax"), images()

    def look(x):
        run = loaded.plain_run(model, x)
        return {"outputs": run.outputs, "logits": run.find_logits()[0]}

    arrays = traced(model, look, x)
    exponents = np.exp(arrays["logits"])
    np.testing.assert_allclose(arrays["outputs"], exponents / exponents.sum(axis=1, keepdims=True), rtol=1e-5)


def test_which_inputs_a_layer_reads_and_what_lies_behind_it():
    first, second = keras.Input(SHAPE, name="a"), keras.Input(SHAPE, name="b")
    left = layers.Conv2D(2, 3, name="left")(first[:, 1:])
    counted = layers.Lambda(lambda pair: pair[0] * ops.cast(ops.shape(pair[1])[0], "float32"))
    right = layers.Conv2D(2, 3, name="right")(counted([layers.ZeroPadding2D(1)(second), first]))
    pooled = [layers.GlobalAveragePooling2D(name=f"mean_{name}")(x) for name, x in (("left", left), ("right", right))]
    model = keras.Model([first, second], layers.Concatenate(name="joined")(pooled))
    seen = {}

    def look(inputs):
        def behind(run):
            (left,) = (run.tensors[call.output_ids[0]] for call in run.calls if call.layer.name == "mean_left")
            return [left[:, 0], ops.sum(run.outputs, axis=1)], None

        run = loaded.differentiated_run(model, inputs, lambda call: False, behind)
        ids = {call.layer.name: call.output_ids[0] for call in run.calls}
        seen["scores"] = [run.score_inputs(score) for score in range(2)]
        seen["reads"] = {name: run.read_inputs(ids[name]) for name in ("left", "right", "joined")}
        later = run.behind(ids["left"])
        seen["behind"] = {name: ids[name] in later for name in ("mean_left", "joined", "right", "mean_right")}
        seen["fronts"] = [
            [(tuple(tensor.shape[1:]), how) for tensor, how in run.fronts(ids[name], at)]
            for name, at in (("left", 0), ("right", 1), ("joined", 1))
        ]
        return {}

    traced(model, look, [images(1), images(1)])
    assert seen["reads"] == {"left": {0}, "right": {1}, "joined": {0, 1}}  # The number of samples is no value.
    assert seen["scores"] == [{0}, {0, 1}]
    assert seen["behind"] == {"mean_left": True, "joined": True, "right": False, "mean_right": False}
    padded = [((8, 7, 3), "padded")]
    assert seen["fronts"] == [[((5, 5, 3), "moved")], padded, padded]


@pytest.mark.parametrize("activation", ["relu", "relu6", None])
def test_before_a_relu(activation):
    model = stack(layers.Conv2D(4, 3, activation=activation, name="conv"), layers.GlobalAveragePooling2D())
    seen = []

    def look(x):
        run = loaded.tapped_run(model, x)
        call = next(call for call in run.calls if call.layer.name == "conv")
        before = run.before_relu(call.output_ids[0])
        seen.append(before is not None)
        after = run.tensors[call.output_ids[0]]
        return {"after": after, "before": after if before is None else before}

    arrays = traced(model, look, 8 * images())
    assert seen[-1] == (activation is not None)
    if activation:
        assert arrays["before"].min() < 0
        limit = 6 if activation == "relu6" else np.inf
        np.testing.assert_array_equal(arrays["after"], np.clip(arrays["before"], 0, limit))


@pytest.mark.parametrize("trainable", [True, False])
def test_gradients_at_a_layer_equal_the_closed_form(trainable):
    model, x = pooled(trainable=trainable), images()
    seen = []

    def look(x):
        def behind(run):
            return [run.outputs[:, 0], run.outputs[:, 2]], {"doubled": 2 * run.outputs}

        run = loaded.differentiated_run(model, x, is_layer("conv"), behind)
        seen.append([call.path for call, _ in run.watched])
        gradients = {f"gradient {t}": run.gradients(t)[0] for t in range(2)}
        return {"outputs": run.outputs, "activations": run.watched[0][1], **gradients, **run.results}

    arrays = traced(model, look, x)
    assert seen[-1] == ["conv"]
    kernel = numbers(model.get_layer("classes").kernel)
    h, w = arrays["activations"].shape[1:3]
    for t, unit in enumerate((0, 2)):
        expected = np.broadcast_to(kernel[:, unit] / (h * w), arrays["activations"].shape)
        np.testing.assert_allclose(arrays[f"gradient {t}"], expected, rtol=1e-5)
    np.testing.assert_array_equal(arrays["doubled"], 2 * arrays["outputs"])


def branched():
    inputs = keras.Input(SHAPE)
    first = layers.Conv2D(3, 1, name="first")(inputs)
    second = layers.Conv2D(3, 1, name="second")(first)
    aside = layers.Conv2D(2, 1, name="aside")(first)
    summed = layers.GlobalAveragePooling2D()(layers.Add(name="sum")([first, second]))
    return keras.Model(inputs, [summed, layers.GlobalMaxPooling2D()(aside)])


@pytest.mark.parametrize(("last_only", "expected"), [(True, ["aside"]), (False, ["first", "second", "aside"])])
def test_which_calls_are_watched_and_what_does_not_depend_on_them(last_only, expected):
    model, seen = branched(), {}

    def look(x):
        def behind(run):
            return [run.outputs[0][:, 1], run.outputs[1][:, 0]], None

        run = loaded.differentiated_run(model, x, lambda call: "Conv" in type(call.layer).__name__, behind, last_only)
        seen["watched"] = sorted((call.path for call, _ in run.watched), key=expected.index)
        for t in range(2):
            paired = zip(run.watched, run.gradients(t), strict=True)
            seen[t] = {call.path for (call, _), gradient in paired if gradient is not None}
            used = run.used(t)
            seen["used", t] = {call.path for call in run.calls if used and used.intersection(call.output_ids)}
        return {"scores": run.scores[0]}

    traced(model, look, images())
    assert seen["watched"] == expected
    assert seen[0] == {"first", "second"} & set(expected)
    assert seen[1] == ({"aside"} if last_only else {"first", "aside"})
    assert {"first", "second", "sum"} <= seen["used", 0]
    assert "aside" not in seen["used", 0]
    assert "second" not in seen["used", 1]


def test_float16_gradients_do_not_vanish():
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model = stack(
            layers.Conv2D(4, 1, name="conv"), layers.GlobalAveragePooling2D(), layers.Dense(2), shape=(64, 64, 3)
        )
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    model.layers[-1].kernel.assign(np.full((4, 2), 1e-3))

    def look(x):
        def behind(run):
            return [ops.cast(run.outputs[:, 0], "float32")], None

        run = loaded.differentiated_run(model, x, is_layer("conv"), behind)
        return {"gradient": run.gradients(0)[0]}

    found = traced(model, look, images(1, (64, 64, 3)))["gradient"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1e-3 / 64**2, rtol=2e-2)  # 2.4e-7: half the precision of float16.


def smooth():
    return stack(layers.Conv2D(3, 3, activation="tanh"), layers.Flatten(), layers.Dense(2, activation="softmax"))


def test_a_gradient_equals_finite_differences():
    model, x = smooth(), images(2)

    def look(x):
        scores, gradient, _ = loaded.gradient(lambda x: loaded.tapped_run(model, x).outputs[:, 1], x, model)
        return {"scores": scores, "gradient": gradient}

    arrays = traced(model, look, x)
    score = loaded.compile_pass(lambda x: {"s": loaded.tapped_run(model, x).outputs[:, 1]}, model, (x,))
    np.testing.assert_allclose(arrays["scores"], score(x)["s"], rtol=1e-5)
    for place in [(0, 0, 0), (3, 2, 1), (5, 4, 2)]:
        step = np.zeros(SHAPE, np.float32)
        step[place] = 1e-2
        slope = (score(x + step)["s"].astype(np.float64) - score(x - step)["s"]) / 2e-2
        np.testing.assert_allclose(arrays["gradient"][(slice(None), *place)], slope, rtol=2e-2, atol=2e-5)


def test_no_gradient_is_none():
    model = stack(layers.Flatten(), layers.Dense(2))
    seen = []

    def look(x):
        scores, gradient, _ = loaded.gradient(lambda x: ops.ones((4,)), x, model)
        seen.append(gradient)
        return {"scores": scores}

    traced(model, look, images())
    assert seen[-1] is None


def test_guided_relus_hand_back_what_is_positive_only():
    model = stack(layers.Flatten(), layers.ReLU(name="relu"), layers.Dense(1, use_bias=False, name="dense"))
    weights = np.linspace(-1, 1, int(np.prod(SHAPE)), dtype=np.float32)[:, None]
    model.get_layer("dense").kernel.assign(weights)
    seen, x = [], images()

    def look(x):
        function = lambda x: loaded.tapped_run(model, x).outputs[:, 0]  # noqa: E731
        _, gradient, count = loaded.gradient(function, x, model, guided=True)
        seen.append(count)
        return {"gradient": gradient}

    found = loaded.compile_pass(look, model, (x,), traced=True)(x)["gradient"]
    expected = np.where((x > 0) & (weights.reshape(SHAPE) > 0), weights.reshape(SHAPE), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert seen[-1] == 1


def test_all_shares_of_a_score_sum_to_it():
    model = stack(
        layers.Conv2D(4, 3, activation="relu", bias_initializer="normal", name="conv"),
        layers.Flatten(),
        layers.Dense(2, bias_initializer="normal", name="dense"),
    )
    x, seen = images(), []

    def look(x):
        function = lambda x: loaded.tapped_run(model, x).outputs[:, 0]  # noqa: E731
        scores, gradient, others, places = loaded.full_gradient(function, x, model)
        seen.append(([place.path for place in places], others))
        shares = [ops.sum(ops.reshape(p.gradient * p.layer.bias, (ops.shape(x)[0], -1)), axis=1) for p in places]
        return {"scores": scores, "rest": scores - ops.sum(x * gradient, axis=(1, 2, 3)) - sum(shares)}

    arrays = traced(model, look, x)
    assert sorted(seen[-1][0]) == ["conv", "dense"]
    assert seen[-1][1] == []
    np.testing.assert_allclose(arrays["rest"], 0, atol=1e-5)
    assert np.abs(arrays["scores"]).max() > 0.01


class Stopped(layers.Layer):
    def call(self, x):
        return ops.stop_gradient(x)


@pytest.mark.only_on("tensorflow", "jax", reason="on eager PyTorch, gradients are known where they are watched")
def test_which_outputs_a_score_has_a_gradient_at():
    inputs = keras.Input(SHAPE)
    cut = layers.Conv2D(2, 3, name="cut")(inputs)
    kept = layers.Conv2D(2, 3, name="kept")(inputs)
    model, seen = keras.Model(inputs, ops.mean(Stopped()(cut) * kept, axis=(1, 2))), {}

    def look(x):
        run = loaded.differentiated_run(model, x, is_layer("kept"), lambda run: ([run.outputs[:, 0]], None))
        ids = {call.path: call.output_ids[0] for call in run.calls}
        assert ids.keys() >= {"cut", "kept"}
        seen.update({path: run.differentiable(0, [ids[path]]) == {ids[path]} for path in ("cut", "kept")})
        return {"scores": run.scores[0]}

    traced(model, look, images())
    assert seen == {"cut": False, "kept": True}


@pytest.mark.parametrize("eager", [False, True])
def test_a_function_of_what_was_traced_is_compiled_beside_it(eager):
    model, x, traces, made = pooled(), images(5), [], []
    model.compile("sgd", "mse", run_eagerly=eager)

    def look(x):
        traces.append(1)
        run = loaded.tapped_run(model, x)
        made[:] = [run.tensors[call.output_ids[0]] for call in run.calls if call.path in ("conv", "average")]
        return {"outputs": run.outputs}

    run = loaded.compile_frozen_pass(look, model, (x[:1],), None, [5], 0)
    run(None, x)
    count = len(traces)
    beside = run.beside(made, lambda conv, average: {"sum": ops.sum(conv, axis=(1, 2)), "mean": average})
    if eager or not TENSORFLOW:
        assert beside is None
        return
    model.get_layer("conv").bias.assign_add([1.0, 2.0, 3.0, 4.0])
    for rows in (x, x[:2]):
        arrays = beside(rows)
        expected = np.asarray(model.get_layer("conv")(rows)).sum(axis=(1, 2))
        np.testing.assert_allclose(arrays["sum"], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(arrays["mean"], expected / 12, rtol=1e-4, atol=1e-5)
    assert len(traces) == count


def test_a_replaced_layer_puts_out_what_is_given():
    model, x = pooled(), images()
    activations = np.random.default_rng(1).uniform(size=(4, 4, 3, 4)).astype(np.float32)

    def look(activations):
        with loaded.replaced(model.get_layer("conv"), activations):
            return {"outputs": loaded.tapped_run(model, ops.zeros((4, *SHAPE))).outputs}

    found = traced(model, look, activations)["outputs"]
    dense = model.get_layer("classes")
    expected = activations.mean(axis=(1, 2)) @ numbers(dense.kernel) + numbers(dense.bias)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    before = ops.convert_to_numpy(model(x))
    assert np.abs(before[:4] - expected).max() > 1e-4  # Outside it is the layer's own again.


@pytest.mark.only_on("tensorflow", "jax", reason="only their engines number operations by value")
def test_calls_of_a_layer_that_compute_the_same_are_one():
    """Each has the gradient of what is done with all of them."""
    model, seen = SharedConvolution(1.0, 1.0, 2.0), []

    def look(x):
        run = loaded.differentiated_run(model, x, is_layer("conv"), weighed, last_only=False)
        seen[:] = run.calls, [call.path for call, _ in run.watched]
        return dict(zip("ab", run.gradients(0), strict=True))

    def weighed(run):
        first, same, other = (ops.sum(output, (1, 2, 3)) for output in run.outputs)
        return [2 * first + 3 * same + 4 * other], None

    arrays = traced(model, look, images())
    calls, watched = seen
    assert [call.path for call in calls] == ["conv", "conv#2", "conv#3"]
    assert calls[0].output_ids == calls[1].output_ids != calls[2].output_ids
    assert watched == ["conv", "conv#3"]
    np.testing.assert_allclose(arrays["a"], 5.0)
    np.testing.assert_allclose(arrays["b"], 4.0)
    outputs = traced(model, lambda x: {"outputs": loaded.plain_run(model, x).outputs}, images())["outputs"]
    for output, own in zip(outputs, model(images()), strict=True):
        np.testing.assert_allclose(output, own, rtol=1e-5, atol=1e-6)


def test_a_layer_that_steps_through_time_is_replaced():
    """Also where the model is in a state to be run already."""
    steps = layers.TimeDistributed(layers.Conv2D(2, 3), name="steps")
    model = stack(steps, layers.Flatten(), layers.Dense(2, bias_initializer="normal"), shape=(3, *SHAPE))

    def look(x):
        with loaded.left_as_found(model), loaded.replaced(steps, lambda output: output * 0):
            return {"outputs": loaded.plain_run(model, x).outputs}

    outputs = traced(model, look, images(2, (3, *SHAPE)))["outputs"]
    np.testing.assert_allclose(outputs, np.tile(numbers(model.layers[-1].bias), (2, 1)), rtol=1e-6)


def test_several_calls_of_a_layer_are_replaced():
    model = SharedConvolution(1.0, 2.0, 3.0)

    def look(x):
        with loaded.replaced(model.conv, lambda output: output * 0 + 7, (1, 3)):
            return {"outputs": loaded.plain_run(model, x).outputs}

    first, second, third = traced(model, look, images())["outputs"]
    np.testing.assert_array_equal([first, third], np.full((2, *first.shape), 7))
    np.testing.assert_allclose(second, ops.convert_to_numpy(model(images())[1]), rtol=1e-5, atol=1e-6)


def test_a_pass_takes_any_number_of_samples_and_sees_new_weights():
    model, x, traces = pooled(), images(7), []

    def look(x):
        traces.append(1)
        return {"outputs": loaded.tapped_run(model, x).outputs}

    run = loaded.compile_pass(look, model, (x[:1],))
    for count in (1, 7, 3):
        np.testing.assert_allclose(run(x[:count])["outputs"], numbers(model(x[:count])), rtol=1e-5, atol=1e-6)
    before = run(x)["outputs"]
    model.get_layer("classes").bias.assign_add([1.0, 0.0, 0.0])
    after = run(x)["outputs"]
    np.testing.assert_allclose(after - before, np.tile([[1.0, 0.0, 0.0]], (7, 1)), atol=1e-6)
    assert isinstance(after, np.ndarray)
    assert not after.flags.writeable


def test_a_pass_sees_new_values_of_variables_that_are_read_beside_the_run():
    model, x = pooled(), images()
    dense = model.get_layer("classes")

    def look(x):
        run = loaded.tapped_run(model, x)
        return {"bias": run.outputs * 0 + ops.convert_to_tensor(dense.bias)}

    frozen = loaded.compile_frozen_pass(look, model, (x,), None, [4], 0)
    passes = [loaded.compile_pass(look, model, (x,)), lambda x: frozen(None, x)]
    dense.bias.assign([1.0, 2.0, 3.0])
    for run in passes:
        np.testing.assert_array_equal(run(x)["bias"], np.tile([[1.0, 2.0, 3.0]], (4, 1)))


@pytest.mark.parametrize("most", [2**20, 0])
def test_a_frozen_part_runs_once_until_it_is_written_to(most):
    model, x = pooled(trainable=False), images(5)

    def look(x):
        run = loaded.differentiated_run(model, x, is_layer("conv"), lambda run: ([run.outputs[:, 0]], None))
        return {"activations": run.watched[0][1], "gradient": run.gradients(0)[0], "outputs": run.outputs}

    whole = loaded.compile_pass(look, model, (x,))
    frozen = loaded.compile_frozen_pass(look, model, (x,), None, [3, 2], most)

    def check(reuses):
        frozen.renew()
        for lot, rows in enumerate((slice(0, 3), slice(3, 5))):
            kept, again = frozen(lot, x[rows]), whole(x[rows])
            for name in again:
                np.testing.assert_array_equal(kept[name], again[name])
        assert frozen.reuses == (reuses if most else 0)

    check(0)
    check(2)
    assert bool(frozen.bytes_kept) == bool(most)
    model.get_layer("classes").bias.assign_add([1.0, 0.0, 0.0])  # It is trained, and lies behind.
    check(4)
    model.get_layer("conv").bias.assign_add([0.5] * 4)
    check(4)
    other = images(3, seed=9)
    np.testing.assert_array_equal(frozen(None, other)["outputs"], whole(other)["outputs"])  # Of no lot.
    check(6)


class Writing(layers.Layer):
    """Draws a random number, counts its calls and adds a loss."""

    def __init__(self):
        super().__init__(name="writing")
        self.seed = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign(self.calls + 1)
        self.add_loss(ops.mean(x))
        return x + keras.random.normal(ops.shape(x), seed=self.seed)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    model = stack(layers.Conv2D(3, 3, activity_regularizer="l2"), Writing(), layers.GlobalAveragePooling2D())
    model(images())
    writing = model.get_layer("writing")

    def state():
        every = [model, *model.layers]
        values = [numbers(v).copy() for v in (*model.variables, writing.seed.state)]
        attributes = [sorted(vars(layer)) for layer in every]
        noted = [(list(map(id, layer._losses)), set(getattr(layer, "_loss_ids", ()))) for layer in every]
        return values, attributes, noted

    def look(x):
        run = loaded.tapped_run(model, x)
        if fails:
            raise ArithmeticError("no")
        return {"outputs": run.outputs}

    before = state()
    if fails:
        with pytest.raises(ArithmeticError):
            traced(model, look, images())
    else:
        traced(model, look, images())
    after = state()
    for one, other in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert before[1:] == after[1:]


def test_scope_and_workers_of_a_plain_model():
    model = pooled()
    with loaded.scope(model):
        extra = keras.Variable(np.ones(3))
    np.testing.assert_array_equal(numbers(extra), 1)
    assert loaded.cluster(model) is None
