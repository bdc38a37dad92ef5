"""Self-attention, looked up in a traced graph: a softmax of products of what was made of the same tokens."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from ..contract import Attention
from .graphs import ancestors, reached_from, reads_values, tensor_id

_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
_WITH_WEIGHTS = (*_PRODUCTS, "Conv2D", "DepthwiseConv2dNative")
# They bring values to another order or shape, and compute nothing.
_REARRANGED = (
    *("Reshape", "Transpose", "Roll", "Identity", "Cast", "Squeeze", "ExpandDims", "Pad", "PadV2", "Slice"),
    *("StridedSlice", "GatherV2", "Pack", "Unpack", "Split", "SplitV"),
)
_MOST_STEPS = 200


def attentions(scores: Any, leaves: Iterable[Any], tensors: Mapping[Hashable, Any]) -> list[Attention]:
    """Returns the self-attentions on the way to scores, in the order in which they are computed.

    Args:
        scores: The scores.
        leaves: The model's inputs.
        tensors: The outputs of its layers by their ids.
    """
    softmaxes = [op for op in ancestors([scores], reads_values) if op.type == "Softmax"]
    if not softmaxes:
        return []
    reached = set().union(*map(reached_from, leaves))
    order = {op.name: i for i, op in enumerate(scores.graph.get_operations())}
    results = []
    for op in sorted((op for op in softmaxes if op.name in reached), key=lambda op: order[op.name]):
        product = _product_before(op.inputs[0], reached)
        if product is None or not _is_multiplied(op.outputs[0], reached):
            continue
        rows = op.outputs[0].shape
        if rows.rank is None or rows.rank < 3 or 1 in rows[-2:]:
            continue  # A single query pools, and mixes no places.
        sources = [_source(operand, reached, tensors) for operand in product.inputs]
        if None in sources:
            continue
        first, second = sources
        if first != second:
            # Keys and values of a coarser map are made of the same tokens.
            early, late = sorted(sources, key=lambda key: order[tensors[key].op.name])
            if tensors[early].op not in ancestors([tensors[late]], reads_values):
                continue
            first = early
        results.append(Attention(op.outputs[0], first))
    return results


def _is_multiplied(tensor: Any, reached: set[str]) -> bool:
    """Tells whether a tensor, as it is, goes into a product with another that comes from the inputs."""
    for op in tensor.consumers():
        dynamic = [t for t in op.inputs if t.op.name in reached]
        if op.type in _PRODUCTS and len(dynamic) == 2:
            return True
        handed_on = (op.type in _REARRANGED or len(dynamic) == 1) and op.type not in _PRODUCTS
        if handed_on and any(_is_multiplied(output, reached) for output in op.outputs):
            return True
    return False


def _product_before(tensor: Any, reached: set[str]) -> Any | None:
    """Returns the product of two tensors from the inputs that a tensor is a scaled, shifted or masked form of."""
    for _ in range(_MOST_STEPS):
        op = tensor.op
        dynamic = [t for t in op.inputs if t.op.name in reached]
        if op.type in _PRODUCTS:
            return op if len(dynamic) == 2 else None
        if not dynamic:
            return None
        # A mask comes from the inputs as well, but is no product.
        ways = [t for t in dynamic if t.dtype.is_floating] or dynamic
        tensor = max(ways, key=lambda t: t.shape.rank or 0)
    return None


def _source(tensor: Any, reached: set[str], tensors: Mapping[Hashable, Any]) -> Hashable | None:
    """Returns the id of the layer's output that queries or keys were projected from."""
    projected = False
    for _ in range(_MOST_STEPS):
        op = tensor.op
        key = tensor_id(tensor)
        if projected and key in tensors and op.type not in _REARRANGED:
            return key
        dynamic = [t for t in op.inputs if t.op.name in reached]
        if not dynamic:
            return key if projected and key in tensors else None
        if op.type in _WITH_WEIGHTS:
            if len(dynamic) == 2:
                return None
            projected = True
        tensor = dynamic[0]
    return None
