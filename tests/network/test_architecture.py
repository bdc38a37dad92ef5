"""What a model is whenever it is built: the digest of its architecture, and the places of its layers."""

import os
import subprocess
import sys

import keras
import pytest
from fits import KERAS_WARNS
from keras import layers
from paths import ROOT, TESTS

from keras_cam_callbacks.network.architecture import architecture, layer_place, layer_places, model_label


def sequential(width=4, **settings):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(width, 3, **settings),
            layers.ReLU(),
            layers.Conv2D(width, 3),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )


def residual(swapped=False):
    """Two branches that differ in nothing but what they take, an operation that is no layer, and a shared layer."""
    inputs = keras.Input((8, 8, 3))
    first, second, shared = (layers.Conv2D(3, 3, padding="same") for _ in range(3))
    one = shared(first(inputs))
    other = shared(second(inputs if swapped else one))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(one + other))


def nested(base_name=None):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, padding="same")(inputs)
    base = keras.Model(inputs, layers.Conv2D(4, 3, name="last")(x), name=base_name)
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(base(image))))


class Block(layers.Layer):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = layers.Conv2D(width, 3, padding="same"), layers.BatchNormalization()

    def call(self, x):
        return self.norm(self.conv(x))


class Subclassed(keras.Model):
    def __init__(self, width=4):
        super().__init__()
        self.blocks = [Block(width), Block(width)]
        self.pool, self.classes = layers.GlobalAveragePooling2D(), layers.Dense(2)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.classes(self.pool(x))


def subclassed(width=4):
    model = Subclassed(width)
    model(keras.ops.zeros((1, 8, 8, 3)))
    return model


MODELS = {
    "sequential": sequential,
    "residual": residual,
    "nested": nested,
    "subclassed": subclassed,
    "recurrent": lambda: keras.Sequential([keras.Input((5, 3)), layers.Bidirectional(layers.LSTM(2))]),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_built_again_is_the_same(name):
    one, other = MODELS[name](), MODELS[name]()
    assert [layer.name for layer in one.layers] != [layer.name for layer in other.layers]
    assert architecture(one) == architecture(other)
    assert list(layer_places(one).values()) == list(layer_places(other).values())
    assert model_label(one) == model_label(other)


CODE = """
import keras, test_architecture as t
for name, make in t.MODELS.items():
    for _ in range(int(__import__("sys").argv[1])):
        make()
    print(name, t.architecture(make()))
"""


@pytest.mark.slow
def test_the_digest_is_the_same_in_another_process():
    """Whatever that has built before, and however Python has seeded its hashes."""
    paths = f"{TESTS / 'network'}:{TESTS}:{ROOT}"
    printed = [
        subprocess.run(
            [sys.executable, "-c", CODE, count],
            env=os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": count},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for count in ("0", "2")
    ]
    ours = [f"{name} {architecture(make())}" for name, make in MODELS.items()]
    assert printed == [ours, ours]


@KERAS_WARNS
def test_what_is_the_same_architecture(tmp_path):
    model = sequential()
    digest = architecture(model)
    # Head first, then unfrozen.
    model.layers[0].trainable = False
    assert architecture(model) == digest
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(*map(keras.ops.zeros, ((2, 8, 8, 3), (2, 2))), verbose=0)
    assert architecture(model) == digest
    model.save(tmp_path / "model.keras")
    assert architecture(keras.saving.load_model(tmp_path / "model.keras")) == digest
    keras.utils.clear_session()
    assert architecture(sequential(trainable=False)) == digest
    model.name = "mine"
    assert architecture(model) == digest
    assert model_label(model) == "mine"
    other = sequential()
    other.layers[5].seed, other.layers[5].rate = 7, 0.1
    assert architecture(other) == digest


def test_mixed_precision_is_the_same_architecture():
    digests = [architecture(model()) for model in (sequential, residual, nested, subclassed)]
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert [architecture(model()) for model in (sequential, residual, nested, subclassed)] == digests
    finally:
        keras.config.set_dtype_policy("float32")


def quantized(mode):
    model = sequential()
    model.layers[-1].quantize(mode)
    return model


def with_lora(rank=2):
    model = sequential()
    model.layers[-1].enable_lora(rank)
    return model


@KERAS_WARNS
@pytest.mark.parametrize("build", [lambda: quantized("int8"), lambda: quantized("float8"), with_lora])
def test_a_model_in_few_bits_or_with_lora_is_the_same_when_it_is_made_or_loaded_again(build, tmp_path):
    model = build()
    assert architecture(build()) == architecture(model)
    model.save(tmp_path / "model.keras")
    assert architecture(keras.saving.load_model(tmp_path / "model.keras")) == architecture(model)


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="of later versions of Keras")
def test_a_model_that_is_computed_twice_in_training_is_the_same_architecture():
    with keras.RematScope(mode="full"):
        twice = architecture(residual())
    assert twice == architecture(residual())


@KERAS_WARNS
@pytest.mark.parametrize(
    ("one", "other"),
    [
        # They have weights of their own, which compute and learn something else.
        (sequential, lambda: quantized("int8")),
        (lambda: quantized("int8"), lambda: quantized("float8")),
        (sequential, with_lora),
        (with_lora, lambda: with_lora(3)),
        (sequential, lambda: sequential(5)),
        (sequential, lambda: sequential(strides=2)),
        (sequential, lambda: sequential(activation="relu")),
        (sequential, lambda: sequential(name="stem")),
        (residual, lambda: residual(swapped=True)),
        (nested, lambda: nested("base")),
        (subclassed, lambda: subclassed(5)),
    ],
)
def test_what_is_another_architecture(one, other):
    assert architecture(one()) != architecture(other())


def test_two_inputs_that_are_swapped_are_another_wiring():
    def model(swapped):
        left, right = keras.Input((4,)), keras.Input((4,))
        x = layers.Dense(3)(right if swapped else left)
        return keras.Model([left, right], layers.Concatenate()([x, right]))

    assert architecture(model(False)) == architecture(model(False))
    assert architecture(model(False)) != architecture(model(True))


def test_a_base_that_was_called_elsewhere_before_is_the_same():
    """Its number of calls counts what the process did."""

    def model(calls):
        base = sequential()
        for _ in range(calls):
            base(keras.Input((8, 8, 3)))
        inputs = keras.Input((8, 8, 3))
        return keras.Model(inputs, base(inputs) * 2)

    assert architecture(model(0)) == architecture(model(3))


def test_a_deep_model_has_a_digest():
    inputs = x = keras.Input((4,))
    for _ in range(600):
        x = x + 1
    assert len(architecture(keras.Model(inputs, x))) == 16


def test_places_of_layers():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, name="stem")(inputs)
    auto = layers.Conv2D(3, 3)
    x = auto(x)
    x = layers.BatchNormalization(name=f"{auto.name}_norm")(x)
    # A name that looks like one of Keras' can't be told apart; it stands for the same layer each time.
    x = layers.Conv2D(3, 1, name="conv2d_700")(x)
    x = layers.Conv2D(3, 1, name="block1_conv2d_1")(x)
    inner = keras.Sequential([layers.Conv2D(4, 1), layers.ReLU()])
    model = keras.Model(inputs, inner(x))
    places = layer_places(model)
    assert places["stem"] == "stem"
    assert places[auto.name] == "Conv2D 2"
    assert places[f"{auto.name}_norm"] == "conv2d_norm"
    assert places["conv2d_700"] == "Conv2D 3"
    assert places["block1_conv2d_1"] == "block1_conv2d_1"
    assert places[f"{inner.name}/{inner.layers[0].name}"] == "Sequential 1/Conv2D 1"
    assert layer_place(model, f"stem, {auto.name}") == "stem, Conv2D 2"
    assert layer_place(model, "") == ""


@pytest.mark.parametrize(
    ("name", "label"),
    [(None, "Functional"), ("model_2", "Functional"), ("functional", "Functional"), ("net_2", "net_2")],
)
def test_labels_of_models(name, label):
    """Models of Keras 2, and such as were saved, have names that another class was numbered by."""
    inputs = keras.Input((4,))
    assert model_label(keras.Model(inputs, layers.Dense(2)(inputs), name=name)) == label


def test_subclasses_are_known_by_their_class():
    assert model_label(subclassed()) == "Subclassed"
    assert "Block 2/Conv2D 1" in layer_places(subclassed()).values()
