"""Self-attention, looked up in the record of a run: a softmax of products of what was made of the same tokens."""

from __future__ import annotations

from collections.abc import Container, Iterable

from .graphs import ancestors, downstream
from .places import CONVOLUTIONS
from .recording import Recorder

_PRODUCTS = ("matmul", "rmatmul", "bmm", "einsum", "tensordot", "baddbmm")
# They bring values to another order or shape, and compute nothing.
_REARRANGED = (
    *("reshape", "view", "permute", "transpose", "swapaxes", "movedim", "moveaxis", "roll", "squeeze", "unsqueeze"),
    *("pad", "getitem", "select", "narrow", "index_select", "gather", "take", "stack", "cat", "split", "chunk"),
    *("unbind", "flatten", "unflatten", "expand", "broadcast_to", "concat", "t", "T", "mT", "repeat_interleave"),
)
_MOST_STEPS = 200


def attentions(
    record: Recorder, scores: int, leaves: Iterable[int], layer_outputs: Container[int]
) -> list[tuple[int, int]]:
    """Returns the self-attentions on the way to scores, in the order in which they are computed.

    Args:
        record: The record.
        scores: The number of the scores.
        leaves: Those of the model's inputs.
        layer_outputs: Those of the outputs of its layers.

    Returns:
        For each the number of its weights, and that of the layer's output that it works on.
    """
    on_way = ancestors(record, [scores])
    softmaxes = [operation for operation in record.operations if operation.name == "softmax"]
    softmaxes = [operation for operation in softmaxes if operation.outputs[0] in on_way]
    if not softmaxes:
        return []
    reached = downstream(record, leaves)
    results = []
    for operation in softmaxes:
        (weights,) = operation.outputs
        if weights not in reached:
            continue
        product = _product_before(record, operation.inputs[0], reached)
        if product is None or not _is_multiplied(record, weights, reached):
            continue
        rows = record.shapes[weights]
        if len(rows) < 3 or 1 in rows[-2:]:
            continue  # A single query pools, and mixes no places.
        first, second = (_source(record, operand, reached, layer_outputs) for operand in product)
        if first is None or second is None:
            continue
        if first != second:
            # Keys and values of a coarser map are made of the same tokens.
            early, late = sorted((first, second))
            if early not in ancestors(record, [late]):
                continue
            first = early
        results.append((weights, first))
    return results


def _is_multiplied(record: Recorder, number: int, reached: set[int]) -> bool:
    """Tells whether a tensor, as it is, goes into a product with another that comes from the inputs."""
    for operation in record.consumers[number]:
        dynamic = [t for t in operation.inputs if t in reached]
        if operation.name in _PRODUCTS and len(dynamic) == 2:
            return True
        handed_on = (operation.name in _REARRANGED or len(dynamic) == 1) and operation.name not in _PRODUCTS
        if handed_on and any(_is_multiplied(record, output, reached) for output in operation.outputs):
            return True
    return False


def _product_before(record: Recorder, number: int, reached: set[int]) -> tuple[int, int] | None:
    """Returns what is multiplied in the product that a tensor is a scaled, shifted or masked form of."""
    for _ in range(_MOST_STEPS):
        operation = record.maker[number]
        dynamic = [] if operation is None else [t for t in operation.inputs if t in reached]
        if operation is None or not dynamic:
            return None
        if operation.name in _PRODUCTS:
            return (dynamic[0], dynamic[1]) if len(dynamic) == 2 else None
        # A mask comes from the inputs as well, but is no product.
        ways = [t for t in dynamic if record.floats[t]] or dynamic
        number = max(ways, key=lambda t: len(record.shapes[t]))
    return None


def _source(record: Recorder, number: int, reached: set[int], layer_outputs: Container[int]) -> int | None:
    """Returns the number of the layer's output that queries or keys were projected from."""
    projected = False
    for _ in range(_MOST_STEPS):
        operation = record.maker[number]
        if projected and number in layer_outputs and (operation is None or operation.name not in _REARRANGED):
            return number
        dynamic = [] if operation is None else [t for t in operation.inputs if t in reached]
        if operation is None or not dynamic:
            return number if projected and number in layer_outputs else None
        if operation.name in CONVOLUTIONS:
            if len(dynamic) == 2:
                return None
            projected = True
        number = dynamic[0]
    return None
