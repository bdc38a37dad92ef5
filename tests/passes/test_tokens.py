"""Layers of tokens: how they lie on the image, and that methods of maps are right on them."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from zoo.example import Example
from zoo.independent import activations_and_gradients

from keras_cam_callbacks import AblationCAM, GradCAMLogger, HeatmapLogger, Tokens, explain, read_run

SHAPE = (32, 48, 3)
GRID = (4, 6)


class Special(layers.Layer):
    """Puts tokens of its own before and behind the others."""

    def __init__(self, front, back=0, **settings):
        super().__init__(**settings)
        self.front, self.back = front, back

    def build(self, shape):
        self.own = self.add_weight(shape=(self.front + self.back, shape[-1]), name="own")

    def call(self, x):
        own = ops.broadcast_to(self.own, (ops.shape(x)[0], self.front + self.back, x.shape[-1]))
        return ops.concatenate([own[:, : self.front], x, own[:, self.front :]], axis=1)


class Unknown(layers.Layer):
    """Tokens whose number isn't known while the model is traced."""

    def call(self, x):
        return ops.reshape(x, (ops.shape(x)[0], -1, x.shape[-1]))


class Shuffled(layers.Layer):
    order = np.random.default_rng(3).permutation(24)

    def call(self, x):
        return ops.take(x, self.order, axis=1)


def transformer(front=0, back=0, columns=False, flatten=None, readout="pool", shuffled=False):
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(16, 8, 8, name="patches")(inputs)
    flatten = flatten or layers.Reshape((24, 16))
    x = flatten(layers.Permute((2, 1, 3))(x) if columns else x)
    x = Shuffled()(x) if shuffled else x
    x = Special(front, back)(x) if front + back else x
    for block in range(2):
        y = layers.LayerNormalization(name=f"norm_{block}")(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
        x = layers.Add()([x, layers.Dense(16)(layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x)))])
    x = layers.LayerNormalization()(x)
    x = x[:, 0] if readout == "first" else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


KINDS = {
    # settings, special tokens
    "none": ({}, ()),
    "class token": ({"front": 1, "readout": "first"}, (0,)),
    "class and distillation": ({"front": 2, "readout": "first"}, (0, 1)),
    "registers": ({"front": 5, "readout": "first"}, (0, 1, 2, 3, 4)),
    "behind": ({"back": 2}, (24, 25)),
    "by columns": ({"columns": True}, ()),
    "number not known": ({"flatten": Unknown(), "front": 1, "readout": "first"}, (0,)),
}


def watched(model, images, index):
    """Activations and gradients of the last norm's tokens, (N, T, C), by an eager run."""
    return activations_and_gradients(Example(model, images, target=lambda outputs: outputs[:, index]), "norm_1")


@pytest.mark.parametrize(("settings", "special"), KINDS.values(), ids=KINDS)
def test_tokens_are_laid_on_the_image(settings, special):
    keras.utils.set_random_seed(1)
    model, images = transformer(**settings), models.images(2, SHAPE)
    before = [weight.copy() for weight in model.get_weights()]
    activations, gradients = watched(model, images, 2)
    places = [i for i in range(activations.shape[1]) if i not in special]
    activations, gradients = activations[:, places], gradients[:, places]
    maps = {
        "gradcam": np.einsum("ntc,nc->nt", activations, gradients.mean(axis=1)),
        "hirescam": (activations * gradients).sum(axis=-1),
        "layercam": (np.maximum(gradients, 0) * activations).sum(axis=-1),
    }
    explanations = explain(model, images, method=list(maps), target=2, output_kind="classes")
    for name, wanted in maps.items():
        wanted = wanted.reshape(2, 6, 4).transpose(0, 2, 1) if settings.get("columns") else wanted.reshape(2, *GRID)
        heatmaps = explanations[name].heatmaps
        np.testing.assert_allclose(heatmaps, wanted, atol=1e-5 * np.abs(wanted).max())
        assert explanations[name].layer_name == "norm_1"
    for weight, after in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, after)


SAID = {
    "grid": (4, 6),
    "special": Tokens((4, 6), special=[0]),
    "from the end": Tokens((4, 6), special=[-25]),
    "function": lambda tokens: ops.reshape(tokens[:, 1:], (-1, 4, 6, tokens.shape[-1])),
    "each": Tokens((4, 6), order=tuple(range(1, 25))),
}


@pytest.mark.parametrize("tokens", SAID.values(), ids=SAID)
def test_a_layout_that_is_said_is_the_one_that_is_measured(tokens):
    keras.utils.set_random_seed(1)
    model, images = transformer(front=1, readout="first"), models.images(2, SHAPE)
    measured = explain(model, images, method="hirescam", output_kind="classes").heatmaps
    said = explain(model, images, method="hirescam", tokens=tokens, output_kind="classes").heatmaps
    np.testing.assert_allclose(said, measured, rtol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((14, 14), "must make the layer's 25 tokens"),
        (Tokens((4, 6), special=[0, 1]), "must make the layer's 25 tokens"),
        (Tokens((4, 6), order=tuple(range(2, 26))), "among the layer's 25"),
        (lambda tokens: tokens[:, 1:] * 2, "pick and order tokens only"),
        (14, r"`tokens` must be a grid such as \(14, 14\)"),
        ((0, 3), "`grid` must be the cells"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(tokens, message):
    model, images = transformer(front=1, readout="first"), models.images(1, SHAPE)
    with pytest.raises(ValueError, match=message):
        explain(model, images, "norm_1", method="hirescam", tokens=tokens, output_kind="classes")


def test_a_layout_that_the_image_speaks_against_is_told():
    model, images = transformer(front=1, readout="first"), models.images(1, SHAPE)
    with pytest.warns(RuntimeWarning, match="positions of layer 'norm_1' hardly answer to places of the image"):
        explanation = explain(model, images, "norm_1", method="hirescam", tokens=(5, 5), output_kind="classes")
    assert explanation.heatmaps.shape == (1, 5, 5)


def test_tokens_in_an_order_that_is_no_grid_are_refused_by_name_and_taken_in_the_order_that_is_said():
    keras.utils.set_random_seed(1)
    model, images = transformer(shuffled=True), models.images(2, SHAPE)
    with pytest.raises(ValueError, match=r"must lie on the image as a grid.*tokens=\(14, 14\)"):
        explain(model, images, "norm_1", method="hirescam", output_kind="classes")
    order = tuple(int(i) for i in np.argsort(Shuffled.order))
    said = explain(model, images, "norm_1", method="hirescam", tokens=Tokens(GRID, order=order), output_kind="classes")
    activations, gradients = watched(model, images, int(said.targets[0]))
    wanted = (activations * gradients).sum(axis=-1)[0, list(order)].reshape(GRID)
    np.testing.assert_allclose(said.heatmaps[0], wanted, atol=1e-5 * np.abs(wanted).max())


def test_special_tokens_are_put_back_where_a_layer_is_replaced():
    keras.utils.set_random_seed(1)
    model, images = transformer(front=1, readout="first"), models.images(1, SHAPE)
    norm = model.get_layer("norm_1")
    tokens = keras.ops.convert_to_numpy(keras.Model(model.input, norm.output)(images))
    original, put = norm.call, {}
    vars(norm)["call"] = lambda *args, **settings: ops.convert_to_tensor(put["tokens"])
    try:
        drops = []
        for channel in (None, *range(16)):
            put["tokens"] = tokens.copy()
            if channel is not None:
                put["tokens"][:, 1:, channel] = 0
            drops.append(float(ops.convert_to_numpy(model(images))[0, 1]))
    finally:
        del vars(norm)["call"]
    assert norm.call == original
    weights = (drops[0] - np.array(drops[1:])) / abs(drops[0])
    wanted = (tokens[0, 1:] @ weights).reshape(GRID)
    found = explain(model, images, method=AblationCAM(), target=1, output_kind="classes").heatmaps[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_a_logger_records_the_grid_and_says_once_what_grad_cam_averages(tmp_path, capsys):
    keras.utils.set_random_seed(1)
    model, images = transformer(front=1, readout="first"), models.images(8, SHAPE)
    labels = np.arange(8) % 3
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logger = GradCAMLogger((images, labels), tracker="disk", log_dir=tmp_path, max_samples=4)
    with pytest.warns(RuntimeWarning, match="averages gradients over all tokens"):
        model.fit(images, labels, epochs=2, verbose=0, callbacks=[logger])
    run = read_run(tmp_path / "gradcam")
    assert run.epochs[-1].heatmaps().shape == (4, *GRID)
    assert run.space.tokens == "4 x 6 in the order of rows, special [0]"
    height, width, _ = run.epochs[-1].overlays()[0].shape
    assert width >= 48
    assert height > width * 32 / 48  # The caption stands below.


def test_auto_is_hirescam_on_tokens_and_gradcam_else(tmp_path):
    keras.utils.set_random_seed(1)
    model, images = transformer(), models.images(4, SHAPE)
    with pytest.warns(RuntimeWarning, match="'auto' is 'hirescam' on layer '.*', which holds tokens"):
        explanation = explain(model, images, output_kind="classes")
    assert explanation.method == "hirescam"
    named = explain(model, images, method="hirescam", output_kind="classes")
    # Where a tensor lies in memory may change PyTorch's last bits.
    np.testing.assert_allclose(explanation.heatmaps, named.heatmaps, rtol=0, atol=1e-6 * named.heatmaps.max())

    maps = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)])
    maps.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    explanation = explain(maps, images)
    assert explanation.method == "gradcam"
    np.testing.assert_array_equal(explanation.heatmaps, explain(maps, images, method="gradcam").heatmaps)
    both = explain(maps, images, method=["auto", "hirescam"])
    assert [both[name].method for name in ("auto", "hirescam")] == ["gradcam", "hirescam"]

    # The names of numbers don't depend on the model.
    logger = HeatmapLogger(
        (images, np.arange(4) % 3), method="auto", log_dir=tmp_path, tracker="disk", metrics=["area"]
    )
    history = maps.fit(images, np.arange(4) % 3, verbose=0, callbacks=[logger])
    assert "heatmaps_area" in history.history
    assert read_run(tmp_path / "heatmaps").manifest["method"] == "gradcam"


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_frozen_blocks_of_a_transformer_are_run_once():
    keras.utils.set_random_seed(1)
    model, images = transformer(), models.images(8, SHAPE)
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logger = HeatmapLogger((images, np.arange(8) % 3), method="hirescam", tracker="memory", max_samples=4)
    model.fit(images, np.arange(8) % 3, epochs=3, verbose=0, callbacks=[logger])
    heatmaps = logger.trackers[0].records[-1].heatmaps
    np.testing.assert_allclose(
        heatmaps, explain(model, images[:4], method="hirescam").heatmaps, atol=1e-5 * np.abs(heatmaps).max()
    )


class Windows(layers.Layer):
    """Works on quarters of the map that are folded into the batch."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.inside = layers.Conv2D(16, 3, padding="same", name="inside")

    def call(self, x):
        _, h, w, c = x.shape
        folded = ops.transpose(ops.reshape(x, (-1, 2, h // 2, 2, w // 2, c)), (0, 1, 3, 2, 4, 5))
        y = self.inside(ops.reshape(folded, (-1, h // 2, w // 2, c)))
        unfolded = ops.transpose(ops.reshape(y, (-1, 2, 2, h // 2, w // 2, c)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(unfolded, (-1, h * w, c))


def test_windows_that_became_samples_are_no_maps():
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = Windows(name="windows")(layers.Conv2D(16, 4, 4, name="patches")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    images = models.images(2, SHAPE)
    explanation = explain(model, images, target=0, output_kind="classes")
    assert (explanation.layer_name, explanation.heatmaps.shape) == ("windows", (2, 8, 12))
    changed = images.copy()
    changed[0] = changed[0, ::-1]
    again = explain(model, changed, target=0, output_kind="classes").heatmaps
    np.testing.assert_allclose(again[1], explanation.heatmaps[1], atol=1e-6)
    assert np.abs(again[0] - explanation.heatmaps[0]).max() > 1e-4
    with pytest.raises(ValueError, match=r"one row for each sample.*puts out 4 for each.*layer_name='windows'"):
        explain(model, images, "windows/inside", target=0, output_kind="classes")


def test_an_eager_model_of_tokens_is_explained_alike():
    keras.utils.set_random_seed(1)
    model, images = transformer(front=1, readout="first"), models.images(3, SHAPE)
    traced = explain(model, images, method="hirescam", target=1, output_kind="classes")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    eager = explain(model, images, "norm_1", method="hirescam", target=1, batch_size=2)
    np.testing.assert_allclose(eager.heatmaps, traced.heatmaps, atol=1e-5 * np.abs(traced.heatmaps).max())


@pytest.mark.filterwarnings("ignore:Grad-CAM averages")
def test_tokens_of_volumes():
    inputs = keras.Input((8, 16, 16, 1))
    x = layers.LayerNormalization(name="norm")(layers.Reshape((16, 8))(layers.Conv3D(8, (2, 8, 8), (2, 8, 8))(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    volumes = np.random.default_rng(0).random((1, 8, 16, 16, 1), np.float32)
    found = explain(model, volumes, "norm", output_kind="classes")
    assert found.heatmaps.shape == (1, 4, 2, 2)
    by_hand = explain(model, volumes, "norm", output_kind="classes", tokens=(4, 2, 2))
    np.testing.assert_array_equal(found.heatmaps, by_hand.heatmaps)
    with pytest.raises(ValueError, match="must have the axes depth, height, width"):
        explain(model, volumes, "norm", output_kind="classes", tokens=(4, 4))


@pytest.mark.filterwarnings("ignore:Layer 'norm_0' was chosen, the last feature map")
def test_a_layer_without_gradient_is_left_out_with_a_word():
    """The class token of the last block reads a constant in place of the tokens, which so have no gradient there."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = Special(1)(layers.Reshape((24, 16))(layers.Conv2D(16, 8, 8, name="patches")(inputs)))
    for block in range(2):
        y = layers.LayerNormalization(name=f"norm_{block}")(x)
        attended = layers.MultiHeadAttention(2, 8)(y, y)
        x = x + (attended if block == 0 else attended * 0)
    model = keras.Model(inputs, layers.Dense(3)(x[:, 0]))
    with pytest.warns(RuntimeWarning, match="'norm_1' would have been explained, but its gradient is exactly zero"):
        explanation = explain(model, models.images(2, SHAPE), method="hirescam", output_kind="classes")
    assert explanation.layer_name != "norm_1"
    assert np.abs(explanation.heatmaps).max() > 0


def test_maps_of_two_sizes_in_a_row_are_no_grid_with_special_tokens():
    """As a detector's transformer has them: 64 and 16 tokens, of which the first would follow the image."""
    inputs = keras.Input((32, 32, 3))
    fine = layers.Conv2D(8, 4, 4, activation="relu", name="fine")(inputs)
    coarse = layers.Conv2D(8, 2, 2, activation="relu", name="coarse")(fine)
    rows = [layers.Reshape((-1, 8))(level) for level in (fine, coarse)]
    x = layers.Dense(8, name="joined")(layers.Concatenate(axis=1)(rows))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    x = models.images(2, (32, 32, 3))
    assert explain(model, x, method="hirescam", target=0, output_kind="classes").layer_name == "coarse"
    with pytest.raises(ValueError, match="must lie on the image as a grid"):
        explain(model, x, "joined", target=0, output_kind="classes")
    laid = explain(model, x, "joined", tokens=Tokens((8, 8), special=range(64, 80)), target=0, output_kind="classes")
    assert laid.heatmaps.shape == (2, 8, 8)
