"""Augmentations of signals, volumes and clips, and their way back: by hand, or slice by slice."""

import numpy as np
import pytest

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
    noise,
    resized,
    resolve_augmentations,
    rotation,
    scale,
    shift,
    sun_flare,
)

RNG = np.random.default_rng(0)
SIGNALS = RNG.normal(size=(2, 40, 3)).astype(np.float32)
VOLUMES = RNG.random((2, 4, 12, 10, 3), np.float32)
MAPS = RNG.normal(size=(2, 4, 12, 10)).astype(np.float32)
OF_SIGNALS = ["flip", "cut_out", "noise", "scale", "shift"]


@pytest.mark.parametrize(
    "augmentation",
    [flip(True, True), rotation(20), crop_and_resize(0.7, (0, 1)), shift(0.2, -0.3),
     cut_out(3, 0.3, value_range=(0, 1)), sun_flare(value_range=(0, 1))],
    ids=["flip", "rotation", "crop", "shift", "cut_out", "flare"],
)  # fmt: skip
def test_each_slice_is_changed_as_an_image_is(augmentation):
    changed = apply(augmentation, VOLUMES)
    back = bring_back(augmentation, MAPS, MAPS.shape[1:])
    for at in range(4):
        np.testing.assert_array_equal(changed[:, at], apply(augmentation, VOLUMES[:, at]))
        np.testing.assert_array_equal(back[:, at], bring_back(augmentation, MAPS[:, at], MAPS.shape[2:]))
    assert not np.array_equal(changed, VOLUMES)


def test_tones_go_by_the_whole_volume():
    # A dark slice stays darker than a bright one: the mean and the range are not its own.
    volume = VOLUMES.copy()
    volume[:, 0] /= 4
    flat = volume.reshape(2, 48, 10, 3)  # The slices below each other.
    for augmentation in (brightness_contrast(), sun_flare(radius=1e-9), scale(2)):
        expected = apply(augmentation, flat).reshape(volume.shape)
        if augmentation.function.func.__name__ != "_lit":
            np.testing.assert_allclose(apply(augmentation, volume), expected, rtol=1e-6)
    changed = apply(scale(2), volume)
    means = volume.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(changed, 2 * volume - means, atol=1e-5)


def test_a_signal_by_hand():
    np.testing.assert_array_equal(apply(flip(), SIGNALS), SIGNALS[:, ::-1])
    maps = SIGNALS[..., 0]
    np.testing.assert_array_equal(bring_back(flip(), maps, (40,)), maps[:, ::-1])
    later = apply(shift(0.1), SIGNALS)
    np.testing.assert_array_equal(later[:, 4:], SIGNALS[:, :-4])
    np.testing.assert_array_equal(later[:, :4], SIGNALS[:, 4:0:-1])
    back = bring_back(shift(0.1), maps, (40,))
    np.testing.assert_array_equal(back[:, :-4], maps[:, 4:])
    assert np.isnan(back[:, -4:]).all()
    np.testing.assert_array_equal(apply(shift(-0.001), SIGNALS)[:, :-1], SIGNALS[:, 1:])
    means = SIGNALS.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(apply(scale(1.5), SIGNALS), means + 1.5 * (SIGNALS - means), rtol=1e-5, atol=1e-6)


def test_a_volume_can_be_gone_through_backwards():
    np.testing.assert_array_equal(apply(flip(False, slices=True), VOLUMES), VOLUMES[:, ::-1])
    np.testing.assert_array_equal(bring_back(flip(False, slices=True), MAPS, MAPS.shape[1:]), MAPS[:, ::-1])
    moved = shift(0, slices=-0.25)
    np.testing.assert_array_equal(apply(moved, VOLUMES)[:, :3], VOLUMES[:, 1:])
    back = bring_back(moved, MAPS, MAPS.shape[1:])
    np.testing.assert_array_equal(back[:, 1:], MAPS[:, :3])
    assert np.isnan(back[:, 0]).all()


def test_stretches_of_a_signal_become_its_mean():
    long = RNG.normal(size=(2, 1000, 2)).astype(np.float32)
    changed = apply(cut_out(), long)
    removed = (changed != long).all(axis=(0, 2))
    assert 0.08 < removed.mean() <= 6 * 0.15**2 + 0.003
    np.testing.assert_allclose(changed[:, removed], np.broadcast_to(long.mean(axis=1, keepdims=True),
                                                                    (2, 1000, 2))[:, removed], atol=1e-6)  # fmt: skip
    np.testing.assert_array_equal(np.isnan(bring_back(cut_out(), long[..., 0], (1000,))), [removed, removed])


@pytest.mark.parametrize("shape", [(5000, 2), (50, 60, 2), (10, 20, 30, 2)], ids=["signal", "image", "volume"])
def test_noise_is_as_strong_as_it_says(shape):
    arrays = RNG.normal(size=(2, *shape)).astype(np.float32) * np.float32([1, 10])
    added = apply(noise(0.3), arrays) - arrays
    axes = tuple(range(1, len(shape)))
    np.testing.assert_allclose(added.std(axis=axes), 0.3 * arrays.std(axis=axes), rtol=0.05)
    assert np.abs(np.corrcoef(added[0, ..., 0].ravel(), arrays[0, ..., 0].ravel())[0, 1]) < 0.05
    np.testing.assert_allclose(np.corrcoef(added[0, ..., 0].ravel(), added[1, ..., 1].ravel())[0, 1], 1, atol=1e-3)
    assert not np.array_equal(apply(noise(0.3, seed=1), arrays), arrays + added)


def test_what_has_no_meaning_is_refused():
    assert list(resolve_augmentations(OF_SIGNALS, axes=1)) == OF_SIGNALS
    assert list(resolve_augmentations(list(AUGMENTATIONS), axes=3)) == list(AUGMENTATIONS)
    for name in set(AUGMENTATIONS) - set(OF_SIGNALS):
        with pytest.raises(ValueError, match=rf"meaning for signals. Received: '{name}', which is for images, volumes "
                           r"and clips. flip, cut_out, noise, scale, shift work"):  # fmt: skip
            resolve_augmentations([name], axes=1)
    with pytest.raises(ValueError, match=r"meaning for images\. Received: 'backwards', which is for volumes and clips"):
        resolve_augmentations({"backwards": flip(slices=True)}, axes=2)
    with pytest.raises(ValueError, match=r"shape \(N, H, W, C\) or \(N, D, H, W, C\)\. Received: shape \(2, 40, 3\)"):
        apply(rotation(), SIGNALS)
    with pytest.raises(ValueError, match="the same kind of input"):
        compose(flip(slices=True), Augmentation(lambda images: images, axes=(1, 2)))
    assert compose(flip(), rotation(), lambda images: images).axes == (2, 3)
    for axes in ((), (0,), [1], (4,)):
        with pytest.raises(ValueError, match="some of 1, 2 and 3"):
            Augmentation(np.negative, axes=axes)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: noise(0), "positive finite"),
        (lambda: noise(seed=-1), "`seed`"),
        (lambda: scale(1), "and not 1"),
        (lambda: scale(-1), "at least 0"),
        (lambda: shift(0), "must not be 0"),
        (lambda: shift(1), r"in \(-1, 1\)"),
        (lambda: shift(0, slices="a"), "`slices`"),
        (lambda: flip(slices=1), "`slices`"),
    ],
)
def test_impossible_options(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(("cells", "size"), [((10,), (40,)), ((2, 3, 5), (4, 12, 10))], ids=["signal", "volume"])
def test_maps_are_brought_to_the_size_of_the_input(cells, size):
    maps = RNG.random((2, *cells), np.float32)
    maps[1, 0] = np.inf
    found = resized(maps, size)
    assert found.shape == (2, *size)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(resized(found[:1], cells)[0].mean(), maps[0].mean(), rtol=1e-2)
    with pytest.raises(ValueError, match=r"one for each axis|shape \(N, h, w\)"):
        resized(maps, (*size, 3))
