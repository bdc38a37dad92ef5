"""What is frozen runs once: the maps stay those of the whole model to the last bit, and every write is noticed."""

import importlib
import logging

import keras
import models
import numpy as np
import pytest
from backends import tf
from fits import KERAS_WARNS, after_epoch
from keras import layers
from models import LOGITS, SPARSE, functional, images, labels

from keras_cam_callbacks import METHODS, HeatmapLogger, MemoryTracker, explain
from keras_cam_callbacks.passes import capture

EPOCHS = 3
# Where it is decided that nothing was written, and where the rest is made.
ENGINE = importlib.import_module(f"keras_cam_callbacks.engine.{keras.backend.backend()}.frozen")
of_tensorflow = pytest.mark.only_on(
    "tensorflow", reason="other engines have no function that makes the rest, and no buffers"
)


def frozen(model, *but):
    """Freezes all layers but the dense one and those that are named."""
    for layer in model.layers:
        layer.trainable = layer.name in ("classes", *but)
    return compiled(model)


def compiled(model, **settings):
    activation = getattr(model.layers[-1], "activation", None)
    loss = LOGITS if activation is keras.activations.linear and model.name != "branched" else SPARSE
    model.compile(keras.optimizers.SGD(0.1), loss, **{"jit_compile": False} | settings)
    return model


class Whole(keras.callbacks.Callback):
    """Explains the same batch anew at each epoch end, with all of the model."""

    def __init__(self, x, *args, **settings):
        super().__init__()
        self.explained, self.found = ((x, *args), settings), []

    def on_epoch_end(self, epoch, logs=None):
        arguments, settings = self.explained
        views = explain(self.model, *arguments, **settings)
        self.found.append(views if hasattr(views, "values") and callable(views.values) else {"": views})


class Reuses(keras.callbacks.Callback):
    """Notes how many chunks were captured without the frozen part, up to each epoch end."""

    def __init__(self, logger):
        super().__init__()
        self.logger, self.counts = logger, []

    def on_epoch_end(self, epoch, logs=None):
        self.counts.append(self.logger._source.capturer.reuses)


def watched_fit(model, x, y, *others, layer=None, epochs=EPOCHS, fit_settings=None, **settings):
    """Trains, and checks every record against the whole model; returns the logger, and the reuses of each epoch."""
    logger = HeatmapLogger((x, y), layer, tracker=MemoryTracker(), on_error="raise", prefix="maps", **settings)
    known = {name: settings[name] for name in ("method", "target", "batch_size", "fuse") if name in settings}
    whole, reuses = Whole((x, y), layer, **known), Reuses(logger)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logger, "_warn", lambda text: None)  # Maps that are nowhere positive are maps.
        fit_settings = {"batch_size": 3, "shuffle": False, "verbose": 0} | (fit_settings or {})
        model.fit(x, y, epochs=epochs, callbacks=[*others, logger, whole, reuses], **fit_settings)
    records = logger.tracker.records
    assert len(records) == epochs
    for record, views in zip(records, whole.found, strict=True):
        for name, view in views.items():
            logged = record.views[name] if name else record
            np.testing.assert_array_equal(logged.heatmaps, view.heatmaps)
            assert [sample.score for sample in logged.samples] == view.scores.tolist()
        assert np.array_equal(record.outputs, view.outputs)
    assert not np.array_equal(records[0].outputs, records[1].outputs)  # or nothing would be shown
    return logger, np.diff(reuses.counts, prepend=0).tolist()


def mixed():
    return models.in_mixed_precision(functional).model


def in_channels_first():
    return models.channels_first(functional().model)


def built_by_a_call():
    model = models.unbuilt_sequential().model
    model.build((None, *models.SHAPE))
    return model


def several_inputs():
    """An image in a frozen part, and numbers in a trained one that meets it behind the explained layer."""
    image, numbers = keras.Input(models.SHAPE), keras.Input((4,))
    x = layers.Conv2D(4, 3, activation="relu", name="conv1", trainable=False)(image)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Concatenate()([x, layers.Dense(3, name="numbers")(numbers)])
    return keras.Model([image, numbers], layers.Dense(3, activation="softmax")(x))


KINDS = {
    "functional": lambda: functional().model,
    "sequential": lambda: models.sequential().model,
    "sequential without an input": built_by_a_call,
    "nested twice": lambda: models.nested_twice().model,
    "subclass with a way around": lambda: models.branched().model,
    "mixed precision": mixed,
    "channels first": in_channels_first,
    "one number of samples": lambda: functional(batch=3).model,
    "no final activation": lambda: functional(activation=None).model,
}


@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)
def test_maps_are_those_of_the_whole_model_to_the_last_bit(build):
    model = frozen(build())
    x = images().transpose(0, 3, 1, 2) if build is in_channels_first else images()
    _, reuses = watched_fit(model, x, labels())
    lots = 2 if getattr(model, "inputs", None) and model.inputs[0].shape[0] == 3 else 1
    assert reuses == [0, *[lots] * (EPOCHS - 1)]


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
@pytest.mark.slow
def test_a_frozen_application_with_a_head(name):
    keras.utils.set_random_seed(1)
    base = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(64, 64, 3), name="base")
    models.settle(base, (64, 64, 3))
    base.trainable = False
    model = keras.Sequential([keras.Input((64, 64, 3)), base, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    _, reuses = watched_fit(compiled(model), images(4, (64, 64, 3)), labels(4), epochs=2)
    assert reuses == [0, 1]


@KERAS_WARNS
def test_a_model_that_was_saved_and_loaded(tmp_path):
    model = frozen(models.nested_twice().model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert watched_fit(loaded, images(), labels())[1] == [0, 1, 1]


def test_only_the_last_block_is_trained():
    """The explained layer changes, and what lies before its block is kept all the same."""
    model = frozen(functional().model, "conv2")
    assert model.get_layer("conv2").trainable
    logger, reuses = watched_fit(model, images(), labels(), layer="conv2")
    assert reuses == [0, 1, 1]
    maps = [record.heatmaps for record in logger.tracker.records]
    assert not np.array_equal(maps[1], maps[2])


def test_a_trained_input_beside_a_frozen_one():
    model = compiled(several_inputs())
    data = tf.data.Dataset.from_tensor_slices(((images(), images(6, (4,))), labels())).batch(3)
    settings = {"method": "eigencam", "max_samples": 6}
    logger = HeatmapLogger(data, tracker=MemoryTracker(), on_error="raise", **settings)
    whole, reuses = Whole(data, **settings), Reuses(logger)
    model.fit(data, epochs=3, verbose=0, shuffle=False, callbacks=[logger, whole, reuses])
    assert reuses.counts == [0, 1, 2]
    for record, views in zip(logger.tracker.records, whole.found, strict=True):
        np.testing.assert_array_equal(record.heatmaps, views[""].heatmaps)
        np.testing.assert_array_equal(record.outputs, views[""].outputs)


CHEAP = {
    "scorecam": {"channels": 2},
    "ablationcam": {"channels": 2},
    "occlusion": {"window": 6, "stride": 6},
    "rise": {"masks": 8, "cells": 2},
    "smoothgrad": {"samples": 2},
    "integrated_gradients": {"steps": 2},
}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "readout" not in method.needs])
def test_every_method(name):
    method = type(METHODS[name].function)(**CHEAP[name]) if name in CHEAP else name
    _, reuses = watched_fit(frozen(functional().model), images(4), labels(4), method=method, epochs=2)
    assert reuses[1] >= 1


def hirescam_in_place(activations, gradients):
    activations *= gradients
    return activations.sum(axis=3)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 4},
        {"layer": ["conv1", "conv2"], "fuse": "maximum"},
        {"layer": "conv1"},
        {"target": "both"},
        {"target": lambda outputs: outputs[:, 1] - outputs[:, 0]},
        {"method": ["gradcam", "cam", "saliency"]},
        {"method": [hirescam_in_place, "gradcam"]},
    ],
    ids=["chunks", "fused layers", "early layer", "both", "callable", "several methods", "writing into what it gets"],
)
def test_every_setting(settings):
    _, reuses = watched_fit(frozen(functional().model), images(), labels(), **settings)
    assert reuses == [0, *[2 if settings.get("batch_size") else 1] * 2]


# ---- What is noticed ---------------------------------------------------------------------------------------


def set_weights(model, folder):
    layer = model.get_layer("conv1")
    layer.set_weights([1.5 * value for value in layer.get_weights()])


def load_weights(model, folder):
    before = model.get_weights()
    set_weights(model, folder)
    model.save_weights(folder / "other.weights.h5")
    model.set_weights(before)
    model.load_weights(folder / "other.weights.h5")


def one_element(model, folder):
    """A sparse write, in place where TensorFlow can."""
    kernel = model.get_layer("conv1").kernel
    values = keras.ops.convert_to_numpy(kernel.value).copy()
    values[0, 0, 0, 0] = 3.0
    kernel.assign(values)


def added(model, folder):
    model.get_layer("conv1").bias.assign_add(np.ones(4, np.float32))


def unfrozen(model, folder):
    model.get_layer("conv1").trainable = True
    compiled(model)
    model.make_train_function(force=True)


@pytest.fixture(params=["by buffers", pytest.param("by values", marks=of_tensorflow)])
def known(request, monkeypatch):
    """By values, as on devices whose memory has no address here."""
    if request.param == "by values":
        monkeypatch.setattr(ENGINE, "_in_memory", lambda tensor: None)


@KERAS_WARNS
@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("write", [set_weights, load_weights, one_element, added])
def test_a_write_by_another_callback_is_noticed_once(write, tmp_path):
    model = frozen(functional().model)
    other = after_epoch(1, lambda: write(model, tmp_path))
    logger, reuses = watched_fit(model, images(), labels(), other)
    assert reuses == [0, 0, 1]
    first, changed = (record.heatmaps for record in logger.tracker.records[:2])
    assert np.abs(first - changed).max() > 0.01 * np.abs(first).max()


@pytest.mark.usefixtures("known")
def test_the_same_values_written_again_change_nothing():
    model = frozen(functional().model)
    conv = model.get_layer("conv1")
    again = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: conv.set_weights(conv.get_weights()))
    assert watched_fit(model, images(), labels(), again)[1] == [0, 1, 1]


def test_averaged_weights_that_are_swapped_in_are_noticed():
    """Each epoch is explained with the averages, and trained with the weights."""
    model = functional().model
    model.get_layer("conv1").trainable = False
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, SPARSE, jit_compile=False)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    assert watched_fit(model, images(), labels(), swap)[1] == [0, 1, 1]


def test_what_is_unfrozen_between_fits_is_run_again():
    model = frozen(functional().model)
    assert watched_fit(model, images(), labels())[1] == [0, 1, 1]
    model.get_layer("conv1").trainable = True
    assert watched_fit(compiled(model), images(), labels())[1] == [0] * EPOCHS


def test_what_is_unfrozen_in_a_fit_is_noticed(tmp_path):
    model = frozen(functional().model)

    class Unfreezing(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                model.get_layer("conv1").trainable = True
                model.optimizer.build(model.trainable_variables)
            if epoch:
                conv = model.get_layer("conv1")
                conv.kernel.assign_sub(0.01 * tf.sign(conv.kernel))  # as a training step of one's own does

    assert watched_fit(model, images(), labels(), Unfreezing(), epochs=3)[1] == [0, 0, 0]


class Counted(keras.layers.Layer):
    """Holds a number that every training step moves, and no weight that is trained: like statistics of batches."""

    def build(self, shape):
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.steps.assign_add(1.0)
        return x * (1 + self.steps / 100)


def with_layer_before(layer):
    model = functional().model
    frozen(model)
    return compiled(keras.Sequential([keras.Input(models.SHAPE), layer, *model.layers[1:]]))


@pytest.mark.parametrize(
    "layer",
    [Counted(), layers.BatchNormalization(scale=False, center=False)],
    ids=["state of its own", "batch normalisation"],
)
def test_statistics_that_move_are_noticed_and_nothing_is_kept_any_more(layer):
    model = with_layer_before(layer)
    logger, reuses = watched_fit(model, images(), labels())
    assert reuses == [0] * EPOCHS
    assert logger.tracker.records[-1].scalars["first_drift"] > 0


def test_statistics_of_frozen_batch_normalisation_stay():
    layer = layers.BatchNormalization(trainable=False)
    assert watched_fit(with_layer_before(layer), images(), labels())[1] == [0, 1, 1]


class Noise(keras.layers.Layer):
    """Adds noise in inference, too, as some models do on purpose; `draw` takes a shape."""

    def __init__(self, draw):
        super().__init__()
        self.generator = keras.random.SeedGenerator(3)
        self.draw = draw

    def call(self, x):
        return x + 0.1 * self.draw(self, keras.ops.shape(x))


def test_a_seed_that_another_draw_moves_is_noticed():
    layer = Noise(lambda self, shape: keras.random.normal(shape, seed=self.generator))
    assert watched_fit(with_layer_before(layer), images(), labels())[1] == [0] * EPOCHS


def test_a_seed_that_stands_still_gives_the_same_noise():
    layer = Noise(lambda self, shape: keras.random.normal(shape, seed=5))
    # On PyTorch nothing random is left out, whatever its seed.
    reuses = [0, 0, 0] if keras.backend.backend() == "torch" else [0, 1, 1]
    assert watched_fit(with_layer_before(layer), images(), labels())[1] == reuses


def test_noise_without_a_seed_is_drawn_each_time():
    model = with_layer_before(Noise(lambda self, shape: tf.random.normal(shape)))
    logger = HeatmapLogger(images(), tracker=MemoryTracker(), on_error="raise")
    reuses = Reuses(logger)
    model.fit(images(), labels(), epochs=3, verbose=0, callbacks=[logger, reuses])
    assert reuses.counts == [0, 0, 0]


# ---- When it is used, and what it leaves ---------------------------------------------------------------------


def test_it_is_said_once(caplog, capsys):
    model = frozen(functional().model)
    logger = HeatmapLogger(images(), tracker=None, on_error="raise", metrics=["area"])
    with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
        model.fit(images(), labels(), epochs=4, verbose=2, callbacks=[logger])
    said = [record.getMessage() for record in caplog.records if "frozen part" in record.getMessage()]
    assert len(said) == 1
    assert said[0] in capsys.readouterr().out
    caplog.clear()
    model.get_layer("conv1").trainable = True
    with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
        compiled(model).fit(images(), labels(), epochs=3, verbose=0, callbacks=[logger])
    assert "frozen part" not in caplog.text


def test_more_than_the_limit_is_not_kept(monkeypatch):
    # conv2 puts out 10 x 14 x 5 float32 for each of 6 samples, pooling a quarter of it; the rest is small.
    floats = 6 * (10 * 14 * 5 + 5 * 7 * 5)
    monkeypatch.setattr(capture, "KEPT_BYTES", 4 * 6 * 10 * 14 * 5)
    assert watched_fit(frozen(functional().model), images(), labels())[1] == [0] * EPOCHS
    monkeypatch.setattr(capture, "KEPT_BYTES", 5 * floats)
    assert watched_fit(frozen(functional().model), images(), labels())[1] == [0, 1, 1]


class Folded(keras.layers.Layer):
    """Cuts images into patches that stand in the batch's place, as windowed attention does."""

    def call(self, x):
        return keras.ops.reshape(x, (-1, 4, 4, 3))


class Unfolded(keras.layers.Layer):
    def call(self, x):
        return keras.ops.reshape(x, (-1, 8, 8, 4))

    def compute_output_shape(self, shape):
        return None, 8, 8, 4


@pytest.mark.filterwarnings("ignore:Where the map of layer 'unfolded' lies on the image:RuntimeWarning")
def test_rows_that_are_folded_with_others_count_for_the_limit(monkeypatch):
    """Four patches of 4 x 4 x 4 float32 for each of 6 samples, in what the graph knows as a batch of any size."""
    steps = [Folded(), layers.Conv2D(4, 1, trainable=False), layers.Conv2D(4, 1), Unfolded()]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax", name="classes")]
    model = compiled(keras.Sequential([keras.Input((8, 8, 3)), *steps, *head]))
    for limit, expected in ((6 * 4 * 4**3 * 4 - 1, [0, 0]), (2 * 6 * 4 * 4**3 * 4, [0, 1])):
        monkeypatch.setattr(capture, "KEPT_BYTES", limit)
        found = watched_fit(model, images(6, (8, 8, 3)), labels(), layer=model.layers[3], epochs=2)
        assert found[1] == expected


def test_rows_gathered_from_a_frozen_table():
    """TensorFlow reads such a variable as a copy each time."""
    model = keras.Sequential(
        [
            keras.Input(models.SHAPE),
            layers.Conv2D(4, 3, name="conv1", trainable=False),
            layers.Lambda(lambda x: keras.ops.cast(keras.ops.clip(x[..., 0] * 5 + 5, 0, 9), "int32")),
            layers.Embedding(10, 4, trainable=False, name="table"),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax", name="classes"),
        ]
    )
    table = model.get_layer("table").embeddings
    other = after_epoch(1, lambda: table.assign_add(0.1 * np.ones(table.shape, np.float32)))
    assert watched_fit(compiled(model), images(), labels(), other, epochs=4)[1] == [0, 0, 1, 1]


MADE = getattr(ENGINE, "_behind", None)


def raises(whole, cut):
    raise ValueError("This operation can't be moved.")


def is_off_by_a_bit(whole, cut):
    rest = MADE(whole, cut)

    def off(*arguments):
        found = rest(*arguments)
        return found | {"scores 0": tf.math.nextafter(found["scores 0"], found["scores 0"] + 1)}

    return off


@of_tensorflow
@pytest.mark.parametrize("rest", [raises, is_off_by_a_bit])
def test_a_rest_that_is_not_the_same_to_the_last_bit_is_not_used(rest, monkeypatch):
    monkeypatch.setattr(ENGINE, "_behind", rest)
    assert watched_fit(frozen(functional().model), images(), labels())[1] == [0] * EPOCHS


def test_what_is_kept_is_let_go_of_when_the_fit_ends():
    model = frozen(functional().model)
    kept = []

    class Kept(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(logger._source.capturer.bytes_kept)

    logger = HeatmapLogger(images(), tracker=None, on_error="raise")
    model.fit(images(), labels(), epochs=2, verbose=0, callbacks=[logger, Kept()])
    assert kept[0] == kept[1] > 4 * 6 * 10 * 14 * 5
    assert logger._source is None


@pytest.mark.parametrize("settings", [{"run_eagerly": True}, {"jit_compile": True}])
def test_other_ways_to_run_the_model(settings):
    model = frozen(functional().model)
    compiled(model, **settings)
    other = after_epoch(1, lambda: added(model, None))
    _, reuses = watched_fit(model, images(), labels(), other, epochs=3)
    # The others trace what can be traced, or run all eagerly, whatever the user does.
    whole = "run_eagerly" in settings and keras.backend.backend() == "tensorflow"
    assert reuses == ([0, 0, 0] if whole else [0, 0, 1])


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing:RuntimeWarning")
def test_explaining_between_the_epochs_is_of_the_weights_of_that_moment():
    model = frozen(functional().model)
    logger = HeatmapLogger(images(), tracker=None, on_error="raise")

    class Between(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            added(model, None)
            found.append((logger.explain().heatmaps, explain(model, images()).heatmaps))

    found = []
    model.fit(images(), labels(), epochs=3, verbose=0, callbacks=[logger, Between()])
    for ours, expected in found:
        np.testing.assert_array_equal(ours, expected)


def test_training_is_the_same_to_the_last_bit():
    trained = []
    for callbacks in ([], [HeatmapLogger(images(), method="eigencam", tracker=None, on_error="raise")]):
        keras.utils.set_random_seed(4)
        model = frozen(functional().model, "conv2")
        model.fit(images(), labels(), epochs=3, verbose=0, callbacks=callbacks)
        trained.append(model.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(one, other)
