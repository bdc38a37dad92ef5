"""What every tracker is: three methods, called in this order, once more for each fit; and two that it may have."""

from __future__ import annotations

import importlib
import io
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from ..records import EpochRecord, RunConfig
from ..store import Event


class Tracker(ABC):
    """Receives one record an epoch and sends it somewhere.

    A tracker serves several fits: `start` and `finish` are called once a fit, `log` in between. Python calls
    `finish` only when a fit ends well, so `log` leaves nothing unsent. Errors are raised: the callback
    decides what becomes of them.

    Attributes:
        uses_directory: Whether it writes into the run's folder, which is then made before it starts.
        wants_record: Whether the record on disk belongs to it: where no `DiskTracker` is given, one comes with it.
        timeout: Seconds that training waits for each of the three calls; a tracker that takes longer is switched off
            until the next fit. For that, all its calls are made in one thread of its own. None: they are made in the
            thread of the training, and waited for without end, as libraries need that keep an active run or a default
            writer for each thread: MLflow's own functions, `tf.summary`.
    """

    uses_directory: bool = True
    wants_record: bool = False
    timeout: float | None = None

    @staticmethod
    def has_active_run() -> bool:
        """Tells whether its library has an active run that it would log to, for which "auto" stands then, too.

        That imports nothing: who has an active run has imported the library.
        """
        return False

    def held_run(self, prefix: str) -> tuple[str, str]:
        """Tells which run of ours goes on, where the library's own run does. Called before `start`.

        Args:
            prefix: As in `RunConfig`.

        Returns:
            The id of our run that the library's run was sent under this prefix in an earlier fit; and the name of the
            library's run, such as "wandb:1a2b3c", with a ":". Each is "" where there is none.
        """
        return "", ""

    @abstractmethod
    def start(self, config: RunConfig) -> None:
        """Gets ready for a fit, before its first batch.

        Args:
            config: What stays the same over the run.

        Raises:
            ValueError: If the tracker can't work as configured. The message says what would work.
        """

    @abstractmethod
    def log(self, record: EpochRecord) -> None:
        """Sends one epoch: one row, one commit, one flush.

        Args:
            record: The epoch. Its arrays are shared with other trackers: they are read, not written to.
        """

    def fail(self, event: Event) -> None:  # noqa: B027  # A tracker need not do anything about it.
        """Is told of what has failed: another tracker, or the record of an epoch, which then never comes.

        It is also told after its own `log` has failed. What it raises is lost.

        Args:
            event: The epoch, and what has failed in it.
        """

    def attach(self, path: Path, name: str) -> None:  # noqa: B027  # Not every library has a place for files.
        """Takes a file that was made of the whole run, such as its report, at the end of a fit and before `finish`.

        Args:
            path: The file, which stays where it is.
            name: What it is, "report": the same at each fit of a run, of which the later file takes its place.
        """

    @abstractmethod
    def finish(self) -> None:
        """Ends a fit. Called twice, it does nothing the second time; `start` may follow."""


def settings(config: RunConfig) -> dict[str, str]:
    """Returns what a run explains, as it stands in the config or the tags of a tracker's own run."""
    explained = {
        "layer": config.layer_place or config.layer_name,
        "method": config.method,
        "target": config.target,
    }
    return explained | ({"run": config.run_id} if config.run_id else {})


def numbers(record: EpochRecord) -> dict[str, float]:
    """Returns the epoch and its numbers that are finite, which every library takes."""
    return {name: float(value) for name, value in record.scalars.items() if math.isfinite(value)} | {
        "epoch": record.epoch
    }


def load(library: str) -> Any:
    """Imports the library of a tracker.

    Args:
        library: Its name, also that of the extra.

    Raises:
        ImportError: If it is not installed, or can't be imported.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:  # It lacks something, and says what.
            raise
        raise ImportError(
            f"This tracker needs {library}. Install it: pip install 'keras_cam_callbacks[{library}]'"
        ) from error


def picture(data: bytes) -> Any:
    """Returns an image file as an image of Pillow's that is saved with the same bytes, neither decoded nor encoded.

    Args:
        data: The bytes of the file.
    """
    import PIL.Image

    found: Any = PIL.Image.open(io.BytesIO(data))
    found.save = lambda path, **_: Path(path).write_bytes(data)
    return found
