import numpy as np
import pytest

from keras_cam_callbacks import Contrast, Detection, Present, Segment, Similarity, Value
from keras_cam_callbacks.network.targets import resolve_target, resolve_targets

MASK = np.eye(4, dtype=bool)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("contrast", "Contrast(predicted, runner_up)"),
        (Contrast("true", 3, output="kind"), "Contrast(true, 3, output=kind)"),
        (Contrast(np.int64(1), 0), "Contrast(1, 0)"),
        (Value(2), "Value(2)"),
        (Value("age"), "Value(age)"),
        (Segment(), "Segment(predicted)"),
        (Segment(1, where="all"), "Segment(1, where=all)"),
        (Segment(1, where=(3, 4)), "Segment(1, where=(3, 4))"),
        (Detection(), "Detection(predicted)"),
        (Detection(None), "Detection(predicted)"),
        (Detection("cat", box="true"), "Detection(cat, box=true)"),
        (Detection(1, (4, 5, 20.5, 30)), "Detection(1, box=(4.0, 5.0, 20.5, 30.0))"),
        (Detection(1, output_format="rel_yxyx"), "Detection(1, output_format=rel_yxyx)"),
    ],
)
def test_the_text_says_all_that_is_explained(target, text):
    assert resolve_target(target).text == text


def test_the_text_tells_references_and_masks_apart():
    """A resumed run is of the same target only if these are the same, in another process too."""
    one, same, other = (resolve_target(Similarity(np.full(3, value))).text for value in (1.0, 1.0, 2.0))
    assert one == same != other
    assert resolve_target(Segment(1, MASK)).text == resolve_target(Segment(1, MASK.astype(int))).text
    assert resolve_target(Segment(1, MASK)).text != resolve_target(Segment(1, ~MASK)).text
    boxes = np.array([[4, 5, 20, 30], [4, 5, 20, 31]])
    assert Detection(1, boxes).text == Detection(1, boxes.tolist()).text != Detection(1, boxes[::-1]).text


def test_present_labels_have_names_of_their_own():
    assert list(resolve_targets(Present(n=2))) == ["present1", "present2"]
    assert [one.rank for one in resolve_targets({"a": Present(2), "b": 0}).values()] == [1, 2, 0]
    assert list(resolve_targets({"a": Present(2), "b": 0})) == ["a1", "a2", "b"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Contrast(1, 1), ValueError, "two different classes"),
        (lambda: Contrast("predicted", "predicted"), ValueError, "two different classes"),
        (lambda: Contrast("predicted", "runnerup"), ValueError, "Did you mean 'runner_up'"),
        (lambda: Contrast(-1, 0), ValueError, "an index from 0"),
        (lambda: Contrast(True, 0), TypeError, "an index from 0"),
        (lambda: Contrast(1, 0, output=2), TypeError, "must be the name"),
        (lambda: Value(-1), ValueError, "an index from 0"),
        (lambda: Value(1.5), TypeError, "an index from 0"),
        (lambda: Value("age", output="age"), ValueError, "Value\\(0, output='age'\\) works"),
        (lambda: Present(0), ValueError, "from 1 to 9"),
        (lambda: Present(10), ValueError, "from 1 to 9"),
        (lambda: Similarity(np.zeros(4)), ValueError, "must have a direction"),
        (lambda: Similarity([1.0, np.nan]), ValueError, "finite"),
        (lambda: Similarity("cat"), ValueError, "must be an embedding"),
        (lambda: Segment("person"), ValueError, "Segment's `label`"),
        (lambda: Segment(1, where="every"), ValueError, "`where` must be"),
        (lambda: Segment(1, where=~np.ones((4, 4), bool)), ValueError, "with no pixel"),
        (lambda: Segment(1, where=np.full((4, 4), 0.5)), ValueError, "`where` must be"),
        (lambda: Segment(1, where=(-1, 2)), ValueError, "`where` must be"),
        (lambda: Segment(where="true"), ValueError, "must name the class"),
        (lambda: Detection(-1), ValueError, "an index from 0"),
        (lambda: Detection(1.5), TypeError, "an index from 0"),
        (lambda: Detection(""), ValueError, "the name of a class"),
        (lambda: Detection(1, (20, 5, 4, 30)), ValueError, "right edge to the right"),
        (lambda: Detection(1, (4, 5, 20)), ValueError, "`box` must be"),
        (lambda: Detection(1, "ture"), ValueError, "Did you mean 'true'"),
        (lambda: Detection(1, output_format="xxyy"), ValueError, "Did you mean"),
    ],
)
def test_impossible_settings_are_refused_when_they_are_made(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "Received" in str(caught.value)


def test_a_reference_for_each_sample_must_be_one_for_each():
    target = resolve_target(Similarity(np.ones((3, 4))))
    assert target.beside(3, None).shape == (3, 4)
    assert resolve_target(Similarity(np.ones(4))).beside(5, None).shape == (5, 4)
    with pytest.raises(ValueError, match="one for each of the 2 explained"):
        target.beside(2, None)


def test_true_pixels_need_labels_of_pixels():
    target = resolve_target(Segment(2, where="true"))
    np.testing.assert_array_equal(target.beside(1, None, pixel_labels=MASK[None] * 2), MASK[None])
    with pytest.raises(ValueError, match=r"needs labels of pixels.*Segment\(2\)"):
        target.beside(1, None)
