"""One of two processes that train a model together on loopback; run as a script, once for each.

Keras' own `fit` fails with several workers, so this has a training loop of its own, which calls the callbacks' hooks.
What it found it writes as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from fits import SAMPLES, X, Y, random_model, state

from keras_cam_callbacks import ActivationLogger, FilterLogger, GradCAMLogger, HeatmapLogger, explain, read_run

EPOCHS = 3


def new_strategy(addresses, index):
    """Worker 0 is told by TF_CONFIG which one it is, worker 1 by its resolver alone."""
    cluster = {"worker": addresses}
    resolver = None
    if index == 0:
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
    else:
        spec = tf.train.ClusterSpec(cluster)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, task_type="worker", task_id=1)
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def train(strategy, rows, *callbacks):
    """Trains a new model on these rows of the data, and on the other worker's; returns it and what callbacks logged."""
    with strategy.scope():
        model = random_model()
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
        model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        def of_replica(x, y):
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True))
                loss = tf.reduce_sum(losses) / SAMPLES
            model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

        strategy.run(of_replica, args=(x, y))

    logged = []
    looks = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logged.append(sorted(logs)))
    hooks = keras.callbacks.CallbackList([*callbacks, looks], model=model, epochs=EPOCHS)
    with strategy.scope():
        hooks.on_train_begin()
        for epoch in range(EPOCHS):
            hooks.on_epoch_begin(epoch)
            step(tf.constant(X[rows]), tf.constant(Y[rows]))
            hooks.on_epoch_end(epoch, {"lr": 0.1})
        hooks.on_train_end()
    return model, logged


def unbuilt_is_refused(strategy):
    """What a logger says to a model without variables, which a worker alone can't make."""
    logger = GradCAMLogger(X, tracker=None)
    with strategy.scope():
        logger.set_model(keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()]))
    try:
        logger.on_train_begin()
    except ValueError as error:
        return str(error)
    return None


def fit_fails(strategy):
    """What Keras says to a `fit` without callbacks; None if it has none to say."""
    with strategy.scope():
        model = random_model()
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    try:
        model.fit(X, Y, batch_size=4, verbose=0)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(folder, index, addresses):
    strategy = new_strategy(addresses, index)
    rows, read = slice(index, None, 2), []

    def data():
        read.append(1)
        yield X, Y

    loggers = [
        GradCAMLogger(data(), tracker=["disk", "tensorboard"], log_dir=folder / "logs", on_error="raise"),
        HeatmapLogger(data(), method="smoothgrad", faithfulness_freq=1, metrics="all", tracker=None, on_error="raise"),
        ActivationLogger(data(), tracker=None, on_error="raise"),
        FilterLogger("conv2", filters=2, steps=2, tracker=None, on_error="raise"),
    ]
    expected, _ = train(strategy, rows)
    model, logged = train(strategy, rows, *loggers)
    found = {
        "replicas": strategy.num_replicas_in_sync,
        "logged": logged,
        "read": len(read),
        "directory": str(loggers[0].directory),
        "same_state": state(model) == state(expected),
        "kernel": model.get_weights()[0].tobytes().hex(),
        "unbuilt": unbuilt_is_refused(strategy),
        "fit_fails": fit_fails(strategy),
    }
    if index == 0:
        plain = random_model()
        plain.set_weights(model.get_weights())
        maps = read_run(loggers[0].directory).epochs[-1].heatmaps()
        found["same_maps"] = bool(np.any(maps)) and np.array_equal(maps, explain(plain, X).heatmaps)
    (folder / f"{index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
