"""Signals, volumes and clips as flat pictures, and the same for the maps that lie on them.

An image is its own picture. Of a volume or a clip some slices stand side by side, and a signal is a line over a ground.
What must stay sharp under any heat is ink: lines, numbers and the white between slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..metrics import degenerate
from ..opencv import cv2
from ..records import Floats, Image, Space
from ..space import resize
from .columns import checked_image, displayed
from .ink import Ink, add_lines, add_text, add_white, blank_ink, inked
from .signals import Plot, drawn_signal
from .text import bar_height, font_size, text_width

__all__ = ["Slices", "Unfolded", "as_pictures", "check_slices", "unfold"]

Slices = Literal["planes", "strip"]

_AXES = {1: ("time",), 2: ("height", "width"), 3: ("depth", "height", "width")}
_FRAMES = 8  # side by side
_GAP = 8  # px between slices
_PLANE, _FRAME = (160, 320), (96, 160)  # px: longer side of a slice that is enlarged, and of one that is shrunk
_ALONE = 160, 4096

Choice = tuple[tuple[int, int], ...]
"""Slices: the axis that each is cut through, and where."""


@dataclass(frozen=True, eq=False)
class Unfolded:
    """A sample as a flat picture.

    Attributes:
        picture: uint8 RGB (H, W, 3), without ink.
        ink: What is drawn over heat and picture; None for nothing.
        lay: Brings a map in [0, 1], (*space) float32, to where it lies on the picture: (h, w) float32, of the picture's
            size or, of an image, of its own.
        lay_mask: Likewise a mask, (*space) bool, to (h, w) bool.
        again: Draws another display of the same sample in the same way, with its ink.
        is_row: Whether it is a signal, or slices side by side.
    """

    picture: Image
    ink: Ink | None
    lay: Callable[[Floats], Floats]
    lay_mask: Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]
    again: Callable[[npt.NDArray[Any]], Image]
    is_row: bool = False

    @property
    def shown(self) -> Image:
        """The picture with its ink, uint8 RGB."""
        return inked(self.picture, self.ink)

    @property
    def is_wide(self) -> bool:
        """Whether pictures like this one are read more easily one below the other."""
        return self.is_row and self.picture.shape[1] >= 1.2 * self.picture.shape[0]

    @property
    def fonts(self) -> tuple[int, int]:
        """Sizes in px of the letters of a caption and of a title."""
        height, width = self.picture.shape[:2]
        if self.is_row:
            return (font_size(min(width // 2, round(1.4 * height))),) * 2
        return font_size(width), font_size(min(height, width))


def as_pictures(images: Sequence[npt.NDArray[Any]], heatmaps: Floats) -> Floats:
    """Returns maps of volumes or clips that are shown as a picture each as maps of these: their mean along the slices.

    Args:
        images: N display images.
        heatmaps: (N, *space) float32.
    """
    of_pictures = heatmaps.ndim == 4 and all(np.ndim(image) == 3 for image in images)
    return np.asarray(heatmaps.mean(axis=1), np.float32) if of_pictures else heatmaps


def check_slices(slices: str | None, images: Sequence[npt.NDArray[Any]]) -> None:
    """Checks that there are slices to choose from.

    Args:
        slices: As in `Overlay`.
        images: Display images.

    Raises:
        ValueError: If slices are chosen of what has none.
    """
    if slices is not None and not all(np.ndim(image) == 4 for image in images):
        raise ValueError(
            "Overlay(slices=...) chooses slices of volumes and frames of clips, where `display` shows these. "
            f"Received: slices={slices!r} for {'signals' if np.ndim(images[0]) == 2 else 'images'}. slices=None works."
        )


def unfold(
    display: npt.NDArray[Any],
    maps: Sequence[Floats],
    *,
    space: Space | None = None,
    slices: str | int | None = None,
    size: int | tuple[int, int] | None = None,
    name: str = "images[0]",
) -> Unfolded:
    """Makes a sample a flat picture.

    Args:
        display: What people see of it, as in `Look`.
        maps: Its heatmaps, each (*space) float32, raw. The first that is not degenerate chooses the slices.
        space: What its axes are, and how far positions are apart; None for an image, a volume or a signal, by the
            number of axes of its maps.
        slices: As in `Overlay`; a number for one slice along the first axis.
        size: As in `Overlay`, of the whole picture.
        name: Of the display, for errors.

    Raises:
        ValueError: If the display is none of a sample with such axes.
    """
    axes = maps[0].ndim
    display = np.asarray(display)
    if axes == 1:
        return _unfolded_signal(display, size, name)
    if axes == 2:
        picture = displayed(checked_image(display, name), size)
        return Unfolded(picture, None, _as_it_is, _flat_mask, _as_it_is)
    if axes != 3 or display.ndim != 4 or display.dtype != np.uint8 or display.shape[3] != 3 or 0 in display.shape:
        raise ValueError(
            f"`{name}` must be uint8 RGB of shape (slices, H, W, 3) for a heatmap of {axes} axes. "
            f"Received: {display.dtype}, shape {display.shape}."
        )
    names = _AXES[3] if space is None else space.axes
    spacing = (space.spacing if space is not None else ()) or (1.0,) * 3
    kind = slices if slices is not None else "strip" if names[0] == "time" else "planes"
    top = next((each for each in maps if not degenerate(each[None])[0]), None)
    choice, hottest = _choose(kind, names[0] == "time", display.shape[:3], top)
    sheet = _Sheet.of(choice, display.shape[:3], spacing, kind, size, _labels(choice, names, hottest))
    return Unfolded(sheet.filled(display), sheet.ink(), sheet.laid, sheet.laid_mask, sheet.again, len(choice) > 1)


def _as_it_is(array: Any) -> Any:
    return array


def _flat_mask(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A mask of a volume that is shown as a picture: where any slice has it."""
    return mask if mask.ndim == 2 else np.asarray(mask.any(axis=0), np.bool_)


# Signals


def _unfolded_signal(display: npt.NDArray[Any], size: int | tuple[int, int] | None, name: str) -> Unfolded:
    """A signal (T, C) as lines; or, beside a picture (H, W, 3) of the user's, the ground alone."""
    beside = None
    if display.ndim == 3:
        beside = checked_image(display, name)
    elif display.ndim != 2 or display.dtype.kind not in "biuf" or 0 in display.shape:
        raise ValueError(
            f"`{name}` must be a signal (T, C) or an image uint8 RGB (H, W, 3) for a heatmap of one axis. "
            f"Received: {display.dtype}, shape {display.shape}."
        )
    plot = drawn_signal(None if beside is not None else display, size)
    left = 0
    picture, ink = plot.picture, plot.ink
    if beside is not None:
        high = picture.shape[0]
        beside = displayed(beside, (high, max(1, round(high * beside.shape[1] / beside.shape[0]))))
        left = beside.shape[1] + _GAP
        picture = np.hstack([beside, np.full((high, _GAP, 3), 255, np.uint8), picture])
        ink = np.pad(ink, ((0, 0), (left, 0), (0, 0)))
        add_white(ink, np.s_[:, beside.shape[1] : left])
        ink[:, : beside.shape[1], :3] = beside / np.float32(255)  # No heat lies on it.
        ink[:, : beside.shape[1], 3] = 1
    again = partial(_again_signal, size=size)
    return Unfolded(picture, ink, partial(_laid_signal, plot, left), partial(_laid_mask, plot, left), again, True)


def _again_signal(display: npt.NDArray[Any], size: int | tuple[int, int] | None) -> Image:
    if np.ndim(display) != 2:
        return display
    plot = drawn_signal(np.asarray(display), size)
    return inked(plot.picture, plot.ink)


def _laid_signal(plot: Plot, left: int, level: Floats) -> Floats:
    ground = cv2.resize(level[None], (plot.width, 1), interpolation=_how(level.shape, (plot.width,)))
    flat = np.zeros(plot.picture.shape[:2], np.float32)
    flat[: plot.height] = ground
    return np.pad(flat, ((0, 0), (left, 0)))


def _laid_mask(plot: Plot, left: int, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    flat = np.zeros(plot.picture.shape[:2], np.bool_)
    flat[: plot.height] = mask[_nearest(plot.width, len(mask))]
    return np.pad(flat, ((0, 0), (left, 0)))


# Volumes and clips


def _choose(kind: str | int, is_clip: bool, sizes: tuple[int, ...], top: Floats | None) -> tuple[Choice, int | None]:
    """Chooses slices; and tells which one of a strip has most heat, None where no one has."""
    if isinstance(kind, int):
        return ((0, kind),), None
    if kind == "planes":
        peak = [side // 2 for side in sizes]
        if top is not None:
            place = np.unravel_index(int(np.argmax(top)), top.shape)
            peak = [int((p + 0.5) * n / m) for p, n, m in zip(place, sizes, top.shape, strict=True)]
        return tuple(enumerate(peak)), None
    count = sizes[0]
    even = np.linspace(0, count - 1, min(_FRAMES, count)).round().astype(int).tolist()
    heat = np.zeros(1) if top is None else np.maximum(top, 0).sum(axis=(1, 2), dtype=np.float64)
    if np.ptp(heat) <= 1e-6 * heat.max():
        return tuple((0, index) for index in even), None
    heat = resize(heat[None], (count,))[0]
    hottest = int(np.argmax(heat))
    chosen = even if is_clip else np.argsort(-heat, kind="stable")[:_FRAMES].tolist()
    if hottest not in chosen:
        chosen[min(range(len(chosen)), key=lambda i: abs(chosen[i] - hottest))] = hottest
    return tuple((0, index) for index in sorted(chosen)), hottest


def _labels(choice: Choice, names: Sequence[str], hottest: int | None) -> list[str]:
    """What stands under each slice: its axis, where it differs from the one before, and its number."""
    labels = []
    for i, (axis, index) in enumerate(choice):
        text = f"{names[axis]} {index}" if i == 0 or axis != choice[i - 1][0] else str(index)
        labels.append(text + ", most heat" * (index == hottest))
    return labels


@dataclass(frozen=True)
class _Sheet:
    """Where slices stand side by side, over their labels.

    Attributes:
        choice: The slices.
        sizes: Of the display along each axis.
        cells: Height and width in px of each slice.
        lefts: Where each begins.
        height: Of the whole in px.
        width: Likewise.
        labels: What stands under each.
        font: Of the labels, in px.
    """

    choice: Choice
    sizes: tuple[int, ...]
    cells: tuple[tuple[int, int], ...]
    lefts: tuple[int, ...]
    height: int
    width: int
    labels: tuple[str, ...]
    font: int

    @staticmethod
    def of(
        choice: Choice,
        sizes: tuple[int, ...],
        spacing: Sequence[float],
        kind: str | int,
        size: int | tuple[int, int] | None,
        labels: Sequence[str],
    ) -> _Sheet:
        """Lays the slices out, as large as `size` says."""
        extents = np.array(sizes) * np.array(spacing) / min(spacing)
        sides = [np.delete(extents, axis) for axis, _ in choice]
        longest = max(float(side.max()) for side in sides)
        gaps = _GAP * (len(choice) - 1)
        across, high = sum(float(side[1]) for side in sides), max(float(side[0]) for side in sides)
        if size is None:
            least, most = _ALONE if isinstance(kind, int) else _PLANE if kind == "planes" else _FRAME
            scale = np.full(2, np.ceil(least / longest) if longest < least else min(1.0, most / longest))
        elif isinstance(size, int):
            scale = np.full(2, size / high if high > across + gaps else max(1, size - gaps) / across)
        else:
            scale = np.array([size[0] / high, max(1, size[1] - gaps) / across])
        cells = tuple((max(1, round(h)), max(1, round(w))) for h, w in (side * scale for side in sides))
        font = font_size(round(longest * float(scale.max())))
        lefts, x = [], 0
        for (_, width), label in zip(cells, labels, strict=True):
            room = max(width, text_width(label, font) + 2)  # A narrow slice stands in the middle of its column.
            lefts.append(x + (room - width) // 2)
            x += room + _GAP
        tallest = max(height for height, _ in cells)
        return _Sheet(choice, sizes, cells, tuple(lefts), tallest + bar_height(1, font), x - _GAP, tuple(labels), font)

    def _places(self) -> list[tuple[slice, slice]]:
        """Where each slice is in the picture."""
        return [np.s_[:h, x : x + w] for (h, w), x in zip(self.cells, self.lefts, strict=True)]

    def filled(self, display: npt.NDArray[Any]) -> Image:
        """Draws the slices of a display (d, H, W, 3)."""
        picture = np.full((self.height, self.width, 3), 255, np.uint8)
        for (axis, index), cell, place in zip(self.choice, self.cells, self._places(), strict=True):
            picture[place] = displayed(np.ascontiguousarray(display.take(index, axis)), cell)
        return picture

    def again(self, display: npt.NDArray[Any]) -> Image:
        """Draws another display, as `Unfolded.again`; one that is a picture already stays so."""
        display = np.asarray(display)
        return inked(self.filled(display), self.ink()) if display.ndim == 4 else display

    def laid(self, level: Floats) -> Floats:
        """Lays a map on the slices, linearly along all axes."""
        flat = np.zeros((self.height, self.width), np.float32)
        for (axis, index), (height, width), place in zip(self.choice, self.cells, self._places(), strict=True):
            count = level.shape[axis]
            at = min(max((index + 0.5) * count / self.sizes[axis] - 0.5, 0), count - 1)
            low = int(at)
            share = np.float32(at - low)
            below, above = level.take(low, axis), level.take(min(low + 1, count - 1), axis)
            cut = np.ascontiguousarray(below * (1 - share) + above * share)
            flat[place] = cv2.resize(cut, (width, height), interpolation=_how(cut.shape, (height, width)))
        return flat

    def laid_mask(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Lays a mask (*space) on the slices."""
        flat = np.zeros((self.height, self.width), np.bool_)
        for (axis, index), (height, width), place in zip(self.choice, self.cells, self._places(), strict=True):
            cut = np.asarray(mask.take(int((index + 0.5) * mask.shape[axis] / self.sizes[axis]), axis), np.bool_)
            flat[place] = cut[np.ix_(_nearest(height, cut.shape[0]), _nearest(width, cut.shape[1]))]
        return flat

    def ink(self) -> Ink:
        """White around the slices, their labels, and in planes ticks at their edges where the other ones cut them."""
        ink = blank_ink(self.height, self.width)
        around = np.ones((self.height, self.width), np.bool_)
        for place in self._places():
            around[place] = False
        add_white(ink, around)
        cuts = dict(self.choice)
        if len(cuts) == 3:
            for (axis, _), (height, width), left in zip(self.choice, self.cells, self.lefts, strict=True):
                down, along = (other for other in range(3) if other != axis)
                x = left + int((cuts[along] + 0.5) * width / self.sizes[along])
                y = int((cuts[down] + 0.5) * height / self.sizes[down])
                tick = max(3, max(height, width) // 16)
                up, side = min(tick, height // 8), min(tick, width // 8)
                ends = [((x, 0), (x, up)), ((x, height - 1), (x, height - 1 - up))]
                ends += [((left, y), (left + side, y)), ((left + width - 1, y), (left + width - 1 - side, y))]
                add_lines(ink, [np.array(end) for end in ends], 1, light=True)
        lefts = [
            max(0, x + (width - text_width(label, self.font)) // 2)
            for x, (_, width), label in zip(self.lefts, self.cells, self.labels, strict=True)
        ]
        texts = zip(self.labels, lefts, (height for height, _ in self.cells), strict=True)
        add_text(ink, list(texts), self.font)
        return ink


def _how(of: Sequence[int], to: Sequence[int]) -> int:
    """How a map is resized, as that of an image: by area where all sides become shorter, else linearly."""
    return int(cv2.INTER_AREA if all(new < old for new, old in zip(to, of, strict=True)) else cv2.INTER_LINEAR)


def _nearest(to: int, of: int) -> npt.NDArray[np.intp]:
    """(to,) for each of `to` positions which of `of` it lies on."""
    return np.asarray((np.arange(to) + 0.5) * of / to, np.intp)
