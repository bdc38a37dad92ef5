"""Self-attention, looked up in a traced graph: a softmax of products of what was made of the same tokens."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable

from .endings import softmaxed
from .graph import SAME, Graph, Op, Value, ancestors, reached_from, root, sources_of

_WITH_WEIGHTS = ("dot_general", "conv_general_dilated")
# They bring values to another order or shape, and compute nothing.
_REARRANGED = (
    *SAME,
    *("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "pad", "slice", "dynamic_slice", "gather"),
    *("concatenate", "split", "rev", "stop_gradient", "copy"),
)
_MOST_STEPS = 200


def attentions(
    graph: Graph, score: Value, leaves: Iterable[Value], tokens: Container[Hashable]
) -> list[tuple[Value, Value]]:
    """Returns the self-attentions on the way to a score, in the order in which they are computed.

    Args:
        graph: The graph.
        score: The scores.
        leaves: The model's inputs.
        tokens: The ids of what its layers put out.

    Returns:
        For each its weights, and the id of the layer's output that it works on.
    """
    ends = [(op, softmaxed(op)) for op in sorted(ancestors([score]), key=lambda op: op.number) if op.kind == "div"]
    reached = set().union(*(reached_from(graph, leaf) for leaf in leaves))
    results = []
    for op, logits in ends:
        rows = op.outputs[0]
        if logits is None or rows not in reached:
            continue
        product = _product_before(logits, reached)
        if product is None or not _is_multiplied(graph, rows, reached):
            continue
        if len(rows.shape) < 3 or 1 in rows.shape[-2:]:
            continue  # A single query pools, and mixes no places.
        sources = [_source(operand, reached, tokens) for operand in product.inputs]
        first, second = sources
        if first is None or second is None:
            continue
        if first is not second:
            # Keys and values of a coarser map are made of the same tokens.
            early, late = sorted((first, second), key=lambda value: -1 if value.op is None else value.op.number)
            if early not in sources_of([late]):
                continue
            first = early
        results.append((rows, first))
    return results


def _is_multiplied(graph: Graph, value: Value, reached: Container[Value]) -> bool:
    """Tells whether a value, as it is, goes into a product with another that comes from the inputs."""
    waiting, seen = [value], {value}
    while waiting:
        for op in graph.consumers.get(waiting.pop(), ()):
            dynamic = [v for v in op.inputs if v in reached]
            if op.kind == "dot_general":
                if len(dynamic) == 2:
                    return True
            elif op.kind in _REARRANGED or len(dynamic) == 1:
                fresh = [v for v in op.outputs if v not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
    return False


def _product_before(value: Value, reached: Container[Value]) -> Op | None:
    """Returns the product of two values from the inputs that a value is a scaled, shifted or masked form of."""
    for _ in range(_MOST_STEPS):
        op = value.op
        dynamic = [] if op is None else [v for v in op.inputs if v in reached]
        if op is None or not dynamic:
            return None
        if op.kind == "dot_general":
            return op if len(dynamic) == 2 else None
        # A mask comes from the inputs as well, but is no product.
        ways = [v for v in dynamic if v.is_float] or dynamic
        value = max(ways, key=lambda v: len(v.shape))
    return None


def _source(value: Value, reached: Container[Value], tokens: Container[Hashable]) -> Value | None:
    """Returns the id of the layer's output that queries or keys were projected from."""
    projected = False
    for _ in range(_MOST_STEPS):
        key = root(value)
        op = value.op
        if projected and key in tokens and (op is None or op.kind not in _REARRANGED):
            return key
        dynamic = [] if op is None else [v for v in op.inputs if v in reached]
        if op is None or not dynamic:
            return None
        if op.kind in _WITH_WEIGHTS:
            if len(dynamic) == 2:
                return None
            projected = True
        value = dynamic[0]
    return None
