import keras
import models
import numpy as np
import pytest
from backends import of_framework
from keras import layers
from models import (
    CLASSES,
    LOGITS,
    SHAPE,
    Reference,
    Split,
    assert_maps_equal,
    either_side,
    fit_both,
    functional,
    highest,
    reference_gradcam,
)
from tapes import gradient

from keras_cam_callbacks import GradCAMLogger, HeatmapLogger, MemoryTracker, explain

BINARY_LOGITS = keras.losses.BinaryCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)


KINDS = {
    "functional": models.functional,
    "sequential": models.sequential,
    "sequential built by fit": models.unbuilt_sequential,
    "nested twice": models.nested_twice,
    "subclass with a way around": models.branched,
}


@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)
def test_gradcam_in_fit_equals_a_tape_over_the_split_model(build):
    fit_both(build(), models.images(), models.labels())


@pytest.mark.parametrize(("kind", "trainable"), [("functional", True), ("sequential", False)])
@pytest.mark.slow
def test_layer_inside_a_nested_application(kind, trainable):
    split = models.mobilenet("Conv_1", trainable, kind)
    # Larger steps make a net in which a change of 1e-6 in the image changes the activations by a tenth.
    split.model.compile(keras.optimizers.SGD(0.01), models.SPARSE, jit_compile=False)
    fit_both(split, models.images(4, (96, 96, 3)), models.labels(4))
    assert split.model.get_layer("base").trainable is trainable


def test_every_way_to_name_a_layer_of_a_nested_application():
    split = models.mobilenet("block_15_add")
    x = models.images(4, (96, 96, 3))
    expected = reference_gradcam(split, x, highest)
    for layer in (split.layer, "block_15_add", split.model.get_layer("base").get_layer("block_15_add")):
        explanation = explain(split.model, x, layer)
        assert explanation.layer_name == "base/block_15_add"
        assert_maps_equal(explanation.heatmaps, expected)


def test_chosen_layer_of_a_nested_application_is_its_last_feature_map():
    split = models.mobilenet("out_relu", kind="sequential")
    x = models.images(4, (96, 96, 3))
    explanation = explain(split.model, x)
    assert explanation.layer_name == "base/out_relu"
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, x, highest))


def test_all_layers_frozen_but_the_dense_one():
    split = functional()
    for layer in split.model.layers[:-1]:
        layer.trainable = False
    before = split.model.get_layer("conv1").get_weights()[0]
    split.model.compile(keras.optimizers.SGD(1.0), models.SPARSE, jit_compile=False)  # The maps must move.
    fit_both(split, models.images(), models.labels())
    np.testing.assert_array_equal(split.model.get_layer("conv1").get_weights()[0], before)


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_mixed_precision_equals_float32_within_two_percent():
    plain = functional()
    mixed = models.in_mixed_precision(functional)
    mixed.model.set_weights(plain.model.get_weights())
    x, y = models.images(), models.labels()

    class Float32(Reference):
        def on_epoch_end(self, epoch, logs=None):
            plain.model.set_weights(self.model.get_weights())
            super().on_epoch_end(epoch, logs)

    mixed.model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    logger = GradCAMLogger((x, y), tracker=MemoryTracker(), on_error="raise", target=1)
    reference = Float32(plain, x, lambda logits: logits[:, 1])
    mixed.model.fit(x, y, epochs=2, verbose=0, callbacks=[logger, reference])
    assert mixed.model.get_layer("conv2").compute_dtype == "float16"
    for record, maps in zip(logger.tracker.records, reference.maps, strict=True):
        assert record.heatmaps.dtype == np.float32
        assert_maps_equal(record.heatmaps, maps, 0.02)


def test_mixed_precision_keeps_gradients_that_float16_would_lose():
    split = models.in_mixed_precision(functional)
    kernel, bias = split.model.get_layer("classes").get_weights()
    # Divided over the 35 positions of the pooled map, such a gradient is less than half of float16's smallest number.
    split.model.get_layer("classes").set_weights([np.full_like(kernel, 2.0**-20), bias])
    logger = HeatmapLogger(models.images(), "conv2", method=lambda a, g: g.sum(-1), tracker=None, prefix="sum")
    logger.set_model(split.model)
    gradients = logger.explain().heatmaps
    # Every pooled position hands its gradient on to one of its four inputs, in each of five channels.
    windows = gradients.reshape(6, 5, 2, 7, 2).sum((2, 4))
    np.testing.assert_allclose(windows, np.full((6, 5, 7), 5 * 2.0**-20 / 35), rtol=0.01)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras' own, in saving
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_and_loaded_model_gives_the_same_maps(tmp_path, suffix):
    split, x, y = models.nested_twice(), models.images(), models.labels()
    split.model.compile("sgd", "sparse_categorical_crossentropy")
    expected = reference_gradcam(split, x, highest)
    split.model.save(tmp_path / f"model{suffix}")
    # Keras can't train on a nested model from .h5 with the optimizer that it restores, with or without a callback.
    loaded = keras.models.load_model(tmp_path / f"model{suffix}", compile=suffix == ".keras")
    assert_maps_equal(explain(loaded, x).heatmaps, expected)
    inner = loaded.get_layer("middle").get_layer("inner")
    parts = [loaded.get_layer("middle").get_layer("conv1"), *inner.layers]
    fit_both(models.cut_at_conv2(loaded, parts, loaded.get_layer("classes"), "middle/inner/"), x, y)


def test_channels_first_gives_the_maps_of_channels_last():
    split = functional()
    model = models.channels_first(split.model)
    x = models.images()
    explanation = explain(model, x.transpose(0, 3, 1, 2))
    assert explanation.layer_name == "conv2"
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, x, highest))
    assert explanation.batch.display[0].shape == (12, 16, 3)


ENDINGS = {
    # builder, loss, score of the logits
    "softmax": (functional, models.SPARSE, highest),
    "several sigmoids": (lambda: functional(activation="sigmoid"), models.SPARSE, highest),
    "logits": (lambda: functional(activation=None), LOGITS, highest),
    "softmax layer": (
        lambda: functional(activation=None, ending=[layers.Softmax()]),
        models.SPARSE,
        highest,
    ),
    "activation layer": (
        lambda: functional(activation=None, ending=[layers.Activation("softmax")]),
        models.SPARSE,
        highest,
    ),
    "keras.ops.softmax in the graph": (
        lambda: functional(activation=None, ending=[keras.ops.softmax]),
        models.SPARSE,
        highest,
    ),
    "keras.ops.softmax in a subclass": (
        lambda: models.branched(keras.ops.softmax),
        models.SPARSE,
        highest,
    ),
    "the framework's softmax in a subclass": (
        lambda: models.branched(of_framework("softmax")),
        models.SPARSE,
        highest,
    ),
    "the framework's sigmoid in a subclass": (
        lambda: models.branched(of_framework("sigmoid"), 1),
        "binary_crossentropy",
        either_side,
    ),
    "softmax that can't be found: log p": (
        lambda: models.branched(lambda z: keras.ops.exp(z) / keras.ops.sum(keras.ops.exp(z), 1, keepdims=True)),
        models.SPARSE,
        lambda z: keras.ops.max(keras.ops.log_softmax(z), axis=1),
    ),
    "one sigmoid": (lambda: functional(1, "sigmoid"), "binary_crossentropy", either_side),
    "one logit": (lambda: functional(1, None), BINARY_LOGITS, either_side),
    "regression": (lambda: functional(1, None), "mse", lambda z: z[:, 0]),
}


@pytest.mark.parametrize(("build", "loss", "score"), ENDINGS.values(), ids=ENDINGS)
def test_score_is_taken_before_the_final_activation(build, loss, score):
    split = build()
    found = fit_both(split, models.images(), models.labels() % (3 if score is highest else 2), score, loss=loss)
    for record, logits in zip(found.records, found.logits, strict=True):
        np.testing.assert_allclose([s.score for s in record.samples], score(logits), rtol=1e-4, atol=1e-6)
    logits, samples = found.logits[0], found.records[0].samples
    if loss == "mse":
        assert (
            {s.predicted for s in samples} == {s.target for s in samples} == {s.confidence for s in samples} == {None}
        )
    else:
        classes = logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0] > 0
        assert [s.predicted for s in samples] == [s.target for s in samples] == classes.astype(int).tolist()


@pytest.mark.parametrize(("activation", "loss"), [("sigmoid", "binary_crossentropy"), (None, BINARY_LOGITS)])
def test_one_unit_explains_the_class_that_it_predicts(activation, loss):
    split, x = functional(1, activation), models.images()
    kernel, _ = split.model.get_layer("classes").get_weights()
    middle = np.median(keras.ops.convert_to_numpy(split.rest(split.front(x))), axis=0)
    split.model.get_layer("classes").set_weights([kernel, -middle])
    split.model.compile("sgd", loss)
    logits = keras.ops.convert_to_numpy(split.rest(split.front(x)))[:, 0]
    assert sorted(logits > 0) == [False] * 3 + [True] * 3
    explanation = explain(split.model, x)
    assert explanation.predicted.tolist() == explanation.targets.tolist() == (logits > 0).tolist()
    np.testing.assert_allclose(explanation.scores, np.abs(logits), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(explanation.confidences, 1 / (1 + np.exp(-np.abs(logits))), rtol=1e-4)
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, x, either_side))
    for_one = reference_gradcam(split, x, lambda z: z[:, 0])
    assert_maps_equal(explain(split.model, x, target=1).heatmaps, for_one)
    assert_maps_equal(explain(split.model, x, target=0).heatmaps, -for_one)


EXECUTION = {"eager": {"run_eagerly": True}, "XLA": {"jit_compile": True}}


@pytest.mark.parametrize("settings", EXECUTION.values(), ids=EXECUTION)
def test_ways_to_run_the_training_step(settings):
    fit_both(functional(), models.images(), models.labels(), **settings)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 32])
def test_chunks_do_not_change_the_maps(batch_size):
    split, x = functional(), models.images(10)
    explanation = explain(split.model, x, batch_size=batch_size)
    whole = explain(split.model, x, batch_size=1000)
    assert explanation.heatmaps.shape == (10, 10, 14)
    assert np.abs(explanation.heatmaps - whole.heatmaps).max() <= 1e-6
    assert_maps_equal(explanation.heatmaps, reference_gradcam(split, x, highest))


@pytest.mark.parametrize("count", [3, 4, 10])
def test_model_with_a_fixed_batch_dimension(count):
    split, x = functional(batch=4), models.images(count)
    padded = np.concatenate([x, x[: -count % 4]])
    expected = np.concatenate([reference_gradcam(split, padded[i : i + 4], highest) for i in range(0, len(padded), 4)])
    assert_maps_equal(explain(split.model, x).heatmaps, expected[:count])


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")  # Weights are others on each backend.
def test_several_inputs_by_name():
    parts, dense = models.trunk(), layers.Dense(CLASSES, name="classes")
    inputs = {"image": keras.Input(SHAPE, name="image"), "age": keras.Input((2,), name="age")}
    x = inputs["image"]
    for part in (*parts, layers.GlobalAveragePooling2D()):
        x = part(x)
    model = keras.Model(inputs, layers.Softmax()(dense(layers.Concatenate()([x, inputs["age"]]))))
    data = {"image": models.images(), "age": np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)}

    def rest(a):
        ops, tensor = keras.ops, keras.ops.convert_to_tensor
        features = ops.concatenate([ops.mean(models.pool_by_hand(a), (1, 2)), tensor(data["age"])], 1)
        return ops.matmul(features, tensor(dense.kernel)) + tensor(dense.bias)

    split = Split(model, "conv2", lambda data: models.chain(*parts[:2])(data["image"]), rest)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    logger = GradCAMLogger((data, models.labels()), tracker=MemoryTracker(), on_error="raise")
    expected = []
    last = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: expected.append(by_hand()))

    def by_hand():
        a = split.front(data)
        slopes = gradient(lambda a: highest(rest(a)), a)
        return (slopes.mean((1, 2), keepdims=True) * keras.ops.convert_to_numpy(a)).sum(-1)

    model.fit(data, models.labels(), epochs=2, verbose=0, callbacks=[logger, last])
    for record, maps in zip(logger.tracker.records, expected, strict=True):
        assert_maps_equal(record.heatmaps, maps)


IMAGES = {
    "uint8": ((12, 16, 3), lambda x: (x * 255).astype(np.uint8)),
    "one channel": ((12, 16, 1), lambda x: x),
    "tall": ((20, 10, 3), lambda x: x),
    "five channels": ((12, 16, 5), lambda x: x),
}


@pytest.mark.parametrize(("shape", "convert"), IMAGES.values(), ids=IMAGES)
def test_kinds_of_images(shape, convert):
    split = functional(shape=shape)
    x = convert(models.images(shape=shape))
    expected = reference_gradcam(split, x.astype(np.float32), highest)
    explanation = explain(split.model, x)
    assert explanation.heatmaps.shape == (6, shape[0] - 2, shape[1] - 2)
    assert explanation.batch.inputs.dtype == x.dtype
    assert_maps_equal(explanation.heatmaps, expected)


class Again(keras.Model):
    """Ends in a convolution that is called twice, behind one that is called once."""

    def __init__(self):
        super().__init__(name="again")
        self.once = layers.Conv2D(4, 3, activation="relu", name="once")
        self.twice = layers.Conv2D(4, 3, padding="same", activation="relu", name="twice")
        self.average = layers.GlobalAveragePooling2D(name="average")
        self.dense = layers.Dense(CLASSES, name="classes")

    def call(self, x):
        return self.dense(self.average(self.twice(self.twice(self.once(x)))))


def test_last_candidate_that_is_called_again_is_passed_over():
    model = Again()
    model(models.images(1))
    split = Split(model, "once", model.once, models.chain(*2 * [model.twice], models.dense_by_hand(model.dense)))
    fit_both(split, models.images(), models.labels(), loss=LOGITS)
    assert explain(model, models.images()).layer_name == "once"
