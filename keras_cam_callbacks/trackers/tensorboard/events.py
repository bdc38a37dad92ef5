"""TensorBoard: one image tag for each sample, one scalar tag for each number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_cam_callbacks.records import EpochRecord, RunConfig

from ..base import Tracker
from .layout import TAG, layout

_EVENTS = "events.out.tfevents.*"


class TensorBoardTracker(Tracker):
    """Writes TensorBoard events: images `<prefix>/<sample key>`, scalars `<prefix>/<name>`, `<prefix>/epoch`.

    Image tags hold the sample key, so that the same image of two runs stands side by side. The server keeps
    10 steps of a tag: `tensorboard --samples_per_plugin images=1000` shows them all. Numbers that are NaN are
    left out. One events file serves all fits of an instance. The page Custom Scalars has the numbers by what they
    answer, such as whether the model looks at the object.

    Numbers of each sample, and the objects' regions, have no place here: TensorBoard has no table and draws nothing on
    images. The record on disk holds them.

    Args:
        log_dir: Folder for the events; the run's folder, `RunConfig.directory`, where it is None.

    Attributes:
        uses_directory: Whether no `log_dir` was given.
    """

    def __init__(self, log_dir: str | Path | None = None):
        self.uses_directory = log_dir is None
        self._log_dir = log_dir
        self._directory: Path | None = None
        self._prefix = ""
        self._writer: Any = None
        self._file = Path()
        self._laid_out: set[str] = set()

    def start(self, config: RunConfig) -> None:
        """Opens the events file.

        Args:
            config: The run.

        Raises:
            ImportError: If tensorflow or tensorboard is not installed.
            OSError: If the folder can't be written to.
        """
        import tensorboard.plugins.image.metadata  # noqa: F401  # fails here, before the first batch
        import tensorflow as tf

        if config.prefix != self._prefix:
            self._prefix, self._laid_out = config.prefix, set()
        directory = config.directory if self._log_dir is None else Path(self._log_dir)
        if self._writer is not None and directory == self._directory and self._file.exists():
            return
        if self._writer is not None:
            self._writer.close()
        directory.mkdir(parents=True, exist_ok=True)
        before = set(directory.glob(_EVENTS))
        writer = tf.summary.create_file_writer(str(directory))
        writer.flush()  # Makes the file.
        self._file = next(path for path in directory.glob(_EVENTS) if path not in before)
        self._writer, self._directory, self._laid_out = writer, directory, set()

    def log(self, record: EpochRecord) -> None:
        """Writes one epoch and flushes it.

        Args:
            record: The epoch; its `step` becomes the step of all tags.

        Raises:
            RuntimeError: If there was no `start`.
            OSError: If the events file was removed, into which TensorFlow would write on in silence.
            tensorflow.errors.OpError: If the disk is full.
        """
        if self._writer is None:
            raise RuntimeError("TensorBoardTracker.start must be called before log. Received: no run.")
        if not self._file.exists():
            raise FileNotFoundError(f"TensorBoard's events file must stay where it is. Received: no {self._file}.")
        try:
            self._write(record)
        except Exception:
            # A full disk leaves half an event, which hides all that follow it in its file: the next fit has a new one.
            self._writer = None
            raise

    def _write(self, record: EpochRecord) -> None:
        import tensorflow as tf
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE
        from tensorboard.plugins.image.metadata import create_summary_metadata

        metadata = create_summary_metadata(display_name=None, description="")
        metadata.data_class = DATA_CLASS_BLOB_SEQUENCE
        scalars = {**record.scalars, "epoch": record.epoch}
        # keras.callbacks.TensorBoard(update_freq=...) leaves a record_if behind that swallows our epochs.
        # The end of as_default flushes.
        with tf.summary.record_if(True), self._writer.as_default(step=record.step):
            for sample, picture, data in zip(record.samples, record.overlays, record.encoded, strict=True):
                height, width = picture.shape[:2]
                # As tf.summary.image writes it, but with the bytes that we have: it would encode PNGs.
                blob = [str(width).encode(), str(height).encode(), data]
                tf.summary.write(f"{self._prefix}/{sample.key}", tf.constant(blob), metadata=metadata)
            self._lay_out(record.scalars)
            for name, value in scalars.items():
                if not math.isnan(value):
                    tf.summary.scalar(f"{self._prefix}/{name}", value)

    def _lay_out(self, names: Iterable[str]) -> None:
        """Writes the page of charts, anew where numbers have come that it lacks."""
        import tensorflow as tf
        from tensorboard.plugins.custom_scalar.metadata import create_summary_metadata

        if self._laid_out.issuperset(names):
            return
        self._laid_out.update(names)
        if (page := layout(self._prefix, sorted(self._laid_out))) is not None:
            tf.summary.write(TAG, page.SerializeToString(), metadata=create_summary_metadata())

    def finish(self) -> None:
        """Leaves the events file open for the next fit."""
