"""Channels of layers for signals, volumes and clips, flat: a strip for each channel of a signal, a slice of others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..opencv import cv2
from ..records import Floats, Image
from .channels import Sheet, numbers_around
from .ink import inked
from .signals import drawn_signal

__all__ = ["over_strips", "richest_slice", "shortened", "signal_picture", "slices_of", "strip_sheet"]

_TALL, _LOW = 24, 4  # px: a strip at most, and at least
_MOST = 48  # strips below each other, before there is a second column
_PLOT, _ROW = 96, 20  # px: a signal, and each of many channels of it


def strip_sheet(channels: int, length: int, size: int) -> Sheet:
    """Chooses where strips of channels stand: all below each other, or in columns where there are many.

    Args:
        channels: How many there are.
        length: Positions of a strip.
        size: Longest side of the grid in px, its numbers included.

    Returns:
        The sheet; a strip is as many times as wide as it has positions, or shrunk.
    """
    top, left = numbers_around(channels)
    gap = 2
    columns = math.ceil(channels / _MOST)
    rows = math.ceil(channels / columns)
    room = max(1, (size - left) // columns - gap)
    width = length * (room // length) if length <= room else room
    height = min(_TALL, max(_LOW, (size - top - _PLOT) // rows - gap))
    return Sheet(columns, rows, height, width, gap)


def shortened(activations: Floats, sheet: Sheet) -> Floats:
    """Returns strips (N, 1, T', C) of a signal's activations (N, T, C), T' being at most as long as the sheet's cells.

    Of longer ones each position is the mean of those that it stands for.
    """
    count, length, channels = activations.shape
    if length > sheet.width:
        rows = np.moveaxis(activations, -1, 1).reshape(-1, length)
        # One row each, as OpenCV takes the mean only where no side grows.
        small = [cv2.resize(row[None], (sheet.width, 1), interpolation=cv2.INTER_AREA) for row in rows]
        activations = np.moveaxis(np.reshape(small, (count, channels, sheet.width)), 1, -1)
    return np.ascontiguousarray(activations[:, None], np.float32)


def signal_picture(signal: Floats, width: int = 640) -> Image:
    """Draws a signal (T, C) as a picture, uint8 RGB (H, width, 3)."""
    plot = drawn_signal(signal, (max(_PLOT, _ROW * min(signal.shape[1], 12)), width))
    return inked(plot.picture, plot.ink)


def over_strips(signal: Floats, grid: Image, sheet: Sheet, channels: int) -> Image:
    """Puts a signal (T, C) above the strips that were made from it, above each column once, as wide as they are."""
    _, left = numbers_around(channels)
    plot = signal_picture(signal, sheet.width)
    top = plot.shape[0]
    canvas = np.full((top + grid.shape[0], grid.shape[1], 3), 255, np.uint8)
    canvas[top:] = grid
    for column in range(sheet.columns):
        x = left + column * (sheet.width + sheet.gap)
        canvas[:top, x : x + sheet.width] = plot
    return canvas


def richest_slice(shown: Image) -> int:
    """Returns the slice of a volume, or the frame of a clip, (d, H, W, 3) uint8, whose values vary most.

    It depends on the sample alone, and so is the same in all epochs and for all layers.
    """
    variances = shown.reshape(len(shown), -1).astype(np.float32).var(axis=1)
    return int(np.argmax(variances))


def slices_of(activations: Floats, chosen: Sequence[int], depth: int) -> Floats:
    """Returns of each sample the slice of activations (N, d, h, w, C) that lies at a slice of the sample.

    Args:
        activations: The activations.
        chosen: N slices, of `depth`.
        depth: How many slices the samples have.

    Returns:
        (N, h, w, C) float32.
    """
    cells = activations.shape[1]
    at = [min(cells - 1, int((index + 0.5) / depth * cells)) for index in chosen]
    return activations[np.arange(len(activations)), at]
