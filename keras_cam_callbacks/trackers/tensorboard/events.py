"""TensorBoard: one image tag for each sample, one scalar tag for each number."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from keras_cam_callbacks.records import EpochRecord, RunConfig

from ..base import Tracker
from .frames import framed
from .layout import TAG, layout


class TensorBoardTracker(Tracker):
    """Writes TensorBoard events: images `<prefix>/<sample key>`, scalars `<prefix>/<name>`, `<prefix>/epoch`.

    Image tags hold the sample key, so that the same image of two runs stands side by side. The server keeps
    10 steps of a tag: `tensorboard --samples_per_plugin images=1000` shows them all. Numbers that are NaN are
    left out. One events file serves all fits of an instance. The page Custom Scalars has the numbers by what they
    answer, such as whether the model looks at the object. The file is open only while it is written to.

    Numbers of each sample, and the objects' regions, have no place here: TensorBoard has no table and draws nothing on
    images. The record on disk holds them, and TensorBoard's tab Heatmaps shows it. So a logger with this tracker writes
    the record beside the events, as `DiskTracker` does, where no `DiskTracker` writes it already. It is two files an
    epoch: 100 epochs of 16 samples are 219 files.

    Args:
        log_dir: Folder for the events; the run's folder, `RunConfig.directory`, where it is None.
        record: Whether the record is written beside the events. None: where `log_dir` is None.

    Attributes:
        uses_directory: Whether no `log_dir` was given.
        wants_record: Whether the record belongs to it.

    Raises:
        ValueError: If `record` is True and `log_dir` is given: the record lies in the run's folder.
        TypeError: If `record` is none of True, False and None.
    """

    def __init__(self, log_dir: str | Path | None = None, *, record: bool | None = None):
        if record is not None and not isinstance(record, bool):
            raise TypeError(
                f"`record` must be True, False or None. Received: {record!r}. record=False writes no record."
            )
        if record and log_dir is not None:
            raise ValueError(
                "The record must lie beside the events, in the run's folder. "
                f"Received: record=True, and log_dir={str(log_dir)!r} of the tracker. "
                "Give log_dir to the logger instead: GradCAMLogger(..., log_dir=...) takes both there."
            )
        self.uses_directory = log_dir is None
        self.wants_record = log_dir is None if record is None else record
        self._log_dir = log_dir
        self._directory: Path | None = None
        self._prefix = ""
        self._file: Path | None = None
        self._laid_out: set[str] = set()

    def start(self, config: RunConfig) -> None:
        """Makes the events file.

        Args:
            config: The run.

        Raises:
            ImportError: If tensorboard is not installed.
            OSError: If the folder can't be written to.
        """
        # tensorboard's own writer of files would import TensorFlow, wherever that is installed.
        from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata

        if config.prefix != self._prefix:
            self._prefix, self._laid_out = config.prefix, set()
        directory = config.directory if self._log_dir is None else Path(self._log_dir)
        if self._file is not None and directory == self._directory and self._file.exists():
            return
        directory.mkdir(parents=True, exist_ok=True)
        source = SourceMetadata(writer="keras_cam_callbacks.trackers.tensorboard")
        begin = Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source)
        self._file = _new_file(directory, framed(begin.SerializeToString()))
        self._directory, self._laid_out = directory, set()

    def log(self, record: EpochRecord) -> None:
        """Writes one epoch.

        Args:
            record: The epoch; its `step` becomes the step of all tags.

        Raises:
            RuntimeError: If there was no `start`.
            OSError: If the events file was removed, or the disk is full.
        """
        if self._file is None:
            raise RuntimeError("TensorBoardTracker.start must be called before log. Received: no run.")
        if not self._file.exists():
            raise FileNotFoundError(f"TensorBoard's events file must stay where it is. Received: no {self._file}.")
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values, now = [*self._images(record), *self._page(record), *self._numbers(record)], time.time()
        events = [Event(wall_time=now, step=record.step, summary=Summary(value=[value])) for value in values]
        data = b"".join(framed(event.SerializeToString()) for event in events)
        try:
            # Not made anew where it was removed just now.
            with open(self._file, "rb+") as file:
                file.seek(0, os.SEEK_END)
                file.write(data)
        except OSError:
            # A full disk leaves half an event, which hides all that follow it in its file: the next fit has a new one.
            self._file = None
            raise

    def _images(self, record: EpochRecord) -> Iterator[Any]:
        """Gives the pictures, as tf.summary.image writes them, but with the bytes that we have."""
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, Summary
        from tensorboard.plugins.image.metadata import create_summary_metadata

        metadata = create_summary_metadata(display_name=None, description="")
        metadata.data_class = DATA_CLASS_BLOB_SEQUENCE
        for sample, picture, data in zip(record.samples, record.overlays, record.encoded, strict=True):
            height, width = picture.shape[:2]
            tensor = _texts([str(width).encode(), str(height).encode(), data], [3])
            yield Summary.Value(tag=f"{self._prefix}/{sample.key}", tensor=tensor, metadata=metadata)

    def _page(self, record: EpochRecord) -> Iterator[Any]:
        """Gives the page of charts, anew where numbers have come that it lacks."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.custom_scalar.metadata import create_summary_metadata

        if self._laid_out.issuperset(record.scalars):
            return
        self._laid_out.update(record.scalars)
        if (page := layout(self._prefix, sorted(self._laid_out))) is not None:
            yield Summary.Value(
                tag=TAG, tensor=_texts([page.SerializeToString()], []), metadata=create_summary_metadata()
            )

    def _numbers(self, record: EpochRecord) -> Iterator[Any]:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_FLOAT
        from tensorboard.plugins.scalar.metadata import create_summary_metadata

        metadata = create_summary_metadata(display_name=None, description="")
        for name, value in {**record.scalars, "epoch": record.epoch}.items():
            if not math.isnan(value):
                tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(), float_val=[float(value)])
                yield Summary.Value(tag=f"{self._prefix}/{name}", tensor=tensor, metadata=metadata)

    def finish(self) -> None:
        """Leaves the events file to the next fit."""


def _new_file(directory: Path, data: bytes) -> Path:
    """Makes a file with a name by which TensorBoard knows it, and which no other writer has."""
    stem = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    numbers = count()
    while True:
        path = directory / f"{stem}.{next(numbers)}"
        with suppress(FileExistsError), open(path, "xb") as file:
            file.write(data)
            return path


def _texts(texts: list[bytes], shape: list[int]) -> Any:
    """A tensor of bytes."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    sizes = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in shape])
    return TensorProto(dtype=DT_STRING, tensor_shape=sizes, string_val=texts)
