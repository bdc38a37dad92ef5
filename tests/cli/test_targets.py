import pytest

from keras_cam_callbacks import Contrast, Detection, Present, Segment, Value
from keras_cam_callbacks.cli.targets import read_target
from keras_cam_callbacks.network.targets import resolve_targets

NAMES = ["cat", "dog", "value:1"]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("predicted", "predicted"),
        ("top3", "top3"),
        ("2", 2),
        ("dog", 1),
        ("value:1", 2),
        ("contrast", "contrast"),
        ("contrast:dog,cat", Contrast(1, 0)),
        ("contrast:predicted, 2", Contrast("predicted", 2)),
        ("value:3", Value(3)),
        ("value:age", Value("age")),
        ("present", Present()),
        ("present:2", Present(2)),
        ("segment:dog", Segment(1)),
        ("segment:predicted", Segment()),
        ("segment:2:all", Segment(2, where="all")),
        ("segment:2:10,20", Segment(2, where=(10, 20))),
        ("segment:1:7", Segment(1, where=(7,))),
        ("segment:1:2,10,20", Segment(1, where=(2, 10, 20))),
        ("detection:dog", Detection(1)),
        ("detection:cow", Detection("cow")),
        ("detection:predicted:4,5.5,20,30", Detection(box=(4, 5.5, 20, 30))),
    ],
)
def test_what_text_can_say(text, target):
    found, expected = resolve_targets(read_target(text, NAMES)), resolve_targets(target)
    assert {name: one.text for name, one in found.items()} == {name: one.text for name, one in expected.items()}
    assert [one.asked for one in found.values()] == [one.asked for one in expected.values()]


@pytest.mark.parametrize(
    "text",
    [
        "contrast:cat",
        "contrast:1,1",
        "value",
        "value:1:2",
        "present:0",
        "present:x",
        "segment",
        "segment:1:here",
        "segment:1:1,2,3,4",
        "detection",
        "detection:1:a,b",
        "detection:1:4,5,6",
    ],
)
def test_what_is_wrong_is_said_with_what_works(text):
    with pytest.raises(ValueError, match=r"--target must be .*contrast:CLASS,CLASS.* Received: '"):
        read_target(text, None)
