"""From a score back to values of a graph: the part between them is run again, to be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .graph import Graph, Op, Value, producer

FLOAT16_SCALE = 1024.0
"""Gradients of float16 activations vanish below 6e-8; they are computed this much larger, and divided in float32."""


def scale_for(values: Sequence[Value]) -> float:
    """Returns what gradients of values are computed larger by."""
    return FLOAT16_SCALE if any(value.dtype == jnp.float16 for value in values) else 1.0


def pulled(
    graph: Graph,
    values: dict[Value, Any],
    targets: Sequence[Value],
    score: Value,
    scale: float = 1.0,
    opened: Iterable[Op] = (),
    instead: Callable[[Op, list[Any]], list[Any] | None] | None = None,
) -> list[Any | None]:
    """Returns d score / d target for each target, float32; None where the score doesn't depend on it.

    Args:
        graph: The graph.
        values: The tensors of its values.
        targets: Values of the graph.
        score: Another one, (N,).
        scale: What the gradients are computed larger by on their way.
        opened: As `Graph.evaluate` takes it, and likewise the one that follows.
        instead: Likewise.
    """
    ways = [target for target in dict.fromkeys(targets) if score in graph.differentiable([target])]
    if not ways:
        return [None] * len(targets)
    opened = {*opened, *(v.op.unit for v in ways if v.op is not None and v not in v.op.unit.outputs)}
    reached = graph.differentiable(ways)
    # What depends on no target stays as it is; what does is computed again, up to the score.
    before = {value: tensor for value, tensor in values.items() if value not in reached}

    def function(*zeros: Any) -> Any:
        own = dict(before)
        for target, zero in sorted(zip(ways, zeros, strict=True), key=lambda pair: _place(pair[0])):
            if not _depends(target, ways, graph):
                tensor = values[target]
            else:
                graph.evaluate(own, [target], opened, instead)
                tensor = own[target]
            own[target] = with_way(tensor, zero)
        graph.evaluate(own, [score], opened, instead)
        return own[score]

    scores, back = jax.vjp(function, *(jnp.zeros_like(values[target]) for target in ways))
    slopes = back(jnp.full_like(scores, scale))
    of_target = {target: as_float32(slope, scale) for target, slope in zip(ways, slopes, strict=True)}
    return [of_target.get(target) for target in targets]


def _place(value: Value) -> int:
    step = producer(value)
    return -1 if step is None else step.number


def _depends(target: Value, others: Sequence[Value], graph: Graph) -> bool:
    """Tells whether a value depends on another one."""
    return target in graph.differentiable([other for other in others if other is not target])


@jax.custom_vjp  # type: ignore[untyped-decorator]
def with_way(tensor: Any, zero: Any) -> Any:
    """Returns a tensor as it is; its gradient is that of `zero` as well."""
    return tensor


with_way.defvjp(lambda tensor, zero: (tensor, None), lambda _, slope: (slope, slope))


def as_float32(gradient: Any | None, scale: float = 1.0) -> Any | None:
    """Returns a gradient as a float32 tensor, divided by what it was computed larger by."""
    return None if gradient is None else gradient.astype(jnp.float32) / scale
