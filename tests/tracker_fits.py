"""Fits with a tracker and nothing else of ours, for tests of what stands beside it."""

from __future__ import annotations

from sample_records import make_config, make_record


def fit(tracker, directory, others, *, ours_first=True, fits=1, epochs=3):
    """Fits a tiny model; returns the records that were logged."""
    import keras
    import numpy as np

    config = make_config(directory)
    records = []

    class Logger(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            tracker.start(config)

        def on_epoch_end(self, epoch, logs=None):
            records.append(make_record(len(records), epoch=epoch))
            tracker.log(records[-1])

        def on_train_end(self, logs=None):
            tracker.finish()

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.random.default_rng(0).normal(size=(2, 20, 4))
    for _ in range(fits):
        callbacks = [Logger(), *others()] if ours_first else [*others(), Logger()]
        model.fit(x, y[:, :1], batch_size=4, epochs=epochs, callbacks=callbacks, verbose=0)
    return records
