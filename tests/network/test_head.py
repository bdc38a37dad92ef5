import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import SHAPE, assert_maps_equal

from keras_cam_callbacks import CAMLogger, MemoryTracker, build_cam_model, explain


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)


def headed(*head, units=3, activation=None, last=()):
    """A convolution (10, 14, 5) and a head; `head` stands between the pooling and the dense layer."""
    conv, dense = layers.Conv2D(5, 3, name="conv"), layers.Dense(units, activation=activation, name="classes")
    bias = np.linspace(-0.1, 0.1, units)
    model = keras.Sequential([keras.Input(SHAPE), conv, layers.GlobalAveragePooling2D(), *head, dense, *last])
    dense.set_weights([dense.get_weights()[0], bias])
    return model


def by_hand(model, x, conv="conv", dense="classes"):
    """Returns activations A (N, h, w, C), kernel (C, K) and logits (N, K) = mean(A) kernel + bias."""
    kernel, bias = model.get_layer(conv).get_weights()
    activations = ops.convert_to_numpy(ops.conv(x, kernel, 1, "valid", "channels_last")) + bias
    kernel, bias = model.get_layer(dense).get_weights()
    return activations, kernel, activations.mean((1, 2)) @ kernel + bias


HEADS = {
    "logits": lambda: headed(),
    "softmax": lambda: headed(activation="softmax"),
    "sigmoids": lambda: headed(activation="sigmoid"),
    "dropout between": lambda: headed(layers.Dropout(0.5), activation="softmax"),
    "noise and dropout between": lambda: headed(layers.GaussianNoise(1.0), layers.Dropout(0.5)),
    "softmax layer": lambda: headed(last=[layers.Softmax()]),
    "activation layer": lambda: headed(last=[layers.Activation("softmax")]),
    "linear activation": lambda: headed(activation="linear"),
}


@pytest.mark.parametrize("build", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("target", ["predicted", 1, [2, 0, 1, 1, 0, 2]], ids=["predicted", "class", "each"])
def test_cam_is_the_weighted_sum_of_the_paper(build, target):
    model, x = build(), models.images()
    activations, kernel, logits = by_hand(model, x)
    classes = logits.argmax(1) if target == "predicted" else np.broadcast_to(target, 6)
    explanation = explain(model, x, method="cam", target=target)
    assert explanation.layer_name == "conv"
    assert explanation.targets.tolist() == classes.tolist()
    assert_maps_equal(explanation.heatmaps, np.einsum("nijk,kn->nij", activations, kernel[:, classes]))
    # Its mean and the bias make the logit.
    means = explanation.heatmaps.mean((1, 2)) + model.get_layer("classes").get_weights()[1][classes]
    np.testing.assert_allclose(means, logits[np.arange(6), classes], rtol=1e-4, atol=1e-6)


def test_cam_is_gradcam_times_the_area_and_hirescam_sums_to_the_logit():
    model, x = headed(layers.Dropout(0.3), activation="softmax"), models.images()
    _, _, logits = by_hand(model, x)
    maps = {method: explain(model, x, method=method, target=2).heatmaps for method in ("cam", "gradcam", "hirescam")}
    assert_maps_equal(maps["cam"], maps["gradcam"] * 10 * 14)
    assert_maps_equal(maps["hirescam"], maps["gradcam"])
    bias = model.get_layer("classes").get_weights()[1][2]
    np.testing.assert_allclose(maps["hirescam"].sum((1, 2)), logits[:, 2] - bias, rtol=1e-4, atol=1e-6)


def test_one_sigmoid_unit_explains_either_side():
    model, x = headed(units=1, activation="sigmoid"), models.images()
    activations, kernel, logits = by_hand(model, x)
    bias = model.get_layer("classes").get_weights()[1] - np.median(logits, axis=0)
    model.get_layer("classes").set_weights([kernel, bias])
    positive = by_hand(model, x)[2][:, 0] > 0
    assert sorted(positive) == [False] * 3 + [True] * 3
    expected = activations @ kernel[:, 0]
    explanation = explain(model, x, method="cam")
    assert explanation.targets.tolist() == positive.tolist()
    assert_maps_equal(explanation.heatmaps, np.where(positive, 1, -1)[:, None, None] * expected)
    assert_maps_equal(explain(model, x, method="cam", target=0).heatmaps, -expected)


@pytest.mark.parametrize("last", [[], [layers.Softmax()]], ids=["logits", "softmax"])
def test_convolution_and_pooling_without_dense(last):
    conv = layers.Conv2D(3, 3, name="conv")
    model, x = keras.Sequential([keras.Input(SHAPE), conv, layers.GlobalAveragePooling2D(), *last]), models.images()
    activations = keras.ops.convert_to_numpy(conv(x))
    explanation = explain(model, x, method="cam")
    classes = activations.mean((1, 2)).argmax(1)
    assert explanation.targets.tolist() == classes.tolist()
    assert_maps_equal(explanation.heatmaps, np.stack([a[..., c] for a, c in zip(activations, classes, strict=True)]))


def test_pooling_that_keeps_its_axes():
    conv, dense = layers.Conv2D(5, 3, name="conv"), layers.Dense(3, name="classes")
    pooling = layers.GlobalAveragePooling2D(keepdims=True)
    model, x = keras.Sequential([keras.Input(SHAPE), conv, pooling, layers.Flatten(), dense]), models.images()
    activations, kernel, _ = by_hand(model, x)
    assert_maps_equal(explain(model, x, method="cam", target=0).heatmaps, activations @ kernel[:, 0])


def test_what_feeds_the_pooling_is_explained_even_where_it_is_a_pooling_itself():
    split, x = models.functional(), models.images()
    explanation = explain(split.model, x, method="cam", target=1)
    assert explanation.layer_name == "pool"
    kernel = split.model.get_layer("classes").get_weights()[0]
    assert_maps_equal(explanation.heatmaps, ops.convert_to_numpy(models.pool_by_hand(split.front(x))) @ kernel[:, 1])


@pytest.mark.filterwarnings("ignore:cam. . of 6 heatmaps explain nothing")  # Maps of an untrained net may be negative.
def test_cam_logger_in_fit_follows_the_weights():
    model, x, y = headed(activation="softmax"), models.images(), models.labels()
    model.compile(keras.optimizers.SGD(1.0), models.SPARSE, jit_compile=False)
    expected = []

    def note(epoch, logs):
        activations, kernel, _ = by_hand(model, x)
        expected.append(np.einsum("nijk,kn->nij", activations, kernel[:, y]))

    logger = CAMLogger((x, y), "conv", target="true", tracker=MemoryTracker(), on_error="raise")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[logger, keras.callbacks.LambdaCallback(on_epoch_end=note)])
    for record, maps in zip(logger.tracker.records, expected, strict=True):
        assert_maps_equal(record.heatmaps, maps)
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected[0]).max()


NO_HEADS = {
    "flatten": [layers.Flatten(), layers.Dense(3)],
    "two dense layers": [layers.GlobalAveragePooling2D(), layers.Dense(4, activation="relu"), layers.Dense(3)],
    "maximum": [layers.GlobalMaxPooling2D(), layers.Dense(3)],
    "normalised output": [layers.GlobalAveragePooling2D(), layers.Dense(3), layers.LayerNormalization()],
    "normalised features": [layers.GlobalAveragePooling2D(), layers.BatchNormalization(), layers.Dense(3)],
    "tanh": [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="tanh")],
    "relu behind": [layers.GlobalAveragePooling2D(), layers.Dense(3), layers.Activation("relu")],
}


@pytest.mark.parametrize("head", NO_HEADS.values(), ids=NO_HEADS)
def test_models_without_such_a_head_are_told_of_build_cam_model(head):
    model = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(4, 3, name="conv"), *head], name="headless")
    model.compile("sgd", models.LOGITS)
    batches = []
    count = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: batches.append(batch))
    message = r"'headless', whose last layers are .*GradCAMLogger.*build_cam_model\(base, classes\)"
    with pytest.raises(ValueError, match=message):
        model.fit(models.images(), models.labels(), verbose=0, callbacks=[CAMLogger(models.images()), count])
    assert batches == []


def test_cam_explains_no_other_layer_and_no_score():
    split = models.functional()
    with pytest.raises(ValueError, match="layer_name='conv1'; here that layer is 'pool'"):
        explain(split.model, models.images(), "conv1", method="cam")
    with pytest.raises(ValueError, match=r"CAM explains a class .* which is no class"):
        explain(split.model, models.images(), method="cam", target=lambda p: p[:, 0] - p[:, 1])


@pytest.fixture(scope="module")
def small_vgg():
    """VGG16's shape, smaller: blocks of convolutions and poolings; the pooling is the output."""
    x = inputs = keras.Input((32, 48, 3))
    for block, filters in enumerate((4, 8), 1):
        for number in (1, 2):
            name = f"block{block}_conv{number}"
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name="small_vgg")


ACTIVATIONS = {(1, None): "sigmoid", (2, None): "softmax", (5, None): "softmax", (2, "sigmoid"): "sigmoid"}


@pytest.mark.parametrize(("settings", "expected"), ACTIVATIONS.items(), ids=map(str, ACTIVATIONS))
def test_built_model(small_vgg, settings, expected):
    classes, activation = settings
    model = build_cam_model(small_vgg, classes, activation=activation)
    assert model.output_shape == (None, classes)
    assert model.input_shape == small_vgg.input_shape
    assert model.get_layer("classes").activation is getattr(keras.activations, expected)
    assert model.get_layer("small_vgg") is small_vgg
    assert [weight.shape for weight in model.trainable_weights] == [(8, classes), (classes,)]
    assert [layer.name for layer in model.layers if isinstance(layer, layers.Dropout)] == []


def test_built_model_is_explained_through_its_nested_base(small_vgg):
    model, x = build_cam_model(small_vgg, 3, dropout=0.5), models.images(4, (32, 48, 3))
    assert model.get_layer("dropout").rate == 0.5
    explanation = explain(model, x, method="cam", target=2)
    assert explanation.layer_name == "small_vgg/block2_pool"
    kernel = model.get_layer("classes").get_weights()[0]
    assert_maps_equal(explanation.heatmaps, ops.convert_to_numpy(small_vgg(x)) @ kernel[:, 2])


def test_base_is_trained_on_request(small_vgg):
    model = build_cam_model(small_vgg, 2, trainable=True)
    assert len(model.trainable_weights) == 2 * 4 + 2
    assert not build_cam_model(small_vgg, 2).get_layer("small_vgg").trainable


@pytest.mark.parametrize("classes", [0, -1, True, 2.0, "2", None])
def test_number_of_classes_is_checked(small_vgg, classes):
    with pytest.raises(ValueError, match=f"positive integer, .* Received: {classes!r}"):
        build_cam_model(small_vgg, classes)


def test_base_must_put_out_a_feature_map():
    top = keras.Sequential([keras.Input(SHAPE), layers.GlobalAveragePooling2D()], name="pooled")
    with pytest.raises(ValueError, match=r"'pooled' with output shape \(None, 3\).*include_top=False"):
        build_cam_model(top, 2)
    with pytest.raises(ValueError, match="Received: 'VGG16' with output shape None"):
        build_cam_model("VGG16", 2)
