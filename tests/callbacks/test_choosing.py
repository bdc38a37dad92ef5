"""`select`: the hardest, the wrong, the confused samples, or those of another run."""

import random
import warnings

import keras
import numpy as np
import pytest
from fits import X, Y, fit, new_model, state, tiny_model

from keras_cam_callbacks import ActivationLogger, GradCAMLogger, MemoryTracker, read_run

MANY = np.concatenate([np.roll(X, shift, axis=2) for shift in range(4)])
LABELS = np.tile(Y, 4)


UNTRAINED = pytest.mark.filterwarnings("ignore:.*chose by a model:RuntimeWarning")


def rows(select, data=(MANY, LABELS), model=None, **settings):
    """The rows of the data that a fit explains, by their pixels."""
    memory = MemoryTracker()
    logger = GradCAMLogger(data, select=select, tracker=memory, max_samples=5, **settings)
    logger.set_model(model or tiny_model())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Of a model that has learnt nothing.
        logger.on_epoch_end(0)
    return list(logger._kept.batch.rows), logger, memory


def expected(model):
    """By the model's own `predict`, in numpy."""
    probabilities = np.asarray(model.predict(MANY, verbose=0), np.float64)
    of_label = probabilities[np.arange(len(LABELS)), LABELS]
    best = np.sort(probabilities, axis=1)
    wrong = probabilities.argmax(axis=1) != LABELS
    return {
        "hardest": np.argsort(np.log(of_label), kind="stable"),
        "wrong": [row for row in np.argsort(-probabilities.max(axis=1), kind="stable") if wrong[row]],
        "confused": np.argsort(best[:, -1] - best[:, -2], kind="stable"),
    }


@pytest.mark.parametrize("select", ["hardest", "wrong", "confused"])
def test_samples_are_those_that_predict_says(select):
    model = tiny_model()
    want = [int(row) for row in expected(model)[select][:5]]
    before, drawn = state(model), random.getstate()
    found, logger, memory = rows(select, model=model)
    assert found == want
    assert state(model) == before
    assert random.getstate() == drawn
    np.testing.assert_array_equal(logger._kept.batch.labels, LABELS[want])
    assert memory.config.select.startswith(f"{select}: ")

    class Batches(keras.utils.PyDataset):
        """Batches of 7, as a stream."""

        num_batches = 7

        def __getitem__(self, i):
            return MANY[7 * i : 7 * i + 7], LABELS[7 * i : 7 * i + 7]

    assert rows(select, Batches(), model)[0] == want
    one_hot = np.eye(3, dtype="float32")[LABELS]
    if select != "hardest":  # The loss takes indices.
        assert rows(select, (MANY, one_hot), model)[0] == want
    # Another, trained one may choose.
    other = new_model()
    other.set_weights([np.flip(w, axis=-1) for w in other.get_weights()])
    assert rows(select, model=model, select_model=other)[0] == [int(row) for row in expected(other)[select][:5]]


@UNTRAINED
def test_what_was_chosen_stays_while_the_model_learns(tmp_path):
    model = tiny_model()
    logger = GradCAMLogger((MANY, LABELS), select="hardest", max_samples=4, tracker="disk", log_dir=tmp_path)
    fit(logger, model=model, epochs=2)
    first = read_run(logger.directory)
    fit(logger, model=model, epochs=2)
    assert read_run(logger.directory).manifest == first.manifest
    assert len(read_run(logger.directory).epochs) == 4
    assert first.manifest["select"] == "hardest: 4 of 48 with the highest loss, sparse_categorical_crossentropy"

    # Another run looks at the same images, of data in another order, under the same names.
    order = np.random.default_rng(0).permutation(len(MANY))
    other = GradCAMLogger((MANY[order], LABELS[order]), select=first, tracker="disk", log_dir=tmp_path / "other")
    fit(other, epochs=1)
    second = read_run(other.directory)
    assert second.manifest["fingerprints"] == first.manifest["fingerprints"]
    assert second.sample_keys == first.sample_keys
    assert second.labels == first.labels
    # One that goes on has them, too, and not those that are hard now.
    goes_on = GradCAMLogger(
        (MANY, LABELS), select="hardest", max_samples=4, tracker="disk", log_dir=tmp_path, run="gradcam"
    )
    fit(goes_on, epochs=3, initial_epoch=2)
    assert goes_on.directory == logger.directory
    with pytest.raises(ValueError, match=r"must hold the samples of the run.*data without"):
        fit(GradCAMLogger((X[:1], Y[:1]), select=first, tracker=None), epochs=1)
    with pytest.raises(ValueError, match="keys that they have in the run"):
        fit(GradCAMLogger((MANY, LABELS), select=first, sample_keys=list("abcd"), tracker=None), epochs=1)


@UNTRAINED
def test_activations_take_the_same_samples():
    memory, model = MemoryTracker(), tiny_model()
    logger = ActivationLogger((MANY, LABELS), "conv1", select="confused", max_samples=3, tracker=memory)
    want = expected(model)["confused"][:3]
    fit(logger, model=model, epochs=1)
    assert list(logger._kept.batch.rows) == [int(row) for row in want]


@pytest.mark.filterwarnings("ignore:.*explain nothing:RuntimeWarning")
def test_a_choice_by_an_untrained_model_names_the_ways_out():
    model = tiny_model()
    wrong = (model.predict(X, verbose=0).argmax(axis=1) + 1 + np.arange(len(X)) % 2) % 3
    ways = r"select_model= takes a trained model .* select=read_run\(\.\.\.\) the samples of another run"
    logger = GradCAMLogger((X, wrong), select="hardest", tracker=None)
    with pytest.warns(RuntimeWarning, match=f"right in 0 of 12 samples, no more than its most frequent class.*{ways}"):
        fit(logger, model=model, epochs=1)
    fit(logger, model=model, epochs=1)  # It is said once.
    with pytest.warns(RuntimeWarning, match=f"whose optimizer has made no step yet.*{ways}"):
        fit(GradCAMLogger(X, select="confused", tracker=None), model=tiny_model(), epochs=1)


def numbers_model(loss="mse"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(X.shape[1:])
    maps = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(maps)))
    model.compile("sgd", loss, jit_compile=False)
    return model


def test_the_hardest_of_numbers_go_by_the_loss_and_others_are_refused():
    model = numbers_model()
    targets = np.random.default_rng(1).normal(size=(len(MANY), 2)).astype("float32")
    errors = ((model.predict(MANY, verbose=0) - targets) ** 2).mean(axis=1)
    found, *_ = rows("hardest", (MANY, targets), model, target=0)
    assert found == np.argsort(-errors, kind="stable")[:5].tolist()
    for select in ("wrong", "confused"):
        with pytest.raises(ValueError, match=r"needs one output of classes.*'hardest' goes by the loss"):
            model.fit(MANY, targets, verbose=0, callbacks=[GradCAMLogger((MANY, targets), select=select, tracker=None)])
    model = numbers_model(lambda y, outputs: keras.ops.mean(keras.ops.abs(y - outputs)))
    with pytest.raises(ValueError, match="needs a loss that returns a number for each sample"):
        model.fit(MANY, targets, verbose=0, callbacks=[GradCAMLogger((MANY, targets), select="hardest", tracker=None)])


def test_what_can_not_be_chosen_is_refused():
    with pytest.raises(ValueError, match=r"`select` must be one of 'first'.*Did you mean 'hardest'"):
        GradCAMLogger((X, Y), select="hardst")
    with pytest.raises(ValueError, match="`select_model` chooses the samples where"):
        GradCAMLogger((X, Y), select_model=tiny_model())
    with pytest.raises(TypeError, match="`select_model` must be a Keras model"):
        GradCAMLogger((X, Y), select="wrong", select_model="best.keras")
    with pytest.raises(ValueError, match="validation data without labels"):
        fit(GradCAMLogger(X, select="hardest", tracker=None))
    with pytest.raises(ValueError, match="known to end"):
        fit(GradCAMLogger(iter([(X, Y)]), select="hardest", tracker=None))
    predicted = tiny_model().predict(X, verbose=0).argmax(axis=1)
    with pytest.raises(ValueError, match=r"none of which has it.*'confused'"):
        fit(GradCAMLogger((X, predicted), select="wrong", tracker=None))
