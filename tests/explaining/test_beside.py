"""Signals beside images, outputs for each step, and calls and rows that can't be explained, with the way out."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import LOGITS, images
from tapes import watched

from keras_cam_callbacks import GradCAMLogger, explain
from keras_cam_callbacks.methods import cams

QUIET = pytest.mark.filterwarnings("ignore:.*takes the 3 outputs for scores")


def image_and_signal():
    image, signal = keras.Input((12, 12, 3), name="image"), keras.Input((40, 2), name="signal")
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", name="conv2")(image))
    heard = layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3, activation="relu", name="conv1")(signal))
    model = keras.Model([image, signal], layers.Dense(3)(layers.Concatenate()([seen, heard])))
    model.compile("sgd", LOGITS)
    return model, [images(6, (12, 12, 3)), images(6, (40, 2), seed=1)]


def by_tape(model, inputs, name):
    layer = model.get_layer(name)
    mine, beside = sorted((0, 1), key=lambda i: model.inputs[i] is not layer.input)
    behind = keras.Model([layer.output, model.inputs[beside]], model.output)
    [activations], [slopes] = watched(
        lambda watch: ops.max(behind([watch(layer(inputs[mine])), ops.convert_to_tensor(inputs[beside])]), axis=1)
    )
    return cams.gradcam(activations, slopes)


@pytest.mark.parametrize(
    ("settings", "layer"),
    [({}, "conv2"), ({"input": "image"}, "conv2"), ({"input": "signal"}, "conv1"), ({"layer_name": "conv1"}, "conv1")],
)
def test_a_signal_beside_an_image(settings, layer):
    model, inputs = image_and_signal()
    explanation = explain(model, inputs, **settings)
    assert explanation.layer_name == layer
    np.testing.assert_allclose(explanation.heatmaps, by_tape(model, inputs, layer), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_a_signal_beside_an_image_in_fit():
    model, inputs = image_and_signal()
    logger = GradCAMLogger((inputs, np.arange(6) % 3), input="signal", tracker="memory", on_error="raise")
    model.fit(inputs, np.arange(6) % 3, verbose=0, callbacks=[logger])
    heatmaps = logger.trackers[0].records[0].heatmaps
    np.testing.assert_allclose(heatmaps, by_tape(model, inputs, "conv1"), rtol=1e-4, atol=1e-6)


@QUIET
def test_the_layer_that_the_named_input_goes_into():
    inputs = [keras.Input((40, 2), name="a"), keras.Input((30, 2), name="b")]
    pooled = [layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3, name=f"conv_{x.name}")(x)) for x in inputs]
    model = keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(pooled)))
    x = [images(2, (40, 2)), images(2, (30, 2))]
    assert [explain(model, x, input=name).layer_name for name in "ab"] == ["conv_a", "conv_b"]


def of_steps(*last):
    conv = layers.Conv1D(5, 3, padding="same", activation="relu", name="conv")
    model = keras.Sequential([keras.Input((12, 4)), conv, layers.Conv1D(6, 3, padding="same", name="deep"), *last])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.filterwarnings("ignore:.*for a mask")
@pytest.mark.parametrize(
    "last",
    [
        lambda: [layers.TimeDistributed(layers.Dense(3, activation="softmax"))],
        lambda: [layers.TimeDistributed(layers.Dense(3)), layers.TimeDistributed(layers.Activation("softmax"))],
    ],
)
def test_the_outputs_of_steps_are_no_map(last):
    model = of_steps(*last())
    x = images(2, (12, 4))
    assert model.predict(x, verbose=0).argmax(axis=-1).any()
    assert explain(model, x).layer_name in ("conv", "deep")


@pytest.mark.filterwarnings("ignore:.*for a mask")
def test_nothing_but_background_is_an_empty_map_and_no_error():
    model = of_steps(layers.Conv1D(3, 1, activation="softmax"))
    model.layers[-1].bias.assign([50.0, 0.0, 0.0])
    with pytest.warns(RuntimeWarning, match="depends on none, as where no position is predicted as the class"):
        explanation = explain(model, images(2, (12, 4)))
    assert explanation.layer_name in ("conv", "deep")
    assert np.isnan(explanation.heatmaps).all()


@QUIET
def test_a_call_that_is_not_made():
    model, inputs = image_and_signal()
    assert explain(model, inputs, "conv2#1").layer_name == "conv2"
    with pytest.raises(ValueError, match="'conv2#2', called once; 'conv2' names its last call"):
        explain(model, inputs, "conv2#2")


@QUIET
def test_a_layer_called_again_on_the_same_image_is_named():
    image, conv = keras.Input((12, 12, 3)), layers.Conv2D(3, 3, padding="same", name="conv")
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(conv(conv(image)))))
    with pytest.raises(ValueError, match="layer_name='conv#2' takes the last call"):
        explain(model, images(2, (12, 12, 3)))
    assert explain(model, images(2, (12, 12, 3)), "conv#2").layer_name == "conv#2"


@QUIET
def test_rows_of_words_and_the_way_out():
    words, embedding = keras.Input((20,), dtype="int32"), layers.Embedding(100, 8)
    rows = layers.Conv1D(4, 3, activation="relu")(embedding(words))
    model = keras.Model(words, layers.Dense(3)(layers.GlobalMaxPooling1D()(rows)))
    x = np.random.default_rng(0).integers(0, 100, (3, 20))
    with pytest.raises(ValueError, match=r"explain\(keras.Model\(layer.output, model.output\)"):
        explain(model, x)
    embedded = keras.Model(model.inputs, embedding.output).predict(x, verbose=0)
    assert explain(keras.Model(embedding.output, model.output), embedded).heatmaps.shape == (3, 18)


@QUIET
def test_a_token_for_each_frame_of_a_clip():
    frame = [keras.Input((8, 8, 2)), layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    clip = keras.Input((8, 8, 8, 2))
    steps = layers.TimeDistributed(keras.Sequential(frame))(clip)
    steps = layers.Dense(5, name="steps")(steps)
    attended = layers.MultiHeadAttention(2, 4)(steps, steps)
    model = keras.Model(clip, layers.Dense(3)(layers.GlobalAveragePooling1D()(attended)))
    clips = images(2, (8, 8, 8, 2))
    assert explain(model, clips, "steps", method="hirescam").heatmaps.shape == (2, 8, 1, 1)
    # Without a name the last map of each frame is taken, which has places in it.
    assert explain(model, clips).heatmaps.shape == (2, 8, 6, 6)
    assert explain(model, clips, method="attention_rollout").heatmaps.shape == (2, 8, 1, 1)


@QUIET
def test_pooling_of_each_frame_is_not_chosen():
    inside = layers.Conv2D(4, 3, activation="relu", name="conv"), layers.MaxPooling2D(name="pool")
    model = keras.Sequential(
        [keras.Input((5, 10, 10, 1)), *map(layers.TimeDistributed, inside), layers.Flatten(), layers.Dense(3)]
    )
    assert "pool" not in explain(model, images(2, (5, 10, 10, 1))).layer_name
    assert explain(model, images(2, (5, 10, 10, 1))).heatmaps.shape == (2, 5, 8, 8)


@QUIET
def test_a_masked_signal_without_convolutions():
    last = layers.GlobalAveragePooling1D(), layers.Dense(3)
    model = keras.Sequential([keras.Input((12, 4)), layers.Masking(), layers.Dense(8, "relu", name="steps"), *last])
    explanation = explain(model, images(2, (12, 4)))
    assert (explanation.layer_name, explanation.heatmaps.shape) == ("steps", (2, 12))
