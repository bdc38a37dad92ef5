"""A tracker for tests and notebooks."""

from __future__ import annotations

from keras_cam_callbacks.records import EpochRecord, RunConfig

from .base import Tracker


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
