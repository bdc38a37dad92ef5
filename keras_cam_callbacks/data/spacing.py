"""How far positions are apart: the user's word, checked, and what distances make of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..checks import is_real
from ..records import Space

__all__ = ["checked_spacing", "extent_of", "spaced", "spacing_of"]


def checked_spacing(spacing: Any) -> tuple[float, ...]:
    """Returns what the user gave as `spacing` as numbers; empty for None.

    Raises:
        ValueError: If one is no positive finite number, or there is none.
        TypeError: If they are no numbers in a row.
    """
    if spacing is None:
        return ()
    if isinstance(spacing, str) or not isinstance(spacing, Iterable):
        raise TypeError(
            "`spacing` must be a tuple of one number for each axis, or None. "
            f"Received: {spacing!r} of type {type(spacing).__name__}. (5.0, 0.7, 0.7) works for a volume."
        )
    apart = tuple(spacing)
    if not apart or not all(is_real(one) and one > 0 for one in apart):
        raise ValueError(
            f"`spacing` must hold positive finite numbers, one for each axis. Received: {spacing!r}. "
            "(5.0, 0.7, 0.7) works for a volume."
        )
    return tuple(map(float, apart))


def spaced(space: Space | None, spacing: Any) -> Space | None:
    """Returns the space of an input with how far its positions are apart.

    Args:
        space: The space; None where the input has no places.
        spacing: As the user gave it; None leaves the space as it is.

    Raises:
        ValueError: If there are not as many numbers as axes, or as `checked_spacing`.
        TypeError: As `checked_spacing`.
    """
    apart = checked_spacing(spacing)
    if not apart:
        return space
    if space is None:
        raise ValueError(
            "`spacing` needs images, signals, volumes or clips. Received: an input without places. Leave it out."
        )
    if len(apart) != len(space.axes):
        raise ValueError(
            f"`spacing` must hold one number for each axis of the model's input: {', '.join(space.axes)}, "
            f"without samples and channels. Received: {spacing!r}. {(1.0,) * len(space.axes)} works."
        )
    return replace(space, spacing=apart)


def extent_of(space: Space | None) -> tuple[float, ...] | None:
    """Returns how long an input is along each axis, by which distances are counted.

    Args:
        space: The input's space.

    Returns:
        In the unit of its spacing, or in positions; None where maps themselves tell: of images without spacing, whose
        cells are squares, and where there are no places.
    """
    if space is None or (len(space.axes) == 2 and not space.spacing):
        return None
    apart = space.spacing or (1.0,) * len(space.axes)
    return tuple(side * one for side, one in zip(space.size, apart, strict=True))


def spacing_of(space: Space | None) -> tuple[float, ...]:
    """Returns how far the positions of an input are apart; empty for 1 along all axes, and where there are none."""
    return () if space is None else space.spacing
