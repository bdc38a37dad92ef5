"""Signals and volumes: every metric of any number of axes, by hand or as that of an image."""

import numpy as np
import pytest

from keras_cam_callbacks import metrics
from keras_cam_callbacks.metrics import METRICS, measured

RNG = np.random.default_rng(0)
MAPS, OTHERS = RNG.normal(size=(2, 4, 4, 4)).astype(np.float32)
MASKS = np.zeros((4, 8, 8), bool)
MASKS[:, 2:5, 1:6] = True
DEPTH = 4


def deep(array, depth=DEPTH):
    return np.repeat(array[:, None], depth, axis=1)


@pytest.mark.parametrize("shape", [(16,), (2, 2, 4), (2, 2, 2, 2)], ids=len)
@pytest.mark.parametrize("name", ["degenerate", "area", "entropy", "drift", "correlation", "spearman", "top_iou"])
def test_numbers_that_do_not_ask_where_take_positions_in_any_arrangement(name, shape):
    metric = getattr(metrics, name)
    maps = MAPS.copy()
    maps[1] = -1
    pair = (maps,) if name in ("degenerate", "area", "entropy") else (maps, OTHERS)
    reshaped = metric(*(each.reshape(4, *shape) for each in pair))
    np.testing.assert_allclose(reshaped, metric(*pair), rtol=1e-6)


def test_where_the_heat_of_a_signal_is_by_hand():
    signals = np.array([[0, 0, 0, 2], [1, 0, 0, 1], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(metrics.centre(signals), [[7 / 8], [1 / 2], [np.nan]])
    np.testing.assert_array_equal(metrics.blobs(signals), [1, 2, np.nan])
    found = measured(signals, ["centre_x", "centre_y"])
    np.testing.assert_allclose(found["centre_x"], [7 / 8, 1 / 2, np.nan])
    assert np.isnan(found["centre_y"]).all()


def test_how_far_the_heat_of_a_signal_moves_by_hand():
    # From the first to the last of eight positions: 7 of a diagonal that is 8 long.
    one, other = np.zeros((2, 1, 8), np.float32)
    one[0, 0], other[0, 7] = 1, 3
    np.testing.assert_allclose(metrics.moved(one, other), [7 / 8], rtol=1e-6)
    np.testing.assert_allclose(metrics.centre_shift(one, other), [7 / 8], rtol=1e-6)
    # A long one is averaged to 64 cells, which changes neither.
    longer = [np.repeat(each, 32, axis=1) for each in (one, other)]
    np.testing.assert_allclose(metrics.moved(*longer), [7 / 8], rtol=1e-6)


def test_the_centre_of_a_volume_by_hand():
    volume = np.zeros((1, 2, 3, 4), np.float32)
    volume[0, 1, 0, 3] = 5
    np.testing.assert_allclose(metrics.centre(volume), [[7 / 8, 1 / 6, 3 / 4]])  # across, down, deep
    other = np.zeros_like(volume)
    other[0, 0, 2, 3] = 1
    far = np.sqrt(1 + 4) / np.sqrt(4 + 9 + 16)
    np.testing.assert_allclose(metrics.centre_shift(volume, other), [far], rtol=1e-6)
    np.testing.assert_allclose(metrics.moved(volume, other), [far], rtol=1e-6)


@pytest.mark.parametrize("size", [(12,), (12, 9, 10)], ids=["signal", "volume"])
def test_large_maps_are_averaged(size):
    maps = RNG.random((2, *size), np.float32)
    found = metrics.pooled(maps, 6)
    assert found.shape == (2, *(-(-side // 2) for side in size))
    np.testing.assert_allclose(found.mean(axis=tuple(range(1, found.ndim))) * maps.reshape(2, -1).max(1),
                               maps.reshape(2, -1).mean(1), rtol=1e-4)  # fmt: skip


def test_a_volume_that_is_the_same_at_each_depth_has_the_numbers_of_its_slice():
    names = [name for group in METRICS.values() for name in group]
    of_plane = measured(MAPS, names, last=OTHERS, first=OTHERS[::-1], masks=MASKS)
    of_volume = measured(deep(MAPS), names, last=deep(OTHERS), first=deep(OTHERS)[::-1], masks=deep(MASKS))
    assert list(of_plane) == list(of_volume)
    # Ways are as long, and the diagonal is longer.
    for lead in ("", "first_"):
        for name in ("moved", "centre_shift"):
            of_volume[lead + name] *= np.sqrt(3 * DEPTH**2) / np.sqrt(2 * DEPTH**2)
    # Of the entropy's largest value, log(h w), a depth takes its share.
    of_volume["entropy"] = (of_volume["entropy"] * np.log(64) - np.log(DEPTH)) / np.log(16)
    for name in of_plane:
        if name.endswith("top_iou"):  # Its share is a number of whole pixels: 4 of 16, 13 of 64.
            continue
        np.testing.assert_allclose(of_volume[name], of_plane[name], rtol=1e-4, atol=1e-6, err_msg=name)
    hits = metrics.pointing(MAPS, MASKS, tolerance=2)
    np.testing.assert_array_equal(metrics.pointing(deep(MAPS), deep(MASKS), tolerance=2), hits)


def test_regions_of_a_signal_by_hand():
    signals = np.array([[0, 1, 3, 0]], np.float32)
    mask = np.array([[0, 0, 1, 1]], bool)
    masks = np.stack([mask[0], ~mask[0]])
    both = np.repeat(signals, 2, axis=0)
    np.testing.assert_allclose(metrics.energy_in_region(both, masks), [0.75, 0.25])
    np.testing.assert_allclose(metrics.energy_ratio(both, masks), [1.5, 0.5])
    np.testing.assert_array_equal(metrics.pointing(both, masks), [1, 0])
    np.testing.assert_array_equal(metrics.pointing(both, masks, tolerance=1), [1, 1])
    np.testing.assert_array_equal(metrics.region_iou(both, masks), [0.5, 0])
    with pytest.raises(ValueError, match="the axes that the heatmaps have"):
        metrics.energy_in_region(both, MASKS[:2])


def model(weights):
    def confidence(copies, total):
        return (float((image[..., 0] * weights).mean()) for image, _ in copies)

    return confidence


def test_faithfulness_of_a_volume_is_that_of_its_slice():
    images, weights = RNG.random((4, 8, 8, 1), np.float32), RNG.random((8, 8))
    original = (images[..., 0] * weights).mean(axis=(1, 2))
    volumes = deep(images, 8)  # The blur goes by the shortest side.
    maps = RNG.random((4, 8, 8), np.float32)  # No two pixels are as hot, whose order would go by their places.
    for metric, settings in (
        (metrics.insertion, {"steps": 8}),
        (metrics.deletion, {"steps": 8}),
        (metrics.masked_confidence, {}),
    ):
        expected = metric(images, maps, model(weights), original, **settings)
        found = metric(volumes, deep(maps, 8), model(weights), original, **settings)
        np.testing.assert_allclose(found, expected, rtol=1e-3, err_msg=metric.__name__)


def test_deletion_and_insertion_of_a_signal_by_hand():
    # The only position that counts goes first, of an image of mean 0: 1, then 0.
    signal = np.zeros((1, 16, 1), np.float32)
    signal[0, 3], signal[0, 9] = 16, -16
    heat = np.zeros((1, 16), np.float32)
    heat[0, 3] = 1
    weights = np.zeros(16)
    weights[3] = 1
    assert metrics.deletion(signal, heat, model(weights), np.ones(1), steps=4) == pytest.approx([1 / 8])
    # Of what the map leaves, the position is whole.
    assert metrics.masked_confidence(signal, heat, model(weights), np.ones(1)) == pytest.approx([1])
