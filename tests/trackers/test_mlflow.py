"""What MLflow has of its own: names, a thread, a server."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from urllib.parse import urlencode

import mlflow
import numpy as np
import pytest
from sample_records import make_config, make_record
from tracker_logs import get, mlflow_run, opened, read_mlflow, served

from keras_cam_callbacks.trackers import MLflowTracker
from keras_cam_callbacks.trackers.mlflow import legal

ODD = ("a b", "cat/ü 🐱", "cat/ö 🐱", "../../up", "..", "/", "", "a//b", "x" * 300, "x" * 301, "<b>\n", "per.cent%+~#")


def logged(records, config, **settings):
    tracker = MLflowTracker(**settings)
    tracker.start(config)
    for record in records:
        tracker.log(record)
    tracker.finish()


def threads(name="MLflow"):
    return [thread for thread in threading.enumerate() if thread.name == name]


# ---- What is stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gradcam/sample_00", "a b/c.d-e_f", "x/..y", "x" * 120])
def test_names_that_mlflow_takes_stay(name):
    assert legal(name) == name


def test_odd_names_are_made_legal_and_stay_apart(tmp_path):
    run = mlflow_run(tmp_path)
    record = make_record(0, keys=ODD, scalars={"mäßig\n": 0.5, "a": 1, "": 2})
    logged([record], make_config(tmp_path / "run", keys=ODD, prefix="../my cam/é"))
    images, metrics = read_mlflow(run.info.run_id)
    keys = [legal(f"../my cam/é/{key}") for key in ODD]
    assert len(set(keys)) == len(ODD)
    assert max(map(len, keys)) == 120
    assert [images[key] for key in keys] == [[(0, data)] for data in record.encoded]
    assert {key.split("/")[0] for key in (*keys, *metrics)} == {"_"}
    assert sorted(value for ((_, value),) in metrics.values()) == [0, 0.5, 1, 2]


def test_images_and_previews_are_the_bytes_of_the_record(tmp_path):
    """Neither is encoded again or scaled, as MLflow would do with the preview."""
    run = mlflow_run(tmp_path)
    record = make_record(2, size=(40, 300))
    logged([record], make_config(tmp_path / "run"))
    folder = tmp_path / "mlflow" / run.info.run_id / "artifacts" / "images"
    files = sorted(folder.glob("gradcam~sample_01+step+2+*"))
    assert [file.suffix for file in files] == [".webp", ".png"]
    assert [file.read_bytes() for file in files] == [record.encoded[1]] * 2
    tags = mlflow.MlflowClient().get_run(run.info.run_id).data.tags
    assert tags["mlflow.loggedImages"] == "True"  # Its page looks for images by this.
    assert {name: tags[f"gradcam.{name}"] for name in ("layer", "method", "target")} == {
        "layer": "base/conv",
        "method": "gradcam",
        "target": "predicted",
    }


def test_more_numbers_than_mlflow_takes_at_once(tmp_path):
    run = mlflow_run(tmp_path)
    scalars = {f"view_{i}_drift": i for i in range(1100)} | {"moved": np.inf}
    logged([make_record(0, scalars=scalars)], make_config(tmp_path / "run"))
    _, metrics = read_mlflow(run.info.run_id)
    assert metrics["gradcam/view_1099_drift"] == [(0, 1099)]
    assert len(metrics) == 1101


# ---- Which run ---------------------------------------------------------------------------------------------


def test_a_run_is_needed_and_none_is_started(tmp_path):
    with pytest.raises(ValueError, match=r'no run is active\. Call mlflow\.start_run\(\) before fit.*"disk"'):
        MLflowTracker().start(make_config(tmp_path))
    assert mlflow.active_run() is None
    assert threads() == []


def test_a_run_that_is_given_needs_not_be_active(tmp_path, monkeypatch):
    """And nothing else is logged to: MLflow's functions would start a run of their own in the thread."""
    with mlflow_run(tmp_path) as run:
        pass
    uri = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere.db")
    config, client = make_config(tmp_path / "run"), mlflow.MlflowClient(uri)
    logged([make_record(0)], config, run_id=run.info.run_id, tracking_uri=uri)
    images, _ = read_mlflow(run.info.run_id, client)
    assert len(images) == 3
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert mlflow.active_run() is None
    assert not (tmp_path / "nowhere.db").exists()


@pytest.mark.parametrize("deleted", [True, False])
def test_a_run_that_is_not_there(tmp_path, deleted):
    with mlflow_run(tmp_path) as run:
        pass
    if deleted:
        mlflow.delete_run(run.info.run_id)
    run_id = run.info.run_id if deleted else "0" * 32
    tracker = MLflowTracker(run_id)
    with pytest.raises(
        RuntimeError, match=rf"MLflow's run '{run_id}' failed: .*({'deleted' if deleted else 'not found'})"
    ):
        tracker.start(make_config(tmp_path))
    tracker.finish()
    assert threads() == []


# ---- The thread --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_finish", [True, False])
def test_what_fails_in_the_thread_is_raised_once(tmp_path, at_finish):
    run = mlflow_run(tmp_path)
    tracker, config = MLflowTracker(), make_config(tmp_path / "run")
    tracker.start(config)
    tracker.log(make_record(0))
    tracker._calls.wait()
    mlflow.delete_run(run.info.run_id)
    tracker.log(make_record(1))
    message = r"Epoch 1 \(step 1\) failed: MlflowException: .*must be in the 'active' state"
    if at_finish:
        with pytest.raises(RuntimeError, match=message):
            tracker.finish()
    else:
        while tracker._calls.is_busy():
            time.sleep(0.01)
        with pytest.raises(RuntimeError, match=message):
            tracker.log(make_record(2))
    tracker.finish()
    mlflow.MlflowClient().restore_run(run.info.run_id)
    tracker.start(config)
    tracker.log(make_record(3))
    tracker.finish()
    images, _ = read_mlflow(run.info.run_id)
    assert [step for step, _ in images["gradcam/sample_00"]] == [0, 3]
    assert threads() == []


def test_what_an_interrupted_fit_has_left_is_sent_or_told_at_the_next_start(tmp_path):
    run = mlflow_run(tmp_path)
    tracker, config = MLflowTracker(), make_config(tmp_path / "run")
    tracker.start(config)
    tracker.log(make_record(0))
    tracker.start(config)
    assert len(read_mlflow(run.info.run_id)[0]) == 3
    mlflow.end_run()
    mlflow.delete_run(run.info.run_id)
    tracker.log(make_record(1))
    mlflow_run(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"not sent all of the fit before\. Epoch 1 \(step 1\) failed"):
        tracker.start(config)
    tracker.finish()


def test_a_server_that_does_not_answer(tmp_path, monkeypatch):
    """It takes the connection, and no more."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # So the thread ends with the test.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = MLflowTracker("0" * 32, tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        with pytest.raises(
            TimeoutError, match=r"within 0\.2 s\. Received: 1 left, at work on MLflow's run '0+', for \d+ s"
        ):
            tracker.start(make_config(tmp_path))
        tracker.finish()
        (thread,) = threads()
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_must_be_positive(timeout):
    with pytest.raises(ValueError, match=r"`timeout` must be a positive number of seconds\. Received: "):
        MLflowTracker(timeout=timeout)


def test_the_old_name_of_the_timeout_works():
    with pytest.warns(DeprecationWarning, match="`limit` is now called `timeout`") as caught:
        assert MLflowTracker(limit=3)._calls.timeout == 3
    assert caught[0].filename == __file__
    assert MLflowTracker(timeout=4)._calls.timeout == 4
    assert MLflowTracker.timeout is None


# ---- The page ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_server_shows_what_was_logged_through_it(tmp_path):
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--backend-store-uri", mlflow.get_tracking_uri(), "--artifacts-destination", str(tmp_path / "files")]
    with served(command, tmp_path / "server.log", "/health") as (url, _):
        client = mlflow.MlflowClient(url)
        run = client.create_run(client.create_experiment(str(tmp_path)))
        records = [make_record(step) for step in range(2)]
        logged(records, make_config(tmp_path / "run"), run_id=run.info.run_id, tracking_uri=url)

        api = f"{url}/ajax-api/2.0/mlflow"
        query = urlencode({"run_uuid": run.info.run_id, "path": "images"})
        paths = [file["path"] for file in json.loads(get(f"{api}/artifacts/list?{query}"))["files"]]
        (path,) = [path for path in paths if path.startswith("images/gradcam~sample_01+step+1+") and ".png" in path]
        data = get(f"{url}/get-artifact?{urlencode({'run_uuid': run.info.run_id, 'path': path})}")
        assert data == records[1].encoded[1]
        assert np.abs(opened(data).astype(int) - records[1].overlays[1]).max() <= 12
        query = urlencode({"run_id": run.info.run_id, "metric_key": "gradcam/drift", "max_results": 9})
        history = json.loads(get(f"{api}/metrics/get-history?{query}"))["metrics"]
        assert [(metric["step"], metric["value"]) for metric in history] == [(0, 0), (1, 0.25)]
        assert b"<title>MLflow</title>" in get(url)
