"""Each tracker as a user has it, and its log read back, with a reader that is not ours where there is one.

Reading gives a list of epochs, whatever they were logged to, with step, epoch, scalars, captions and the bytes of the
images; captions are None where they are drawn into the images alone.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
from PIL import Image

from keras_cam_callbacks.store import read_run
from keras_cam_callbacks.trackers import (
    DiskTracker,
    FunctionTracker,
    MemoryTracker,
    MLflowTracker,
    TensorBoardTracker,
    Tracker,
    TrackioTracker,
    WandbTracker,
)


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


# ---- Reading -----------------------------------------------------------------------------------------------


def epochs_on_disk(directory):
    return [
        {
            "step": epoch.step,
            "epoch": epoch.epoch,
            "scalars": epoch.scalars,
            "captions": list(epoch.captions),
            "images": list(epoch.encoded()),
        }
        for epoch in read_run(directory).epochs
    ]


def epochs_in_memory(records):
    return [
        {
            "step": record.step,
            "epoch": record.epoch,
            "scalars": dict(record.scalars),
            "captions": [sample.caption for sample in record.samples],
            "images": list(record.encoded),
        }
        for record in records
    ]


def read_tensors(directory):
    """{tag: [(step, array)]} in the order of writing."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag != "custom_scalars__config__"]
    return {tag: [(event.step, make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)] for tag in tags}


def read_events(directory):
    """Images and scalars of the events in a folder, each {tag: [(step, value)]} in the order of writing."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    events.Reload()
    images, scalars = {}, {}
    for tag in events.Tags()["tensors"]:
        plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
        for event in events.Tensors(tag):
            value = make_ndarray(event.tensor_proto)
            if plugin == "images":
                width, height, data = value
                assert opened(data).shape == (int(height), int(width), 3)
                images.setdefault(tag, []).append((event.step, data))
            elif plugin != "custom_scalars":
                assert plugin == "scalars"
                scalars.setdefault(tag, []).append((event.step, float(value)))
    return images, scalars


def read_mlflow(run_id, client=None):
    """Images and metrics of a run, as `read_events` gives them."""
    import mlflow

    client = client or mlflow.MlflowClient()
    images, metrics = {}, {}
    for file in client.list_artifacts(run_id, "images"):
        name = file.path.removeprefix("images/")
        key, _, step, *_ = name.split("+")
        if not name.endswith("+compressed.webp"):  # The preview.
            data = Path(client.download_artifacts(run_id, file.path)).read_bytes()
            images.setdefault(key.replace("~", "/"), []).append((int(step), data))
    for key in client.get_run(run_id).data.metrics:
        history = client.get_metric_history(run_id, key)
        metrics[key] = sorted((metric.step, metric.value) for metric in history)
    return {key: sorted(found) for key, found in images.items()}, metrics


def _epochs_by_tag(images, scalars):
    steps = defaultdict(dict)
    for tag, values in scalars.items():
        for step, value in values:
            steps[step][tag.removeprefix("gradcam/")] = value
    return [
        {
            "step": step,
            "epoch": steps[step].pop("epoch"),
            "scalars": steps[step],
            "captions": None,
            "images": [dict(images[tag])[step] for tag in sorted(images)],
        }
        for step in sorted(steps)
    ]


def epochs_in_events(directory):
    return _epochs_by_tag(*read_events(directory))


def epochs_in_wandb(log):
    return [
        {
            "step": row["gradcam/step"],
            "epoch": row["gradcam/epoch"],
            "scalars": {
                key.removeprefix("gradcam/"): value
                for key, value in row.items()
                if key.startswith("gradcam/") and key.split("/")[1] not in ("step", "epoch", "overlays")
            },
            "captions": row["gradcam/overlays"]["captions"],
            "images": log.images(row["gradcam/overlays"]),
        }
        for row in log.rows_with("gradcam/overlays")
    ]


def epochs_in_trackio(run):
    """From Trackio's store, with what Trackio's dashboard reads it by."""
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import MEDIA_DIR

    epochs = []
    for row in SQLiteStorage.get_logs(run.project, run.name):
        ours = {key.removeprefix("gradcam/"): value for key, value in row.items() if key.startswith("gradcam/")}
        images = [ours.pop(key) for key in sorted(ours) if isinstance(ours[key], dict)]
        assert {image["_type"] for image in images} <= {"trackio.image"}
        if ours:
            epochs.append(
                {
                    "step": row["step"],
                    "epoch": ours.pop("epoch"),
                    "scalars": ours,
                    "captions": [image["caption"] for image in images],
                    "images": [(MEDIA_DIR / image["file_path"]).read_bytes() for image in images],
                }
            )
    return epochs


# ---- Pages -------------------------------------------------------------------------------------------------


def get(url):
    with urlopen(url, timeout=10) as answer:
        return answer.read()


@contextmanager
def served(command, output, path):
    """Runs a server on a free port of this machine; its URL, and its first answer for a path that is not empty."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with open(output, "wb") as log:
        # A group of its own, as it may start others.
        server = subprocess.Popen([*command, "--port", port], stdout=log, stderr=log, start_new_session=True)
    try:
        yield url, _first_answer(f"{url}{path}", server, output)
    finally:
        with suppress(ProcessLookupError):  # It has ended by itself.
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _first_answer(url, server, output):
    """A server needs some seconds to start, and to read its logs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            answer = get(url)
        except (URLError, ConnectionError):
            pass
        else:
            if answer.strip() not in (b"", b"{}"):
                return answer
        time.sleep(0.2)
    raise AssertionError(output.read_text("utf-8"))


# ---- Runs of the user's ------------------------------------------------------------------------------------


def mlflow_run(folder, run_id=None):
    import mlflow

    if run_id is not None:
        return mlflow.start_run(run_id=run_id)
    found = mlflow.get_experiment_by_name(str(folder))
    experiment = found.experiment_id if found else mlflow.create_experiment(str(folder), (folder / "mlflow").as_uri())
    return mlflow.start_run(experiment_id=experiment)


def trackio_run(folder, name=None):
    import trackio

    # A project is a file of its own, whose name is made of the project's.
    project = f"{folder.parent.name}-{folder.name}"
    resume = {} if name is None else {"name": name, "resume": "must"}
    return trackio.init(project=project, auto_log_cpu=False, auto_log_gpu=False, **resume)


def _new_wandb_run(folder, run_id=None):
    from wandb_log import wandb_run

    return wandb_run() if run_id is None else wandb_run(run_id=run_id, resume="allow")


def _wandb_epochs(config, run):
    import wandb
    from wandb_log import read_log

    run.finish()
    wandb.teardown()  # Only then the log is whole.
    # A run that goes on in another process has a folder for each; one of the same second gets a number.
    folders = sorted(Path(os.environ["WANDB_DIR"], "wandb").glob(f"offline-run-*-{run.id}*"))
    return [epoch for folder in folders for epoch in epochs_in_wandb(read_log(folder))]


def _trackio_epochs(config, run):
    finish_trackio()
    return epochs_in_trackio(run)


def finish_trackio():
    import trackio

    if trackio.context_vars.current_run.get() is not None:
        trackio.finish()


@dataclass
class Case:
    """One tracker, and what belongs to it.

    Attributes:
        make: Makes the tracker.
        read: Reads what was logged, by the config and the run.
        begin: Starts the run that the tracker logs to, in a folder, or goes on with the one of an id.
        ident: The id of a run.
        draws_captions: Whether captions are only in the pictures.
    """

    make: Callable[[], Tracker]
    read: Callable[..., list[dict[str, Any]]]
    begin: Callable[..., Any] = lambda folder, ident=None: None
    ident: Callable[[Any], str] = lambda run: ""
    draws_captions: bool = False


def _memory():
    tracker = MemoryTracker()
    return Case(lambda: tracker, lambda config, run: epochs_in_memory(tracker.records))


def _function():
    records = []
    return Case(lambda: FunctionTracker(records.append), lambda config, run: epochs_in_memory(records))


CASES: dict[str, Callable[[], Case]] = {
    "disk": lambda: Case(DiskTracker, lambda config, run: epochs_on_disk(config.directory)),
    "function": _function,
    "memory": _memory,
    "mlflow": lambda: Case(
        MLflowTracker,
        lambda config, run: _epochs_by_tag(*read_mlflow(run.info.run_id)),
        mlflow_run,
        lambda run: run.info.run_id,
        draws_captions=True,
    ),
    # It freezes a tag's description at its first value.
    "tensorboard": lambda: Case(
        TensorBoardTracker,
        lambda config, run: epochs_in_events(config.directory),
        draws_captions=True,
    ),
    "trackio": lambda: Case(TrackioTracker, _trackio_epochs, trackio_run, lambda run: run.name),
    "wandb": lambda: Case(WandbTracker, _wandb_epochs, _new_wandb_run, lambda run: run.id),
}

# They outlive the process.
STORED = sorted(set(CASES) - {"function", "memory"})
