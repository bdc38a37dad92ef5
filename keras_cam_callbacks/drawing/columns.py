"""Pictures side by side: images at the size they are shown at, columns of one width, titles. uint8 RGB throughout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from ..records import Image
from .text import NARROWEST, bar_height, font_size, text_width, title_lines, write

__all__ = [
    "GAP",
    "Column",
    "by_column",
    "checked_image",
    "displayed",
    "filled",
    "image_places",
    "joined",
    "with_titles",
]

GAP = 4
"""Width in px of the white gap between columns."""

_SMALLEST = 160  # px: images below are enlarged
_LETTERS = 6  # letter heights: a title needs this much width for a word

Items = TypeVar("Items", bound=Sized)


class Column(NamedTuple):
    """A picture and what stands under it.

    Attributes:
        picture: uint8 RGB (H, W, 3).
        title: One line of text.
        note: What the title must say besides, such as "no heatmap"; "" for nothing.
    """

    picture: Image
    title: str
    note: str = ""


def with_titles(rows: Sequence[Sequence[Column]], fonts: Sequence[int], room: int, gap: int = GAP) -> list[Image]:
    """Puts the columns of each sample side by side, with white gaps and centred titles below.

    Args:
        rows: For each of N samples its columns, all of one height. One narrower than six letters are high gets margins.
        fonts: N font sizes in px.
        room: For how many lines of a title there is room at least; there are up to two.
        gap: Width of the gaps in px.

    Returns:
        N pictures, uint8 RGB.

    Raises:
        TypeError: If a title is no text.
    """
    pictures, titles = [], []
    for row, font in zip(rows, fonts, strict=True):
        for column in row:
            if not isinstance(column.title, str):
                raise TypeError(f"A title must be a text. Received: {column.title!r}. str({column.title!r}) works.")
        wide = [_centred(picture, max(_LETTERS * font, picture.shape[1])) for picture, _, _ in row]
        pictures.append(wide)
        titles.append([title_lines(t, w.shape[1], font, note) for (_, t, note), w in zip(row, wide, strict=True)])
    room = max([room, *(len(lines) for row_titles in titles for lines in row_titles)])
    return [_titled(*each, room, gap) for each in zip(pictures, titles, fonts, strict=True)]


def joined(pictures: Sequence[Image], gap: int = GAP) -> Image:
    """Puts pictures of one height side by side, with white gaps of `gap` px."""
    white = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (white, picture)][1:])


def filled(pictures: Sequence[Image], shown: Sequence[Image], name: str) -> list[Image]:
    """The pictures of one column at the height of the images that they stand beside, their aspect kept.

    White margins give all of them the aspect of the widest, so that columns beside images of one size are of one width.

    Args:
        pictures: N images of any sizes.
        shown: N images as they are displayed.
        name: Of the column, for errors.

    Returns:
        N pictures, uint8 RGB.

    Raises:
        ValueError: If a picture is not uint8 RGB.
    """
    pictures = [checked_image(picture, f"beside[{name!r}][{i}]") for i, picture in enumerate(pictures)]
    aspects = [picture.shape[1] / picture.shape[0] for picture in pictures]
    out = []
    for picture, aspect, image in zip(pictures, aspects, shown, strict=True):
        height = image.shape[0]
        width, full = (max(1, round(height * a)) for a in (aspect, max(aspects)))
        out.append(_centred(displayed(picture, (height, width)), full))
    return out


def by_column(label: str, columns: Mapping[str, Items], count: int) -> dict[str, Items]:
    """What is given by column, once it is sure to be a mapping from text to one item for each of `count` images."""
    if not isinstance(columns, Mapping) or not all(isinstance(name, str) and name.strip() for name in columns):
        received = list(columns) if isinstance(columns, Mapping) else type(columns).__name__
        raise TypeError(
            f"`{label}` must be a mapping whose names are text. Received: {received}. "
            f"{label}={{'a name': ...}} works, with one item for each image."
        )
    for name, items in columns.items():
        length = len(items) if isinstance(items, Sized) and not isinstance(items, (str, Mapping)) else None
        if length != count:
            raise ValueError(
                f"`{label}[{name!r}]` must hold one item for each of the {count} images. "
                f"Received: {type(items).__name__ if length is None else length}."
            )
    return dict(columns)


def checked_image(image: Image, name: str) -> Image:
    """The image, once it is sure to be uint8 RGB."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"`{name}` must be uint8 RGB of shape (H, W, 3). Received: {image.dtype}, shape {image.shape}. "
            "(image * 255).astype('uint8') converts floats in [0, 1], np.dstack([image] * 3) grey images."
        )
    return image


def displayed(image: Image, size: int | tuple[int, int] | None) -> Image:
    """The image at the size it is shown at, as `Overlay.size` says."""
    height, width = image.shape[:2]
    target = _displayed_size(height, width, size)
    if target == (height, width):
        return image
    shrinks = target[0] < height and target[1] < width
    return np.asarray(cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def image_places(
    image: Image, picture: Image, *, size: int | tuple[int, int] | None, layout: str, views: int = 0
) -> list[tuple[int, int, int, int]]:
    """Tells where in a picture of an `Overlay` the image is, alone, as a heatmap or under one.

    Args:
        image: uint8 RGB (H, W, 3), the image.
        picture: uint8 RGB (H', W', 3), what was drawn of it, with a caption or without.
        size: As in `Overlay`.
        layout: As in `Overlay`.
        views: How many heatmaps were drawn side by side by `Overlay.draw_several`, 0 for one by `Overlay.draw`.

    Returns:
        Left, top, width and height in px, once for each column. Empty where the picture has other columns or margins
        than these settings make: further columns beside the image, or titles that are wider than it.
    """
    height, width = image.shape[:2]
    height, width = _displayed_size(height, width, size)
    panel = layout == "panel"
    offsets = [0] if views or panel else []
    gap = 3 * GAP if views and panel else GAP
    for _ in range(max(views, 1)):
        start = offsets[-1] + width + gap if offsets else 0
        offsets += [start, start + width + GAP] if panel else [start]
    full = offsets[-1] + width
    margin = picture.shape[1] - full
    # Captions have margins beside a picture that is too narrow for them.
    margins = {0, max(0, NARROWEST - full)}
    # Titles widen columns that are too narrow for them.
    is_widened = views > 0 and width < _LETTERS * font_size(min(height, width))
    if picture.shape[0] < height or margin not in margins or is_widened:
        return []
    return [(margin // 2 + offset, 0, width, height) for offset in offsets]


def _displayed_size(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is not None and not isinstance(size, int):
        return size
    factor = math.ceil(_SMALLEST / max(height, width)) if size is None else size / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _centred(picture: Image, width: int) -> Image:
    """The picture with white margins left and right up to `width` px."""
    margin = width - picture.shape[1]
    if not margin:
        return picture
    left, right = margin // 2, margin - margin // 2
    return np.asarray(cv2.copyMakeBorder(picture, 0, 0, left, right, cv2.BORDER_CONSTANT, value=(255,) * 3))


def _titled(pictures: Sequence[Image], titles: Sequence[Sequence[str]], font: int, rows: int, gap: int) -> Image:
    """Pictures of one height side by side over a bar with room for `rows` lines of their titles."""
    row = joined(pictures, gap)
    bar = np.full((bar_height(rows, font), row.shape[1], 3), 255, np.uint8)
    left = 0
    for picture, lines in zip(pictures, titles, strict=True):
        width = picture.shape[1]
        write(bar, lines, [left + (width - text_width(line, font)) // 2 for line in lines], 0, font)
        left += width + gap
    return np.vstack([row, bar])
