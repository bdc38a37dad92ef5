"""A signal as lines over a white ground, one for each channel, with its positions below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..opencv import cv2
from ..records import Image
from .ink import Ink, add_lines, add_text, add_white, blank_ink
from .text import bar_height, text_width

__all__ = ["Plot", "drawn_signal"]

_WIDTH, _HEIGHT = 640, 160  # px
_ROW = 40  # px: of a channel at least
_LINES = 12  # More channels than that are rows of grey.
_FONT = 13
_TICK = 5  # px
_NUMBERS = 8  # below at most


@dataclass(frozen=True, eq=False)
class Plot:
    """A signal as a picture.

    Attributes:
        picture: uint8 RGB (H, W, 3): white; rows of grey where there are many channels.
        ink: Lines and numbers.
        height: Of the ground in px; below it are the positions.
        width: Likewise.
    """

    picture: Image
    ink: Ink
    height: int
    width: int


def drawn_signal(signal: npt.NDArray[Any] | None, size: int | tuple[int, int] | None) -> Plot:
    """Draws a signal.

    Args:
        signal: (T, C) numbers, each channel shown between its least and its largest; None for the bare ground.
        size: As in `Overlay`; the height is that of the whole.
    """
    length, channels = (0, 1) if signal is None else signal.shape
    below = _TICK + bar_height(1, _FONT) if length else 0
    if isinstance(size, tuple):
        height, width = max(1, size[0] - below), size[1]
    else:
        width = size or _WIDTH
        # The sizes of a signal that is drawn larger or smaller than usual keep their proportion.
        usual = _HEIGHT if channels > _LINES else max(_HEIGHT, _ROW * channels)
        height = max(1, round(usual * width / _WIDTH))
    picture = np.full((height + below, width, 3), 255, np.uint8)
    ink = blank_ink(*picture.shape[:2])
    if signal is None:
        return Plot(picture, ink, height, width)
    values = np.asarray(signal, np.float64)
    if channels > _LINES:
        grey = _shares(values).T
        shown = cv2.resize(np.nan_to_num(grey, nan=0.5) * 255, (width, height), interpolation=cv2.INTER_AREA)
        picture[:height] = np.rint(shown).astype(np.uint8)[..., None]
    else:
        _add_curves(ink, _shares(values), height, width)
    add_white(ink, np.s_[height:])
    _add_positions(ink, length, height)
    return Plot(picture, ink, height, width)


def _shares(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(T, C) in [0, 1], from each channel's least value to its largest; NaN where it is not finite."""
    values = np.where(np.isfinite(values), values, np.nan)
    none = np.isnan(values).all(axis=0)
    values = np.where(none, 0.0, values)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    spread = np.where(high > low, high - low, 1)
    shares: npt.NDArray[np.float64] = np.where(high > low, (values - low) / spread, 0.5)
    return np.where(np.isnan(values) | none, np.nan, shares)


def _add_curves(ink: Ink, shares: npt.NDArray[np.float64], height: int, width: int) -> None:
    length, channels = shares.shape
    x = (np.arange(length) + 0.5) * width / length - 0.5
    row = height / channels
    thickness = 2 if row >= 2 * _ROW else 1
    lines = []
    for channel, of_channel in enumerate(shares.T):
        y = row * channel + row * (0.06 + 0.88 * (1 - of_channel)) - 0.5
        seen = np.isfinite(of_channel)
        # A line ends where a value is missing.
        for run in np.split(np.arange(length), np.flatnonzero(np.diff(seen.astype(int))) + 1):
            if seen[run[0]]:
                points = _thinned(x[run], y[run], width)
                lines.append(points if len(points) > 1 else points + np.array([[-1.5, 0], [1.5, 0]]))
    if lines:
        add_lines(ink, lines, thickness)
    for channel in range(1, channels):
        ink[round(row * channel)] = (0.35, 0.35, 0.35, 0.5)
    if channels > 1 and row >= bar_height(1, _FONT):
        add_text(ink, [(str(channel), 3, round(row * channel)) for channel in range(channels)], _FONT, edge=True)


def _thinned(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """(P, 2) points of a line: of more than four in a column of pixels, the first, the extremes and the last."""
    points = np.stack([x, y], axis=1)
    if len(points) <= 4 * width:
        return points
    starts = np.flatnonzero(np.diff(np.floor(x), prepend=-np.inf))
    ends = np.append(starts[1:], len(x)) - 1
    low, high = (extreme.reduceat(y, starts) for extreme in (np.minimum, np.maximum))
    columns = np.stack([y[starts], low, high, y[ends]], axis=1)
    return np.stack([np.repeat(x[starts], 4), columns.ravel()], axis=1)


def _add_positions(ink: Ink, length: int, top: int) -> None:
    """Adds ticks and numbers below the ground, counted from 0."""
    width = ink.shape[1]
    room = max(1, min(_NUMBERS, width // (text_width(str(length), _FONT) + 2 * _FONT)))
    power = 10 ** math.floor(math.log10(max(1, length / room)))
    step = next(n * power for n in (1, 2, 5, 10) if n * power * room >= length)
    texts = []
    for position in range(0, length, step):
        x = int((position + 0.5) * width / length)
        ink[top : top + _TICK, x] = (0.0, 0.0, 0.0, 1.0)
        text = str(position) if position else "time 0"
        left = min(max(0, x - text_width(text, _FONT) // 2), width - text_width(text, _FONT))
        texts.append((text, left, top + _TICK - 2))
    add_text(ink, texts, _FONT)
