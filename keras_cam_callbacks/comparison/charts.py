"""The curves of a comparison's figure: how far runs agree over the epochs, and a number of each run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..metrics import mean
from .compared import Compared, row_of
from .sheets import EDGE, SMALL, Sheet, cut, cut_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CHART", "CHART_FOOT", "CHART_HEAD", "draw_charts"]

CHART, CHART_HEAD, CHART_FOOT = 2.3, 0.8, 1.0  # inches: the axes' height, and room for legend and labels
_AXIS = 0.9  # inches, left of the axes
# Okabe and Ito's colours, those that stand out on white; line styles and markers tell the same once more.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00")
_STYLES, _MARKERS = ("-", "--", ":", "-."), "osD^vP"
_SHORTEST, _LONGEST, _LETTER = 20, 40, 0.085  # characters to which names in a legend are cut, inches of one
_MOST_PAIRS = 6  # that are told apart as lines


def draw_charts(sheet: Sheet, comparison: Compared, metric: str, numbers: npt.NDArray[np.float64], top: float) -> None:
    """Draws the agreement of runs, where it is known, and a number of each run.

    Args:
        sheet: Where.
        comparison: The runs.
        metric: The number's name.
        numbers: (R, E) float64.
        top: Where the axes begin, in inches.
    """
    alone = not np.isfinite(comparison.agreement).any()
    wide = (sheet.width - 2 * EDGE) / (1 if alone else 2) - _AXIS
    axes = sheet.axes(sheet.width - EDGE - wide, top, wide, CHART)
    names = cut_apart(comparison.names, min(_LONGEST, max(_SHORTEST, int((wide / 2 - 0.3) / _LETTER))))
    for run, name in enumerate(names):
        _line(axes, comparison.epochs, numbers[run], run, name)
    known = numbers[np.isfinite(numbers)]
    if len(known) and known.min() >= 0 and known.max() <= 1:  # Shares are read against none and all.
        axes.set_ylim(-0.03, 1.05)
    _finish(axes, metric, wide, comparison.unit)
    if alone:
        return
    axes = sheet.axes(EDGE + _AXIS, top, wide, CHART)
    lines = _agreement_lines(comparison, names)
    for i, (name, values) in enumerate(lines):
        _line(axes, comparison.epochs, mean(values, 1), i, name, _COLOURS[4] if len(lines) == 1 else None)
    if len(lines) == 1:
        _band(axes, comparison.epochs, lines[0][1])
    axes.axhline(0.5, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
    parted = comparison.parted_overall()
    if parted >= 0:
        axes.axvline(parted, color="#555555", linewidth=1.5, linestyle="--")
        right = parted > (comparison.epochs[0] + comparison.epochs[-1]) / 2
        axes.annotate(
            f"apart from {comparison.unit} {parted} on", (parted, 1), (-4 if right else 4, -3),
            xycoords=("data", "axes fraction"), textcoords="offset points", va="top", ha="right" if right else "left",
            **SMALL,
        )  # fmt: skip
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 1.05)
    _finish(axes, "agreement", wide, comparison.unit)


def _agreement_lines(comparison: Compared, names: Sequence[str]) -> list[tuple[str, npt.NDArray[np.float64]]]:
    """Returns by name (E, N) the agreement of each pair; of many, each run's mean with the others."""
    if len(comparison.pairs) <= _MOST_PAIRS:
        pairs = enumerate(comparison.pairs)
        return [(f"{names[one]} and {names[other]}", comparison.agreement[i]) for i, (one, other) in pairs]
    own = [[i for i, pair in enumerate(comparison.pairs) if run in pair] for run in range(len(names))]
    return [
        (f"{name} and the others", mean(comparison.agreement[pairs], 0)) for name, pairs in zip(names, own, strict=True)
    ]


def _line(
    axes: Axes,
    epochs: Sequence[int],
    values: npt.NDArray[np.float64],
    number: int,
    name: str,
    colour: str | None = None,
) -> None:
    known = np.isfinite(values)
    axes.plot(
        np.array(epochs)[known],
        values[known],
        color=colour or _COLOURS[number % len(_COLOURS)],
        linestyle=_STYLES[number % len(_STYLES)],
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=6,
        markevery=max(1, int(known.sum()) // 12),
        linewidth=2.2,
        label=name,
    )


def _band(axes: Axes, epochs: Sequence[int], values: npt.NDArray[np.float64]) -> None:
    """Draws between which values the middle half of the samples lies."""
    known = np.isfinite(values).any(axis=1)
    low, high = np.nanpercentile(values[known], (25, 75), axis=1)
    axes.fill_between(
        np.array(epochs)[known], low, high, color="#000000", alpha=0.15, linewidth=0, label="half of the samples"
    )


def _finish(axes: Axes, metric: str, width: float, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    says = textwrap.wrap(row_of(metric).about, int(width / _LETTER), max_lines=2, placeholder=" …")
    axes.set_xlabel("\n".join([unit, *says]), **SMALL)
    axes.set_ylabel(cut(metric, 30), **SMALL)
    axes.tick_params(labelsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.spines[["top", "right"]].set_visible(False)
    longest = max(len(str(label)) for label in axes.get_legend_handles_labels()[1])
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=max(1, int(width / (longest * _LETTER + 0.55))), fontsize=10,
        frameon=False, borderaxespad=0.1, columnspacing=1.2, handlelength=2.2, labelspacing=0.25,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
