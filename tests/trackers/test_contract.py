"""What holds for all trackers, with the real libraries and their logs read back."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT, TESTS
from sample_records import make_config, make_record
from tracker_logs import CASES, STORED
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks.records import Region
from keras_cam_callbacks.store import read_run
from keras_cam_callbacks.testing import TrackerContract
from keras_cam_callbacks.trackers import TRACKERS, WandbTracker


def expected(records, case):
    """What must come back of records."""
    return [
        {
            "step": record.step,
            "epoch": record.epoch,
            "scalars": dict(record.scalars),
            "captions": None if case.draws_captions else [sample.caption for sample in record.samples],
            "images": list(record.encoded),
        }
        for record in records
    ]


def test_every_tracker_has_a_case():
    assert set(CASES) == {*TRACKERS, "function"}


@pytest.mark.parametrize("name", CASES)
class TestOurs(TrackerContract):
    @pytest.fixture(autouse=True)
    def _case(self, name):
        self.case = CASES[name]()

    def make(self):
        return self.case.make()

    def begin(self, directory):
        return self.case.begin(directory)

    def read(self, tracker, config, run):
        return self.case.read(config, run)


@pytest.mark.parametrize("name", CASES)
def test_several_fits_with_one_tracker_in_runs_of_their_own(tmp_path, name):
    """Also with a change of what a run is told once."""
    case = CASES[name]()
    tracker, found = case.make(), []
    for step, target in enumerate(("predicted", "true")):
        run, config = case.begin(tmp_path), make_config(tmp_path / target, target=target)
        tracker.start(config)
        tracker.log(make_record(step))
        tracker.finish()
        found.append(case.read(config, run))
        if name == "mlflow":
            import mlflow

            mlflow.end_run()
    records = [make_record(0), make_record(1)]
    if name in ("function", "memory"):
        assert found == [expected(records[:1], case), expected(records, case)]
    else:
        assert found == [expected(records[:1], case), expected(records[1:], case)]


@pytest.mark.parametrize("name", ["disk", "function", "memory"])
def test_numbers_that_are_nan_are_kept_as_nan(tmp_path, name):
    case = CASES[name]()
    tracker, config = case.make(), make_config(tmp_path / "run")
    tracker.start(config)
    tracker.log(make_record(0, scalars={"drift": math.nan, "area": np.float32(0.25)}))
    (epoch,) = case.read(config, None)
    assert repr({key: float(value) for key, value in epoch["scalars"].items()}) == "{'drift': nan, 'area': 0.25}"


@pytest.mark.parametrize("name", STORED)
def test_a_run_that_is_resumed_after_its_process_has_died(tmp_path, name):
    """Nobody calls finish then. What writes in `log` outlives kill -9, what has a thread an exception in fit."""
    has_thread = name in ("mlflow", "trackio")
    script = f"""
import os, signal
from pathlib import Path
from sample_records import make_config, make_record
from tracker_logs import CASES
case, folder = CASES[{name!r}](), Path({str(tmp_path)!r})
print("ident=" + case.ident(case.begin(folder)), flush=True)
tracker = case.make()
tracker.start(make_config(folder / "run"))
tracker.log(make_record(0))
tracker.log(make_record(1))
if {has_thread}:
    raise KeyboardInterrupt
if {name == "wandb"}:
    import wandb
    wandb.teardown()
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    if has_thread:
        assert done.stderr.endswith("KeyboardInterrupt\n")
    else:
        assert done.returncode == -9, done.stderr
    case, config = CASES[name](), make_config(tmp_path / "run")
    ident = re.findall("^ident=(.*)$", done.stdout, re.MULTILINE)[0]
    run, tracker = case.begin(tmp_path, ident), case.make()
    tracker.start(config)
    records = [make_record(step) for step in range(4)]
    for record in records[2:]:
        tracker.log(record)
    tracker.finish()
    assert case.read(config, run) == expected(records, case)


@pytest.mark.parametrize("name", sorted(set(TRACKERS) - {"memory"}))
def test_log_needs_start(name):
    with pytest.raises(RuntimeError, match=r"start must be called before log\. Received"):
        TRACKERS[name]().log(make_record(0))


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_a_library_that_is_not_installed(tmp_path, monkeypatch, name):
    """As long as it isn't used nobody misses it."""
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # An import fails as it does where there is none.
    tracker = TRACKERS[name]()
    tracker.finish()
    with pytest.raises(ImportError, match=rf"needs {name}.*pip install 'keras_cam_callbacks\[{name}\]'") as caught:
        tracker.start(make_config(tmp_path))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_a_library_that_lacks_something(tmp_path, monkeypatch, name):
    """It would not help to install it again."""
    (tmp_path / f"{name}.py").write_text("import what_it_needs")
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'what_it_needs'"):
        TRACKERS[name]().start(make_config(tmp_path))


# ---- Values of samples, and regions ------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["disk", "memory", "wandb"])
def test_trackers_keep_values_and_regions(tmp_path, name):
    """Numbers of each sample, NaN among them, and where the objects are; the others have no place for either."""
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
