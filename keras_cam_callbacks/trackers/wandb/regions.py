"""Where the objects are, as boxes and masks that Weights & Biases draws on pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_cam_callbacks.records import Image, Region, RunConfig, class_name

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
        self._made: dict[tuple[int, tuple[int, ...]], dict[str, Any]] = {}

    def of(self, row: int, picture: Image) -> dict[str, Any]:
        """Returns what to give to `wandb.Image` besides the picture.

        Args:
            row: Which sample.
            picture: uint8 RGB (H, W, 3), its overlay.

        Returns:
            "boxes" and "masks" for each column of the picture, as far as there are any; empty where the sample has no
            region, or where it is not known where in the picture the image is.
        """
        region = self._config.regions[row] if self._config.regions else None
        if region is None:
            return {}
        key = row, picture.shape
        if key not in self._made:
            self._made[key] = self._make(row, region, picture)
        return self._made[key]

    def saved(self) -> None:
        """Keeps what was logged: later epochs name the files that hold it."""
        for mark in self._made.values():
            for layers in mark.values():
                for layer in layers.values():
                    # W&B would save the file again, publish it, and send the run's config, for each picture.
                    layer.bind_to_run = _do_nothing

    def _make(self, row: int, region: Region, picture: Image) -> dict[str, Any]:
        from keras_cam_callbacks.drawing.columns import image_places

        drawing = self._config.overlay
        if not {"layout", "size"} <= drawing.keys():
            return {}
        places = image_places(
            self._config.display[row],
            picture,
            size=drawing["size"],
            layout=drawing["layout"],
            views=len(self._config.views),
        )
        if not places:
            return {}
        mark: dict[str, Any] = {}
        if len(region.boxes):
            mark["boxes"] = {_LAYER: _boxes(region.boxes, self._class_name(row), picture, places)}
        if region.mask is not None:
            mark["masks"] = {_LAYER: _mask(region.mask, picture, places)}
        return mark

    def _class_name(self, row: int) -> str:
        label = self._config.labels[row]
        return _CLASS_LABELS[_OBJECT] if label is None else class_name(self._config.class_names, label)


def _boxes(
    boxes: npt.NDArray[np.float64], caption: str, picture: Image, places: list[tuple[int, int, int, int]]
) -> BoundingBoxes2D:
    from wandb.data_types import BoundingBoxes2D

    full_height, full_width = picture.shape[:2]
    data = [
        {
            "position": {
                "minX": (left + x0 * width) / full_width,
                "minY": (top + y0 * height) / full_height,
                "maxX": (left + x1 * width) / full_width,
                "maxY": (top + y1 * height) / full_height,
            },
            "class_id": _OBJECT,
            "box_caption": caption,
        }
        for left, top, width, height in places
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    return BoundingBoxes2D({"box_data": data, "class_labels": _CLASS_LABELS}, _LAYER)


def _mask(mask: npt.NDArray[np.bool_], picture: Image, places: list[tuple[int, int, int, int]]) -> ImageMask:
    import cv2
    from wandb.data_types import ImageMask

    canvas = np.zeros(picture.shape[:2], np.uint8)
    for left, top, width, height in places:
        resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        canvas[top : top + height, left : left + width] = resized * _OBJECT
    return ImageMask({"mask_data": canvas, "class_labels": _CLASS_LABELS}, _LAYER)


def _do_nothing(*_: Any, **__: Any) -> None: ...
