import io
import json
import shutil
import sys

import keras
import mlflow
import numpy as np
import pytest
from fits import NUMBERS, SAMPLES, X, Y, before_epoch, epochs_on_disk, fit, tiny_model
from models import SHAPE
from PIL import Image
from tracker_logs import CASES, read_tensors
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks import (
    FunctionTracker,
    GradCAMLogger,
    HeatmapLogger,
    MemoryTracker,
    Overlay,
    Tracker,
    WandbTracker,
    read_run,
)

NAMES = ["ant", "bee", "cow"]
KEYS = [f"sample_{i:02d}" for i in range(SAMPLES)]


class Failing(Tracker):
    """A user's tracker that fails in one step, or when a fit ends; knows what it was called for."""

    def __init__(self, step=None, error=None, at_finish=False):
        self.step, self.error, self.at_finish = step, error, at_finish
        self.calls = []

    def start(self, config):
        self.calls.append("start")

    def log(self, record):
        self.calls.append(record.step)
        if record.step == self.step:
            raise self.error

    def finish(self):
        self.calls.append("finish")
        if self.at_finish:
            raise self.error


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def epochs_in_memory(memory):
    return [(record.step, record.epoch) for record in memory.records]


# ---- What trackers get -------------------------------------------------------------------------------------


def test_no_tracker_leaves_nothing_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = GradCAMLogger(X, tracker=None, metrics="all")
    history = fit(logger)
    assert set(NUMBERS) < set(history)
    assert len(history["gradcam_drift"]) == 3
    assert logger.directory is None
    assert list(tmp_path.iterdir()) == []


def test_records(tmp_path):
    memory = MemoryTracker()
    outputs = []
    predicts = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: outputs.append(logger.model.predict(X, verbose=0))
    )
    overlay = Overlay(size=(24, 32), caption=False, image_format="png")
    logger = GradCAMLogger((X, Y), tracker=memory, log_dir=tmp_path, class_names=NAMES, overlay=overlay, metrics="all")
    history = fit(logger, predicts, epochs=2)
    assert memory.config.directory == tmp_path / "gradcam"
    assert logger.directory is None
    assert not list(tmp_path.iterdir())
    assert memory.config.layer_name == "conv2"
    assert memory.config.class_names == tuple(NAMES)
    assert memory.config.labels == tuple(Y)
    assert memory.config.value_range == "[0, 1]"
    np.testing.assert_array_equal(memory.config.display, np.rint(X * 255))
    assert epochs_in_memory(memory) == [(0, 0), (1, 1)]
    for record, probabilities in zip(memory.records, outputs, strict=True):
        assert (record.heatmaps.dtype, record.heatmaps.shape) == (np.float32, (SAMPLES, 10, 14))
        # Raw, and so neither scaled to [0, 1] nor of the image's size.
        assert record.heatmaps.max() != 1
        assert {(picture.dtype, picture.shape) for picture in record.overlays} == {(np.dtype("uint8"), (24, 32, 3))}
        np.testing.assert_array_equal([opened(data) for data in record.encoded], record.overlays)
        np.testing.assert_allclose(record.outputs, probabilities, atol=1e-6)
        assert sorted(f"gradcam_{name}" for name in record.scalars) == NUMBERS
        assert record.scalars["area"] == history["gradcam_area"][record.epoch]
        for i, sample in enumerate(record.samples):
            guess = int(probabilities[i].argmax())
            assert (sample.key, sample.label) == (KEYS[i], Y[i])
            assert sample.predicted == sample.target == guess
            assert sample.confidence == pytest.approx(probabilities[i].max(), abs=1e-6)
            assert sample.caption == f"true {NAMES[Y[i]]}, predicted {NAMES[guess]} {probabilities[i].max():.2f}"
    assert np.isnan(memory.records[0].scalars["drift"])
    assert memory.records[1].scalars["drift"] == history["gradcam_drift"][1]


def test_a_tracker_of_the_users_own(tmp_path):
    class Duck:
        def __init__(self):
            self.calls = []

        def start(self, config):
            self.calls.append(config.directory)

        def log(self, record):
            self.calls.append(record.step)

        def finish(self):
            self.calls.append("finish")

    duck, model = Duck(), tiny_model()
    logger = GradCAMLogger(X, tracker=[duck, "disk"], log_dir=tmp_path)
    for _ in range(2):
        fit(logger, model=model, epochs=2)
    folder = tmp_path / "gradcam"
    assert duck.calls == [folder, 0, 1, "finish", folder, 2, 3, "finish"]
    assert epochs_on_disk(folder) == [(0, 0), (1, 1), (2, 0), (3, 1)]


# ---- TensorBoard -------------------------------------------------------------------------------------------


# From Keras' own TensorBoard callback, with numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("ours_first", [True, False])
def test_auto_is_disk_and_tensorboard(tmp_path, ours_first):
    """Beside Keras' own callback, whose update_freq would swallow most of our epochs."""
    pytest.importorskip("tensorflow", reason="Keras' own callback writes by it")
    logger, model = GradCAMLogger((X, Y), log_dir=tmp_path / "logs", metrics="all"), tiny_model()
    history = []
    for _ in range(2):
        own = keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=3)
        history.append(fit(*([logger, own] if ours_first else [own, logger]), model=model))
    directory = tmp_path / "logs" / "gradcam"
    assert epochs_on_disk(directory) == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 2)]
    found = read_tensors(directory)
    numbers = [name.removeprefix("gradcam_") for name in NUMBERS]
    assert sorted(found) == sorted(f"gradcam/{name}" for name in (*KEYS, *numbers, "epoch"))
    for i, key in enumerate(KEYS):
        assert [step for step, _ in found[f"gradcam/{key}"]] == list(range(6))
        stored = [epoch.encoded()[i] for epoch in read_run(directory).epochs]
        assert [value[2] for _, value in found[f"gradcam/{key}"]] == stored
    numbers = {
        tag: [(step, float(value)) for step, value in found[f"gradcam/{tag}"]] for tag in ("epoch", "drift", "area")
    }
    assert numbers["epoch"] == [(step, step % 3) for step in range(6)]
    areas, drifts = ([x for h in history for x in h[name]] for name in ("gradcam_area", "gradcam_drift"))
    assert [value for _, value in numbers["area"]] == pytest.approx(areas)
    # The first epoch has no drift, and TensorBoard no NaN.
    assert [step for step, _ in numbers["drift"]] == [1, 2, 3, 4, 5]
    assert [value for _, value in numbers["drift"]] == pytest.approx(drifts[1:])
    assert len(list(directory.glob("events.out.tfevents*"))) == 1


# ---- Weights & Biases --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours_first", [True, False])
def test_wandb_beside_its_metrics_logger(tmp_path, ours_first):
    pytest.importorskip("tensorflow", reason="W&B's callbacks for Keras import it")
    from wandb.integration.keras import WandbMetricsLogger

    run, model = wandb_run(), tiny_model()
    tracker = "auto" if ours_first else ["disk", WandbTracker(table=True)]
    logger = GradCAMLogger((X, Y), tracker=tracker, log_dir=tmp_path / "logs", class_names=NAMES)
    for _ in range(2):
        metrics = WandbMetricsLogger(log_freq=2)
        fit(*([logger, metrics] if ours_first else [metrics, logger]), model=model)
    log = finished_log(run)

    rows = log.rows_with("gradcam/overlays")
    assert [(row["gradcam/step"], row["gradcam/epoch"]) for row in rows] == epochs_on_disk(tmp_path / "logs")
    stored = read_run(tmp_path / "logs").epochs
    assert len(stored) == 6
    for row, epoch in zip(rows, stored, strict=True):
        assert log.images(row["gradcam/overlays"]) == list(epoch.encoded())
        assert tuple(row["gradcam/overlays"]["captions"]) == epoch.captions
        assert row["gradcam/area"] == epoch.scalars["area"]
    assert len(log.rows_with("epoch/loss")) == 6
    # Placed before it, our numbers are among the metrics of Keras too.
    assert len(log.rows_with("epoch/gradcam_area")) == (6 if ours_first else 0)
    assert len(log.rows_with("batch/loss")) == 2 * 3 * 2
    held = log.config["gradcam"]
    assert {name: held[name] for name in ("layer", "method", "target", "wandb_run")} == {
        "layer": "conv2",
        "method": "gradcam",
        "target": "predicted",
        "wandb_run": run.id,
    }
    assert list((tmp_path / "logs").rglob("events.out.tfevents*")) == []
    tables = [
        json.loads((log.files / row["gradcam_table"]["path"]).read_text()) for row in log.rows_with("gradcam_table")
    ]
    keys = [row[:3] for table in tables for row in table["data"]]
    expected = [[e.epoch, key, NAMES[label]] for e in stored for key, label in zip(KEYS, Y, strict=True)]
    assert keys == ([] if ours_first else expected)


def test_disabled_wandb_run(tmp_path):
    import wandb

    run = wandb.init(mode="disabled")
    fit(GradCAMLogger(X, tracker=["wandb", "disk"], log_dir=tmp_path / "logs"), epochs=2)
    run.finish()
    assert epochs_on_disk(tmp_path / "logs") == [(0, 0), (1, 1)]
    assert list(tmp_path.rglob("*.wandb")) == []


def test_wandb_run_that_is_not_there(tmp_path):
    model = tiny_model()
    logger = GradCAMLogger(X, tracker=["disk", "wandb"], log_dir=tmp_path)
    with pytest.raises(ValueError, match=r'no run is active\. Call wandb\.init\(\.\.\.\) before fit, or.*"disk"'):
        fit(logger, model=model)
    assert int(model.optimizer.iterations) == 0
    # The folder that it has made is its own.
    logger.tracker = "disk"
    fit(logger, model=model, epochs=1)
    assert logger.directory.name == "gradcam"
    assert epochs_on_disk(tmp_path) == [(0, 0)]


# ---- Runs of any library -----------------------------------------------------------------------------------

# How users end a run; MLflow takes what comes after an end.
ENDS = {
    "mlflow": lambda run: mlflow.delete_run(run.info.run_id),
    "trackio": lambda run: run.finish(),
    "wandb": lambda run: run.finish(),
}
FAILURES = {
    "mlflow": "MLflowTracker failed and is switched off.*Epoch 1 .*must be in the 'active' state",
    "trackio": "TrackioTracker failed and is switched off.*must stay active during fit.*was finished",
    "wandb": "WandbTracker failed and is switched off.*must stay active during fit.*was finished",
}


def begun(name, folder):
    case = CASES[name]()
    return case, case.begin(folder)


@pytest.mark.parametrize("name", ENDS)
def test_a_run_that_ends_in_the_second_epoch(tmp_path, name):
    """What was logged is kept and the others go on; in the next fit "auto" stands for what is active then."""
    model, memory = tiny_model(), MemoryTracker()
    case, run = begun(name, tmp_path)
    logger = GradCAMLogger(X, tracker=["auto", memory], log_dir=tmp_path)

    def end():
        if name == "mlflow":  # Its thread may still be at work on the first epoch.
            logger.trackers[1]._calls.wait()
        ENDS[name](run)

    with pytest.warns(RuntimeWarning, match=FAILURES[name]) as caught:
        fit(logger, before_epoch(1, end), model=model)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert epochs_on_disk(tmp_path) == epochs_in_memory(memory) == [(0, 0), (1, 1), (2, 2)]
    if name == "mlflow":
        mlflow.MlflowClient().restore_run(run.info.run_id)
        mlflow.end_run()
    fit(logger, model=model, epochs=1)
    assert epochs_on_disk(tmp_path) == epochs_in_memory(memory) == [(0, 0), (1, 1), (2, 2), (3, 0)]
    assert [step for step, _ in read_tensors(tmp_path / "gradcam")["gradcam/epoch"]] == [3]
    (epoch,) = case.read(logger, run)
    assert (epoch["step"], epoch["images"]) == (0, list(memory.records[0].encoded))


def test_an_mlflow_run_that_ends_in_the_second_epoch_gets_the_rest(tmp_path):
    case, run = begun("mlflow", tmp_path)
    fit(GradCAMLogger(X, tracker="mlflow", log_dir=tmp_path), before_epoch(1, mlflow.end_run))
    assert [epoch["step"] for epoch in case.read(None, run)] == [0, 1, 2]
    assert mlflow.active_run() is None


def test_auto_is_all_that_is_active(tmp_path):
    """Each gets the same, over two fits."""
    cases = {name: begun(name, tmp_path) for name in ENDS}
    logger, model = GradCAMLogger((X, Y), log_dir=tmp_path, class_names=NAMES), tiny_model()
    history = [fit(logger, model=model, epochs=2) for _ in range(2)]
    stored = read_run(tmp_path).epochs
    assert len(stored) == 4
    images = [list(epoch.encoded()) for epoch in stored]
    for case, run in cases.values():
        read = case.read(None, run)
        assert [(epoch["step"], epoch["epoch"]) for epoch in read] == [(e.step, e.epoch) for e in stored]
        assert [epoch["images"] for epoch in read] == images
        assert [epoch["scalars"]["area"] for epoch in read] == [x for h in history for x in h["gradcam_area"]]
        if not case.draws_captions:
            assert [tuple(epoch["captions"]) for epoch in read] == [epoch.captions for epoch in stored]
    assert list(tmp_path.rglob("events.out.tfevents*")) == []


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_a_library_that_is_not_installed_is_told_before_the_first_batch(tmp_path, monkeypatch, name):
    model = tiny_model()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"pip install 'keras_cam_callbacks\[{name}\]'"):
            fit(GradCAMLogger(X, tracker=["disk", name], log_dir=tmp_path), model=model)
    assert int(model.optimizer.iterations) == 0


def test_a_function_gets_each_record(tmp_path):
    records, memory = [], MemoryTracker()
    fit(GradCAMLogger(X, tracker=[FunctionTracker(records.append), memory], log_dir=tmp_path), epochs=2)
    assert records == memory.records
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", [None, "print", 3])
def test_what_is_no_function(function):
    with pytest.raises(TypeError, match=r"needs a function of one record\. Received: "):
        FunctionTracker(function)


# ---- Faults ------------------------------------------------------------------------------------------------


def test_a_tracker_that_fails(tmp_path):
    failing, memory, model = Failing(1, OSError("no route to host")), MemoryTracker(), tiny_model()
    logger = GradCAMLogger(X, tracker=[failing, memory], log_dir=tmp_path)
    message = "gradcam: Failing failed and is switched off until the next fit.*OSError: no route to host"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        history = fit(logger, model=model)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert failing.calls == ["start", 0, 1]
    assert epochs_in_memory(memory) == [(0, 0), (1, 1), (2, 2)]
    assert len(history["gradcam_area"]) == 3
    fit(logger, model=model, epochs=1)
    assert failing.calls == ["start", 0, 1, "start", 3, "finish"]


def test_a_tracker_that_fails_at_the_end(tmp_path):
    trackers = [Failing(error=OSError("upload"), at_finish=True), Failing()]
    with pytest.warns(RuntimeWarning, match="OSError: upload") as caught:
        fit(GradCAMLogger(X, tracker=trackers, log_dir=tmp_path), epochs=1)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert [tracker.calls for tracker in trackers] == [["start", 0, "finish"]] * 2


@pytest.mark.parametrize("error", [OSError("no route to host"), KeyboardInterrupt("Ctrl-C"), MemoryError("full")])
def test_on_error_raise(tmp_path, error):
    logger = GradCAMLogger(X, tracker=["disk", Failing(1, error)], log_dir=tmp_path, on_error="raise")
    with pytest.raises(type(error), match=str(error)):
        fit(logger)
    assert epochs_on_disk(tmp_path) == [(0, 0), (1, 1)]


def test_keyboard_interrupt_ends_training(tmp_path):
    """It is no fault of the tracker's, also where faults only warn."""
    with pytest.raises(KeyboardInterrupt):
        fit(GradCAMLogger(X, tracker=["disk", Failing(1, KeyboardInterrupt())], log_dir=tmp_path))
    assert epochs_on_disk(tmp_path) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("becomes_a_file", [False, True])
def test_a_log_dir_that_disappears(tmp_path, becomes_a_file):
    memory, model = MemoryTracker(), tiny_model()
    logs = tmp_path / "logs"

    def remove():
        shutil.rmtree(logs)
        if becomes_a_file:
            logs.write_text("mine")

    logger = GradCAMLogger(X, tracker=["disk", "tensorboard", memory], log_dir=logs)
    with pytest.warns(RuntimeWarning, match="failed and is switched off until the next fit") as caught:
        fit(logger, before_epoch(1, remove), model=model, epochs=4)
    disk, tensorboard = (str(one.message) for one in caught if "switched off" in str(one.message))
    assert "DiskTracker" in disk
    assert "metrics.jsonl" in disk
    # What is written to a file that was removed, nobody can see.
    assert "TensorBoardTracker" in tensorboard
    assert "events file must stay where it is" in tensorboard
    assert epochs_in_memory(memory) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    if becomes_a_file:
        assert logs.read_text() == "mine"
    else:
        fit(logger, model=model, epochs=2)
        assert epochs_on_disk(logs) == [(4, 0), (5, 1)]
        assert [step for step, _ in read_tensors(logger.directory)["gradcam/epoch"]] == [4, 5]


def test_a_method_that_fails(tmp_path):
    """Nothing is logged any more in this fit; in the next one it is tried again."""
    calls = []

    def method(activations, gradients):
        calls.append(activations.shape)
        if len(calls) == 2:
            raise ZeroDivisionError("norm")
        return activations[..., 0]

    memory, model = MemoryTracker(), tiny_model()
    logger = HeatmapLogger(X, method=method, tracker=memory, log_dir=tmp_path)
    with pytest.warns(RuntimeWarning, match="method: The heatmaps failed.*ZeroDivisionError: norm") as caught:
        history = fit(logger, model=model, epochs=4)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert len(history["loss"]) == 4
    assert len(history["method_area"]) == 1
    fit(logger, model=model, epochs=2)
    assert epochs_in_memory(memory) == [(0, 0), (4, 0), (5, 1)]


def test_a_dead_layer_is_told_once(tmp_path):
    memory, model = MemoryTracker(), tiny_model()
    last = model.get_layer("conv2")
    last.bias.assign(last.bias - 100)
    drawn = Overlay(caption=False, size=SHAPE[:2], image_format="png")
    logger = GradCAMLogger(X, tracker=memory, log_dir=tmp_path, overlay=drawn, metrics=["degenerate", "drift"])
    cause = rf"{SAMPLES} of {SAMPLES} heatmaps explain nothing in epoch 0.*bare image.*zero everywhere.*dead ReLU"
    with pytest.warns(RuntimeWarning, match=cause) as caught:
        history = fit(logger, model=model)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert history["gradcam_degenerate"] == [SAMPLES] * 3
    assert history["gradcam_drift"] == [np.inf] * 3
    with pytest.warns(RuntimeWarning, match=cause) as caught:
        fit(logger, model=model)  # Another fit says it again.
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    for record in memory.records:
        assert record.scalars["degenerate"] == SAMPLES
        assert all(sample.degenerate and sample.caption.endswith("no heatmap") for sample in record.samples)
        np.testing.assert_array_equal(record.overlays, np.rint(X * 255))
