"""MLflow: an image for each sample and a metric for each number, sent from a thread of its own."""

from __future__ import annotations

import re
import sys
import time
import warnings
import zlib
from functools import partial
from pathlib import Path
from typing import Any

from keras_cam_callbacks.checks import check, is_seconds, renamed
from keras_cam_callbacks.records import EpochRecord, RunConfig

from .base import Tracker, load, numbers, picture, settings
from .waiting import CallThread

_METRICS = 1000  # MLflow takes no more in one call.
_LONGEST = 120  # characters of a name: MLflow makes a file name of it, with 90 more
_LEGAL = re.compile(r"[A-Za-z0-9_\-. ]+(/[A-Za-z0-9_\-. ]+)*")


class MLflowTracker(Tracker):
    """Logs to an MLflow run that you started; never starts or ends one.

    Images `<prefix>/<sample key>` and metrics `<prefix>/<name>`, each with the run's step, which goes on where a second
    fit counts its epochs from 0 again; `<prefix>/epoch` is a metric beside them. Layer, method, target and the
    record's run id are tags `<prefix>.layer` and so on, as parameters can't change; by the run id the record is known
    again where the MLflow run is continued. MLflow has no place for captions, numbers of each sample or
    regions: captions are drawn into the images unless `Overlay` says otherwise, and the record on disk holds the rest.
    Numbers that are not finite are left out. A character that MLflow refuses in names becomes "_", and a digest is put
    after the name, so that no two samples share one.

    The images are not encoded or scaled again. MLflow's files have the bytes of the record, which are JPEG unless
    `Overlay` says otherwise, under the names that MLflow gives: they end in .png, and .webp for the preview.

    MLflow takes some 100 ms for 16 images, and longer on a distant server, so a thread sends them while training goes
    on. At most four epochs wait in memory. What fails there is raised by the next `log`, or by `finish`, which waits
    until everything is sent. After an exception or Ctrl-C in `fit`, Python waits for it when it exits.

    MLflow takes images and metrics after a run has ended, too, but not once it was deleted.

    Args:
        run_id: The run, or None for the run that is active in the thread in which a fit starts.
        tracking_uri: Where the run is, or None for where MLflow logs to when a fit starts.
        timeout: Longest time in seconds that a call waits while nothing gets through to MLflow; then a TimeoutError is
            raised, and what was not sent is given up.

    Raises:
        ValueError: If `timeout` is no positive, finite number.
    """

    uses_directory = False

    @staticmethod
    def has_active_run() -> bool:
        """Tells whether a run is active in this thread."""
        active_run = getattr(sys.modules.get("mlflow"), "active_run", None)
        return active_run is not None and active_run() is not None

    @renamed(limit="timeout")
    def __init__(self, run_id: str | None = None, *, tracking_uri: str | None = None, timeout: float = 60.0):
        check("timeout", timeout, is_seconds(timeout), "a positive number of seconds", "60")
        self._given = run_id
        self._tracking_uri = tracking_uri
        self._calls = CallThread("MLflow", timeout)
        self._client: Any = None
        self._run_id = ""
        self._prefix = ""

    def held_run(self, prefix: str) -> tuple[str, str]:
        """As in `Tracker`: what the run's tags hold.

        Raises:
            RuntimeError: If MLflow does not know the run.
            TimeoutError: If MLflow does not answer in time.
        """
        if self._given is None and not self.has_active_run():
            return "", ""
        mlflow = load("mlflow")
        self._end_fit_before()
        run_id = self._given or mlflow.active_run().info.run_id
        tags = dict[str, str]()
        client = mlflow.MlflowClient(self._tracking_uri)
        self._calls.put(f"MLflow's run {run_id!r}", lambda: tags.update(client.get_run(run_id).data.tags))
        self._calls.wait()
        return tags.get(legal(f"{prefix}.run"), ""), f"mlflow:{run_id}"

    def start(self, config: RunConfig) -> None:
        """Finds the run and sets its tags.

        Args:
            config: The run.

        Raises:
            ImportError: If mlflow is not installed.
            ValueError: If no run was given and none is active.
            RuntimeError: If MLflow does not know the run, or it was deleted.
            TimeoutError: If MLflow does not answer in time.
        """
        mlflow = load("mlflow")
        self._end_fit_before()
        active = mlflow.active_run()
        if self._given is None and active is None:
            raise ValueError(
                "MLflowTracker needs an MLflow run. Received: run_id=None, and no run is active. Call "
                'mlflow.start_run() before fit, in the same thread, or use tracker="disk".'
            )
        # The functions of mlflow itself would start another run in a thread.
        self._client = mlflow.MlflowClient(self._tracking_uri)
        self._run_id = self._given or active.info.run_id
        self._prefix = config.prefix
        action = partial(_begin, self._client, self._run_id, self._prefix, settings(config))
        self._calls.put(f"MLflow's run {self._run_id!r}", action)
        self._calls.wait()

    def _end_fit_before(self) -> None:
        """Ends a fit that was interrupted."""
        try:
            self._calls.finish()
        except (RuntimeError, TimeoutError) as error:
            warnings.warn(f"MLflowTracker has not sent all of the fit before. {error}", RuntimeWarning, stacklevel=3)

    def log(self, record: EpochRecord) -> None:
        """Has one epoch sent.

        Args:
            record: The epoch.

        Raises:
            RuntimeError: If there was no `start`, or if an epoch before this one could not be sent.
            TimeoutError: If four epochs are waiting, and nothing gets through in time.
        """
        if self._client is None:
            raise RuntimeError("MLflowTracker.start must be called before log. Received: no run.")
        action = partial(_send, self._client, self._run_id, self._prefix, record, round(time.time() * 1000))
        self._calls.put(f"Epoch {record.epoch} (step {record.step})", action)

    def attach(self, path: Path, name: str) -> None:
        """Has a file sent as an artifact `<prefix>/<file name>`; raises as `log` does.

        Args:
            path: The file.
            name: What it is.
        """
        folder = legal(self._prefix)
        self._calls.put(f"The {name}", partial(self._client.log_artifact, self._run_id, str(path), folder))

    def finish(self) -> None:
        """Waits until everything is sent; raises as `log` does, where it is not."""
        self._calls.finish()


def _begin(client: Any, run_id: str, prefix: str, tags: dict[str, str]) -> None:
    run = client.get_run(run_id)
    if run.info.lifecycle_stage != "active":
        raise ValueError(f"The run must exist. Received: {run_id!r}, which is {run.info.lifecycle_stage}.")
    for name, value in tags.items():
        client.set_tag(run_id, legal(f"{prefix}.{name}"), value)


def _send(client: Any, run_id: str, prefix: str, record: EpochRecord, now: int) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(legal(f"{prefix}/{name}"), float(value), now, record.step) for name, value in numbers(record).items()
    ]
    for first in range(0, len(metrics), _METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + _METRICS])
    for sample, data in zip(record.samples, record.encoded, strict=True):
        key = legal(f"{prefix}/{sample.key}")
        client.log_image(run_id, _unscaled(data), key=key, step=record.step, timestamp=now, synchronous=True)


def _unscaled(data: bytes) -> Any:
    """Returns a picture that is stored as it is, also as a preview, whose scaling would cost more than all else."""
    found = picture(data)
    found.resize = lambda *_, **__: found
    return found


def legal(name: str) -> str:
    """Returns a name that MLflow takes as that of an image, a metric or a tag; most stay as they are."""
    parts = name.split("/")
    if _LEGAL.fullmatch(name) and len(name) <= _LONGEST and all(part.strip(".") for part in parts):
        return name
    digest = f"-{zlib.crc32(name.encode('utf-8', 'surrogatepass')):08x}"
    # Parts of dots would lead to other folders.
    kept = "/".join(re.sub(r"[^A-Za-z0-9_\-. ]", "_", part) if part.strip(".") else "_" for part in parts)
    return kept[: _LONGEST - len(digest)].rstrip("/") + digest
