"""Which value range images have: by the user's word, their type, the model, or how their values are distributed.

Extremes alone say little: one bright pixel, the overshoot of a resize or a brighter copy must not turn a photograph
black. Where two readings are possible the images are stretched, so that something can be seen, and it is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.expected import Expected
from ..records import ValueRange
from .layout import as_pictures
from .range_names import OF_COLOURS, limits

Pictures = Sequence[npt.NDArray[Any]]

_MOST = 50_000  # pixels that are looked at
_DARK = 25  # Whole numbers up to this are rather counts or classes than a photograph of 0 to 255.


@dataclass(frozen=True, eq=False)
class BatchRange:
    """The value range of a batch, recognised when it is first asked for.

    Attributes:
        images: (N, ...) as the model takes them.
        expected: What the model says, or None.
        chosen: What the user says, or None.
    """

    images: npt.NDArray[Any]
    expected: Expected | None
    chosen: str | None

    @cached_property
    def _value(self) -> ValueRange:
        return recognised(as_pictures(self.images), self.expected, self.chosen)

    def __call__(self) -> ValueRange:
        """Returns it."""
        return self._value


def recognised(pictures: Pictures, expected: Expected | None = None, chosen: str | None = None) -> ValueRange:
    """Returns the value range of images, one for all of them.

    Args:
        pictures: N images (H, W, C).
        expected: Which range the model expects, or None.
        chosen: The name of the range that the user chose, which wins; or None.

    Raises:
        ValueError: If the chosen range is of RGB images, and these are none.
    """
    seen = _Seen(pictures)
    if chosen is not None:
        return _as_chosen(seen, chosen)
    contradiction = ""
    if expected is None or expected.name is None:
        pass
    elif expected.fitting:
        agreeing = [name for name in expected.fitting if _agrees(seen, name)]
        if agreeing:
            return _by_moments(seen, expected, agreeing)
        contradiction = f"{expected.words}, and the images have {seen.extent}"
    elif expected.sure:
        if _agrees(seen, expected.name):
            return _stretched(seen) if _is_dark(seen, expected.name) else _of(expected.name)
        contradiction = f"{expected.words}, and the images have {seen.extent}"
    elif expected.name in OF_COLOURS and seen.could_be(expected.name, 0.15):
        return _of(expected.name)
    own = _by_type(seen) or _by_values(seen)
    if not contradiction:
        return own
    shown = "stretched to what they are" if own.name == "min-max" else f"as {own.name}"
    note = f"{contradiction}. They are shown {shown}; value_range= decides otherwise."
    return ValueRange(own.name, own.black, own.white, own.certain, note, warns=True)


def _by_moments(seen: _Seen, expected: Expected, agreeing: Sequence[str]) -> ValueRange:
    """Returns which range images have of several that the model's mean and deviation fit, the narrowest first.

    The images choose. What they leave open is the narrowest, which is not certain.
    """
    own = _by_type(seen) or _by_values(seen)
    if own.name in agreeing:
        return own
    name = agreeing[0]
    if _is_dark(seen, name):
        return _stretched(seen)
    note = (
        f"values of {seen.extent} are taken for {name}, which fits that {expected.words}; value_range= takes what they "
        "are"
    )
    return _of(name, False, note)


class _Seen:
    """What is looked at of images' values."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.is_bool = all(picture.dtype.kind == "b" for picture in pictures)
        self.is_integer = all(picture.dtype.kind in "iu" for picture in pictures)
        self.is_bytes = all(picture.dtype == np.uint8 for picture in pictures)
        self.in_colours = all(picture.shape[-1] == 3 for picture in pictures)
        rows = [_some(picture, len(pictures)).astype(np.float64) for picture in pictures]
        self.values = np.concatenate([row.ravel() for row in rows])
        self.colours = np.concatenate(rows) if self.in_colours else self.values[:, None]
        self.values = self.values[np.isfinite(self.values)]
        if not self.values.size:
            self.values = np.zeros(1)
        ends = [(float(picture.min()), float(picture.max())) for picture in pictures]
        self.least, self.most = min(end[0] for end in ends), max(end[1] for end in ends)
        if not np.isfinite([self.least, self.most]).all():
            self.least, self.most = float(self.values.min()), float(self.values.max())
        self.low, self.high = map(float, np.quantile(self.values, [0.005, 0.995]))

    @cached_property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers, as those of files are."""
        return bool((self.values == np.rint(self.values)).all())

    @cached_property
    def is_grey(self) -> bool:
        """Whether the three channels are equal."""
        near = 1e-6 * max(abs(self.least), abs(self.most), 1e-12)
        return bool((np.abs(self.colours - self.colours[:, :1]) <= near).all())

    @property
    def extent(self) -> str:
        """The values in words."""
        return f"{self.least:.4g} to {self.most:.4g}"

    def outside(self, black: Any, white: Any, margin: float) -> float:
        """Returns the share of values that lie beyond black or white by more than a share of what is between them."""
        colours = self.colours if np.size(black) > 1 else self.values[:, None]
        near = margin * (np.asarray(white, float) - black)
        return float(((colours < black - near) | (colours > white + near)).mean())

    def could_be(self, name: str, share: float) -> bool:
        """Tells whether images are what a preprocessing of RGB images has made, as far as their values tell.

        Args:
            name: The preprocessing's range.
            share: How much of the range the images must use at least.
        """
        ends = limits(name)
        assert ends is not None
        wide = float(np.mean(ends[1] - ends[0]))
        return (
            self.in_colours
            and not self.is_grey  # It would have shifted the channels against each other.
            and self.outside(*ends, 0.02) <= 0.01
            and self.high - self.low > share * wide
            and bool((np.quantile(self.colours, 0.01, axis=0) < 0).all())
        )


def _some(picture: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Returns (P, C), pixels of all parts of an image (H, W, C)."""
    pixels = picture.reshape(-1, picture.shape[-1])
    step = max(1, len(pixels) * count // _MOST)
    while gcd(step, picture.shape[1]) > 1:  # Else they would come from a few columns.
        step += 1
    return pixels[::step]


def _of(name: str, certain: bool = True, note: str = "") -> ValueRange:
    ends = limits(name)
    assert ends is not None
    black, white = (tuple(map(float, end)) if np.ndim(end) else float(end) for end in ends)
    return ValueRange(name, black, white, certain, note)


def _stretched(seen: _Seen, certain: bool = False) -> ValueRange:
    """Returns nearly the extremes, so that a few outliers don't turn all else black."""
    black, white = seen.low, seen.high
    whole = seen.most - seen.least
    if white - black <= 1e-6 * whole or whole <= white - black + 0.25 * (white - black):
        black, white = seen.least, seen.most  # A few bright spots are the picture; or there are no outliers.
    white = max(white, float(np.nextafter(np.float32(black), np.float32(np.inf), dtype=np.float32)), black + 1e-12)
    note = (
        ""
        if certain
        else (
            f"values of {seen.extent} are of no range that is recognised: {black:.4g} is shown black and {white:.4g} "
            "white; value_range= takes what they are"
        )
    )
    return ValueRange("min-max", black, white, certain, note)


def _as_chosen(seen: _Seen, name: str) -> ValueRange:
    if name == "min-max":
        return _stretched(seen, certain=True)
    if name in OF_COLOURS and not seen.in_colours:
        channels = sorted({picture.shape[-1] for picture in seen.pictures})
        raise ValueError(
            f"`value_range` can be {name!r} only for images of three channels. Received: images of "
            f"{', '.join(map(str, channels))}. value_range=(0, 1) works."
        )
    chosen = _of(name)
    black, white = (np.asarray(end, np.float64) for end in (chosen.black, chosen.white))
    near = 1e-4 * (white - black)  # What float16 and a mean in float32 leave.
    outside = sum(int(((picture < black - near) | (picture > white + near)).sum()) for picture in seen.pictures) / sum(
        picture.size for picture in seen.pictures
    )
    if not outside:
        return chosen
    percent = f"{100 * outside:.2g}" if outside >= 0.001 else "Less than 0.1"
    note = (
        f"{percent} % of the values lie outside of value_range={name!r}: they are {seen.extent}. In pictures these are "
        "black or white; the model gets them as they are."
    )
    return ValueRange(name, chosen.black, chosen.white, True, note, warns=True)


def _agrees(seen: _Seen, name: str) -> bool:
    """Tells whether images can have the range that the model's graph expects."""
    ends = limits(name)
    assert ends is not None
    black, white = ends
    if seen.outside(black, white, 0.05) > 0.02:
        return False
    # Scaled to [0, 1] or [-1, 1] once already: the model would do it twice.
    scaled = white - black >= 50 and seen.most <= 1.1 and seen.least >= -1.1 and seen.most != seen.least
    return not (scaled and (not seen.is_whole or seen.is_integer or seen.least < 0))


def _is_dark(seen: _Seen, name: str) -> bool:
    """Tells whether images of more than 8 bits use so little of their range that nothing could be seen."""
    ends = limits(name)
    assert ends is not None
    wide = ends[1] - ends[0]
    return bool(wide > 256 and seen.most != seen.least and seen.high - seen.low < 0.1 * wide)


def _by_type(seen: _Seen) -> ValueRange | None:
    """Returns the range of whole numbers, if they have one; None where they have none or are no whole numbers."""
    if seen.is_bool:
        return _of("[0, 1]")
    if not seen.is_whole or seen.least < 0 or (seen.most > 255 and not seen.is_integer):
        return None
    if seen.most > 255:
        return _stretched(seen)
    if seen.most == 0:
        return _of("[0, 255]" if seen.is_integer else "[0, 1]")
    if seen.most <= 1:
        return _of("[0, 1]")
    if seen.most <= _DARK:
        return _stretched(seen)
    plain = seen.is_bytes or seen.most > 63
    return _of("[0, 255]", plain, "" if plain else _assumed(seen, "[0, 255]"))


def _by_values(seen: _Seen) -> ValueRange:
    """Returns the range of floating-point numbers, or of negative whole ones, by how they are distributed."""
    low, high, least, most = seen.low, seen.high, seen.least, seen.most
    if seen.is_integer:
        return _stretched(seen)
    if low >= -0.1 and high <= 1.25 and least >= -0.5 and most <= 1.6 and most > 0.1:
        plain = seen.outside(0.0, 1.0, 0.02) <= 0.02 and most >= 0.5
        return _of("[0, 1]", plain, "" if plain else _assumed(seen, "[0, 1]"))
    if low >= -13 and high <= 268 and least >= -60 and most <= 320 and high >= 100 and high - low >= 60:
        plain = seen.outside(0.0, 255.0, 0.02) <= 0.02
        return _of("[0, 255]", plain, "" if plain else _assumed(seen, "[0, 255]"))
    if low >= -1.1 and high <= 1.1 and least >= -1.5 and most <= 1.5 and max(-low, high) > 0.6 and least < -0.1:
        plain = seen.outside(-1.0, 1.0, 0.02) <= 0.02 and (_is_of_files(seen, "[-1, 1]") or most - least >= 1.6)
        return _of("[-1, 1]", plain, "" if plain else _assumed(seen, "[-1, 1]"))
    for name in OF_COLOURS:
        plain = seen.in_colours and _is_of_files(seen, name)
        if seen.could_be(name, 0.08 if plain else 0.3) and not _is_standardized(seen):
            return _of(name, plain, "" if plain else _assumed(seen, name))
    return _stretched(seen)


def _assumed(seen: _Seen, name: str) -> str:
    return f"values of {seen.extent} are taken for {name}; value_range= takes what they are"


def _is_of_files(seen: _Seen, name: str) -> bool:
    """Tells whether values become whole numbers where a preprocessing is undone, as those of files are."""
    ends = limits(name)
    assert ends is not None
    files = (seen.colours - ends[0]) / (np.asarray(ends[1]) - ends[0]) * 255
    return bool((np.abs(files - np.rint(files)) < 0.02).mean() > 0.98)


def _is_standardized(seen: _Seen) -> bool:
    """Tells whether each image has a mean of 0 and a deviation of 1, which no fixed preprocessing gives."""
    moments = [(float(np.mean(p, dtype=np.float64)), float(np.std(p, dtype=np.float64))) for p in seen.pictures]
    return all(abs(mean) < 0.02 and abs(deviation - 1) < 0.05 for mean, deviation in moments)
