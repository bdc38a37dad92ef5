"""Where the objects are, as people have it: boxes in any usual format, masks, or both, for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import did_you_mean, is_whole
from ..records import Region, short_repr
from .arrays import on_host
from .boxes import BOX_FORMATS, WORDS, check_edges, check_format, check_unit, corners

__all__ = ["BOX_FORMATS", "Regions", "resolve_regions"]


@dataclass(frozen=True, eq=False)
class Regions:
    """Where the objects are in the explained samples, with boxes in a format of your choice.

    Attributes:
        items: For each explained sample, or for each sample of the data, in order: None where nothing is known; a box
            (4,); several boxes (B, 4); a mask (H, W), True or nonzero on the object; several masks (M, H, W); a dict
            with "boxes" and "masks"; or a region of a stored run. The object is where any of them is. An array (N, 4)
            is one box for each sample. An empty list of boxes is None. A dict from classes, by index or by name, to any
            of these, such as {0: box, "dog": mask}, says where the objects of each class are: what is measured is then
            where the explained class is, and NaN where that has none. A signal's box has 2 numbers, and its mask is
            (T,); a volume's or a clip's box has 6, and its mask is (D, H, W).
        box_format: "xyxy", the default: left, top, right, bottom in px of the model's input image, counted from its top
            left corner; right and bottom are exclusive, so that (0, 0, W, H) is the whole image. "yxyx": top, left,
            bottom, right. "xywh": left, top, width, height. "center_xywh": the centre, width, height. With "rel_"
            before it, such as "rel_xyxy": the same as shares of the image's width and height, in [0, 1]. Of signals,
            volumes and clips there are "xyxy", in positions of the model's input, and "rel_xyxy": a signal's box is
            (first, last), a volume's or a clip's is (left, top, first, right, bottom, last), with first and last along
            the array's first axis; right, bottom and last are exclusive.

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
        size: Positions along each axis of the model's input, H and W of an image.

    Returns:
        N regions; empty where `regions` is None.

    Raises:
        ValueError: If there are too few or too many, a box is not inside its image or has no area, a mask has another
            size or is empty, or the format of boxes is one that only images have.
        TypeError: If `regions` is no list, or an item is neither boxes nor masks.
    """
    if regions is None:
        return ()
    if not isinstance(regions, Regions):
        regions = Regions(regions)
    items = regions.items
    check_format(regions.box_format, len(size))
    if isinstance(items, (Mapping, str)) or not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise TypeError(
            "`regions` must be a list with one item for each sample: None, boxes, masks, or a dict of both. "
            f"Received: {items!r} of type {type(items).__name__}. [{WORDS[len(size)].box}, None] works for two samples."
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


def _by_class(item: Any, label: str, size: tuple[int, ...]) -> dict[Any, tuple[str, Any]]:
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
                f"{{0: {WORDS[len(size)].box}}} works."
            )
    return {key: (f"{label}[{key!r}]", part) for key, part in item.items()}


def _resolved(
    items: Any, chosen: npt.NDArray[np.intp], box_format: str, size: tuple[int, ...]
) -> list[dict[Any, Region | None]]:
    """Returns for each of the chosen items its regions by class; under None that of an item without classes."""
    flat = [
        (place, key, label, item)
        for place, i in enumerate(chosen)
        for key, (label, item) in _by_class(items[int(i)], f"regions[{int(i)}]", size).items()
    ]
    read = [_parts(None if isinstance(item, Region) else item, label, size) for _, _, label, item in flat]
    check_unit([boxes for boxes, _ in read], box_format, size)
    resolved: list[dict[Any, Region | None]] = [{} for _ in chosen]
    for (place, key, label, item), (boxes, mask) in zip(flat, read, strict=True):
        if isinstance(item, Region):
            resolved[place][key] = _checked_region(item, label, size)
        elif len(boxes) or mask is not None:
            shares = corners(boxes, box_format, size)
            check_edges(shares, boxes, label, size)
            resolved[place][key] = Region(np.clip(shares, 0, 1), mask)
        else:
            resolved[place][key] = None
    return resolved


def _union(regions: Sequence[Region], size: tuple[int, ...]) -> Region | None:
    """Returns where any of the objects of several regions is."""
    if len(regions) < 2:
        return regions[0] if regions else None
    masks = [region.mask for region in regions if region.mask is not None]
    mask = np.any(masks, axis=0) if masks and len({one.shape for one in masks}) == 1 else None
    if masks and mask is None:
        raise ValueError(
            f"The masks of one sample must be of one size. Received: {[one.shape for one in masks]} for "
            f"{WORDS[len(size)].plural} of {size}. Resize masks without interpolation."
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


def _checked_region(region: Region, label: str, size: tuple[int, ...]) -> Region:
    """Returns a region of a stored run, after a check that it is of as many axes."""
    axes = region.boxes.shape[1] // 2 if region.mask is None else region.mask.ndim
    if axes != len(size):
        raise ValueError(
            f"A stored region must be of {WORDS[len(size)].plural}, as the model's input is. "
            f"Received: `{label}`, which is of {WORDS[axes].plural if axes in WORDS else f'{axes} axes'}."
        )
    return region


def _parts(
    item: Any, label: str, size: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_] | None]:
    """Returns an item's boxes (B, 2 x axes) as they were given, and its mask."""
    none: npt.NDArray[np.float64] = np.zeros((0, 2 * len(size)))
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
            boxes = _as_boxes(_numbers(item["boxes"], label, size), label, size)
        given = [item[name] for name in ("mask", "masks") if item.get(name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"`{label}` as a dict must hold 'mask' or 'masks'. Received: both. {{'masks': [...]}} takes several."
            )
        if given:
            mask = _as_mask(_numbers(given[0], label, size), label, size)
        return boxes, mask
    array = _numbers(item, label, size)
    if array.size == 0 and array.ndim < 3:
        return none, None
    sides = 2 * len(size)
    is_boxes = array.dtype != np.bool_ and array.ndim <= 2 and array.shape[-1:] == (sides,) and array.shape != size
    return (_as_boxes(array, label, size), None) if is_boxes else (none, _as_mask(array, label, size))


def _numbers(given: Any, label: str, size: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        array = on_host(given)
    except ValueError:  # Rows of several lengths.
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        words = WORDS[len(size)]
        raise TypeError(
            f"`{label}` must be None, {_boxes_text(size)}, a mask {words.mask} or masks {words.masks}, or a dict of "
            f"both. Received: {given!r}."
        )
    return array


def _boxes_text(size: tuple[int, ...]) -> str:
    """Says in words what boxes may be."""
    sides, order = 2 * len(size), WORDS[len(size)].order
    return f"a box of {sides} numbers{f', {order},' if order else ','} boxes (B, {sides})"


def _as_boxes(array: npt.NDArray[Any], label: str, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    sides = 2 * len(size)
    boxes = np.atleast_2d(np.asarray(array, np.float64))
    if array.size == 0:
        return boxes.reshape(0, sides)
    if array.ndim > 2 or boxes.shape[1] != sides or not np.isfinite(boxes).all():
        words = WORDS[len(size)]
        order = f", each {words.order} of a {words.noun}" if words.order else ""
        raise ValueError(
            f"The boxes in `{label}` must be (B, {sides}) finite numbers{order}. "
            f"Received: shape {array.shape}, {boxes.tolist()}."
        )
    return boxes


def _as_mask(array: npt.NDArray[Any], label: str, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    axes, words = len(size), WORDS[len(size)]
    if array.ndim not in (axes, axes + 1) or array.shape[-axes:] != size:
        raise ValueError(
            f"`{label}` must be {_boxes_text(size)}, or a mask of the size of the model's input {words.noun}, "
            f"{size}, or several, (M, *{size}). Received: shape {array.shape}. Resize masks without interpolation."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"The masks in `{label}` must be finite. Received: NaN or infinite {words.place}s.")
    mask: npt.NDArray[np.bool_] = (array != 0).reshape(-1, *size).any(axis=0)
    if not mask.any():
        raise ValueError(
            f"The mask in `{label}` must mark at least one {words.place}. Received: an empty one. None stands for a "
            "sample of which nothing is known."
        )
    return mask
