"""Gradients with respect to the images, also those that ReLUs or biases change on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import keras
import tensorflow as tf

from ...network.biases import Place, adds_bias, adds_constant
from ...network.layers import data_format, walk
from .. import stepping, wrapping
from ..wrapped import exchanged
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
    every = list(walk(model))
    halves = any(getattr(layer, "compute_dtype", None) == "float16" for _, layer in every)
    scale = FLOAT16_SCALE if halves else 1.0
    reached: list[tuple[str, Any, Any, str, Any]] = []
    called: list[Any] = []
    handed: set[int] = set()
    activations = {id(layer): layer.activation for _, layer in every if adds_bias(layer)}
    missed: list[tuple[str, str]] = []

    with wrapping, tf.GradientTape(watch_accessed_variables=False) as tape, ExitStack() as taps:

        def on_constant(path: str, layer: Any, tensor: Any) -> None:
            if getattr(tensor, "graph", None) is getattr(values, "graph", None):
                tape.watch(tensor)
                reached.append((path, layer, tensor, data_format([*called, layer], layer), stepping.current()))
            else:
                missed.append((path, "which runs in a loop or in another graph of its own"))

        def on_call(path: str, layer: Any, received: Any, output: Any) -> None:
            if adds_constant(layer):
                on_constant(path, layer, output)
            elif adds_bias(layer) and id(layer) not in handed:
                # A class that overrides `call` need not hand anything to the activation.
                on_constant(path, layer, output)
                if activations[id(layer)] not in (None, keras.activations.linear):
                    missed.append((path, "whose own `call` does not use the layer's `activation`"))
            handed.discard(id(layer))
            called.append(layer)

        def activated(path: str, layer: Any) -> Any:
            original = layer.activation

            def activation(tensor: Any, *args: Any, **kwargs: Any) -> Any:
                handed.add(id(layer))
                on_constant(path, layer, tensor)
                return original(tensor, *args, **kwargs)

            return activation

        for path, layer in every:
            # All steps run at once but those of a class that overrides `call`.
            loops = isinstance(layer, keras.layers.TimeDistributed) and not stepping.steps_by_itself(layer)
            inside = [inner for _, inner in walk(layer)] if loops else []
            if any(adds_bias(inner) or adds_constant(inner) for inner in inside):
                missed.append((path, "which runs layers in a loop"))
            taps.enter_context(tap(layer, functools.partial(on_call, path, layer)))
            if activations.get(id(layer)) is not None:
                taps.enter_context(exchanged(layer, "activation", activated(path, layer)))
        tape.watch([values, *others])
        scores = function(values)
    for path, reason in missed:
        raise ValueError(
            "FullGrad needs the gradient wherever a layer adds its bias. "
            f"Received: layer {path!r}, {reason}. 'saliency' and 'input_x_gradient' need the image's gradient only."
        )
    sources = [values, *others, *(tensor for _, _, tensor, _, _ in reached)]
    slopes = tape.gradient(scores, sources, output_gradients=tf.fill(tf.shape(scores), scale))
    gradients = [as_float32(slope, scale) for slope in slopes]
    outer, inner = gradients[1 : 1 + len(others)], gradients[1 + len(others) :]
    places = [
        Place(path, layer, tensor, layout, slope, steps)
        for (path, layer, tensor, layout, steps), slope in zip(reached, inner, strict=True)
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
