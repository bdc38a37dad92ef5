"""The arrays of an epoch, from a file that may be damaged or made to harm."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .manifest import LOG, check_file

_OF_VIEWS = "heatmaps", "scores", "confidences", "predicted", "targets", "against", "boxes", "degenerate"
_KNOWN = re.compile(rf"(({'|'.join(_OF_VIEWS)})(_\d+)?|outputs|values)\.npy")
_DAMAGED = (
    *(ValueError, KeyError, AttributeError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, struct.error),
    *(NotImplementedError, RuntimeError, OverflowError, SyntaxError, MemoryError),  # of hostile headers
)


def is_known(name: str) -> bool:
    """Tells whether a part of a heatmap file is an array that this version writes."""
    return _KNOWN.fullmatch(name) is not None


def read_arrays(path: Path, step: int) -> dict[str, npt.NDArray[Any]]:
    """Reads all arrays of a heatmap file by name, and passes over what this version can't read.

    Args:
        path: The file.
        step: Its epoch's, for errors.

    Raises:
        ValueError: If the file is damaged, or one of the arrays that this version knows is, or is pickled.
        OSError: If the file is gone.
    """
    check_file(path)
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with open(path, "rb") as binary, np.load(binary, allow_pickle=False) as file:
            limit = 20 * os.path.getsize(path) + 2**20
            for part in file.zip.infolist():
                # Arrays are stored as they are; what grows is made to fill the memory.
                limit -= part.file_size
                try:
                    if limit < 0:
                        raise ValueError(f"it would unpack to more than {part.file_size} bytes")
                    read = file[part.filename]
                    if isinstance(read, np.ndarray):
                        arrays[part.filename.removesuffix(".npy")] = read
                except _DAMAGED:
                    if is_known(part.filename):
                        raise
                    limit += part.file_size
        arrays["scores"]
    except _DAMAGED as error:
        raise ValueError(
            f"A heatmap file must be an .npz of plain arrays. Received: {path} ({error}). "
            f"Delete the line of step {step} from {LOG} to do without it."
        ) from error
    return arrays
