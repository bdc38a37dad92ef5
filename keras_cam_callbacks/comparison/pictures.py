"""The figure of a comparison, on matplotlib: samples over runs and epochs, and curves over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..checks import is_whole
from ..drawing.colours import colorize
from ..drawing.overlay import Overlay
from ..metrics import mean
from ..records import Floats, Image, Region
from .charts import CHART, CHART_FOOT, CHART_HEAD, draw_charts
from .compared import Compared, epoch_numbers
from .displays import shown_samples, space_of_samples
from .sheets import EDGE, SMALL, Sheet, bare, cut, cut_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

# inches: a tile, the bar under it, gaps between tiles and between blocks, the column of words; headings, key
_TILE, _BAR, _GAP, _BLOCK, _WORDS = 1.5, 0.42, 0.1, 0.3, 2.05
_ROW = 3.6  # a tile of a signal, or of slices side by side
_HEAD, _KEY = 0.75, 0.55
_NARROWEST = 10.0  # inches: room for two charts
_LETTERS = 17  # that fit under a tile
# Rises in lightness throughout: the same to colour-blind people, and in grey print.
_OVERLAY = Overlay(colormap="inferno", alpha=0.6, threshold=0.15, caption=False, size=240)
_LARGE = SMALL | {"fontsize": 15}
_METRICS = ("energy_in_region", "accuracy", "top_label", "confidence")  # the first one that is known is drawn


@dataclass(frozen=True)
class _Plan:
    """What is drawn: places of samples, places of epochs, and by name the numbers of the chart."""

    samples: tuple[int, ...]
    epochs: tuple[int, ...]
    metric: str
    numbers: npt.NDArray[np.float64]


def draw(
    comparison: Compared, samples: Any, epochs: Sequence[int] | None, metric: str | None, overlay: Overlay | None
) -> Figure:
    """Draws the figure; see `Comparison.figure`."""
    try:
        from ..drawing.notebook import NotebookFigure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it: pip install 'keras_cam_callbacks[plot]'") from error
    if overlay is not None and not isinstance(overlay, Overlay):
        raise TypeError(f"`overlay` must be an Overlay or None. Received: {overlay!r}. Overlay(alpha=0.4) works.")
    if overlay is not None and overlay.layout == "panel":
        raise ValueError(
            'A tile has room for one picture. Received: overlay with layout="panel". layout="overlay" and "mask" work.'
        )
    plan = _Plan(_samples(comparison, samples), _epochs(comparison, epochs), *_metric(comparison, metric))
    pictures = _Pictures(comparison, plan, overlay)
    block = len(plan.epochs) * (pictures.tile + _GAP) - _GAP
    blocks = len(comparison.names) * (block + _BLOCK)
    width = max(_NARROWEST, EDGE + _WORDS + pictures.tile + _BLOCK + blocks - _BLOCK + EDGE)
    rows = len(plan.samples) * pictures.row
    height = _HEAD + rows + _KEY + CHART_HEAD + CHART + CHART_FOOT
    figure = NotebookFigure(figsize=(width, height), facecolor="white")
    sheet = Sheet(figure, width, height)
    _draw_samples(sheet, pictures)
    for run in range(len(comparison.names)):
        _draw_run(sheet, pictures, run, EDGE + _WORDS + pictures.tile + _BLOCK + run * (block + _BLOCK))
    _draw_key(sheet, EDGE, _HEAD + rows, overlay or _OVERLAY, framed=any(map(_has_place, pictures.regions)))
    draw_charts(sheet, comparison, plan.metric, plan.numbers, _HEAD + rows + _KEY + CHART_HEAD)
    return figure


def _samples(comparison: Compared, samples: Any) -> tuple[int, ...]:
    if is_whole(samples, 1):
        return comparison.most_different(int(samples))
    if isinstance(samples, (list, tuple)) and samples and all(key in comparison.sample_keys for key in samples):
        return tuple(map(comparison.sample_keys.index, samples))
    raise ValueError(
        "`samples` must say how many of the most different samples are shown, or list some of `sample_keys`. "
        f"Received: samples={samples!r}. samples=4 and samples={[comparison.sample_keys[0]]!r} work."
    )


def _epochs(comparison: Compared, epochs: Sequence[int] | None) -> tuple[int, ...]:
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


def _metric(comparison: Compared, metric: str | None) -> tuple[str, npt.NDArray[np.float64]]:
    numbers = {
        "confidence": mean(comparison.confidences, 2),
        **epoch_numbers(comparison),
        comparison.right_name: mean(comparison.correct(), 2),
    }
    known = [name for name, values in numbers.items() if np.isfinite(values).any()]
    if metric is None:
        metric = next((name for name in (*_METRICS, *known) if name in known), "confidence")
    elif metric not in known:
        raise ValueError(
            f"`metric` must be one of what the runs have: {', '.join(known)}. Received: {metric!r}. None chooses."
        )
    return metric, numbers[metric]


class _Pictures:
    """The tiles of a figure: reads images and maps when they are drawn, and keeps none."""

    def __init__(self, comparison: Compared, plan: _Plan, overlay: Overlay | None) -> None:
        self.comparison, self.plan = comparison, plan
        self.images = shown_samples(comparison, plan.samples)
        self.space = space_of_samples(comparison)
        regions = comparison.regions()
        # Signals, and slices side by side, are wide; where the object is in one slice isn't where it is in all.
        is_row = self.images[0].ndim != 3
        self.tile = _ROW if is_row else _TILE
        self.overlay = overlay or (replace(_OVERLAY, size=None) if is_row else _OVERLAY)
        self.regions = [None if self.space is not None else regions[i] for i in plan.samples]
        if is_row:  # The slices are those of the first run's last map.
            last = comparison.heatmaps(0, comparison.runs[0].epochs[-1].step)
            assert last is not None
            shown = self.overlay.unfolded(self.images, [last[list(plan.samples)]], self.space)
            self.bare = tuple(one.shown for one in shown)
        else:  # A map of nothing leaves the bare image.
            self.bare = _OVERLAY.draw(self.images, np.zeros((len(self.images), 1, 1), np.float32))
        # A row is as high as the highest image, but has room for its words.
        aspect = max(image.shape[0] / image.shape[1] for image in (self.bare if is_row else self.images))
        self.high = max(_TILE * 0.7, self.tile * min(aspect, 1.5))
        self.row = self.high + _BAR + _GAP

    def drawn(self, run: int, place: int) -> tuple[Image, ...] | None:
        """Returns the overlays of the samples in one epoch, or None where the run lacks it."""
        heatmaps = self.comparison.heatmaps(run, self.comparison.epochs[place])
        return None if heatmaps is None else self._drawn(heatmaps[list(self.plan.samples)])

    def _drawn(self, heatmaps: Floats) -> tuple[Image, ...]:
        return self.overlay.draw(self.images, heatmaps, space=self.space)


def _has_place(region: Region | None) -> bool:
    return region is not None and bool(len(region.boxes) or region.mask is not None)


def _draw_samples(sheet: Sheet, pictures: _Pictures) -> None:
    """Draws the bare images, and beside each what sample it is and how far the runs agree on it."""
    comparison, plan = pictures.comparison, pictures.plan
    agreement, parted = 1 - comparison.disagreement(), comparison.parted()
    for row, (i, bare_image) in enumerate(zip(plan.samples, pictures.bare, strict=True)):
        top = _HEAD + row * pictures.row
        _show(sheet.axes(EDGE + _WORDS, top, pictures.tile, pictures.high), bare_image, None)
        label = comparison.class_name(comparison.labels[i])
        lines = [] if label is None else [f"is {cut(label, _LETTERS)}"]
        if np.isfinite(agreement[i]):
            lines.append(f"agreement {agreement[i]:.2f}")
            lines.append("not apart in the end" if parted[i] < 0 else f"apart from {comparison.unit} {parted[i]} on")
        sheet.write(cut(comparison.sample_keys[i], _LETTERS), EDGE, top + 0.05, fontweight="bold")
        sheet.write("\n".join(lines), EDGE, top + 0.32, linespacing=1.5)


def _draw_run(sheet: Sheet, pictures: _Pictures, run: int, left: float) -> None:
    """Draws the block of one run: a column for each epoch, the predicted class under each tile."""
    comparison, plan = pictures.comparison, pictures.plan
    block = len(plan.epochs) * (pictures.tile + _GAP) - _GAP
    heading = cut_apart(comparison.names, int(block / 0.15))[run]
    sheet.write(heading, left, 0.12, **_LARGE, fontweight="bold")
    right = comparison.correct()
    for column, place in enumerate(plan.epochs):
        x = left + column * (pictures.tile + _GAP)
        sheet.write(f"{comparison.unit} {comparison.epochs[place]}", x, 0.47, fontsize=12)
        tiles = pictures.drawn(run, place)
        for row, i in enumerate(plan.samples):
            top = _HEAD + row * pictures.row
            axes = sheet.axes(x, top, pictures.tile, pictures.high)
            if tiles is None:
                _note(axes, "no such epoch")
                continue
            _show(axes, tiles[row], pictures.regions[row])
            if np.isnan(comparison.peaks[run, place, i, 0]):
                axes.set_title("no heatmap", y=0.02, color="white", **SMALL, bbox={"facecolor": "black", "pad": 2})
            _caption(
                sheet.axes(x, top + pictures.high, pictures.tile, _BAR),
                _prediction(comparison, run, place, i),
                right[run, place, i],
            )


def _prediction(comparison: Compared, run: int, place: int, sample: int) -> str:
    """Returns a line for the predicted class, and one that says whether it is right, and how sure the model is."""
    name = comparison.class_name(int(comparison.predicted[run, place, sample]))
    confidence = float(comparison.confidences[run, place, sample])
    right = comparison.correct()[run, place, sample]
    verdict = "" if np.isnan(right) else "right" if right else "WRONG"
    shown = f"({confidence:.2f})" if np.isfinite(confidence) else ""
    return f"{cut(name or '', _LETTERS)}\n{verdict} {shown}".strip()


def _caption(axes: Axes, text: str, right: float) -> None:
    """Writes a prediction: in white on black where it is wrong, otherwise in black on white."""
    wrong = right == 0
    axes.set_facecolor("black" if wrong else "white")
    bare(axes)
    axes.text(
        0.5,
        0.48,
        text,
        ha="center",
        va="center",
        transform=axes.transAxes,
        color="white" if wrong else "black",
        fontweight="bold" if wrong else "normal",
        **SMALL | {"fontsize": 10},
    )


def _show(axes: Axes, picture: Image, region: Region | None) -> None:
    axes.imshow(picture, origin="upper", aspect="equal")
    bare(axes)
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
    bare(axes)
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, **SMALL)


def _draw_key(sheet: Sheet, left: float, top: float, overlay: Overlay, *, framed: bool) -> None:
    tones = np.arange(256, dtype=np.uint8)[None]
    bar = sheet.axes(left, top + 0.12, 1.5, 0.16)
    colours = np.dstack([tones] * 3) if overlay.layout == "mask" else colorize(tones, overlay.colormap)
    bar.imshow(colours, aspect="auto")
    bare(bar)
    text = "from left to right: counts little to counts most for the explained class"
    frame = "; white frame: where the object is" * framed
    sheet.write(text + frame + "; white on black: wrong prediction", left + 1.65, top + 0.11)
