"""Text in pictures: what OpenCV's fonts can draw, wrapped to a width, in bars under pictures. uint8 RGB throughout."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..opencv import cv2
from ..records import Image
from .places import Drawn

__all__ = [
    "NARROWEST",
    "bar_height",
    "clean",
    "over_captions",
    "text_width",
    "title_lines",
    "with_captions",
    "with_outputs",
    "wrap",
    "write",
]

NARROWEST = 160
"""Width in px that a caption needs for three or four words."""

_LINES = 2, 4, 8  # of a caption's bar: fewest, most for each line of the text, most in all
_WEIGHT = 400  # of the TrueType font: regular
_WHITE, _INK = (255,) * 3, (20,) * 3
_JOINTS = "_("  # where the name of a method may be broken
_OUTPUTS = 10  # how many of a model's outputs are printed


def with_captions(pictures: Sequence[Image], captions: Sequence[str], fonts: Sequence[int]) -> tuple[Image, ...]:
    """Puts each picture over a white bar with its caption. All bars have room for as many lines.

    Args:
        pictures: N pictures, uint8 RGB (H, W, 3); one narrower than 160 px gets white margins.
        captions: N texts. A newline breaks the line.
        fonts: N font sizes in px.

    Returns:
        N pictures, uint8 RGB, new arrays.
    """
    return tuple(drawn.picture for drawn in over_captions([Drawn(picture) for picture in pictures], captions, fonts))


def over_captions(drawn: Sequence[Drawn], captions: Sequence[str], fonts: Sequence[int]) -> tuple[Drawn, ...]:
    """Does as `with_captions`, for pictures that know where their images are."""
    texts = [
        _caption_lines(caption, max(NARROWEST, one.picture.shape[1]) - font, font)
        for caption, one, font in zip(captions, drawn, fonts, strict=True)
    ]
    # A line more than the text has of its own: so a word more in the next epoch changes no size.
    own = max((sum(1 for part in caption.split("\n") if part.strip()) for caption in captions), default=0)
    rows = max([_LINES[0], min(own + 1, _LINES[2]), *map(len, texts)])
    return tuple(map(_with_bar, drawn, texts, fonts, [rows] * len(texts)))


def title_lines(title: str, width: int, font: int, note: str = "") -> list[str]:
    """The title of a column in up to two lines of up to `width` px; a note such as "no heatmap" is never cut off."""
    title = clean(title)
    if not note:
        return wrap(title, width, font, 2, _JOINTS)
    both = f"{title}: {note}" if title else note
    short = [*wrap(title, width, font, 1), note]
    for lines in (wrap(both, width, font, 1), short, wrap(both, width, font, 2, _JOINTS)):
        if not any(line.endswith("...") for line in lines):
            return lines
    return short


def with_outputs(captions: Sequence[str], outputs: npt.NDArray[Any] | None) -> list[str]:
    """Adds a line such as "outputs 0.98 0.91 0.03" to each caption, which is one line, whatever class names hold.

    Args:
        captions: N texts.
        outputs: (N, K) the model's raw outputs, of which the first ten are printed, or None for no such line.

    Returns:
        N texts of one line, or of two.
    """
    lines = [" ".join(caption.split()) for caption in captions]
    if outputs is None:
        return lines
    return [f"{line}\n{_outputs_line(row)}" for line, row in zip(lines, outputs, strict=True)]


def clean(text: str) -> str:
    """The text in characters that OpenCV can draw, in one line, with single spaces.

    Lone surrogates must go above all: putText ends the process on them.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    folded = unicodedata.normalize("NFKD" if _font() is None else "NFC", text)
    kept = []
    for character in folded:
        category = unicodedata.category(character)
        if category == "Cs":
            kept.append("\ufffd")
        elif category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        # Marks that NFC has found no letter for, and invisible joiners, would be drawn as "?" beside it.
        elif category not in ("Mn", "Me", "Cf"):
            kept.append(character)
    text = " ".join("".join(kept).split())
    return text.encode("ascii", "replace").decode() if _font() is None else text


def wrap(text: str, width: int, font: int, most: int = _LINES[1], joints: str = "") -> list[str]:
    """At most `most` lines of up to `width` px; the rest is "...".

    Lines are broken at spaces where there are any, or else before one of the characters `joints`.
    """
    lines: list[str] = []
    while text:
        end = _fitting(text, width, font)
        if end == len(text):
            return [*lines, text]
        if len(lines) == most - 1:
            return [*lines, text[: _fitting(text, width, font, "...")].rstrip() + "..."]
        space = text.rfind(" ", 1, end + 1)
        joint = max((text.rfind(character, 1, end + 1) for character in joints), default=0)
        end = space if space > 0 else joint if joint > 0 else max(1, end)
        lines.append(text[:end])
        text = text[end:].lstrip()
    return lines


def text_width(text: str, font: int) -> int:
    """Width in px of a text at a font size of `font` px."""
    if _font() is None:
        (width, _), _ = cv2.getTextSize(text, *_strokes(font))
    else:
        _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _font(), font, _WEIGHT)
    return int(width)


def write(picture: Image, lines: Sequence[str], left: Sequence[int], top: int, font: int) -> None:
    """Writes lines of clean text into a picture, each from its `left`, the first one below `top`."""
    for row, (line, x) in enumerate(zip(lines, left, strict=True)):
        start = x, top + font // 4 + row * _step(font) + font
        if _font() is None:
            face, scale, thickness = _strokes(font)
            cv2.putText(picture, line, start, face, scale, _INK, thickness, cv2.LINE_AA)
        else:
            cv2.putText(picture, line, start, _INK, _font(), font, _WEIGHT)


def font_size(side: int) -> int:
    """Height of letters in px that belongs to an image's side: of its width, or of the shorter one under titles.

    However wide a panel is, its text is as large as under the image alone.
    """
    return max(13, round(side / 15))


def bar_height(rows: int, font: int) -> int:
    """Height in px of a bar with room for `rows` lines."""
    return rows * _step(font) + font // 2


@cache
def _font() -> Any:
    """OpenCV 5's TrueType font, or None where OpenCV has only the ASCII strokes of version 4."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _strokes(font: int) -> tuple[int, float, int]:
    """OpenCV 4's font, scale and thickness for letters about as large as the TrueType font's."""
    return cv2.FONT_HERSHEY_SIMPLEX, font / 32, max(1, font // 16)


def _step(font: int) -> int:
    """From one line to the next, in px."""
    return round(font * 1.3)


def _outputs_line(outputs: npt.NDArray[Any]) -> str:
    """The first outputs of one sample, with two decimal places where that shows them."""
    values = np.ravel(outputs)[:_OUTPUTS].astype(np.float64)
    sizes = np.abs(values[np.isfinite(values)])
    largest = sizes.max(initial=0)
    plain = largest == 0 or 0.1 <= largest < 1000
    texts = [f"{round(value, 2) + 0.0:.2f}" if plain else f"{value:.3g}" for value in values.tolist()]
    return " ".join(["outputs", *texts, *["..."] * (np.size(outputs) > _OUTPUTS)])


def _caption_lines(caption: str, width: int, font: int) -> list[str]:
    """The caption's lines, up to four for each line of the text; the last of eight takes in what is left."""
    lines = [line for part in caption.split("\n") for line in wrap(clean(part), width, font)]
    last = _LINES[2] - 1
    return [*lines[:last], *wrap(" ".join(lines[last:]), width, font, 1)]


def _fitting(text: str, width: int, font: int, ending: str = "") -> int:
    """How many characters of the text fit into `width` px together with the ending."""
    if len(text) < width and text_width(text + ending, font) <= width:
        return len(text)
    # No character is narrower than a pixel, so longer texts need not be measured.
    lengths = range(1, min(len(text), width))
    return bisect_right(lengths, width, key=lambda n: text_width(text[:n] + ending, font))


def _with_bar(drawn: Drawn, lines: Sequence[str], font: int, rows: int) -> Drawn:
    """The picture over a white bar with room for `rows` lines of text."""
    picture = drawn.picture
    margin = max(0, NARROWEST - picture.shape[1])
    sides = margin // 2, margin - margin // 2
    border = cv2.BORDER_CONSTANT
    out: Image = cv2.copyMakeBorder(picture, 0, bar_height(rows, font), *sides, borderType=border, value=_WHITE)
    write(out, lines, [font // 2] * len(lines), picture.shape[0], font)
    return Drawn(out, drawn.moved(sides[0]))
