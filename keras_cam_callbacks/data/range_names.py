"""The names of value ranges: those that a user may choose, and what is black and white in them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from ..checks import did_you_mean, is_real

# Preprocessing of keras.applications: "caffe" is BGR less the mean, "torch" is RGB less the mean, by the deviation.
BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
RGB_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
RGB_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

OF_COLOURS = ("mean-subtracted", "mean/std")
"""Ranges that only RGB images have."""

_NAMES = ("[0, 1]", "[0, 255]", "[-1, 1]", *OF_COLOURS, "min-max")
# How these are written on a command line.
_SHORT = {"0-1": "[0, 1]", "0-255": "[0, 255]", "-1-1": "[-1, 1]", "mean-std": "mean/std"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PAIR = re.compile(rf"\[?\s*({_NUMBER})\s*[,\s]\s*({_NUMBER})\s*\]?")


def checked_range(value_range: Any, name: str = "value_range") -> str | None:
    """Returns the name of the range that a user chose.

    Args:
        value_range: None for none; two rising numbers; or one of the names in `ValueRange`, "[0, 4095]" too.
        name: What the option is called.

    Raises:
        ValueError: If it is no range.
    """
    if value_range is None:
        return None
    if isinstance(value_range, str):
        text = _SHORT.get(value_range.strip(), value_range.strip())
        if text in _NAMES:
            return text
        pair = _PAIR.fullmatch(text)
        numbers: Any = tuple(map(float, pair.groups())) if pair else ()
    else:
        numbers = value_range.tolist() if isinstance(value_range, np.ndarray) else value_range
    valid = isinstance(numbers, (tuple, list)) and len(numbers) == 2 and all(map(is_real, numbers))
    # As float32, in which they are used.
    if not valid or not np.float32(numbers[0]) < np.float32(numbers[1]) < math.inf:
        raise ValueError(
            f"`{name}` must be (black, white), two finite numbers of which the second is larger, or one of "
            f"{', '.join(map(repr, _NAMES))}. Received: {name}={value_range!r}."
            f"{did_you_mean(value_range, _NAMES)} {name}=(0, 255) works."
        )
    return named(float(numbers[0]), float(numbers[1]))


def named(black: float, white: float) -> str:
    """Returns the name of a range of numbers, such as "[0, 255]"."""
    return f"[{black:.9g}, {white:.9g}]"


def limits(name: str) -> tuple[Any, Any] | None:
    """Returns what is black and white in a range, numbers or (C,) arrays; None for "min-max"."""
    if name == "mean-subtracted":
        return -BGR_MEAN, 255 - BGR_MEAN
    if name == "mean/std":
        return -RGB_MEAN / RGB_DEVIATION, (1 - RGB_MEAN) / RGB_DEVIATION
    pair = _PAIR.fullmatch(name)
    return None if pair is None else (float(pair[1]), float(pair[2]))
