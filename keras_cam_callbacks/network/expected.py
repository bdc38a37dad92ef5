"""Which range of values a model expects, by what it makes of the values of its images.

A scaling that ends in a range that networks take says it. A mean and a deviation leave open which range it is: they are
those of drawings in [0, 1] as well as of photographs in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_TOLERANCE = 0.01
# Ranges that people have images in, the likeliest first.
_RANGES = (
    *((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5)),
    *((0.0, 4095.0), (0.0, 65535.0), (0.0, 1023.0), (0.0, 16383.0)),
)
# Those of ImageNet in [0, 1], which most networks for photographs take.
_RGB_MEAN, _RGB_DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_LEAST_SPREAD = 0.05
"""Deviation of images, as a share of their range, below which another range is likelier."""


@dataclass(frozen=True)
class Expected:
    """The range of values that a model expects.

    Attributes:
        name: What the range is called, as in `ValueRange`: "[0, 255]", "mean/std", or "[0, 4095]". None where the
            model changes the values itself, but does not say what they are.
        why: From what this is known, in words.
        sure: Whether the graph says so; else it is by the name of a network whose training is public, or the likeliest
            of `fitting`.
        claim: What the graph says, in words; "" for that the model expects values of this range.
        fitting: The ranges that images of this mean and deviation can have, the narrowest first; empty where the range
            does not follow from these.
        mean: (C,) or (1,) means of the images that a Normalization was adapted to; empty likewise.
        deviation: Their standard deviations.
    """

    name: str | None
    why: str
    sure: bool
    claim: str = ""
    fitting: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @property
    def words(self) -> str:
        """What the model says, in words."""
        return f"{self.claim or f'the model expects values of {self.name}'} ({self.why})"


def range_name(low: float, high: float) -> str:
    """Returns the name of a range of numbers, such as "[0, 255]"."""
    return f"[{low:.6g}, {high:.6g}]"


def met(factor: Numbers, offset: Numbers) -> tuple[float, float] | None:
    """Returns the range of images that is brought to one that networks take; None for none."""
    if not _is_plain(factor, offset) or (np.allclose(factor, 1) and np.allclose(offset, 0)):
        return None
    for low, high in _RANGES:
        if any(_meets(factor * low + offset, factor * high + offset, *goal) for goal in _GOALS):
            return low, high
    return None


def _is_plain(factor: Numbers, offset: Numbers) -> bool:
    return bool(np.isfinite(factor).all() and np.isfinite(offset).all() and (factor > 0).all())


def by_arithmetic(factor: Numbers, offset: Numbers, by: str) -> Expected:
    """Returns what is known of images of which a model makes factor * x + offset, (C,) or (1,), as words say."""
    if not _is_plain(factor, offset) or (np.allclose(factor, 1) and np.allclose(offset, 0)):
        return Expected(None, by, True)
    if factor.size == 1 or np.allclose(factor, factor[0], rtol=_TOLERANCE):
        scale, shift = float(factor.mean()), float(offset.mean())
        if abs(shift) < 0.03 and 2**-24 < scale < 0.7:
            return Expected(range_name(0, round(1 / scale, 6)), by, True)
        if 0 < shift < 1 and scale < 0.1:  # A window, such as one of Hounsfield units; or their mean and deviation.
            name = range_name(round(-shift / scale, 6), round((1 - shift) / scale, 6))
            return Expected(name, by, True, f"the model brings values of {name} to [0, 1]")
    if np.allclose(offset, 0):
        return Expected(None, by, True)
    return by_moments(-offset / factor, 1 / factor, by)  # Less the mean, by the deviation, written out.


def by_moments(mean: Numbers, deviation: Numbers, by: str) -> Expected:
    """Returns what is known of images by their mean and deviation."""
    for top in (1.0, 255.0):
        for order in (slice(None), slice(None, None, -1)):
            moments = zip((mean, deviation), (_RGB_MEAN[order], _RGB_DEVIATION[order]), strict=True)
            if all(np.allclose(one / top, other, rtol=_TOLERANCE) for one, other in moments):
                return Expected(range_name(0, top), by, True)
    ranges = [ends for ends in _RANGES if _can_have(mean, deviation, *ends)]
    if not ranges:
        return Expected(None, by, True)
    claim = f"the model takes values of a mean of {mean.mean():.3g} and a deviation of {deviation.mean():.3g}"
    narrow = sorted(ranges, key=lambda ends: ends[1] - ends[0])
    names = tuple(range_name(*ends) for ends in narrow)
    numbers = (tuple(map(float, of)) for of in (mean, deviation))
    return Expected(range_name(*ranges[0]), by, False, claim, names, *numbers)


def _can_have(mean: Numbers, deviation: Numbers, low: float, high: float) -> bool:
    """Tells whether values between `low` and `high` can have a mean and a deviation, and use enough of the range.

    No values have a variance above (high - mean) * (mean - low).

    Reference:
        Bhatia and Davis, "A better bound on the variance", American Mathematical Monthly 107 (2000).
    """
    most = np.maximum(high - mean, 0) * np.maximum(mean - low, 0)
    return bool((deviation**2 <= 1.05 * most).all() and (deviation >= _LEAST_SPREAD * (high - low)).all())


_GOALS = ((0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 255.0))


def _meets(least: Numbers, most: Numbers, low: float, high: float) -> bool:
    """Tells whether values reach from `low` to `high`, up to a small share of that."""
    near = 0.005 * (high - low)  # 255 / 256 is as good as 1; 65535 / 257 and 65535 / 255 are not the same.
    return bool((np.abs(least - low) <= near).all() and (np.abs(most - high) <= near).all())
