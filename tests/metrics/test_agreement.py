"""Two maps of one sample: overlap, earth mover's distance, shift of the centre."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import jaccard_score

from keras_cam_callbacks.metrics import centre_shift, moved, spearman, top_iou

NAN = float("nan")


def spots(*places, size=(6, 8), value=1.0):
    maps = np.zeros((len(places), *size), np.float32)
    for one, place in zip(maps, places, strict=True):
        one[place] = value
    return maps


def test_top_iou_by_hand():
    # The top fifth of ten pixels is two: {8, 9} and {7, 9} share one of three.
    ramp = np.arange(10, dtype=np.float32).reshape(1, 2, 5)
    other = ramp.copy()
    other[0, 1, 2], other[0, 1, 3] = 8, 7
    assert top_iou(ramp, other).tolist() == [1 / 3]
    assert top_iou(ramp, ramp * 3).tolist() == [1]
    assert top_iou(ramp, -ramp[:, ::-1] + 9).tolist() == [0]


def test_top_iou_leaves_out_what_is_not_positive():
    # One pixel alone is positive: it is the top, though a fifth would be two.
    assert top_iou(spots((0, 0), size=(2, 5)), spots((0, 0), size=(2, 5)) * 4).tolist() == [1]
    assert np.isnan(top_iou(spots((0, 0)), np.zeros((1, 6, 8), np.float32))).all()
    with pytest.raises(ValueError, match=r"in \(0, 1\]. Received: share=0"):
        top_iou(spots((0, 0)), spots((0, 0)), share=0)


def test_top_iou_agrees_with_scikit_learn():
    one, other = np.random.default_rng(0).random((2, 4, 7, 7), np.float32)
    tops = [m.reshape(4, -1) >= np.sort(m.reshape(4, -1))[:, -10:-9] for m in (one, other)]  # ceil(49 / 5) = 10
    expected = [jaccard_score(a, b) for a, b in zip(*tops, strict=True)]
    np.testing.assert_allclose(top_iou(one, other), expected)


def test_moved_and_centre_shift_by_hand():
    # One spot goes 3 down and 4 to the right: 5 px of a diagonal of 10.
    one, other = spots((0, 0), (1, 2)), spots((3, 4), (1, 2), value=7)
    np.testing.assert_allclose(moved(one, other), [0.5, 0], atol=1e-6)
    np.testing.assert_allclose(centre_shift(one, other), [0.5, 0], atol=1e-6)
    # Half of the heat goes to either side: the centre stays.
    both = spots((0, 4)) + spots((0, 0))
    np.testing.assert_allclose(moved(spots((0, 2)), both), [0.2], atol=1e-6)
    np.testing.assert_allclose(centre_shift(spots((0, 2)), both), [0], atol=1e-6)


def test_moved_says_how_far_where_maps_do_not_overlap():
    start = spots(*[(0, 0)] * 3)
    ends = spots((0, 1), (0, 4), (5, 7))
    found = moved(start, ends)
    assert found[0] < found[1] < found[2] < 1
    np.testing.assert_array_equal(top_iou(start, ends), 0)


def test_moved_agrees_with_scipy():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    places = np.argwhere(np.ones((3, 4)))
    expected = [
        stats.wasserstein_distance_nd(places, places, *(np.maximum(m, 0).ravel() for m in pair)) / 5
        for pair in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(moved(one, other), expected, rtol=1e-5)
    np.testing.assert_allclose(moved(other, one), expected, rtol=1e-5)


def test_moved_pools_large_maps_and_keeps_the_unit():
    one, other = np.zeros((2, 1, 224, 224), np.float32)
    one[0, :28, :28], other[0, :28, 112:140] = 1, 1
    np.testing.assert_allclose(moved(one, other), 112 / (224 * np.sqrt(2)), rtol=1e-6)


@pytest.mark.parametrize("metric", [top_iou, moved, centre_shift])
def test_agreement_is_free_of_scale_and_nan_for_degenerate_maps(metric):
    one, other = np.random.default_rng(2).random((2, 2, 7, 7), np.float32)
    np.testing.assert_allclose(metric(one * 1e-20, other * 1e20), metric(one, other), rtol=1e-4)
    broken = one.copy()
    broken[0] = NAN
    broken[1] = -1
    assert np.isnan(metric(broken, other)).all()
    assert np.isnan(metric(other, broken)).all()
    with pytest.raises(ValueError, match="must have the same shape"):
        metric(one, other[:, :5])


def test_spearman_agrees_with_scipy():
    one, other = np.random.default_rng(3).normal(size=(2, 4, 7, 7)).astype(np.float32)
    pairs = zip(np.maximum(one, 0).reshape(4, -1), np.maximum(other, 0).reshape(4, -1), strict=True)
    expected = [stats.spearmanr(*pair).statistic for pair in pairs]
    np.testing.assert_allclose(spearman(one, other), expected, rtol=1e-6)
