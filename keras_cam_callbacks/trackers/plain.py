"""Trackers that need no library: the record on disk, records in memory, and a function of the user's."""

from __future__ import annotations

from collections.abc import Callable

from keras_cam_callbacks.checks import check
from keras_cam_callbacks.records import EpochRecord, RunConfig
from keras_cam_callbacks.store import Event, RunWriter

from .base import Tracker

__all__ = ["DiskTracker", "FunctionTracker", "MemoryTracker"]


class DiskTracker(Tracker):
    """Writes the run record into the run's folder, `RunConfig.directory`; `store.read_run` reads it back.

    An epoch is its raw heatmaps, its line of numbers, and one sheet, a JPEG of all samples: a person leafs through the
    epochs in `sheets`. Each overlay is drawn anew when it is read, equal to the last pixel; pictures that can't be
    drawn from images and heatmaps, such as those of augmentations, are kept in one file an epoch.

    Args:
        overlays: Also write each overlay to a file of its own, in `overlays/<step>`.
    """

    def __init__(self, *, overlays: bool = False) -> None:
        check("overlays", overlays, isinstance(overlays, bool), "True or False", "True")
        self._overlays = overlays
        self._writer: RunWriter | None = None

    def start(self, config: RunConfig) -> None:
        """Makes the folder, or continues the record in it; raises as `store.RunWriter` does."""
        self._writer = RunWriter(config, overlays=self._overlays)

    def log(self, record: EpochRecord) -> None:
        """Writes one epoch; raises as `store.RunWriter.write` does."""
        if self._writer is None:
            raise RuntimeError("DiskTracker.start must be called before log. Received: a record and no run.")
        self._writer.write(record)

    def fail(self, event: Event) -> None:
        """Writes down what has failed, so that the record says why an epoch is missing."""
        if self._writer is not None:
            self._writer.note(event)

    def finish(self) -> None:
        """Nothing is left to write: `log` keeps nothing back."""
        self._writer = None


class MemoryTracker(Tracker):
    """Keeps the records of all fits in memory.

    Where a callback was given the name "memory", the callback's `trackers` holds the tracker.

    Attributes:
        config: What the last fit was started with, None before the first.
        records: The records in the order in which they came.

    Example:
        >>> tracker = MemoryTracker()
        >>> GradCAMLogger(images, tracker=tracker)  # doctest: +SKIP
        >>> [record.scalars["drift"] for record in tracker.records]
        []
    """

    uses_directory = False

    def __init__(self) -> None:
        self.config: RunConfig | None = None
        self.records: list[EpochRecord] = []

    def start(self, config: RunConfig) -> None:
        """Keeps the config."""
        self.config = config

    def log(self, record: EpochRecord) -> None:
        """Keeps the record."""
        self.records.append(record)

    def finish(self) -> None:
        """Keeps what there is."""


class FunctionTracker(Tracker):
    """Calls a function with the record of each epoch that is logged.

    Of the record it will want `step`, which grows over all fits, and `epoch`; `scalars`, numbers by name, NaN where
    there is nothing to compare with yet; and, for each sample, of `samples` the `key` and the `caption`, of `overlays`
    the uint8 RGB array (H, W, 3), of `encoded` the same as the bytes of an image file, whose format is `image_format`.
    The arrays are shared with other trackers: read them only. What it raises warns once, and switches it off until the
    next fit.

    Args:
        function: Takes an `EpochRecord`; what it returns is not used. It is called in the thread that trains.

    Raises:
        TypeError: If it can't be called.

    Example:
        Comet (tried offline with comet_ml 3.58):

        >>> experiment = comet_ml.start()
        >>> def log(record):
        ...     experiment.log_metrics(record.scalars, prefix="gradcam", step=record.step, epoch=record.epoch)
        ...     for sample, data in zip(record.samples, record.encoded):
        ...         experiment.log_image(io.BytesIO(data), f"gradcam/{sample.key}", step=record.step)
        >>> logger = GradCAMLogger(validation_data, tracker=["disk", FunctionTracker(log)])

        ClearML (clearml 2.1), which would log a NaN as 0:

        >>> clearml_logger = clearml.Task.init("project", "name").get_logger()
        >>> def log(record):
        ...     for name, value in record.scalars.items():
        ...         if math.isfinite(value):
        ...             clearml_logger.report_scalar("gradcam", name, value, record.step)
        ...     for sample, overlay in zip(record.samples, record.overlays):
        ...         clearml_logger.report_image("gradcam", sample.key, record.step, image=overlay)

        SwanLab (swanlab 0.10):

        >>> swanlab.init(project="project")
        >>> def log(record):
        ...     row = {f"gradcam/{name}": x for name, x in record.scalars.items() if math.isfinite(x)}
        ...     for sample, overlay in zip(record.samples, record.overlays):
        ...         row[f"gradcam/{sample.key}"] = swanlab.Image(overlay, caption=sample.caption)
        ...     swanlab.log({**row, "gradcam/epoch": record.epoch}, step=record.step)
    """

    uses_directory = False

    def __init__(self, function: Callable[[EpochRecord], object]) -> None:
        if not callable(function):
            raise TypeError(f"FunctionTracker needs a function of one record. Received: {function!r}.")
        self._function = function

    def start(self, config: RunConfig) -> None:
        """Nothing is to be made ready."""

    def log(self, record: EpochRecord) -> None:
        """Calls the function; raises what it raises."""
        self._function(record)

    def finish(self) -> None:
        """Nothing is left to send."""
