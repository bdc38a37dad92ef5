"""Ways to call `fit`: what is logged is read back, and the training ends bit by bit as without the callbacks."""

import signal
import threading
from functools import cache

import keras
import numpy as np
import pytest
from fits import X, Y, fit, random_model, state, tiny_model
from models import SPARSE
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks import (
    ActivationLogger,
    CAMLogger,
    FilterLogger,
    GradCAMLogger,
    HeatmapLogger,
    MemoryTracker,
    explain,
    read_run,
)

EPOCHS = 2
pytestmark = pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing:RuntimeWarning")


def compiled(**settings):
    model = random_model()
    model.compile(keras.optimizers.SGD(0.1), SPARSE, **{"jit_compile": False} | settings)
    return model


@cache
def expected():
    """What a fit without callbacks makes of the model."""
    model = compiled()
    fit(model=model, epochs=EPOCHS)
    return state(model)


def check_logged(logger, model):
    """Reads a run back; its last maps are those of the model as it is now."""
    epochs = read_run(logger.directory).epochs
    assert [(epoch.step, epoch.epoch) for epoch in epochs] == [(epoch, epoch) for epoch in range(EPOCHS)]
    assert all(len(epoch.overlays()) == len(X) for epoch in epochs)
    first, last = (epoch.heatmaps() for epoch in epochs)
    assert not np.array_equal(first, last)
    found = explain(model, X, logger.layer_name, method=logger.method).heatmaps
    assert found.any()
    np.testing.assert_allclose(last, found, atol=1e-6 * np.abs(found).max())


# ---- How steps are run -------------------------------------------------------------------------------------

several_steps = pytest.mark.only_on("tensorflow", "jax", reason="Keras runs one step at a time on PyTorch")
MODES = {
    "several steps at once": pytest.param({"steps_per_execution": 2}, marks=several_steps),
    "XLA": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "eager, several steps at once": pytest.param({"run_eagerly": True, "steps_per_execution": 4}, marks=several_steps),
}


# Of PyTorch's compiler in Keras' own code.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("settings", MODES.values(), ids=MODES)
def test_how_steps_are_run(tmp_path, settings):
    alone, model = compiled(**settings), compiled(**settings)
    # Keras 3.5 ends a fit of three steps by two. PyTorch's dropout draws from one generator for all models.
    keras.utils.set_random_seed(1)
    history = fit(model=alone, epochs=EPOCHS, batch_size=3)
    keras.utils.set_random_seed(1)
    logger = GradCAMLogger((X, Y), log_dir=tmp_path, on_error="raise")
    found = fit(logger, model=model, epochs=EPOCHS, batch_size=3)
    assert state(model) == state(alone)
    assert {name: found[name] for name in history} == history
    assert len(found["gradcam_area"]) == EPOCHS
    check_logged(logger, model)


# ---- Threads -----------------------------------------------------------------------------------------------


def run_in_threads(*actions):
    """Runs all at once; raises what one has raised."""
    errors = []

    def guarded(action):
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[action], daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_in_a_thread(tmp_path):
    """With a signal handler of the user's, which only the main thread can set."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        ours, model = signal.getsignal(signal.SIGTERM), compiled()
        logger = GradCAMLogger((X, Y), tracker=["disk", "tensorboard", "wandb"], log_dir=tmp_path, on_error="raise")
        with wandb_run() as run:
            run_in_threads(lambda: fit(logger, model=model, epochs=EPOCHS))
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == []
    assert state(model) == expected()
    check_logged(logger, model)
    assert len(list(tmp_path.rglob("events.out.tfevents*"))) == 1
    assert [row["gradcam/epoch"] for row in finished_log(run).rows_with("gradcam/overlays")] == [0, 1]


@pytest.mark.only_on("tensorflow", "jax", reason="both would draw from PyTorch's one generator, in any order")
def test_two_fits_at_once(tmp_path):
    """Each into a folder of its own."""
    models = [compiled() for _ in range(2)]
    loggers = [
        GradCAMLogger((X, Y), tracker=["disk", "tensorboard"], log_dir=tmp_path, on_error="raise") for _ in models
    ]
    run_in_threads(
        *(lambda pair=pair: fit(pair[0], model=pair[1], epochs=EPOCHS) for pair in zip(loggers, models, strict=True))
    )
    assert {logger.directory.name for logger in loggers} == {"gradcam", "gradcam-2"}
    for logger, model in zip(loggers, models, strict=True):
        assert state(model) == expected()
        check_logged(logger, model)


# ---- Several callbacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True], ids=["in a list", "in a CallbackList"])
def test_several_callbacks(tmp_path, nested):
    """One of each, and one kind twice under two prefixes."""
    settings = {"log_dir": tmp_path, "on_error": "raise"}
    maps = [
        GradCAMLogger((X, Y), "conv1", prefix="early", **settings),
        GradCAMLogger((X, Y), "conv2", prefix="late", **settings),
        CAMLogger((X, Y), **settings),
        HeatmapLogger((X, Y), method="layercam", **settings),
    ]
    pictures = [
        ActivationLogger((X, Y), max_samples=2, **settings),
        FilterLogger("conv2", filters=2, steps=2, **settings),
    ]
    model = compiled()
    callbacks = [*maps, pictures]  # Keras takes lists in lists, on TensorFlow.
    if keras.backend.backend() != "tensorflow":
        callbacks = [*maps, *pictures]
    if nested:
        # Then Keras tells the callbacks nothing of the fit but what it is told here.
        callbacks = keras.callbacks.CallbackList(callbacks, add_history=True, model=model)
    history = model.fit(X, Y, batch_size=4, shuffle=False, epochs=EPOCHS, verbose=0, callbacks=callbacks).history
    assert state(model) == expected()
    # Whatever the first weights are: a map that explains nothing has no area.
    numbers = [f"{name}_confidence" for name in ("early", "late", "cam", "layercam")]
    numbers += ["activations_conv1_dead_share", "filters_dead"]
    assert [len(history[name]) for name in numbers] == [EPOCHS] * len(numbers)
    early, late = (read_run(logger.directory).epochs[-1].heatmaps() for logger in maps[:2])
    assert early.shape != late.shape or np.abs(early - late).max() > 0
    assert {path.name for path in tmp_path.iterdir()} == {"early", "late", "cam", "layercam", "activations", "filters"}
    for logger in maps:
        check_logged(logger, model)
    for logger, count in zip(pictures, (4, 1), strict=True):
        assert [len(epoch.overlays()) for epoch in read_run(logger.directory).epochs] == [count] * EPOCHS


def test_a_callback_list_that_knows_no_epochs(tmp_path):
    """The last one is known only once it is over."""
    model = tiny_model()
    logger = GradCAMLogger((X, Y), log_dir=tmp_path, freq=9, on_error="raise")
    callbacks = keras.callbacks.CallbackList([logger], add_history=True, model=model)
    model.fit(X, Y, epochs=3, verbose=0, callbacks=callbacks)
    assert [epoch.epoch for epoch in read_run(tmp_path).epochs] == [0, 2]


def same_prefix(log_dir):
    return [GradCAMLogger(X, layer, log_dir=log_dir) for layer in ("conv1", "conv2")], "prefixes that differ"


def same_tracker(log_dir):
    memory = MemoryTracker()
    return [kind(X, log_dir=log_dir, tracker=["disk", memory]) for kind in (GradCAMLogger, CAMLogger)], (
        "trackers of their own. Received: one MemoryTracker for 'cam' and for another"
    )


@pytest.mark.parametrize("make", [same_prefix, same_tracker])
def test_what_two_callbacks_can_not_share(tmp_path, make):
    """It is told before the first batch, and before anything is on disk."""
    model, (loggers, message) = tiny_model(), make(tmp_path / "logs")
    before = state(model)
    with pytest.raises(ValueError, match=f"Callbacks of one fit must have {message}"):
        fit(*loggers, model=model)
    assert state(model) == before
    assert not (tmp_path / "logs").exists()
    # One after the other they can.
    for logger in loggers:
        fit(logger, model=model, epochs=1)
        assert len(read_run(logger.directory).epochs) == 1
