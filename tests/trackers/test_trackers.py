import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from sample_records import make_config, make_record, picture, sample_keys
from tracker_fits import fit
from tracker_logs import mlflow_run, trackio_run
from wandb_log import finished_log, read_log, wandb_run

from keras_cam_callbacks.store import read_run
from keras_cam_callbacks.trackers import (
    TRACKERS,
    DiskTracker,
    MemoryTracker,
    MLflowTracker,
    TensorBoardTracker,
    Tracker,
    TrackioTracker,
    WandbTracker,
    resolve,
)


def test_memory_keeps_config_and_records(tmp_path):
    tracker = MemoryTracker()
    assert (tracker.config, tracker.records) == (None, [])
    config, record = make_config(tmp_path), make_record(0)
    tracker.start(config)
    tracker.log(record)
    assert tracker.config is config
    assert tracker.records == [record]


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


@pytest.mark.only_on("tensorflow", reason="W&B's own callbacks for Keras import TensorFlow")
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
    alone = {name: [kind] for name, kind in TRACKERS.items()}
    assert {name: kinds(name) for name in TRACKERS} == alone | {"tensorboard": [TensorBoardTracker, DiskTracker]}
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


def test_tensorboard_brings_the_record_where_none_is_written(tmp_path):
    own = DiskTracker()
    assert resolve([TensorBoardTracker(), own])[1:] == [own]
    assert kinds(["tensorboard", "disk", "memory"]) == [TensorBoardTracker, DiskTracker, MemoryTracker]
    for tracker in (TensorBoardTracker(record=False), TensorBoardTracker(tmp_path)):
        assert resolve(tracker) == [tracker]
    named = {}
    assert resolve("tensorboard", named) == resolve("tensorboard", named)
    with pytest.raises(ValueError, match="must lie beside the events"):
        TensorBoardTracker(tmp_path, record=True)
    with pytest.raises(TypeError, match="Received: 'no'"):
        TensorBoardTracker(record="no")


def test_auto_looks_for_active_runs(tmp_path):
    import mlflow
    import trackio
    import wandb

    assert kinds("auto") == [DiskTracker, TensorBoardTracker]
    run = wandb_run()
    assert kinds("auto") == [DiskTracker, WandbTracker]
    mlflow_run(tmp_path)
    own = trackio_run(tmp_path)
    assert kinds("auto") == [DiskTracker, MLflowTracker, TrackioTracker, WandbTracker]
    run.finish()
    mlflow.end_run()
    assert kinds("auto") == [DiskTracker, TrackioTracker]
    own.finish()  # After this it is still the current one for Trackio.
    assert kinds("auto") == [DiskTracker, TensorBoardTracker]
    trackio.finish()
    with wandb.init(mode="disabled"):
        assert kinds("auto") == [DiskTracker, TensorBoardTracker]


@pytest.mark.parametrize("name", ["mlflow", "trackio.context_vars", "wandb"])
@pytest.mark.parametrize("module", [None, types.ModuleType("half_loaded")])
def test_auto_asks_no_more_of_a_library_than_it_has(name, module):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        assert kinds("auto") == [DiskTracker, TensorBoardTracker]


def test_resolve_imports_no_library():
    code = (
        "import sys\n"
        "from keras_cam_callbacks.trackers import TRACKERS, resolve\n"
        "resolve(['auto', *TRACKERS])\n"
        "print({'mlflow', 'trackio', 'wandb', 'tensorflow', 'tensorboard', 'keras', 'cv2'} & set(sys.modules))"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "close"), [("tensorbord", "tensorboard"), ("WandB", "wandb"), ("Disk", "disk"), ("zzz", None)]
)
def test_unknown_names(name, close):
    with pytest.raises(ValueError, match=r"'auto', 'disk', 'memory', 'mlflow', .*'wandb'.*Received: ") as caught:
        resolve(["disk", name])
    assert re.findall(r"Did you mean '(\w+)'", str(caught.value)) == ([close] if close else [])


@pytest.mark.parametrize("tracker", [3, DiskTracker, True, {"disk": 1}, object(), Path("logs")])
def test_what_is_no_tracker(tracker):
    with pytest.raises(TypeError, match=r"object with the methods start, log, finish.*Received: "):
        resolve(tracker)
