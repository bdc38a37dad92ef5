import csv
import inspect

import keras
import numpy as np
import pytest
from fits import NUMBERS, SAMPLES, X, Y, before_epoch, compiled, fit, throw, tiny_model
from models import CLASSES, SHAPE, functional

from keras_cam_callbacks import (
    CAMLogger,
    GradCAMLogger,
    HeatmapLogger,
    MemoryTracker,
    Overlay,
    TensorBoardTracker,
    build_cam_model,
    explain,
    read_run,
)

# What Keras does where it reads and writes weights, with numpy 2.
from_keras = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture
def memory():
    return MemoryTracker()


@pytest.fixture
def logger(memory, tmp_path):
    """Grad-CAM of all samples into memory and onto the disk."""
    return GradCAMLogger((X, Y), tracker=["disk", memory], log_dir=tmp_path / "logs", metrics="all")


def steps(memory):
    return [(record.step, record.epoch) for record in memory.records]


def positive(heatmaps):
    return np.maximum(heatmaps, 0).reshape(len(heatmaps), -1).astype(np.float64)


def drift_by_numpy(heatmaps, reference):
    """Mean of 1 - r over the samples."""
    pairs = zip(positive(heatmaps), positive(reference), strict=True)
    return np.mean([1 - np.corrcoef(*pair)[0, 1] for pair in pairs])


# ---- Keras' logs -------------------------------------------------------------------------------------------


def test_numbers_go_to_history_and_csv(tmp_path, logger):
    probabilities = []
    predicts = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: probabilities.append(logger.model.predict(X, verbose=0))
    )
    history = fit(logger, predicts, keras.callbacks.CSVLogger(tmp_path / "log.csv"))

    assert sorted(history) == ["accuracy", *NUMBERS, "loss"]
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in NUMBERS:
        assert [float(row[name]) for row in rows] == history[name]

    np.testing.assert_allclose(history["gradcam_confidence"], [p.max(axis=1).mean() for p in probabilities], rtol=1e-5)
    maps = [epoch.heatmaps() for epoch in read_run(tmp_path / "logs").epochs]
    np.testing.assert_allclose(history["gradcam_drift"][1:], list(map(drift_by_numpy, maps[1:], maps)), atol=1e-9)
    areas = [np.mean([(p > p.max() / 2).mean() for p in positive(m)]) for m in maps]
    np.testing.assert_allclose(history["gradcam_area"], areas, rtol=1e-12)
    assert min(history["gradcam_drift"][1:]) > 1e-6
    assert history["gradcam_drift"][0] == np.inf
    assert history["gradcam_degenerate"] == [0, 0, 0]


def test_confidence_of_true_class(memory, tmp_path):
    history = fit(HeatmapLogger((X, Y), method="layercam", target="true", tracker=None), epochs=1)
    expected = tiny_model()
    fit(model=expected, epochs=1)
    probabilities = expected.predict(X, verbose=0)[np.arange(SAMPLES), Y]
    np.testing.assert_allclose(history["layercam_confidence"], [probabilities.mean()], rtol=1e-5)


@from_keras
def test_early_stopping_and_checkpoint_on_drift(tmp_path):
    """Maps that turn by known angles: their correlation is the cosine. The first epoch has no drift."""
    angles = np.cumsum([0, 0.5, 0.3, 0.1, 0.4, 0.2, 0.2])
    checkers = np.indices((10, 14))
    u, v = (-1.0) ** checkers[0], (-1.0) ** checkers[1]
    maps = iter([np.tile(2 + np.cos(a) * u + np.sin(a) * v, (SAMPLES, 1, 1)) for a in angles])
    turning = HeatmapLogger(
        (X, Y), method=lambda activations, gradients: next(maps), tracker=None, prefix="turning", metrics=["drift"]
    )
    settings = {"monitor": "turning_drift", "mode": "min"}
    stopping = keras.callbacks.EarlyStopping(**settings, patience=2)
    saving = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", **settings, save_best_only=True, save_weights_only=True
    )
    history = fit(turning, stopping, saving, epochs=7)
    np.testing.assert_allclose(history["turning_drift"][1:], 1 - np.cos([0.5, 0.3, 0.1, 0.4, 0.2]), atol=1e-6)
    assert stopping.best_epoch == 3
    # The file names count from 1. To Keras 3.5 infinity is never a best value, to later ones the first value always is.
    *first, second, third, fourth = sorted(path.name[0] for path in tmp_path.glob("*.h5"))
    assert (second, third, fourth) == ("2", "3", "4")
    assert first in ([], ["1"])


def test_early_stopping_on_confidence():
    stopping = keras.callbacks.EarlyStopping("gradcam_confidence", mode="max", baseline=2, patience=2)
    assert len(fit(GradCAMLogger((X, Y), tracker=None), stopping, epochs=5)["gradcam_confidence"]) == 2


# ---- Epochs, steps and runs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freq", "settings", "epochs"),
    [
        (2, {"epochs": 4}, [0, 2, 3]),
        (2, {"epochs": 5}, [0, 2, 4]),
        (9, {"epochs": 3}, [0, 2]),
        (3, {"epochs": 6, "initial_epoch": 2}, [2, 3, 5]),
    ],
)
def test_freq_keeps_first_and_last(memory, tmp_path, freq, settings, epochs):
    logger = GradCAMLogger(X, tracker=memory, log_dir=tmp_path, freq=freq, metrics="all")
    history = fit(logger, **settings)
    assert steps(memory) == [(epoch, epoch) for epoch in epochs]
    assert [len(history[name]) for name in NUMBERS] == [len(epochs)] * len(NUMBERS)


@pytest.mark.parametrize("ours_first", [True, False])
def test_last_epoch_is_logged_when_another_callback_stops(memory, tmp_path, ours_first):
    logger = GradCAMLogger(X, tracker=memory, log_dir=tmp_path, freq=5)
    # The loss never grows so much.
    stopping = keras.callbacks.EarlyStopping("loss", mode="max", min_delta=9, patience=1)
    callbacks = [logger, stopping] if ours_first else [stopping, logger]
    history = fit(*callbacks, epochs=9)
    assert len(history["loss"]) == 2
    # Placed before ours it has told the model in time for the logs.
    assert len(history["gradcam_area"]) == (1 if ours_first else 2)
    assert steps(memory) == [(0, 0), (1, 1)]
    np.testing.assert_array_equal(memory.records[1].heatmaps, logger.explain().heatmaps)


def test_two_fits_are_one_run(memory, logger, tmp_path):
    model = tiny_model()
    fit(logger, model=model, epochs=2)
    history = fit(logger, model=model, epochs=2)
    fit(logger, model=model, epochs=3, initial_epoch=2)
    assert steps(memory) == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 2)]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["gradcam"]
    stored = read_run(logger.directory)
    assert [(epoch.step, epoch.epoch) for epoch in stored.epochs] == steps(memory)
    maps = [record.heatmaps for record in memory.records]
    for epoch, expected in zip(stored.epochs, maps, strict=True):
        np.testing.assert_array_equal(epoch.heatmaps(), expected)
    np.testing.assert_allclose(history["gradcam_drift"][0], drift_by_numpy(maps[2], maps[1]), atol=1e-9)


def test_fit_is_run_again_after_an_error(memory, logger, tmp_path):
    with pytest.raises(OSError, match="disk of the data"):
        fit(logger, before_epoch(2, lambda: throw(OSError("disk of the data"))))
    assert len(read_run(tmp_path / "logs").epochs) == 2
    fit(logger)
    assert steps(memory) == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 2)]
    assert [epoch.step for epoch in read_run(tmp_path / "logs").epochs] == [0, 1, 2, 3, 4]


def test_another_model_is_another_run(memory, logger, tmp_path):
    """Its maps have another size, and are not compared with those of the first."""
    bare = GradCAMLogger(X, tracker=None, prefix="bare", metrics="all")
    fit(logger, bare, epochs=1)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(4, 5, strides=2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ],
        name="other",
    )
    history = fit(logger, bare, model=compiled(model), epochs=2)
    assert [record.heatmaps.shape[1:] for record in memory.records] == [(10, 14), (4, 6), (4, 6)]
    for name in ("gradcam_drift", "bare_drift"):
        assert np.isfinite(history[name]).tolist() == [False, True]
    runs = [read_run(tmp_path / "logs" / name) for name in ("gradcam", "gradcam-2")]
    assert [run.manifest["model_name"] for run in runs] == ["functional", "other"]
    assert [len(run.epochs) for run in runs] == [1, 2]


# ---- Several callbacks, and no fit at all ------------------------------------------------------------------


def test_two_callbacks_in_one_fit(tmp_path):
    """For a GAP + Dense head whose input is the explained layer, CAM is Grad-CAM times h * w."""
    base = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(5, 3, activation="relu")], name="base")
    model = compiled(build_cam_model(base, CLASSES, trainable=True))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.abs(kernel), bias])  # So that all maps have positive parts.
    loggers = [kind((X, Y), log_dir=tmp_path, metrics="all") for kind in (GradCAMLogger, CAMLogger)]
    history = fit(*loggers, model=model, epochs=2)
    assert set(NUMBERS) | {name.replace("gradcam", "cam") for name in NUMBERS} < set(history)
    assert [logger.directory.name for logger in loggers] == ["gradcam", "cam"]
    gradcam, cam = (read_run(logger.directory).epochs for logger in loggers)
    for ours, other in zip(gradcam, cam, strict=True):
        np.testing.assert_allclose(10 * 14 * ours.heatmaps(), other.heatmaps(), rtol=1e-3, atol=1e-5)


def test_two_callbacks_of_one_prefix_are_refused(tmp_path):
    model = tiny_model()
    loggers = [GradCAMLogger(X, layer, log_dir=tmp_path / "logs") for layer in ("conv1", "conv2")]
    with pytest.raises(ValueError, match=r"prefixes that differ\. Received: 'gradcam' twice.*prefix='gradcam_2'"):
        fit(*loggers, model=model)
    assert int(model.optimizer.iterations) == 0
    # One of them alone is fitted twice; then both, told apart.
    for _ in range(2):
        fit(loggers[0], model=model, epochs=1)
    history = fit(loggers[0], GradCAMLogger(X, "conv2", prefix="late", tracker=None), model=model, epochs=1)
    assert {"gradcam_area", "late_area"} < set(history)


def test_outside_fit(memory, logger):
    model = tiny_model()
    logger.set_model(model)
    expected = []
    for epochs in (range(2), range(1)):
        for epoch in epochs:
            model.train_on_batch(X, Y)
            expected.append(explain(model, X).heatmaps)
            logs = {}
            logger.on_epoch_end(epoch, logs)
            assert sorted(logs) == NUMBERS
        logger.on_train_end()
    assert steps(memory) == [(0, 0), (1, 1), (2, 0)]
    for record, heatmaps in zip(memory.records, expected, strict=True):
        np.testing.assert_allclose(record.heatmaps, heatmaps, atol=1e-7)


def test_explain_without_logging(tmp_path):
    logger = GradCAMLogger((X, Y), log_dir=tmp_path / "logs", target="true")
    with pytest.raises(ValueError, match=r"must be a model.*Received: none\. Call set_model"):
        logger.explain()
    model, other = tiny_model(), functional().model
    for found, expected in (
        (logger.explain(model), explain(model, (X, Y), target="true")),
        (logger.explain(other), explain(other, (X, Y), target="true")),
    ):
        np.testing.assert_array_equal(found.heatmaps, expected.heatmaps)
        assert [s.caption for s in found.samples()] == [s.caption for s in expected.samples()]
    logger.set_model(other)
    np.testing.assert_array_equal(logger.explain().heatmaps, logger.explain(other).heatmaps)
    assert not (tmp_path / "logs").exists()


# ---- Settings ----------------------------------------------------------------------------------------------


def test_signatures():
    every = list(inspect.signature(HeatmapLogger).parameters)
    assert every[:3] == ["validation_data", "layer_name", "method"]
    for kind in (GradCAMLogger, CAMLogger):
        assert list(inspect.signature(kind).parameters) == [name for name in every if name != "method"]
        logger = kind((X, Y), "conv2")
        assert (logger.layer_name, logger.method, logger.prefix) == ("conv2", logger.prefix, logger.method)
        with pytest.raises(TypeError, match="method"):
            kind(X, method="layercam")
    with pytest.raises(TypeError, match="colour"):
        GradCAMLogger(X, colour="red")


def flat_model():
    """Without global average pooling."""
    convolution = keras.layers.Conv2D(2, 3, activation="relu")
    return keras.Sequential(
        [keras.Input(SHAPE), convolution, keras.layers.Flatten(), keras.layers.Dense(CLASSES, activation="softmax")]
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GradCAMLogger(X, tracker="tensorbord"), ValueError, "Received: 'tensorbord'. Did you mean 'tensorb"),
        (lambda: GradCAMLogger(X, tracker=["disk", "wb"]), ValueError, "Received: 'wb'"),
        (lambda: GradCAMLogger(X, tracker=MemoryTracker), TypeError, "start, log, finish"),
        (lambda: HeatmapLogger(X, method="grad_cam"), ValueError, "one of cam, gradcam.*'grad_cam'.*mean 'gradcam'"),
        (lambda: HeatmapLogger(X, method="grad_cam", prefix="a"), ValueError, "one of cam, gradcam.*'grad_cam'"),
        (lambda: GradCAMLogger(X, freq=0), ValueError, "`freq` must be a positive integer, of epochs, or Steps"),
        (lambda: GradCAMLogger(X, freq=1.5), ValueError, "Received: 1.5"),
        (lambda: GradCAMLogger(X, freq=True), ValueError, "Received: True"),
        (lambda: GradCAMLogger(X, on_error="ignore"), ValueError, "'warn' or 'raise'. Received: 'ignore'"),
        (lambda: GradCAMLogger(X, overlay={"alpha": 1}), TypeError, "must be an Overlay, such as.*{'alpha': 1}"),
        (lambda: GradCAMLogger(X, overlay=Overlay("jett")), ValueError, "`colormap` must be.*'jett'.*'jet'"),
        (lambda: GradCAMLogger(X, log_dir=__file__), ValueError, "log_dir must be a folder.*test_heatmaps.py"),
        (lambda: GradCAMLogger(X, tracker="wandb"), ValueError, "no run is active. Call wandb.init"),
        (lambda: GradCAMLogger(X, class_names="ab"), ValueError, "one name for each of the model's 3 cl.*'ab'"),
        (lambda: GradCAMLogger(X, class_names=["a", "b"]), ValueError, "each of the model's 3.*'a', 'b'"),
        (lambda: GradCAMLogger(X, "conv3"), ValueError, "Received: 'conv3'.*conv2"),
        (lambda: GradCAMLogger(X, target=3), ValueError, "between 0 and 2.*3"),
        (lambda: GradCAMLogger(X, target="true"), ValueError, "needs class labels"),
        (lambda: GradCAMLogger(X[:, :9]), ValueError, r"shape \(12, 16, 3\).*Received: \(9, 16, 3\)"),
        (lambda: GradCAMLogger(X, batch_size=0), ValueError, "`batch_size` must be a positive"),
    ],
)
def test_wrong_settings_are_told_before_the_first_batch(tmp_path, monkeypatch, make, error, message):
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    with pytest.raises(error, match=message):
        fit(make(), model=model)
    assert int(model.optimizer.iterations) == 0


def test_cam_needs_its_head(tmp_path):
    model = compiled(flat_model())
    with pytest.raises(ValueError, match=r"CAM needs a model that ends in Global.*Received.*build_cam_model\(base"):
        fit(CAMLogger(X, log_dir=tmp_path), model=model)
    assert int(model.optimizer.iterations) == 0


def test_a_setting_can_be_corrected_after_the_error(memory, tmp_path):
    (tmp_path / "file").touch()
    tensorboard = TensorBoardTracker(tmp_path / "file" / "events")
    logger = GradCAMLogger(X, tracker=[memory, tensorboard], log_dir=tmp_path / "logs")
    with pytest.raises(OSError, match="events"):
        fit(logger, epochs=1)
    logger.tracker = memory
    fit(logger, epochs=1)
    assert steps(memory) == [(0, 0)]
