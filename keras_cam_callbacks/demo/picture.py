"""The demo's picture: runs side by side over the epochs, drawn from their stored records."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..drawing.files import read_image
from ..drawing.overlay import Overlay, colorize
from ..records import Image, Ints, class_name
from ..store import Run, StoredEpoch

__all__ = ["draw_runs"]

# px: a tile, the bar under it, the gaps between tiles and between blocks, and what is above and below them
_TILE, _BAR, _GAP, _BLOCK_GAP, _TOP, _BOTTOM = 150, 28, 6, 36, 124, 56
_WHITE, _BLACK, _GREY = (255,) * 3, (0,) * 3, (80,) * 3
# Rises in lightness throughout: the same to colour-blind people, and in grey print.
_OVERLAY = Overlay(colormap="inferno", alpha=0.6, threshold=0.15, size=_TILE, caption=False)


def draw_runs(
    runs: Sequence[Run],
    headings: Sequence[tuple[str, str]],
    rows: Sequence[int],
    names: Sequence[str],
    boxes: Ints,
) -> Image:
    """Draws some samples of runs on the same batch: a block for each run, in it a column for each of up to four epochs.

    The epochs are the first, the second, the middle and the last one. Under each overlay stands the predicted
    class: in black on white where it is right, in white on black, with "WRONG", where it is not. A white
    frame shows where the object is.

    Args:
        runs: The runs.
        headings: For each run, a title and a line below it.
        rows: Which samples to show.
        names: What each of the chosen samples is.
        boxes: (len(rows), 4) int64, left, top, right, bottom of their objects, in px of the display image.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        ValueError: If a run holds no epoch, or the runs' samples differ.
    """
    manifests = [run.manifest for run in runs]
    if not all(run.epochs for run in runs) or any(m["fingerprints"] != manifests[0]["fingerprints"] for m in manifests):
        held = ", ".join(f"{run.directory} ({len(run.epochs)} epochs)" for run in runs)
        raise ValueError(f"The runs must hold epochs of the same samples. Received: {held}. Train both first.")
    labels = [manifests[0]["labels"][row] for row in rows]
    images = [read_image(runs[0].image_files[row]) for row in rows]
    shown = [_shown(run.epochs) for run in runs]

    step = _TILE + _GAP
    lefts = np.cumsum([_BLOCK_GAP, _TILE + _BLOCK_GAP, *(len(epochs) * step - _GAP + _BLOCK_GAP for epochs in shown)])
    height = _TOP + len(rows) * (step + _BAR) + _BOTTOM
    sheet: Image = np.full((height, int(lefts[-1]), 3), 255, np.uint8)

    blank = np.zeros((len(rows), 1, 1), np.float32)  # A map of nothing leaves the bare image.
    _put_column(sheet, int(lefts[0]), "image", _OVERLAY.draw(images, blank), names, [True] * len(rows))
    for run, epochs, (title, line), left in zip(runs, shown, headings, lefts[1:], strict=False):
        _write(sheet, title, int(left), 40, 27, bold=True)
        _write(sheet, line, int(left), 74, 21)
        for column, epoch in enumerate(epochs):
            arrays = epoch.arrays()
            tiles = _OVERLAY.draw(images, arrays["heatmaps"][list(rows)])
            for tile, image, box in zip(tiles, images, boxes, strict=True):
                _frame(tile, box * _TILE / len(image))
            predicted = [int(p) for p in arrays["predicted"][list(rows)]]
            right = [p == label for p, label in zip(predicted, labels, strict=True)]
            named = [class_name(run.class_names, p) for p in predicted]
            captions = [f"{name}: {'right' if r else 'WRONG'}" for name, r in zip(named, right, strict=True)]
            _put_column(sheet, int(left) + column * step, f"epoch {epoch.step + 1}", tiles, captions, right)
    _put_legend(sheet, int(lefts[1]), height - _BOTTOM + 12)
    return sheet


def _shown(epochs: Sequence[StoredEpoch]) -> list[StoredEpoch]:
    last = len(epochs) - 1
    return [epochs[i] for i in sorted({0, min(1, last), last // 2, last})]


def _put_column(
    sheet: Image, left: int, title: str, tiles: Sequence[Image], captions: Sequence[str], right: Sequence[bool]
) -> None:
    _write(sheet, title, left, _TOP - 10, 19)
    for row, (tile, caption, good) in enumerate(zip(tiles, captions, right, strict=True)):
        top = _TOP + row * (_TILE + _BAR + _GAP)
        sheet[top : top + _TILE, left : left + _TILE] = tile
        bar = sheet[top + _TILE : top + _TILE + _BAR, left : left + _TILE]
        bar[:] = _WHITE if good else _BLACK
        _write(sheet, caption, left + 6, top + _TILE + 21, 18, _BLACK if good else _WHITE, bold=not good)


def _frame(tile: Image, box: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    left, top, right, bottom = (round(side) for side in box)
    for colour, width in ((_BLACK, 4), (_WHITE, 2)):
        cv2.rectangle(tile, (left, top), (right - 1, bottom - 1), colour, width)


def _put_legend(sheet: Image, left: int, top: int) -> None:
    bar = colorize(np.tile(np.linspace(0, 255, 200).astype(np.uint8), (20, 1)), _OVERLAY.colormap)
    _write(sheet, "says little", left, top + 17, 18, _GREY)
    sheet[top : top + 20, left + 96 : left + 296] = bar
    _write(sheet, "speaks most for the predicted digit", left + 306, top + 17, 18, _GREY)
    cv2.rectangle(sheet, (left + 640, top), (left + 660, top + 20), _BLACK, 2)
    _write(sheet, "white frame: where the digit is", left + 672, top + 17, 18, _GREY)


def _write(
    sheet: Image, text: str, left: int, base: int, size: int, colour: tuple[int, ...] = _BLACK, bold: bool = False
) -> None:
    """Writes a line of ASCII; `base` is its base line, `size` the letters' height in px."""
    if hasattr(cv2, "FontFace"):
        cv2.putText(sheet, text, (left, base), colour, cv2.FontFace("sans"), size, 700 if bold else 400)
    else:  # OpenCV 4
        cv2.putText(
            sheet, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, size / 32, colour, 2 if bold else 1, cv2.LINE_AA
        )
