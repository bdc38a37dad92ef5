"""The figure of a comparison, on matplotlib: samples over runs and epochs, and curves over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..overlay import Overlay, colorize
from ..records import Image, Region
from ..store import read_image
from .alignment import printable
from .spans import mean
from .tables import epoch_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .comparing import Comparison

__all__ = ["draw"]

# inches: a tile, the bar under it, gaps between tiles and between blocks, the column of words, and what is around
_TILE, _BAR, _GAP, _BLOCK, _WORDS, _EDGE = 1.5, 0.3, 0.08, 0.3, 1.75, 0.2
_HEAD, _KEY, _CHART, _CHART_HEAD, _CHART_FOOT, _AXIS = 0.75, 0.55, 2.3, 0.75, 0.6, 0.8
_NARROWEST = 10.0  # inches: room for two charts
# Rises in lightness throughout: the same to colour-blind people, and in grey print.
_OVERLAY = Overlay(colormap="inferno", alpha=0.6, threshold=0.15, caption=False, size=240)
# Okabe and Ito's colours, those that stand out on white; line styles and markers tell the same once more.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00")
_STYLES, _MARKERS = ("-", "--", ":", "-."), "osD^vP"
_MOST_PAIRS = 6  # that are told apart as lines
# Sizes are ours, for the room that is left depends on them; and names are no formulas.
_SMALL: dict[str, Any] = {"fontsize": 11, "parse_math": False, "usetex": False}
_LARGE = _SMALL | {"fontsize": 15}
_METRICS = ("energy_in_region", "accuracy", "confidence")  # the first one that is known is drawn


@dataclass(frozen=True)
class _Plan:
    """What is drawn: places of samples, places of epochs, and by name the numbers of the chart."""

    samples: tuple[int, ...]
    epochs: tuple[int, ...]
    metric: str
    numbers: npt.NDArray[np.float64]


def draw(
    comparison: Comparison, samples: Any, epochs: Sequence[int] | None, metric: str | None, overlay: Overlay | None
) -> Figure:
    """Draws the figure; see `Comparison.figure`."""
    try:
        from ..figures import NotebookFigure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it: pip install 'keras_cam_callbacks[plot]'") from error
    if overlay is not None and not isinstance(overlay, Overlay):
        raise TypeError(f"`overlay` must be an Overlay or None. Received: {overlay!r}. Overlay(alpha=0.4) works.")
    if overlay is not None and overlay.layout == "panel":
        raise ValueError(
            'A tile has room for one picture. Received: overlay with layout="panel". layout="overlay" and "mask" work.'
        )
    plan = _Plan(_samples(comparison, samples), _epochs(comparison, epochs), *_metric(comparison, metric))
    block = len(plan.epochs) * (_TILE + _GAP) - _GAP
    blocks = len(comparison.names) * (block + _BLOCK)
    width = max(_NARROWEST, _EDGE + _WORDS + _TILE + _BLOCK + blocks - _BLOCK + _EDGE)
    rows = len(plan.samples) * (_TILE + _BAR + _GAP)
    height = _HEAD + rows + _KEY + _CHART_HEAD + _CHART + _CHART_FOOT
    figure = NotebookFigure(figsize=(width, height), facecolor="white")
    sheet = _Sheet(figure, width, height)
    _draw_samples(sheet, comparison, plan)
    pictures = _Pictures(comparison, plan, overlay or _OVERLAY)
    for run in range(len(comparison.names)):
        _draw_run(sheet, pictures, run, _EDGE + _WORDS + _TILE + _BLOCK + run * (block + _BLOCK))
    _draw_key(sheet, _EDGE, _HEAD + rows, overlay or _OVERLAY, framed=any(map(_has_place, pictures.regions)))
    _draw_charts(sheet, comparison, plan, _HEAD + rows + _KEY + _CHART_HEAD)
    return figure


def _samples(comparison: Comparison, samples: Any) -> tuple[int, ...]:
    if isinstance(samples, (int, np.integer)) and not isinstance(samples, bool) and samples > 0:
        return comparison.most_different(int(samples))
    if isinstance(samples, (list, tuple)) and samples and all(key in comparison.sample_keys for key in samples):
        return tuple(map(comparison.sample_keys.index, samples))
    raise ValueError(
        "`samples` must say how many of the most different samples are shown, or list some of `sample_keys`. "
        f"Received: samples={samples!r}. samples=4 and samples={[comparison.sample_keys[0]]!r} work."
    )


def _epochs(comparison: Comparison, epochs: Sequence[int] | None) -> tuple[int, ...]:
    """Returns places of epochs: the given ones, or the first, the one of parting, some between and the last one."""
    if epochs is not None:
        wrong = [epoch for epoch in epochs if epoch not in comparison.epochs]
        if wrong or not len(epochs):
            raise ValueError(
                f"`epochs` must list some of the runs' epochs, {comparison.epochs[0]} to {comparison.epochs[-1]}. "
                f"Received: {list(epochs)}. epochs=[{comparison.epochs[-1]}] works."
            )
        return tuple(comparison.epochs.index(epoch) for epoch in epochs)
    held = comparison.held()
    rows = np.flatnonzero(held.all(axis=0) if held.all(axis=0).any() else held.any(axis=0)).tolist()
    last = len(rows) - 1
    most = {1: 6, 2: 4, 3: 3}.get(len(comparison.names), 2)
    chosen = {rows[0], rows[last]}
    parted = comparison.parted_overall()
    if parted >= 0 and len(chosen) < most:
        chosen.add(comparison.epochs.index(parted))
    for share in (1 / 2, 1 / 4, 3 / 4, 1 / 8):
        if len(chosen) < min(most, len(rows)):
            chosen.add(rows[round(share * last)])
    return tuple(sorted(chosen))


def _metric(comparison: Comparison, metric: str | None) -> tuple[str, npt.NDArray[np.float64]]:
    numbers = {
        "confidence": mean(comparison.confidences, 2),
        **epoch_numbers(comparison),
        "accuracy": mean(comparison.correct(), 2),
    }
    known = [name for name, values in numbers.items() if np.isfinite(values).any()]
    if metric is None:
        metric = next((name for name in (*_METRICS, *known) if name in known), "confidence")
    elif metric not in known:
        raise ValueError(
            f"`metric` must be one of what the runs have: {', '.join(known)}. Received: {metric!r}. None chooses."
        )
    return metric, numbers[metric]


@dataclass(frozen=True, eq=False)
class _Sheet:
    """A figure that is laid out in inches from its top left corner."""

    figure: Figure
    width: float
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def write(self, text: str, left: float, top: float, **settings: Any) -> None:
        place = {"ha": "left", "va": "top"} | _SMALL | settings
        self.figure.text(left / self.width, 1 - top / self.height, text, **place)


class _Pictures:
    """The tiles of a figure: reads images and maps when they are drawn, and keeps none."""

    def __init__(self, comparison: Comparison, plan: _Plan, overlay: Overlay) -> None:
        self.comparison, self.plan, self.overlay = comparison, plan, overlay
        self.images = _images(comparison, plan.samples)
        self.regions = _regions(comparison, plan.samples)

    def drawn(self, run: int, place: int) -> tuple[Image, ...] | None:
        """Returns the overlays of the samples in one epoch, or None where the run lacks it."""
        heatmaps = self.comparison.heatmaps(run, self.comparison.epochs[place])
        return None if heatmaps is None else self.overlay.draw(self.images, heatmaps[list(self.plan.samples)])


def _images(comparison: Comparison, samples: Sequence[int]) -> list[Image]:
    files = dict(zip(comparison.runs[0].sample_keys, comparison.runs[0].image_files, strict=True))
    return [read_image(files[comparison.sample_keys[i]]) for i in samples]


def _regions(comparison: Comparison, samples: Sequence[int]) -> list[Region | None]:
    """Returns where the object is, by the first run that knows it."""
    found: dict[str, Region] = {}
    for run in comparison.runs:
        for key, region in zip(run.sample_keys, run.regions(), strict=True):
            if region is not None:
                found.setdefault(key, region)
    return [found.get(comparison.sample_keys[i]) for i in samples]


def _has_place(region: Region | None) -> bool:
    return region is not None and bool(len(region.boxes) or region.mask is not None)


def _draw_samples(sheet: _Sheet, comparison: Comparison, plan: _Plan) -> None:
    """Draws the bare images, and beside each what sample it is and how far the runs agree on it."""
    blank = np.zeros((1, 1, 1), np.float32)  # A map of nothing leaves the bare image.
    agreement, parted = 1 - comparison.disagreement(), comparison.parted()
    for row, (i, image) in enumerate(zip(plan.samples, _images(comparison, plan.samples), strict=True)):
        top = _HEAD + row * (_TILE + _BAR + _GAP)
        _show(sheet.axes(_EDGE + _WORDS, top, _TILE, _TILE), _OVERLAY.draw([image], blank)[0], None)
        label = comparison.class_name(comparison.labels[i])
        lines = [] if label is None else [f"is {_cut(label, 17)}"]
        if np.isfinite(agreement[i]):
            lines.append(f"agreement {agreement[i]:.2f}")
            lines.append("not parted" if parted[i] < 0 else f"parted: epoch {parted[i]}")
        sheet.write(_cut(comparison.sample_keys[i], 17), _EDGE, top + 0.05, fontweight="bold")
        sheet.write("\n".join(lines), _EDGE, top + 0.32, linespacing=1.5)


def _draw_run(sheet: _Sheet, pictures: _Pictures, run: int, left: float) -> None:
    """Draws the block of one run: a column for each epoch, the predicted class under each tile."""
    comparison, plan = pictures.comparison, pictures.plan
    block = len(plan.epochs) * (_TILE + _GAP) - _GAP
    sheet.write(_cut(comparison.names[run], int(block / 0.15)), left, 0.12, **_LARGE, fontweight="bold")
    right = comparison.correct()
    for column, place in enumerate(plan.epochs):
        x = left + column * (_TILE + _GAP)
        sheet.write(f"epoch {comparison.epochs[place]}", x, 0.47, fontsize=12)
        tiles = pictures.drawn(run, place)
        for row, i in enumerate(plan.samples):
            top = _HEAD + row * (_TILE + _BAR + _GAP)
            axes = sheet.axes(x, top, _TILE, _TILE)
            if tiles is None:
                _note(axes, "no such epoch")
                continue
            _show(axes, tiles[row], pictures.regions[row])
            if np.isnan(comparison.peaks[run, place, i, 0]):
                axes.set_title("no heatmap", y=0.02, color="white", **_SMALL, bbox={"facecolor": "black", "pad": 2})
            _caption(
                sheet.axes(x, top + _TILE, _TILE, _BAR), _prediction(comparison, run, place, i), right[run, place, i]
            )


def _prediction(comparison: Comparison, run: int, place: int, sample: int) -> str:
    name = comparison.class_name(int(comparison.predicted[run, place, sample]))
    confidence = float(comparison.confidences[run, place, sample])
    shown = f"{confidence:.2f}" if np.isfinite(confidence) else ""
    wrong = comparison.correct()[run, place, sample] == 0
    room = 19 - len(shown) - 7 * wrong
    return " ".join(filter(None, ["WRONG:" * wrong, _cut(name or "", room), shown]))


def _caption(axes: Axes, text: str, right: float) -> None:
    """Writes a prediction: in white on black where it is wrong, otherwise in black on white."""
    wrong = right == 0
    axes.set_facecolor("black" if wrong else "white")
    _bare(axes)
    axes.text(
        0.5,
        0.48,
        text,
        ha="center",
        va="center",
        transform=axes.transAxes,
        color="white" if wrong else "black",
        fontweight="bold" if wrong else "normal",
        **_SMALL | {"fontsize": 9.5},
    )


def _show(axes: Axes, picture: Image, region: Region | None) -> None:
    axes.imshow(picture, origin="upper", aspect="equal")
    _bare(axes)
    if region is None:
        return
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    for colour, line in (("black", 3.5), ("white", 1.7)):
        for x0, y0, x1, y1 in region.boxes * [width, height, width, height] - 0.5:
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=line))
        if region.mask is not None and region.mask.any() and not region.mask.all():
            y = (np.arange(region.mask.shape[0]) + 0.5) * height / region.mask.shape[0] - 0.5
            x = (np.arange(region.mask.shape[1]) + 0.5) * width / region.mask.shape[1] - 0.5
            axes.contour(x, y, region.mask, levels=[0.5], colors=colour, linewidths=line)


def _note(axes: Axes, text: str) -> None:
    axes.set_facecolor("#dddddd")
    _bare(axes)
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, **_SMALL)


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _draw_key(sheet: _Sheet, left: float, top: float, overlay: Overlay, *, framed: bool) -> None:
    tones = np.arange(256, dtype=np.uint8)[None]
    bar = sheet.axes(left, top + 0.12, 1.5, 0.16)
    colours = np.dstack([tones] * 3) if overlay.layout == "mask" else colorize(tones, overlay.colormap)
    bar.imshow(colours, aspect="auto")
    _bare(bar)
    text = "from left to right: counts little to counts most for the explained class"
    frame = "; white frame: where the object is" * framed
    sheet.write(text + frame + "; white on black: wrong prediction", left + 1.65, top + 0.11)


def _draw_charts(sheet: _Sheet, comparison: Comparison, plan: _Plan, top: float) -> None:
    alone = not np.isfinite(comparison.agreement).any()
    wide = (sheet.width - 2 * _EDGE) / (1 if alone else 2) - _AXIS
    metric = sheet.axes(sheet.width - _EDGE - wide, top, wide, _CHART)
    for run, values in enumerate(plan.numbers):
        _line(metric, comparison.epochs, values, run, comparison.names[run])
    _finish(metric, _described(plan.metric), wide, len(comparison.names))
    if alone:
        return
    axes = sheet.axes(_EDGE + _AXIS, top, wide, _CHART)
    lines = _agreement_lines(comparison)
    for i, (name, values) in enumerate(lines):
        _line(axes, comparison.epochs, mean(values, 1), i, name, _COLOURS[4] if len(lines) == 1 else None)
    if len(lines) == 1:
        _band(axes, comparison.epochs, lines[0][1])
    axes.axhline(0.5, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
    parted = comparison.parted_overall()
    if parted >= 0:
        axes.axvline(parted, color="#555555", linewidth=1.5, linestyle="--")
        axes.annotate(
            f"parted: epoch {parted}", (parted, 1), (4, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", **_SMALL,
        )  # fmt: skip
    low = min([-0.05, *(float(np.nanmin(values)) for _, values in lines if np.isfinite(values).any())])
    axes.set_ylim(max(-1.05, low - 0.05), 1.05)
    _finish(axes, "agreement (1: same place)", wide, len(lines))


def _agreement_lines(comparison: Comparison) -> list[tuple[str, npt.NDArray[np.float64]]]:
    """Returns by name (E, N) the agreement of each pair; of many, each run's mean with the others."""
    if len(comparison.pairs) <= _MOST_PAIRS:
        return [
            (" and ".join(_cut(comparison.names[run], 16) for run in pair), comparison.agreement[i])
            for i, pair in enumerate(comparison.pairs)
        ]
    own = [[i for i, pair in enumerate(comparison.pairs) if run in pair] for run in range(len(comparison.names))]
    each = zip(comparison.names, own, strict=True)
    return [(f"{_cut(name, 16)} and the others", mean(comparison.agreement[pairs], 0)) for name, pairs in each]


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
        linestyle=_STYLES[number // len(_COLOURS) % len(_STYLES)],
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=6,
        markevery=max(1, int(known.sum()) // 12),
        linewidth=2.2,
        label=_cut(name, 36),
    )


def _band(axes: Axes, epochs: Sequence[int], values: npt.NDArray[np.float64]) -> None:
    """Draws between which values the middle half of the samples lies."""
    known = np.isfinite(values).any(axis=1)
    low, high = np.nanpercentile(values[known], (25, 75), axis=1)
    axes.fill_between(
        np.array(epochs)[known], low, high, color="#000000", alpha=0.15, linewidth=0, label="half of the samples"
    )


def _finish(axes: Axes, title: str, width: float, lines: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch", **_SMALL)
    axes.set_ylabel(title, **_SMALL)
    axes.tick_params(labelsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, fontsize=10, frameon=False, borderaxespad=0.1,
        columnspacing=1.2, handlelength=2.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _described(metric: str) -> str:
    words = {
        "energy_in_region": "attention on the object",
        "accuracy": "share of right predictions",
        "confidence": "confidence",
    }
    return words.get(metric, _cut(metric, 30))


def _cut(text: str, length: int) -> str:
    line = printable(text)
    return line if len(line) <= length else f"{line[: max(1, length - 1)]}…"
