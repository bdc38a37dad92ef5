"""Pictures from raw heatmaps: scale, resize, colour, blend, caption, grid, encode. uint8 RGB throughout."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeGuard, get_args

import cv2
import numpy as np
import numpy.typing as npt

from .metrics import clipped, degenerate
from .records import Floats, Image

__all__ = ["COLORMAPS", "Overlay", "colorize", "encode", "grid"]

Layout = Literal["overlay", "panel", "mask"]
ImageFormat = Literal["jpg", "png"]

COLORMAPS = tuple(sorted(name[9:].lower() for name in dir(cv2) if name.startswith("COLORMAP_")))
"""Names of the colormaps: OpenCV's, in lower case."""

_SMALLEST = 160  # px: images below are enlarged, and captions need this much width for three or four words
_LONGEST = 65500  # px: OpenCV encodes no larger JPEG
_GAP = 4  # px between the pictures of a panel
_GRID_GAP = 8  # px around the samples of a grid
_LINES, _WEIGHT = (2, 4), 400  # fewest and most lines of a caption bar; weight of the TrueType font: regular
_WHITE, _INK, _EMPTY = (255,) * 3, (20,) * 3, (225,) * 3


@dataclass(frozen=True)
class Overlay:
    """How heatmaps are drawn on images.

    A map's positive part (the ReLU of the Grad-CAM paper) is divided by the scale, cut to [0, 1], resized
    bilinearly to the displayed image, coloured and blended: image * (1 - alpha) + colour * alpha. A
    degenerate map (see `metrics.degenerate`) leaves the image bare and has no part in the batch's scale.

    Attributes:
        colormap: One of `COLORMAPS`. "turbo" separates most levels; "viridis" and "cividis" rise evenly in
            lightness, and so can be read by colour-blind people and in grey print.
        alpha: In [0, 1], the share of the colour. A mask is not blended: it uses neither alpha nor colormap.
        threshold: In [0, 1). Where the scaled map is below, an overlay shows the bare image, a mask black.
        scale: What is drawn as 1: "sample", each map's own maximum; "batch", the maximum over all maps of the
            call; or a positive number in the maps' own unit, so that epochs and runs can be compared. Values
            above clip.
        clip: Two percentiles, such as (10, 90), or None. The positive part of each map is clipped at them before it
            is scaled, and counted from the lower one: then single bright pixels don't hide the rest.
        layout: "overlay"; "panel": image, heatmap and overlay side by side, the heatmap without threshold and
            plain grey where it is degenerate; "mask": the image times the scaled map, dark where the model
            does not look.
        caption: Whether the captions that `draw` gets are drawn.
        size: Displayed size of each image: its longer side in px, or (height, width). None keeps an image's
            own size, but enlarges one with both sides below 160 px by the smallest whole factor that brings
            the longer side to 160 or more. Images are enlarged bicubically and shrunk by area.
        image_format: "jpg" or "png", for `encode`. PNG is exact, and many times slower and larger.

    Raises:
        ValueError: If a setting is not one of the above.
    """

    colormap: str = "turbo"
    alpha: float = 0.5
    threshold: float = 0.0
    scale: Literal["sample", "batch"] | float = "sample"
    clip: tuple[float, float] | None = None
    layout: Layout = "overlay"
    caption: bool = True
    size: int | tuple[int, int] | None = None
    image_format: ImageFormat = "jpg"

    def __post_init__(self) -> None:
        _check_choice("colormap", self.colormap, COLORMAPS)
        _check_choice("layout", self.layout, get_args(Layout))
        _check_choice("image_format", self.image_format, get_args(ImageFormat))
        scaled = self.scale in ("sample", "batch") or (_is_real(self.scale) and 1e-37 < self.scale < 1e38)
        sides = self.size if isinstance(self.size, (tuple, list)) else (self.size,) * 2
        sized = len(sides) == 2 and all(map(_is_side, sides))
        clip = (0, 100) if self.clip is None else self.clip
        rises = isinstance(clip, (tuple, list)) and len(clip) == 2 and all(map(_is_real, clip)) and clip[0] < clip[1]
        for name, valid, must, works in (
            ("alpha", _is_real(self.alpha) and 0 <= self.alpha <= 1, "a number in [0, 1]", "0.5"),
            ("threshold", _is_real(self.threshold) and 0 <= self.threshold < 1, "a number in [0, 1)", "0.2"),
            ("scale", scaled, "'sample', 'batch' or a positive float32", "'batch'"),
            ("clip", rises and clip[0] >= 0 and clip[1] <= 100, "None or two rising percentiles", "(10, 90)"),
            ("caption", isinstance(self.caption, bool), "True or False; the texts go to draw()", "True"),
            ("size", self.size is None or sized, "None, a positive int (px) or (height, width)", "512"),
        ):
            if not valid:
                received = f"{name}={getattr(self, name)!r}"
                raise ValueError(f"`{name}` must be {must}. Received: {received}. {name}={works} works.")
        # Settings are stored as JSON: what comes back from there, or from numpy, must compare as equal.
        if isinstance(self.size, (tuple, list)):
            object.__setattr__(self, "size", tuple(map(int, self.size)))
        elif self.size is not None:
            object.__setattr__(self, "size", int(self.size))
        object.__setattr__(self, "clip", self.clip and (float(clip[0]), float(clip[1])))
        for name in ("alpha", "threshold", "scale"):
            if not isinstance(getattr(self, name), str):
                object.__setattr__(self, name, float(getattr(self, name)))

    def draw(
        self, images: Sequence[Image], heatmaps: Floats, captions: Sequence[str] | None = None
    ) -> tuple[Image, ...]:
        """Draws one picture for each sample.

        Captions stand in a white bar under the picture, wrapped at spaces. The bar has room for two lines, or
        for as many as the longest caption needs up to four; what is longer ends in "...". So images of one
        size give pictures of one size. A picture narrower than 160 px gets white margins for its caption.
        Control characters become spaces. OpenCV 5 has a Unicode font; what it lacks, emoji among others, is
        "?". OpenCV 4 draws ASCII: accents are dropped, other characters are "?".

        Args:
            images: N images, uint8 RGB (H, W, 3); they may differ in size.
            heatmaps: (N, h, w) float32, raw: signed and unscaled.
            captions: N texts, or None for pictures without a bar.

        Returns:
            N pictures, uint8 RGB (H', W', 3), new arrays.

        Raises:
            ValueError: If an image is not uint8 RGB, or the numbers of images, heatmaps and captions differ.
        """
        heatmaps = np.asarray(heatmaps, np.float32)
        dead = degenerate(heatmaps)
        if len(images) != len(heatmaps) or (captions is not None and len(captions) != len(images)):
            raise ValueError(
                "There must be one heatmap and one caption for each image. "
                f"Received: {len(images)} images, {len(heatmaps)} heatmaps, "
                f"{'no' if captions is None else len(captions)} captions."
            )
        shown = [_displayed(_checked(image, f"images[{i}]"), self.size) for i, image in enumerate(images)]
        heatmaps = heatmaps if self.clip is None else clipped(heatmaps, self.clip)
        # Clipped before the division: a quotient can overflow.
        pictures = [
            self._picture(image, None if blank else np.clip(heatmap, 0, top) / top)
            for image, heatmap, top, blank in zip(shown, heatmaps, _tops(heatmaps, dead, self.scale), dead, strict=True)
        ]
        if captions is None or not self.caption:
            return tuple(pictures)
        # A panel is three times as wide as its image: its text is as large as under the image alone.
        fonts = [max(13, round(image.shape[1] / 15)) for image in shown]
        texts = [
            _wrap(_clean(caption), max(_SMALLEST, picture.shape[1]) - font, font)
            for caption, picture, font in zip(captions, pictures, fonts, strict=True)
        ]
        rows = max([_LINES[0], *map(len, texts)])
        return tuple(map(_with_caption, pictures, texts, fonts, [rows] * len(texts)))

    def _picture(self, image: Image, level: Floats | None) -> Image:
        """One picture without caption. `level`: (h, w) in [0, 1], or None where the map is degenerate."""
        height, width = image.shape[:2]
        if level is None:
            heat, drawn = np.full_like(image, _EMPTY), image.copy()
        else:
            smaller = height < level.shape[0] and width < level.shape[1]
            level = cv2.resize(level, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
            tones = cv2.convertScaleAbs(level, alpha=255)
            clear = cv2.compare(level, self.threshold, cv2.CMP_LT)
            if self.layout == "mask":
                tones[clear > 0] = 0
                return np.asarray(cv2.multiply(image, cv2.merge([tones] * 3), scale=1 / 255))
            heat = colorize(tones, self.colormap)
            drawn = cv2.addWeighted(image, 1 - self.alpha, heat, self.alpha, 0)
            drawn = cv2.copyTo(image, clear, drawn)
        if self.layout != "panel":
            return drawn
        gap = np.full((height, _GAP, 3), _WHITE, np.uint8)
        return np.hstack([image, gap, heat, gap, drawn])


def colorize(tones: npt.NDArray[np.uint8], colormap: str = "turbo") -> Image:
    """Gives each tone its colour.

    Args:
        tones: (H, W) uint8, 0 is the cold end of the colormap, 255 the hot one.
        colormap: One of `COLORMAPS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: If there is no such colormap.
    """
    return np.asarray(cv2.applyColorMap(tones, _palette(colormap)))


def grid(pictures: Sequence[Image], columns: int | None = None) -> Image:
    """Puts pictures into one, row by row, with white gaps of 8 px; each is centred in its cell.

    Args:
        pictures: At least one picture, uint8 RGB (H, W, 3); they may differ in size.
        columns: Pictures in a row; None makes the grid about as many rows high as it is columns wide.

    Returns:
        uint8 RGB (H', W', 3).

    Raises:
        ValueError: If there is no picture, one is not uint8 RGB, or `columns` is not a positive whole number.
    """
    if not len(pictures):
        raise ValueError("A grid needs at least one picture. Received: 0 pictures. Draw some samples first.")
    if columns is not None and not _is_side(columns):
        raise ValueError(
            f"`columns` must be a positive whole number or None. Received: columns={columns!r}. "
            "None chooses a square grid."
        )
    pictures = [_checked(picture, f"pictures[{i}]") for i, picture in enumerate(pictures)]
    across = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    down = math.ceil(len(pictures) / across)
    heights = [max(picture.shape[0] for picture in pictures[i * across :][:across]) for i in range(down)]
    widths = [max(picture.shape[1] for picture in pictures[i::across]) for i in range(across)]
    tops = np.cumsum([_GRID_GAP, *(height + _GRID_GAP for height in heights)])
    lefts = np.cumsum([_GRID_GAP, *(width + _GRID_GAP for width in widths)])
    sheet = np.full((tops[-1], lefts[-1], 3), _WHITE, np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, across)
        height, width = picture.shape[:2]
        top = tops[row] + (heights[row] - height) // 2
        left = lefts[column] + (widths[column] - width) // 2
        sheet[top : top + height, left : left + width] = picture
    return sheet


def encode(picture: Image, image_format: str = "jpg") -> bytes:
    """Encodes a picture.

    Args:
        picture: uint8 RGB (H, W, 3), at most 65500 px a side, OpenCV's limit for JPEG.
        image_format: "jpg" (quality 90) or "png".

    Returns:
        The bytes of an image file.

    Raises:
        ValueError: If the picture is not uint8 RGB, is too large, or the format is unknown.
    """
    _check_choice("image_format", image_format, get_args(ImageFormat))
    bgr = cv2.cvtColor(_checked(picture, "picture"), cv2.COLOR_RGB2BGR)
    if max(picture.shape) > _LONGEST:
        raise ValueError(
            f"`picture` must have at most {_LONGEST} px a side. Received: shape {picture.shape}. "
            "Draw fewer samples in one grid, or set Overlay(size=...)."
        )
    flags = [cv2.IMWRITE_JPEG_QUALITY, 90] if image_format == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    _, data = cv2.imencode(f".{image_format}", bgr, flags)
    return bytes(data)


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        close = get_close_matches(str(value).lower(), choices)
        raise ValueError(
            f"`{name}` must be one of {', '.join(choices)}. Received: {name}={value!r}."
            + (f" Did you mean {' or '.join(map(repr, close))}?" if close else "")
        )


def _is_real(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_side(value: object) -> bool:
    return isinstance(value, Integral) and _is_real(value) and int(value) > 0


def _checked(image: Image, name: str) -> Image:
    """The image, once it is sure to be uint8 RGB."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"`{name}` must be uint8 RGB of shape (H, W, 3). Received: {image.dtype}, shape {image.shape}. "
            "(image * 255).astype('uint8') converts floats in [0, 1], np.dstack([image] * 3) grey images."
        )
    return image


def _displayed(image: Image, size: int | tuple[int, int] | None) -> Image:
    """The image at the size it is shown at, as `Overlay.size` says."""
    height, width = image.shape[:2]
    if isinstance(size, tuple):
        target = size[1], size[0]
    else:
        factor = math.ceil(_SMALLEST / max(height, width)) if size is None else size / max(height, width)
        target = max(1, round(width * factor)), max(1, round(height * factor))
    if target == (width, height):
        return image
    shrinks = target[0] < width and target[1] < height
    return np.asarray(cv2.resize(image, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def _tops(heatmaps: Floats, dead: npt.NDArray[np.bool_], scale: str | float) -> Floats:
    """(N,) what is drawn as 1; without meaning where a map is degenerate."""
    if not isinstance(scale, str):
        return np.full(len(heatmaps), scale, np.float32)
    tops: Floats = heatmaps.max(axis=(1, 2))
    if scale == "batch" and not dead.all():
        tops[:] = tops[~dead].max()
    return tops


@cache
def _palette(colormap: str) -> Image:
    """(256, 1, 3) uint8 RGB: the colours of the tones, in the shape OpenCV wants for a colormap of ours."""
    _check_choice("colormap", colormap, COLORMAPS)
    number = getattr(cv2, f"COLORMAP_{colormap.upper()}")
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)
    return np.ascontiguousarray(bgr[..., ::-1])


@cache
def _font() -> Any:
    """OpenCV 5's TrueType font, or None where OpenCV has only the ASCII strokes of version 4."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _clean(caption: str) -> str:
    """The caption in characters that OpenCV can draw, in one line, with single spaces.

    Lone surrogates must go above all: putText ends the process on them.
    """
    if caption.isascii() and caption.isprintable():
        return " ".join(caption.split())
    folded = unicodedata.normalize("NFKD" if _font() is None else "NFC", caption)
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


def _text_width(text: str, font: int) -> int:
    """Width in px of a text at a font size of `font` px."""
    if _font() is None:
        (width, _), _ = cv2.getTextSize(text, *_strokes(font))
    else:
        _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _font(), font, _WEIGHT)
    return int(width)


def _strokes(font: int) -> tuple[int, float, int]:
    """OpenCV 4's font, scale and thickness for letters about as large as the TrueType font's."""
    return cv2.FONT_HERSHEY_SIMPLEX, font / 30, max(1, font // 16)


def _wrap(text: str, width: int, font: int) -> list[str]:
    """At most four lines of up to `width` px, broken at spaces where there are any; the rest is "..."."""
    lines: list[str] = []
    while text:
        end = _fitting(text, width, font)
        if end == len(text):
            return [*lines, text]
        if len(lines) == _LINES[1] - 1:
            return [*lines, text[: _fitting(text, width, font, "...")].rstrip() + "..."]
        space = text.rfind(" ", 1, end + 1)
        end = space if space > 0 else max(1, end)
        lines.append(text[:end])
        text = text[end:].lstrip()
    return lines


def _fitting(text: str, width: int, font: int, ending: str = "") -> int:
    """How many characters of the text fit into `width` px together with the ending."""
    if len(text) < width and _text_width(text + ending, font) <= width:
        return len(text)
    # No character is narrower than a pixel, so longer texts need not be measured.
    lengths = range(1, min(len(text), width))
    return bisect_right(lengths, width, key=lambda n: _text_width(text[:n] + ending, font))


def _with_caption(picture: Image, lines: Sequence[str], font: int, rows: int) -> Image:
    """The picture over a white bar with room for `rows` lines of text."""
    margin = max(0, _SMALLEST - picture.shape[1])
    sides = margin // 2, margin - margin // 2
    step = round(font * 1.3)
    below = rows * step + font // 2
    out: Image = cv2.copyMakeBorder(picture, 0, below, *sides, borderType=cv2.BORDER_CONSTANT, value=_WHITE)
    for row, line in enumerate(lines):
        start = font // 2, picture.shape[0] + font // 4 + row * step + font
        if _font() is None:
            face, scale, thickness = _strokes(font)
            cv2.putText(out, line, start, face, scale, _INK, thickness, cv2.LINE_AA)
        else:
            cv2.putText(out, line, start, _INK, _font(), font, _WEIGHT)
    return out
