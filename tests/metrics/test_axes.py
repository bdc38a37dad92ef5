"""Signals and volumes: every metric of any number of axes, by hand or as that of an image."""

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.ndimage import center_of_mass, gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

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
    assert list(found) == ["centre_x"]  # It has no other axis.
    np.testing.assert_allclose(found["centre_x"], [7 / 8, 1 / 2, np.nan])


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
    names = ["centre_x", "centre_y", "centre_z"]
    assert {name: float(of[0]) for name, of in measured(volume, names).items()} == pytest.approx(
        dict(zip(names, [7 / 8, 1 / 6, 3 / 4], strict=True))
    )
    other = np.zeros_like(volume)
    other[0, 0, 2, 3] = 1
    far = np.sqrt(1 + 4) / np.sqrt(4 + 9 + 16)
    np.testing.assert_allclose(metrics.centre_shift(volume, other), [far], rtol=1e-6)
    np.testing.assert_allclose(metrics.moved(volume, other), [far], rtol=1e-6)


@pytest.mark.parametrize("extent", [(10.0, 3.0, 2.0), (1e-9, 3e-10, 2e-10)], ids=["mm", "m"])
def test_ways_go_by_how_long_each_axis_is(extent):
    one, other = np.zeros((2, 1, 2, 3, 4), np.float32)
    one[0, 1, 0, 3] = other[0, 0, 2, 3] = 1
    # One cell of two along the first axis, two of three along the second.
    far = np.hypot(10 / 2, 3 * 2 / 3) / np.sqrt(100 + 9 + 4)
    np.testing.assert_allclose(metrics.moved(one, other, extent), [far], rtol=1e-5)
    np.testing.assert_allclose(metrics.centre_shift(one, other, extent), [far], rtol=1e-5)
    found = measured(one, ["moved", "first_moved", "centre_shift"], last=other, first=other.copy(), extent=extent)
    assert [float(of[0]) for of in found.values()] == pytest.approx([far] * 3, rel=1e-5)
    for wrong in (extent[:2], (1, 0, 1), (1, 1, np.nan)):
        with pytest.raises(ValueError, match="`extent` must be 3 positive finite numbers"):
            metrics.moved(one, other, wrong)


def test_the_movers_distance_is_scipys():
    signals, others = RNG.random((2, 3, 20), np.float32)
    at = np.arange(20)
    expected = [wasserstein_distance(at, at, one, other) / 20 for one, other in zip(signals, others, strict=True)]
    np.testing.assert_allclose(metrics.moved(signals, others), expected, rtol=1e-4)
    # Of as many equal spots the cheapest pairing is the distance, here of a scan with thick slices.
    extent, cells = np.array([20.0, 4.0, 4.0]), np.array([4, 4, 4])
    spots = [RNG.choice(64, 6, replace=False) for _ in range(2)]
    volumes = np.zeros((2, 1, 64), np.float32)
    for volume, of in zip(volumes, spots, strict=True):
        volume[0, of] = 1
    places = [np.stack(np.unravel_index(of, cells), axis=1) * (extent / cells) for of in spots]
    ways = np.linalg.norm(places[0][:, None] - places[1], axis=-1)
    cheapest = ways[linear_sum_assignment(ways)].mean() / np.linalg.norm(extent)
    found = metrics.moved(*volumes.reshape(2, 1, *cells), extent=extent)
    np.testing.assert_allclose(found, [cheapest], rtol=1e-4)


def test_the_centre_of_anything_is_scipys():
    for shape in ((9,), (5, 6), (3, 4, 5)):
        maps = RNG.random((2, *shape), np.float32)
        expected = [[(at + 0.5) / side for at, side in zip(center_of_mass(one), shape, strict=True)] for one in maps]
        np.testing.assert_allclose(metrics.centre(maps), np.array(expected)[:, ::-1], rtol=1e-5)


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
    np.testing.assert_allclose(of_volume.pop("centre_z"), 0.5)  # Alike at each depth.
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


@pytest.mark.parametrize("shape", [(60,), (4, 40, 20)], ids=["signal", "volume of few slices"])
def test_what_insertion_begins_with_is_blurred_along_each_axis(shape):
    arrays, maps = RNG.random((1, *shape, 2), np.float32), RNG.random((1, *shape), np.float32)
    seen = []

    def confidence(copies, total):
        for copy, _ in copies:
            seen.append(copy)
            yield 0.5

    assert metrics.insertion(arrays, maps, confidence, np.full(1, 0.5), steps=4) == pytest.approx([0.5])
    expected = gaussian_filter(arrays[0], (*(side / 20 for side in shape), 0), mode="reflect")
    np.testing.assert_allclose(seen[0], expected, atol=1e-5)
    hottest = maps[0] >= np.sort(maps.ravel())[-maps.size // 2]
    np.testing.assert_array_equal(seen[2][hottest], arrays[0][hottest])
    np.testing.assert_allclose(seen[2][~hottest], expected[~hottest], atol=1e-5)


@pytest.mark.parametrize("shape", [(16,), (2, 4, 4)], ids=["signal", "volume"])
def test_deletion_of_a_linear_model_is_a_sum(shape):
    """Each position that goes takes its own share: the curve is the sum of what is left, by the trapezoidal rule."""
    arrays = RNG.random((1, *shape, 1), np.float32)
    arrays -= arrays.mean()  # The mean colour is 0.
    heat = arrays[..., 0].copy() + 1

    def confidence(copies, total):
        return (float(copy.clip(0).sum()) for copy, _ in copies)

    left = np.sort(arrays.ravel())[::-1].clip(0)
    curve = left.sum() - np.concatenate([[0], left.reshape(4, -1).sum(axis=1).cumsum()])
    found = metrics.deletion(arrays, heat, confidence, curve[:1], steps=4)
    np.testing.assert_allclose(found, [trapezoid(curve, dx=1 / 4)], rtol=1e-4)
