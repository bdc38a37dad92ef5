"""Gradients with respect to the images, also those that ReLUs or biases change on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.extend import core

from ...network.biases import Place, adds_bias, adds_constant
from ...network.layers import data_format, walk
from .. import wrapping
from ..wrapped import exchanged
from .endings import rectified
from .graph import Graph, Op, Value, ancestors, outer, tensor_of
from .programs import needs_values
from .pulling import FLOAT16_SCALE, as_float32, pulled
from .state import Noted, is_traced, note, tap


def gradient(
    function: Callable[[Any], Any], values: Any, model: Any, guided: bool = False
) -> tuple[Any, Any | None, int]:
    """Differentiates a function that runs the model; see `contract.Engine`.

    For a guided one the function is traced, and run again with other ReLUs. Those within loops are out of reach.
    """
    scale = _scale(model)
    if not is_traced():
        return _eager_gradient(function, values, scale)
    graph, tensors, source, (score, *_) = _traced(lambda values: [function(values)], values)
    count = 0
    if guided:
        reached = graph.differentiable([source])
        way = [op for op in ancestors([score]) if not reached.isdisjoint(op.outputs)]
        relus = [op for op in way if rectified(op) is not None]
        count = -1 if any(map(_holds_relu, way)) else len(relus)
        slope = pulled(graph, tensors, [source], score, scale, {op.unit for op in relus}, _guided)[0]
    else:
        slope = pulled(graph, tensors, [source], score, scale)[0]
    return tensor_of(score, tensors), slope, count


def full_gradient(
    function: Callable[[Any], Any], values: Any, model: Any, others: Sequence[Any] = ()
) -> tuple[Any, Any | None, list[Any | None], list[Place]]:
    """Differentiates a function that runs the model, also where its layers add constants; see `contract.Engine`.

    A layer that is called twice has two places. What runs in a loop is out of reach.
    """
    every = list(walk(model))
    if not is_traced():
        raise ValueError(
            "FullGrad needs a model that JAX can trace. "
            f"Received: model {model.name!r}, which runs eagerly and needs the numbers of its tensors. 'saliency' and "
            "'input_x_gradient' take it."
        )
    scale = _scale(model)
    reached: list[tuple[str, Any, Noted, str]] = []
    called: list[Any] = []
    handed: set[int] = set()
    activations = {id(layer): layer.activation for _, layer in every if adds_bias(layer)}
    missed: list[tuple[str, str]] = []

    def on_constant(path: str, layer: Any, tensor: Any) -> None:
        noted = note(tensor)
        if noted is None:
            missed.append((path, "which runs in a loop or in another function of its own"))
        else:
            reached.append((path, layer, noted, data_format([*called, layer], layer)))

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

    def noting(values: Any) -> list[Any]:
        with wrapping, ExitStack() as taps:
            for path, layer in every:
                inside = [inner for _, inner in walk(layer)] if isinstance(layer, keras.layers.TimeDistributed) else []
                if any(adds_bias(inner) or adds_constant(inner) for inner in inside):
                    missed.append((path, "which runs layers in a loop"))
                taps.enter_context(tap(layer, functools.partial(on_call, path, layer)))
                if activations.get(id(layer)) is not None:
                    taps.enter_context(exchanged(layer, "activation", activated(path, layer)))
            scores = function(values)
        return [scores, *(noted.tensor for _, _, noted, _ in reached)]

    graph, tensors, source, (score, *made) = _traced(noting, values)
    for path, reason in missed:
        raise ValueError(
            "FullGrad needs the gradient wherever a layer adds its bias. "
            f"Received: layer {path!r}, {reason}. 'saliency' and 'input_x_gradient' need the image's gradient only."
        )
    outside = {id(tensor): value for value, tensor in tensors.items() if value.op is None}
    beside = [outside.get(id(other)) for other in others]
    sources = [source, *(value for value in beside if value is not None), *made]
    slopes = iter(pulled(graph, tensors, sources, score, scale))
    slope = next(slopes)
    outer_slopes = [None if value is None else next(slopes) for value in beside]
    places = [
        Place(path, layer, tensor_of(value, tensors), layout, inner)
        for (path, layer, _, layout), value, inner in zip(reached, made, slopes, strict=True)
        if inner is not None
    ]
    return tensor_of(score, tensors), slope, outer_slopes, places


def _traced(function: Callable[[Any], list[Any]], values: Any) -> tuple[Graph, dict[Value, Any], Value, list[Value]]:
    """Traces a function of a tensor; returns its graph, the tensors of its values, its input and its outputs."""
    closed = jax.make_jaxpr(function)(values)
    graph, tensors = Graph(), dict[Value, Any]()
    constants = [outer(constant, tensors) for constant in closed.consts]
    source = outer(values, tensors, True)
    results = graph.add(closed.jaxpr, constants, [source])
    graph.evaluate(tensors, [*graph.results, *results])
    return graph, tensors, source, results


def _scale(model: Any) -> float:
    halves = any(getattr(layer, "compute_dtype", None) == "float16" for _, layer in walk(model))
    return FLOAT16_SCALE if halves else 1.0


def _eager_gradient(function: Callable[[Any], Any], values: Any, scale: float) -> tuple[Any, Any | None, int]:
    """Differentiates a function of which nothing is known; one that takes numbers out of tensors has no gradient."""
    values = keras.ops.convert_to_tensor(values)
    try:
        scores, back = jax.vjp(function, values)
    except Exception as error:  # Keras may put any in the place of JAX's own.
        if not needs_values(error):
            raise
        return function(values), None, 0
    return scores, as_float32(back(jnp.full_like(scores, scale))[0], scale), 0


def _holds_relu(op: Op) -> bool:
    """Tells whether a loop or a branch has a ReLU within."""
    inner = [part for value in op.params.values() for part in (value if isinstance(value, tuple) else (value,))]
    for part in inner if op.kind in ("scan", "while", "cond") else ():
        if isinstance(part, core.ClosedJaxpr):
            graph, jaxpr = Graph(), part.jaxpr
            graph.add(jaxpr, [Value(v.aval) for v in jaxpr.constvars], [Value(v.aval) for v in jaxpr.invars])
            if any(rectified(within) is not None or _holds_relu(within) for within in graph.ops):
                return True
    return False


def _guided(op: Op, taken: list[Any]) -> list[Any] | None:
    """Runs a ReLU that hands back positive gradients only."""
    value = rectified(op)
    return None if value is None else [_guided_relu(taken[op.inputs.index(value)])]


@jax.custom_vjp  # type: ignore[untyped-decorator]
def _guided_relu(tensor: Any) -> Any:
    return jnp.maximum(tensor, 0)


def _guided_forward(tensor: Any) -> tuple[Any, Any]:
    output = _guided_relu(tensor)
    return output, output


def _guided_back(output: Any, slope: Any) -> tuple[Any]:
    return (jnp.where((slope > 0) & (output > 0), slope, jnp.zeros_like(slope)),)


_guided_relu.defvjp(_guided_forward, _guided_back)
