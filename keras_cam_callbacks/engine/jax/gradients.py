"""Gradients with respect to the images, also those that ReLUs or biases change on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.extend import core

from ...network.biases import Place
from ...network.layers import walk
from ..constants import Constants, watched_constants
from .endings import rectified
from .graph import Graph, Op, Value, ancestors, outer, tensor_of
from .programs import needs_values
from .pulling import FLOAT16_SCALE, as_float32, pulled
from .state import is_traced, note, tap


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
    if not is_traced():
        raise ValueError(
            "FullGrad needs a model that JAX can trace. "
            f"Received: model {model.name!r}, which runs eagerly and needs the numbers of its tensors. 'saliency' and "
            "'input_x_gradient' take it."
        )
    scale = _scale(model)
    constants = Constants()

    def noting(values: Any) -> list[Any]:
        nonlocal constants
        with watched_constants(model, tap, note) as constants:
            scores = function(values)
        return [scores, *(noted.tensor for _, _, noted, *_ in constants.reached)]

    graph, tensors, source, (score, *made) = _traced(noting, values)
    constants.check()
    outside = {id(tensor): value for value, tensor in tensors.items() if value.op is None}
    beside = [outside.get(id(other)) for other in others]
    sources = [source, *(value for value in beside if value is not None), *made]
    slopes = iter(pulled(graph, tensors, sources, score, scale))
    slope = next(slopes)
    outer_slopes = [None if value is None else next(slopes) for value in beside]
    places = [
        Place(path, layer, tensor_of(value, tensors), layout, inner, steps)
        for (path, layer, _, layout, steps), value, inner in zip(constants.reached, made, slopes, strict=True)
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
