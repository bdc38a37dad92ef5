"""Settings of layers in the digest of a model's architecture: those by which it computes something else."""

import json
import time

import keras
import numpy as np
import pytest
from fits import KERAS_WARNS, X, Y, fit
from keras import layers
from models import SHAPE

from keras_cam_callbacks import GradCAMLogger, compare, read_run
from keras_cam_callbacks.network.architecture import architecture, digests


def around(layer, shape=(8, 8, 3)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layer(inputs))))


@keras.saving.register_keras_serializable("architecture")
class Scaled(layers.Layer):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return super().get_config() | {"factor": self.factor}


class Plain(layers.Layer):
    """Without a config of its own: Keras makes one of its arguments."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


class Unsaved(layers.Layer):
    """Its config fails, and it keeps an argument, a function and an object."""

    def __init__(self, factor, function=None, tool=None):
        super().__init__()
        self.factor, self.function, self.tool = factor, function, tool or object()

    def call(self, x):
        return x * self.factor

    def get_config(self):
        raise RuntimeError("not this one")


class Odd(Scaled):
    """Its config holds objects, addresses, sets, arrays and names that Keras has numbered."""

    def get_config(self):
        return super().get_config() | {
            "tool": object(),
            "text": repr(object()),
            "kinds": {"b", "a"},
            "table": np.arange(3.0) * self.factor,
            "of": self.name,
            "part": layers.Conv2D(2, 3),
            3: keras.ops.ones(2),
        }


PAIRS = {
    "scale": lambda b: layers.Rescaling(1 / 127.5 if b else 1 / 255),
    "offset": lambda b: layers.Rescaling(1 / 255, offset=-1.0 if b else 0.0),
    "slope": lambda b: layers.LeakyReLU(negative_slope=0.9 if b else 0.1),
    "cap": lambda b: layers.ReLU(max_value=6.0 if b else None),
    "up": lambda b: layers.UpSampling2D(2, interpolation="bilinear" if b else "nearest"),
    "epsilon": lambda b: layers.BatchNormalization(epsilon=0.1 if b else 0.001),
    "axis": lambda b: layers.Softmax(axis=1 if b else -1),
    "mean": lambda b: layers.Normalization(mean=[100.0 if b else 0.0] * 3, variance=[1.0] * 3),
    "variance": lambda b: layers.Normalization(mean=[0.0] * 3, variance=[1.0, 2.0, 4.0 if b else 3.0]),
    "interpolation": lambda b: layers.Resizing(8, 8, interpolation="nearest" if b else "bilinear"),
    "aspect": lambda b: layers.Resizing(8, 8, crop_to_aspect_ratio=b),
    "filled": lambda b: layers.Resizing(8, 8, pad_to_aspect_ratio=True, fill_value=1.0 if b else 0.0),
    "order": lambda b: layers.Permute((2, 1, 3) if b else (1, 2, 3)),
    "groups": lambda b: layers.GroupNormalization(3 if b else 1),
    "crop": lambda b: layers.Cropping2D(((0, 2), (1, 1)) if b else ((1, 1), (1, 1))),
    "custom": lambda b: Scaled(2.0 if b else 1.0),
    "custom without config": lambda b: Plain(2.0 if b else 1.0),
    "custom that can't be saved": lambda b: Unsaved(2.0 if b else 1.0),
    "custom with objects": lambda b: Odd(2.0 if b else 1.0),
    "function": lambda b: layers.Lambda(lambda x: x * 2) if b else layers.Lambda(lambda x: x * 3),
    "argument": lambda b: layers.Lambda(lambda x, k: x * k, arguments={"k": 2 if b else 3}),
    "activation": lambda b: layers.Activation((lambda x: x + 1) if b else (lambda x: x + 2)),
    "function kept": lambda b: Unsaved(1, (lambda x: x + 1) if b else (lambda x: x + 2)),
    "wrapped": lambda b: layers.TimeDistributed(layers.Rescaling(2.0 if b else 1.0)),
    "activation layer": lambda b: layers.Conv2D(2, 3, activation=layers.LeakyReLU(0.2 if b else 0.1)),
    "factor of an operation": lambda b: lambda x: x / (127.5 if b else 255),
    "side of an operation": lambda b: lambda x: 1 - x if b else x - 1,
    "constant of an operation": lambda b: lambda x: x - np.array([1, 2, 4 if b else 3], "float32"),
    "axis of an operation": lambda b: lambda x: keras.ops.flip(x, axis=1 if b else 2),
    "argument of a call": lambda b: (
        lambda x: layers.MultiHeadAttention(1, 2)(*[layers.Reshape((64, 3))(x)] * 2, use_causal_mask=b)
    ),
}


# Keras can't load what they hold.
UNSAVED = {"custom without config", "custom that can't be saved", "custom with objects", "function kept", "activation"}
try:
    layers.Conv2D.from_config(layers.Conv2D(2, 3, activation=layers.LeakyReLU(0.1)).get_config())
except (ValueError, TypeError):  # Keras 3.5 and some later ones.
    UNSAVED.add("activation layer")


@pytest.mark.parametrize("name", PAIRS)
def test_settings_that_change_what_is_computed_are_another_architecture(name):
    make = PAIRS[name]
    one, again, other = (around(make(changed)) for changed in (False, False, True))
    assert architecture(one) == architecture(again)
    assert architecture(one) != architecture(other)


ALIKE = {
    "rate": lambda b: layers.Dropout(0.6 if b else 0.1),
    "spatial rate": lambda b: layers.SpatialDropout2D(0.6 if b else 0.1),
    "noise": lambda b: layers.GaussianNoise(0.6 if b else 0.1),
    "augmentation": lambda b: layers.RandomRotation(0.6 if b else 0.1, seed=3 if b else None),
    "momentum": lambda b: layers.BatchNormalization(momentum=0.9 if b else 0.99),
    "initializer": lambda b: layers.Conv2D(2, 3, kernel_initializer="he_normal" if b else "zeros"),
    "regularizer": lambda b: layers.Conv2D(2, 3, kernel_regularizer="l2" if b else None),
    "dtype": lambda b: layers.Conv2D(2, 3, dtype="float16" if b else "float32"),
    "one for 1.0": lambda b: layers.Rescaling(1.0 if b else 1),
    "training": lambda b: lambda x: layers.BatchNormalization()(x, training=False if b else None),
    "object": lambda b: Unsaved(1, tool=object()),
}


@pytest.mark.parametrize("name", ALIKE)
def test_settings_of_the_training_are_no_other_architecture(name):
    assert architecture(around(ALIKE[name](False))) == architecture(around(ALIKE[name](True)))


def test_an_augmentation_that_acts_at_inference_counts():
    assert architecture(around(layers.RandomCrop(4, 4, seed=1))) == architecture(
        around(layers.RandomCrop(4, 4, seed=2))
    )
    assert architecture(around(layers.RandomCrop(4, 6))) != architecture(around(layers.RandomCrop(6, 4)))


@KERAS_WARNS
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("name", [name for name in PAIRS if name not in UNSAVED])
def test_a_model_that_is_saved_or_cloned_is_the_same(tmp_path, name):
    model = around(PAIRS[name](True))
    model.layers[1].trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)
    assert architecture(loaded) == architecture(model)
    if not any(isinstance(layer, layers.Lambda) for layer in model.layers):  # Keras does not clone these.
        assert architecture(keras.models.clone_model(model)) == architecture(model)


def test_records_of_an_earlier_version_go_on(tmp_path):
    """They have the digest of the structure as that of the architecture."""

    def model(slope):
        keras.utils.set_random_seed(0)
        made = keras.Sequential(
            [
                keras.Input(SHAPE),
                layers.Conv2D(4, 3),
                layers.LeakyReLU(slope),
                layers.Conv2D(4, 3),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3, activation="softmax"),
            ]
        )
        made.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        return made

    def train(slope, epochs, start=0, log_dir=tmp_path):
        logger = GradCAMLogger((X, Y), tracker="disk", log_dir=log_dir)
        fit(logger, model=model(slope), epochs=epochs, initial_epoch=start)
        return logger.directory

    folder = train(0.1, 2)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    assert (manifest["architecture"], manifest["structure"]) == digests(model(0.1))
    assert digests(model(0.5))[1] == manifest["structure"]
    assert train(0.5, 3, 2).name == "gradcam-2"
    manifest["architecture"] = manifest.pop("structure")
    path.write_text(json.dumps(manifest))
    assert train(0.1, 4, 2) == folder
    assert [epoch.epoch for epoch in read_run(folder).epochs] == [0, 1, 2, 3]
    new = train(0.1, 4, log_dir=tmp_path / "new")
    assert "architecture" not in compare([folder, new]).differences
    other = train(0.5, 4, log_dir=tmp_path / "other")
    assert list(compare([new, other]).differences) == ["architecture"]


def test_a_digest_of_a_large_model_is_cheap():
    model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=3)
    start = time.process_time()
    architecture(model)
    assert time.process_time() - start < 1
