"""The loggers of channels and patterns inside `fit`, and what trackers make of their records."""

import copy
import io
from pathlib import Path

import keras
import numpy as np
import pytest
from fits import X, Y, after_epoch, compiled, fit, tiny_model
from keras import layers
from models import SHAPE, functional, images, in_mixed_precision, nested_twice
from PIL import Image
from tracker_logs import read_tensors
from wandb_log import read_log

from keras_cam_callbacks import (
    ActivationLogger,
    FilterLogger,
    GradCAMLogger,
    MemoryTracker,
    activation_grids,
    filter_patterns,
    read_run,
)
from keras_cam_callbacks.callbacks.activations import metric_names

NAMES = ["ant", "bee", "cow"]
QUICK = {"steps": 3, "filters": 3}


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


# ---- Activations -------------------------------------------------------------------------------------------


def test_records_of_activations(tmp_path):
    memory = MemoryTracker()
    logger = ActivationLogger(
        (X, Y), tracker=memory, log_dir=tmp_path, max_samples=2, class_names=NAMES, image_format="png"
    )
    model, seen = tiny_model(), []
    look = after_epoch(1, lambda: seen.append(activation_grids(model, (X, Y), max_samples=2)))
    history = fit(logger, look, model=model, epochs=2)
    config = memory.config
    keys = tuple(f"sample_0{i}/{layer}" for i in range(2) for layer in ("conv1", "conv2", "pool"))
    assert config.sample_keys == keys
    assert (config.method, config.layer_name, config.target) == ("activations", "conv1, conv2, pool", "")
    assert config.labels == tuple(np.repeat(Y[:2], 3))
    assert config.fingerprints[0] == config.fingerprints[2] != config.fingerprints[3]
    assert config.overlay == {"colormap": "viridis", "size": 1024, "image_format": "png"}
    assert [(record.step, record.heatmaps) for record in memory.records] == [(0, None), (1, None)]
    record, (grids,) = memory.records[1], seen
    assert sorted(record.scalars) == ["conv1_dead_share", "conv2_dead_share", "pool_dead_share"]
    for layer, grid in grids.items():
        assert record.scalars[f"{layer}_dead_share"] == grid.dead_share
        assert history[f"activations_{layer}_dead_share"][1] == grid.dead_share
    for i, (sample, picture, data) in enumerate(zip(record.samples, record.overlays, record.encoded, strict=True)):
        n, layer = divmod(i, 3)
        grid = grids[("conv1", "conv2", "pool")[layer]]
        drawn = grid.pictures()[n]
        assert sample.key == keys[i]
        assert sample.caption == grid.captions(NAMES)[n]
        assert sample.caption.endswith(f"true {NAMES[Y[n]]}")
        np.testing.assert_array_equal(picture[: drawn.shape[0], : drawn.shape[1]], drawn)
        assert picture.shape[0] > drawn.shape[0]
        np.testing.assert_array_equal(opened(data), picture)
    # The pictures change with the weights, but not their sizes.
    sizes = {tuple(picture.shape for picture in each.overlays) for each in memory.records}
    assert len(sizes) == 1
    assert not np.array_equal(memory.records[0].overlays[0], record.overlays[0])


def test_a_dead_channel_in_history():
    model = tiny_model()
    kernel, _ = model.get_layer("conv1").get_weights()
    model.get_layer("conv1").set_weights([np.abs(kernel), np.float32([0, -1000, 0, -1000])])
    history = fit(ActivationLogger(X, "conv1", tracker=None, max_samples=12), model=model, epochs=2)
    assert history["activations_conv1_dead_share"] == [0.5, 0.5]


def test_a_layer_without_life_is_said_once():
    model = tiny_model()
    kernel, bias = model.get_layer("conv1").get_weights()
    model.get_layer("conv1").set_weights([kernel, bias - 1000])
    logger = ActivationLogger(X, ["conv1"], tracker=None)
    with pytest.warns(RuntimeWarning, match="All channels of conv1 are dead in epoch 0") as caught:
        history = fit(logger, model=model, epochs=3)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert history["activations_conv1_dead_share"] == [1, 1, 1]
    with pytest.warns(RuntimeWarning, match="All channels of conv1 are dead in epoch 0") as caught:
        fit(logger, model=model, epochs=2)  # Another fit says it again.
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1


def test_no_retrace_freq_and_a_second_fit(tmp_path):
    memory, model, kept = MemoryTracker(), tiny_model(), []
    logger = ActivationLogger(X, tracker=memory, log_dir=tmp_path, max_samples=1, freq=2)
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(logger._source._layers.traces))
    fit(logger, keep, model=model, epochs=4)
    assert kept == [1] * 4
    fit(logger, model=model, epochs=1)
    assert [(record.step, record.epoch) for record in memory.records] == [(0, 0), (2, 2), (3, 3), (4, 0)]
    assert copy.deepcopy(logger).style is logger.style


def test_names_of_metrics():
    names = metric_names(["a/b_c", "a_b/c", "conv 1", "x.y-z", "a/b/c"])
    assert list(names.values()) == ["a_b_c", "a_b_c_2", "conv_1", "x_y_z", "a_b_c_3"]


@pytest.mark.parametrize("image_format", ["jpg", "png"])
@pytest.mark.slow
def test_disk_tensorboard_and_wandb_read_back(tmp_path, image_format):
    import wandb

    model = compiled(nested_twice().model)
    trackers, wide = ["disk", "tensorboard", "wandb", memory := MemoryTracker()], {"image_format": image_format}
    run = wandb.init(project="features")
    shown = ActivationLogger(
        (X, Y),
        ["conv1", "middle/inner/pool"],
        tracker=trackers,
        log_dir=tmp_path,
        max_samples=2,
        **wide,
    )
    learnt = FilterLogger("conv2", [4, 0], steps=2, tracker=trackers[:3], log_dir=tmp_path, **wide)
    fit(shown, learnt, GradCAMLogger(X, tracker="wandb"), model=model, epochs=2)
    log_dir = Path(run.dir).parent
    wandb.finish()
    wandb.teardown()
    keys = [f"sample_0{i}/middle/{layer}" for i in range(2) for layer in ("conv1", "inner/pool")]

    stored = read_run(tmp_path / "activations")
    assert list(stored.sample_keys) == keys
    assert [epoch.step for epoch in stored.epochs] == [0, 1]
    assert len(stored.image_files) == 4
    events, log = read_tensors(tmp_path / "activations"), read_log(log_dir)
    rows = log.rows_with("activations/epoch")
    for epoch, record, row in zip(stored.epochs, memory.records, rows, strict=True):
        assert epoch.scalars == record.scalars
        assert sorted(epoch.scalars) == ["middle_conv1_dead_share", "middle_inner_pool_dead_share"]
        assert epoch.captions == tuple(sample.caption for sample in record.samples)
        assert "heatmaps" not in epoch.arrays()
        with pytest.raises(ValueError, match="it has no heatmaps"):
            epoch.heatmaps()
        assert epoch.encoded() == record.encoded
        for key, picture, data in zip(keys, epoch.overlays(), record.encoded, strict=True):
            assert picture.shape == opened(data).shape
            step, (_, _, blob) = events[f"activations/{key}"][epoch.step]
            assert (step, blob) == (epoch.step, data)
            assert log.images(row[f"activations/overlays/{key}"]) == [data]
            assert row[f"activations/overlays/{key}"]["captions"] == [record.samples[keys.index(key)].caption]
        for name, value in epoch.scalars.items():
            assert row[f"activations/{name}"] == value
            assert events[f"activations/{name}"][epoch.step] == (epoch.step, pytest.approx(value))
    assert log.config["activations"]["layer"] == "middle/conv1, middle/inner/pool"

    stored = read_run(tmp_path / "filters")
    assert stored.sample_keys == ("middle/inner/conv2",)
    events, rows = read_tensors(tmp_path / "filters"), log.rows_with("filters/epoch")
    assert len(stored.epochs) == len(rows) == 2
    for epoch, row in zip(stored.epochs, rows, strict=True):
        (data,) = epoch.encoded()
        assert epoch.sheet_file.read_bytes() == data
        assert events["filters/middle/inner/conv2"][epoch.step][1][2] == data
        assert log.images(row["filters/overlays"]) == [data]
        assert set(epoch.scalars) == {"activation", "dead"}
        assert row["filters/activation"] == pytest.approx(epoch.scalars["activation"])
    assert "heatmaps" not in stored.epochs[0].arrays()


def test_resumed_in_another_process(tmp_path):
    """A logger of the same settings goes on in the folder of the one before."""
    model = tiny_model()
    for epochs, initial in ((2, 0), (4, 2)):
        loggers = [
            ActivationLogger(X, "conv1", tracker="disk", log_dir=tmp_path, max_samples=1),
            FilterLogger("conv2", **QUICK, tracker="disk", log_dir=tmp_path),
        ]
        fit(*loggers, model=model, epochs=epochs, initial_epoch=initial)
    for name in ("activations", "filters"):
        assert [epoch.step for epoch in read_run(tmp_path / name).epochs] == [0, 1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 2


# ---- Patterns ----------------------------------------------------------------------------------------------


def test_records_of_patterns(tmp_path):
    memory, model, seen = MemoryTracker(), tiny_model(), []
    logger = FilterLogger("conv2", [3, 0], steps=5, tracker=memory, log_dir=tmp_path, image_format="png")
    look = after_epoch(1, lambda: seen.append(filter_patterns(model, "conv2", [3, 0], steps=5)))
    history = fit(logger, look, model=model, epochs=2)
    config = memory.config
    assert config.sample_keys == ("conv2",)
    assert (config.method, config.layer_name, config.target) == ("filters(steps=5)", "conv2", "[3, 0]")
    assert config.display[0].shape == SHAPE
    assert config.value_range == "[0, 1]"
    first, record = memory.records
    (found,) = seen
    assert record.heatmaps is None
    drawn = found.picture()
    left = (160 - drawn.shape[1]) // 2  # margins, for the caption's sake
    np.testing.assert_array_equal(record.overlays[0][: drawn.shape[0], left : left + drawn.shape[1]], drawn)
    assert record.samples[0].caption == found.caption()
    assert record.scalars == {"activation": pytest.approx(found.activations.mean()), "dead": found.dead.sum()}
    assert history["filters_activation"][1] == record.scalars["activation"]
    assert history["filters_dead"][1] == record.scalars["dead"]
    assert not np.array_equal(first.overlays[0], record.overlays[0])
    assert first.overlays[0].shape == record.overlays[0].shape
    assert not list(tmp_path.iterdir())


def test_patterns_trace_once_and_training_is_not_changed():
    counts = []
    logger = FilterLogger("conv2", **QUICK, tracker=None)
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: counts.append(logger._source.ascent.traces))
    with_logger = fit(logger, ActivationLogger(X, tracker=None), keep)
    without = fit()
    # JAX traces once more for the number of filters, which is known when the first ones are looked for.
    assert counts == [2 if keras.backend.backend() == "jax" else 1] * 3
    assert with_logger["loss"] == without["loss"]


def test_dead_filters_in_history():
    model = tiny_model()
    conv = model.get_layer("conv1")
    conv.set_weights([conv.get_weights()[0], np.float32([1, -1000, 1, -1000])])
    history = fit(FilterLogger("conv1", tracker=None, steps=2), model=model, epochs=1)
    assert history["filters_dead"] == [2]


def test_frozen_and_mixed_precision():
    def build():
        model = functional().model
        model.get_layer("conv1").trainable = model.get_layer("conv2").trainable = False
        return model

    memory, model = MemoryTracker(), compiled(in_mixed_precision(build))
    loggers = FilterLogger("conv2", **QUICK, tracker=memory), ActivationLogger(X, "conv2", tracker=None)
    history = fit(*loggers, model=model, epochs=2)
    np.testing.assert_array_equal(memory.records[0].overlays[0], memory.records[1].overlays[0])
    assert history["filters_activation"][0] == history["filters_activation"][1]
    assert history["activations_conv2_dead_share"][0] == history["activations_conv2_dead_share"][1]


def test_a_subclass_that_fit_builds():
    class Small(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(3, 3, name="conv")
            self.average = layers.GlobalAveragePooling2D()

        def call(self, x):
            return keras.ops.softmax(self.average(self.conv(x)))

    memory, model = MemoryTracker(), compiled(Small())
    if keras.backend.backend() == "tensorflow":  # Elsewhere Keras builds it before callbacks begin.
        with pytest.raises(ValueError, match="needs `size` with channels"):
            fit(FilterLogger("conv", tracker=memory), model=model, epochs=1)
    fit(FilterLogger("conv", steps=2, tracker=memory, size=SHAPE), model=model, epochs=1)
    # Once it has run, it is known what it takes.
    fit(FilterLogger("conv", steps=2, tracker=memory), ActivationLogger(X, tracker=None), model=model, epochs=1)
    assert memory.config.display[0].shape == SHAPE
    assert len(memory.records) == 2


@pytest.mark.slow
def test_an_application():
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None, name="base")
    model = keras.Sequential([keras.Input((32, 32, 3)), base, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    memory, logs = MemoryTracker(), {}
    shown = ActivationLogger(images(4, (32, 32, 3)), tracker=memory, max_samples=1)
    learnt = FilterLogger("base/block_3_expand", filters=2, steps=2, jitter=0, blur=0, tracker=None)
    for logger in (shown, learnt):
        logger.set_model(model)
        logger.on_epoch_end(0, logs)
    chosen = memory.config.layer_name.split(", ")
    assert [name for name in chosen if name.startswith("base/")] == chosen
    sizes = [sample.caption.split(" of ")[1].split(",")[0] for sample in memory.records[0].samples]
    assert sizes == ["16 x 16", "8 x 8", "4 x 4", "2 x 2"]
    # The layer has no ReLU, so a filter may well be below 0; the ascent has raised it.
    _, reached, start, _ = learnt._source.ascent()
    assert logs["filters_activation"] == pytest.approx(reached.mean())
    assert (reached > start).all()


# ---- Settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ActivationLogger(X, size=10), "`size`"),
        (lambda: ActivationLogger(X, colormap="viridis2"), "Did you mean 'viridis'"),
        (lambda: ActivationLogger(X, image_format="gif"), "image_format"),
        (lambda: ActivationLogger(X, class_names="abc"), "class_names"),
        (lambda: ActivationLogger(X, freq=0), "freq"),
        (lambda: FilterLogger("conv2", steps=0), "`steps`"),
        (lambda: FilterLogger("conv2", value_range=(0, 0)), "`value_range`"),
        (lambda: FilterLogger("conv2", on_error="ignore"), "on_error"),
    ],
)
def test_wrong_settings_are_told_at_once(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("logger", "match"),
    [
        (ActivationLogger(X, "conv9", tracker=None), "These layers would do"),
        (ActivationLogger(X, batch_size=0, tracker=None), "`batch_size`"),
        (ActivationLogger(X[:, :5], tracker=None), "Images must have the shape"),
        (FilterLogger("conv9", tracker=None), "Did you mean"),
        (FilterLogger("conv2", [7], tracker=None), "5 filters of layer 'conv2'"),
        (FilterLogger("conv2", size=(9, 9), tracker=None), "`size`"),
    ],
)
def test_wrong_settings_are_told_before_the_first_batch(logger, match):
    model = tiny_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=match):
        fit(logger, model=model, epochs=1)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
