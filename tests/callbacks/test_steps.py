"""`freq=Steps(...)`: what is logged within epochs, when, with which weights, and how runs of it go on."""

import pickle

import keras
import numpy as np
import pytest
from fits import X, Y, fit, new_model, state, tiny_model, values_of
from tracker_logs import read_events

from keras_cam_callbacks import GradCAMLogger, MemoryTracker, Steps, compare, explain, read_run
from keras_cam_callbacks.metrics import drift, mean


def logged(memory):
    return [(record.step, record.epoch, record.batch) for record in memory.records]


class Weights(keras.callbacks.Callback):
    """Keeps the weights after each step."""

    def __init__(self):
        super().__init__()
        self.after = []

    def on_train_batch_end(self, batch, logs=None):
        getattr(self.model, "jax_state_sync", lambda: None)()
        self.after.append([values_of(v).copy() for v in self.model.weights])


def test_maps_within_epochs_are_those_of_the_weights_after_the_step():
    memory, weights = MemoryTracker(), Weights()
    fit(weights, epochs=2)
    fit(GradCAMLogger((X, Y), freq=Steps(2), tracker=memory))
    # Three batches an epoch; step 6 ends one, and is logged once.
    assert logged(memory) == [(2, 0, 2), (3, 0, None), (4, 1, 1), (6, 1, None), (8, 2, 2), (9, 2, None)]
    model = new_model()
    for record in memory.records[:4]:
        model.set_weights(weights.after[record.step - 1])
        np.testing.assert_allclose(record.heatmaps, explain(model, X).heatmaps, rtol=1e-3, atol=1e-6)
    # Numbers of change are against what was logged last, within an epoch or at its end.
    for last, record in zip(memory.records, memory.records[1:], strict=False):
        same = [one.target == other.target for one, other in zip(last.samples, record.samples, strict=True)]
        moved = drift(record.heatmaps[same], last.heatmaps[same])
        np.testing.assert_allclose(record.scalars["drift"], mean(moved), rtol=1e-6)


def test_tensorboard_has_steps_with_their_epochs(tmp_path):
    logger = GradCAMLogger((X[:2], Y[:2]), freq=Steps(2), tracker="tensorboard", log_dir=tmp_path)
    fit(logger, epochs=2)
    images, scalars = read_events(logger.directory)
    assert scalars["gradcam/epoch"] == [(2, 0), (3, 0), (4, 1), (6, 1)]
    assert [step for step, _ in images["gradcam/sample_00"]] == [2, 3, 4, 6]


def test_training_and_keras_logs_are_as_at_epoch_ends():
    bare, model = tiny_model(), None
    history = fit(GradCAMLogger((X, Y), tracker=None, metrics=["area"]), model=bare)
    expected = state(bare)
    model = tiny_model()
    stepped = fit(GradCAMLogger((X, Y), tracker="memory", freq=Steps(1), metrics=["area"]), model=model)
    assert state(model) == expected
    assert stepped == history


def test_a_logger_of_epochs_has_no_hook_of_batches():
    hook = keras.callbacks.Callback.on_train_batch_begin
    epochs, steps = (GradCAMLogger((X, Y), freq=freq, tracker=None) for freq in (1, Steps(2)))
    assert epochs.on_train_batch_begin.__func__ is hook
    assert steps.on_train_batch_begin.__func__ is not hook
    for logger in (epochs, steps, pickle.loads(pickle.dumps(steps))):
        # With one of these, Keras waits for each step on JAX.
        assert logger.on_train_batch_end.__func__ is keras.callbacks.Callback.on_train_batch_end
        assert logger.on_batch_end.__func__ is keras.callbacks.Callback.on_batch_end


@pytest.mark.only_on("tensorflow", "jax", reason="PyTorch runs each batch alone")
def test_of_batches_that_run_together_the_first_after_the_step_counts():
    memory, model = MemoryTracker(), new_model()
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=2)
    fit(GradCAMLogger((X, Y), freq=Steps(3), tracker=memory), model=model, epochs=2, batch_size=2)
    assert logged(memory) == [(4, 0, 4), (6, 0, None), (10, 1, 4), (12, 1, None)]


def batch_at(index):
    rows = slice(4 * (index % 3), 4 * (index % 3) + 4)
    return X[rows], Y[rows]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length_are_counted():
    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return batch_at(index)

    memory = MemoryTracker()
    logger = GradCAMLogger((X, Y), freq=Steps(2), tracker=memory)
    model = tiny_model()
    model.fit(Endless(), steps_per_epoch=3, epochs=2, verbose=0, shuffle=False, callbacks=[logger])
    model.fit((batch_at(i) for i in range(5)), shuffle=False, verbose=0, callbacks=[logger])
    # TensorFlow and JAX find out that a generator has ended once another batch has begun.
    end = 11 if keras.backend.backend() == "torch" else 12
    assert [step for step, *_ in logged(memory)] == [2, 3, 4, 6, 8, 10, end]


def test_steps_go_on_over_fits_and_after_an_interruption(tmp_path):
    memory, model = MemoryTracker(), tiny_model()
    logger = GradCAMLogger((X, Y), freq=Steps(2), tracker=["disk", memory], log_dir=tmp_path)
    fit(logger, model=model, epochs=1)
    fit(logger, model=model, epochs=1)
    assert logged(memory) == [(2, 0, 2), (3, 0, None), (4, 0, 1), (6, 0, None)]

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(logger, Stop(), model=model, epochs=1)
    fit(logger, model=model, epochs=1)
    # Two steps of the fit that was stopped count: it ended at 8.
    assert logged(memory)[4:] == [(10, 0, 2), (11, 0, None)]
    run = read_run(logger.directory)
    assert run.steps == 2
    assert [(e.step, e.epoch, e.batch) for e in run.epochs] == logged(memory)
    assert run.missing() == ()
    assert sorted(path.name for path in (logger.directory / "sheets").iterdir())[:2] == ["000002.jpg", "000003.jpg"]


def test_another_process_goes_on_where_the_last_whole_epoch_ended(tmp_path):
    def logger(freq=None):
        return GradCAMLogger((X, Y), freq=freq or Steps(2), tracker="disk", log_dir=tmp_path)

    fit(first := logger(), epochs=2)
    fit(second := logger(), epochs=3, initial_epoch=2)
    assert second.directory == first.directory
    stored = [(epoch.step, epoch.epoch, epoch.batch) for epoch in read_run(first.directory).epochs]
    assert stored == [(2, 0, 2), (3, 0, None), (4, 1, 1), (6, 1, None), (8, 2, 2), (9, 2, None)]
    # What was logged in an epoch that runs again is replaced.
    fit(logger(), epochs=3, initial_epoch=2)
    assert [(e.step, e.epoch, e.batch) for e in read_run(first.directory).epochs] == stored
    # Epochs and steps are no one count.
    fit(other := logger(freq=1), epochs=4, initial_epoch=3)
    assert other.directory != first.directory
    with pytest.raises(ValueError, match="differs in freq"):
        fit(GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path, run="gradcam"), epochs=1)


def test_a_loop_of_ones_own_tells_of_batches():
    memory, model = MemoryTracker(), tiny_model()
    logger = GradCAMLogger((X, Y), freq=Steps(2), tracker=memory)
    logger.set_model(model)
    for epoch in range(2):
        for batch in range(3):
            logger.on_train_batch_begin(batch)
            model.train_on_batch(X[:4], Y[:4])
        logger.on_epoch_end(epoch)
    logger.on_train_end()
    assert logged(memory) == [(2, 0, 2), (3, 0, None), (4, 1, 1), (6, 1, None)]
    silent = GradCAMLogger((X, Y), freq=Steps(2), tracker=memory)
    silent.set_model(model)
    with pytest.warns(RuntimeWarning, match=r"Call on_train_batch_begin\(batch\) before each"):
        silent.on_epoch_end(0)


def test_numbers_of_faithfulness_are_of_epoch_ends():
    memory = MemoryTracker()
    fit(
        GradCAMLogger((X[:2], Y[:2]), freq=Steps(2), tracker=memory, faithfulness_freq=1, metrics=["deletion"]),
        epochs=1,
    )
    assert ["deletion" in record.scalars for record in memory.records] == [False, True]


@pytest.mark.parametrize("every", [0, -5, 2.5, "500", True])
def test_wrong_steps_are_refused(every):
    with pytest.raises(ValueError, match="`every` must be a whole number of at least 1"):
        Steps(every)
    with pytest.raises(ValueError, match=r"freq=Steps\(500\) every 500 steps as well"):
        GradCAMLogger((X, Y), freq=0)


def test_runs_of_steps_are_compared_by_steps_and_with_others_by_epochs(tmp_path):
    for name, freq in (("a", Steps(2)), ("b", Steps(3)), ("c", 1)):
        fit(GradCAMLogger((X, Y), freq=freq, tracker="disk", log_dir=tmp_path / name), epochs=2)
    steps = compare([tmp_path / "a", tmp_path / "b"])
    assert steps.epochs == (2, 3, 4, 6)
    assert steps.held().tolist() == [[True, True, True, True], [False, True, False, True]]
    assert steps.summary().startswith("2 runs, 12 samples, steps 2 to 6.\n")
    rows = steps.table("epoch")
    assert [(row["epoch"], row["step"]) for row in rows[:4]] == [(0, 2), (0, 3), (1, 4), (1, 6)]
    mixed = compare([tmp_path / "a", tmp_path / "c"])
    assert mixed.epochs == (0, 1)
    assert "Of a, epoch ends alone, as others count epochs." in mixed.summary()
    np.testing.assert_allclose(mixed.agreement, 1)  # One training, logged twice.
    assert {"freq", "steps"}.isdisjoint(mixed.differences)
