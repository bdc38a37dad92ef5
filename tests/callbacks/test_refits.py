"""One callback in several fits: what goes on, what begins anew, what may be changed in between; and copies of it."""

import copy
import logging
import pickle
import threading

import numpy as np
import pytest
from backends import tf
from fits import X, Y, fit, new_model, tiny_model

from keras_cam_callbacks import (
    ActivationLogger,
    GradCAMLogger,
    HeatmapLogger,
    MemoryTracker,
    SmoothGrad,
    TensorBoardTracker,
    read_run,
)

# By class, so that the first samples are not the ones of select="balanced".
SORTED = X[np.argsort(Y, kind="stable")], np.sort(Y)


def steps(memory):
    return [(record.step, record.epoch) for record in memory.records]


def folders(log_dir):
    """How many epochs each run has."""
    return {path.name: len(read_run(path).epochs) for path in sorted(log_dir.iterdir())}


# ---- What begins another run -------------------------------------------------------------------------------


def test_a_model_that_was_built_again_is_another_run(tmp_path):
    """As when the cells of a notebook are run again, but for the one with the callback."""
    memory = MemoryTracker()
    logger = GradCAMLogger(X, tracker=["disk", memory], log_dir=tmp_path, metrics="all")
    first, second = new_model(), new_model()
    assert first.name == second.name
    fit(logger, model=first, epochs=2)
    history = fit(logger, model=second, epochs=2)
    assert np.isfinite(history["gradcam_drift"]).tolist() == [False, True]
    assert steps(memory) == [(0, 0), (1, 1)] * 2
    assert folders(tmp_path) == {"gradcam": 2, "gradcam-2": 2}
    # Compiled anew, with other layers frozen, it is the same model.
    second.layers[1].trainable = False
    second.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    fit(logger, model=second, epochs=1)
    assert folders(tmp_path) == {"gradcam": 2, "gradcam-2": 3}


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("validation_data", (X[3:8], Y[3:8]), 5),
        ("validation_data", (*SORTED[:1], (SORTED[1] + 1) % 3), 9),
        ("max_samples", 7, 7),
        ("select", "balanced", 9),
        ("sample_keys", [f"patient {i}" for i in range(9)], 9),
        ("display", 1 - SORTED[0], 9),
        ("target", "true", 9),
        ("method", "layercam", 9),
        ("method", SmoothGrad(samples=2), 9),
        ("layer_name", "conv1", 9),
        ("prefix", "other", 9),
    ],
)
def test_a_setting_that_is_changed_counts_in_the_next_fit(tmp_path, name, value, count):
    memory, model = MemoryTracker(), tiny_model()
    logger = GradCAMLogger(SORTED, tracker=["disk", memory], log_dir=tmp_path, max_samples=9)
    fit(logger, model=model, epochs=1)
    setattr(logger, name, value)
    fit(logger, model=model, epochs=1)
    second = "other" if name == "prefix" else "gradcam-2"
    assert folders(tmp_path) == {"gradcam": 1, second: 1}
    assert logger.directory == tmp_path / second
    assert steps(memory) == [(0, 0)] * 2
    assert np.isnan(memory.records[1].scalars["drift"])

    expected = MemoryTracker()
    settings = {"validation_data": SORTED, "max_samples": 9, "method": "gradcam", "prefix": "gradcam"} | {name: value}
    fresh = HeatmapLogger(**settings, tracker=expected)
    fresh.set_model(model)
    fresh.on_epoch_end(0)
    record, other = memory.records[1], expected.records[0]
    assert len(record.samples) == count
    assert record.samples == other.samples
    np.testing.assert_array_equal(record.heatmaps, other.heatmaps)
    np.testing.assert_array_equal(memory.config.display, expected.config.display)
    assert memory.config.labels == expected.config.labels


def test_another_log_dir_gets_another_run(tmp_path):
    logger, model = GradCAMLogger(X, tracker="disk", log_dir=tmp_path / "one"), tiny_model()
    for name in ("one", "two"):
        logger.log_dir = str(tmp_path / name)
        fit(logger, model=model, epochs=1)
    assert folders(tmp_path / "one") == folders(tmp_path / "two") == {"gradcam": 1}


def test_data_that_can_be_read_once_is_read_once(tmp_path):
    """Settings that are set again to what they were are no change."""
    logger, model = GradCAMLogger(iter([(X, Y)]), tracker="disk", log_dir=tmp_path, max_samples=10), tiny_model()
    for _ in range(2):
        fit(logger, model=model, epochs=1)
        logger.max_samples, logger.select = int("10"), "".join(["fir", "st"])
    assert folders(tmp_path) == {"gradcam": 2}


# ---- Trackers ----------------------------------------------------------------------------------------------


def test_another_tracker_of_the_same_type_is_used():
    first, second, model = MemoryTracker(), MemoryTracker(), tiny_model()
    logger = GradCAMLogger(X, tracker=first)
    fit(logger, model=model, epochs=2)
    logger.tracker = second
    fit(logger, model=model, epochs=1)
    assert (steps(first), steps(second)) == ([(0, 0), (1, 1)], [(2, 0)])
    assert logger.trackers == (second,)


def test_trackers_made_from_names_can_be_reached_and_go_on():
    logger, model = GradCAMLogger(X, tracker="memory"), tiny_model()
    (memory,) = logger.trackers
    for tracker in ("memory", None, ["memory"]):
        logger.tracker = tracker
        fit(logger, model=model, epochs=1)
    assert steps(memory) == [(0, 0), (2, 0)]
    assert logger.trackers == (memory,)
    with pytest.raises(AttributeError, match="trackers"):
        logger.trackers = ()


def test_the_disk_comes_later_and_gets_a_folder_of_its_own(tmp_path):
    """Not that of another run of the same name, which is no part of this one."""
    fit(GradCAMLogger(X, tracker="disk", log_dir=tmp_path), epochs=2)
    logger, model = GradCAMLogger(X, tracker="memory", log_dir=tmp_path), tiny_model()
    fit(logger, model=model, epochs=2)
    assert logger.directory is None
    logger.tracker = ["memory", "disk"]
    fit(logger, model=model, epochs=3, initial_epoch=2)
    assert folders(tmp_path) == {"gradcam": 2, "gradcam-2": 1}
    assert [(epoch.step, epoch.epoch) for epoch in read_run(logger.directory).epochs] == [(2, 2)]


def test_tensorboard_elsewhere_leaves_no_folder_here(tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_cam_callbacks")
    events, logs = tmp_path / "events", tmp_path / "logs"
    logger, model = GradCAMLogger(X, tracker=TensorBoardTracker(events), log_dir=logs), tiny_model()
    fit(logger, model=model, epochs=1)
    assert logger.directory is None
    assert [path.name for path in tmp_path.iterdir()] == ["events"]
    assert "; TensorBoardTracker" in caplog.text
    assert str(logs) not in caplog.text
    logger.tracker = ["disk", logger.tracker]
    fit(logger, model=model, epochs=1)
    assert f"; DiskTracker in {logs / 'gradcam'}; TensorBoardTracker" in caplog.text
    assert list((logs / "gradcam").glob("events.*")) == []


# ---- Starts that fail --------------------------------------------------------------------------------------


def test_the_folder_of_a_start_that_failed_is_used(tmp_path):
    (tmp_path / "file").touch()
    tensorboard = TensorBoardTracker(tmp_path / "file" / "events")
    logger, model = GradCAMLogger(X, tracker=["disk", tensorboard], log_dir=tmp_path / "logs"), tiny_model()
    with pytest.raises(OSError, match="events"):
        fit(logger, model=model)
    logger.tracker = "disk"
    fit(logger, model=model, epochs=1)
    assert folders(tmp_path / "logs") == {"gradcam": 1}


def test_a_training_loop_is_told_in_each_epoch_until_the_setting_is_corrected():
    logger = GradCAMLogger(X, tracker="wandb")
    logger.set_model(tiny_model())
    for epoch in range(2):
        with pytest.raises(ValueError, match="no run is active"):
            logger.on_epoch_end(epoch)
    logger.tracker = "memory"
    logger.on_epoch_end(2)
    assert steps(logger.trackers[0]) == [(2, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tracker": ["disk", ["wb"]]}, "Received: 'wb'"),
        ({"method": lambda activations, gradients: activations[..., 0]}, "needs a `prefix`.*<lambda>.*my_method_drift"),
    ],
)
def test_wrong_settings_are_told_when_the_callback_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        HeatmapLogger(X, **settings)


# ---- Copies ------------------------------------------------------------------------------------------------


class Locked:
    """Batches from a place of which there is but one, so that it can't be copied."""

    def __init__(self):
        self.lock = threading.Lock()

    def __iter__(self):
        with self.lock:
            yield from [(X[:5], Y[:5]), (X[5:], Y[5:])]


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    "make_data", [lambda: (X, Y), Locked, lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(5)]
)
def test_copies_log_runs_of_their_own(tmp_path, make_data, fitted):
    """Keras Tuner copies callbacks for each trial."""
    memory, data, model = MemoryTracker(), make_data(), tiny_model()
    logger = GradCAMLogger(data, tracker=["disk", "tensorboard", memory], log_dir=tmp_path)
    if fitted:
        fit(logger, model=model, epochs=1)
    copied = copy.deepcopy(logger)
    assert type(copied) is GradCAMLogger
    assert copied.validation_data is data
    assert copied.directory is None
    for one in (copied, logger, copied):
        fit(one, model=model, epochs=1)
    ours, its = ("gradcam", "gradcam-2") if fitted else ("gradcam-2", "gradcam")
    assert folders(tmp_path) == {ours: 1 + fitted, its: 2}
    assert (logger.directory, copied.directory) == (tmp_path / ours, tmp_path / its)
    assert len(memory.records) == 3 + fitted
    assert {record.samples[0].fingerprint for record in memory.records} == {memory.records[0].samples[0].fingerprint}


def test_a_logger_is_pickled_after_a_fit(tmp_path):
    """As where settings are kept, or sent to another process: without the run, and without the model."""
    model = tiny_model()
    logger = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path, prefix="mine", metrics=["drift"])
    fit(logger, model=model)
    data = pickle.dumps(logger)
    again = pickle.loads(data)
    assert again.directory is None
    assert (again.prefix, again.metrics, again.log_dir) == ("mine", ["drift"], tmp_path)
    fit(again, model=tiny_model())
    fit(logger, model=model)
    assert (logger.directory.name, again.directory.name) == ("mine", "mine-2")
    features = ActivationLogger((X, Y), tracker="disk", log_dir=tmp_path)
    fit(features, model=model)
    fit(pickle.loads(pickle.dumps(features)), model=tiny_model())
    assert (tmp_path / "activations-2").is_dir()
