"""Gradients with respect to the images, also those that ReLUs or biases change on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from ...network.biases import Place
from ...network.layers import walk
from ..constants import watched_constants
from .graphs import RELUS
from .runs import FLOAT16_SCALE, as_float32, tap

_GUIDED = {name: f"KerasCamGuided{name}" for name in RELUS}


def gradient(
    function: Callable[[Any], Any], values: Any, model: Any, guided: bool = False
) -> tuple[Any, Any | None, int]:
    """Differentiates a function that runs the model; see `contract.Engine`.

    A guided one needs a traced function: the gradient of the ReLUs is exchanged in its graph, and so nothing outside
    sees it. Those inside a tf.function of the model's own are out of reach.
    """
    halves = any(getattr(layer, "compute_dtype", None) == "float16" for _, layer in walk(model))
    scale = FLOAT16_SCALE if halves else 1.0
    count = 0
    if guided:
        graph = tf.compat.v1.get_default_graph()
        with graph.gradient_override_map(_GUIDED):
            scores = function(values)
        relus = [op for op in graph.get_operations() if op.type in _GUIDED]
        inner = [node.op for f in graph.as_graph_def().library.function for node in f.node_def]
        count = -1 if set(inner) & set(_GUIDED) else len(relus)
        slope = tf.gradients(scores, values, tf.fill(tf.shape(scores), scale))[0]
    else:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            scores = function(values)
        slope = tape.gradient(scores, values, output_gradients=tf.fill(tf.shape(scores), scale))
    return scores, as_float32(slope, scale), count


def full_gradient(
    function: Callable[[Any], Any], values: Any, model: Any, others: Sequence[Any] = ()
) -> tuple[Any, Any | None, list[Any | None], list[Place]]:
    """Differentiates a function that runs the model, also where its layers add constants; see `contract.Engine`.

    A layer that is called twice has two places, unless both calls compute the same. What runs in a loop or in another
    graph is out of reach.
    """
    halves = any(getattr(layer, "compute_dtype", None) == "float16" for _, layer in walk(model))
    scale = FLOAT16_SCALE if halves else 1.0
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def watch(tensor: Any) -> Any | None:
            if getattr(tensor, "graph", None) is not getattr(values, "graph", None):
                return None
            tape.watch(tensor)
            return tensor

        with watched_constants(model, tap, watch) as constants:
            tape.watch([values, *others])
            scores = function(values)
    constants.check()
    sources = [values, *others, *(tensor for _, _, tensor, _, _ in constants.reached)]
    slopes = tape.gradient(scores, sources, output_gradients=tf.fill(tf.shape(scores), scale))
    gradients = [as_float32(slope, scale) for slope in slopes]
    outer, inner = gradients[1 : 1 + len(others)], gradients[1 + len(others) :]
    places = [
        Place(path, layer, tensor, layout, slope, steps)
        for (path, layer, tensor, layout, steps), slope in zip(constants.reached, inner, strict=True)
        if slope is not None
    ]
    return scores, gradients[0], outer, places


@tf.RegisterGradient(_GUIDED["Relu"])  # type: ignore[untyped-decorator]
def _guided_relu(op: Any, gradient: Any) -> Any:
    passes = (gradient > 0) & (op.outputs[0] > 0)
    return tf.where(passes, gradient, tf.zeros_like(gradient))


@tf.RegisterGradient(_GUIDED["Relu6"])  # type: ignore[untyped-decorator]
def _guided_relu6(op: Any, gradient: Any) -> Any:
    passes = (gradient > 0) & (op.outputs[0] > 0) & (op.outputs[0] < 6)
    return tf.where(passes, gradient, tf.zeros_like(gradient))
