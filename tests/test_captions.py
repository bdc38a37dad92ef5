import cv2
import numpy as np
import pytest

from keras_cam_callbacks import captions
from keras_cam_callbacks.overlay import Overlay

GREY = np.full((160, 160, 3), 100, np.uint8)


@pytest.fixture(params=["TrueType", "strokes"])
def font(request, monkeypatch):
    """Both ways to write: OpenCV 5's fonts, and what OpenCV 4 has."""
    if request.param == "strokes":
        monkeypatch.setattr(captions, "_font", lambda: None)
    elif not hasattr(cv2, "FontFace"):
        pytest.skip("OpenCV 4 has no TrueType fonts")
    return request.param


def caption(*texts, image=GREY):
    """Draws the texts under images and returns the bars' ink, True where a pixel is dark."""
    pictures = Overlay().draw([image] * len(texts), np.stack([np.eye(4, dtype=np.float32)] * len(texts)), texts)
    return [(picture[image.shape[0] :] < 128).all(axis=2) for picture in pictures]


TEXTS = {
    "ascii": "true: tabby, predicted: tabby 0.87",
    "emoji": "кот 🐈‍⬛ 🚀 1️⃣",
    "CJK": "猫犬 日本語 한국어",
    "Arabic": "قطة جميلة",
    "Hebrew": "קטה",
    "Hindi, Thai": "हिन्दी ไทย",
    "marks": "e\u0301 Z\u0351\u036b\u0313 \u0301",
    "surrogates": "a \ud800 \udfff b",
    "control": "a\nb\tc\x00d\x1b[0m\u2028e\x7f",
    "private": "\ue000 \U0010ffff \ufeff",
    "long": "word " * 2000,
    "long without spaces": "W" * 100_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("width", [20, 160, 500])
def test_any_text_stays_inside_its_bar(text, width, font):
    image = np.full((170, width, 3), 255, np.uint8)
    (picture,) = Overlay(alpha=0).draw([image], np.eye(4, dtype=np.float32)[None], [text])
    assert picture.shape[1] == max(160, width)
    ink = (picture < 128).all(axis=2)
    assert ink.any()
    edges = ink.copy()
    edges[172:-2, 2:-2] = False
    assert not edges.any()


def test_a_caption_is_the_text_that_was_given(font):
    cat, same, act, empty, blank = caption("cat", "cat", "act", "", " \n ")
    assert cat.any()
    np.testing.assert_array_equal(cat, same)
    assert (cat != act).any()
    assert not empty.any()
    assert not blank.any()


def test_captions_wrap_between_words(font):
    text = " ".join(f"word{i}" for i in range(6))
    lines = captions.wrap(text, 147, 13)
    assert len(lines) == 2
    assert " ".join(lines) == text
    assert all(captions.text_width(line, 13) <= 147 for line in lines)
    # A line may be exactly as wide as the bar.
    assert captions.wrap(text, captions.text_width(lines[0], 13), 13) == lines


def test_long_words_are_broken_and_long_texts_end_in_dots(font):
    lines = captions.wrap("i" * 3000, 147, 13)
    assert len(lines) == 4
    assert [set(line) for line in lines] == [{"i"}, {"i"}, {"i"}, {"i", "."}]
    assert lines[3].endswith("i...")
    assert all(captions.text_width(line, 13) <= 147 < captions.text_width(line + "ii", 13) for line in lines)


def test_characters_that_cannot_be_drawn_are_replaced(font):
    assert captions.clean("a\n\t b\x00c \x7f") == "a b c"
    if font == "strokes":
        assert captions.clean("Café Ångström №5 猫\ud800") == "Cafe Angstrom No5 ??"
    else:
        assert captions.clean("Cafe\u0301 猫 \ud800 x\u200d\u0301 y") == "Café 猫 \ufffd x y"


def test_unicode_is_drawn_and_not_folded_where_there_is_a_font(font):
    cat, dog, mark = caption("猫", "犬", "?")
    assert (cat == dog).all() == (font == "strokes")
    assert (cat == mark).all() == (font == "strokes")


def test_same_sized_images_give_same_sized_pictures(font):
    bars = caption("", "H", "H " * 40, "H" * 900)
    assert len({ink.shape for ink in bars}) == 1
    lines = [np.diff(ink.any(axis=1).astype(int), prepend=0).clip(0).sum() for ink in bars]
    assert lines[:2] == [0, 1]
    assert lines[3] == 4
    # Two lines always have room, so that a word more in the next epoch changes nothing.
    (one,), (two,) = caption("H"), caption("H " * 15)
    assert one.shape == two.shape < bars[0].shape


def test_text_grows_with_the_picture(font):
    heights = []
    for side in (200, 400, 800):
        (ink,) = caption("H", image=np.zeros((side, side, 3), np.uint8))
        heights.append(ink.any(axis=1).sum())
    assert heights[0] >= 8
    assert heights[1] == pytest.approx(2 * heights[0], abs=3)
    assert heights[2] == pytest.approx(4 * heights[0], abs=5)
