"""Stored runs, read back without loading what is not asked for."""

from __future__ import annotations

import json
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_cam_callbacks.records import Floats, Image, Ints, Region, short_repr

from .manifest import MANIFEST, check_file, read_manifest

LOG = "metrics.jsonl"


@dataclass(frozen=True, eq=False)
class StoredEpoch:
    """One epoch of a stored run. Arrays and pictures are read when asked for, and not kept.

    Attributes:
        epoch: The epoch as Keras counted it.
        step: The run's own count, different in each epoch of a run.
        wall_time: When it was written, in seconds since 1970.
        scalars: Numbers by name; NaN where they were not finite.
        captions: N captions, one for each sample key.
        heatmap_file: The file of `arrays`.
        overlay_files: N image files, JPEG or PNG.
        views: Names of the views, where there are several.
        value_names: Names of the rows of the array `values`.
    """

    epoch: int
    step: int
    wall_time: float
    scalars: Mapping[str, float]
    captions: tuple[str, ...]
    heatmap_file: Path
    overlay_files: tuple[Path, ...]
    views: tuple[str, ...] = ()
    value_names: tuple[str, ...] = ()

    __repr__ = short_repr

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Reads the epoch's arrays.

        Returns:
            heatmaps (N, h, w) float32, raw; scores (N,) float32; confidences (N,) float32, NaN for none;
            predicted and targets (N,) int64, -1 for none; degenerate (N,) bool; outputs (N, K) float32 where
            the record had them; values (len(value_names), N) float64. Those of a second view have "_1" behind their
            names, and so on; where pictures show no heatmaps, there are none.

        Raises:
            ValueError: If the file is damaged, or holds pickled objects.
            OSError: If the file is gone.
        """
        check_file(self.heatmap_file)
        try:
            with open(self.heatmap_file, "rb") as binary, np.load(binary, allow_pickle=False) as file:
                # Arrays are stored as they are; what grows is made to fill the memory.
                size = sum(part.file_size for part in file.zip.infolist())
                if size > 20 * os.path.getsize(self.heatmap_file) + 2**20:
                    raise ValueError(f"it would unpack to {size} bytes")
                arrays = {name: file[name] for name in file.files}
            arrays["scores"]
        except (
            *(ValueError, KeyError, AttributeError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, struct.error),
            *(NotImplementedError, RuntimeError, OverflowError, SyntaxError, MemoryError),  # of hostile headers
        ) as error:
            raise ValueError(
                f"A heatmap file must be an .npz of plain arrays. Received: {self.heatmap_file} ({error}). "
                f"Delete the line of step {self.step} from {LOG} to do without it."
            ) from error
        return arrays

    def heatmaps(self, view: str = "") -> Floats:
        """Reads the raw heatmaps.

        Args:
            view: Which of `views`; by default the first.

        Returns:
            (N, h, w) float32.

        Raises:
            ValueError: If there is no such view, or as `arrays` does.
        """
        heatmaps: Floats = self._of_view("heatmaps", view)
        return heatmaps

    def targets(self, view: str = "") -> Ints | None:
        """Reads the explained classes; raises as `heatmaps` does.

        Args:
            view: Which of `views`; by default the first.

        Returns:
            (N,) int64, -1 where none is explained; None where none is in any sample.
        """
        targets: Ints = self._of_view("targets", view)
        return targets if (targets >= 0).any() else None

    def values(self) -> dict[str, npt.NDArray[np.float64]]:
        """Reads the numbers of each sample by name, (N,) float64; raises as `arrays` does."""
        return dict(zip(self.value_names, self.arrays().get("values", ()), strict=True))

    def _of_view(self, name: str, view: str) -> Any:
        place = self.views.index(view) if view in self.views else 0
        arrays, key = self.arrays(), f"{name}_{place}" if place else name
        if (view and view not in self.views) or key not in arrays:
            raise ValueError(
                f"A view must be one of this epoch's: {list(self.views) or 'it has one without a name'}. "
                f"Received: {view!r}, of which it has no {name}."
            )
        return arrays[key]

    def overlays(self) -> tuple[Image, ...]:
        """Reads the N overlays, uint8 RGB (H, W, 3); raises as `read_image` does."""
        from keras_cam_callbacks.drawing.files import read_image

        return tuple(read_image(path) for path in self.overlay_files)


@dataclass(frozen=True, eq=False)
class Run:
    """A stored run.

    Attributes:
        directory: Its folder.
        manifest: What is the same for all epochs: versions, model_name, layer, method, target, prefix,
            class_names, sample_keys, files, fingerprints, labels, value_range, overlay, regions, training.
        epochs: The epochs in the order of their steps.
    """

    directory: Path
    manifest: Mapping[str, Any]
    epochs: tuple[StoredEpoch, ...]

    __repr__ = short_repr

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """The N sample keys."""
        return tuple(self.manifest["sample_keys"])

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names by class index."""
        names = self.manifest["class_names"]
        return None if names is None else tuple(names)

    @property
    def image_files(self) -> tuple[Path, ...]:
        """The N files of the display images, which `read_image` opens.

        Raises:
            ValueError: If one is a link that leads out of the folder.
        """
        folder = os.path.realpath(self.directory)
        return tuple(_inside(folder, f"images/{self.manifest['files'][key]}.png") for key in self.sample_keys)

    def regions(self) -> tuple[Region | None, ...]:
        """Reads where the object is in each of the N images, None where that was not given.

        Raises:
            ValueError: If a mask is no picture.
            OSError: If a mask's file is gone.
        """
        return tuple(map(self._region, self.manifest.get("regions") or [None] * len(self.sample_keys)))

    def _region(self, stored: Mapping[str, Any] | None) -> Region | None:
        from keras_cam_callbacks.drawing.files import read_image

        if stored is None:
            return None
        file = stored["mask"]
        mask = None if file is None else read_image(_inside(os.path.realpath(self.directory), file))[..., 0] > 127
        return Region(np.array(stored["boxes"], np.float64).reshape(-1, 4), mask)


def find_runs(log_dir: str | Path) -> list[Path]:
    """Returns the run folders right below `log_dir`, by name."""
    return sorted(path.parent for path in Path(log_dir).glob(f"*/{MANIFEST}"))


def read_run(path: str | Path) -> Run:
    """Reads a stored run; its arrays and pictures stay on disk until asked for.

    Args:
        path: The run's folder, or a log_dir that holds one run.

    Returns:
        The run, with its whole epochs. Where a step was written twice, the later one counts.

    Raises:
        ValueError: If there is no run, or more than one; if the record is damaged, was written by a later
            version of this package, or names files outside its folder.
    """
    directory = Path(path)
    if not (directory / MANIFEST).is_file():
        runs = find_runs(directory)
        if len(runs) != 1:
            raise ValueError(
                f"A path must lead to a run's folder (with a {MANIFEST}), or to a folder with one run. "
                f"Received: {directory}, with these runs: {', '.join(map(str, runs)) or 'none'}."
            )
        directory = runs[0]
    manifest = read_manifest(directory)
    epochs: dict[int, StoredEpoch] = {}
    log = directory / LOG
    for number, line in enumerate(log.read_bytes().split(b"\n") if log.is_file() else (), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            # The half line of a process that was killed: its epoch was not committed.
            continue
        try:
            epoch = _stored_epoch(directory, entry, len(manifest["sample_keys"]))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ValueError(
                f"Each line of {log} must describe one epoch of this run. Received in line {number}: "
                f"{error!r}. Delete the line to do without it."
            ) from error
        epochs[epoch.step] = epoch
    return Run(directory, manifest, tuple(epochs[step] for step in sorted(epochs)))


def _stored_epoch(directory: Path, entry: Any, samples: int) -> StoredEpoch:
    if not len(entry["captions"]) == len(entry["overlays"]) == samples:
        raise ValueError(f"{len(entry['captions'])} captions, {len(entry['overlays'])} overlays, {samples} samples")
    folder, parents = os.path.realpath(directory), dict[str, str]()
    return StoredEpoch(
        epoch=int(entry["epoch"]),
        step=int(entry["step"]),
        wall_time=float(entry["wall_time"]),
        scalars={name: math.nan if x is None else float(x) for name, x in entry["scalars"].items()},
        captions=tuple(str(caption) for caption in entry["captions"]),
        heatmap_file=_inside(folder, entry["heatmaps"]),
        overlay_files=tuple(_inside(folder, name, parents) for name in entry["overlays"]),
        views=tuple(map(str, entry.get("views", ()))),
        value_names=tuple(map(str, entry.get("values", ()))),
    )


def _inside(folder: str, name: str, parents: dict[str, str] | None = None) -> Path:
    """Returns where a name in a run's folder, which is a real path, leads to; ValueError where that is outside.

    Files that share a parent can share `parents`, too: then the way down to it is gone only once.
    """
    parents = {} if parents is None else parents
    # Also where the name itself is innocent, but a link in the folder leads elsewhere.
    parent, last = os.path.split(os.path.join(folder, name))
    if parent not in parents:
        parents[parent] = os.path.realpath(parent)
    path = os.path.join(parents[parent], last)
    if last in ("", os.curdir, os.pardir) or _is_link(path):
        path = os.path.realpath(path)
    if "\\" in name or not path.startswith(folder + os.sep):
        raise ValueError(f"{name!r} leads out of the run's folder")
    return Path(path)


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)  # os.path.islink passes over names that no file can have.
    except OSError:
        return False
