"""Maps against where the object is."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from keras_cam_callbacks.metrics import (
    METRICS,
    energy_in_region,
    energy_ratio,
    inside,
    measured,
    peak_outside,
    pointing,
    region_iou,
)
from keras_cam_callbacks.records import Region

NAN = float("nan")


def region(*boxes, mask=None):
    return Region(np.array(boxes, np.float64).reshape(-1, 4), mask)


def box(left, top, right, bottom, size=(4, 4)):
    return region(np.array([left, top, right, bottom]) / (*size[::-1], *size[::-1]))


def test_inside_by_hand():
    mask = np.zeros((2, 4), bool)
    mask[1, 3] = True
    found = inside([box(1, 0, 3, 1, (2, 4)), None, region(mask=mask), region((0, 0, 0.25, 0.5), mask=mask)], (2, 4))
    expected = np.zeros((4, 2, 4), bool)
    expected[0, 0, 1:3] = True
    expected[2, 1, 3] = True
    expected[3, 1, 3] = expected[3, 0, 0] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(7, 11), (96, 96), (224, 301)])
def test_inside_gives_back_every_box_in_whole_px(size):
    rng = np.random.default_rng(0)
    for _ in range(50):
        top, bottom = np.sort(rng.choice(size[0] + 1, 2, replace=False))
        left, right = np.sort(rng.choice(size[1] + 1, 2, replace=False))
        expected = np.zeros(size, bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(inside([box(left, top, right, bottom, size)], size)[0], expected)


def test_inside_keeps_boxes_smaller_than_a_pixel_and_samples_masks():
    small = inside([region((0.55, 0.3, 0.56, 0.31))], (4, 4))
    assert np.argwhere(small[0]).tolist() == [[1, 2]]
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    np.testing.assert_array_equal(inside([region(mask=mask)], (4, 2))[0], [[True] * 2] * 2 + [[False] * 2] * 2)


def test_energy_and_pointing_by_hand():
    heatmaps = np.zeros((6, 4, 4), np.float32)
    heatmaps[0, 1:3, 1:3] = 2  # 4 pixels of 2 inside, none outside
    heatmaps[1, 1, 1], heatmaps[1, 0, 0], heatmaps[1, 3, 3] = 1, 3, -50  # the negative one does not count
    heatmaps[2, 2, 2], heatmaps[2, 0, 3] = 6, 2
    heatmaps[3] = 5  # constant
    heatmaps[4, 0, 0] = NAN
    heatmaps[5, 1, 1] = 1  # but no region
    masks = inside([box(1, 1, 3, 3)] * 5 + [None], (4, 4))
    np.testing.assert_allclose(energy_in_region(heatmaps, masks), [1, 0.25, 0.75, NAN, NAN, NAN])
    np.testing.assert_allclose(energy_ratio(heatmaps, masks), [4, 1, 3, NAN, NAN, NAN])
    np.testing.assert_allclose(pointing(heatmaps, masks), [1, 0, 1, NAN, NAN, NAN])
    np.testing.assert_allclose(peak_outside(heatmaps, masks), [0, 1, 0, NAN, NAN, NAN])


def test_energy_resizes_bilinearly():
    # One row is [1, 1, 3], at twice the size [1, 1, 1, 1.5, 2.5, 3]: pixels have their centres at halves.
    heatmaps = np.array([[[1, 1, 3]] * 3], np.float32)
    masks = inside([box(4, 0, 6, 6, (6, 6))], (6, 6))
    assert energy_in_region(heatmaps, masks)[0] == pytest.approx(5.5 / 10)
    assert pointing(heatmaps, masks)[0] == 1


def test_the_peak_is_the_centre_of_its_cell():
    # Cells of 2 x 2 in an image of 100 x 100: the peak is at (25, 25), and not in the corner.
    heatmap = np.array([[[3, 1], [1, 0]]], np.float32)
    assert pointing(heatmap, inside([box(20, 20, 30, 30, (100, 100))], (100, 100))).tolist() == [1]
    assert pointing(heatmap, inside([box(0, 0, 10, 10, (100, 100))], (100, 100))).tolist() == [0]


def test_tolerance_of_the_pointing_game():
    heatmap = np.zeros((1, 10, 10), np.float32)
    heatmap[0, 1, 1] = 1
    masks = inside([box(4, 5, 8, 8, (10, 10))], (10, 10))  # Its nearest pixel is 3 to the right and 4 down.
    assert [pointing(heatmap, masks, tolerance=t).tolist() for t in (0, 4.9, 5)] == [[0], [0], [1]]
    with pytest.raises(ValueError, match=r"at least 0 px. Received: -1"):
        pointing(heatmap, masks, tolerance=-1)


def test_region_iou_by_hand_and_with_scikit_learn():
    heatmaps = np.random.default_rng(0).normal(size=(4, 9, 9)).astype(np.float32)
    masks = inside([box(1, 2, 7, 8, (9, 9))] * 4, (9, 9))
    for share in (0, 0.5, 0.8):
        shown = [m > share * m.max() for m in heatmaps]
        expected = [jaccard_score(m.ravel(), s.ravel()) for m, s in zip(masks, shown, strict=True)]
        np.testing.assert_allclose(region_iou(heatmaps, masks, share), expected)
    exact = masks.astype(np.float32) * 3
    assert region_iou(exact, masks).tolist() == [1] * 4
    assert region_iou(1 - masks.astype(np.float32), masks).tolist() == [0] * 4


def test_an_even_map_has_the_energy_of_chance():
    heatmap = np.ones((1, 8, 8), np.float32)
    heatmap[0, 0, 0] += 1e-4  # Else it would be constant.
    masks = inside([box(2, 2, 6, 4, (8, 8))], (8, 8))
    np.testing.assert_allclose(energy_ratio(heatmap, masks), 1, atol=1e-5)


@pytest.mark.parametrize("metric", [energy_in_region, energy_ratio, pointing, peak_outside, region_iou])
def test_one_mask_for_each_map(metric):
    with pytest.raises(ValueError, match=r"one for each heatmap. Received: masks of shape \(1, 4, 4\)"):
        metric(np.eye(3, dtype=np.float32)[None].repeat(2, 0), np.ones((1, 4, 4), bool))


def test_heat_between_the_pixels_of_a_smaller_image_is_not_lost():
    """Of maps larger than the image, as behind a layer that enlarges it, against sums over whole blocks."""
    rng = np.random.default_rng(0)
    maps = np.where(rng.random((3, 112, 64)) < 0.01, rng.random((3, 112, 64)), 0).astype(np.float32)
    masks = np.zeros((3, 28, 32), bool)
    masks[:, 3:11, 5:20] = True
    blocks = maps.reshape(3, 28, 4, 32, 2).sum(axis=(2, 4), dtype=np.float64)
    expected = (blocks * masks).sum(axis=(1, 2)) / blocks.sum(axis=(1, 2))
    np.testing.assert_allclose(energy_in_region(maps, masks), expected, rtol=1e-4)
    lone = np.zeros((1, 64, 64), np.float32)
    lone[0, 17, 17] = 1  # Bilinear sampling would miss it.
    inside = np.zeros((1, 8, 8), bool)
    inside[0, 2, 2] = True
    np.testing.assert_allclose(energy_in_region(lone, inside), 1)
    np.testing.assert_allclose(region_iou(lone, inside), 1)  # Its maximum is averaged as the map is.
    # Enlarged along one side only, it is still all of that pixel.
    wide = np.zeros((1, 64, 4), np.float32)
    wide[0, 16:24, 1] = 1
    assert region_iou(wide, np.repeat(np.eye(8, dtype=bool)[2:3, :, None], 4, axis=2) & (np.arange(4) == 1)) == 1


def test_all_at_once_are_what_each_is_alone():
    maps = np.random.default_rng(0).random((3, 5, 4)).astype(np.float32)
    maps[2] = 0
    masks = np.zeros((3, 12, 16), bool)
    masks[:2, 3:9, 2:11] = True
    alone = {each.__name__: each(maps, masks) for each in (energy_in_region, energy_ratio, pointing)}
    alone |= {each.__name__: each(maps, masks) for each in (region_iou, peak_outside)}
    found = measured(maps, METRICS["regions"], masks=masks)
    assert list(found) == list(alone) == list(METRICS["regions"])
    for name in found:
        np.testing.assert_array_equal(found[name], alone[name])
        np.testing.assert_array_equal(measured(maps, [name], masks=masks)[name], alone[name])
