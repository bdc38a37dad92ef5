"""What a record says of how its model was trained."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from keras_cam_callbacks import GradCAMLogger, read_run
from keras_cam_callbacks.callbacks.training import training_settings


def new_model(**compiled):
    base = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu")], name="base")
    model = keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(2)])
    if compiled:
        model.compile(**compiled)
    return model


def my_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))


class Unsaved(keras.optimizers.SGD):
    def get_config(self):
        raise NotImplementedError


def test_of_a_fit(tmp_path):
    x, y = np.random.default_rng(0).random((4, 8, 8, 3)).astype("float32"), np.array([0, 1, 0, 1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = new_model(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss)
    model.layers[0].trainable = False
    model.compile(optimizer=model.optimizer, loss=loss)
    logger = GradCAMLogger((x, y), log_dir=tmp_path, tracker="disk", on_error="raise")
    model.fit(x, y, batch_size=2, epochs=3, callbacks=[logger], verbose=0)
    told = read_run(tmp_path).manifest["training"]
    expected = {"optimizer": "SGD", "learning_rate": 0.01, "momentum": 0.9, "nesterov": False, "epochs": 3, "steps": 2}
    assert expected.items() <= told.items()
    assert told["loss"] == "sparse_categorical_crossentropy"
    assert told["trainable_parameters"] == 4 * 2 + 2  # The head alone.


def test_a_schedule_is_told_as_it_would_be_called():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    told = training_settings(new_model(optimizer=keras.optimizers.Adam(schedule), loss="mse"), None)
    rate = "ExponentialDecay(initial_learning_rate=0.1, decay_steps=10, decay_rate=0.5, staircase=False)"
    assert told["learning_rate"] == rate
    assert told["optimizer"] == "Adam"
    assert told["loss"] == "mse"
    assert "epochs" not in told


def test_in_mixed_precision_the_optimizer_is_the_users():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.002))
    told = training_settings(new_model(optimizer=optimizer, loss="mse"), {"epochs": 2, "steps": None})
    assert (told["optimizer"], told["learning_rate"], told["epochs"]) == ("Adam", 0.002, 2)
    assert "steps" not in told


def test_losses_by_name():
    for loss, text in ((my_loss, "my_loss"), (["mse"], "mse"), (keras.losses.Huber(), "huber_loss")):
        assert training_settings(new_model(optimizer="sgd", loss=loss), None)["loss"] == text


def test_what_says_nothing():
    assert training_settings(new_model(), None) == {"trainable_parameters": 4 * 27 + 4 + 10}
    told = training_settings(new_model(optimizer=Unsaved(0.1), loss="mse"), None)
    assert told["optimizer"] == "Unsaved"
    assert "learning_rate" not in told
