"""Tries the package as it is installed where nothing else is: `python -I tests/installed.py`, by `make dist-test`."""

from importlib.metadata import metadata, version
from pathlib import Path

import keras
import numpy as np

import keras_cam_callbacks
from keras_cam_callbacks import GradCAMLogger, MemoryTracker, explain

ROOT = Path(__file__).parents[1]

assert not Path(keras_cam_callbacks.__file__).is_relative_to(ROOT / "keras_cam_callbacks"), keras_cam_callbacks.__file__
assert version("keras_cam_callbacks") == keras_cam_callbacks.__version__
assert metadata("keras_cam_callbacks")["License-Expression"] == "MIT"
assert all(getattr(keras_cam_callbacks, name) is not None for name in keras_cam_callbacks.__all__)
model = keras.Sequential(
    [
        keras.Input((16, 24, 3)),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, activation="softmax"),
    ]
)
model.compile("sgd", "sparse_categorical_crossentropy")
images, labels = np.random.default_rng(0).random((4, 16, 24, 3), np.float32), np.array([0, 1, 0, 1])
tracker = MemoryTracker()
model.fit(images, labels, epochs=2, verbose=0, callbacks=[GradCAMLogger((images, labels), tracker=tracker)])
assert [record.heatmaps.shape for record in tracker.records] == [(4, 14, 22)] * 2
assert np.isfinite(explain(model, images).heatmaps).all()
print(f"keras_cam_callbacks {keras_cam_callbacks.__version__} explains a model on Keras {keras.version()}")
