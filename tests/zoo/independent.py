"""Grad-CAM by another way: the model runs eagerly, and the backend differentiates it at what one layer puts out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from tapes import watched
from zoo.example import ONE_UNIT, PROBABILITIES, Example

from keras_cam_callbacks.network.layers import walk


def layer_at(model, path):
    return dict(walk(model))[path]


def gradcam(example: Example, path: str, grid=(), special=()) -> Any:
    """Returns Grad-CAM maps (N, *space) float64 of a layer; the arguments are those below."""
    activations, gradients = activations_and_gradients(example, path, grid, special)
    axes = tuple(range(1, activations.ndim - 1))
    return (activations * gradients.mean(axis=axes, keepdims=True)).sum(axis=-1)


def activations_and_gradients(example: Example, path: str, grid=(), special=(), call=0) -> tuple[Any, Any]:
    """Returns what a layer puts out, and the gradient of the score there, (N, *space, C) float64.

    A layer that is called for each step in time is taken at all of them, one that is called for each of several images
    at one.

    Args:
        example: The model with its samples.
        path: The layer's path.
        grid: Of a layer of tokens the cells along each axis of the image, whose tokens follow one another row by row.
        special: Indices of the tokens that are no cells.
        call: Which of the layer's calls, where it is called for each of several images.
    """
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, example.inputs)
    layer = layer_at(example.model, path)
    by_class = layer.call

    def score(watch):
        vars(layer)["call"] = lambda *args, **kwargs: watch(by_class(*args, **kwargs))
        try:
            return _score(example, example.model(inputs, training=False))
        finally:
            del vars(layer)["call"]

    with _without_last_activation(example):
        outputs, slopes = watched(score)
    if "time_distributed" not in path:
        outputs, slopes = outputs[call : call + 1], slopes[call : call + 1]
    arrays = [np.stack([step.astype(np.float64) for step in steps], 1) for steps in (outputs, slopes)]
    if len(outputs) == 1:
        arrays = [array[:, 0] for array in arrays]
    if grid:
        places = [i for i in range(arrays[0].shape[1]) if i not in special]
        arrays = [array[:, places].reshape(len(array), *grid, array.shape[2]) for array in arrays]
    return arrays[0], arrays[1]


def _score(example: Example, outputs: Any) -> Any:
    if example.target is not None:
        return example.target(outputs)
    if outputs.shape[-1] > 1:
        return keras.ops.max(outputs, axis=-1)
    # Of a sigmoid the class that is predicted is explained; a number is explained as it is.
    return keras.ops.abs(outputs[:, 0]) if example.loss == ONE_UNIT else outputs[:, 0]


@contextmanager
def _without_last_activation(example: Example) -> Iterator[None]:
    """Takes the softmax or sigmoid off the model's end, where a class is explained."""
    if example.target is not None or example.loss not in (PROBABILITIES, ONE_UNIT):
        yield
        return
    ends = keras.activations.softmax, keras.activations.sigmoid
    last = [layer for _, layer in walk(example.model) if getattr(layer, "activation", None) in ends][-1]
    activation = last.activation
    whole = keras.ops.convert_to_numpy(example.model(example.inputs, training=False))
    last.activation = keras.activations.linear
    try:
        logits = example.model(example.inputs, training=False)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(activation(logits)), whole, rtol=1e-5)
        yield
    finally:
        last.activation = activation
