"""Which image the heatmaps lie on, where a model takes several."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_cam_callbacks import Explainer, HeatmapLogger, explain

SIZES = {"cc": (32, 32), "mlo": (48, 48)}


def views(count=2):
    """Black images with a lesion in each, at different places."""
    cc, mlo = np.zeros((count, 32, 32, 1), np.float32), np.zeros((count, 48, 48, 1), np.float32)
    cc[:, 2:8, 2:8], mlo[:, 38:44, 38:44] = 1, 1
    return {"cc": cc, "mlo": mlo}


def towers(as_dict=True):
    inputs = {name: keras.Input((*size, 1), name=name) for name, size in SIZES.items()}
    ends = []
    for name, x in inputs.items():
        conv = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv_{name}")
        ends.append(layers.GlobalAveragePooling2D()(conv(x)))
    outputs = layers.Dense(2, activation="softmax")(layers.Concatenate()(ends))
    return keras.Model(inputs if as_dict else list(inputs.values()), outputs)


class Siamese(keras.Model):
    """Joins two images before the first convolution, in plain code."""

    def __init__(self):
        super().__init__(name="siamese")
        self.conv = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")
        self.dense = layers.Dense(2)

    def call(self, inputs):
        before, after = inputs
        return self.dense(keras.ops.mean(self.conv(keras.ops.concatenate([before, after], axis=-1)), (1, 2)))


class Towers(keras.Model):
    """Two towers in plain code."""

    def __init__(self):
        super().__init__(name="towers")
        self.first = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")
        self.second = layers.Conv2D(4, 3, padding="same", activation="relu", name="second")
        self.dense = layers.Dense(2)

    def call(self, inputs):
        pooled = [keras.ops.mean(conv(x), (1, 2)) for conv, x in zip((self.first, self.second), inputs, strict=True)]
        return self.dense(keras.ops.concatenate(pooled, axis=-1))


def bright(batch):
    return batch.display[0][..., 0] > 127


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_the_map_of_a_tower_lies_on_its_image(name, as_dict):
    x = views()
    found = explain(towers(as_dict), x if as_dict else list(x.values()), f"conv_{name}", max_samples=1)
    assert found.heatmaps.shape[1:] == SIZES[name] == bright(found.batch).shape
    np.testing.assert_array_equal(bright(found.batch), x[name][0, ..., 0] > 0)


def test_regions_are_of_the_image_that_the_layer_sees():
    mask = np.zeros((32, 32), bool)
    mask[2:8, 2:8] = True
    found = explain(towers(), {k: v[:1] for k, v in views().items()}, "conv_cc", regions=[mask])
    assert found.batch.image_size == (32, 32)


def test_towers_in_plain_code():
    x = list(views(1).values())
    for layer, at in (("first", 0), ("second", 1)):
        found = explain(Towers(), (x, None), layer)
        assert found.batch.image_input == at
        assert found.batch.image_size == x[at].shape[1:3]


def test_left_to_choose_each_tower_has_its_image():
    rgb, context = keras.Input((32, 32, 3)), keras.Input((64, 64, 1))
    ends = [
        layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name=name)(x))
        for name, x in (("context", context), ("rgb", rgb))
    ]
    model = keras.Model([rgb, context], layers.Dense(2)(layers.Concatenate()(ends)))
    x = [np.random.default_rng(0).random(shape, dtype=np.float32) for shape in ((1, 32, 32, 3), (1, 64, 64, 1))]
    found = explain(model, x)
    sizes = {view.layer_name: view.batch.image_size for view in found.values()}
    assert sizes == {"rgb": (32, 32), "context": (64, 64)}


def pair():
    random = np.random.default_rng(0)
    return tuple(random.random((2, 24, 24, 1), dtype=np.float32) for _ in range(2))


def test_of_several_images_it_is_said_which_was_taken():
    model, x = Siamese(), list(pair())
    with pytest.warns(RuntimeWarning, match=r"on the input '0', .* one of several.*input='1' takes another"):
        assert explain(model, (x, None), "conv").batch.image_input == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(model, (x, None), "conv", input=1, output_kind="classes")
    assert found.batch.image_input == 1
    turned = explain(model, (x[::-1], None), "conv", input=0)
    np.testing.assert_array_equal(found.batch.display[0], turned.batch.display[0])


def test_saliency_of_the_named_image():
    x = views(1)
    for name, size in SIZES.items():
        assert explain(towers(), x, method="saliency", input=name).heatmaps.shape[1:] == size
        assert explain(towers(), x, method="occlusion", input=name).heatmaps.shape[1:] == size


def test_guided_gradcam_and_augmentations_take_the_layers_image():
    found = explain(towers(), views(1), "conv_cc", method="guided_gradcam", augmentations=["flip"])
    assert found.heatmaps.shape[1:] == (32, 32)
    assert found.augmented["flip"].restored.shape[1:] == (32, 32)


FAULTS = {
    "other tower": ({"layer_name": "conv_cc", "input": "mlo"}, ValueError, "'conv_cc' sees 'cc'"),
    "unknown": ({"input": "mol"}, ValueError, "Did you mean 'mlo'"),
    "index": ({"input": 2}, ValueError, "an index below 2. Received: 2"),
    "kind": ({"input": 0.5}, TypeError, "must be the name or the index"),
    "fused": ({"layer_name": ["conv_cc", "conv_mlo"]}, ValueError, "must see the same image"),
}


@pytest.mark.parametrize(("settings", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_faults(settings, kind, message):
    with pytest.raises(kind, match=message):
        explain(towers(), views(1), **settings)


def test_no_image_can_be_named():
    image, meta = keras.Input((16, 16, 3), name="image"), keras.Input((4,), name="meta")
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(image))
    model = keras.Model({"image": image, "meta": meta}, layers.Dense(2)(layers.Concatenate()([pooled, meta])))
    x = {"image": np.ones((1, 16, 16, 3), np.float32), "meta": np.ones((1, 4), np.float32)}
    with pytest.raises(ValueError, match="must name an input of images"):
        explain(model, x, input="meta")
    assert explain(model, x, input="image").batch.image_input == 0


def test_explainer_keeps_to_the_image():
    x = views(2)
    explainer = Explainer(towers(), x, "conv_cc")
    assert explainer(x).heatmaps.shape == (2, 32, 32)
    assert Explainer(towers(), x, method="saliency", input="cc")(x).heatmaps.shape == (2, 32, 32)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras' own
def test_logger_says_it_in_each_fit():
    x, y = list(pair()), np.array([0, 1])
    model = Siamese()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logger = HeatmapLogger((x, y), "conv", tracker="memory")
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="drawn on the input '0'") as told:
            model.fit(x, y, epochs=2, verbose=0, callbacks=[logger])
        assert sum("drawn on" in str(warning.message) for warning in told) == 1


def test_logger_follows_the_layer():
    x, y = views(4), np.array([0, 1, 0, 1])
    model = towers()
    model.compile("sgd", "sparse_categorical_crossentropy")
    logger = HeatmapLogger((x, y), "conv_cc", tracker="memory")
    for name in SIZES:
        logger.layer_name = f"conv_{name}"
        assert logger.explain(model).batch.image_size == SIZES[name]
