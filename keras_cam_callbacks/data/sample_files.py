"""Signals, volumes and clips from files that anyone may have made: arrays of numpy, NIfTI scans and videos.

Arrays and scans hold what the model takes, value for value; videos hold frames, as people see them. No code in a file
is run.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import is_real
from .files import resized

__all__ = ["FREE_FRAMES", "SUFFIXES_OF", "Samples", "Taken", "read_samples"]

FREE_FRAMES = 16
"""How many frames are taken of a video for models that take any number."""

_ARRAYS = (".npy", ".npz")
_SCANS = (".nii", ".nii.gz")
_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
SUFFIXES_OF = {"signal": _ARRAYS, "volume": (*_ARRAYS, *_SCANS), "clip": (*_ARRAYS, *_VIDEOS)}
"""What files may be called, by the kind of the model's input."""

_MOST = 2**28  # numbers in a file
_MOST_FRAMES = 2**17  # of a video: an hour and more
_LARGEST_GROWTH = 1000  # of a compressed array
# What readers raise for damaged files, beside the OSError and ValueError that they should.
_DAMAGED = (EOFError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error, zlib.error, MemoryError)


@dataclass(frozen=True)
class Taken:
    """What a model takes of each sample.

    Attributes:
        kind: "signal", "volume" or "clip".
        shape: Its shape as the model takes it; None for what is free.
        channels_first: Whether the channels come first in it.
    """

    kind: str
    shape: tuple[int | None, ...]
    channels_first: bool = False

    @property
    def channels(self) -> int | None:
        """How many channels there are."""
        return self.shape[0 if self.channels_first else -1]

    @property
    def sides(self) -> tuple[int | None, ...]:
        """Positions along each axis of the space."""
        return self.shape[1:] if self.channels_first else self.shape[:-1]

    def __str__(self) -> str:
        return " x ".join("any" if side is None else str(side) for side in self.shape)


@dataclass(frozen=True, eq=False)
class Samples:
    """What a file holds.

    Attributes:
        arrays: For each sample an array: as the model takes it, or the frames of a video, uint8 (t, H, W, C).
        is_video: Whether they are frames of a video.
        spacing: How far positions are apart along each axis, in the array's order; empty where the file doesn't say.
        note: What is to be said of how it was read, "" for nothing.
    """

    arrays: tuple[npt.NDArray[Any], ...]
    is_video: bool = False
    spacing: tuple[float, ...] = ()
    note: str = ""


def read_samples(path: Path, taken: Taken, size: tuple[int, int] | None = None, *, crop: bool = False) -> Samples:
    """Reads one file: what its name ends with says what it is.

    Args:
        path: The file: an array in .npy, or in .npz under the name "x" or "images", else the first there; a scan in
            NIfTI; or a video.
        taken: What the model takes. Arrays and scans are one sample of that shape or several, and may lack an axis for
            the only channel.
        size: Height and width that the frames of videos are brought to.
        crop: Whether the largest centred part of that aspect is taken of frames; else they are stretched.

    Returns:
        The samples.

    Raises:
        ValueError: If it is no such file, is damaged, too large, or its shape is none that the model takes.
        OSError: If it can't be read.
    """
    if not path.is_file():  # A pipe would be waited for, a device read without end.
        raise ValueError(f"{path}: not a file")
    suffix = next((one for one in SUFFIXES_OF[taken.kind] if path.name.lower().endswith(one)), None)
    if suffix is None:
        raise ValueError(f"{path}: files of {taken.kind}s must be {', '.join(SUFFIXES_OF[taken.kind])}")
    try:
        if suffix in _VIDEOS:
            return _read_video(path, taken, size, crop)
        if suffix in _SCANS:
            return _read_scan(path, taken)
        return Samples(_apart(_read_array(path), taken, path))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    except _DAMAGED as error:
        raise ValueError(f"{path}: damaged, or of an unknown kind ({error or type(error).__name__})") from error


def _read_array(path: Path) -> npt.NDArray[Any]:
    if path.suffix.lower() == ".npy":
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > min(_LARGEST_GROWTH * path.stat().st_size + 2**20, 8 * _MOST):
        raise ValueError(f"{path}: too large, it would unpack to {size / 2**20:,.0f} MiB")
    with np.load(path, allow_pickle=False) as arrays:
        if not arrays.files:
            raise ValueError(f"{path}: holds no array")
        name = next((one for one in ("x", "images") if one in arrays.files), arrays.files[0])
        return np.asarray(arrays[name])


def _apart(array: npt.NDArray[Any], taken: Taken, path: Path) -> tuple[npt.NDArray[Any], ...]:
    """Returns the samples in an array, each as the model takes it."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: an array must be of numbers, and is of {array.dtype}")
    _check_count(array.shape, path)
    many, bare = _reading(array.shape, taken, path)
    samples = array if many else array[None]
    if bare:
        samples = np.expand_dims(samples, 1 if taken.channels_first else -1)
    return tuple(np.array(sample) for sample in samples)


def _reading(shape: tuple[int, ...], taken: Taken, path: Path) -> tuple[bool, bool]:
    """Tells whether an array of a shape holds several samples, and whether it lacks an axis for the only channel."""
    for bare in (False, True):
        need = taken.sides if bare else taken.shape
        if bare and taken.channels not in (1, None):
            continue
        for many in (False, True):
            found = shape[many:]
            if len(found) == len(need) and all(n in (None, s) for n, s in zip(need, found, strict=True)):
                if 0 in shape:
                    raise ValueError(f"{path}: empty, of shape {shape}")
                return many, bare
    raise ValueError(f"{path}: of shape {shape}, and the model takes samples of {taken}, one or several in a file")


def _check_count(shape: Sequence[int], path: Path) -> None:
    if math.prod(map(int, shape)) > _MOST:
        raise ValueError(f"{path}: too large, of shape {tuple(shape)}")


def _read_scan(path: Path, taken: Taken) -> Samples:
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise ValueError(
            f"{path}: NIfTI needs nibabel. Install it: pip install 'keras_cam_callbacks[nifti]'"
        ) from error
    try:
        scan: Any = nibabel.load(path)
        # Before the values are unpacked.
        _check_count(scan.shape, path)
        _reading(tuple(map(int, scan.shape)), taken, path)
        values = np.asarray(scan.dataobj, np.float32)
        # The file has 32 bits for each: 0.7 is 0.7, not the next number of 64 bits.
        zooms = tuple(float(str(np.float32(one))) for one in scan.header.get_zooms()[: len(taken.sides)])
    except ImageFileError as error:
        raise ValueError(f"{path}: no NIfTI, or damaged ({error})") from error
    told = len(zooms) == len(taken.sides) and all(is_real(one) and one > 0 for one in zooms)
    return Samples(_apart(values, taken, path), spacing=zooms if told else ())


def _read_video(path: Path, taken: Taken, size: tuple[int, int] | None, crop: bool) -> Samples:
    from ..opencv import cv2

    frames = taken.sides[0] or FREE_FRAMES
    total = sum(1 for _ in _grabbed(path))
    if not total:
        raise ValueError(f"{path}: no video that OpenCV can read, or without a frame")
    wanted = np.rint(np.linspace(0, total - 1, frames)).astype(int).tolist()
    read: dict[int, npt.NDArray[Any]] = {}
    for i, video in enumerate(_grabbed(path)):
        if i in wanted and i not in read:
            whole, frame = video.retrieve()
            if not whole:
                break
            order = cv2.COLOR_BGR2GRAY if taken.channels == 1 else cv2.COLOR_BGR2RGB
            pixels = np.asarray(cv2.cvtColor(frame, order))
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            read[i] = pixels if size is None else resized(pixels, size, crop)
    if set(wanted) - set(read):
        raise ValueError(f"{path}: damaged, a frame can't be read")
    note = f"{path} has {total} of {frames} frames: some are taken twice." if total < frames else ""
    return Samples((np.stack([read[i] for i in wanted]),), is_video=True, note=note)


def _grabbed(path: Path) -> Any:
    """Yields an open video at each of its frames."""
    from ..opencv import cv2

    # The whole path, which no protocol's name begins; and no API that would take it for a pattern of images.
    video = cv2.VideoCapture(os.path.realpath(path), cv2.CAP_FFMPEG)
    try:
        pixels = video.get(cv2.CAP_PROP_FRAME_WIDTH) * video.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if pixels > _MOST:
            raise ValueError(f"{path}: too large, of {pixels:,.0f} px")
        count = 0
        while video.isOpened() and video.grab():
            count += 1
            if count > _MOST_FRAMES:
                raise ValueError(f"{path}: too long, of more than {_MOST_FRAMES} frames")
            yield video
    finally:
        video.release()
