"""Layers in few bits, with LoRA, and of models that save memory in training: explained as what they compute."""

import gc
from itertools import product

import keras
import ml_dtypes
import models
import numpy as np
import pytest
from fits import KERAS_WARNS
from keras import layers, ops
from models import SHAPE, functional, highest, images, labels
from zoo.example import Example
from zoo.independent import activations_and_gradients
from zoo.tokens import vit_pooled

from keras_cam_callbacks import HeatmapLogger, MemoryTracker, explain

CELLS = 10 * 14
MODES = {
    "full": {"mode": "full"},
    "activations": {"mode": "activations"},
    "larger_than": {"mode": "larger_than", "output_size_threshold": 1},
    "list_of_layers": {"mode": "list_of_layers", "layer_names": ["conv2", "classes"]},
}
saves_memory = pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="of later versions of Keras")
pytestmark = KERAS_WARNS


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(5)


def quantized(model, mode):
    # Keras has garbage collected at each layer, which takes the longer the more tests ran before.
    gc.collect()
    gc.freeze()
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Dense | layers.EinsumDense):
            layer.quantize(mode)
    return model


def with_lora(model, rank=2):
    """Has each layer that can learn two thin matrices, which are as if they had been trained."""
    for layer in [layer for layer in model._flatten_layers() if isinstance(layer, ADAPTED) and layer.built]:
        layer.enable_lora(rank)
        layer.lora_kernel_b.assign(np.random.default_rng(1).normal(0, 0.3, layer.lora_kernel_b.shape))
    return model


ADAPTED = (layers.Dense, layers.EinsumDense, layers.Conv2D)


def in_few_bits(numbers, scale):
    """Numbers rounded to float8 and back, by the library that defines the format; too large ones are its largest."""
    largest = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
    return scale * np.clip(numbers / scale, -largest, largest).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def weights_of_map(explanation, model, x):
    """The factors of the channels in a HiResCAM map, by least squares over all positions."""
    activations = ops.convert_to_numpy(model.get_layer("conv")(x)).reshape(-1, 4)
    return np.linalg.lstsq(activations, explanation.heatmaps.ravel(), rcond=None)[0]


def headed():
    steps = [layers.Conv2D(4, 3, name="conv"), layers.GlobalAveragePooling2D(), layers.Dense(3, name="classes")]
    model = keras.Sequential([keras.Input(SHAPE), *steps])
    model.get_layer("classes").bias.assign([0.3, -0.2, 0.1])
    return model


def test_a_dense_layer_in_int8_has_the_gradient_of_its_kernel():
    model, x = headed(), images()
    kernel = model.get_layer("classes").kernel.numpy()
    model.get_layer("classes").quantize("int8")
    steps = np.abs(kernel).max(axis=0) / 127
    expected = np.round(kernel / steps) * steps
    explanation = explain(model, x, method="hirescam", target=1, output_kind="classes")
    np.testing.assert_allclose(weights_of_map(explanation, model, x), expected[:, 1] / CELLS, rtol=1e-4)
    np.testing.assert_array_equal(explanation.scores, model.predict(x, verbose=0)[:, 1])


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_way_back_through_float8_is_not_cut_off_where_gradients_of_the_loss_are_small(activation):
    model, x = headed(), images()
    dense = model.get_layer("classes")
    dense.activation = keras.activations.get(activation)
    kernel = dense.kernel.numpy()
    dense.quantize("float8")
    dense.kernel_scale.assign(2.0**-9)
    dense.inputs_scale.assign(2.0**-7)
    dense.outputs_grad_scale.assign(1e-9)  # As it is once the loss is small: the largest gradient is then 6e-5.
    before = dict(vars(dense))
    explanation = explain(model, x, method="hirescam", target=1, output_kind="classes")
    expected = in_few_bits(kernel, 2.0**-9)
    np.testing.assert_allclose(weights_of_map(explanation, model, x), expected[:, 1] / CELLS, rtol=1e-4)
    np.testing.assert_array_equal(explanation.outputs, model.predict(x, verbose=0))
    assert vars(dense) == before


@pytest.mark.parametrize("name", ["int8", "lora", "lora in int8"])
@pytest.mark.slow
def test_a_transformer_is_explained_as_a_tape_over_it_does(name):
    model, x = vit_pooled().model, images(2, (32, 32, 3))
    model = with_lora(model) if "lora" in name else model
    model = quantized(model, "int8") if "int8" in name else model
    (norm,) = [layer.name for layer in model.layers if isinstance(layer, layers.LayerNormalization)][2:3]
    example = Example(model, x, target=lambda outputs: outputs[:, 2])
    activations, gradients = activations_and_gradients(example, norm, (4, 4))
    explanation = explain(model, x, method="hirescam", target=2, output_kind="classes")
    assert explanation.layer_name == norm
    wanted = (activations * gradients).sum(axis=-1)
    np.testing.assert_allclose(explanation.heatmaps, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("mode", ["int8", "float8"])
@pytest.mark.slow
def test_attention_is_seen_in_quantized_transformers(mode):
    model, x = vit_pooled().model, images(2, (32, 32, 3))
    methods = ["attention_rollout", "attention_relevance"]
    whole = explain(model, x, method=methods, target=1, output_kind="classes")
    few = explain(quantized(model, mode), x, method=methods, target=1, output_kind="classes")
    for method in methods:
        assert np.abs(few[method].heatmaps - whole[method].heatmaps).max() > 0
        assert np.corrcoef(few[method].heatmaps.ravel(), whole[method].heatmaps.ravel())[0, 1] > 0.9


def test_matrices_of_lora_are_followed_in_fit():
    split = functional()
    for name in ("conv1", "conv2", "classes"):
        split.model.get_layer(name).enable_lora(2)
    models.fit_both(split, images(), labels())


def test_explaining_again_sees_lora_that_was_enabled_meanwhile():
    model, x = functional().model, images()
    before = explain(model, x, target=0).heatmaps
    with_lora(model)
    after = explain(model, x, target=0)
    assert np.abs(after.heatmaps - before).max() > 0.01 * np.abs(before).max()
    np.testing.assert_allclose(after.outputs, model.predict(x, verbose=0), rtol=1e-6)


def frozen_but_lora():
    """A base whose first half is frozen; the second learns by LoRA alone."""
    model = functional().model
    for name in ("conv1", "conv2"):
        model.get_layer(name).trainable = False
    model.get_layer("classes").enable_lora(2)
    return model


def frozen_in_int8():
    model = functional().model
    model.trainable = False
    model.get_layer("classes").quantize("int8")
    model.get_layer("classes").enable_lora(2)
    model.get_layer("classes").trainable = model.trainable = True
    for name in ("conv1", "conv2"):
        model.get_layer(name).trainable = False
    return model


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")  # Raw maps are compared.
@pytest.mark.parametrize("build", [frozen_but_lora, frozen_in_int8])
def test_frozen_layers_run_once(build):
    model, x, y = build(), images(), labels()
    model.compile(keras.optimizers.SGD(0.1), models.SPARSE, jit_compile=False)
    logger = HeatmapLogger((x, y), tracker=MemoryTracker(), target=1, on_error="raise")
    counts = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: counts.append(logger._source.capturer.reuses)
    )
    model.fit(x, y, epochs=3, batch_size=3, verbose=0, callbacks=[logger, count])
    assert counts[-1] >= 2
    record = logger.tracker.records[-1]
    # To the last bit, where one program is not compiled apart from another.
    share = 0 if keras.backend.backend() == "tensorflow" else 1e-6
    for logged, now in (
        (record.heatmaps, explain(model, x, target=1).heatmaps),
        (record.outputs, model.predict(x, verbose=0)),
    ):
        np.testing.assert_allclose(logged, now, rtol=0, atol=share * np.abs(now).max())
    assert not np.array_equal(record.outputs, logger.tracker.records[0].outputs)


@saves_memory
@pytest.mark.parametrize(
    ("build", "settings"),
    # The subclass can't be built by Keras itself with the modes in which its parts alone are computed anew.
    [*product([functional, models.sequential, models.nested_twice], MODES.values()), (models.branched, MODES["full"])],
)
def test_what_is_computed_twice_in_training_is_explained_as_it_is(build, settings):
    with keras.RematScope(**settings):
        split = build()
    modes = [layer._remat_mode for layer in split.model._flatten_layers()]
    x = images()
    found = explain(split.model, x, split.layer, output_kind="classes")
    expected = models.reference_gradcam(split, x, highest)
    models.assert_maps_equal(found.heatmaps, expected)
    assert [layer._remat_mode for layer in split.model._flatten_layers()] == modes
    assert any(mode is not None for mode in modes)


@saves_memory
@pytest.mark.parametrize("mode", ["activations", "full"])
def test_such_a_model_is_explained_in_fit(mode):
    with keras.RematScope(mode=mode):
        split = functional()
    # Keras on TensorFlow can train a model that it computes anew as a whole only eagerly.
    models.fit_both(split, images(), labels(), run_eagerly=mode == "full")


@saves_memory
@pytest.mark.parametrize("method", ["attention_rollout", "attention_relevance", "saliency", "fullgrad"])
def test_methods_look_into_blocks_that_are_computed_twice(method):
    x = images(2, (32, 32, 3))
    plain = vit_pooled().model
    with keras.RematScope(mode="full"):
        twice = vit_pooled().model
    twice.set_weights(plain.get_weights())
    one, other = (explain(model, x, method=method, target=1, output_kind="classes") for model in (plain, twice))
    models.assert_maps_equal(other.heatmaps, one.heatmaps, 1e-5)


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_cam_of_a_quantized_head_is_refused_for_what_works(mode):
    model, x = headed(), images()
    model.get_layer("classes").quantize(mode)
    with pytest.raises(ValueError, match=f"layer 'classes', quantized to {mode}.*method='hirescam'"):
        explain(model, x, method="cam", output_kind="classes")
    assert explain(model, x, method="hirescam", output_kind="classes").heatmaps.shape == (6, 10, 14)
