"""The models and the images that are measured, and the forward pass that everything is compared with."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import keras
import numpy as np
from measuring import Case
from skimage.data import astronaut

SAMPLES = 16
MODELS: dict[str, Callable[..., Any]] = {
    name: partial(getattr(keras.applications, name), weights=None) for name in ("VGG16", "ResNet50", "MobileNetV2")
}


def photographs(shape: tuple[int, ...]) -> Any:
    """(16, *shape) float32 in [0, 1]: parts of one photograph, as noise would be slow to encode."""
    height, width, channels = shape
    photo, step = astronaut(), 96
    corners = [(step * i, step * j) for i in range(4) for j in range(4)]
    parts = [cv2.resize(photo[top : top + 224, left : left + 224], (width, height)) for top, left in corners]
    return np.stack(parts)[..., :channels].astype(np.float32) / 255


def settle(model: Any, images: Any) -> None:
    """Gives batch normalisation the statistics of the images, without which an untrained net's maps vanish."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(images[:4], training=True)  # More would raise the process' memory above what a forward pass needs.
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def bare_pass(model: Any, images: Any) -> Case:
    """The forward pass that everything is compared with: compiled (of PyTorch eager), its input a tensor already."""
    inputs = keras.ops.convert_to_tensor(images)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        forward = tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(
            tf.TensorSpec((None, *images.shape[1:]), tf.float32)
        )
        return lambda: forward(inputs).numpy()
    if backend == "jax":
        import jax

        stateless = jax.jit(lambda *state: model.stateless_call(*state, training=False)[0])

        def of_weights() -> Any:
            states = ([v.value for v in part] for part in (model.trainable_variables, model.non_trainable_variables))
            return np.asarray(stateless(*states, inputs))

        return of_weights
    import torch

    def without_gradients() -> Any:
        with torch.no_grad():
            return model(inputs, training=False).cpu().numpy()

    return without_gradients
