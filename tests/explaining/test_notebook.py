"""What an interpreter and a notebook show of what is explained."""

import base64
import io
import re

import numpy as np
import PIL.Image
import pytest
from IPython.core.formatters import DisplayFormatter
from models import functional, images

from keras_cam_callbacks import Explanation, Overlay, Regions, activation_grids, explain, filter_patterns, sanity_check
from keras_cam_callbacks.drawing.embedded import image_tag

MANY = np.tile(images(4), (5, 1, 1, 1))


@pytest.fixture(scope="module")
def model():
    return functional().model


@pytest.fixture(scope="module")
def one(model):
    return explain(model, (MANY, np.arange(20) % 3), max_samples=20, class_names=["a", "b & c", "<d>"])


@pytest.fixture(scope="module")
def several(model):
    return explain(model, MANY, method=["gradcam", "saliency", "layercam", "gradcam_plus_plus"], augmentations=["flip"])


def shown(html):
    """The picture in the HTML, uint8 RGB, and its text."""
    tag = re.fullmatch(r'<img alt="([^"]*)" src="data:image/jpeg;base64,([^"]+)">(.*)', html)
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(tag[2])))), tag[1], tag[3]


def test_an_explanation_in_an_interpreter(one):
    text = repr(one)
    low, high = f"{one.heatmaps.min():.3g}", f"{one.heatmaps.max():.3g}"
    height, width = one.heatmaps.shape[1:]
    assert text == (
        f"Explanation(method='gradcam', layer_name='{one.layer_name}', target='predicted'; 20 heatmaps of "
        f"{height} x {width}, {low} to {high})"
    )
    assert len(text) < 300


def test_a_map_that_is_not_finite_has_no_part_in_the_range(one):
    heatmaps = np.full((2, 3, 5), np.nan, np.float32)
    broken = Explanation(**{**vars(one), "heatmaps": heatmaps})
    assert repr(broken).endswith("2 heatmaps of 3 x 5, no finite values)")
    heatmaps[0] = np.arange(15).reshape(3, 5)
    heatmaps[1, 0, 0] = np.inf
    assert repr(broken).endswith("2 heatmaps of 3 x 5, 0 to 14)")


def test_several_explanations_in_an_interpreter(several):
    text = repr(several)
    assert re.match(r"Explanations\(20 heatmaps each of 'gradcam': \d+ x \d+, .* to .*; 'saliency': 12 x 16, ", text)
    assert text.endswith("; 1 more)")
    assert len(text) < 300


def test_a_notebook_shows_picture_and_text(one):
    shown, _ = DisplayFormatter().format(one)
    assert shown["text/plain"] == repr(one)
    assert shown["text/html"] == one._repr_html_()


def test_the_picture_of_an_explanation_is_that_of_its_first_samples(one, model):
    picture, text, below = shown(one._repr_html_())
    first = explain(model, (MANY[:16], np.arange(16) % 3), class_names=["a", "b & c", "<d>"])
    expected = first.grid()
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).mean() < 3  # JPEG
    assert text == repr(one).replace("'", "&#x27;")
    assert below == "<p>The first 16 of 20 samples. <code>.grid()</code> draws all.</p>"
    assert shown(first._repr_html_())[2] == ""


def test_the_picture_of_several_has_as_many_heatmaps(several, model):
    picture, _, below = shown(several._repr_html_())  # 4 methods, with and without augmentation
    assert below.startswith("<p>The first 2 of 20 samples.")
    two = explain(model, MANY[:2], method=list(several), augmentations=["flip"])
    assert picture.shape == two.grid().shape
    assert np.abs(picture.astype(int) - two.grid()).mean() < 3


def test_large_pictures_are_shrunk(one):
    noise = np.random.default_rng(0).integers(0, 256, (3000, 1000, 3), np.uint8)
    html = image_tag(noise, 'a "text" & more')
    picture, text, _ = shown(html)
    assert len(html) < 1_000_000
    assert text == "a &quot;text&quot; &amp; more"
    assert picture.shape[0] == pytest.approx(3 * picture.shape[1], rel=0.01)
    assert picture.shape[1] > 300
    long, _, _ = shown(image_tag(np.full((70_000, 8, 3), 200, np.uint8), ""))  # longer than a JPEG may be
    assert long.shape[0] < 2**16
    assert set(np.unique(long)) <= {199, 200, 201}


def test_nothing_else_prints_its_arrays(one, several, model):
    grids = activation_grids(model, MANY[:2])
    records = [
        one.batch,
        several["gradcam"].augmented["flip"],
        next(iter(grids.values())),
        filter_patterns(model, "conv2", 2, steps=1),
        Regions([np.zeros((12, 16), bool)] * 16),
        sanity_check(model, MANY[:2], ["gradcam", "saliency"], steps=2),
        Overlay(),
    ]
    for record in records:
        assert repr(record).startswith(f"{type(record).__name__}(")
        assert len(repr(record)) < 400, repr(record)
        assert "\n" not in repr(record)
    assert "inputs=float32 (20, 12, 16, 3), labels=int64 (20,)" in repr(one.batch)
