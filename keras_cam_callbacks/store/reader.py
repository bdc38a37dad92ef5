"""Stored runs, read back without loading what is not asked for."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_cam_callbacks.records import Alert, Floats, Image, Ints, Label, Region, Space, short_repr

from .arrays import read_arrays
from .displays import display_name, read_display
from .events import Event, Missing, missing_ends, missing_epochs, read_event
from .manifest import CHANGING, LOG, MANIFEST, check_changing, check_file, input_of, read_manifest, space_of
from .pictures import Pictures, read_recipe
from .regions import stored_region


@dataclass(frozen=True, eq=False)
class StoredEpoch:
    """One epoch of a stored run. Arrays and pictures are read when asked for, and not kept.

    Attributes:
        epoch: The epoch as Keras counted it.
        step: The run's own count, different in each epoch of a run: of epochs, or of training steps (`Run.steps`).
        wall_time: When it was written, in seconds since 1970.
        scalars: Numbers by name; NaN where they were not finite.
        captions: N captions, one for each sample key.
        heatmap_file: The file of `arrays`.
        pictures: The N pictures: where they come from, their sizes and bytes, and some of them.
        views: Names of the views, where there are several.
        value_names: Names of the rows of the array `values`.
        sheet_file: A JPEG of all pictures, to be looked at; None where there is none. Records among W&B's files have
            none of pictures that can be drawn.
        freq: Of how many epochs one was logged.
        knows_freq: Whether the record says so.
        labels: For each sample its class, all of its labels where there can be several, or None: as it was known when
            the epoch was logged.
        class_names: Names by class index, or None, likewise.
        training: How the model was trained in the fit that the epoch is of, as far as the record says.
        batch: How many batches of the epoch the model was trained on, where it was logged within one, by
            `freq=Steps(...)`; None at an epoch's end.
        alerts: Which numbers crossed their lines in it.
    """

    epoch: int
    step: int
    wall_time: float
    scalars: Mapping[str, float]
    captions: tuple[str, ...]
    heatmap_file: Path
    pictures: Pictures
    views: tuple[str, ...] = ()
    value_names: tuple[str, ...] = ()
    sheet_file: Path | None = None
    freq: int = 1
    knows_freq: bool = True
    labels: tuple[Label | None, ...] = ()
    class_names: tuple[str, ...] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    batch: int | None = None
    alerts: tuple[Alert, ...] = ()

    __repr__ = short_repr

    @property
    def overlay_files(self) -> tuple[Path, ...]:
        """N image files, JPEG or PNG, where each picture has one: in records of schema 1, and on request; else none."""
        return self.pictures.files

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Reads the epoch's arrays.

        Returns:
            heatmaps (N, *space) float32, raw, (N, h, w) of images; scores (N,) float32; confidences (N,) float32, NaN
            for none; predicted and targets (N,) int64, -1 for none; degenerate (N,) bool; of contrasts against (N,)
            int64, the other class, -1 for none; of detectors boxes (N, 4) float32, as in `Sample`, NaN for none;
            outputs (N, K) float32 where the record had them; values (len(value_names), N) float64. Those of a second
            view have "_1" behind their names, and so on; where pictures show no heatmaps, there are none. What a later
            version has added is there too, where it can be read.

        Raises:
            ValueError: If the file is damaged, or holds pickled objects.
            OSError: If the file is gone.
        """
        return read_arrays(self.heatmap_file, self.step)

    def heatmaps(self, view: str = "") -> Floats:
        """Reads the raw heatmaps.

        Args:
            view: Which of `views`; by default the first.

        Returns:
            (N, *space) float32, (N, h, w) of images.

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

    def by_class(self, of: str = "true") -> dict[int, dict[str, float]]:
        """Returns the means of the numbers of each sample, by class; raises as `arrays` does.

        Args:
            of: "true", of the samples' classes, or of all of their labels; "predicted", of those that the model
                predicted.

        Returns:
            By class, rising, the means by name, and "samples", how many it has; empty where no class is known.

        Raises:
            ValueError: If `of` is neither.
        """
        if of not in ("true", "predicted"):
            raise ValueError(f"`of` must be 'true' or 'predicted'. Received: {of!r}.")
        classes = self.labels if of == "true" else tuple(self.arrays()["predicted"].tolist())
        # Metrics load OpenCV, and reading a record needs none.
        from keras_cam_callbacks.metrics import means_by_class

        return means_by_class(self.values(), classes)

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
        """Draws the N overlays anew from images, heatmaps and captions, or reads them where that can't be done.

        Returns:
            N pictures, uint8 RGB (H, W, 3). Those that are drawn are equal to what was logged, pixel for pixel, before
            it became a JPEG.

        Raises:
            ValueError: If a file is damaged.
            OSError: If a file is gone.
        """
        return self.pictures.read()

    def encoded(self) -> tuple[bytes, ...]:
        """Returns the N overlays as the bytes of image files, as they were logged; raises as `overlays` does."""
        return self.pictures.encoded()


@dataclass(frozen=True, eq=False)
class Run:
    """A stored run.

    Attributes:
        directory: Its folder.
        manifest: What its first fit wrote: versions, model_name, layer, method, target, prefix,
            class_names, sample_keys, files, fingerprints, labels, value_range, overlay, regions, training, freq, space.
            `labels`, `class_names` and `trainings` know of later fits too.
        epochs: The epochs in the order of their steps.
        events: What failed while the run was logged, in the order in which it did.
        latest: The manifest with what later fits have added: labels, class names, settings of the training and runs of
            trackers' libraries.
    """

    directory: Path
    manifest: Mapping[str, Any]
    epochs: tuple[StoredEpoch, ...]
    events: tuple[Event, ...] = ()
    latest: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """The N sample keys."""
        return tuple(self.manifest["sample_keys"])

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names by class index, those of the last fit that had any."""
        return _class_names(self.latest)

    @property
    def labels(self) -> tuple[Label | None, ...]:
        """For each of the N samples its class, all of its labels where there can be several, or None."""
        return _labels(self.latest)

    @property
    def trainings(self) -> tuple[Mapping[str, Any], ...]:
        """How the model was trained, in the order of the epochs: one entry for all fits in a row that are alike."""
        every = [epoch.training for epoch in self.epochs] or [self.manifest.get("training") or {}]
        return tuple(settings for i, settings in enumerate(every) if i == 0 or settings != every[i - 1])

    @property
    def steps(self) -> int | None:
        """Of how many training steps one was logged, besides epoch ends; None where steps of the run are epochs."""
        steps: int | None = self.manifest.get("steps")
        return steps

    @property
    def space(self) -> Space | None:
        """What the axes of the heatmaps are; None where the record does not say."""
        return space_of(self.manifest)

    @property
    def image_files(self) -> tuple[Path, ...]:
        """The N files of what people see; raises ValueError where one is a link that leads out of the folder."""
        return _image_files(self.directory, self.manifest)

    def display(self, rows: Sequence[int] | None = None, view: str = "") -> tuple[Image, ...]:
        """Reads what people see of the samples, as it was when the run began.

        Args:
            rows: Which samples; None for all.
            view: Which of the views lies on it, where the model takes several images; by default the first.

        Returns:
            As in `Look`: images uint8 RGB (H, W, 3); volumes and clips (d, H, W, 3); signals (T, C) float32.

        Raises:
            ValueError: If a file is damaged, or leads out of the folder.
            OSError: If one is gone.
        """
        return _display(self.directory, self.manifest, rows, view)

    def settled(self, threshold: float = 0.1, view: str = "") -> int | None:
        """Tells since when the heatmaps hardly move: `drift` stays below a threshold from there up to the last epoch.

        It is known afterwards alone, so that it is a number of the run and not of an epoch. Drift is from one logged
        epoch to the next, and smaller where more are logged.

        Args:
            threshold: In (0, 2].
            view: Which of the views; by default the first.

        Returns:
            The step of the first epoch of which that is so; None where the last drift that is known is not below it,
            or none is known.

        Raises:
            ValueError: If `threshold` is not in (0, 2].
        """
        if not 0 < threshold <= 2:
            raise ValueError(f"`threshold` must be in (0, 2]. Received: {threshold!r}. 0.1 works.")
        since = None
        for epoch in self.epochs:
            name = view or (epoch.views[0] if epoch.views else "")
            drift = epoch.scalars.get(f"{name}_drift" if name else "drift", math.nan)
            if math.isfinite(drift):
                since = (epoch.step if since is None else since) if drift < threshold else None
        return since

    def missing(self) -> tuple[Missing, ...]:
        """Tells which epochs are missing between those that are known of, and why; as text each says so itself.

        An epoch failed, was passed over by `freq`, or came after something that failed and was switched off; else the
        record does not say why. After the last known epoch nothing is missing: who knows how far the training went?
        """
        if self.steps is None:
            return missing_epochs(((e.step, e.epoch, e.freq) for e in self.epochs), self.events)
        return missing_ends(((e.step, e.epoch) for e in self.epochs), self.events)

    def regions(self, view: str = "") -> tuple[Region | None, ...]:
        """Reads where the object is in each of the N images, None where that was not said, as of another view's.

        Raises:
            ValueError: If a mask is no picture.
            OSError: If a mask's file is gone.
        """
        unknown = input_of(self.manifest, view) is not None or not self.manifest.get("regions")
        return (None,) * len(self.sample_keys) if unknown else tuple(map(self._region, self.manifest["regions"]))

    def _region(self, stored: Mapping[str, Any] | None) -> Region | None:
        from keras_cam_callbacks.drawing.files import read_image

        if stored is None:
            return None
        file = stored["mask"]
        return stored_region(
            stored, None if file is None else read_image(inside(os.path.realpath(self.directory), file))
        )


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
    events: list[Event] = []
    latest = manifest
    log = directory / LOG
    check_file(log)
    for number, line in enumerate(log.read_bytes().split(b"\n") if log.exists() else (), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            # The half line of a process that was killed: its epoch was not committed.
            continue
        try:
            if "event" in entry:
                event = read_event(entry)
                events += [] if event is None else [event]
            else:
                if changes := {name: entry[name] for name in CHANGING if name in entry}:
                    check_changing(changes, len(manifest["sample_keys"]))
                    latest = latest | changes
                epoch = _stored_epoch(directory, entry, latest)
                epochs[epoch.step] = epoch
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ValueError(
                f"Each line of {log} must describe one epoch of this run. Received in line {number}: "
                f"{error!r}. Delete the line to do without it."
            ) from error
    return Run(directory, manifest, tuple(epochs[step] for step in sorted(epochs)), tuple(events), latest)


def _stored_epoch(directory: Path, entry: Any, manifest: Mapping[str, Any]) -> StoredEpoch:
    keys: list[str] = manifest["sample_keys"]
    overlays, captions = entry.get("overlays", ()), tuple(str(caption) for caption in entry["captions"])
    if len(captions) != len(keys) or ("overlays" in entry and len(overlays) != len(keys)):
        raise ValueError(f"{len(captions)} captions, {len(overlays)} overlays, {len(keys)} samples")
    folder, parents = os.path.realpath(directory), dict[str, str]()
    views, step = tuple(map(str, entry.get("views", ()))), int(entry["step"])
    heatmap_file = inside(folder, entry["heatmaps"])
    image_format = str(entry.get("format", "jpg"))
    drawn, archive, sheet = (entry.get(name) for name in ("drawn", "pictures", "sheet"))

    def heatmaps() -> list[Floats]:
        arrays = read_arrays(heatmap_file, step)
        names = ["heatmaps", *(f"heatmaps_{place}" for place in range(1, len(views)))]
        if not arrays.keys() >= set(names):
            raise ValueError(f"A heatmap file must hold {', '.join(names)}. Received: {heatmap_file}, which does not.")
        return [arrays[name] for name in names]

    return StoredEpoch(
        epoch=int(entry["epoch"]),
        step=step,
        wall_time=float(entry["wall_time"]),
        scalars={name: math.nan if x is None else float(x) for name, x in entry["scalars"].items()},
        captions=captions,
        heatmap_file=heatmap_file,
        pictures=Pictures(
            image_format=image_format,
            recipe=None if drawn is None else read_recipe(drawn, manifest.get("overlay"), captions),
            files=tuple(inside(folder, name, parents) for name in overlays),
            archive=None if archive is None else inside(folder, archive),
            names=tuple(f"{manifest['files'][key]}.{image_format}" for key in keys),
            display=partial(_display, directory, manifest),
            heatmaps=heatmaps,
        ),
        views=views,
        value_names=tuple(map(str, entry.get("values", ()))),
        sheet_file=None if sheet is None else inside(folder, sheet),
        freq=_positive(entry.get("freq", manifest.get("freq", 1))),
        knows_freq="freq" in entry or "freq" in manifest,
        labels=_labels(manifest),
        class_names=_class_names(manifest),
        training=dict(manifest.get("training") or {}),
        batch=_positive(entry["batch"]) if "batch" in entry else None,
        alerts=tuple(
            Alert(str(one["name"]), str(one["text"]), bool(one["is_first"])) for one in entry.get("alerts", ())
        ),
    )


def _labels(manifest: Mapping[str, Any]) -> tuple[Label | None, ...]:
    return tuple(tuple(label) if isinstance(label, list) else label for label in manifest["labels"])


def _class_names(manifest: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = manifest["class_names"]
    return None if names is None else tuple(names)


def _positive(freq: Any) -> int:
    if type(freq) is not int or freq < 1:
        raise ValueError(f"{freq!r} is no number of epochs or batches")
    return freq


def _image_files(directory: Path, manifest: Mapping[str, Any], view: str = "") -> tuple[Path, ...]:
    folder, of_input = os.path.realpath(directory), input_of(manifest, view) or {**manifest, "folder": "images"}
    entries = of_input.get("display") or [None] * len(manifest["sample_keys"])
    names = (display_name(manifest["files"][k], e) for k, e in zip(manifest["sample_keys"], entries, strict=True))
    return tuple(inside(folder, f"{of_input['folder']}/{name}") for name in names)


def _display(
    folder: Path, manifest: Mapping[str, Any], rows: Sequence[int] | None, view: str = ""
) -> tuple[Image, ...]:
    files = _image_files(folder, manifest, view)
    entries = (input_of(manifest, view) or manifest).get("display") or [None] * len(files)
    return tuple(read_display(files[row], entries[row]) for row in (range(len(files)) if rows is None else rows))


def inside(folder: str, name: str, parents: dict[str, str] | None = None) -> Path:
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
