"""Where a layer's map lies on the image, against where the layer's own cells look."""

import warnings

import keras
import numpy as np
import pytest
from backends import tf
from keras import layers

from keras_cam_callbacks import explain
from keras_cam_callbacks.space import laid

SHAPE = (48, 96, 1)


class Cut(keras.Model):
    """Cuts the image by a function of its own, in plain code that no layer shows."""

    def __init__(self, cut):
        super().__init__(name="cut")
        self.cut = cut
        self.conv = ones()
        self.dense = layers.Dense(1, kernel_initializer="ones")

    def call(self, x):
        return self.dense(keras.ops.mean(self.conv(self.cut(x)), (1, 2)))


def ones(**settings):
    return layers.Conv2D(
        2, 3, padding="same", activation="relu", use_bias=False, kernel_initializer="ones", name="conv", **settings
    )


def behind(*stack):
    inputs = x = keras.Input(SHAPE)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(1, kernel_initializer="ones")(layers.GlobalAveragePooling2D()(ones()(x))))


def explained(model, box, **settings):
    """Explains an image that is black but for a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    image = np.zeros((1, *SHAPE), np.float32)
    image[:, top:bottom, left:right] = 1
    return explain(model, image, regions=[box], **settings)


KNOWN = {
    "Cropping2D": lambda: behind(layers.Cropping2D(((20, 4), (10, 0)))),
    "Cropping2D behind Rescaling": lambda: behind(layers.Rescaling(2.0), layers.Cropping2D(((20, 4), (10, 0)))),
    "CenterCrop": lambda: behind(layers.CenterCrop(24, 48)),
    "nested": lambda: behind(keras.Sequential([layers.CenterCrop(40, 40), layers.Resizing(20, 20)])),
    "Resizing that crops": lambda: behind(layers.Resizing(24, 24, crop_to_aspect_ratio=True)),
    "Resizing that pads": lambda: behind(layers.Resizing(48, 48, pad_to_aspect_ratio=True)),
    "ZeroPadding2D": lambda: behind(layers.ZeroPadding2D(((0, 16), (24, 0)))),
    "slice of a graph": lambda: behind(lambda x: x[:, 20:, :80]),
    "slice in a call": lambda: Cut(lambda x: x[:, 20:, 30:]),
    "Lambda": lambda: behind(layers.Lambda(lambda x: x[:, 6:42, 12:84])),
    "Lambda of TensorFlow": lambda: behind(layers.Lambda(lambda x: tf.image.central_crop(x, 0.75))),
    "an op of Keras": lambda: behind(lambda x: keras.ops.image.crop_images(x, top_cropping=16, left_cropping=32,
                                                                           target_height=32, target_width=64)),
}  # fmt: skip


def of_its_backend(name):
    """A row of the table; what calls a framework by itself is of that one alone."""
    own = [pytest.mark.only_on("tensorflow", reason="is its own function")] if name == "Lambda of TensorFlow" else []
    return pytest.param(KNOWN[name], marks=own)


@pytest.mark.parametrize("build", [of_its_backend(name) for name in KNOWN], ids=KNOWN)
def test_heat_is_where_the_object_is(build):
    found = explained(build(), (44, 24, 52, 32))
    measured = found.metrics()
    assert measured["pointing"][0] == 1
    assert measured["energy_in_region"][0] > 0.5
    heat = found.heatmaps[0]
    centre = [(np.indices(heat.shape)[k] * heat).sum() / heat.sum() + 0.5 for k in (0, 1)]
    places = [at / cells * whole for at, cells, whole in zip(centre, heat.shape, SHAPE, strict=False)]
    np.testing.assert_allclose(places, (28, 48), atol=1)


def test_no_heat_on_what_the_layer_does_not_see():
    found = explained(behind(layers.Cropping2D(((20, 4), (10, 0)))), (44, 24, 52, 32))
    assert found.heatmaps.shape == (1, 48, 96)  # The map's own cells, on a grid over the whole image.
    assert not found.heatmaps[0, :20].any()
    assert not found.heatmaps[0, :, :10].any()
    bare = np.asarray(found.batch.display[0])
    np.testing.assert_array_equal(bare[:20], 0)


def test_cells_of_a_map_stay_as_they_are():
    model = behind(layers.CenterCrop(24, 48))
    image = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    apart = keras.Model(model.get_layer("conv").input, model.output)
    inner = explain(apart, image[:, 12:36, 24:72], "conv").heatmaps
    np.testing.assert_allclose(explain(model, image).heatmaps[:, 12:36, 24:72], inner, rtol=1e-5)


def between(x):
    """A convolution, behind which something else happens before the explained one."""
    return layers.Conv2D(1, 3, padding="same", use_bias=False, kernel_initializer="ones", name="first")(x)


UNKNOWN_BEHIND = {
    "cropped": lambda: behind(between, layers.Cropping2D(((20, 4), (10, 0)))),
    "cut in the middle": lambda: behind(between, layers.CenterCrop(24, 48)),
    "sliced": lambda: behind(between, lambda x: x[:, :32, 24:]),
    "flipped": lambda: behind(between, lambda x: keras.ops.flip(x, 2)),
    "gathered": lambda: behind(between, lambda x: keras.ops.take(x, np.arange(47, -1, -1), axis=1)),
    "turned": lambda: behind(between, layers.Permute((2, 1, 3))),
    "side by side": lambda: behind(lambda x: layers.Concatenate(axis=2)([x, x])),
    "below one another": lambda: behind(between, lambda x: layers.Concatenate(axis=1)([x, x])),
}


@pytest.mark.parametrize("build", UNKNOWN_BEHIND.values(), ids=UNKNOWN_BEHIND)
def test_what_moves_a_map_is_seen_behind_the_first_convolution_too(build):
    with pytest.warns(RuntimeWarning, match="Where the map of layer 'conv' lies on the image isn't known"):
        measured = explained(build(), (44, 24, 52, 32)).metrics()
    assert np.isnan([measured[name][0] for name in ("energy_in_region", "pointing", "region_iou")]).all()


@pytest.mark.parametrize("method", ["cam", ["cam", "gradcam"]], ids=["cam", "both"])
def test_the_head_of_cam_is_no_exception(method):
    with pytest.warns(RuntimeWarning, match="Where the map of layer 'conv' lies on the image isn't known"):
        found = explained(behind(between, layers.Cropping2D(((20, 4), (10, 0)))), (44, 24, 52, 32), method=method)
    every = [found] if method == "cam" else found.values()
    assert all(np.isnan(one.metrics()["pointing"][0]) for one in every)


def test_images_side_by_side_are_no_one_image():
    """A siamese network that joins its two images: each has the heat of its own half."""
    one, other = keras.Input(SHAPE, name="one"), keras.Input(SHAPE, name="other")
    x = ones()(layers.Concatenate(axis=2)([one, other]))
    model = keras.Model([one, other], layers.Dense(1, kernel_initializer="ones")(layers.GlobalAveragePooling2D()(x)))
    image = np.zeros((1, *SHAPE), np.float32)
    image[:, 24:32, 44:52] = 1
    settings = {"regions": [(44, 24, 52, 32)], "output_kind": "numbers"}
    found = explain(model, [image * 0, image], input="other", **settings)
    assert found.heatmaps.shape == (1, 48, 96)
    assert found.metrics()["pointing"][0] == 1
    assert not explain(model, [image * 0, image], input="one", **settings).heatmaps.any()


UNKNOWN = {
    "flipped": lambda x: keras.ops.flip(x, 2),
    "turned": lambda x: keras.ops.transpose(x, (0, 2, 1, 3)),
    "rounded": lambda x: keras.ops.cast(keras.ops.cast(x[:, 8:], "int32"), "float32"),
    "cut twice": lambda x: keras.ops.concatenate([x[:, :24], x[:, 24:]], axis=-1),
}


@pytest.mark.parametrize("cut", UNKNOWN.values(), ids=UNKNOWN)
def test_numbers_of_a_place_that_is_not_known_are_nan(cut):
    with pytest.warns(RuntimeWarning, match="Where the map of layer 'conv' lies on the image isn't known"):
        found = explained(Cut(cut), (44, 24, 52, 32))
    measured = found.metrics()
    assert np.isnan([measured[name][0] for name in ("energy_in_region", "pointing", "region_iou")]).all()
    assert found.heatmaps.shape[0] == 1


ORDINARY = {
    "none": lambda x: x,
    "channels turned": lambda x: keras.ops.flip(keras.ops.concatenate([x, x], axis=-1), -1),
    "standardized": lambda x: (x - keras.ops.mean(x, (1, 2, 3), keepdims=True)) / keras.ops.std(x),
    "standardized by TensorFlow": tf.image.per_image_standardization,
    "resized": lambda x: keras.ops.image.resize(x, (24, 24)),
    "groups": layers.GroupNormalization(1),
    "a mirrored border": lambda x: keras.ops.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]], "reflect"),
    "gated": lambda x: x * keras.ops.reshape(keras.ops.mean(x, (1, 2)), (-1, 1, 1, 1)),
    "a convolution's border": lambda x: keras.ops.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]]),
}


@pytest.mark.parametrize("cut", ORDINARY.values(), ids=ORDINARY)
def test_maps_of_the_whole_image_stay_at_the_layers_size(cut):
    image = np.random.default_rng(0).random((1, *SHAPE), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(Cut(cut), image)
    assert found.placed
    assert found.heatmaps.shape[1:] in ((48, 96), (24, 24), (54, 102))


def test_masks_of_scorecam_lie_where_the_layer_looks():
    found = explained(behind(layers.Cropping2D(((20, 4), (10, 0)))), (44, 24, 52, 32), method="scorecam")
    assert found.metrics()["pointing"][0] == 1


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (((0.5, 1.0),), [0, 0, 1, 2]),
        (((-1.0, 1.0),), [2]),
        (((0.25, 0.75),), [0, 1, 2, 0]),
        (((0.1, 0.6),), [0, 1.0, 1.0, 1.0, 1.8, 2.0, 0, 0, 0, 0]),
    ],
)
def test_laid(box, expected):
    maps = np.array([[1, 2]], np.float32)
    if len(expected) < 10:
        np.testing.assert_allclose(laid(maps, box, (10,))[0], expected)
    else:
        rows = laid(maps, box, (10,))[0]
        assert rows.shape == (10,)
        assert (rows[1:6] > 0).all()
        assert not rows[[0, 6, 7, 8, 9]].any()


def test_a_map_that_is_the_same_everywhere_stays_so():
    np.testing.assert_array_equal(laid(np.full((1, 2), 3, np.float32), ((0.5, 1.0),), (8,)), np.full((1, 4), 3))
