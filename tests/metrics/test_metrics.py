import numpy as np
import pytest
from scipy import stats

from keras_cam_callbacks.metrics import area, clipped, correlation, degenerate, degenerate_cause, drift, spearman

RAMP = [[0.0, 1.0], [2.0, 3.0]]
NAN, INF = float("nan"), float("inf")

# map, whether it is degenerate, how its cause begins
CASES = {
    "ramp": (RAMP, False, None),
    "signed ramp": ([[-5.0, -1.0], [0.0, 1e-3]], False, None),
    "one pixel above zero": ([[0.0, 0.0], [0.0, 1e-30]], False, None),
    "largest float32": ([[-3.4e38, 3.4e38]], False, None),
    "small contrast": ([[1.0, 1.00001]], False, None),
    "NaN": ([[0.0, NAN], [2.0, 3.0]], True, "not finite"),
    "infinity": ([[0.0, INF], [2.0, 3.0]], True, "not finite"),
    "minus infinity": ([[0.0, -INF], [2.0, 3.0]], True, "not finite"),
    "only infinity": ([[INF, INF]], True, "not finite"),
    "zero": ([[0.0, 0.0], [0.0, -0.0]], True, "zero everywhere"),
    "negative": ([[-1.0, -2.0]], True, "nowhere positive"),
    "negative and zero": ([[-1.0, 0.0]], True, "nowhere positive"),
    "constant": ([[0.3, 0.3], [0.3, 0.3]], True, "constant"),
    "constant but for rounding": ([[1.0, 1.0 + 2**-22]], True, "constant"),
    "one pixel": ([[5.0]], True, "constant"),
}


def maps(*rows):
    return np.array(rows, np.float32)


@pytest.mark.parametrize(("heatmap", "expected", "cause"), CASES.values(), ids=CASES)
def test_degenerate_and_its_cause(heatmap, expected, cause):
    heatmap = maps(*heatmap)
    assert degenerate(heatmap[None]).tolist() == [expected]
    if expected:
        assert degenerate_cause(heatmap).startswith(cause)
        assert not degenerate_cause(heatmap).endswith(".")
    else:
        with pytest.raises(ValueError, match="Received: a finite heatmap"):
            degenerate_cause(heatmap)


def test_degenerate_judges_each_map_by_itself():
    batch = maps(RAMP, np.zeros((2, 2)), np.full((2, 2), NAN), -np.array(RAMP), RAMP)
    result = degenerate(batch)
    assert result.dtype == bool
    assert result.tolist() == [False, True, True, True, False]


def test_degenerate_does_not_change_its_input():
    batch = maps([[NAN, 1.0]], [[-1.0, 2.0]])
    before = batch.copy()
    degenerate(batch), area(batch), drift(batch, batch)
    np.testing.assert_array_equal(batch, before)


def test_area_by_hand():
    # Above half of the maximum are 2 and 3 of the first map, and 4 of the second: 2 is not above 2.
    batch = maps(RAMP, [[4.0, 2.0], [-9.0, 0.0]])
    assert area(batch).tolist() == [0.5, 0.25]
    assert area(batch, share=0.25).tolist() == [0.75, 0.5]
    assert area(batch, share=0).tolist() == [0.75, 0.5]
    assert area(batch, share=0.9).tolist() == [0.25, 0.25]


def test_area_is_free_of_scale_and_nan_for_degenerate_maps():
    batch = maps(RAMP, np.zeros((2, 2)), np.array(RAMP) * 1e-30, np.full((2, 2), NAN), np.ones((2, 2)))
    np.testing.assert_array_equal(area(batch), [0.5, NAN, 0.5, NAN, NAN])
    assert area(batch).dtype == np.float64


@pytest.mark.parametrize("share", [-0.1, 1, NAN])
def test_area_refuses_a_share_outside_its_range(share):
    with pytest.raises(ValueError, match=r"`share` must be in \[0, 1\).*Received: share="):
        area(maps(RAMP), share)


def test_drift_by_hand():
    # [0, 1, 2, 3] against its mirror image: r = -1. Against [0, 2, 1, 3]: r = 4 / 5.
    new = maps(RAMP, RAMP, RAMP, RAMP)
    old = maps(RAMP, [[3.0, 2.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 3.0]], [[0.0, 20.0], [10.0, 30.0]])
    np.testing.assert_allclose(drift(new, old), [0, 2, 0.2, 0.2], atol=1e-12)


def test_drift_sees_the_positive_part_only():
    # Positive parts [0, 0, 1, 0] and [0, 0, 2, 0] agree, whatever the negative values are.
    new = maps([[-7.0, -1.0], [1.0, 0.0]])
    old = maps([[0.0, -3.0], [2.0, -9.0]])
    np.testing.assert_allclose(drift(new, old), [0], atol=1e-12)


def test_drift_agrees_with_scipy_and_numpy():
    rng = np.random.default_rng(0)
    new, old = rng.normal(size=(2, 5, 7, 9)).astype(np.float32)
    relu = [np.maximum(side, 0).reshape(5, -1).astype(np.float64) for side in (new, old)]
    expected = [1 - stats.pearsonr(a, b).statistic for a, b in zip(*relu, strict=True)]
    np.testing.assert_allclose(drift(new, old), expected, rtol=1e-12)
    correlations = np.corrcoef(*relu)[:5, 5:].diagonal()
    np.testing.assert_allclose(drift(new, old), 1 - correlations, rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-38, 1e-20, 1e37])
def test_drift_is_free_of_scale(factor):
    rng = np.random.default_rng(1)
    new, old = rng.uniform(size=(2, 1, 6, 6)).astype(np.float32)
    scaled = new * np.float32(factor)
    # Below 1.2e-38 float32 has fewer digits left.
    np.testing.assert_allclose(drift(scaled, old), drift(new, old), rtol=1e-5)
    assert drift(new, new * 2) == pytest.approx(0, abs=1e-12)


def test_drift_is_nan_where_either_map_is_degenerate():
    zero, nan = np.zeros((2, 2)), np.full((2, 2), NAN)
    result = drift(maps(RAMP, zero, RAMP, nan, zero), maps(zero, RAMP, RAMP, RAMP, zero))
    np.testing.assert_allclose(result, [NAN, NAN, 0, NAN, NAN], atol=1e-12)


def test_drift_stays_in_its_range():
    rng = np.random.default_rng(2)
    new = rng.uniform(size=(50, 3, 3)).astype(np.float32)
    same, mirrored = drift(new, new), drift(new, new.max(axis=(1, 2), keepdims=True) - new)
    assert same.min() >= 0
    assert mirrored.max() <= 2
    np.testing.assert_allclose(mirrored, 2, atol=1e-6)


def test_correlation_by_hand():
    # Known in both are [1, 2, 4] and [1, 3, 2] of the first: r = 1 / sqrt(14 / 3 * 2). Of the second [0, 3] and [5, 1].
    new = maps([[1.0, 2.0, NAN], [9.0, 4.0, NAN]], [[-2.0, 3.0, NAN], [NAN, NAN, 8.0]])
    old = maps([[1.0, 3.0, 7.0], [NAN, 2.0, NAN]], [[5.0, 1.0, 0.0], [NAN, 4.0, NAN]])
    np.testing.assert_allclose(correlation(new, old), [1 / np.sqrt(14 / 3 * 2), -1], rtol=1e-12)
    assert correlation(new, old).dtype == np.float64


def test_correlation_agrees_with_scipy():
    rng = np.random.default_rng(3)
    new, old = rng.normal(size=(2, 6, 7, 9)).astype(np.float32)
    new[rng.random(new.shape) < 0.3] = NAN
    old[rng.random(new.shape) < 0.2] = NAN
    shared = ~(np.isnan(new) | np.isnan(old))
    pairs = [[np.maximum(m[s], 0).astype(np.float64) for m in (a, b)] for a, b, s in zip(new, old, shared, strict=True)]
    np.testing.assert_allclose(correlation(new, old), [stats.pearsonr(*pair).statistic for pair in pairs], rtol=1e-12)


def test_correlation_is_one_less_drift_where_all_is_known():
    rng = np.random.default_rng(4)
    new, old = rng.normal(size=(2, 5, 7, 9)).astype(np.float32)
    np.testing.assert_array_equal(1 - correlation(new, old), drift(new, old))
    same, mirrored = correlation(new, new * 3), correlation(np.abs(new), np.abs(new).max() - np.abs(new))
    np.testing.assert_allclose(same, 1, rtol=1e-12)
    np.testing.assert_allclose(mirrored, -1, rtol=1e-6)
    assert same.max() <= 1
    assert mirrored.min() >= -1


@pytest.mark.parametrize(
    "row",
    {
        "nothing known": [NAN, NAN, NAN, NAN],
        "nothing shared": [NAN, NAN, NAN, 1.0],
        "one pixel shared": [1.0, NAN, NAN, 5.0],
        "zero where shared": [0.0, 0.0, 0.0, 5.0],
        "negative where shared": [-1.0, -2.0, 0.0, 5.0],
        "constant where shared": [2.0, 2.0, 2.0, 5.0],
        "infinite": [1.0, INF, 2.0, 5.0],
        "minus infinite": [1.0, -INF, 2.0, 5.0],
    }.values(),
)
def test_correlation_is_nan_where_there_is_nothing_to_compare(row):
    one, other = maps([row], [[1.0, 2.0, 3.0, NAN]]), maps([[1.0, 2.0, 3.0, NAN]], [row])
    before = one.copy()
    assert np.isnan(correlation(one, other)).all()
    np.testing.assert_array_equal(one, before)
    # The neighbour in the batch is compared as ever.
    ramp = maps(np.reshape([1.0, 2.0, 4.0, 8.0], (1, 4)))
    np.testing.assert_allclose(correlation(np.append(one, ramp, axis=0), np.append(other, ramp, axis=0))[2], 1)


def test_what_is_not_shared_has_no_part_in_the_correlation():
    # An infinity that the other map does not show breaks nothing.
    new = maps([[1.0, 2.0, INF]], [[1.0, 2.0, 1e30]])
    old = maps([[3.0, 5.0, NAN]], [[3.0, 5.0, NAN]])
    np.testing.assert_allclose(correlation(new, old), [1, 1], rtol=1e-12)


def test_spearman_by_hand():
    # Ranks 1.5, 1.5, 3, 4 of relu(-1, 0, 2, 9) against 1, 2, 3, 4: r = 4.5 / sqrt(4.5 * 5).
    found = spearman(maps([[-1.0, 0.0], [2.0, 9.0]], RAMP, RAMP), maps(RAMP, RAMP, [[3.0, 2.0], [1.0, 0.0]]))
    np.testing.assert_allclose(found, [np.sqrt(0.9), 1, -1], atol=1e-12)


def test_spearman_agrees_with_scipy():
    rng = np.random.default_rng(3)
    many = rng.normal(size=(2, 4, 6, 9)).astype(np.float32)
    few = rng.integers(-2, 4, size=(2, 4, 6, 9)).astype(np.float32)  # ties, also above zero
    for new, old in (many, few, (many[0], many[0] ** 3)):
        relu = [np.maximum(side, 0).reshape(4, -1) for side in (new, old)]
        expected = [stats.spearmanr(a, b).statistic for a, b in zip(*relu, strict=True)]
        np.testing.assert_allclose(spearman(new, old), expected, atol=1e-12)


def test_spearman_is_nan_where_either_map_is_degenerate():
    zero, nan = np.zeros((2, 2)), np.full((2, 2), NAN)
    result = spearman(maps(RAMP, zero, RAMP, nan, zero), maps(zero, RAMP, RAMP, RAMP, zero))
    np.testing.assert_allclose(result, [NAN, NAN, 1, NAN, NAN], atol=1e-12)
    with pytest.raises(ValueError, match="must have the same shape"):
        spearman(maps(RAMP), maps(RAMP, RAMP))


def test_no_maps_give_no_numbers():
    none = np.empty((0, 7, 7), np.float32)
    assert degenerate(none).shape == area(none).shape == drift(none, none).shape == (0,)
    assert correlation(none, none).shape == (0,)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"Received: shape \(2,\)\. Give one heatmap as heatmap\[None\]"):
        degenerate(maps(*RAMP[0]))
    with pytest.raises(ValueError, match=r"Received: shape \(1, 0, 4\)"):
        area(np.empty((1, 0, 4), np.float32))
    with pytest.raises(ValueError, match=r"heatmaps.shape=\(1, 2, 2\), reference.shape=\(2, 2, 2\)"):
        drift(maps(RAMP), maps(RAMP, RAMP))
    with pytest.raises(ValueError, match=r"heatmaps.shape=\(1, 2, 2\), references.shape=\(2, 2, 2\)"):
        correlation(maps(RAMP), maps(RAMP, RAMP))
    with pytest.raises(ValueError, match=r"Received: shape \(2,\)"):
        correlation(maps(*RAMP[0]), maps(*RAMP[0]))


def test_clipping_at_percentiles_by_hand():
    maps = np.arange(-1, 10, dtype=np.float32).reshape(1, 1, 11)
    # The positive part is 0, 0, 1, ..., 9; its 10th and 90th percentiles are its second and its tenth number.
    assert clipped(maps, (10, 90)).tolist() == [[[0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8]]]
    assert clipped(maps, (30, 50)).tolist() == [[[0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2]]]
    sparse = np.zeros((1, 1, 11), np.float32)
    sparse[0, 0, 3] = 5
    np.testing.assert_array_equal(clipped(sparse, (10, 90)), sparse)
    broken = np.where(maps == 3, np.inf, maps)
    np.testing.assert_array_equal(clipped(broken, (10, 90)), broken)
    assert maps[0, 0, 0] == -1
