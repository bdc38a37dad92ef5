"""A figure that is laid out in inches, and the text in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .alignment import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["EDGE", "SMALL", "Sheet", "bare", "cut", "cut_apart"]

EDGE = 0.2  # inches, around all
# Sizes are ours, for the room that is left depends on them; and names are no formulas.
SMALL: dict[str, Any] = {"fontsize": 11, "parse_math": False, "usetex": False}

_CONTEXT = 6  # characters that are kept of what is common to names


@dataclass(frozen=True, eq=False)
class Sheet:
    """A figure that is laid out in inches from its top left corner."""

    figure: Figure
    width: float
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Returns new axes; all in inches."""
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def write(self, text: str, left: float, top: float, **settings: Any) -> None:
        """Writes text with its top left corner at a place in inches."""
        place = {"ha": "left", "va": "top"} | SMALL | settings
        self.figure.text(left / self.width, 1 - top / self.height, text, **place)


def bare(axes: Axes) -> None:
    """Takes ticks, frame and grid off."""
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def cut(text: str, length: int) -> str:
    """Returns the text in one line of at most `length` characters."""
    line = printable(text)
    return line if len(line) <= length else f"{line[: max(1, length - 1)]}…"


def cut_apart(names: Sequence[str], length: int) -> list[str]:
    """Returns names in at most `length` characters; long ones without most of what all begin with."""
    names = list(map(printable, names))
    if len(names) > 1 and max(map(len, names)) > length:
        letters = enumerate(zip(*names, strict=False))
        start = next((i for i, each in letters if len(set(each)) > 1), min(map(len, names))) - _CONTEXT
        names = names if start < 2 else [f"…{name[start:]}" for name in names]
    return [cut(name, length) for name in names]
