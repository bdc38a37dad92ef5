"""Pictures side by side: images at the size they are shown at, columns of one width, titles. uint8 RGB throughout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np

from ..opencv import cv2
from ..records import Image
from .places import Drawn
from .text import bar_height, text_width, title_lines, write

__all__ = [
    "GAP",
    "Column",
    "by_column",
    "checked_image",
    "displayed",
    "filled",
    "groups_joined",
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
        drawn: The picture.
        title: One line of text.
        note: What the title must say besides, such as "no heatmap"; "" for nothing.
    """

    drawn: Drawn
    title: str
    note: str = ""


def with_titles(
    rows: Sequence[Sequence[Column]], fonts: Sequence[int], room: int, gap: int = GAP, *, down: bool = False
) -> list[Drawn]:
    """Puts the columns of each sample side by side, with white gaps and centred titles below.

    Args:
        rows: For each of N samples its columns, all of one height. One narrower than six letters are high gets margins.
        fonts: N font sizes in px.
        room: For how many lines of a title there is room at least; there are up to two.
        gap: Width of the gaps in px.
        down: Whether the columns stand one below the other, each over its title.

    Returns:
        N pictures.

    Raises:
        TypeError: If a title is no text.
    """
    drawn, titles = [], []
    for row, font in zip(rows, fonts, strict=True):
        for column in row:
            if not isinstance(column.title, str):
                raise TypeError(f"A title must be a text. Received: {column.title!r}. str({column.title!r}) works.")
        wide = [_centred(column.drawn, max(_LETTERS * font, column.drawn.picture.shape[1])) for column in row]
        drawn.append(wide)
        titles.append(
            [title_lines(t, w.picture.shape[1], font, note) for (_, t, note), w in zip(row, wide, strict=True)]
        )
    if down:
        rooms = [max(map(len, of_column)) for of_column in zip(*titles, strict=True)]
        parts = [
            [_titled([one], [lines], font, most, gap) for one, lines, most in zip(row, of_row, rooms, strict=True)]
            for row, of_row, font in zip(drawn, titles, fonts, strict=True)
        ]
        return [joined(row, gap, down=True) for row in parts]
    room = max([room, *(len(lines) for row_titles in titles for lines in row_titles)])
    return [_titled(*row, room, gap) for row in zip(drawn, titles, fonts, strict=True)]


def joined(drawn: Sequence[Drawn], gap: int = GAP, *, down: bool = False) -> Drawn:
    """Puts pictures of one height side by side, with white gaps of `gap` px; or any pictures one below the other."""
    if down:
        full = max(one.picture.shape[1] for one in drawn)
        drawn = [_centred(one, full) for one in drawn]
        tops = accumulate((one.picture.shape[0] + gap for one in drawn[:-1]), initial=0)
        across = np.full((gap, full, 3), 255, np.uint8)
        stacked = np.vstack([part for one in drawn for part in (across, one.picture)][1:])
        return Drawn(stacked, tuple(p for top, one in zip(tops, drawn, strict=True) for p in one.moved(0, top)))
    white = np.full((drawn[0].picture.shape[0], gap, 3), 255, np.uint8)
    picture = np.hstack([part for one in drawn for part in (white, one.picture)][1:])
    places = [place for left, one in zip(_lefts(drawn, gap), drawn, strict=True) for place in one.moved(left)]
    return Drawn(picture, tuple(places))


def groups_joined(groups: Sequence[Sequence[Drawn]], *, down: bool = False) -> list[Drawn]:
    """Puts the pictures of several images of each sample side by side, aligned at their tops, or one below the other.

    Args:
        groups: For each image the N pictures that show it.
        down: Whether they stand one below the other.

    Returns:
        N pictures, which tell where the first image is: numbers and regions of one image are none of another's.
    """
    found = []
    for of_sample in zip(*groups, strict=True):
        high = max(one.picture.shape[0] for one in of_sample)
        parts = []
        for i, one in enumerate(of_sample):
            below = 0 if down else high - one.picture.shape[0]
            picture = cv2.copyMakeBorder(one.picture, 0, below, 0, 0, cv2.BORDER_CONSTANT, value=(255,) * 3)
            parts.append(Drawn(np.asarray(picture), () if i else one.places))
        found.append(joined(parts, 4 * GAP, down=down))
    return found


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
        out.append(_centred(Drawn(displayed(picture, (height, width))), full).picture)
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


def _displayed_size(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is not None and not isinstance(size, int):
        return size
    factor = math.ceil(_SMALLEST / max(height, width)) if size is None else size / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _lefts(drawn: Sequence[Drawn], gap: int) -> list[int]:
    """Where each of pictures side by side begins, in px."""
    steps = (one.picture.shape[1] + gap for one in drawn)
    return list(accumulate(steps, initial=0))[:-1]


def _centred(drawn: Drawn, width: int) -> Drawn:
    """The picture with white margins left and right up to `width` px."""
    margin = width - drawn.picture.shape[1]
    if not margin:
        return drawn
    left, right = margin // 2, margin - margin // 2
    picture = cv2.copyMakeBorder(drawn.picture, 0, 0, left, right, cv2.BORDER_CONSTANT, value=(255,) * 3)
    return Drawn(np.asarray(picture), drawn.moved(left))


def _titled(drawn: Sequence[Drawn], titles: Sequence[Sequence[str]], font: int, rows: int, gap: int) -> Drawn:
    """Pictures of one height side by side over a bar with room for `rows` lines of their titles."""
    row = joined(drawn, gap)
    bar = np.full((bar_height(rows, font), row.picture.shape[1], 3), 255, np.uint8)
    for left, one, lines in zip(_lefts(drawn, gap), drawn, titles, strict=True):
        width = one.picture.shape[1]
        write(bar, lines, [left + (width - text_width(line, font)) // 2 for line in lines], 0, font)
    return Drawn(np.vstack([row.picture, bar]), row.places)
