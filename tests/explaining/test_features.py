"""Grids of channels and patterns of filters: against closed forms, and pixel by pixel."""

import random

import keras
import numpy as np
import pytest
from backends import most_traces
from keras import layers, ops
from models import SHAPE, branched, functional, images, in_mixed_precision, nested_twice, sequential
from seeds import set_seeds
from tapes import gradient

from keras_cam_callbacks import activation_grids, filter_patterns
from keras_cam_callbacks.drawing.channels import (
    GridStyle,
    channel_grid,
    dead_channels,
    deprocess,
    extremes,
    make_sheet,
    pattern_grid,
    tones,
    with_image,
)
from keras_cam_callbacks.drawing.overlay import colorize
from keras_cam_callbacks.passes.ascent import Ascent, AscentSettings
from keras_cam_callbacks.passes.channels import LayerActivations


@pytest.fixture(autouse=True)
def same_weights():
    """Untrained nets with filters that rest are no rarity."""
    keras.utils.set_random_seed(1)


PLAIN = {"jitter": 0, "blur": 0.0}


def dead(activations):
    return dead_channels(*extremes(ops.convert_to_numpy(activations).astype(np.float32)))


# ---- Dead channels -----------------------------------------------------------------------------------------


def test_dead_is_constant_or_not_finite():
    activations = np.zeros((2, 3, 4, 8), np.float32)
    activations[..., 1] = 7  # constant, though above 0
    activations[..., 2] = -5
    activations[1, 2, 3, 3] = 1e-20  # one value at one position of one sample
    activations[..., 4] = np.linspace(-3, -1, 24).reshape(2, 3, 4)  # all below 0, but it varies
    activations[0, 0, 0, 5] = np.nan
    activations[0, 0, 0, 6] = np.inf
    activations[..., 7] = 1
    activations[0, 0, 0, 7] += 1e-7  # rounding
    assert dead(activations).tolist() == [True, True, True, False, False, True, True, True]


def test_a_channel_that_differs_only_between_samples_lives():
    activations = np.zeros((2, 3, 3, 1), np.float32)
    activations[1] = 2
    assert not dead(activations).any()
    assert dead(activations[:1]).all()
    assert dead(activations[1:]).all()


# ---- Tones and grids ---------------------------------------------------------------------------------------


def test_grid_of_two_channels_by_hand():
    # Channel 0 has mean 2 and deviation 1: tones 128 - 64 and 128 + 64. Channel 1 is constant.
    activations = np.zeros((1, 2, 2, 2), np.float32)
    activations[0, ..., 0] = [[1, 3], [3, 1]]
    sheet = make_sheet(2, 2, 2, 256)
    found = tones(activations, sheet)
    assert (sheet.rows, sheet.columns, found.shape) == (1, 2, (1, 2, sheet.height, sheet.width))
    assert sheet.height == sheet.width
    half = sheet.height // 2
    expected = np.kron(np.array([[64, 192], [192, 64]]), np.ones((half, half), int))
    np.testing.assert_array_equal(found[0, 0], expected)
    np.testing.assert_array_equal(found[0, 1], np.full_like(expected, 128))

    grid = channel_grid(found[0], np.array([False, True]), sheet, "viridis")
    viridis = (
        colorize(np.arange(256, dtype=np.uint8)[None])[0] * 0
        + colorize(np.arange(256, dtype=np.uint8)[None], "viridis")[0]
    )
    right = grid.shape[1] - sheet.gap - sheet.width
    left = right - sheet.gap - sheet.width
    below = grid.shape[0] - sheet.gap - sheet.height
    np.testing.assert_array_equal(grid[below : below + sheet.height, left : left + sheet.width], viridis[expected])
    crossed = grid[below : below + sheet.height, right : right + sheet.width]
    assert crossed[sheet.height // 4, sheet.width // 2].tolist() == [60] * 3
    assert crossed[0, 0].tolist() == crossed[-1, 0].tolist() == crossed[half, half].tolist() == [130] * 3
    assert (grid[below:, left + sheet.width : right] == 255).all()  # the gap


def test_tones_are_centred_and_scaled_by_sample_and_channel():
    activations = np.random.default_rng(0).normal(size=(3, 8, 8, 5)).astype(np.float32)
    activations *= np.float32(10.0) ** np.arange(-2, 3)
    sheet = make_sheet(5, 8, 8, 1024)
    found = tones(activations, sheet)
    for n in range(3):
        for c in range(5):
            a = activations[n, ..., c].astype(np.float64)
            by_hand = np.clip(np.rint((a - a.mean()) / a.std() * 64 + 128), 0, 255)
            step = sheet.height // 8
            assert np.abs(found[n, c, ::step, ::step] - by_hand).max() <= 1  # a half may be rounded either way


@pytest.mark.parametrize("value", [0, 1e-30, -4.5, 1e30, 3e38, np.nan, np.inf])
def test_constant_and_broken_channels_are_flat(value):
    activations = np.full((1, 4, 4, 1), value, np.float32)
    assert (tones(activations, make_sheet(1, 4, 4, 256)) == 128).all()


def test_large_values_do_not_overflow():
    activations = np.float32([[0, 2e38], [2e38, 0]])[None, ..., None]
    assert set(np.unique(tones(activations, make_sheet(1, 2, 2, 256)))) == {64, 192}


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 13, 32, 64, 512, 2048])
@pytest.mark.parametrize("shape", [(2, 2), (7, 7), (28, 28), (112, 56), (300, 400)])
@pytest.mark.parametrize("size", [256, 1024])
def test_every_channel_has_a_cell_and_the_grid_fits(channels, shape, size):
    sheet = make_sheet(channels, *shape, size)
    assert sheet.rows * sheet.columns >= channels
    assert (sheet.rows - 1) * sheet.columns < channels
    cells = np.full((channels, sheet.height, sheet.width), 100, np.uint8)
    grid = channel_grid(cells, np.zeros(channels, bool), sheet)
    # Only cells of 4 px may ask for more; at the smallest size, 2,048 of them do.
    smallest = max(sheet.height, sheet.width) <= 4
    assert max(grid.shape) <= size or (smallest and size == 256)
    colour = colorize(np.uint8([[100]]), "viridis")[0, 0]
    assert (grid == colour).all(axis=-1).sum() == channels * sheet.height * sheet.width


def test_cells_are_whole_multiples_or_shrunk_in_proportion():
    assert (make_sheet(64, 13, 26, 1024).height / 13).is_integer()
    small = make_sheet(64, 200, 400, 512)
    assert small.width < 64
    assert abs(small.width - 2 * small.height) <= 2


def test_round_numbers_of_columns():
    for channels in (16, 32, 64, 256, 512, 2048):
        sheet = make_sheet(channels, 14, 14, 1024)
        assert sheet.rows * sheet.columns == channels
        assert sheet.columns >= sheet.rows  # rather wide than high


def test_numbers_stand_beside_and_above():
    sheet = make_sheet(16, 20, 20, 512)
    cells = np.full((16, sheet.height, sheet.width), 128, np.uint8)
    grid = channel_grid(cells, np.zeros(16, bool), sheet)
    top, left = grid.shape[0] - sheet.rows * (sheet.height + sheet.gap), grid.shape[1] - 4 * (sheet.width + sheet.gap)
    for i in range(4):
        x, y = left + i * (sheet.width + sheet.gap), top + i * (sheet.height + sheet.gap)
        assert (grid[:top, x : x + sheet.width] < 100).any()
        assert (grid[y : y + sheet.height, :left] < 100).any()


def test_the_image_stands_beside_the_grid():
    image, grid = np.full((80, 40, 3), 9, np.uint8), np.full((50, 60, 3), 200, np.uint8)
    picture = with_image(image, grid)
    assert (picture == 9).all(axis=-1).sum() == 160 * 80  # enlarged to 160 px
    np.testing.assert_array_equal(picture[:50, -60:], grid)
    assert picture.shape == (176, 236, 3)


def test_deprocessed_images_have_mean_and_deviation():
    noise = np.random.default_rng(0).normal(300, 40, (2, 50, 60, 3))
    found = deprocess(noise)
    assert (found.dtype, found.shape) == (np.uint8, (2, 50, 60, 3))
    assert abs(found.mean() / 255 - 0.5) < 0.005
    assert abs(found.std() / 255 - 0.15) < 0.005
    grey = deprocess(noise[..., :2])
    assert (grey[..., 0] == grey[..., 2]).all()
    by_hand = noise[0, ..., :2].mean(axis=-1)
    by_hand = np.rint(np.clip((by_hand - by_hand.mean()) / by_hand.std() * 0.15 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(grey[0, ..., 0], by_hand)
    assert (deprocess(np.full((1, 4, 4, 3), 7.0)) == 128).all()
    assert (deprocess(np.full((1, 4, 4, 3), np.nan)) == 128).all()


def test_grid_of_patterns():
    patterns = np.stack([np.full((64, 64, 3), 10 * i + 5, np.uint8) for i in range(6)])
    grid = pattern_grid(patterns, list("abcdef"), np.array([False] * 5 + [True]), 2048)
    for i in range(5):
        assert (grid == 10 * i + 5).all(axis=-1).sum() >= 64 * 64
    assert (grid == 55).all(axis=-1).sum() < 64  # Letters may have pixels of that grey.
    assert (grid == 60).all(axis=-1).sum() > 3000
    large = np.zeros((40, 300, 200, 3), np.uint8)
    assert max(pattern_grid(large, ["0"] * 40, np.zeros(40, bool), 700).shape) <= 700


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"colormap": "vridis"}, "viridis"), ({"size": 100}, "at least 256"), ({"image_format": "gif"}, "jpg")],
)
def test_impossible_styles(settings, match):
    with pytest.raises(ValueError, match=match):
        GridStyle(**settings)


# ---- Activations of models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [functional, sequential, nested_twice, branched])
def test_activations_are_those_of_the_layer(build):
    split, x = build(), images()
    captured = LayerActivations(split.model, x, split.layer, batch_size=4)
    found = [chunk[0] for chunk in captured()]
    assert [len(chunk) for chunk in found] == [4, 2]
    np.testing.assert_allclose(np.concatenate(found), keras.ops.convert_to_numpy(split.front(x)), atol=1e-5)
    assert captured.taps[0].path == split.layer
    list(captured())
    assert captured.traces <= most_traces(1)


def test_all_convolutions_and_poolings_in_call_order():
    split = nested_twice()
    grids = activation_grids(split.model, images())
    assert list(grids) == ["middle/conv1", "middle/inner/conv2", "middle/inner/pool"]
    assert [len(grid.dead) for grid in grids.values()] == [4, 5, 5]
    assert [grid.map_size for grid in grids.values()] == [(10, 14), (10, 14), (5, 7)]
    assert {len(grid.pictures()) for grid in grids.values()} == {4}


def test_eager_and_fixed_batch():
    split, x = functional(), images()
    split.model.compile(run_eagerly=True)
    expected = activation_grids(functional_copy(split.model), x)
    for model in (split.model, functional_copy(split.model, batch=4)):
        found = activation_grids(model, x, max_samples=6)
        for name, grid in found.items():
            assert len(grid.tones) == 6
            assert np.abs(grid.tones[:4].astype(int) - expected[name].tones).max() <= 1


def functional_copy(model, batch=None):
    copy = functional(batch=batch).model
    copy.set_weights(model.get_weights())
    return copy


def test_deep_models_show_the_last_layer_of_each_size():
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3), name="vgg")
    model = keras.Sequential([keras.Input((32, 32, 3)), base, layers.GlobalAveragePooling2D(), layers.Dense(2)])
    x = images(2, (32, 32, 3))
    found = LayerActivations(model, x)
    assert [tap.path for tap in found.taps] == [
        *("vgg/block1_conv2", "vgg/block2_conv2", "vgg/block3_conv3", "vgg/block4_conv3", "vgg/block5_conv3"),
    ]
    inner = activation_grids(model, x, ["vgg/block4_pool", "block3_conv1"])
    assert list(inner) == ["vgg/block3_conv1", "vgg/block4_pool"]  # as they are called
    sub = keras.Model(base.input, base.get_layer("block3_conv1").output)
    np.testing.assert_array_equal(inner["vgg/block3_conv1"].dead, dead(sub(x)))


def test_a_channel_made_dead_is_counted_and_crossed_out():
    split = functional()
    conv = split.model.get_layer("conv1")
    kernel, _ = conv.get_weights()
    conv.set_weights([np.abs(kernel), np.float32([0, 0, -1000, 0])])
    grid = activation_grids(split.model, images(), "conv1")["conv1"]
    assert grid.dead.tolist() == [False, False, True, False]
    assert grid.dead_share == 0.25
    assert "4 channels of 10 x 14, 1 dead" in grid.captions()[0]
    assert (grid.pictures()[0] == 60).all(axis=-1).any()
    conv.set_weights([np.abs(kernel), np.zeros(4)])
    assert not activation_grids(split.model, images(), "conv1")["conv1"].dead.any()


def test_dead_is_judged_over_all_chunks():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.MaxPooling2D(2, name="pool")(inputs))
    x = np.zeros((3, *SHAPE), np.float32)
    x[2, ..., 1] = 1
    grid = activation_grids(model, x, batch_size=1)["pool"]
    assert grid.dead.tolist() == [True, False, True]


def test_labels_in_captions():
    grid = activation_grids(functional().model, (images(3), np.array([0, 2, 1])), "pool")["pool"]
    assert [text.split(", ")[-1] for text in grid.captions(["ant", "bee"])] == ["true ant", "true 2", "true bee"]


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ("conv3", r"Received: 'conv3'.*Did you mean 'conv.*These layers would do: 'conv1', 'conv2', 'pool'"),
        ("classes", r"must put out a feature map.*'classes'.*would do: 'conv1', 'conv2', 'pool'"),
        (["conv1", "conv1"], "must differ"),
        ([], "at least one layer"),
    ],
)
def test_wrong_layers(chosen, match):
    with pytest.raises(ValueError, match=match):
        activation_grids(functional().model, images(), chosen)


def test_no_layer_to_choose_and_layers_called_twice():
    inputs = keras.Input(SHAPE)
    with pytest.raises(ValueError, match="must have a convolution or pooling"):
        activation_grids(keras.Model(inputs, layers.Flatten()(inputs)), images())
    conv = layers.Conv2D(3, 3, padding="same", name="twice")
    model = keras.Model(inputs, conv(conv(inputs)))
    with pytest.raises(ValueError, match="called 2 times"):
        activation_grids(model, images(), "twice")
    with pytest.raises(TypeError, match="must be a Keras 3 model"):
        activation_grids(lambda x: x, images())


# ---- Patterns ----------------------------------------------------------------------------------------------


def one_layer(layer, shape=(12, 16, 3)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(layer(inputs)))


def unit(gradient):
    """Divided by its root mean square, over each sample."""
    return gradient / np.sqrt((gradient**2).mean(axis=(1, 2, 3), keepdims=True))


def test_linear_filter_climbs_the_closed_form():
    """The gradient of a linear filter's mean is the same everywhere, so all steps go one way."""
    conv = layers.Conv2D(3, 3, name="conv")
    model = one_layer(conv)
    found = filter_patterns(model, "conv", steps=10, step_size=0.02, **PLAIN)
    kernel = conv.kernel.numpy()
    gradient = np.zeros((3, 12, 16, 3))
    for i in range(10):
        for j in range(14):
            gradient[:, i : i + 3, j : j + 3] += np.moveaxis(kernel, -1, 0)
    seed = Ascent(model, "conv", 3, AscentSettings(), shape=(12, 16, 3)).seed_image
    np.testing.assert_allclose(found.images, seed + 10 * 0.02 * unit(gradient), atol=1e-4)
    assert 0.4 <= seed.min() < 0.41 < 0.59 < seed.max() <= 0.6
    # What is reached is what the layer puts out for these images.
    by_hand = np.mean([keras.ops.convert_to_numpy(conv(found.images))[k, ..., k] for k in range(3)], axis=(1, 2))
    np.testing.assert_allclose(found.activations, by_hand, atol=1e-5)
    from_seed = keras.ops.convert_to_numpy(conv(seed[None])).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(found.seed_activations, from_seed, atol=1e-5)
    assert (found.activations > found.seed_activations + 0.1).all()


def test_patches_of_a_linear_filter_become_its_kernel():
    conv = layers.Conv2D(4, 4, strides=4, name="conv")
    model = one_layer(conv, (32, 32, 3))
    kernel = np.random.default_rng(1).normal(size=(4, 4, 3, 4)).astype(np.float32)
    conv.set_weights([kernel, np.zeros(4)])
    found = filter_patterns(model, "conv", **PLAIN)
    for k in range(4):
        for i, j in ((4, 4), (12, 20), (24, 8)):
            patch = found.images[k, i : i + 4, j : j + 4].ravel()
            assert np.corrcoef(patch, kernel[..., k].ravel())[0, 1] > 0.95
    # Another's filter it is not.
    assert abs(np.corrcoef(found.images[0, 4:8, 4:8].ravel(), kernel[..., 1].ravel())[0, 1]) < 0.6


def test_each_step_follows_the_gradient_of_a_deep_layer():
    """By gradients of the layers by hand; linear before the ReLU in the first quarter of the steps."""
    split = functional(shape=(16, 16, 3))
    conv1, conv2 = split.model.get_layer("conv1"), split.model.get_layer("conv2")
    conv2.bias.assign(np.full(5, 0.2))
    found = filter_patterns(split.model, "conv2", [3, 1], steps=6, **PLAIN)
    kernel, bias = map(ops.convert_to_tensor, conv2.get_weights())
    x = np.repeat(Ascent(split.model, "conv2", 1, AscentSettings(), shape=(16, 16, 3)).seed_image[None], 2, axis=0)

    def before(x):
        return ops.conv(conv1(x), kernel, padding="same", data_format="channels_last") + bias

    def score(a):
        return ops.stack([ops.mean(a[0, ..., 3]), ops.mean(a[1, ..., 1])])

    for step in range(6):
        output = ops.convert_to_numpy(before(ops.convert_to_tensor(x)))
        assert output[0, ..., 3].max() > 0
        assert output[1, ..., 1].max() > 0
        end = (lambda a: a) if step < 2 else ops.relu
        slope = gradient(lambda x, end=end: score(end(before(x))), x)
        x = x + 0.025 * unit(slope).astype(np.float32)
    np.testing.assert_allclose(found.images, x, atol=1e-4)


def test_blur_smooths_each_gradient_and_jitter_is_undone():
    conv = layers.Conv2D(2, 3, name="conv", padding="same")
    model = one_layer(conv, (20, 20, 3))
    plain, blurred, shifted = (
        filter_patterns(model, "conv", steps=1, **settings).images
        for settings in (PLAIN, {"jitter": 0, "blur": 1.5}, {"jitter": 5, "blur": 0})
    )
    seed = Ascent(model, "conv", 1, AscentSettings(), shape=(20, 20, 3)).seed_image
    from scipy.ndimage import gaussian_filter1d

    smooth = plain - seed
    for axis in (1, 2):
        smooth = gaussian_filter1d(smooth, 1.5, axis=axis, mode="constant", radius=5)
    np.testing.assert_allclose(blurred - seed, 0.025 * unit(smooth), atol=1e-4)
    # The linear filter's gradient is constant but at the edges, which are where the shift has put them.
    shift = Ascent(model, "conv", 1, AscentSettings(steps=1, jitter=5), shape=(20, 20, 3))._shifts[0]
    assert np.abs(shift).max() > 0
    np.testing.assert_allclose(shifted - seed, np.roll(plain - seed, -shift, axis=(1, 2)), atol=1e-5)


def test_dead_filters_are_counted_and_crossed_out():
    conv = layers.Conv2D(4, 3, activation="relu", name="conv")
    model = one_layer(conv)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    kernel[..., 2] = 0
    conv.set_weights([kernel, np.float32([0, -1000, -0.001, 5])])
    found = filter_patterns(model, "conv")
    assert found.dead.tolist() == [False, True, True, False]
    assert "4 filters, 2 dead" in found.caption()
    assert (found.picture() == 60).all(axis=-1).sum() > 1000
    linear = layers.Conv2D(4, 3, name="conv")
    other = one_layer(linear)
    linear.set_weights(conv.get_weights())
    # Without a ReLU a filter below 0 is climbed like any other; one without weights has no gradient.
    assert filter_patterns(other, "conv").dead.tolist() == [False, False, True, False]


def test_a_filter_that_rests_on_the_noise_is_woken():
    conv = layers.Conv2D(1, 3, activation="relu", name="conv")
    model = one_layer(conv)
    kernel = np.zeros((3, 3, 3, 1), np.float32)
    kernel[1, 1] = 1
    conv.set_weights([kernel, np.float32([-2])])  # the sum of three colours is about 1.5 in the noise
    found = filter_patterns(model, "conv")
    assert found.seed_activations[0] == 0
    assert found.activations[0] > 0.5
    assert not found.dead[0]


def test_filters_with_nan_are_dead():
    conv = layers.Conv2D(2, 3, name="conv")
    model = one_layer(conv)
    kernel = conv.kernel.numpy()
    kernel[0, 0, 0, 1] = np.nan
    conv.set_weights([kernel, np.zeros(2)])
    found = filter_patterns(model, "conv")
    # It poisons the gradients of all filters of its layer, but no other filter's activation.
    assert found.dead.all()
    assert np.isfinite(found.images).all()
    assert np.isfinite(found.activations).tolist() == [True, False]


def test_a_filters_pattern_does_not_depend_on_the_others():
    model = functional().model
    together = filter_patterns(model, "conv2", 5, steps=8)
    alone = filter_patterns(model, "conv2", [3, 0], steps=8, batch_size=1)
    np.testing.assert_allclose(alone.images, together.images[[3, 0]], atol=1e-3)
    assert alone.filters.tolist() == [3, 0]
    other = filter_patterns(model, "conv2", 5, steps=8, seed=1)
    assert np.abs(other.images - together.images).max() > 0.01
    again = filter_patterns(model, "conv2", 5, steps=8)
    np.testing.assert_array_equal(again.images, together.images)


def drawn():
    """The next random numbers of all global generators."""
    return random.random(), np.random.random(), float(keras.random.uniform(()))  # noqa: NPY002


@pytest.mark.parametrize("build", [functional, sequential, nested_twice, branched])
def test_any_kind_of_model_is_left_as_it_was(build):
    split = build()
    model = split.model
    model.trainable = False
    weights = model.get_weights()
    set_seeds(7)
    expected = drawn()
    attributes = [sorted(vars(layer)) for layer in model._flatten_layers()]
    set_seeds(7)
    found = filter_patterns(model, split.layer, 3, steps=8)
    activation_grids(model, images(), split.layer)
    assert drawn() == expected
    assert found.layer_name == split.layer
    assert found.images.shape == (3, *SHAPE)
    assert (found.activations >= found.seed_activations).all()
    assert (found.activations[~found.dead] > found.seed_activations[~found.dead]).all()
    assert not found.dead.all()
    assert [sorted(vars(layer)) for layer in model._flatten_layers()] == attributes
    assert not model.trainable
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_mixed_precision():
    half = in_mixed_precision(functional).model
    full = functional_copy(half)
    found, expected = (filter_patterns(model, "conv2", 5, steps=1) for model in (half, full))
    assert found.images.dtype == np.float32
    assert found.dead.tolist() == expected.dead.tolist()
    seed = Ascent(full, "conv2", 1, AscentSettings(), shape=SHAPE).seed_image
    for one, other in zip(found.images - seed, expected.images - seed, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(found.activations, expected.activations, atol=2e-3)
    grids = activation_grids(half, images(), "conv2")["conv2"]
    assert np.abs(grids.tones.astype(int) - activation_grids(full, images(), "conv2")["conv2"].tones).max() <= 4


def test_values_channels_and_sizes():
    conv = layers.Conv2D(2, 3, name="conv")
    grey = one_layer(conv, (10, 9, 1))
    found = filter_patterns(grey, "conv", steps=2, value_range=(-1, 3), size=(10, 9), **PLAIN)
    assert found.images.shape == (2, 10, 9, 1)
    assert found.patterns.shape == (2, 10, 9, 3)
    seed = Ascent(grey, "conv", 1, AscentSettings(value_range=(-1, 3)), shape=(10, 9, 1)).seed_image
    assert 0.6 <= seed.min() < 0.8
    assert 1.2 < seed.max() <= 1.4
    step = (found.images - seed) / 2
    np.testing.assert_allclose(np.sqrt((step**2).mean(axis=(1, 2, 3))), 0.025 * 4, rtol=1e-3)
    free = one_layer(layers.Conv2D(2, 3, name="conv"), (None, None, 3))
    assert filter_patterns(free, "conv", steps=1).images.shape == (2, 128, 128, 3)
    assert filter_patterns(free, "conv", steps=1, size=(20, 30)).images.shape == (2, 20, 30, 3)
    flat = keras.Sequential([keras.Input((12, 12)), layers.Reshape((12, 12, 1)), layers.Conv2D(2, 3, name="conv")])
    assert filter_patterns(flat, "conv", steps=1).images.shape == (2, 12, 12, 1)
    unbuilt = keras.Sequential([layers.Conv2D(2, 3, name="conv")])
    with pytest.raises(ValueError, match="`size` with channels"):
        filter_patterns(unbuilt, "conv", size=(12, 12))
    assert filter_patterns(unbuilt, "conv", steps=1, size=(12, 12, 1)).images.shape == (2, 12, 12, 1)


def test_a_fixed_batch_and_a_head_of_fixed_size():
    inputs = keras.Input(batch_shape=(3, 12, 12, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    found = filter_patterns(model, "conv", steps=2)
    assert found.images.shape == (4, 12, 12, 3)
    conv = model.get_layer("conv")
    by_hand = [ops.convert_to_numpy(conv(found.images))[k, ..., k].mean() for k in range(4)]
    np.testing.assert_allclose(found.activations, by_hand, atol=1e-5)


def test_an_inner_layer_of_an_application():
    base = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, include_top=False, weights=None, name="base")
    model = keras.Sequential([keras.Input((64, 64, 3)), base, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    ascent = Ascent(model, "base/block_2_expand", [0, 5], AscentSettings(steps=6), shape=(64, 64, 3))
    _, reached, start, dead_ones = ascent()
    assert (reached > start).all()
    assert not dead_ones.any()
    ascent()
    assert ascent.traces <= most_traces(1)
    assert ascent.channels == base.get_layer("block_2_expand").output.shape[-1]


def test_an_eager_model():
    model = functional().model
    expected = filter_patterns(model, "conv2", 2, steps=3)
    model.compile(run_eagerly=True)
    np.testing.assert_allclose(filter_patterns(model, "conv2", 2, steps=3).images, expected.images, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"steps": 0}, "`steps`"),
        ({"step_size": 0}, "`step_size`"),
        ({"step_size": float("nan")}, "`step_size`"),
        ({"blur": -1}, "`blur`"),
        ({"jitter": 1.5}, "`jitter`"),
        ({"seed": -1}, "`seed`"),
        ({"value_range": (1, 0)}, "`value_range`"),
        ({"value_range": 255}, "`value_range`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"filters": 0}, "`filters`.*5 filters of layer 'conv2'"),
        ({"filters": [0, 5]}, "`filters`.*Received: \\[0, 5\\]"),
        ({"filters": [1, 1]}, "`filters`"),
        ({"filters": [-1]}, "`filters`"),
        ({"filters": True}, "`filters`"),
        ({"size": (20, 20)}, r"Received: size=\(20, 20\); it takes images \(12, 16, 3\)"),
        ({"size": 20}, "`size` must be"),
        ({"layer": "classes"}, "must put out a feature map"),
        ({"layer": "conv9"}, "Did you mean 'conv"),
    ],
)
def test_impossible_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        filter_patterns(functional().model, **{"layer": "conv2"} | settings)


def test_models_without_patterns():
    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    several = keras.Model([one, two], layers.Conv2D(2, 3, name="conv")(one + two))
    with pytest.raises(ValueError, match=r"one input, of images.*2 inputs"):
        filter_patterns(several, "conv")
    vector = keras.Sequential([keras.Input((7,)), layers.Dense(2, name="dense")])
    with pytest.raises(ValueError, match="takes inputs of shape"):
        filter_patterns(vector, "dense")
    inputs = keras.Input(SHAPE)
    stepped = keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(keras.ops.sign(inputs - 0.5)))
    if keras.backend.backend() == "jax":
        with pytest.raises(ValueError, match="operations that have a gradient"):
            filter_patterns(stepped, "conv", steps=2)
    else:
        assert filter_patterns(stepped, "conv", steps=2).dead.all()  # the gradient of a sign is 0
    whole = keras.Input(SHAPE, dtype="uint8")
    model = keras.Model(whole, layers.Conv2D(2, 3, name="conv")(keras.ops.cast(whole, "float32")))
    with pytest.raises(ValueError, match="operations that have a gradient"):
        filter_patterns(model, "conv", value_range=(0, 255))
    with pytest.raises(TypeError, match="must be a Keras 3 model"):
        filter_patterns(object(), "conv")
