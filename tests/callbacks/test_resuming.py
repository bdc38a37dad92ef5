"""Which stored run a fit goes on with: the one that is named, a tracker's, or the one that stopped right before."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from fits import KERAS_WARNS, X, Y, fit, tiny_model
from keras import layers
from models import SHAPE
from paths import ROOT, TESTS
from sample_records import make_config, make_record
from wandb_log import wandb_run

from keras_cam_callbacks import (
    ActivationLogger,
    FilterLogger,
    GradCAMLogger,
    HeatmapLogger,
    MemoryTracker,
    MLflowTracker,
    WandbTracker,
    compare,
    read_run,
)
from keras_cam_callbacks.network.rules import rules_digest
from keras_cam_callbacks.store import RunWriter, choose_directory

STABLE = {"architecture": "a1", "model_label": "Sequential", "layer_place": "Conv2D 2"}


def unnamed():
    """A model that Keras gives all names."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return model


def logged(log_dir, *, name="gradcam", epochs=(), freq=1, **changes):
    """Writes a record of some epochs; returns its run id."""
    config = make_config(log_dir / name, freq=freq or 1, run_id=f"id-of-{name}", **STABLE | changes)
    writer = RunWriter(config)
    for epoch in epochs:
        writer.write(make_record(epoch))
    if freq is None:  # As in records of schema 1.
        path = log_dir / name / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["freq"]
        path.write_text(json.dumps(manifest))
    return config.run_id


def chosen(log_dir, start, run=None, held=(), **changes):
    """The name of the folder in which a fit goes on; None for a new one."""
    before = set(log_dir.iterdir())
    place = choose_directory(log_dir, make_config(log_dir, **{"freq": 1} | STABLE | changes), start, run, held)
    return place.directory.name if place.directory in before else None


def epochs_of(log_dir):
    return {path.name: [epoch.epoch for epoch in read_run(path).epochs] for path in sorted(log_dir.iterdir())}


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text("utf-8"))


# ---- The rule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "start", "expected"),
    [
        ((2, 5), 3, "run-0"),
        ((2, 5), 6, "run-1"),
        ((2, 3), 3, "run-0"),  # The one that stopped before, rather than one killed before its backup.
        ((1, 3), 3, "run-1"),
        ((2, 2), 3, None),
        ((2, 6), 4, "run-0"),  # Backed up, and killed before it was logged.
        ((2, 9), 7, None),  # One has ended long before, and the other is ahead.
        ((2, 3), 4, "run-1"),
    ],
)
def test_the_run_that_stopped_right_before_goes_on(tmp_path, last, start, expected):
    for number, epoch in enumerate(last):
        logged(tmp_path, name=f"run-{number}", epochs=range(epoch + 1))
    assert chosen(tmp_path, start) == expected


@pytest.mark.parametrize(
    ("epochs", "start", "goes_on"),
    [
        ((0, 5), 5, True),
        ((0, 5), 6, True),
        ((0, 5), 8, True),
        ((0, 5), 10, True),
        ((0, 5), 15, True),  # Epoch 10 is missing.
        ((0, 5), 16, False),
        ((0, 5), 4, False),
        ((7,), 8, True),  # The first of a fit is logged in any case.
        ((0, 5, 7), 8, True),  # As is the last one.
        ((7,), 10, True),
    ],
)
def test_epochs_that_are_passed_over_were_seen(tmp_path, epochs, start, goes_on):
    logged(tmp_path, epochs=epochs, freq=5)
    assert (chosen(tmp_path, start) == "gradcam") == goes_on


def test_a_record_without_freq_has_that_of_the_logger(tmp_path):
    logged(tmp_path, epochs=(0, 5), freq=None)
    assert chosen(tmp_path, 9, freq=5) == "gradcam"
    assert chosen(tmp_path, 9, freq=1) is None


def test_twenty_seeds_in_one_folder(tmp_path):
    for seed in range(20):
        logged(tmp_path, name=f"gradcam-{seed + 1}", epochs=[seed])
    for seed in range(20):
        assert chosen(tmp_path, seed + 1) == f"gradcam-{seed + 1}"


def test_what_is_said_of_runs_that_do_not_go_on(tmp_path):
    for name in ("gradcam", "gradcam-2"):
        logged(tmp_path, name=name, epochs=range(3))
    config = make_config(tmp_path, freq=1, **STABLE)
    place = choose_directory(tmp_path, config, 3)
    assert place.is_doubtful
    assert "2 runs fit a start in epoch 3 alike" in place.said
    assert "run='gradcam' goes on with the one that logged epoch 2 last" in place.said
    assert "run='gradcam-2' goes on" in place.said
    place = choose_directory(tmp_path, config, 7)
    assert place.is_doubtful
    assert "no run of these settings stopped right before epoch 7" in place.said
    place = choose_directory(tmp_path, config, 3, "gradcam-2")
    assert (place.directory.name, place.last_step, place.said) == ("gradcam-2", 2, "")


@pytest.mark.parametrize("change", [{"architecture": "b2"}, {"model_label": "net"}, {"layer_place": "Conv2D 1"}])
def test_another_architecture_is_another_run(tmp_path, change):
    logged(tmp_path, epochs=range(3))
    assert chosen(tmp_path, 3, **change) is None
    with pytest.raises(ValueError, match=r"same model and settings.*differs in (architecture|model_name|layer)\."):
        chosen(tmp_path, 3, "gradcam", **change)
    # What Keras has numbered is none.
    assert chosen(tmp_path, 3, model_name="sequential_7", layer_name="conv2d_12") == "gradcam"


def test_a_record_of_an_earlier_version_is_known_by_names(tmp_path):
    logged(tmp_path, epochs=range(3), freq=None, architecture="", model_label="", layer_place="")
    assert chosen(tmp_path, 3) == "gradcam"
    assert chosen(tmp_path, 3, layer_name="other") is None


def test_a_run_is_named_by_its_id_its_folder_or_the_name_of_that(tmp_path, monkeypatch):
    logs, moved = tmp_path / "logs", tmp_path / "moved"
    run_id = logged(logs, epochs=range(3))
    logged(logs, name="gradcam-2", epochs=range(9))
    for name in (run_id, "gradcam", logs / "gradcam", str(logs / "gradcam")):
        for start in (0, 1, 3, 50):
            assert chosen(logs, start, name) == "gradcam"
    assert choose_directory(logs, make_config(logs, **STABLE), 0, "gradcam").offset == 3
    shutil.copytree(logs / "gradcam", moved)
    assert choose_directory(logs, make_config(logs, **STABLE), 3, moved).directory == moved
    with pytest.raises(ValueError, match=r"must name a stored run.*'seed 0', but there are gradcam-2, gradcam\."):
        chosen(logs, 3, "seed 0")
    with pytest.raises(ValueError, match=r"holds no run\. Leave it out"):
        choose_directory(tmp_path / "new", make_config(logs), 3, "seed 0")
    shutil.copytree(logs / "gradcam", logs / "copy")
    with pytest.raises(ValueError, match=r"must name one run.*id-of-gradcam.*Give one of these paths"):
        chosen(logs, 3, run_id)
    # Without a name the copy is not taken for the run.
    assert chosen(logs, 3) == "gradcam"
    monkeypatch.chdir(tmp_path)
    assert chosen(logs, 3, "moved") is None


def test_a_folder_that_was_renamed_is_the_same_run(tmp_path):
    logged(tmp_path, name="seed 0", epochs=range(3))
    (tmp_path / "latest").symlink_to(tmp_path / "seed 0")
    assert choose_directory(tmp_path, make_config(tmp_path, **STABLE), 3).directory.resolve().name == "seed 0"


def test_trackers_say_which_run_goes_on(tmp_path):
    logged(tmp_path, epochs=range(3), tracked=("wandb:1",))
    run_id = logged(tmp_path, name="gradcam-2", epochs=range(3))
    assert chosen(tmp_path, 3, held=(run_id, "wandb:7")) == "gradcam-2"
    assert chosen(tmp_path, 9, held=("", "wandb:1")) == "gradcam"
    # Its record is elsewhere: neither of these is it.
    place = choose_directory(tmp_path, make_config(tmp_path, **STABLE), 3, None, ("gone", "wandb:7"))
    assert (place.directory.name, place.run_id) == ("gradcam-3", "gone")
    assert chosen(tmp_path, 0, held=(run_id,)) is None


# ---- Fits --------------------------------------------------------------------------------------------------


def test_two_seeds_that_are_killed_by_turns(tmp_path):
    def train(seed, epochs, start=0):
        keras.utils.set_random_seed(seed)
        model = tiny_model()
        logger = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path)
        fit(logger, model=model, epochs=epochs, initial_epoch=start)
        return logger.directory.name

    names = [train(0, 2), train(1, 4), train(0, 5, 2), train(1, 7, 4)]
    assert names == ["gradcam", "gradcam-2", "gradcam", "gradcam-2"]
    assert epochs_of(tmp_path) == {"gradcam": list(range(5)), "gradcam-2": list(range(7))}
    run_ids = {manifest_of(path)["run_id"] for path in tmp_path.iterdir()}
    assert len(run_ids) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", run_id) for run_id in run_ids)


def test_a_doubtful_start_is_told_and_named(tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_cam_callbacks")
    model = unnamed()
    for _ in range(2):
        fit(GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path), model=model, epochs=2)
    logger = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path)
    with pytest.warns(RuntimeWarning, match="2 runs fit a start in epoch 2 alike.*run='gradcam-2' goes on") as told:
        fit(logger, model=unnamed(), epochs=3, initial_epoch=2)
    assert len([one for one in told if "2 runs fit" in str(one.message)]) == 1
    assert "gradcam-3; 2 runs fit a start in epoch 2 alike, so that a new record begins" in caplog.text
    named = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path, run=manifest_of(tmp_path / "gradcam")["run_id"])
    fit(named, model=unnamed(), epochs=3, initial_epoch=2)
    # A second fit of the same model goes on in memory.
    fit(named, model=named.model, epochs=1)
    assert epochs_of(tmp_path) == {"gradcam": [0, 1, 2, 0], "gradcam-2": [0, 1], "gradcam-3": [2]}
    assert [epoch.step for epoch in read_run(tmp_path / "gradcam").epochs] == [0, 1, 2, 3]


def test_a_second_phase_in_another_process_is_named(tmp_path):
    """Head first, then unfrozen, with epochs from 0 again: steps go on."""
    head = unnamed()
    head.layers[0].trainable = False
    fit(GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path), model=head, epochs=2)
    logger = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path, run="gradcam", metrics=["drift"])
    history = fit(logger, model=unnamed(), epochs=2)
    assert [(e.step, e.epoch) for e in read_run(tmp_path).epochs] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert np.isfinite(history["gradcam_drift"]).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"run": 3}, TypeError, "Received: 3 of type int"),
        ({"run": "gradcam", "tracker": None}, ValueError, "needs a tracker that writes.*no tracker"),
        ({"run": "gradcam", "tracker": "memory"}, ValueError, "needs a tracker that writes.*MemoryTracker"),
        ({"run": "", "tracker": "disk"}, ValueError, "must name a stored run"),
        ({"run": "gradcam", "tracker": "disk"}, ValueError, "holds no run"),
    ],
)
@pytest.mark.parametrize("kind", [GradCAMLogger, ActivationLogger])
def test_a_run_that_cannot_go_on_is_refused_before_the_first_batch(tmp_path, settings, error, message, kind):
    model = tiny_model()
    with pytest.raises(error, match=message):
        fit(kind((X, Y), **{"log_dir": tmp_path} | settings), model=model)
    assert model.optimizer.iterations == 0
    assert list(tmp_path.iterdir()) == []


@KERAS_WARNS
def test_a_cell_that_is_run_again_goes_on_in_its_record(tmp_path):
    """The model is built anew with other numbers, by loggers of every kind; one of them is kept."""
    kept = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path / "logs", prefix="kept")
    for stops in (True, False):
        model = unnamed()
        callbacks = [
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            kept,
            HeatmapLogger((X, Y), method="layercam", tracker="disk", log_dir=tmp_path / "logs"),
            ActivationLogger((X, Y), tracker="disk", log_dir=tmp_path / "logs", max_samples=2),
            FilterLogger(model.layers[0], 2, steps=1, tracker="disk", log_dir=tmp_path / "logs"),
        ]
        if stops:
            callbacks.append(Stop(1))
        try:
            fit(*callbacks, model=model, epochs=4)
        except KeyboardInterrupt:
            assert stops
    names = ("activations", "filters", "kept", "layercam")
    assert epochs_of(tmp_path / "logs") == {name: [0, 1, 2, 3] for name in names}
    numbers = read_run(tmp_path / "logs" / "activations").epochs[-1].scalars
    assert set(numbers) == {"Conv2D_1_dead_share", "Conv2D_2_dead_share"}
    assert read_run(tmp_path / "logs" / "filters").sample_keys == ("Conv2D 1",)
    assert manifest_of(tmp_path / "logs" / "kept")["layer_place"] == "Conv2D 2"


class Stop(keras.callbacks.Callback):
    def __init__(self, last):
        super().__init__()
        self.last = last

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.last:
            raise KeyboardInterrupt


def test_two_models_of_one_architecture_differ_in_no_setting(tmp_path):
    for name in ("one", "two"):
        fit(GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path / name), model=unnamed(), epochs=1)
    comparison = compare([tmp_path / "one", tmp_path / "two"])
    assert comparison.differences == {}
    assert "conv2d" not in " ".join(comparison.summary())
    first, second = (manifest_of(path / "gradcam") for path in (tmp_path / "one", tmp_path / "two"))
    assert first["layer"] != second["layer"]


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing:RuntimeWarning")
def test_another_rule_of_the_same_name_is_another_run(tmp_path):
    logger, model = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path), unnamed()
    for target in (lambda y: y[:, 0], lambda y: y[:, 1]):
        logger.target = target
        fit(logger, model=model, epochs=1)
    assert epochs_of(tmp_path) == {"gradcam": [0], "gradcam-2": [0]}
    again = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path, target=lambda outputs: outputs[:, 1])
    fit(again, model=unnamed(), epochs=2, initial_epoch=1)
    assert epochs_of(tmp_path) == {"gradcam": [0], "gradcam-2": [0, 1]}


def test_digests_of_rules():
    def make(k):
        return lambda y: y[:, k]

    calls = []

    def counts(y):
        calls.append(1)
        return y[:, 0]

    assert rules_digest("predicted", [3], None) == ""
    assert rules_digest(make(1)) == rules_digest({"mine": make(1)}) != rules_digest(make(2))
    before = rules_digest(counts)
    counts(np.zeros((1, 1)))
    assert rules_digest(counts) == before


PROCESS = """
import sys, numpy as np, keras
sys.path[:0] = sys.argv[4:]
from fits import X, Y, fit
import test_resuming
from keras_cam_callbacks import GradCAMLogger
for _ in range(int(sys.argv[2])):
    test_resuming.unnamed()
logger = GradCAMLogger((X, Y), tracker="disk", log_dir=sys.argv[1])
start = int(sys.argv[3])
fit(logger, model=test_resuming.unnamed(), epochs=start + 2, initial_epoch=start)
"""


@pytest.mark.slow
def test_three_processes_write_one_record(tmp_path):
    """Each has built something else before."""
    paths = [str(path) for path in (TESTS / "callbacks", TESTS, ROOT)]
    for number in range(3):
        command = [sys.executable, "-c", PROCESS, str(tmp_path), str(number), str(2 * number), *paths]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    assert epochs_of(tmp_path) == {"gradcam": list(range(6))}


# ---- W&B and MLflow ----------------------------------------------------------------------------------------


def test_a_wandb_run_that_is_resumed_goes_on_in_its_record(tmp_path):
    """Offline W&B doesn't know what a run had in its config: the record knows the W&B run."""
    import wandb

    logs = tmp_path / "logs"
    for name in ("first", "other"):
        wandb.init(project="p", id=name)
        fit(GradCAMLogger((X, Y), tracker=["disk", "wandb"], log_dir=logs), model=unnamed(), epochs=2)
        wandb.finish()
    assert manifest_of(logs / "gradcam-2")["tracked"] == ["wandb:other"]
    run = wandb.init(project="p", id="first", resume="must")
    fit(GradCAMLogger((X, Y), tracker=["disk", "wandb"], log_dir=logs), model=unnamed(), epochs=3, initial_epoch=2)
    assert epochs_of(logs) == {"gradcam": [0, 1, 2], "gradcam-2": [0, 1]}
    held = dict(run.config["gradcam"])
    assert held["run"] == manifest_of(logs / "gradcam")["run_id"]
    assert held["layer"] == "Conv2D 2"


@pytest.mark.parametrize("is_own", [True, False])
def test_what_the_config_of_a_wandb_run_holds(tmp_path, is_own):
    """A server hands it back where a run is resumed; people copy it from one run to another."""
    logs = tmp_path / "logs"
    for _ in range(2):
        fit(GradCAMLogger((X, Y), tracker="disk", log_dir=logs), model=unnamed(), epochs=2)
    run = wandb_run()
    run_id = manifest_of(logs / "gradcam-2")["run_id"]
    run.config.update({"gradcam": {"run": run_id, "wandb_run": run.id if is_own else "another"}})
    tracker = WandbTracker(record=False)
    assert tracker.held_run("gradcam") == (run_id if is_own else "", f"wandb:{run.id}")
    assert tracker.held_run("other") == ("", f"wandb:{run.id}")
    (logs / "gradcam").rename(tmp_path / "aside")
    logger = GradCAMLogger((X, Y), tracker=["disk", tracker], log_dir=logs)
    with nullcontext() if is_own else pytest.warns(RuntimeWarning, match="no run of these settings stopped right"):
        fit(logger, model=unnamed(), epochs=9, initial_epoch=8)
    assert (logger.directory.name == "gradcam-2") == is_own


@pytest.mark.slow
def test_an_mlflow_run_that_is_continued_goes_on_in_its_record(tmp_path):
    logs, run_ids = tmp_path / "logs", []
    experiment = mlflow.create_experiment(str(tmp_path), (tmp_path / "mlflow").as_uri())
    for _ in range(2):
        with mlflow.start_run(experiment_id=experiment) as run:
            run_ids.append(run.info.run_id)
            fit(GradCAMLogger((X, Y), tracker=["disk", "mlflow"], log_dir=logs), model=unnamed(), epochs=2)
    tags = mlflow.MlflowClient().get_run(run_ids[0]).data.tags
    assert tags["gradcam.run"] == manifest_of(logs / "gradcam")["run_id"]
    with mlflow.start_run(run_id=run_ids[0]):
        fit(GradCAMLogger((X, Y), tracker=["disk", "mlflow"], log_dir=logs), model=unnamed(), epochs=3, initial_epoch=2)
    trackers = ["disk", MLflowTracker(run_ids[1])]
    fit(GradCAMLogger((X, Y), tracker=trackers, log_dir=logs), model=unnamed(), epochs=3, initial_epoch=2)
    assert epochs_of(logs) == {"gradcam": [0, 1, 2], "gradcam-2": [0, 1, 2]}


def test_a_run_without_a_record_keeps_its_id(tmp_path):
    memory = MemoryTracker()
    logger, model = GradCAMLogger((X, Y), tracker=memory, log_dir=tmp_path), unnamed()
    run_ids = []
    for _ in range(2):
        fit(logger, model=model, epochs=1)
        run_ids.append(memory.config.run_id)
    fit(logger, model=unnamed(), epochs=1)
    assert run_ids[0] == run_ids[1] != memory.config.run_id
    assert not Path(tmp_path / "gradcam").exists()
