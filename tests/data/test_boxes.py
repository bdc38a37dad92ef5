"""Regions of signals, volumes and clips: their boxes and masks, and where these are."""

import numpy as np
import pytest

from keras_cam_callbacks import Regions
from keras_cam_callbacks.data.regions import resolve_class_regions, resolve_regions
from keras_cam_callbacks.metrics import inside
from keras_cam_callbacks.records import Region

SIGNAL, VOLUME = (50,), (6, 8, 10)


def resolved(size, *items, box_format="xyxy"):
    return resolve_regions(Regions(list(items), box_format), np.arange(len(items)), len(items), size)


@pytest.mark.parametrize(
    ("box_format", "box"), [("xyxy", (10, 20)), ("rel_xyxy", (0.2, 0.4)), ("xyxy", [(10, 15), (15, 20)])]
)
def test_a_box_of_a_signal_is_first_and_last(box_format, box):
    regions = resolved(SIGNAL, box, box_format=box_format)
    expected = np.zeros(SIGNAL, bool)
    expected[10:20] = True
    assert regions[0].boxes.shape[1] == 2
    np.testing.assert_array_equal(inside(regions, SIGNAL)[0], expected)


@pytest.mark.parametrize("box_format", ["xyxy", "rel_xyxy"])
def test_a_box_of_a_volume_has_its_slices_third_and_last(box_format):
    box = np.array([1, 2, 3, 9, 7, 5]) / (1 if box_format == "xyxy" else np.array([10, 8, 6, 10, 8, 6]))
    regions = resolved(VOLUME, box, None, box_format=box_format)
    expected = np.zeros((2, *VOLUME), bool)
    expected[0, 3:5, 2:7, 1:9] = True
    np.testing.assert_array_equal(inside(regions, VOLUME), expected)


@pytest.mark.parametrize("size", [SIGNAL, VOLUME], ids=["signal", "volume"])
def test_masks_and_both(size):
    rng = np.random.default_rng(0)
    masks = rng.random((2, *size)) > 0.8
    whole = [0] * len(size) + list(size[::-1])
    stored = Region(np.zeros((0, 4)), masks[0])
    one, several, both, whole_region = resolved(
        size, masks[0], masks.astype(np.uint8), {"boxes": [whole], "masks": masks[1]}, stored
    )
    np.testing.assert_array_equal(one.mask, masks[0])
    np.testing.assert_array_equal(several.mask, masks.any(axis=0))
    np.testing.assert_array_equal(both.boxes, [[0] * len(size) + [1] * len(size)])
    np.testing.assert_array_equal(both.mask, masks[1])
    assert whole_region is stored
    np.testing.assert_array_equal(inside([one], size)[0], masks[0])
    # At half the size a mask is sampled at the middle of each position.
    half = tuple(side // 2 for side in size)
    np.testing.assert_array_equal(inside([one], half)[0], masks[0][tuple(slice(1, None, 2) for _ in size)])


def test_regions_by_class():
    items = [{0: (0, 10), "noise": np.arange(50) > 45}, (3, 7)]
    rows = np.arange(2)
    (one, other) = resolve_class_regions(items, rows, 2, SIGNAL)
    np.testing.assert_allclose(one[0].boxes, [[0, 0.2]])
    assert one["noise"].mask.sum() == 4
    assert other is None
    assert inside(resolve_regions(items, rows, 2, SIGNAL), SIGNAL).sum(axis=1).tolist() == [14, 4]


@pytest.mark.parametrize(
    ("size", "item", "box_format", "message"),
    [
        (SIGNAL, (0, 1, 2, 3), "xyxy", r"a box of 2 numbers, \(first, last\), boxes \(B, 2\), or .* signal, \(50,\)"),
        (SIGNAL, {"boxes": [(0, 1, 9, 9)]}, "xyxy", r"\(B, 2\) finite numbers, each \(first, last\) of a signal"),
        (SIGNAL, (10, 10), "xyxy", r"of a signal must have their last .*\(0, 10\) is ten positions"),
        (SIGNAL, (10, 51), "xyxy", r"inside the model's input signal of 50 positions.*Boxes of a signal that"),
        (SIGNAL, (0.2, 0.4), "xyxy", "in positions of the model's input signal.*'rel_xyxy'"),
        (SIGNAL, (10, 20), "rel_xyxy", "shares of the signal.*Did you mean 'xyxy', in positions"),
        (SIGNAL, (10, 20), "xywh", r"of a signal must be in 'xyxy', \(first, last\).*'xywh', which is for images"),
        (SIGNAL, np.zeros(50), "xyxy", "at least one position"),
        (SIGNAL, Region(np.array([[0, 0, 1, 1.0]])), "xyxy", "must be of signals.*which is of images"),
        (VOLUME, (0, 0, 10, 8), "xyxy", r"a box of 6 numbers, \(left, top, first, right, bottom, last\), boxes"),
        (VOLUME, (0, 0, 0, 8, 10, 6), "xyxy", "of 6 x 8 x 10 positions"),
        (VOLUME, (0, 0, 3, 10, 8, 3), "xyxy", "last behind first. Received.*third and sixth"),
        (VOLUME, (0, 0, 0, 1, 1, 1), "yxyx", "of a volume or clip must be in 'xyxy'"),
        (VOLUME, np.ones((8, 10)), "xyxy", r"input volume or clip, \(6, 8, 10\).*Received: shape \(8, 10\)"),
    ],
)  # fmt: skip
def test_errors_are_in_the_words_of_the_kind(size, item, box_format, message):
    with pytest.raises(ValueError, match=message):
        resolved(size, item, box_format=box_format)


def test_errors_of_kind():
    with pytest.raises(TypeError, match=r"\[\(10, 90\), None\] works for two samples"):
        resolve_regions("boxes", np.arange(1), 1, SIGNAL)
    with pytest.raises(TypeError, match=r"a box of 6 numbers, .*, boxes \(B, 6\), a mask \(D, H, W\) or masks \(M, D"):
        resolved(VOLUME, "a box")
    with pytest.raises(TypeError, match=r"\{0: \(10, 90\)\} works"):
        resolved(SIGNAL, {1.5: (0, 10)})
