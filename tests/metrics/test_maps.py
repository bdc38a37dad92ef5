"""One map: entropy, centre of mass, blobs, and the averaging of large maps."""

import numpy as np
import pytest
from scipy import ndimage, stats

from keras_cam_callbacks.metrics import blobs, centre, entropy, pooled

NAN = float("nan")
RANDOM = np.random.default_rng(0).normal(size=(5, 9, 13)).astype(np.float32)


def maps(*rows):
    return np.array(rows, np.float32)


def test_entropy_by_hand():
    # One pixel of four: 0. Two alike: log 2 / log 4.
    found = entropy(maps([[0, 5], [-3, 0]], [[1, 0], [0, 1]], [[1, 1], [1, 0.999]]))
    np.testing.assert_allclose(found, [0, 0.5, 1], atol=1e-6)


def test_centre_by_hand():
    # Pixels' centres are at halves: the one of column 3 of 4 is at 3.5 / 4.
    found = centre(maps([[0, 0, 0, 2], [0, 0, 0, 0]], [[1, 0, 0, 1], [0, 0, 0, -9]], [[1, 0, 0, 0], [3, 0, 0, 0]]))
    np.testing.assert_allclose(found, [[7 / 8, 1 / 4], [1 / 2, 1 / 4], [1 / 8, 5 / 8]])


def test_blobs_by_hand():
    one = [[4, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0], [1.9, 0, 0, 4]]  # The diagonal counts as touching.
    assert blobs(maps(one)).tolist() == [2]
    assert blobs(maps(one), share=0.4).tolist() == [3]
    with pytest.raises(ValueError, match=r"`share` must be in \[0, 1\)"):
        blobs(maps(one), share=1)


def test_maps_agree_with_scipy():
    positive = np.maximum(RANDOM, 0)
    np.testing.assert_allclose(
        entropy(RANDOM), [stats.entropy(m.ravel().astype(float)) / np.log(m.size) for m in positive], rtol=1e-5
    )
    expected = [(np.array(ndimage.center_of_mass(m))[::-1] + 0.5) / m.shape[::-1] for m in positive]
    np.testing.assert_allclose(centre(RANDOM), expected, rtol=1e-5)
    above = [m > m.max() / 2 for m in RANDOM]
    assert blobs(RANDOM).tolist() == [ndimage.label(a, np.ones((3, 3)))[1] for a in above]


@pytest.mark.parametrize("metric", [entropy, centre, blobs])
def test_maps_are_free_of_scale_and_nan_where_degenerate(metric):
    np.testing.assert_allclose(metric(RANDOM * np.float32(1e30)), metric(RANDOM), rtol=1e-5)
    dead = maps(np.zeros((3, 3)), np.full((3, 3), NAN), np.ones((3, 3)), -np.eye(3), np.eye(3))
    found = metric(dead)
    assert found.dtype == np.float64
    assert np.isnan(found.reshape(5, -1)).any(axis=1).tolist() == [True] * 4 + [False]
    with pytest.raises(ValueError, match=r"\(N, h, w\)"):
        metric(RANDOM[0, 0])


def test_pooled():
    found = pooled(maps(np.arange(16).reshape(4, 4)), 2)
    np.testing.assert_allclose(found * 15, [[[2.5, 4.5], [10.5, 12.5]]], rtol=1e-6)
    np.testing.assert_array_equal(pooled(RANDOM, 13), np.maximum(RANDOM, 0))
    assert pooled(np.ones((1, 14, 224), np.float32), 8).shape == (1, 7, 8)
    assert np.isnan(pooled(maps(np.zeros((20, 20))), 8)).all()
