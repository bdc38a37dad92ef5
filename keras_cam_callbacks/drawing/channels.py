"""What a network has learnt to see: grids of a layer's channels, and of the patterns that excite its filters.

Pure numpy and OpenCV: arrays in, uint8 RGB out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import check_whole
from ..opencv import cv2
from ..records import Floats, Image
from .columns import displayed
from .files import ImageFormat
from .overlay import Overlay, colorize
from .text import bar_height, text_width, write

Bools = npt.NDArray[np.bool_]
Tones = npt.NDArray[np.uint8]

_CONSTANT = 1e-6  # share of the largest size by which the values of a constant channel may differ, from rounding
_FONT = 13
_BESIDE, _MARGIN = 160, 8  # px: the image beside a grid
_DEAD, _CROSS = (60,) * 3, (130,) * 3
_LARGEST, _SMALLEST = 128, 4  # px: longer side of an enlarged cell, and of one that must not shrink further


@dataclass(frozen=True)
class GridStyle:
    """How the channels of a layer are drawn.

    Attributes:
        colormap: One of `overlay.COLORMAPS`.
        size: Longest side of a grid in px, its numbers included, at least 256. The image beside it and the caption
            below add up to 200 px. Cells are shrunk to fit, and no channel is left out.
        image_format: "jpg" or "png".

    Raises:
        ValueError: If a setting is not one of the above.
    """

    colormap: str = "viridis"
    size: int = 1024
    image_format: ImageFormat = "jpg"

    def __post_init__(self) -> None:
        Overlay(colormap=self.colormap, image_format=self.image_format)  # knows what is wrong with them
        check_whole("size", self.size, 256, 1024)


@dataclass(frozen=True)
class Sheet:
    """Where the cells of a grid stand.

    Attributes:
        columns: Cells in a row.
        rows: Rows.
        height: Height of a cell in px.
        width: Width of a cell in px.
        gap: White px between cells.
    """

    columns: int
    rows: int
    height: int
    width: int
    gap: int


def extremes(activations: Floats) -> tuple[Floats, Floats]:
    """Returns the smallest and the largest value of each channel, over all samples and positions.

    Args:
        activations: (N, *space, C) float32.

    Returns:
        Two arrays (C,) float32; NaN where a channel holds NaN.
    """
    axes = tuple(range(activations.ndim - 1))
    low: Floats = activations.min(axis=axes)
    high: Floats = activations.max(axis=axes)
    return low, high


def dead_channels(low: Floats, high: Floats) -> Bools:
    """Tells which channels carry nothing.

    A channel is dead if it is constant: its values at all positions of all samples differ by at most 1e-6 of the
    largest of them in size. So a channel behind a ReLU is dead where nothing is above 0. One with a NaN or an infinity
    is dead, too.

    Args:
        low: (C,) float32, the smallest value of each channel.
        high: (C,) float32, the largest one.

    Returns:
        (C,) bool, True where a channel is dead.
    """
    low64, high64 = low.astype(np.float64), high.astype(np.float64)
    with np.errstate(invalid="ignore"):
        lives: Bools = (
            np.isfinite(low64)
            & np.isfinite(high64)
            & (high64 - low64 > _CONSTANT * np.maximum(np.abs(low64), np.abs(high64)))
        )
    return ~lives


def make_sheet(channels: int, height: int, width: int, size: int) -> Sheet:
    """Chooses the fullest grid, then the squarest, of those whose cells are at least 0.7 of the largest possible.

    Cells are the maps enlarged by a whole factor up to 128 px, or shrunk as far as the bound demands, to 4 px at least:
    only then the grid grows beyond it. No channel is left out.

    Args:
        channels: How many cells there are.
        height: Height of a map in px.
        width: Width of a map in px.
        size: Longest side of the grid in px, its numbers included.
    """
    top, left = numbers_around(channels)
    gap = 2 if channels <= 128 else 1
    longest = max(height, width)
    most = max(1, _LARGEST // longest)

    def scale(columns: int) -> float:
        """The factor at which the maps fit."""
        rows = math.ceil(channels / columns)
        across, down = (size - left) / columns, (size - top) / rows
        factor = min((across - gap) / width, (down - gap) / height)
        return min(most, math.floor(factor)) if factor >= 1 else max(factor, _SMALLEST / longest)

    def squareness(columns: int) -> float:
        # Rounded, so that of 4 x 8 and 8 x 4 the wider one is chosen.
        rows = math.ceil(channels / columns)
        return -round(abs(math.log(columns * width / (rows * height))), 6)

    def empty(columns: int) -> int:
        return -channels % columns

    enough = 0.7 * max(map(scale, range(1, channels + 1)))
    large = [columns for columns in range(1, channels + 1) if scale(columns) >= enough]
    columns = max(large, key=lambda c: (-empty(c), squareness(c), c))
    factor = scale(columns)
    cell = max(1, int(height * factor)), max(1, int(width * factor))
    return Sheet(columns, math.ceil(channels / columns), *cell, gap)


def tones(activations: Floats, sheet: Sheet) -> Tones:
    """Centres and scales each channel of each sample, and brings it to the size of its cell.

    tone = 64 * (a - mean(a)) / deviation(a) + 128, cut to [0, 255]: grey 128 is the channel's mean, and two of its
    deviations above are white. A channel that is constant in a sample, or not finite, is 128.

    Args:
        activations: (N, h, w, C) float32.
        sheet: Says how large a cell is.

    Returns:
        (N, C, height, width) uint8.

    Reference:
        Chollet, Deep Learning with Python, chapter "Visualizing what convnets learn".
    """
    values = np.moveaxis(activations, -1, 1).astype(np.float64)  # float32 overflows in the squares of large values
    finite = np.isfinite(values).all(axis=(2, 3), keepdims=True)
    values = np.where(finite, values, 0.0)
    values -= values.mean(axis=(2, 3), keepdims=True)
    deviation = values.std(axis=(2, 3), keepdims=True)
    largest = np.abs(activations).max(axis=(1, 2))[..., None, None] if activations.size else deviation
    flat = ~finite | (deviation <= _CONSTANT * np.nan_to_num(largest))
    values = np.where(flat, 0.0, 64 * values / np.where(flat, 1.0, deviation))
    height, width = values.shape[2:]
    if sheet.height >= height and sheet.width >= width:
        shown = values.repeat(sheet.height // height, axis=2).repeat(sheet.width // width, axis=3)
    else:
        cell = sheet.width, sheet.height
        small = [cv2.resize(each, cell, interpolation=cv2.INTER_AREA) for each in values.reshape(-1, height, width)]
        shown = np.reshape(small, (*values.shape[:2], sheet.height, sheet.width))
    return np.clip(np.rint(shown + 128), 0, 255).astype(np.uint8)


def channel_grid(channels: Tones, dead: Bools, sheet: Sheet, colormap: str = "viridis") -> Image:
    """Draws all channels of one sample in a grid.

    The number on the left of a row is that of its first channel; those on top are to be added. Dead channels are dark
    grey with a cross.

    Args:
        channels: (C, height, width) uint8, as from `tones`.
        dead: (C,) bool.
        sheet: As for `tones`.
        colormap: A name in `overlay.COLORMAPS`.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        ValueError: If there is no such colormap.
    """
    coloured = colorize(channels.reshape(-1, sheet.width), colormap).reshape(*channels.shape, 3)
    cells = [_crossed(cell) if blank else cell for cell, blank in zip(coloured, dead, strict=True)]
    top, left = numbers_around(len(cells))
    step_x, step_y = sheet.width + sheet.gap, sheet.height + sheet.gap
    canvas = np.full((top + sheet.rows * step_y, left + sheet.columns * step_x, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        row, column = divmod(i, sheet.columns)
        y, x = top + row * step_y, left + column * step_x
        canvas[y : y + sheet.height, x : x + sheet.width] = cell
    if not top:
        return canvas
    for column in range(0, sheet.columns, _stride(text_width(f"+{sheet.columns}", _FONT) + 6, step_x)):
        label = f"+{column}"
        write(canvas, [label], [left + column * step_x + (sheet.width - text_width(label, _FONT)) // 2], 0, _FONT)
    for row in range(0, sheet.rows, _stride(bar_height(1, _FONT), step_y)):
        label = str(row * sheet.columns)
        y = top + row * step_y + (sheet.height - bar_height(1, _FONT)) // 2
        write(canvas, [label], [left - 6 - text_width(label, _FONT)], max(0, y), _FONT)
    return canvas


def with_image(image: Image, grid: Image) -> Image:
    """Puts the image that the grid was made from on the left of it, 160 px high or wide.

    Args:
        image: uint8 RGB (H, W, 3).
        grid: uint8 RGB.

    Returns:
        uint8 RGB.
    """
    image = displayed(image, _BESIDE)
    height, width = image.shape[:2]
    left = _BESIDE + 2 * _MARGIN
    canvas = np.full((max(height + 2 * _MARGIN, grid.shape[0]), left + grid.shape[1], 3), 255, np.uint8)
    canvas[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width] = image
    canvas[: grid.shape[0], left:] = grid
    return canvas


def deprocess(images: npt.NDArray[np.floating[Any]], contrast: float = 0.15) -> Image:
    """Turns images of any range, such as sums of gradients, into something to look at.

    Each is centred, brought to a deviation of `contrast` around 0.5 and cut to [0, 1]. Three channels are RGB; of any
    other number the mean is shown in grey. An image that is constant, or not finite, is plain grey.

    Args:
        images: (N, H, W, C) float.
        contrast: The deviation, of the range from black to white.

    Returns:
        (N, H, W, 3) uint8.
    """
    values = np.asarray(images, np.float64)
    if values.shape[-1] != 3:
        values = values.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    finite = np.isfinite(values).all(axis=(1, 2, 3), keepdims=True)
    values = np.where(finite, values, 0.0)
    values = values - values.mean(axis=(1, 2, 3), keepdims=True)
    deviation = values.std(axis=(1, 2, 3), keepdims=True)
    values = values / np.where(deviation > 1e-12, deviation, 1.0) * contrast + 0.5
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)


def pattern_grid(patterns: Image, labels: Sequence[str], dead: Bools, size: int) -> Image:
    """Draws patterns in a grid, each over its label. Those of dead filters are dark grey with a cross.

    Args:
        patterns: (F, H, W, 3) uint8.
        labels: F texts, such as "7".
        dead: (F,) bool.
        size: Longest side of the grid in px; patterns are shrunk to fit, and those below 64 px enlarged.

    Returns:
        uint8 RGB (H', W', 3).
    """
    count, height, width = patterns.shape[:3]
    bar = bar_height(1, _FONT)
    gap = 4
    widest = max(text_width(label, _FONT) for label in labels)

    def factor(columns: int) -> float:
        rows = math.ceil(count / columns)
        fits = min((size / columns - gap) / width, (size / rows - gap - bar) / height)
        return float(max(min(fits, max(1.0, math.ceil(64 / max(height, width)))), _SMALLEST / max(height, width)))

    columns = max(
        range(1, count + 1),
        key=lambda c: (factor(c), -(-count % c), -abs(math.log(c * width / (math.ceil(count / c) * (height + bar))))),
    )
    scale = factor(columns)
    scale = math.floor(scale) if scale >= 1 else scale
    cell = max(1, int(height * scale)), max(1, int(width * scale))
    step_x, step_y = max(cell[1], widest) + gap, cell[0] + bar + gap
    canvas = np.full((math.ceil(count / columns) * step_y, columns * step_x, 3), 255, np.uint8)
    for i, (pattern, label, blank) in enumerate(zip(patterns, labels, dead, strict=True)):
        row, column = divmod(i, columns)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        shown = np.asarray(cv2.resize(pattern, cell[::-1], interpolation=how), np.uint8)
        y, x = row * step_y, column * step_x + (step_x - cell[1]) // 2
        canvas[y : y + cell[0], x : x + cell[1]] = _crossed(shown) if blank else shown
        write(canvas, [label], [column * step_x + (step_x - text_width(label, _FONT)) // 2], y + cell[0], _FONT)
    return canvas


def _crossed(cell: Image) -> Image:
    """A dark grey cell of the same size with a cross."""
    out = np.full_like(cell, _DEAD)
    bottom, right = cell.shape[0] - 1, cell.shape[1] - 1
    thickness = max(1, min(cell.shape[:2]) // 32)
    cv2.line(out, (0, 0), (right, bottom), _CROSS, thickness)
    cv2.line(out, (0, bottom), (right, 0), _CROSS, thickness)
    return out


def numbers_around(channels: int) -> tuple[int, int]:
    """Height and width in px of the space for numbers; a channel alone has none."""
    if channels == 1:
        return 0, 0
    return bar_height(1, _FONT), text_width(str(channels), _FONT) + 12


def _stride(room: int, step: int) -> int:
    """Every how many cells there is room for a number, as 1, 2, 5, 10, 20, ...."""
    needed = math.ceil(room / step)
    power = 1
    while power * 10 < needed:
        power *= 10
    return next(n for n in (power, 2 * power, 5 * power, 10 * power) if n >= needed)
