"""What is drawn over heat and picture alike: lines, letters, white margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..opencv import cv2
from ..records import Image
from .text import write

__all__ = ["Ink", "add_lines", "add_text", "add_white", "blank_ink", "inked"]

Ink = npt.NDArray[np.float32]
"""(H, W, 4) in [0, 1]: red, green and blue, multiplied by the fourth, which says how much of the picture is hidden."""

_DARK = 20  # of letters, as `write` has them


def blank_ink(height: int, width: int) -> Ink:
    """Returns ink that hides nothing."""
    return np.zeros((height, width, 4), np.float32)


def inked(picture: Image, ink: Ink | None) -> Image:
    """Returns the picture under its ink, uint8 RGB (H, W, 3)."""
    if ink is None:
        return picture
    return np.asarray(np.rint(picture * (1 - ink[..., 3:]) + ink[..., :3] * 255), np.uint8)


def add_white(ink: Ink, where: Any) -> None:
    """Hides what is there, an index or a mask, under white."""
    ink[where] = 1


def add_lines(ink: Ink, lines: Sequence[npt.NDArray[Any]], thickness: int, *, light: bool = False) -> None:
    """Draws lines with edges, which can be seen on any colour: dark ones with light edges, or the other way round.

    Args:
        ink: The ink.
        lines: Each (P, 2) of x and y in px; a fraction counts.
        thickness: In px.
        light: Whether the lines are white and their edges black.
    """
    points = [np.rint(np.asarray(line, np.float64) * 16).astype(np.int32) for line in lines]
    for colour, width in ((0.0 if light else 1.0, thickness + 2), (1.0 if light else 0.0, thickness)):
        cover = np.zeros(ink.shape[:2], np.uint8)
        cv2.polylines(cover, points, False, 255, width, cv2.LINE_AA, 4)
        _add(ink, cover / np.float32(255), colour)


def add_text(ink: Ink, texts: Sequence[tuple[str, int, int]], font: int, *, edge: bool = False) -> None:
    """Writes texts of plain letters.

    Args:
        ink: The ink.
        texts: What is written, how far from the left, and below which row.
        font: Height of the letters in px.
        edge: Whether the letters have white edges, for any colour below.
    """
    canvas = np.full((*ink.shape[:2], 3), 255, np.uint8)
    for text, left, top in texts:
        write(canvas, [text], [left], top, font)
    cover = (255 - canvas.min(axis=2)).astype(np.float32) / (255 - _DARK)
    if edge:
        _add(ink, cv2.dilate(cover, np.ones((3, 3), np.uint8)), 1.0)
    _add(ink, cover, _DARK / 255)


def _add(ink: Ink, cover: npt.NDArray[Any], grey: float) -> None:
    """Lays one colour over the ink, as far as `cover` (H, W) in [0, 1] says."""
    cover = np.clip(cover, 0, 1).astype(np.float32)[..., None]
    ink *= 1 - cover
    ink += cover * np.array([grey, grey, grey, 1], np.float32)
