"""What people see of the samples, as files: images, the slices of volumes and clips in one image, signals as arrays."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .manifest import check_file

__all__ = ["display_entries", "display_name", "encoded_display", "read_display", "same_display"]

_MOST_PIXELS = 2**26  # of an image of slices: image libraries refuse one of many more


def display_entries(display: Sequence[npt.NDArray[Any]]) -> list[dict[str, Any] | None]:
    """Returns what a manifest says of the samples' files: null for an image, else kind and shape.

    Args:
        display: As in `Look`.
    """
    entries: list[dict[str, Any] | None] = []
    for shown in display:
        if np.ndim(shown) == 3:
            entries.append(None)
        else:
            sheet = np.ndim(shown) == 4 and math.prod(_sheet(shown.shape)) <= _MOST_PIXELS
            entries.append({"kind": "slices" if sheet else "array", "shape": list(shown.shape)})
    return entries


def display_name(stem: str, entry: Mapping[str, Any] | None) -> str:
    """Returns the name of a sample's file."""
    return f"{stem}.npy" if entry is not None and entry["kind"] == "array" else f"{stem}.png"


def encoded_display(shown: npt.NDArray[Any], entry: Mapping[str, Any] | None) -> bytes:
    """Returns the bytes of a sample's file."""
    from keras_cam_callbacks.drawing.files import encode

    if entry is None:
        return encode(shown, "png")
    if entry["kind"] == "array":
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(shown), allow_pickle=False)
        return buffer.getvalue()
    depth, height, width = shown.shape[:3]
    sheet = np.zeros((*_sheet(shown.shape), 3), np.uint8)
    columns = sheet.shape[1] // width
    for index in range(depth):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = shown[index]
    return encode(sheet, "png")


def read_display(path: Path, entry: Mapping[str, Any] | None) -> npt.NDArray[Any]:
    """Reads what people see of a sample, as it was.

    Args:
        path: Its file.
        entry: What the manifest says of it.

    Raises:
        ValueError: If the file is damaged, or holds something else.
        OSError: If it is gone.
    """
    from keras_cam_callbacks.drawing.files import read_image

    if entry is None:
        return read_image(path)
    shape = tuple(entry["shape"])
    if entry["kind"] == "array":
        return _read_array(path, shape)
    picture = read_image(path)
    depth, height, width = shape[:3]
    columns, rows = picture.shape[1] // width, picture.shape[0] // height
    if picture.shape[:2] != (rows * height, columns * width) or columns * rows < depth or shape[3] != 3:
        raise _wrong(path, f"an image of shape {picture.shape}", shape)
    slices = picture.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    return np.ascontiguousarray(slices[:depth])


def same_display(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Tells whether two samples are shown alike; a signal's missing values count as equal."""
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def _sheet(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image of slices: they stand row by row, about as many px high as wide."""
    depth, height, width = shape[:3]
    columns = min(depth, max(1, round(math.sqrt(depth * height / width))))
    return math.ceil(depth / columns) * height, columns * width


def _read_array(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    check_file(path)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # Takes no memory for what the file does not hold.
        if not isinstance(mapped, np.memmap) or mapped.shape != shape or mapped.dtype not in (np.float32, np.uint8):
            raise _wrong(path, "another array", shape)
        return np.array(mapped)
    except (TypeError, EOFError, OverflowError, SyntaxError, AttributeError) as error:  # Of hostile headers.
        raise _wrong(path, str(error), shape) from error


def _wrong(path: Path, received: str, shape: tuple[int, ...]) -> ValueError:
    return ValueError(f"What people see must be as the manifest says, of shape {shape}. Received: {path} ({received}).")
