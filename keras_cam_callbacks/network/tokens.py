"""Rows of tokens as a map: which token lies where on the image, and which are no places at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import is_whole

__all__ = ["Tokens", "resolve_tokens"]

_LEVELS = 10
"""How many sizes of maps a row of tokens may be joined from, the largest ones."""


@dataclass(frozen=True)
class Tokens:
    """How a layer's tokens (N, T, C) lie on the image.

    Args:
        grid: Cells along each axis of the image: (14, 14), height first.
        special: Indices of the tokens that are no places, as a class token's or registers'; negative ones count from
            the end. None for all in front that the grid leaves over.
        order: "rows", the cells of a row follow one another, or "columns"; or for each cell, row by row, the index of
            its token.

    Raises:
        ValueError: If grid, special tokens or order can't be.

    Example:
        >>> explain(model, images, "blocks/norm1", tokens=Tokens(grid=(14, 14), special=[0]))
    """

    grid: tuple[int, ...]
    special: tuple[int, ...] | None = None
    order: str | tuple[int, ...] = "rows"

    def __post_init__(self) -> None:
        grid = tuple(self.grid) if isinstance(self.grid, (tuple, list)) else ()
        if not grid or not all(is_whole(cells, 1) for cells in grid):
            raise ValueError(
                f"`grid` must be the cells along each axis of the image, such as (14, 14). Received: {self.grid!r}."
            )
        object.__setattr__(self, "grid", tuple(map(int, grid)))
        if self.special is not None:
            if not all(is_whole(index) for index in self.special):
                raise ValueError(f"`special` must be indices of tokens, such as [0]. Received: {self.special!r}.")
            object.__setattr__(self, "special", tuple(map(int, self.special)))
        if isinstance(self.order, str):
            if self.order not in ("rows", "columns"):
                raise ValueError(
                    f"`order` must be 'rows', 'columns' or the index of each cell's token. Received: {self.order!r}."
                )
        else:
            order = tuple(map(int, self.order))
            if len(order) != self.cells or len(set(order)) != len(order):
                raise ValueError(
                    f"`order` must give another token for each of the {self.cells} cells of grid {self.grid}. "
                    f"Received: {len(order)} indices, {len(set(order))} of them different."
                )
            object.__setattr__(self, "order", order)

    @property
    def cells(self) -> int:
        """How many cells the grid has."""
        return math.prod(self.grid)

    @property
    def others(self) -> tuple[int, ...]:
        """The indices of the special tokens, counted from 0; of a layer's own layout, where they are known."""
        return self.special or ()

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """The index of each cell's token, (cells,) int64, row by row; likewise."""
        return self.places(self.cells + len(self.others))

    @property
    def text(self) -> str:
        """The layout in words, the same for the same layout."""
        special = "in front" if self.special is None else list(self.special)
        order = f"in the order of {self.order}" if isinstance(self.order, str) else f"in the order {list(self.order)}"
        return f"{' x '.join(map(str, self.grid))} {order}" + (f", special {special}" if special else "")

    def places(self, count: int) -> npt.NDArray[np.int64]:
        """Returns the index of each cell's token, (cells,) int64, row by row.

        Args:
            count: T, how many tokens there are.

        Raises:
            ValueError: If the grid and the special tokens don't make so many.
        """
        if not isinstance(self.order, str):
            places = np.array(self.order)
            if places.min() < 0 or places.max() >= count:
                raise ValueError(
                    f"The tokens of `order` must be among the layer's {count}. Received: {places.min()} to "
                    f"{places.max()}."
                )
            return places
        special = range(count - self.cells) if self.special is None else [index % count for index in self.special]
        kept = np.setdiff1d(np.arange(count), list(special))
        if len(kept) != self.cells or (self.special is not None and len(set(special)) + self.cells != count):
            raise ValueError(
                f"The grid and the special tokens must make the layer's {count} tokens. Received: {self}, which are "
                f"{self.cells} cells and {len(set(special)) if self.special is not None else 0} special tokens."
            )
        if self.order == "columns":
            kept = kept.reshape(self.grid[::-1]).transpose().ravel()
        return kept

    def to_grid(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns activations or gradients of tokens as a map.

        Args:
            array: (N, T, C).

        Returns:
            (N, *grid, C), without the special tokens; a view where the order allows it.
        """
        places = self.places(array.shape[1])
        first = int(places[0])
        in_order = (places == np.arange(first, first + len(places))).all()
        taken = array[:, first : first + len(places)] if in_order else array[:, places]
        return taken.reshape(len(array), *self.grid, array.shape[2])


def resolve_tokens(tokens: Any) -> Tokens | Callable[[Any], Any] | None:
    """Returns a user's `tokens`.

    Args:
        tokens: None; a grid such as (14, 14); `Tokens`; or a function from tokens (N, T, C) to a map (N, h, w, C),
            which only picks and orders.

    Raises:
        ValueError: If it is none of these.
    """
    if tokens is None or isinstance(tokens, Tokens):
        return tokens
    if callable(tokens):
        layout: Callable[[Any], Any] = tokens
        return layout
    if isinstance(tokens, (tuple, list)):
        return Tokens(tuple(tokens))
    raise ValueError(
        "`tokens` must be a grid such as (14, 14), `Tokens(grid=..., special=[0])`, a function from tokens (N, T, C) "
        f"to a map (N, h, w, C), or None. Received: {tokens!r}."
    )


def settled(tokens: Tokens | Callable[[Any], Any], count: int) -> Tokens:
    """Returns a layout as `Tokens` whose special tokens are known, after a check that it fits a layer's tokens.

    Args:
        tokens: `Tokens`, or a function as for `resolve_tokens`.
        count: T, how many tokens the layer puts out.

    Raises:
        ValueError: If it doesn't fit.
    """
    if isinstance(tokens, Tokens):
        return replace(tokens, special=tuple(int(i) for i in np.setdiff1d(np.arange(count), tokens.places(count))))
    # Where numbers go that stand for the tokens says what the function does.
    numbered = np.arange(count, dtype=np.float32)[None, :, None]
    placed = np.asarray(tokens(numbered))
    indices = placed.astype(np.int64)
    wrong = placed.ndim < 3 or placed.shape[0] != 1 or placed.shape[-1] != 1
    inside = indices.min() >= 0 and indices.max() < count
    if wrong or not inside or not np.array_equal(placed, indices) or len(np.unique(indices)) != indices.size:
        raise ValueError(
            "A function as `tokens` must pick and order tokens only, from (N, T, C) to (N, h, w, C). "
            f"Received: one that makes {placed.shape} of {numbered.shape}"
            + ("" if wrong else ", with values that are no tokens or twice the same one")
            + ". lambda t: t[:, 1:].reshape(-1, 14, 14, t.shape[-1]) works."
        )
    order = tuple(int(index) for index in indices.ravel())
    return Tokens(placed.shape[1:-1], tuple(sorted(set(range(count)) - set(order))), order)


def grids(count: int, sizes: Sequence[int], earlier: Sequence[Sequence[int | None]], most: int = 16) -> list[Any]:
    """Returns the grids that so many tokens may make, with the number of tokens that are left over.

    Args:
        count: T.
        sizes: The image's sizes along the axes of its space.
        earlier: Sizes of maps that were computed before.
        most: How many tokens may be left over.

    Returns:
        A list of (grid, left over), those of earlier maps first.
    """
    likely = [tuple(int(side) for side in shape if side is not None) for shape in earlier]
    options = [grid for grid in likely if len(grid) == len(sizes)]
    if len(sizes) == 1:
        options += [(count - over,) for over in range(min(most, count - 2) + 1)]
    elif len(sizes) == 2:
        for cells in range(count, max(count - most, 1) - 1, -1):
            divided = [(rows, cells // rows) for rows in range(1, cells + 1) if cells % rows == 0]
            options += [grid for grid in divided if 1 / 1.6 <= grid[0] / grid[1] / (sizes[0] / sizes[1]) <= 1.6]
    else:
        options += [tuple(size // patch for size in sizes) for patch in range(1, max(sizes) + 1)]
        # A token for each step, behind a network of each frame.
        steps = [(size, 1, 1) for size in dict.fromkeys([sizes[0], *(grid[0] for grid in options)])]
        steps = [grid for grid in steps if 0 <= count - grid[0] <= 1]
        options, likely = [*options, *steps], [*likely, *steps]
    left_over = {grid: count - math.prod(grid) for grid in options if 0 not in grid}
    joined = _is_pyramid(count, likely)
    # A single row is a sequence, and few of many tokens would follow the image by chance.
    return [
        (grid, over)
        for grid, over in left_over.items()
        if 0 <= over <= min(most, count - over) and (grid in likely or 1 not in grid)
        if not joined or (grid in likely and not over)
    ]


def _is_pyramid(count: int, earlier: Sequence[tuple[int, ...]]) -> bool:
    """Tells whether there are as many tokens as in maps of several sizes together, which stand in one row then."""
    cells = sorted({math.prod(grid) for grid in earlier if 1 not in grid})[-_LEVELS:]
    return any(sum(some) == count for several in range(2, len(cells) + 1) for some in combinations(cells, several))
