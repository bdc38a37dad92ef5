import io
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from sample_records import make_config, make_record, picture, sample_keys
from wandb_log import finished_log, read_log, wandb_run

from keras_cam_callbacks.records import Region
from keras_cam_callbacks.store import read_run
from keras_cam_callbacks.trackers import (
    TRACKERS,
    DiskTracker,
    MemoryTracker,
    TensorBoardTracker,
    Tracker,
    WandbTracker,
    resolve,
)

# ---- Reading back, each with a reader that is not ours -----------------------------------------------------


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


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def epochs_on_disk(directory):
    return [
        {
            "step": epoch.step,
            "epoch": epoch.epoch,
            "scalars": epoch.scalars,
            "captions": list(epoch.captions),
            "images": [path.read_bytes() for path in epoch.overlay_files],
        }
        for epoch in read_run(directory).epochs
    ]


def epochs_in_memory(tracker):
    return [
        {
            "step": record.step,
            "epoch": record.epoch,
            "scalars": dict(record.scalars),
            "captions": [sample.caption for sample in record.samples],
            "images": list(record.encoded),
        }
        for record in tracker.records
    ]


def epochs_in_events(directory):
    images, scalars = read_events(directory)
    steps = defaultdict(dict)
    for tag, values in scalars.items():
        for step, value in values:
            steps[step][tag.removeprefix("gradcam/")] = value
    return [
        {
            "step": step,
            "epoch": steps[step].pop("epoch"),
            "scalars": steps[step],
            # Drawn into the overlays: TensorBoard freezes a tag's description at its first value.
            "captions": None,
            "images": [dict(images[tag])[step] for tag in sorted(images)],
        }
        for step in sorted(steps)
    ]


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


# ---- The contract of all trackers --------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["jpg", "png"])
@pytest.mark.parametrize("name", TRACKERS)
def test_every_tracker_keeps_what_it_is_given(tmp_path, name, image_format):
    run = wandb_run() if name == "wandb" else None
    (tracker,) = resolve(name)
    config = make_config(tmp_path / "run")
    records = [make_record(step, epoch=step % 2, image_format=image_format) for step in range(4)]
    # Two fits, of which the second counts its epochs from 0 again.
    for fit in (records[:2], records[2:]):
        tracker.start(config)
        for record in fit:
            tracker.log(record)
        tracker.finish()
        tracker.finish()

    read = {
        "disk": lambda: epochs_on_disk(config.directory),
        "memory": lambda: epochs_in_memory(tracker),
        "tensorboard": lambda: epochs_in_events(config.directory),
        "wandb": lambda: epochs_in_wandb(finished_log(run)),
    }[name]()
    assert read == [
        {
            "step": step,
            "epoch": step % 2,
            "scalars": {"drift": step / 4, "area": 0.5},
            "captions": None if name == "tensorboard" else [f"step {step}, sample {row} – ✓" for row in range(3)],
            "images": list(record.encoded),
        }
        for step, record in enumerate(records)
    ]


def table_in_wandb(log):
    """The values of each epoch by name, None for NaN."""
    tables = []
    for row in log.rows_with("gradcam_table"):
        stored = json.loads((log.files / row["gradcam_table"]["path"]).read_text("utf-8"))
        columns = dict(zip(stored["columns"], zip(*stored["data"], strict=True), strict=True))
        tables.append({name: list(columns[name]) for name in stored["columns"][6:-1]})
    return tables


def boxes_in_wandb(log):
    """The boxes of each image of the first epoch, None for none."""
    entries = log.rows[0]["gradcam/overlays"]["all_boxes"]
    files = [entry and json.loads((log.files / entry["region"]["path"]).read_text("utf-8")) for entry in entries]
    sides = "minX", "minY", "maxX", "maxY"
    return [file and [[box["position"][side] for side in sides] for box in file["box_data"]] for file in files]


@pytest.mark.parametrize("name", sorted(set(TRACKERS) - {"tensorboard"}))
def test_trackers_keep_values_and_regions(tmp_path, name):
    """Numbers of each sample, NaN among them, and where the objects are; TensorBoard has no place for either."""
    run = wandb_run() if name == "wandb" else None
    tracker = WandbTracker(table=True) if run else TRACKERS[name]()
    boxes = [None, [[0.25, 0.5, 0.75, 1.0]], [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]]
    regions = tuple(each and Region(np.array(each, float)) for each in boxes)
    config = make_config(tmp_path / "run", regions=regions, overlay={"layout": "overlay", "size": (24, 32)})
    nan = math.nan
    values = [
        {"drift": [nan, nan, nan], "pointing": [0.0, 1.0, nan]},
        {"drift": [0.5, nan, 0.25], "pointing": [1.0, 1.0, nan]},
    ]
    records = [
        make_record(step, values={metric: np.array(row) for metric, row in each.items()})
        for step, each in enumerate(values)
    ]
    tracker.start(config)
    for record in records:
        tracker.log(record)
    tracker.finish()

    log = finished_log(run) if run else None
    read = {
        "disk": lambda: [epoch.values() for epoch in read_run(config.directory).epochs],
        "memory": lambda: [record.values for record in tracker.records],
        "wandb": lambda: table_in_wandb(log),
    }[name]()
    plain = [{metric: [nan if x is None else float(x) for x in row] for metric, row in each.items()} for each in read]
    assert repr(plain) == repr(values)
    kept = {
        "disk": lambda: [region and region.boxes.tolist() for region in read_run(config.directory).regions()],
        "memory": lambda: [region and region.boxes.tolist() for region in tracker.config.regions],
        "wandb": lambda: boxes_in_wandb(log),
    }[name]()
    assert kept == boxes


@pytest.mark.parametrize("name", sorted(set(TRACKERS) - {"memory"}))
def test_what_is_logged_is_there_without_finish(tmp_path, name):
    """After Ctrl-C in fit, finish is never called; then the process dies."""
    script = f"""
import os, signal
from pathlib import Path
from sample_records import make_config, make_record
from keras_cam_callbacks.trackers import resolve
if {name!r} == "wandb":
    import wandb
    print(Path(wandb.init(project="test").dir).parent, flush=True)
tracker, = resolve({name!r})
tracker.start(make_config(Path({str(tmp_path / "run")!r})))
tracker.log(make_record(0))
tracker.log(make_record(1))
{"wandb.teardown()" if name == "wandb" else ""}
os.kill(os.getpid(), signal.SIGKILL)
"""
    tests = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    read = {
        "disk": lambda: epochs_on_disk(tmp_path / "run"),
        "tensorboard": lambda: epochs_in_events(tmp_path / "run"),
        "wandb": lambda: epochs_in_wandb(read_log(done.stdout.strip())),
    }[name]()
    assert [epoch["images"] for epoch in read] == [list(make_record(step).encoded) for step in range(2)]


@pytest.mark.parametrize("name", sorted(set(TRACKERS) - {"memory"}))
def test_log_needs_start(name):
    with pytest.raises(RuntimeError, match=r"start must be called before log\. Received"):
        TRACKERS[name]().log(make_record(0))


def test_memory_keeps_config_and_records(tmp_path):
    tracker = MemoryTracker()
    assert (tracker.config, tracker.records) == (None, [])
    config, record = make_config(tmp_path), make_record(0)
    tracker.start(config)
    tracker.log(record)
    assert tracker.config is config
    assert tracker.records == [record]


def test_disk_goes_on_after_a_second_start_in_another_folder(tmp_path):
    tracker = DiskTracker()
    for name in ("one", "two"):
        tracker.start(make_config(tmp_path / name))
        tracker.log(make_record(0))
        tracker.finish()
    assert len(read_run(tmp_path / "one").epochs) == len(read_run(tmp_path / "two").epochs) == 1


def test_disk_reads_back_what_is_not_finite(tmp_path):
    """Of samples as it was, means as NaN: JSON has no infinities."""
    tracker, config = DiskTracker(), make_config(tmp_path / "run")
    values = np.array([np.nan, np.inf, -np.inf])
    scalars = {"drift": np.nan, "moved": np.inf, "area": np.float32(0.25)}
    tracker.start(config)
    tracker.log(make_record(0, scalars=scalars, values={"moved": values}))
    (epoch,) = read_run(config.directory).epochs
    assert repr(epoch.scalars) == "{'drift': nan, 'moved': nan, 'area': 0.25}"
    np.testing.assert_array_equal(epoch.values()["moved"], values)


# ---- Beside Keras' and W&B's own callbacks -----------------------------------------------------------------


def fit(tracker, directory, others, *, ours_first=True, fits=1, epochs=3):
    """Fits a tiny model; returns the records that were logged."""
    import keras

    config = make_config(directory)
    records = []

    class Logger(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            tracker.start(config)

        def on_epoch_end(self, epoch, logs=None):
            records.append(make_record(len(records), epoch=epoch))
            tracker.log(records[-1])

        def on_train_end(self, logs=None):
            tracker.finish()

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.random.default_rng(0).normal(size=(2, 20, 4))
    for _ in range(fits):
        callbacks = [Logger(), *others()] if ours_first else [*others(), Logger()]
        model.fit(x, y[:, :1], batch_size=4, epochs=epochs, callbacks=callbacks, verbose=0)
    return records


@pytest.mark.parametrize("log_freq", ["epoch", 2])
@pytest.mark.parametrize("ours_first", [True, False])
def test_wandb_beside_its_metrics_logger(tmp_path, ours_first, log_freq):
    from wandb.integration.keras import WandbMetricsLogger

    run = wandb_run()
    records = fit(
        WandbTracker(),
        tmp_path / "run",
        lambda: [WandbMetricsLogger(log_freq=log_freq)],
        ours_first=ours_first,
        fits=2,
    )
    log = finished_log(run)
    rows = log.rows_with("gradcam/overlays")
    assert [row["gradcam/epoch"] for row in rows] == [0, 1, 2, 0, 1, 2]
    assert [row["gradcam/step"] for row in rows] == list(range(6))
    assert [log.images(row["gradcam/overlays"]) for row in rows] == [list(record.encoded) for record in records]
    # Rows of our own: no number of the other callback is in them, and none of ours elsewhere.
    assert {key for row in rows for key in row if not key.startswith(("gradcam/", "_"))} == set()
    assert len([row for row in log.rows if any(key.startswith("gradcam/") for key in row)]) == 6
    assert len(log.rows_with("epoch/loss")) == 6
    if log_freq == 2:
        assert len(log.rows_with("batch/loss")) == 2 * 3 * 3
    assert [metric for metric in log.metrics if metric[0].startswith("gradcam")] == [("gradcam/*", "gradcam/epoch")]
    assert log.config["gradcam"] == {"layer": "base/conv", "method": "gradcam", "target": "predicted"}


# From Keras' own TensorBoard callback, with numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("update_freq", ["epoch", 3])
@pytest.mark.parametrize("ours_first", [True, False])
def test_tensorboard_beside_that_of_keras(tmp_path, ours_first, update_freq):
    import keras

    records = fit(
        TensorBoardTracker(),
        tmp_path / "run",
        lambda: [keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=update_freq)],
        ours_first=ours_first,
        fits=2,
    )
    images, scalars = read_events(tmp_path / "run")
    assert sorted(images) == [f"gradcam/{key}" for key in sample_keys(3)]
    for row, tag in enumerate(sorted(images)):
        assert images[tag] == [(step, record.encoded[row]) for step, record in enumerate(records)]
    assert scalars == {
        "gradcam/drift": [(step, step / 4) for step in range(6)],
        "gradcam/area": [(step, 0.5) for step in range(6)],
        "gradcam/epoch": [(step, step % 3) for step in range(6)],
    }
    assert len(list((tmp_path / "run").glob("events.out.tfevents*"))) == 1


# ---- TensorBoard -------------------------------------------------------------------------------------------


def test_tensorboard_leaves_out_nan_and_writes_where_it_is_told(tmp_path):
    tracker = TensorBoardTracker(tmp_path / "own")
    tracker.start(make_config(tmp_path / "run", prefix="cam/α"))
    tracker.log(make_record(3, scalars={"drift": float("nan"), "area": np.float32(0.25)}))
    images, scalars = read_events(tmp_path / "own")
    assert scalars == {"cam/α/area": [(3, 0.25)], "cam/α/epoch": [(3, 3.0)]}
    assert sorted(images) == [f"cam/α/{key}" for key in sample_keys(3)]
    assert not (tmp_path / "run").exists()
    assert (tracker.uses_directory, TensorBoardTracker().uses_directory) == (False, True)


def test_tensorboard_follows_the_run_to_another_folder(tmp_path):
    tracker = TensorBoardTracker()
    for step, name in enumerate(("one", "two")):
        tracker.start(make_config(tmp_path / name))
        tracker.log(make_record(step))
        tracker.finish()
    assert [read_events(tmp_path / name)[1]["gradcam/drift"] for name in ("one", "two")] == [
        [(0, 0)],
        [(1, 0.25)],
    ]


def test_tensorboard_draws_numbers_together_by_what_they_answer(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    tracker = TensorBoardTracker()
    tracker.start(make_config(tmp_path / "run", prefix="my.cam"))
    names = ["a_drift", "b_drift", "first_drift", "a_first_drift", "flare_correlation", "energy_in_region"]
    for step, count in enumerate((5, 5, 6)):
        tracker.log(make_record(step, scalars=dict.fromkeys(names[:count], 0.5)))
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0}).Reload()
    written = events.Tensors("custom_scalars__config__")
    # Again only where there are numbers that it lacks, such as a second fit's.
    assert [event.step for event in written] == [0, 2]
    page = Layout.FromString(written[-1].tensor_proto.string_val[0])
    tags = [*(f"my.cam/{name}" for name in names), "mycam/drift", "other/my.cam/drift"]
    found = {
        chart.title: [
            tag for tag in [*tags, "mycam/drift", "other/my.cam/drift"] if re.match(chart.multiline.tag[0], tag)
        ]
        for category in page.category
        for chart in category.chart
    }
    assert found == {
        "energy in region": ["my.cam/energy_in_region"],
        "drift": ["my.cam/a_drift", "my.cam/b_drift"],
        "first drift": ["my.cam/first_drift", "my.cam/a_first_drift"],
    }
    assert page.category[0].title == "my.cam: does it look at the object?"
    tracker = TensorBoardTracker()
    tracker.start(make_config(tmp_path / "none"))
    tracker.log(make_record(0, scalars={"novelty": 1}))
    events = EventAccumulator(str(tmp_path / "none"), size_guidance={"tensors": 0}).Reload()
    assert sorted(events.Tags()["tensors"])[-1] == "gradcam/sample_02"


def test_tensorboard_serves_images_and_charts(tmp_path):
    keys = ("sample_00", "cat/ü 🐱")
    tracker = TensorBoardTracker()
    tracker.start(make_config(tmp_path / "gradcam", keys=keys))
    records = [make_record(step, keys=keys, size=(30, 50)) for step in range(3)]
    for record in records:
        tracker.log(record)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("tensorboard"), "--logdir", tmp_path, "--load_fast=false"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--reload_interval", "1"]
    output = tmp_path / "server.log"
    with (
        open(output, "wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
    ):
        try:
            plugin = f"http://127.0.0.1:{port}/data/plugin/images"
            tags = _fetched(f"{plugin}/tags", server, output)
            assert set(tags["gradcam"]) == {f"gradcam/{key}" for key in keys}
            for row, key in enumerate(keys):
                query = urlencode({"run": "gradcam", "tag": f"gradcam/{key}", "sample": 0})
                entries = json.loads(_get(f"{plugin}/images?{query}"))
                assert [entry["step"] for entry in entries] == [0, 1, 2]
                for entry, record in zip(entries, records, strict=True):
                    data = _get(f"{plugin}/individualImage?{entry['query']}")
                    assert data == record.encoded[row]
                    assert np.abs(opened(data).astype(int) - record.overlays[row]).max() <= 12
            plugin = f"http://127.0.0.1:{port}/data/plugin/custom_scalars"
            charts = {
                chart["title"]: chart["multiline"]["tag"]
                for category in json.loads(_get(f"{plugin}/layout"))["category"]
                for chart in category["chart"]
            }
            assert sorted(charts) == ["area", "drift"]
            query = urlencode({"run": "gradcam", "tag": charts["drift"][0]})
            drawn = json.loads(_get(f"{plugin}/scalars?{query}"))["tag_to_events"]
            assert {tag: [value for *_, value in events] for tag, events in drawn.items()} == {
                "gradcam/drift": [0, 0.25, 0.5]
            }
        finally:
            server.terminate()


def _get(url):
    with urlopen(url, timeout=10) as answer:
        return answer.read()


def _fetched(url, server, output):
    """The first answer that is not empty; the server needs some seconds to start and to read the events."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if found := json.loads(_get(url)):
                return found
        except (URLError, ConnectionError):
            pass
        time.sleep(0.2)
    raise AssertionError(output.read_text("utf-8"))


# ---- Weights & Biases --------------------------------------------------------------------------------------


def test_wandb_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match=r'no run is active\. Call wandb\.init\(\.\.\.\).*tracker="disk"'):
        WandbTracker().start(make_config(tmp_path))


def test_a_disabled_wandb_run_costs_nothing(tmp_path):
    import wandb

    with wandb.init(mode="disabled"):
        tracker = WandbTracker(table=True)
        tracker.start(make_config(tmp_path / "run"))
        # Making images of this would fail.
        tracker.log(make_record(0, encoded=(b"", b"", b""), overlays=()))
        tracker.finish()
    assert [path for path in tmp_path.rglob("*") if path.suffix in {".jpg", ".png", ".wandb"}] == []


def test_a_wandb_run_that_is_finished_under_us(tmp_path):
    run = wandb_run()
    tracker = WandbTracker()
    tracker.start(make_config(tmp_path))
    tracker.log(make_record(0))
    run.finish()
    with pytest.raises(RuntimeError, match=rf"must stay active during fit.*{run.id}.*finished.*wandb\.init"):
        tracker.log(make_record(1))
    tracker.finish()
    with pytest.raises(ValueError, match=r"no run is active"):
        tracker.start(make_config(tmp_path))
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{run.id}.*finished"):
            WandbTracker(run).start(make_config(tmp_path))
    assert len(finished_log(run).rows_with("gradcam/overlays")) == 1


def test_wandb_attaches_anew_to_the_next_run(tmp_path):
    tracker = WandbTracker(table=True)
    logs = []
    for step in range(2):
        run = wandb_run()
        tracker.start(make_config(tmp_path))
        tracker.log(make_record(step))
        tracker.finish()
        logs.append(finished_log(run))
    assert [[row["gradcam/step"] for row in log.rows] for log in logs] == [[0], [1]]
    assert [log.metrics[-1] for log in logs] == [("gradcam/*", "gradcam/epoch")] * 2
    assert [len(table_rows(log)) for log in logs] == [3, 3]


def test_wandb_logs_to_the_run_that_it_was_given(tmp_path):
    import wandb

    runs = [wandb.init(project="test", reinit="create_new") for _ in range(2)]
    tracker = WandbTracker(runs[0])
    tracker.start(make_config(tmp_path))
    tracker.log(make_record(0))
    for run in runs:
        run.finish()
    wandb.teardown()
    assert [len(read_log(Path(run.dir).parent).rows) for run in runs] == [1, 0]


def table_rows(log):
    rows = []
    for row in log.rows_with("gradcam_table"):
        stored = json.loads((log.files / row["gradcam_table"]["path"]).read_text("utf-8"))
        assert stored["columns"] == ["epoch", "sample", "true", "predicted", "score", "confidence", "overlay"]
        rows += stored["data"]
    return rows


def test_wandb_table_gets_each_row_once(tmp_path):
    """Also where the first row, from which W&B takes the types of the columns, holds None."""
    run = wandb_run()
    tracker = WandbTracker(table=True)
    for first in (0, 2):
        tracker.start(make_config(tmp_path))
        for step in (first, first + 1):
            tracker.log(make_record(step))
    log = finished_log(run)
    names = ("cat", "dog")
    assert table_rows(log) == [
        [
            step,
            f"sample_{row:02d}",
            names[row % 2] if row else None,
            names[(row + step) % 2] if row else None,
            step + row / 8,
            1 / (row + 1) if row else None,
            "Image",
        ]
        for step in range(4)
        for row in range(3)
    ]
    assert [row["gradcam_table"]["log_mode"] for row in log.rows] == ["INCREMENTAL"] * 4
    assert [row["gradcam_table"]["increment_num"] for row in log.rows] == [0, 1, 2, 3]
    # The images of the table are staged as artifacts, with the bytes that we gave.
    staging = Path(os.environ["WANDB_DATA_DIR"]) / "artifacts" / "staging"
    staged = {path.read_bytes() for path in staging.iterdir()}
    assert staged >= {data for step in range(4) for data in make_record(step).encoded}


def test_wandb_splits_lists_that_it_would_cut(tmp_path):
    run = wandb_run()
    tracker = WandbTracker()
    tracker.start(make_config(tmp_path, 230, display=(picture(0, (4, 4)),) * 230))
    record = make_record(0, 230, size=(4, 6))
    tracker.log(record)
    log = finished_log(run)
    (row,) = log.rows
    keys = [key for key in row if "overlays" in key]
    assert sorted(keys) == ["gradcam/overlays", "gradcam/overlays_2", "gradcam/overlays_3"]
    parts = [row[key] for key in sorted(keys)]
    assert [part["count"] for part in parts] == [100, 100, 30]
    assert [data for part in parts for data in log.images(part)] == list(record.encoded)
    captions = [caption for part in parts for caption in part["captions"]]
    assert captions == [sample.caption for sample in record.samples]


def test_wandb_gets_overlays_of_different_sizes_one_by_one(tmp_path, caplog):
    run = wandb_run()
    tracker = WandbTracker()
    tracker.start(make_config(tmp_path))
    small, large = make_record(0), make_record(0, size=(40, 40))
    encoded = (small.encoded[0], *large.encoded[1:])
    tracker.log(make_record(0, overlays=(small.overlays[0], *large.overlays[1:]), encoded=encoded))
    log = finished_log(run)
    (row,) = log.rows
    keys = [f"gradcam/overlays/{key}" for key in sample_keys(3)]
    assert [log.images(row[key]) for key in keys] == [[data] for data in encoded]
    assert "sizes do not match" not in caplog.text


def test_wandb_keeps_images_when_it_links_media(tmp_path):
    import wandb

    if "allow_media_symlink" not in wandb.Settings.model_fields:
        pytest.skip("this version of W&B always copies")
    run = wandb_run(allow_media_symlink=True)
    tracker = WandbTracker()
    tracker.start(make_config(tmp_path))
    record = make_record(0)
    tracker.log(record)
    log = finished_log(run)
    assert log.images(log.rows[0]["gradcam/overlays"]) == list(record.encoded)


def test_the_log_reader_notices_damage(tmp_path):
    run = wandb_run()
    run.log({"a": 1})
    assert finished_log(run).rows[0]["a"] == 1
    (path,) = Path(run.dir).parent.glob("*.wandb")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="wrong checksum at byte 7"):
        read_log(Path(run.dir).parent)


# ---- The argument `tracker` of the callbacks ---------------------------------------------------------------


class Printer:
    def start(self, config): ...

    def log(self, record): ...

    def finish(self): ...


def kinds(tracker):
    return [type(found) for found in resolve(tracker)]


def test_resolve_names_and_objects():
    assert resolve(None) == resolve([]) == []
    assert {name: kinds(name) for name in TRACKERS} == {name: [kind] for name, kind in TRACKERS.items()}
    assert all(issubclass(kind, Tracker) for kind in TRACKERS.values())
    memory, printer = MemoryTracker(), Printer()
    assert resolve(memory) == [memory]
    assert resolve(printer) == [printer]
    found = resolve(("disk", memory, printer))
    assert [type(item) for item in found] == [DiskTracker, MemoryTracker, Printer]
    assert found[1:] == [memory, printer]
    assert kinds(["auto", memory]) == [DiskTracker, TensorBoardTracker, MemoryTracker]
    assert resolve("memory") != resolve("memory")
    # What is named twice, or is part of "auto" too, is one tracker: two would write to one folder.
    assert kinds(["auto", "disk", memory, memory]) == [DiskTracker, TensorBoardTracker, MemoryTracker]


def test_auto_looks_for_an_active_run():
    import wandb

    assert kinds("auto") == [DiskTracker, TensorBoardTracker]
    run = wandb_run()
    assert kinds("auto") == [DiskTracker, WandbTracker]
    run.finish()
    assert kinds("auto") == [DiskTracker, TensorBoardTracker]
    with wandb.init(mode="disabled"):
        assert kinds("auto") == [DiskTracker, TensorBoardTracker]


def test_resolve_imports_no_library():
    code = (
        "import sys\n"
        "from keras_cam_callbacks.trackers import TRACKERS, resolve\n"
        "resolve(['auto', *TRACKERS])\n"
        "print({'wandb', 'tensorflow', 'tensorboard', 'keras', 'cv2'} & set(sys.modules))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "close"), [("tensorbord", "tensorboard"), ("WandB", "wandb"), ("Disk", "disk"), ("zzz", None)]
)
def test_unknown_names(name, close):
    with pytest.raises(ValueError, match=r"'auto', 'disk', 'memory', 'tensorboard', 'wandb'.*Received: ") as caught:
        resolve(["disk", name])
    assert re.findall(r"Did you mean '(\w+)'", str(caught.value)) == ([close] if close else [])


@pytest.mark.parametrize("tracker", [3, DiskTracker, True, {"disk": 1}, object(), Path("logs")])
def test_what_is_no_tracker(tracker):
    with pytest.raises(TypeError, match=r"object with the methods start, log, finish.*Received: "):
        resolve(tracker)
