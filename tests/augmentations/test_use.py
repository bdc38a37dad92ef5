"""What users give as augmentations, and what is checked of it."""

import numpy as np
import pytest

import keras_cam_callbacks
from keras_cam_callbacks.augmentations import (
    AUGMENTATIONS,
    Augmentation,
    apply,
    brightness_contrast,
    bring_back,
    compose,
    crop_and_resize,
    cut_out,
    flip,
    resized,
    resolve_augmentations,
    rotation,
    sun_flare,
)

NAN, INF = float("nan"), float("inf")
NAMES = [
    "flip",
    "rotation",
    "brightness_contrast",
    "crop_and_resize",
    "cut_out",
    "sun_flare",
    "noise",
    "scale",
    "shift",
    "all",
]
IMAGES = np.random.default_rng(0).random((2, 6, 8, 3), np.float32)


def darker(images):
    return images / 2


def shaded(images):
    images *= 0.5
    return images


def no_map(heatmaps):
    raise RuntimeError("no map")


def test_built_in_names():
    assert list(AUGMENTATIONS) == NAMES
    assert keras_cam_callbacks.AUGMENTATIONS is AUGMENTATIONS
    assert keras_cam_callbacks.Augmentation is Augmentation
    moving = [name for name, augmentation in AUGMENTATIONS.items() if augmentation.inverse]
    assert moving == ["flip", "rotation", "crop_and_resize", "cut_out", "shift", "all"]


def test_resolve_takes_names_functions_and_augmentations():
    assert resolve_augmentations(None) == {}
    assert list(resolve_augmentations(NAMES)) == NAMES
    assert list(resolve_augmentations(("cut_out", "flip"))) == ["cut_out", "flip"]
    own = rotation(30)
    resolved = resolve_augmentations({"dark": darker, "mirrored": "flip", "turned": own})
    assert list(resolved) == ["dark", "mirrored", "turned"]
    assert resolved["dark"] == Augmentation(darker)
    assert resolved["turned"] is own
    np.testing.assert_array_equal(apply(resolved["mirrored"], IMAGES), IMAGES[:, :, ::-1])
    np.testing.assert_array_equal(apply(resolved["dark"], IMAGES), IMAGES / 2)


def test_a_value_range_is_for_what_is_given_by_name():
    white = np.full((1, 4, 4, 1), 0.5, np.float32)
    resolved = resolve_augmentations({"a": "brightness_contrast", "b": brightness_contrast()}, (0, 1))
    np.testing.assert_allclose(apply(resolved["a"], white), 0.65)
    np.testing.assert_allclose(apply(resolved["b"], white), 0.5)
    # The flare goes 0.9 of the way from there to white; and the boxes are black.
    found = apply(resolve_augmentations(["all"], (0, 1))["all"], np.full((1, 50, 50, 1), 0.5, np.float32))
    np.testing.assert_allclose([found.min(), found.max()], [0, 0.65 + 0.9 * 0.35], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (
            "flip",
            TypeError,
            r"None, a list of names, or a mapping.*Received: 'flip' of type str.*\['flip', 'cut_out'\]",
        ),
        (True, TypeError, "Received: True of type bool"),
        (flip(), TypeError, "of type Augmentation"),
        ([], ValueError, r"must not be empty\. Received: \[\]"),
        ({}, ValueError, "must not be empty"),
        (["flips"], ValueError, "Received: 'flips'. Did you mean 'flip'"),
        (["Cutout"], ValueError, "Did you mean 'cut_out'"),
        (["zzz"], ValueError, r"one of flip, rotation, .*, all\. Received: 'zzz'\.$"),
        ([flip()], TypeError, "A list of `augmentations` must hold names.*A mapping gives others a name"),
        (["flip", 3], TypeError, "Received: 3 of type int"),
        (["flip", "flip"], ValueError, "name each one once"),
        ({"mine": "flop"}, ValueError, "Received: 'flop'. Did you mean 'flip'"),
        ({"mine": 3}, TypeError, "Augmentation 'mine' must be an Augmentation.*Received: 3 of type int"),
        ({"mine": None}, TypeError, "Received: None of type NoneType"),
        ({"mine": dict}, TypeError, "Received: <class 'dict'> of type type"),
        ({"mine": rotation}, TypeError, r"'mine' must be what rotation\(\) returns. Received: rotation itself"),
        ({3: "flip"}, TypeError, "must be text. Received: 3 of type int"),
        ({"": "flip"}, ValueError, "must not be empty or contain '/'.*Received: ''"),
        ({" ": "flip"}, ValueError, "Received: ' '"),
        ({"a/b": "flip"}, ValueError, "Received: 'a/b'"),
    ],
)
def test_resolve_refuses(given, error, says):
    with pytest.raises(error, match=says):
        resolve_augmentations(given)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: flip(False), "`horizontal` or `vertical` must be True"),
        (lambda: flip(1), "horizontal=1. horizontal=True works"),
        (lambda: rotation("15"), "`degrees` must be a finite number. Received: degrees='15'"),
        (lambda: rotation(INF), "degrees=inf"),
        (lambda: crop_and_resize(0), r"`share` must be a number in \(0, 1\]. Received: share=0"),
        (lambda: crop_and_resize(1.1), "share=1.1"),
        (lambda: crop_and_resize(0.5, 0.5), "`position` must be two numbers.*Received: position=0.5"),
        (lambda: crop_and_resize(0.5, (0, 2)), r"position=\(0, 2\)"),
        (lambda: brightness_contrast(2), "brightness=2"),
        (lambda: brightness_contrast(0, -1), "contrast=-1"),
        (lambda: brightness_contrast(True), "brightness=True"),
        (lambda: cut_out(0), "boxes=0. boxes=6 works"),
        (lambda: cut_out(2.0), "boxes=2.0"),
        (lambda: cut_out(size=1), "size=1"),
        (lambda: cut_out(seed=-1), "seed=-1"),
        (lambda: cut_out(fill=NAN), "fill=nan"),
        (lambda: sun_flare((0.1,)), r"position=\(0.1,\)"),
        (lambda: sun_flare(radius=0), "radius=0"),
        (lambda: sun_flare(strength=1.5), "strength=1.5"),
        (lambda: sun_flare(value_range=255), r"`value_range` must be None or \(black, white\)"),
        (lambda: cut_out(value_range=(1, 0)), r"value_range=\(1, 0\)"),
        (lambda: cut_out(value_range=(0, "1")), "value_range="),
        (lambda: cut_out(value_range=(0, (1, 2), 3)), "value_range="),
        (lambda: cut_out(value_range=((0, 0), (1, 2, 3))), "value_range="),
        (lambda: cut_out(value_range=(0, (1, (2, 3)))), "value_range="),
        (lambda: cut_out(value_range=((), ())), "value_range="),
        (lambda: cut_out(value_range=((0, 1), (1, 1))), "value_range="),
        (lambda: resolve_augmentations(["flip"], (0, INF)), "value_range="),
        (lambda: compose(), "at least one augmentation"),
    ],
)
def test_impossible_options(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_augmentations_are_functions():
    for wrong in (3, "flip", None, dict):
        with pytest.raises(TypeError, match="`function` must be a function of images"):
            Augmentation(wrong)
    for wrong in (3, "flip", dict, False):
        with pytest.raises(TypeError, match="`inverse` must be None or a function of heatmaps"):
            Augmentation(darker, wrong)
    with pytest.raises(TypeError, match="`function` must be"):
        compose(flip(), "flip")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (shaded, "must leave its input as it is.*shaded.*which changed it"),
        (lambda images: images[:, 1:], r"numbers of shape \(2, 6, 8, 3\).*Received: float32 of shape \(2, 5, 8, 3\)"),
        (lambda images: images[0], r"of shape \(6, 8, 3\)"),
        (lambda images: None, "Received: object of shape"),
        (lambda images: images.astype(str), "Received: <U"),
        (
            lambda images: np.where(images > 0.5, NAN, images),
            "must return finite numbers. Received: values.*not finite",
        ),
        (lambda images: images + np.float64(1e300), "no finite value, and 288 not finite, from images with values"),
        (no_map, "must take an array of shape.*raised RuntimeError: no map"),
    ],
)
def test_what_a_function_returns_is_checked(function, says):
    before = IMAGES.copy()
    with pytest.raises(ValueError, match=f"(?s)The function of augmentation 'mine'.*{says}"):
        apply(Augmentation(function), IMAGES, name="mine")
    with pytest.raises(ValueError, match=f"(?s)of augmentation 'both'.*of augmentation '{function.__name__}'.*{says}"):
        apply(compose(flip(), function), IMAGES, name="both")
    np.testing.assert_array_equal(IMAGES, before)


@pytest.mark.parametrize(
    ("inverse", "says"),
    [
        (shaded, "must leave its input as it is"),
        (lambda heatmaps: heatmaps[:, ::2], r"numbers of shape \(2, 6, 8\).*Received: float32 of shape \(2, 3, 8\)"),
        (lambda heatmaps: heatmaps / np.float32(1e-39) * 1e30, "must return finite numbers, and NaN"),
        (no_map, "raised RuntimeError: no map"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_what_an_inverse_returns_is_checked(inverse, says):
    heatmaps = np.ones((2, 3, 4), np.float32)
    with pytest.raises(ValueError, match=f"(?s)The inverse of augmentation 'mine'.*{says}"):
        bring_back(Augmentation(darker, inverse), heatmaps, (6, 8), name="mine")
    with pytest.raises(ValueError, match=f"(?s)of augmentation 'both'.*The inverse of augmentation 'darker'.*{says}"):
        bring_back(compose(Augmentation(darker, inverse), flip()), heatmaps, (6, 8), name="both")


def test_results_of_users_functions_become_new_float32_arrays():
    same = apply(Augmentation(lambda images: images), IMAGES)
    assert not np.shares_memory(same, IMAGES)
    np.testing.assert_array_equal(same, IMAGES)
    assert apply(Augmentation(lambda images: images > 0.5), IMAGES).dtype == np.float32
    kept = np.zeros(IMAGES.shape, np.float32)
    assert not np.shares_memory(apply(Augmentation(lambda images: kept), IMAGES), kept)
    heatmaps = np.ones((1, 6, 8), np.float32)
    hidden = bring_back(Augmentation(darker, lambda maps: np.where(maps > 0, NAN, maps)), heatmaps, (6, 8))
    assert hidden.dtype == np.float32
    assert np.isnan(hidden).all()
    assert not np.shares_memory(bring_back(Augmentation(darker), heatmaps, (6, 8)), heatmaps)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (IMAGES[0], r"shape \(N, H, W, C\). Received: shape \(6, 8, 3\), values from .* for augmentation 'mine'"),
        (IMAGES[:, :0], r"Received: shape \(2, 0, 8, 3\) for"),
        (np.where(IMAGES.min() == IMAGES, NAN, IMAGES), "values from .*, and 1 not finite for"),
    ],
)
def test_images_are_checked(images, says):
    with pytest.raises(ValueError, match=says):
        apply(Augmentation(darker, axes=(2,)), images, name="mine")


def test_a_value_range_must_fit_the_channels():
    known = sun_flare(value_range=(0, np.ones(3)))
    np.testing.assert_array_equal(apply(known, IMAGES), apply(sun_flare(value_range=((0, 0, 0), 1)), IMAGES))
    with pytest.raises(ValueError, match=r"'bright'.*one for each of the 2 channels. Received: .*\[1.0, 1.0, 1.0\]"):
        apply(known, IMAGES[..., :2], name="bright")


def test_resizing_heatmaps_by_hand():
    np.testing.assert_allclose(resized([[[0, 1]]], (1, 4)), [[[0, 0.25, 0.75, 1]]])
    np.testing.assert_allclose(resized([[[0], [1]], [[4], [-4]]], (4, 1))[..., 0], [[0, 0.25, 0.75, 1], [4, 2, -2, -4]])
    np.testing.assert_allclose(resized(np.arange(16.0).reshape(1, 4, 4), (2, 2)), [[[2.5, 4.5], [10.5, 12.5]]])
    heatmaps = IMAGES[..., 0]
    np.testing.assert_array_equal(resized(heatmaps, (6, 8)), heatmaps)
    means = heatmaps.reshape(2, 2, 3, 2, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(resized(heatmaps, (2, 2)), means, rtol=1e-6)
    assert resized(np.empty((0, 2, 2), np.float32), (6, 8)).shape == (0, 6, 8)


@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_a_map_that_is_not_finite_comes_back_as_nothing(broken):
    heatmaps = np.ones((2, 3, 4), np.float32)
    heatmaps[0, 1, 1] = broken
    for name in NAMES:
        back = bring_back(AUGMENTATIONS[name], heatmaps, (12, 16), name=name)
        assert np.isnan(back[0]).all()
        assert np.nanmin(back[1]) == pytest.approx(1, abs=1e-3)


def test_heatmaps_and_their_size_are_checked():
    with pytest.raises(ValueError, match=r"\(N, h, w\).*Received: shape \(3, 4\)"):
        bring_back(flip(), np.ones((3, 4)), (6, 8))
    with pytest.raises(ValueError, match=r"Received: shape \(1, 0, 4\)"):
        bring_back(flip(), np.ones((1, 0, 4)), (6, 8))
    for size in (6, (6,), (6, 8, 3), (0, 8), (6.0, 8)):
        with pytest.raises(ValueError, match=r"`size` must be \(height, width\) in px"):
            bring_back(flip(), np.ones((1, 3, 4)), size)
