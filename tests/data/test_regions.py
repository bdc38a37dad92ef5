"""What people give as regions, and what becomes of it."""

import keras
import numpy as np
import pytest
from fits import X, Y

from keras_cam_callbacks import Regions
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.data.regions import BOX_FORMATS, resolve_regions
from keras_cam_callbacks.records import Region

SIZE = (12, 16)
MASK = np.zeros(SIZE, bool)
MASK[2:4, 5:9] = True


def resolved(*items, box_format="xyxy"):
    return resolve_regions(Regions(list(items), box_format), np.arange(len(items)), len(items), SIZE)


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("xyxy", (4, 3, 12, 6)),
        ("yxyx", (3, 4, 6, 12)),
        ("xywh", (4, 3, 8, 3)),
        ("center_xywh", (8, 4.5, 8, 3)),
        ("rel_xyxy", (0.25, 0.25, 0.75, 0.5)),
        ("rel_yxyx", (0.25, 0.25, 0.5, 0.75)),
        ("rel_xywh", (0.25, 0.25, 0.5, 0.25)),
        ("rel_center_xywh", (0.5, 0.375, 0.5, 0.25)),
    ],
)
def test_every_format(box_format, box):
    (found,) = resolved(box, box_format=box_format)
    np.testing.assert_allclose(found.boxes, [[0.25, 0.25, 0.75, 0.5]])
    assert found.mask is None


def test_all_formats_are_tested():
    assert len(BOX_FORMATS) == 8


def test_formats_are_those_of_keras():
    """A box of ours and of Keras' own converter, wherever Keras has the format."""
    bounding_boxes = pytest.importorskip("keras.utils.bounding_boxes", reason="Keras has them from 3.7 on")

    box = np.array([[[4.0, 3.0, 12.0, 6.0]]])
    for name in BOX_FORMATS:
        if name == "rel_center_xywh" or "center" in name:
            continue  # Keras' one is the same; it has no relative one in all versions.
        theirs = np.asarray(bounding_boxes.convert_format(box, "xyxy", name, height=SIZE[0], width=SIZE[1]))[0]
        np.testing.assert_allclose(resolved(theirs, box_format=name)[0].boxes, [[0.25, 0.25, 0.75, 0.5]], rtol=1e-6)


def test_kinds_of_items():
    other = np.zeros(SIZE, np.uint8)
    other[0, 0] = 255
    known = Region(np.array([[0, 0, 1, 1.0]]))
    items = (None, (0, 0, 8, 6), [(0, 0, 8, 6), (8, 6, 16, 12)], MASK, np.stack([MASK, other > 0]), [], known)
    none, one, two, mask, masks, empty, same = resolved(*items)
    assert none is None
    assert empty is None
    assert same is known
    assert one.boxes.tolist() == [[0, 0, 0.5, 0.5]]
    assert two.boxes.tolist() == [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    assert mask.boxes.shape == (0, 4)
    np.testing.assert_array_equal(mask.mask, MASK)
    np.testing.assert_array_equal(masks.mask, MASK | (other > 0))
    both, plain = resolved({"boxes": [(0, 0, 8, 6)], "masks": MASK}, {"boxes": np.array([[0, 0, 8, 6]]), "labels": [1]})
    assert both.boxes.tolist() == plain.boxes.tolist() == [[0, 0, 0.5, 0.5]]
    np.testing.assert_array_equal(both.mask, MASK)


@pytest.mark.parametrize(
    ("item", "box_format", "message"),
    [
        (
            (0, 0, 17, 6),
            "xyxy",
            r"inside the model's input image, 12 high and 16 wide. Received: \[0.0, 0.0, 17",
        ),
        ((-2, 0, 8, 6), "xyxy", r"inside the model's input.*in `regions\[1\]`"),
        ((8, 0, 8, 6), "xyxy", r"right edge to the right.*Received: \[8.0, 0.0, 8.0, 6.0\] in `regions\[1\]`.*xywh"),
        ((0, 6, 8, 3), "xyxy", "bottom below the top"),
        ((0.1, 0.2, 0.6, 0.9), "xyxy", r"in px of.*\(12, 16\). Received: no value above 0.9. Did you mean.*'rel_xyxy'"),
        ((4, 3, 12, 6), "rel_xyxy", r"shares of the image.*up to 12. Did you mean 'xyxy', in px"),
        ((0, 0, np.nan, 6), "xyxy", "finite numbers"),
        ((0, 0, 8), "xyxy", r"mask of the size of the model's input image, \(12, 16\).*Received: shape \(3,\)"),
        (MASK[:6], "xyxy", r"`regions\[1\]` must be .*Received: shape \(6, 16\)"),
        (MASK & False, "xyxy", "must mark at least one pixel"),
        (np.where(MASK, np.nan, 0), "xyxy", "must be finite"),
        ({"box": (0, 0, 8, 6)}, "xyxy", r"'boxes', 'masks' or both, .* Received: the names \['box'\]"),
    ],
)
def test_errors_tell_what_would_work(item, box_format, message):
    with pytest.raises(ValueError, match=message):
        resolved(None, item, box_format=box_format)


def test_errors_of_kind():
    with pytest.raises(ValueError, match=r"`box_format` must be one of xyxy.*Received: 'XYXY'. Did you mean 'xyxy'"):
        Regions([], "XYXY")
    for wrong in ("boxes", {"boxes": []}, 3):
        with pytest.raises(TypeError, match="must be a list with one item for each sample"):
            resolve_regions(wrong, np.arange(2), 2, SIZE)
    for item in ("a box", [(0, 0, 8, 6), (1, 2)]):
        with pytest.raises(TypeError, match=r"`regions\[0\]` must be None, a box"):
            resolved(item)


def test_aligned_and_selected_like_the_samples():
    boxes = [(i, 0, i + 1, 6) for i in range(12)]
    for regions in (boxes, boxes[:4], np.array(boxes), Regions(np.array(boxes)[:, [1, 0, 3, 2]], "yxyx")):
        batch = make_batch((X, Y), max_samples=4, regions=regions)
        assert [r.boxes[0, 0] * 16 for r in batch.regions] == [0, 1, 2, 3]
    labels = np.array([0] * 6 + [1] * 6)
    balanced = make_batch((X, labels), max_samples=4, select="balanced", regions=boxes)
    assert [r.boxes[0, 0] * 16 for r in balanced.regions] == [0, 1, 6, 7]
    assert make_batch((X, Y)).regions == ()
    with pytest.raises(ValueError, match=r"each of the 4 explained samples, or for all 12 of the data. Received: 3"):
        make_batch((X, Y), max_samples=4, regions=boxes[:3])


def test_the_size_is_that_of_the_images_in_either_layout():
    first = np.random.default_rng(0).random((2, 3, 12, 16), np.float32)
    (found, _) = make_batch(first, regions=[(0, 0, 16, 12), None]).regions
    assert found.boxes.tolist() == [[0, 0, 1, 1]]
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"`regions` need images.*Received: inputs of shape \(2, 5\)"):
        make_batch(np.ones((2, 5)), model, regions=[None, None], display=[np.zeros((4, 4, 3), np.uint8)] * 2)


class Blocks:
    """A stream of labelled batches: first all of class 0, then all of class 1."""

    def __init__(self, count, batch, classes=2):
        self.images = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 8, 8, 3), np.float32)
        self.labels = np.repeat(np.arange(classes), count // classes)
        self.batch = batch

    def __iter__(self):
        for start in range(0, len(self.images), self.batch):
            yield self.images[start : start + self.batch], self.labels[start : start + self.batch]


def of_sample(i):
    """A box that tells which sample it belongs to."""
    return (i % 7, i // 7, i % 7 + 1, i // 7 + 1)


@pytest.mark.parametrize(("settings", "rows"), [({"select": "balanced"}, [0, 1, 10, 11]), ({}, [0, 1, 2, 3])], ids=str)
def test_of_a_stream_each_sample_has_its_own(settings, rows):
    every = [of_sample(i) for i in range(20)]
    shown = np.repeat(np.arange(20, dtype=np.uint8)[:, None, None, None], 8, axis=1) * np.ones((1, 1, 8, 3), np.uint8)
    batch = make_batch(Blocks(20, 5), max_samples=4, regions=every, display=shown, **settings)
    assert batch.inputs[:, 0, 0, 0].tolist() == rows
    np.testing.assert_allclose([r.boxes[0] * 8 for r in batch.regions], [of_sample(i) for i in rows])
    assert [int(image[0, 0, 0]) for image in batch.display] == rows
    own = make_batch(Blocks(20, 5), max_samples=4, regions=[of_sample(i) for i in rows], **settings)
    np.testing.assert_array_equal([r.boxes for r in own.regions], [r.boxes for r in batch.regions])


def test_what_a_stream_has_kept_is_no_number_of_samples():
    with pytest.raises(ValueError, match=r"4 explained samples, or for all 20 of the data\. Received: 8"):
        make_batch(Blocks(20, 5), max_samples=4, select="balanced", regions=[of_sample(i) for i in range(8)])


def test_a_dict_holds_its_mask_under_one_name():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    images = np.zeros((1, 8, 8, 3), np.float32)
    (region,) = make_batch(images, regions=[{"mask": mask, "masks": None}]).regions
    np.testing.assert_array_equal(region.mask, mask)
    with pytest.raises(ValueError, match=r"'mask' or 'masks'\. Received: both"):
        make_batch(images, regions=[{"mask": mask, "masks": [mask]}])
