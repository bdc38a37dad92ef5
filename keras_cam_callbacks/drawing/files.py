"""Image files: pictures as their bytes, and back. uint8 RGB throughout."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np

from ..checks import check_choice
from ..opencv import cv2
from ..records import Image
from .columns import checked_image

__all__ = ["ImageFormat", "decode", "encode", "picture_size", "read_image", "size_in"]

ImageFormat = Literal["jpg", "png"]

_LONGEST = 65500  # px: OpenCV encodes no larger JPEG


def encode(picture: Image, image_format: str = "jpg", quality: int = 90) -> bytes:
    """Encodes a picture.

    Args:
        picture: uint8 RGB (H, W, 3), at most 65500 px a side, OpenCV's limit for JPEG.
        image_format: "jpg" or "png".
        quality: Of a JPEG, 1 to 100.

    Returns:
        The bytes of an image file.

    Raises:
        ValueError: If the picture is not uint8 RGB, is too large, or the format is unknown.
    """
    check_choice("image_format", image_format, get_args(ImageFormat))
    bgr = cv2.cvtColor(checked_image(picture, "picture"), cv2.COLOR_RGB2BGR)
    if max(picture.shape) > _LONGEST:
        raise ValueError(
            f"`picture` must have at most {_LONGEST} px a side. Received: shape {picture.shape}. "
            "Draw fewer samples in one grid, or set Overlay(size=...)."
        )
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if image_format == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    _, data = cv2.imencode(f".{image_format}", bgr, flags)
    return bytes(data)


def read_image(path: Path) -> Image:
    """Reads a picture, uint8 RGB (H, W, 3).

    Raises:
        ValueError: If the file is no picture, or one of so many pixels that it could exhaust the memory.
        OSError: If the file is gone.
    """
    _check_file(path)
    return decode(path.read_bytes(), str(path))


def decode(data: bytes, name: str) -> Image:
    """Decodes the bytes of an image file, uint8 RGB (H, W, 3); `name` is its name in errors. Raises as `read_image`."""
    size_in(io.BytesIO(data), name)
    read = np.frombuffer(data, np.uint8)
    picture = cv2.imdecode(read, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if picture is None:
        raise ValueError(f"A picture must be a PNG or JPEG file. Received: {name}, which can't be decoded.")
    rgb: Image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return rgb


def picture_size(path: Path) -> tuple[int, int]:
    """Reads height and width of a picture from its header; raises as `read_image` does."""
    _check_file(path)
    with open(path, "rb") as file:
        return size_in(file, str(path))


def _check_file(path: Path) -> None:
    """Raises ValueError for what is there and no file, such as a pipe, which would be waited for without end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"A picture must be a PNG or JPEG file. Received: {path}, which is no file.")


def size_in(file: IO[bytes], name: str) -> tuple[int, int]:
    """Does as `picture_size`, for an open file; `name` is its name in errors."""
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(file, formats=("PNG", "JPEG")) as picture:
                width, height = picture.size
    except (
        *(PIL.UnidentifiedImageError, PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning),
        *(SyntaxError, ValueError, struct.error),
    ) as error:
        raise ValueError(
            f"A picture must be a PNG or JPEG file. Received: {name}, which can't be decoded ({error})."
        ) from error
    return height, width
