"""Where the objects are, as people have it: boxes in any usual format, masks, or both, for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import did_you_mean, is_whole
from ..records import Region, short_repr

__all__ = ["BOX_FORMATS", "Regions", "resolve_regions"]

BOX_FORMATS = tuple(lead + name for lead in ("", "rel_") for name in ("xyxy", "yxyx", "xywh", "center_xywh"))
"""The formats of boxes, named as Keras names them."""

_ROUNDING = 1e-4  # As shares of a side: what float32 boxes may be over the border.


@dataclass(frozen=True, eq=False)
class Regions:
    """Where the objects are in the explained samples, with boxes in a format of your choice.

    Attributes:
        items: For each explained sample, or for each sample of the data, in order: None where nothing is known; a box
            (4,); several boxes (B, 4); a mask (H, W), True or nonzero on the object; several masks (M, H, W); a dict
            with "boxes" and "masks"; or a region of a stored run. The object is where any of them is. An array (N, 4)
            is one box for each sample. An empty list of boxes is None. A dict from classes, by index or by name, to any
            of these, such as {0: box, "dog": mask}, says where the objects of each class are: what is measured is then
            where the explained class is, and NaN where that has none.
        box_format: "xyxy", the default: left, top, right, bottom in px of the model's input image, counted from its top
            left corner; right and bottom are exclusive, so that (0, 0, W, H) is the whole image. "yxyx": top, left,
            bottom, right. "xywh": left, top, width, height. "center_xywh": the centre, width, height. With "rel_"
            before it, such as "rel_xyxy": the same as shares of the image's width and height, in [0, 1].

    Raises:
        ValueError: If the format is unknown.

    Example:
        >>> GradCAMLogger((x, y), regions=[(10, 20, 90, 80), None, mask])
        >>> GradCAMLogger((x, y), regions=Regions(boxes, "rel_yxyx"))
    """

    items: Any
    box_format: str = "xyxy"

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.box_format not in BOX_FORMATS:
            raise ValueError(
                f"`box_format` must be one of {', '.join(BOX_FORMATS)}. Received: {self.box_format!r}."
                + did_you_mean(self.box_format, BOX_FORMATS)
            )


def resolve_regions(
    regions: Any, rows: npt.NDArray[np.intp], count: int | None, size: tuple[int, ...]
) -> tuple[Region | None, ...]:
    """Turns what the user gave as `regions` into one region for each explained sample.

    Args:
        regions: `Regions`, or its items with boxes in "xyxy"; None for none. Of an item by class the region of all
            classes is taken together.
        rows: (N,) which samples of the data are explained.
        count: How many samples the data has; None where it was not read to its end.
        size: H and W of the model's input image in px.

    Returns:
        N regions; empty where `regions` is None.

    Raises:
        ValueError: If there are too few or too many, a box is not inside its image or has no area, or a mask has
            another size or is empty.
        TypeError: If `regions` is no list, or an item is neither boxes nor masks.
    """
    if regions is None:
        return ()
    if not isinstance(regions, Regions):
        regions = Regions(regions)
    items = regions.items
    if isinstance(items, (Mapping, str)) or not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise TypeError(
            "`regions` must be a list with one item for each sample: None, boxes, masks, or a dict of both. "
            f"Received: {items!r} of type {type(items).__name__}. [(10, 20, 90, 80), None] works for two samples."
        )
    chosen = aligned_rows(len(items), rows, count)
    if chosen is None:
        raise ValueError(
            f"`regions` must give one item for each of {whom(rows, count)}. "
            f"Received: {len(items)}. None stands for a sample of which nothing is known."
        )
    by_class = _resolved(items, chosen, regions.box_format, size)
    return tuple(_union([part for part in parts.values() if part is not None], size) for parts in by_class)


def resolve_class_regions(
    regions: Any, rows: npt.NDArray[np.intp], count: int | None, size: tuple[int, ...]
) -> tuple[Mapping[int | str, Region] | None, ...]:
    """Turns what the user gave as `regions` into the regions of each class, for each explained sample.

    Args:
        regions: As for `resolve_regions`, which has checked it; and likewise the others.
        rows: Likewise.
        count: Likewise.
        size: Likewise.

    Returns:
        N mappings from classes to regions, None for a sample whose region was not given by class; empty where that is
        so for all.
    """
    if not isinstance(regions, Regions):
        regions = Regions(regions)
    chosen = aligned_rows(len(regions.items), rows, count)
    assert chosen is not None
    by_class = [
        {key if isinstance(key, str) else int(key): region for key, region in parts.items() if region is not None}
        if _is_by_class(regions.items[int(i)])
        else None
        for i, parts in zip(chosen, _resolved(regions.items, chosen, regions.box_format, size), strict=True)
    ]
    return tuple(by_class) if any(one is not None for one in by_class) else ()


_PARTS = ("boxes", "mask", "masks", "labels")  # Keras' own dicts have labels beside the boxes.
_ALIKE = ("bbox", "bboxes", "box", "segmentation", "polygon", "classes", "class")  # No names of classes.


def _is_by_class(item: Any) -> bool:
    """Tells whether an item says where each class is."""
    return isinstance(item, Mapping) and set(item).isdisjoint(_PARTS)


def _by_class(item: Any, label: str) -> dict[Any, tuple[str, Any]]:
    """Returns the parts of an item that stand for a class each, with their labels in messages; one for any other."""
    if not _is_by_class(item):
        return {None: (label, item)}
    near = [key for key in item if isinstance(key, str) and (did_you_mean(key, _PARTS) or key in _ALIKE)]
    if near:
        raise ValueError(
            f"`{label}` as a dict must hold 'boxes', 'masks' or both, or name classes. "
            f"Received: the names {list(item)}.{did_you_mean(near[0], _PARTS)}"
        )
    for key in item:
        if not is_whole(key, 0) and not (isinstance(key, str) and key):
            raise TypeError(
                f"`{label}` by class must have class indices or names as keys. Received: {key!r}. "
                "{0: (10, 20, 90, 80)} works."
            )
    return {key: (f"{label}[{key!r}]", part) for key, part in item.items()}


def _resolved(
    items: Any, chosen: npt.NDArray[np.intp], box_format: str, size: tuple[int, ...]
) -> list[dict[Any, Region | None]]:
    """Returns for each of the chosen items its regions by class; under None that of an item without classes."""
    flat = [
        (place, key, label, item)
        for place, i in enumerate(chosen)
        for key, (label, item) in _by_class(items[int(i)], f"regions[{int(i)}]").items()
    ]
    read = [_parts(None if isinstance(item, Region) else item, label, size) for _, _, label, item in flat]
    _check_unit([boxes for boxes, _ in read], box_format, size)
    resolved: list[dict[Any, Region | None]] = [{} for _ in chosen]
    for (place, key, label, item), (boxes, mask) in zip(flat, read, strict=True):
        whole = isinstance(item, Region)
        corners = _corners(boxes, box_format, size)
        resolved[place][key] = item if whole else _region(corners, mask, label, size, boxes)
    return resolved


def _union(regions: Sequence[Region], size: tuple[int, ...]) -> Region | None:
    """Returns where any of the objects of several regions is."""
    if len(regions) < 2:
        return regions[0] if regions else None
    masks = [region.mask for region in regions if region.mask is not None]
    mask = np.any(masks, axis=0) if masks and len({one.shape for one in masks}) == 1 else None
    if masks and mask is None:
        raise ValueError(
            f"The masks of one sample must be of one size. Received: {[one.shape for one in masks]} for images of "
            f"{size}. Resize masks without interpolation."
        )
    return Region(np.concatenate([region.boxes for region in regions]), mask)


def aligned_rows(given: int, rows: npt.NDArray[np.intp], count: int | None) -> npt.NDArray[np.intp] | None:
    """Tells which of some given items belong to the explained samples.

    Args:
        given: How many items there are.
        rows: (N,) which samples of the data are explained.
        count: How many samples the data has; None where it was not read to its end.

    Returns:
        (N,) places of items; None where the items are neither those of the explained samples nor of the data's.
    """
    if given == len(rows):
        return np.arange(len(rows))
    return rows if given == count or (count is None and given > int(rows.max())) else None


def whom(rows: npt.NDArray[np.intp], count: int | None) -> str:
    """Says for whom there must be an item, in words."""
    explained = f"the {len(rows)} explained samples"
    return explained if count == len(rows) else f"{explained}, or for all{f' {count}' if count else ''} of the data"


def _parts(
    item: Any, label: str, size: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_] | None]:
    """Returns an item's boxes (B, 4) as they were given, and its mask."""
    none: npt.NDArray[np.float64] = np.zeros((0, 4))
    if item is None:
        return none, None
    if isinstance(item, Mapping):
        unknown = set(item) - set(_PARTS)
        if unknown or not set(item) & {"boxes", "mask", "masks"}:
            raise ValueError(
                f"`{label}` as a dict must hold 'boxes', 'masks' or both. Received: the names {list(item)}."
            )
        boxes, mask = none, None
        if item.get("boxes") is not None:
            boxes = _as_boxes(_numbers(item["boxes"], label), label)
        given = [item[name] for name in ("mask", "masks") if item.get(name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"`{label}` as a dict must hold 'mask' or 'masks'. Received: both. {{'masks': [...]}} takes several."
            )
        if given:
            mask = _as_mask(_numbers(given[0], label), label, size)
        return boxes, mask
    array = _numbers(item, label)
    if array.size == 0 and array.ndim < 3:
        return none, None
    is_boxes = array.dtype != np.bool_ and array.ndim <= 2 and array.shape[-1:] == (4,) and array.shape != size
    return (_as_boxes(array, label), None) if is_boxes else (none, _as_mask(array, label, size))


def _numbers(given: Any, label: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(given)
    except ValueError:  # Rows of several lengths.
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"`{label}` must be None, a box of 4 numbers, boxes (B, 4), a mask (H, W) or masks (M, H, W), or a dict of "
            f"both. Received: {given!r}."
        )
    return array


def _as_boxes(array: npt.NDArray[Any], label: str) -> npt.NDArray[np.float64]:
    boxes = np.atleast_2d(np.asarray(array, np.float64))
    if array.size == 0:
        return boxes.reshape(0, 4)
    if array.ndim > 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(
            f"The boxes in `{label}` must be (B, 4) finite numbers. Received: shape {array.shape}, {boxes.tolist()}."
        )
    return boxes


def _as_mask(array: npt.NDArray[Any], label: str, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if array.ndim not in (2, 3) or array.shape[-2:] != size:
        raise ValueError(
            f"`{label}` must be a box of 4 numbers, boxes (B, 4), or a mask of the size of the model's input image, "
            f"{size}, or several, (M, *{size}). Received: shape {array.shape}. Resize masks without interpolation."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"The masks in `{label}` must be finite. Received: NaN or infinite pixels.")
    mask: npt.NDArray[np.bool_] = (array != 0).reshape(-1, *size).any(axis=0)
    if not mask.any():
        raise ValueError(
            f"The mask in `{label}` must mark at least one pixel. Received: an empty one. None stands for a sample of "
            "which nothing is known."
        )
    return mask


def _check_unit(every: Sequence[npt.NDArray[np.float64]], box_format: str, size: tuple[int, ...]) -> None:
    """Checks that boxes are in px or in shares, as their format says."""
    boxes = np.concatenate([np.zeros((0, 4)), *every])
    if not len(boxes):
        return
    highest = float(boxes.max())
    if box_format.startswith("rel_"):
        if highest > 1 + _ROUNDING:
            raise ValueError(
                f"Boxes in {box_format!r} must be shares of the image, in [0, 1]. Received: values up to "
                f"{highest:g}. Did you mean {box_format.removeprefix('rel_')!r}, in px?"
            )
    elif highest <= 1 and max(size) > 1:
        raise ValueError(
            f"Boxes in {box_format!r} must be in px of the model's input image, {size}. Received: no value above "
            f"{highest:g}. Did you mean Regions(boxes, 'rel_{box_format}'), in shares of the image?"
        )


def _corners(boxes: npt.NDArray[np.float64], box_format: str, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Returns left, top, right, bottom as shares of the image."""
    a, b, c, d = boxes.T
    kind = box_format.removeprefix("rel_")
    if kind == "yxyx":
        a, b, c, d = b, a, d, c
    elif kind == "xywh":
        c, d = a + c, b + d
    elif kind == "center_xywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    corners = np.stack([a, b, c, d], axis=1)
    return corners if box_format.startswith("rel_") else corners / (*size[::-1], *size[::-1])


def _region(
    corners: npt.NDArray[np.float64],
    mask: npt.NDArray[np.bool_] | None,
    label: str,
    size: tuple[int, ...],
    given: npt.NDArray[np.float64],
) -> Region | None:
    if not len(corners) and mask is None:
        return None
    for box, (left, top, right, bottom) in zip(given.tolist(), corners, strict=True):
        if right <= left or bottom <= top:
            raise ValueError(
                "Boxes must have their right edge to the right of the left one, and the bottom below the top. "
                f"Received: {box} in `{label}`. Regions(boxes, 'xywh') takes widths and heights, 'yxyx' the top first."
            )
        if min(left, top) < -_ROUNDING or max(right, bottom) > 1 + _ROUNDING:
            raise ValueError(
                f"Boxes must lie inside the model's input image, {size[0]} high and {size[1]} wide. Received: {box} in "
                f"`{label}`. Boxes of an image that was resized must be resized with it."
            )
    return Region(np.clip(corners, 0, 1), mask)
