"""Where the objects are, as boxes and masks that Weights & Biases draws on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_cam_callbacks.records import EpochRecord, Image, Place, Region, RunConfig, class_name

if TYPE_CHECKING:
    from wandb.data_types import BoundingBoxes2D, ImageMask

# 0 is the background of a mask. The object's class is told by the box's caption: masks know no class above 255.
_OBJECT = 1
_CLASS_LABELS = {_OBJECT: "object"}
_LAYER = "region"


class Marks:
    """Boxes and masks of a run's regions, each saved once, with the first epoch's pictures.

    Args:
        config: The run.
    """

    def __init__(self, config: RunConfig):
        self._config = config
        self._made: dict[tuple[int, tuple[int, ...], tuple[Place, ...]], dict[str, Any]] = {}

    def of(self, row: int, record: EpochRecord) -> dict[str, Any]:
        """Returns what to give to `wandb.Image` besides the picture.

        Args:
            row: Which sample.
            record: The epoch.

        Returns:
            "boxes" and "masks" for each place of the image in its picture, as far as there are any; empty where the
            sample has no region, or its picture shows something else.
        """
        region = self._config.regions[row] if self._config.regions else None
        places = record.places[row] if record.places else ()
        flat = region is not None and region.boxes.shape[1] == 4 and (region.mask is None or region.mask.ndim == 2)
        if region is None or not flat or not places:  # W&B knows boxes and masks of images alone.
            return {}
        key = row, record.overlays[row].shape, places
        if key not in self._made:
            self._made[key] = self._make(row, region, record.overlays[row], places)
        return self._made[key]

    def saved(self) -> None:
        """Keeps what was logged: later epochs name the files that hold it."""
        for mark in self._made.values():
            for layers in mark.values():
                for layer in layers.values():
                    # W&B would save the file again, publish it, and send the run's config, for each picture.
                    layer.bind_to_run = _do_nothing

    def _make(self, row: int, region: Region, picture: Image, places: Sequence[Place]) -> dict[str, Any]:
        mark: dict[str, Any] = {}
        if len(region.boxes):
            mark["boxes"] = {_LAYER: _boxes(region.boxes, self._class_name(row), picture, places)}
        if region.mask is not None:
            mark["masks"] = {_LAYER: _mask(region.mask, picture, places)}
        return mark

    def _class_name(self, row: int) -> str:
        label = self._config.labels[row]
        return _CLASS_LABELS[_OBJECT] if label is None else class_name(self._config.class_names, label)


def _boxes(boxes: npt.NDArray[np.float64], caption: str, picture: Image, places: Sequence[Place]) -> BoundingBoxes2D:
    from wandb.data_types import BoundingBoxes2D

    full_height, full_width = picture.shape[:2]
    data = [
        {
            "position": {
                "minX": (left + x0 * (right - left)) / full_width,
                "minY": (top + y0 * (bottom - top)) / full_height,
                "maxX": (left + x1 * (right - left)) / full_width,
                "maxY": (top + y1 * (bottom - top)) / full_height,
            },
            "class_id": _OBJECT,
            "box_caption": caption,
        }
        for left, top, right, bottom in places
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    return BoundingBoxes2D({"box_data": data, "class_labels": _CLASS_LABELS}, _LAYER)


def _mask(mask: npt.NDArray[np.bool_], picture: Image, places: Sequence[Place]) -> ImageMask:
    from wandb.data_types import ImageMask

    from keras_cam_callbacks.opencv import cv2

    canvas = np.zeros(picture.shape[:2], np.uint8)
    for left, top, right, bottom in places:
        size = right - left, bottom - top
        resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        canvas[top:bottom, left:right] = resized * _OBJECT
    return ImageMask({"mask_data": canvas, "class_labels": _CLASS_LABELS}, _LAYER)


def _do_nothing(*_: Any, **__: Any) -> None: ...
