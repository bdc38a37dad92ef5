import logging

import keras
import models
import numpy as np
import pytest
from backends import of_framework, tf
from keras import layers, ops
from models import CLASSES, SHAPE, functional, images
from tapes import gradient

from keras_cam_callbacks import GuidedBackprop, HeatmapLogger, IntegratedGradients, Occlusion, SmoothGrad, explain


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)


def close(found, expected, share=1e-4):
    assert found.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(found - expected).max() <= share * largest


def gradients(model, x, score):
    """By the backend's own gradient of the model's logits."""
    return gradient(lambda x: score(model(x)), x.astype(np.float32))


def highest_of(split):
    return lambda x: models.highest(split.rest(split.front(x)))


KINDS = {
    "functional": models.functional,
    "sequential": models.sequential,
    "nested twice": models.nested_twice,
    "subclass": models.branched,
    "several sigmoids": lambda: functional(activation="sigmoid"),
    "logits": lambda: functional(activation=None),
}


@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)
def test_saliency_equals_a_tape_over_the_whole_model(build):
    split, x = build(), images()
    found = explain(split.model, x, method="saliency")
    close(found.attributions, gradients(highest_of(split), x, lambda scores: scores))
    np.testing.assert_allclose(found.scores, ops.convert_to_numpy(highest_of(split)(x)), rtol=1e-4)


def test_one_sigmoid_explains_the_predicted_class():
    split, x = functional(1, "sigmoid"), images()
    split.model.compile("sgd", "binary_crossentropy")
    logit = gradients(lambda v: split.rest(split.front(v))[:, 0], x, lambda z: z)
    found = explain(split.model, x, method="saliency")
    sign = np.where(ops.convert_to_numpy(split.model(x))[:, 0] > 0.5, 1, -1)
    close(found.attributions, logit * sign[:, None, None, None])
    close(explain(split.model, x, method="saliency", target=0).attributions, -logit)


def test_copies_explain_the_class_of_their_original():
    """Noise so strong that it changes the predicted class changes nothing in what is explained."""
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3)])
    x = images(6, (4, 4, 1))
    kernel = model.layers[-1].get_weights()[0].T.reshape(3, 4, 4, 1)
    predicted = ops.convert_to_numpy(model(x)).argmax(1)
    noisy = x + np.random.default_rng(0).normal(size=(40, 6, 4, 4, 1)).astype(np.float32) * 3
    changed = np.mean([ops.convert_to_numpy(model(copy)).argmax(1) != predicted for copy in noisy])
    assert changed > 0.2
    found = explain(model, x, method=SmoothGrad(samples=20, sigma=5.0))
    np.testing.assert_allclose(found.attributions, kernel[predicted], atol=1e-5)
    by_rule = explain(model, x, method=SmoothGrad(samples=20, sigma=5.0), target=lambda out: ops.argmax(out, axis=-1))
    np.testing.assert_array_equal(by_rule.attributions, found.attributions)
    each = explain(model, x, method=SmoothGrad(samples=4), target=[0, 1, 2, 2, 1, 0], batch_size=5)
    np.testing.assert_allclose(each.attributions, kernel[[0, 1, 2, 2, 1, 0]], atol=1e-5)


def test_a_rule_gives_the_score_itself():
    split, x = functional(activation=None), images()
    found = explain(split.model, x, method="saliency", target=lambda outputs: outputs[:, 0] - 2 * outputs[:, 1])
    close(found.attributions, gradients(split.model, x, lambda out: out[:, 0] - 2 * out[:, 1]))
    assert found.targets is None


def test_regression():
    split, x = functional(1, None), images()
    split.model.compile("sgd", "mse")
    close(explain(split.model, x, method="saliency").attributions, gradients(split.model, x, lambda out: out[:, 0]))


def test_channels_first():
    split = functional()
    model = models.channels_first(split.model)
    for method in ("saliency", SmoothGrad(samples=3), "guided_gradcam", "max_activation"):
        expected = explain(split.model, images(), method=method)
        found = explain(model, images().transpose(0, 3, 1, 2), method=method)
        assert found.attributions.shape == (6, *SHAPE)
        close(found.attributions, expected.attributions)
        close(found.heatmaps, expected.heatmaps)


def test_whole_numbers_have_the_gradient_of_the_same_floats():
    split = functional()
    x = (images() * 255).astype(np.uint8)
    found = explain(split.model, x, method="saliency")
    close(found.attributions, gradients(highest_of(split), x.astype(np.float32), lambda scores: scores))
    assert found.batch.inputs.dtype == np.uint8


class OnlyWhole(keras.Model):
    """Takes [0, 255] where the type is whole and [0, 1] where it isn't, as tf.image.convert_image_dtype does."""

    def __init__(self):
        super().__init__(name="only_whole")
        self.conv = layers.Conv2D(4, 3, name="conv")
        self.dense = layers.Dense(CLASSES)

    def call(self, x):
        if keras.backend.standardize_dtype(x.dtype) == "uint8":
            x = ops.cast(x, "float32") / 255
        return self.dense(ops.mean(self.conv(x), axis=(1, 2)))


def integer_input():
    inputs = keras.Input(SHAPE, dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x), name="integer_input")


@pytest.mark.parametrize("build", [OnlyWhole, integer_input])
def test_a_model_of_whole_numbers_is_told(build):
    model, x = build(), (images() * 255).astype(np.uint8)
    model(x)
    with pytest.raises(
        ValueError, match=f"model '{model.name}' and images of type uint8, from which no gradient comes"
    ):
        explain(model, x, method="saliency")
    assert explain(model, x).heatmaps.shape == (6, 10, 14)


def test_mixed_precision():
    plain = functional()
    mixed = models.in_mixed_precision(functional)
    mixed.model.set_weights(plain.model.get_weights())
    for method in ("saliency", "guided_backprop"):
        expected = explain(plain.model, images(), method=method, target=1).attributions
        found = explain(mixed.model, images(), method=method, target=1).attributions
        # Where two pixels of a pooling window are all but equal, float16 may hand the gradient to the other one.
        assert np.quantile(np.abs(found - expected), 0.95) <= 0.01 * np.abs(expected).max()
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    # Gradients that float16 would lose: 2^-20 over 35 positions.
    for split in (plain, mixed):
        kernel, bias = split.model.get_layer("classes").get_weights()
        split.model.get_layer("classes").set_weights([np.full_like(kernel, 2.0**-20), bias])
    expected = explain(plain.model, images(), method="saliency", target=1).attributions
    found = explain(mixed.model, images(), method="saliency", target=1).attributions
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert np.abs(found).sum() == pytest.approx(np.abs(expected).sum(), rel=0.02)


@pytest.mark.parametrize("count", [3, 4, 10])
def test_model_with_a_fixed_batch_dimension(count):
    split, x = functional(batch=4), images(count)
    free = functional()
    free.model.set_weights(split.model.get_weights())
    method = SmoothGrad(samples=3)
    close(
        explain(split.model, x, method=method).attributions,
        explain(free.model, x, method=method).attributions,
    )


def test_several_inputs_have_only_the_images_varied():
    inputs = {"image": keras.Input((4, 4, 1), name="image"), "age": keras.Input((2,), name="age")}
    scale = layers.Dense(1, use_bias=False)(inputs["age"])
    flat = layers.Dense(2, use_bias=False, name="pixels")(layers.Flatten()(inputs["image"]))
    model = keras.Model(inputs, layers.Multiply()([flat, scale]))
    data = {"image": images(6, (4, 4, 1)), "age": np.arange(12, dtype=np.float32).reshape(6, 2)}
    factor = ops.convert_to_numpy(keras.Model(inputs, scale)(data))
    kernel = model.get_layer("pixels").get_weights()[0][:, 1].reshape(1, 4, 4, 1)
    found = explain(model, data, method=SmoothGrad(samples=3), target=1, batch_size=4)
    np.testing.assert_allclose(found.attributions, kernel * factor[:, :, None, None], rtol=1e-4, atol=1e-5)


def test_text_beside_images_goes_with_every_copy():
    """The weight is the number that the text spells, so that a copy with another sample's text is noticed."""
    image = keras.Input((4, 4, 1), name="image")
    text = keras.Input((), dtype="string", name="text")
    weight = layers.Lambda(tf.strings.to_number, output_shape=())(text)
    flat = layers.Dense(2, use_bias=False, name="pixels")(layers.Flatten()(image))
    outputs = layers.Lambda(lambda both: both[0] * both[1][:, None], output_shape=(2,))([flat, weight])
    model = keras.Model({"image": image, "text": text}, outputs)
    data = {"image": images(5, (4, 4, 1)), "text": np.array(["1", "-2", "3", "4", "0.5"], object)}
    kernel = model.get_layer("pixels").get_weights()[0][:, 1].reshape(1, 4, 4, 1)
    expected = kernel * np.array([1, -2, 3, 4, 0.5])[:, None, None, None]
    for batch_size in (32, 3):
        found = explain(model, data, method=SmoothGrad(samples=3), target=1, batch_size=batch_size)
        np.testing.assert_allclose(found.attributions, expected, rtol=1e-4, atol=1e-5)


def test_grey_images_without_a_channel_axis():
    model = keras.Sequential([keras.Input((4, 5)), layers.Flatten(), layers.Dense(2)])
    found = explain(model, images(3, (4, 5)), method="saliency", target=1)
    kernel = model.layers[-1].get_weights()[0][:, 1].reshape(1, 4, 5, 1)
    np.testing.assert_allclose(found.attributions, np.repeat(kernel, 3, 0), rtol=1e-5)


def test_a_model_that_runs_eagerly():
    split, x = functional(), images()
    expected = {m: explain(split.model, x, method=m).attributions for m in ("saliency", "guided_backprop")}
    split.model.compile("sgd", models.SPARSE, run_eagerly=True)
    for method, maps in expected.items():
        close(explain(split.model, x, method=method).attributions, maps)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            "max_activation",
            "layer 'conv2' (10 x 14 x 5) by max_activation of the layer's largest activations",
        ),
        (
            "occlusion",
            "the image itself by occlusion(window=4, stride=4) of scores before the final activation",
        ),
    ],
)
def test_what_is_explained_is_said(method, said, caplog):
    method = Occlusion(window=4, stride=4) if method == "occlusion" else method
    logger = HeatmapLogger(images(), method=method, tracker=None)
    logger.set_model(functional().model)
    with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
        logger.on_epoch_end(0)
    assert f"HeatmapLogger explains {said}, 6 images of range [0, 1]; adds " in caplog.text
    assert "; no tracker" in caplog.text


@pytest.mark.only_on("tensorflow", reason="others have rounding a gradient, of zero")
def test_no_gradient_is_told_before_the_first_batch():
    inputs = keras.Input(SHAPE)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Lambda(ops.round)(inputs)))
    model = keras.Model(inputs, layers.Dense(CLASSES)(x), name="rounded")
    model.compile("sgd", models.LOGITS)
    begun = []
    count = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: begun.append(batch))
    logger = HeatmapLogger((images(), models.labels()), method="saliency", tracker=None)
    with pytest.raises(ValueError, match="model 'rounded' and images of type float32, from which no gradient comes"):
        model.fit(images(), models.labels(), verbose=0, callbacks=[logger, count])
    assert not begun


# Guided backpropagation


def guided_by_hand(steps, x, target):
    """Backward through a chain by hand: `steps` are (kernel, limit of the ReLU or None) of 1 x 1 convolutions."""
    values, kept = x.astype(np.float64), []
    for kernel, limit in steps:
        values = values @ kernel
        if limit is not None:
            kept.append((values > 0) & (values < limit))
            values = np.clip(values, 0, limit)
        else:
            kept.append(None)
    height, width = x.shape[1:3]
    back = np.zeros(values.shape)
    back[..., target] = 1 / (height * width)
    for (kernel, _), mask in zip(reversed(steps), reversed(kept), strict=True):
        if mask is not None:
            back = np.where(mask & (back > 0), back, 0)
        back = back @ kernel.T
    return back


class InCall(layers.Layer):
    def __init__(self, function, **settings):
        super().__init__(**settings)
        self.function = function

    def call(self, x):
        return self.function(x)


def relu_model(relus, nested=False):
    """1 x 1 convolutions with a ReLU of one kind behind each, and an average: all its steps are in plain sight."""
    inputs = keras.Input((4, 5, 3))
    x = inputs
    for i, channels in enumerate((6, 7)):
        activation = "relu" if relus == "in the layer" else None
        conv = layers.Conv2D(channels, 1, use_bias=False, activation=activation, name=f"conv{i}")
        x = keras.Sequential([keras.Input(x.shape[1:]), conv], name=f"nested{i}")(x) if nested else conv(x)
        if relus != "in the layer":
            x = relus()(x)
    last = layers.Conv2D(2, 1, use_bias=False, name="conv2")
    outputs = layers.GlobalAveragePooling2D()(last(x))
    return keras.Model(inputs, outputs)


RELUS = {
    "activation='relu'": ("in the layer", np.inf),
    "ReLU": (layers.ReLU, np.inf),
    "Activation": (lambda: layers.Activation("relu"), np.inf),
    "max_value=6": (lambda: layers.ReLU(max_value=6.0), 6),
    "activation='relu6'": (lambda: layers.Activation("relu6"), 6),
    "keras.activations.relu in a graph": (lambda: keras.activations.relu, np.inf),
    "keras.ops.relu in a graph": (lambda: ops.relu, np.inf),
    "keras.activations.relu in call": (lambda: InCall(keras.activations.relu), np.inf),
    "keras.ops.relu in call": (lambda: InCall(ops.relu), np.inf),
    "keras.ops.relu6 in call": (lambda: InCall(ops.relu6), 6),
    "the framework's relu in call": (lambda: InCall(of_framework("relu")), np.inf),
    "keras.layers.ReLU in a nested Sequential": (lambda: keras.Sequential([layers.ReLU()]), np.inf),
}


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize(("relus", "limit"), RELUS.values(), ids=RELUS)
def test_guided_backprop_finds_every_relu(relus, limit, nested):
    model, x = relu_model(relus, nested), images(3, (4, 5, 3)) * 20 - 10
    kernels = [w[0, 0].astype(np.float64) for w in model.get_weights()]
    steps = list(zip(kernels, (limit, limit, None), strict=True))
    found = explain(model, x, method="guided_backprop", target=1).attributions
    close(found, guided_by_hand(steps, x, 1).astype(np.float32))
    plain = explain(model, x, method="saliency", target=1).attributions
    assert np.abs(plain - found).max() > 0.05 * np.abs(plain).max()
    if limit == 6:
        other = guided_by_hand([(k, lim and np.inf) for k, lim in steps], x, 1)
        assert np.abs(other - found).max() > 0.05 * np.abs(found).max()  # The upper limit counts in these images.


def test_guided_backprop_leaves_the_models_own_gradients_alone():
    split, twin = functional(), functional()
    twin.model.set_weights(split.model.get_weights())
    x, y = images(), models.labels()
    before = gradients(highest_of(split), x, lambda scores: scores)
    for one in (split, twin):
        one.model.compile(keras.optimizers.SGD(0.1), models.SPARSE, jit_compile=False)
        one.model.train_on_batch(x, y)
    guided = explain(split.model, x, method="guided_backprop")
    trained = [one.model.train_on_batch(x, y) for one in (split, twin)]
    assert trained[0] == trained[1]
    for mine, other in zip(split.model.get_weights(), twin.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    after = explain(split.model, x, method="saliency").attributions
    close(after, gradients(highest_of(split), x, lambda scores: scores))
    assert np.abs(after - guided.attributions).max() > 0.05 * np.abs(after).max()
    assert np.abs(after - before).max() > 0  # Training went on.


def test_guided_backprop_in_fit_leaves_training_alone():
    def trained(*callbacks):
        keras.utils.set_random_seed(3)
        model = functional().model
        model.compile(keras.optimizers.SGD(0.1), models.SPARSE, jit_compile=False)
        history = model.fit(images(), models.labels(), epochs=2, verbose=0, shuffle=False, callbacks=list(callbacks))
        return history.history["loss"], model.get_weights()

    logger = HeatmapLogger(images(), method="guided_backprop", tracker="memory", on_error="raise")
    plain, logged = trained(), trained(logger)
    assert plain[0] == logged[0]
    for one, other in zip(plain[1], logged[1], strict=True):
        np.testing.assert_array_equal(one, other)


@tf.function
def hidden_relu(x):
    return tf.nn.relu(x)


REFUSED = {
    "no ReLU": (lambda: layers.Activation("gelu"), "which has none"),
    "leaky": (layers.LeakyReLU, "which has none"),
    "inside a tf.function": (lambda: InCall(hidden_relu), "some inside a tf.function or a compiled module of its own"),
}


@pytest.mark.parametrize(("activation", "message"), REFUSED.values(), ids=REFUSED)
def test_guided_backprop_is_refused_without_relus_that_can_be_reached(activation, message):
    model = relu_model(activation)
    for method in (GuidedBackprop(), "guided_gradcam"):
        with pytest.raises(ValueError, match=f"Guided backpropagation needs .* {message}"):
            explain(model, images(2, (4, 5, 3)), method=method)
    assert explain(model, images(2, (4, 5, 3)), method="saliency").heatmaps.any()


def call_of_two_layers(model, x):
    return model.classes(ops.mean(model.conv(x), axis=(1, 2)))


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.classes = layers.Conv2D(4, 3, activation="relu", name="conv"), layers.Dense(CLASSES)

    call = call_of_two_layers


class Compiled(Plain):
    """Has a `call` that is a graph of its own, which Keras has traced before anything is explained."""

    call = tf.function(call_of_two_layers)


def around(model):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, model(inputs))


@pytest.mark.parametrize("wrap", [lambda model: model, around], ids=["the model", "a nested model"])
@pytest.mark.parametrize("method", ["guided_gradcam", "max_activation", "scorecam", "ablationcam"])
def test_what_is_inside_a_compiled_call_can_be_replaced_and_guided(method, wrap):
    plain, compiled = Plain(), Compiled()
    plain(images()), compiled(images())
    compiled.set_weights(plain.get_weights())
    model = wrap(compiled)
    found, expected = explain(model, images(), method=method), explain(plain, images(), method=method)
    assert found.layer_name.endswith("conv")
    close(found.heatmaps, expected.heatmaps)
    assert "call" not in vars(compiled)
    assert "call" not in vars(compiled.conv)


class Counter(layers.Layer):
    """Draws random numbers, counts its calls and adds a loss."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        self.add_loss(ops.sum(x))
        return ops.relu(x) + 0 * keras.random.normal(ops.shape(x), seed=self.seed)


@pytest.mark.parametrize("method", ["saliency", "guided_backprop", "max_activation", IntegratedGradients(steps=4)])
def test_model_is_left_as_found(method):
    counter = Counter()
    inputs = keras.Input(SHAPE)
    x = counter(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))
    calls = {id(layer): dict(vars(layer)).get("call") for layer in model.layers}
    state, losses = counter.seed.state.numpy(), len(model.losses)
    explain(model, images(), method=method)
    assert counter.calls.numpy() == 0
    np.testing.assert_array_equal(counter.seed.state.numpy(), state)
    assert len(model.losses) == losses
    assert {id(layer): dict(vars(layer)).get("call") for layer in model.layers} == calls


def test_functions_are_traced_once_and_see_new_weights():
    traces = []

    class Counting(layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    model = keras.Sequential([keras.Input((4, 4, 1)), Counting(), layers.Flatten(), layers.Dense(2)])
    logger = HeatmapLogger(images(5, (4, 4, 1)), method=SmoothGrad(samples=2), target=1, tracker=None, batch_size=3)
    logger.set_model(model)
    logger.on_train_begin()
    traces.clear()
    first = logger.explain().attributions
    if keras.backend.backend() == "jax":  # It traces for each number of samples, which is known from now on.
        traces.clear()
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 2)
    np.testing.assert_allclose(logger.explain().attributions, 2 * first, rtol=1e-5)
    if keras.backend.backend() != "torch":  # It is run each time, and traced never.
        assert traces == []


@pytest.mark.slow
def test_saliency_of_an_application():
    split = models.mobilenet()
    x = images(2, (96, 96, 3))
    close(
        explain(split.model, x, method="saliency").attributions,
        gradients(highest_of(split), x, lambda scores: scores),
        1e-3,
    )
    assert explain(split.model, x, method="guided_backprop").heatmaps.any()
