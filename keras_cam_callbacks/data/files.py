"""Images from files that anyone may have made: checked by their headers, then decoded, turned upright and resized.

Pillow decodes them, and of a few formats only: others start programs.
"""

from __future__ import annotations

import glob
import os
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# What Pillow raises for damaged files, beside the OSError and ValueError that it should.
_DAMAGED = (SyntaxError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error, zlib.error)


def find_images(
    names: Sequence[str], most: int, suffixes: tuple[str, ...] = SUFFIXES, noun: str = "image"
) -> dict[str, Path]:
    """Finds the files that are meant, each once.

    Args:
        names: Files; folders, which stand for all images in them at any depth, hidden ones left out; and patterns such
            as "photos/**/*.jpg", where the shell has not resolved them.
        most: How many there may be.
        suffixes: What names of such files end with.
        noun: What one of them is called in errors.

    Returns:
        The files by sample keys. A key is the path below the folder that was named, or the file's name, without suffix;
        with it where two would be alike, and as it was typed where that doesn't help either.

    Raises:
        ValueError: If a name stands for nothing, or there are too many.
    """
    found: dict[str, tuple[Path, str]] = {}  # By real paths: the file, and how it is called.
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = [(file, file.relative_to(path).as_posix()) for file in _images_in(path, suffixes)]
        elif os.path.lexists(path):
            files = [(path, path.name)]
        else:
            matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
            files = [(Path(match), Path(match).name) for match in matches if Path(match).is_file()]
        if not files:
            raise ValueError(
                f"IMAGES must be {noun} files, folders that hold some ({', '.join(suffixes)}), or patterns that match "
                f"some. Received: {name}, where there is none."
            )
        for file, called in files:
            found.setdefault(os.path.realpath(file), (file, called))
    if len(found) > most:
        raise ValueError(
            f"At most {most} {noun}s are explained at once. Received: {len(found)}. --max-images {len(found)} takes "
            "them all, and the memory for them."
        )
    namings = [[_bare(called, suffixes), called, file.as_posix()] for file, called in found.values()]
    for _ in range(2):
        counts = Counter(naming[0] for naming in namings)
        namings = [naming[1:] if counts[naming[0]] > 1 else naming for naming in namings]
    return {naming[0]: file for naming, (file, _) in zip(namings, found.values(), strict=True)}


def _bare(name: str, suffixes: tuple[str, ...]) -> str:
    """Returns a name without its suffix, the longest one of those."""
    ends = [suffix for suffix in suffixes if name.lower().endswith(suffix) and not Path(name).name.startswith(suffix)]
    return name[: -max(map(len, ends))] if ends else name


def _images_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, n) for n in sorted(names) if n.lower().endswith(suffixes) and n[0] != "."]
    return files


def read_images(
    files: dict[str, Path], size: tuple[int, int], channels: int, *, crop: bool = False, deep: bool = False
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Reads images for a model.

    Args:
        files: As from `find_images`.
        size: Height and width that the model takes.
        channels: 1 for grey images, 3 for RGB.
        crop: Whether the largest centred part of that aspect is taken; else the whole image is stretched.
        deep: As for `read_image`.

    Returns:
        The images by sample keys, (H, W, channels) as from `read_image`; and by keys, why others can't be read.
    """
    read, bad = {}, {}
    for key, file in files.items():
        try:
            read[key] = read_image(file, size, channels, crop=crop, deep=deep)
        except (ValueError, OSError) as error:
            bad[key] = str(error)
    return read, bad


def read_image(
    path: Path, size: tuple[int, int], channels: int, *, crop: bool = False, deep: bool = False
) -> npt.NDArray[Any]:
    """Reads one image, upright as its EXIF data has it; of several frames the first.

    Transparency is left out, as Keras does: what lies below is what a model was trained on.

    Args:
        path: The file.
        size: Height and width of the result.
        channels: 1 or 3.
        crop: As for `read_images`.
        deep: Whether 16 bit grey keeps its values, as uint16; else it becomes 8 bit, 65535 white.

    Returns:
        uint8 (H, W, channels), grey or RGB; uint16 of deep ones.

    Raises:
        ValueError: If it is no image of `FORMATS`, is damaged, or has more pixels than Pillow finds safe, which is told
            from the header alone.
        OSError: If the file can't be read.
    """
    import PIL.Image
    from PIL import ImageOps

    if not path.is_file():  # A pipe would be waited for, a device read without end.
        raise ValueError(f"{path}: not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About odd metadata.
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path, formats=FORMATS) as opened:
                upright = ImageOps.exif_transpose(opened)
                pixels = _pixels(upright, channels, deep)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: too large, decompression could exhaust the memory ({error})") from error
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{path}: no image of a known format ({', '.join(FORMATS)})") from error
    except (ValueError, OSError, MemoryError, *_DAMAGED) as error:
        raise ValueError(f"{path}: damaged, or of an unknown kind ({error or type(error).__name__})") from error
    return resized(pixels, size, crop)


def _pixels(picture: Any, channels: int, deep: bool) -> npt.NDArray[Any]:
    """Returns (H, W, channels) uint8, or uint16 of deep ones, from a Pillow image of any mode."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, np.float32)
        top = 65535 if picture.mode.startswith("I") else 1
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
            raise ValueError(f"values of mode {picture.mode} beyond 0 to {top}")
        keeps = deep and top == 65535
        grey: npt.NDArray[Any] = values.astype(np.uint16) if keeps else np.rint(values * (255 / top)).astype(np.uint8)
        return np.repeat(grey[..., None], channels, axis=2)
    # A palette's colours may have transparency of their own, which Pillow warns of unless it is kept until here.
    picture = picture.convert("RGBA") if picture.mode == "P" else picture
    pixels: npt.NDArray[np.uint8] = np.array(picture.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels


def resized(pixels: npt.NDArray[Any], size: tuple[int, int], crop: bool) -> npt.NDArray[Any]:
    """Returns pixels (H, W, C) at another size, of which `crop` takes the largest centred part of its aspect."""
    from ..opencv import cv2

    height, width = pixels.shape[:2]
    if crop:
        share = size[1] / size[0]
        cut = min(width, max(1, round(height * share))), min(height, max(1, round(width / share)))
        left, top = (width - cut[0]) // 2, (height - cut[1]) // 2
        pixels = pixels[top : top + cut[1], left : left + cut[0]]
        height, width = pixels.shape[:2]
    shrinks = size[0] < height and size[1] < width
    resized = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized.reshape(*size, pixels.shape[2]))
