"""Models that only train their parts, models of Keras 2, and one logger for several models."""

import warnings

import keras
import models
import numpy as np
import pytest
from keras import layers, ops

from keras_cam_callbacks import ActivationLogger, FilterLogger, FunctionTracker, GradCAMLogger, explain

X = models.images()


class GAN(keras.Model):
    """Trains a discriminator by a step of its own, and has no `call`."""

    def __init__(self, discriminator):
        super().__init__(name="gan")
        self.discriminator = discriminator
        if keras.backend.backend() != "tensorflow":
            self.built = True  # Or Keras calls it before a callback is asked.

    def train_step(self, *received):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(received[-1])
        if keras.backend.backend() == "jax":
            state = received[0]
            outputs, _ = self.discriminator.stateless_call(*state[:2], x, training=True)
            return {"loss": ops.mean(outputs)}, state
        return {"loss": ops.mean(self.discriminator(x, training=True))}


def gan():
    model = GAN(models.functional().model)
    model.compile(jit_compile=False)
    return model


def test_a_model_without_a_call_names_its_parts_before_the_first_batch():
    begun = []
    before = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: begun.append(batch))
    with pytest.raises(ValueError, match=r"must have a `call`.*model 'gan' of class GAN.*model='discriminator'"):
        gan().fit(X, verbose=0, callbacks=[GradCAMLogger(X, tracker=None), before])
    assert begun == []
    with pytest.raises(ValueError, match="must have a `call`"):
        explain(gan(), X)


def test_a_model_without_a_call_and_without_parts():
    class Bare(keras.Model):
        pass

    with pytest.raises(ValueError, match=r"class Bare, which has none\. Give it one"):
        explain(Bare(), X)


@pytest.mark.parametrize("part", ["discriminator", "functional", lambda model: model.discriminator])
def test_a_part_is_explained(part):
    model = gan()
    loggers = [
        GradCAMLogger(X, tracker="memory", on_error="raise", model=part(model) if callable(part) else part),
        ActivationLogger(X, "conv2", tracker="memory", on_error="raise", model="discriminator"),
        FilterLogger("conv2", 2, steps=1, tracker="memory", on_error="raise", model="discriminator"),
    ]
    model.fit(X, epochs=2, verbose=0, callbacks=loggers)
    assert [len(logger.trackers[0].records) for logger in loggers] == [2, 2, 2]
    assert loggers[0].trackers[0].config.model_name == model.discriminator.name
    expected = explain(model.discriminator, X).heatmaps
    np.testing.assert_allclose(loggers[0].trackers[0].records[-1].heatmaps, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(loggers[0].explain().heatmaps, expected)


def test_a_part_that_is_none():
    with pytest.raises(TypeError, match="must be a Keras model, or name one"):
        gan().fit(X, verbose=0, callbacks=[GradCAMLogger(X, tracker=None, model="train_step")])
    with pytest.raises(ValueError, match="must be a layer of model 'gan'"):
        gan().fit(X, verbose=0, callbacks=[GradCAMLogger(X, tracker=None, model="generator")])


def test_a_model_of_keras_2_is_named_as_such():
    """Its list of callbacks asks each for this method before the first batch."""
    with pytest.raises(TypeError, match=r"need a model of Keras 3.*Received: a model of Keras 2.*load_model"):
        GradCAMLogger(X, tracker=None)._implements_train_batch_hooks()


def test_the_batch_is_checked_again_for_another_model():
    logger = GradCAMLogger(X, tracker=None)
    logger.set_model(models.functional().model)
    logger.explain()
    other = keras.Sequential([keras.Input((20, 20, 3)), layers.Conv2D(3, 3), layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match=r"must have the shape \(20, 20, 3\).* Received: \(12, 16, 3\)"):
        logger.explain(other)


def broken(record):
    raise OSError("disk full")


def test_a_failure_is_told_in_every_fit():
    """Not once in a process, as Python tells what comes from one line of code."""
    model = models.functional().model
    model.compile("sgd", models.SPARSE, jit_compile=False)
    logger = GradCAMLogger((X, models.labels()), tracker=FunctionTracker(broken))
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            model.fit(X, models.labels(), verbose=0, callbacks=[logger])
            model.fit(X, models.labels(), verbose=0, callbacks=[logger])
        told = [str(warning.message) for warning in caught if "disk full" in str(warning.message)]
        assert len(told) == 2
