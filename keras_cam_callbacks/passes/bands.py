"""Whether the positions of a layer are places of the image, measured: bands of one image are changed.

What a position answers to is where its activations change. In a true map the centre of that follows the position; in
heads by tokens, folded windows or features it doesn't.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..data.layout import channels_last, in_layout
from ..data.spaces import has_channels
from ..network.tokens import Tokens, grids
from ..records import Space

BANDS = 6
"""Bands along each axis of the image."""

LEAST = 0.5
"""Least correlation, of where a position is with the centre of what it answers to, of a map."""

_ALIKE = 0.15
"""So much less agreement may a layout have that leaves fewer tokens over than the best."""

# Beside the image's edges padding is seen, and little else.
_EDGE = 0.08
# The centre of all that a map answers to lies so near to the middle of its place, as a share of that.
_ASKEW = 0.15
_STRAIGHT = 0.8
"""Least correlation of the rows of a map with the image that is no joint or repetition of others."""

Answers = npt.NDArray[np.float64]


def banded(inputs: Any, at: int, space: Space) -> Any:
    """Returns copies of one sample, in each but the first of which a band of the image is changed.

    Args:
        inputs: One sample in the structure that the model takes.
        at: Which of the inputs, flattened, is the image.
        space: What its axes are, and its layout.

    Returns:
        The same structure with 1 + 6 x axes rows: the sample itself, then bands along the first axis, and so on.
    """
    leaves = keras.tree.flatten(inputs)
    image = leaves[at][:1]
    placed = channels_last(image, space.layout) if has_channels(space, image) else image[..., None]
    placed = np.asarray(placed, np.float64 if image.dtype.kind != "b" else np.uint8)
    low, high = (float(np.nanmin(placed)), float(np.nanmax(placed))) if placed.size else (0.0, 1.0)
    if not high > low:
        high = low + 1
    random = np.random.default_rng(0)
    noise = random.random(placed.shape[1:]) * (high - low) + low
    rows = [placed[0]]
    for axis in range(placed.ndim - 2):
        for band in np.array_split(np.arange(placed.shape[1 + axis]), BANDS):
            copy = placed[0].copy()
            window = [slice(None)] * copy.ndim
            window[axis] = slice(int(band[0]), int(band[-1]) + 1) if len(band) else slice(0, 0)
            copy[tuple(window)] = noise[tuple(window)]
            rows.append(copy)
    copies = np.stack(rows)
    copies = copies if image.dtype.kind == "f" else np.rint(copies)
    copies = in_layout(copies, space.layout) if has_channels(space, image) else copies[..., 0]
    count = len(copies)
    varied = [np.repeat(leaf[:1], count, axis=0) for leaf in leaves]
    varied[at] = np.ascontiguousarray(copies.astype(image.dtype))
    return keras.tree.pack_sequence_as(inputs, varied)


def answers(activations: npt.NDArray[Any]) -> Answers:
    """Returns how much each position changes with each band, (6 x axes, *positions) float64.

    Args:
        activations: (1 + 6 x axes, *positions, C), of the copies that `banded` makes.
    """
    values = np.asarray(activations, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # Of a model that has diverged.
        changes: Answers = np.sqrt(np.square(values[1:] - values[:1]).sum(axis=-1))
    return finite(changes)


def finite(changes: Answers) -> Answers:
    """Returns changes with 0 in the place of those that are no numbers, as of a model that has diverged."""
    return np.where(np.isfinite(changes), changes, 0.0)


def agreement(changes: Answers) -> float:
    """Returns how well positions follow the places of the image that they answer to.

    Args:
        changes: (6 x axes, *space), as `answers` gives it, with as many axes as the image has.

    Returns:
        The least over the axes of the correlation, over all positions, of the index along the axis and the centre of
        the bands that the position answers to; NaN where that can't be told, as of a map of at most two cells an axis
        or one that answers to nothing.
    """
    space = changes.shape[1:]
    if max(space) <= 2:
        return float("nan")
    results = []
    # A few cells along one of three axes, with few bands on each, tell nothing.
    least = 3 if len(space) > 2 else 2
    for axis, cells in enumerate(space):
        if cells < least:
            continue
        of_axis = changes[axis * BANDS : (axis + 1) * BANDS]
        total = of_axis.sum(axis=0)
        seen = total > 1e-9 * total.max(initial=0.0)
        if not seen.any():
            continue
        middle = (np.arange(BANDS) + 0.5).reshape(-1, *[1] * len(space))
        centre = (of_axis * middle).sum(axis=0)[seen] / total[seen]
        index = np.indices(space)[axis][seen].astype(np.float64)
        if np.ptp(index) == 0 or np.ptp(centre) < 1e-9:
            results.append(0.0)
        else:
            results.append(float(np.corrcoef(index, centre)[0, 1]))
    return min(results) if results else float("nan")


@dataclass(frozen=True, eq=False)
class Sight:
    """Which part of the image a map sees, roughly.

    Attributes:
        follows: Its `agreement`.
        turned: Whether the map follows the image flipped or transposed, and not as it stands.
        seen: For each axis (bands,) bool, the bands that it answers to.
        profiles: For each axis the centre of what each row of cells answers to, as a share of the image; NaN where it
            answers to nothing.
    """

    follows: float
    turned: bool
    seen: tuple[npt.NDArray[np.bool_], ...]
    profiles: tuple[Answers, ...]

    def covers(self, box: Sequence[tuple[float, float]], axes: Sequence[str] = ("height", "width")) -> bool:
        """Tells whether the map may lie on a part of the image, as far as bands can tell.

        Args:
            box: For each axis where the map begins and ends, as shares of the image.
            axes: Their names. Along time a position may answer to all that was before it, as in a recurrent network.

        Returns:
            False where it plainly lies otherwise. A map that answers to nothing may lie anywhere.
        """
        if not any(map(np.any, self.seen)):
            return True
        for name, seen, profile, (low, high) in zip(axes, self.seen, self.profiles, box, strict=True):
            edges = np.arange(len(seen) + 1) / len(seen)
            inside = (edges[:-1] >= low - 1e-6) & (edges[1:] <= high + 1e-6)
            cells = low + (np.arange(len(profile)) + 0.5) / len(profile) * (high - low)
            on_image = (cells > _EDGE) & (cells < 1 - _EDGE)
            start, end = max(low, 0.0), min(high, 1.0)
            if not seen[inside].all():
                return False
            if on_image.sum() < 3 or name == "time":
                continue
            rows = profile[on_image]
            if np.isnan(rows).any() or abs(rows.mean() - (start + end) / 2) > _ASKEW * (end - start):
                return False
            if np.ptp(rows) < 1e-9 or np.corrcoef(cells[on_image], rows)[0, 1] < _STRAIGHT:
                return False
        return True


def sight(changes: Answers, size: Sequence[int]) -> Sight:
    """Returns which part of the image a map sees.

    Args:
        changes: (6 x axes, *space), as `answers` gives it, with as many axes as the image has.
        size: The image's size along each axis; where that is less than 6, so are the bands.
    """
    space = changes.shape[1:]
    axes = len(space)
    follows = agreement(changes)
    turned = False
    if follows < LEAST:
        for order in itertools.permutations(range(axes)):
            ordered = np.moveaxis(changes, [1 + axis for axis in order], range(1, 1 + axes))
            turned = turned or any(
                agreement(np.flip(ordered, tuple(1 + axis for axis in flipped))) >= LEAST
                for count in range(axes + 1)
                for flipped in itertools.combinations(range(axes), count)
            )
    bands = changes.reshape(axes, BANDS, -1).sum(axis=-1)
    counts = [min(BANDS, side) for side in size]
    seen = tuple(row[:count] > 1e-3 * bands.max(initial=0.0) for row, count in zip(bands, counts, strict=True))
    profiles = []
    for axis in range(axes):
        middle = (np.arange(BANDS) + 0.5) / counts[axis]
        others = tuple(1 + other for other in range(axes) if other != axis)
        of_rows = changes[axis * BANDS : (axis + 1) * BANDS].sum(axis=others)
        total = of_rows.sum(axis=0)
        blind = total <= 1e-6 * total.max(initial=0.0)
        profiles.append(np.where(blind, np.nan, middle @ of_rows / np.where(blind, 1, total)))
    return Sight(follows, turned, seen, tuple(profiles))


def _least(grid: Sequence[int], earlier: Sequence[Sequence[int | None]]) -> float:
    """Returns the least agreement of tokens that make a grid: few of them agree by chance, in one of many layouts.

    Args:
        grid: The grid.
        earlier: Sizes of maps that were computed before, of which the tokens may have been made.
    """
    cells = math.prod(grid)
    if cells < 16 and tuple(grid) not in [tuple(sizes) for sizes in earlier]:
        return 0.95
    return max(LEAST, 2.4 / float(np.sqrt(cells)))


def layout_of_tokens(
    changes: Answers, sizes: Sequence[int], earlier: Sequence[Sequence[int | None]]
) -> tuple[Tokens | None, float]:
    """Finds how tokens lie on the image.

    Args:
        changes: (6 x axes, T), as `answers` gives it.
        sizes: The image's sizes along its axes.
        earlier: Sizes of maps that were computed before the layer.

    Returns:
        The layout whose positions follow the image best, None where that follows too little; and its agreement, NaN
        where there is no grid for so many tokens, or one too small to tell.
    """
    count = changes.shape[1]
    options: list[tuple[float, int, Tokens]] = []
    for grid, over in grids(count, sizes, earlier):
        for front in dict.fromkeys((over, 0)):
            special = (*range(front), *range(count - over + front, count))
            for order in ("rows", "columns") if len(grid) == 2 and 1 not in grid else ("rows",):
                tokens = Tokens(grid, special, order)
                follows = agreement(changes[:, tokens.places(count)].reshape(len(changes), *grid))
                options.append((follows, over, tokens))
    if not options:
        return None, float("nan")
    # A signal with a class token at one end follows itself as well: there are as many cells as there were before.
    fewer = [option for option in options if len(sizes) == 1 and option[1] and option[2].grid in map(tuple, earlier)]
    options = fewer or options
    best = max((follows for follows, *_ in options if not np.isnan(follows)), default=float("nan"))
    if np.isnan(best):
        follows, _, tokens = options[0]
        return tokens, follows
    # A grid of which a row is taken for special tokens follows the image as well.
    good = [option for option in options if option[0] > best - _ALIKE]
    fewest = min(over for _, over, _ in good)
    follows, _, tokens = max((option for option in good if option[1] == fewest), key=lambda option: option[0])
    return (None if follows < _least(tokens.grid, earlier) else tokens), follows
