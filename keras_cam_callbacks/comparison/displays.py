"""What a report shows of the samples: images, signals under their ink, the slices of volumes and clips."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..drawing.columns import displayed
from ..drawing.ink import Ink
from ..drawing.unfolding import unfold
from ..metrics import degenerate
from ..opencv import cv2
from ..records import Image, Region, Space
from .compared import Compared

__all__ = ["kind_of_samples", "make_displays", "shown_samples", "space_of_samples"]

_MOST_SLICES = 32
_SLICE_SIDE = 160  # px
_SIGNAL_WIDTH = 448  # px


def shown_samples(comparison: Compared, samples: Sequence[int] | None = None) -> list[npt.NDArray[Any]]:
    """Returns what people see of some samples, or of all, by the first run, as in `Look`."""
    run, keys = comparison.runs[0], comparison.sample_keys
    rows = [run.sample_keys.index(keys[i]) for i in (range(len(keys)) if samples is None else samples)]
    return list(run.display(rows, comparison.view))


def space_of_samples(comparison: Compared) -> Space | None:
    """Returns what the axes of the samples are, by the first run; None for images."""
    run = comparison.runs[0]
    recipes = (epoch.pictures.recipe for epoch in run.epochs)
    spaces = (recipe.space for recipe in recipes if recipe is not None and recipe.space is not None)
    space = next(spaces, run.space)
    return None if space is None or len(space.axes) == 2 else space


def kind_of_samples(comparison: Compared) -> str:
    """Returns "signal", "image", "volume" or "clip"."""
    space = space_of_samples(comparison)
    if space is None:
        return "image"
    return "signal" if len(space.axes) == 1 else "clip" if space.axes[0] == "time" else "volume"


def make_displays(comparison: Compared, side: int, quality: int) -> dict[str, Any]:
    """Returns the parts of a payload that say what is seen of the samples.

    Args:
        comparison: The compared runs.
        side: The longer side of the images, in px; smaller ones keep their size.
        quality: Of the JPEG files, 1 to 100.

    Returns:
        "kind", as `kind_of_samples`; "images", for each sample its source with width and height, of a signal with its
        ink and the box below it, of slices with how many stand in a row; "regions"; and "slices": null, or the axis,
        how many slices there are, the numbers of those that are shown, and with which the page begins.
    """
    shown, space = shown_samples(comparison), space_of_samples(comparison)
    regions = comparison.regions()
    kind = kind_of_samples(comparison)
    parts: dict[str, Any] = {"kind": kind, "slices": None}
    if kind == "signal":
        images = [_signal(display, space, quality) for display in shown]
        outlines: list[Any] = [
            None if region is None else _signal_outlines(region, image["box"])
            for region, image in zip(regions, images, strict=True)
        ]
    elif space is not None and all(display.ndim == 4 for display in shown):
        counts = min(map(len, shown))
        numbers = np.linspace(0, counts - 1, min(counts, _MOST_SLICES)).round().astype(int).tolist()
        start = _hottest(comparison, numbers, counts)
        images = [_slices(display, numbers, start, space, min(side, _SLICE_SIDE), quality) for display in shown]
        outlines = [
            None if region is None else [_slice_outlines(region, (n + 0.5) / counts) for n in numbers]
            for region in regions
        ]
        parts["slices"] = {"axis": space.axes[0], "count": counts, "numbers": numbers, "start": start}
    else:
        images = [_image(display, side, quality) for display in shown]
        outlines = [None if region is None or kind != "image" else _outlines(region) for region in regions]
    return parts | {"images": images, "regions": outlines}


def _hottest(comparison: Compared, numbers: Sequence[int], count: int) -> int:
    """Which of the slices has most heat in the last epochs, each map counted in shares of its own heat."""
    heat = np.zeros(len(numbers))
    for run in range(len(comparison.names)):
        last = comparison.runs[run].epochs[-1].step
        maps = comparison.heatmaps(run, last)
        if maps is None or maps.ndim != 4:
            continue
        along = np.maximum(maps[~degenerate(maps)], 0).sum(axis=(2, 3), dtype=np.float64)
        shares = (along / along.sum(axis=1, keepdims=True)).sum(axis=0)
        heat += shares[_cells(numbers, count, len(shares))]
    return int(np.argmax(heat)) if np.ptp(heat) > 0 else len(numbers) // 2


def _cells(numbers: Sequence[int], count: int, cells: int) -> npt.NDArray[np.intp]:
    """In which of the cells of a map each slice lies."""
    return np.asarray((np.array(numbers) + 0.5) * cells / count, np.intp)


def _signal(display: npt.NDArray[Any], space: Space | None, quality: int) -> dict[str, Any]:
    flat = unfold(display, [np.ones(1, np.float32)], space=space, size=_SIGNAL_WIDTH)
    height, width = flat.picture.shape[:2]
    ground = np.argwhere(flat.lay(np.ones(1, np.float32)) > 0)
    (top, left), (bottom, right) = ground.min(axis=0).tolist(), (ground.max(axis=0) + 1).tolist()
    assert flat.ink is not None
    return _jpeg(flat.picture, quality) | {
        "ink": _source(".png", _as_png(flat.ink), [cv2.IMWRITE_PNG_COMPRESSION, 9]),
        "box": [left / width, top / height, right / width, bottom / height],
    }


def _as_png(ink: Ink) -> npt.NDArray[np.uint8]:
    """Ink as (H, W, 4) blue, green, red, and how much it hides."""
    cover = ink[..., 3:]
    colours = np.divide(ink[..., :3], cover, out=np.zeros_like(ink[..., :3]), where=cover > 0)
    return np.asarray(np.rint(np.concatenate([colours[..., ::-1], cover], axis=2).clip(0, 1) * 255), np.uint8)


def _slices(
    display: npt.NDArray[Any], numbers: Sequence[int], start: int, space: Space, side: int, quality: int
) -> dict[str, Any]:
    """The shown slices in one JPEG, row by row."""
    _, down, across = space.spacing or (1.0,) * 3
    extents = np.array(display.shape[1:3]) * [down, across] / min(down, across)
    height, width = (max(1, round(float(extent))) for extent in extents * min(1.0, side / float(extents.max())))
    columns = int(np.ceil(np.sqrt(len(numbers))))
    rows = int(np.ceil(len(numbers) / columns))
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, number in enumerate(numbers):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height, left : left + width] = displayed(
            np.ascontiguousarray(display[number]), (height, width)
        )
    thumb = _jpeg(displayed(np.ascontiguousarray(display[numbers[start]]), (height, width)), quality)
    return _jpeg(sheet, quality) | {"width": width, "height": height, "columns": columns, "thumb": thumb["source"]}


def _image(image: Image, side: int, quality: int) -> dict[str, Any]:
    height, width = image.shape[:2]
    factor = min(1.0, side / max(height, width))
    width, height = max(1, round(width * factor)), max(1, round(height * factor))
    if factor < 1:
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return _jpeg(image, quality)


def _jpeg(image: Image, quality: int) -> dict[str, Any]:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    source = _source(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    return {"source": source, "width": image.shape[1], "height": image.shape[0]}


def _source(suffix: str, picture: npt.NDArray[Any], flags: list[int]) -> str:
    _, data = cv2.imencode(suffix, np.ascontiguousarray(picture), flags)
    kind = {".jpg": "jpeg", ".png": "png"}[suffix]
    return f"data:image/{kind};base64," + base64.b64encode(bytes(data)).decode("ascii")


def _outlines(region: Region) -> list[list[list[float]]]:
    boxes = [_rectangle(*box) for box in region.boxes]
    return _rounded([*boxes, *_contours(region.mask)])


def _slice_outlines(region: Region, share: float) -> list[list[list[float]]]:
    """Outlines on one slice, which lies at that share of the first axis."""
    boxes = [_rectangle(x0, y0, x1, y1) for x0, y0, first, x1, y1, last in region.boxes if first <= share < last]
    mask = None if region.mask is None else region.mask[int(share * len(region.mask))]
    return _rounded([*boxes, *_contours(mask)])


def _signal_outlines(region: Region, box: Sequence[float]) -> list[list[list[float]]]:
    """Outlines on the ground of a signal."""
    left, top, right, bottom = box
    spans = [(float(first), float(last)) for first, last in region.boxes]
    if region.mask is not None:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], region.mask, [False]]).astype(int))).reshape(-1, 2)
        spans += [(first / len(region.mask), last / len(region.mask)) for first, last in edges.tolist()]
    width = right - left
    return _rounded([_rectangle(left + first * width, top, left + last * width, bottom) for first, last in spans])


def _rectangle(left: float, top: float, right: float, bottom: float) -> npt.NDArray[np.float64]:
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return np.clip(np.array(corners, np.float64), 0, 1)


def _contours(mask: npt.NDArray[np.bool_] | None) -> list[npt.NDArray[Any]]:
    if mask is None:
        return []
    size = np.array(mask.shape[::-1])
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_L1)
    # A contour runs through the middle of pixels.
    return [(contour[:, 0] + 0.5) / size for contour in contours]


def _rounded(shapes: Sequence[npt.NDArray[Any]]) -> list[list[list[float]]]:
    return [np.round(shape, 4).tolist() for shape in shapes]
