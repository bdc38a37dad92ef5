"""Whether the positions of a layer are places of the image, measured: bands of one image are changed.

What a position answers to is where its activations change. In a true map the centre of that follows the position; in
heads by tokens, folded windows or features it doesn't.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..data.layout import channels_last, in_layout
from ..network.tokens import Tokens, grids

BANDS = 6
"""Bands along each axis of the image."""

LEAST = 0.5
"""Least correlation, of where a position is with the centre of what it answers to, of a map."""

_ALIKE = 0.15
"""So much less agreement may a layout have that leaves fewer tokens over than the best."""

Answers = npt.NDArray[np.float64]


def banded(inputs: Any, at: int, layout: str) -> Any:
    """Returns copies of one sample, in each but the first of which a band of the image is changed.

    Args:
        inputs: One sample in the structure that the model takes.
        at: Which of the inputs, flattened, is the image.
        layout: Its layout.

    Returns:
        The same structure with 1 + 6 x axes rows: the sample itself, then bands along the first axis, and so on.
    """
    leaves = keras.tree.flatten(inputs)
    image = leaves[at][:1]
    placed = channels_last(image, layout) if image.ndim > 3 else image[..., None]
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
    copies = in_layout(copies, layout) if image.ndim > 3 else copies[..., 0]
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
    changes: Answers = np.sqrt(np.square(values[1:] - values[:1]).sum(axis=-1))
    return changes


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
    for axis, cells in enumerate(space):
        if cells < 2:
            continue
        of_axis = changes[axis * BANDS : (axis + 1) * BANDS]
        total = of_axis.sum(axis=0)
        seen = np.isfinite(total) & (total > 1e-9 * np.nanmax(np.abs(total), initial=0.0))
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


def layout_of_tokens(
    changes: Answers, sizes: Sequence[int], earlier: Sequence[Sequence[int | None]]
) -> tuple[Tokens | None, float]:
    """Finds how tokens lie on the image.

    Args:
        changes: (6 x axes, T), as `answers` gives it.
        sizes: The image's sizes along its axes.
        earlier: Sizes of maps that were computed before the layer.

    Returns:
        The layout whose positions follow the image best, and its agreement; None where there is no grid for them.
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
    best = max((follows for follows, *_ in options if not np.isnan(follows)), default=float("nan"))
    if np.isnan(best):
        follows, _, tokens = options[0]
        return tokens, follows
    # A grid of which a row is taken for special tokens follows the image as well.
    good = [option for option in options if option[0] > best - _ALIKE]
    fewest = min(over for _, over, _ in good)
    follows, _, tokens = max((option for option in good if option[1] == fewest), key=lambda option: option[0])
    return tokens, follows
