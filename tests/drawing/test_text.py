import cv2
import numpy as np
import pytest

from keras_cam_callbacks.drawing import text as captions
from keras_cam_callbacks.drawing.overlay import Overlay

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


def rows_of(ink):
    """How many rows of text there are."""
    return np.diff(ink.any(axis=1).astype(int), prepend=0).clip(0).sum()


def test_a_newline_breaks_the_line(font):
    one, two, blank, carriage = caption("HH HH", "HH\nHH", "HH\n \n\nHH\n", "HH\r\nHH")
    assert (rows_of(one), rows_of(two)) == (1, 2)
    np.testing.assert_array_equal(two, blank)
    np.testing.assert_array_equal(two, carriage)
    # Other breaks are spaces as ever.
    for text in ("HH\rHH", "HH\vHH", "HH\u2028HH", "HH\tHH"):
        np.testing.assert_array_equal(caption(text, "HH\nHH")[0], one)


def test_a_bar_of_a_text_of_two_lines_has_room_for_a_third(font):
    (two,), (three,) = caption("H\nH"), caption("H " * 15 + "\nH")
    assert (rows_of(two), rows_of(three)) == (2, 3)
    assert two.shape == three.shape == (3 * 17 + 6, 160)


def test_a_long_line_leaves_room_for_the_next(font):
    long, last = caption("H" * 900 + "\nHH", "H")
    assert rows_of(long) == 5
    assert long.shape == last.shape == (5 * 17 + 6, 160)
    # The fifth line is what it would be by itself.
    np.testing.assert_array_equal(long[4 * 17 : 5 * 17], caption("HH")[0][:17])


def test_a_text_has_eight_lines_at_most(font):
    (ink,) = caption("\n".join("H" * 2000))
    assert ink.shape == (8 * 17 + 6, 160)
    assert rows_of(ink) == 8
    # What is left goes into the eighth line as far as it fits.
    nine, joined = caption("\n".join("ABCDEFGHI"), "\n".join([*"ABCDEFG", "H I"]))
    np.testing.assert_array_equal(nine, joined)


OUTPUTS = {
    "probabilities": ([0.98, 0.91, 0.624, 0.12, 0.03], "0.98 0.91 0.62 0.12 0.03"),
    "ten": (np.arange(10), "0.00 1.00 2.00 3.00 4.00 5.00 6.00 7.00 8.00 9.00"),
    "eleven": (np.arange(11) / 10, "0.00 0.10 0.20 0.30 0.40 0.50 0.60 0.70 0.80 0.90 ..."),
    "logits": ([-12.345, 7.0], "-12.35 7.00"),
    "no minus zero": ([-0.001, 1], "0.00 1.00"),
    "one": ([0.5], "0.50"),
    "zero": ([0, 0], "0.00 0.00"),
    "small": ([0.00123, 0.0456], "0.00123 0.0456"),
    "large": ([12345.6, -2], "1.23e+04 -2"),
    "diverged": ([np.nan, np.inf, 0.5], "nan inf 0.50"),
    "all diverged": ([np.nan, np.nan], "nan nan"),
    "a map": ([[0.25, 0.5], [0.75, 1]], "0.25 0.50 0.75 1.00"),
}


@pytest.mark.parametrize(("outputs", "text"), OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_are_a_line_of_their_own(outputs, text):
    assert captions.with_outputs(["cat"], np.array([outputs], np.float32)) == [f"cat\noutputs {text}"]


def test_captions_of_samples_are_one_line():
    """Names of classes that were read from a file may end in newlines."""
    assert captions.with_outputs(["true cat\n, predicted dog\n 0.7"], None) == ["true cat , predicted dog 0.7"]


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
    lines = [rows_of(ink) for ink in bars]
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
    assert heights[2] == pytest.approx(4 * heights[0], abs=6)
