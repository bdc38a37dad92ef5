import pytest

from keras_cam_callbacks.records import class_name


@pytest.mark.parametrize(
    ("names", "index", "name"),
    [
        (("cat", "dog"), 1, "dog"),
        (["cat", "dog"], 0, "cat"),
        (("cat", "dog"), 2, "2"),
        (("cat", "dog"), -1, "-1"),  # no class, and not the last one
        ((), 0, "0"),
        (None, 3, "3"),
    ],
)
def test_class_name(names, index, name):
    assert class_name(names, index) == name
