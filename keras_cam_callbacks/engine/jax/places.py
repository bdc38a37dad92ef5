"""Whether positions of a map are places of the image, as a traced graph tells."""

from __future__ import annotations

import math

from .graph import SAME, Graph, Op, Value, ancestors, reached_from, root, sources_of

_CONVOLUTIONS = ("conv_general_dilated", "dot_general")
_BORDER = 3  # cells, as small as convolutions take off again
_REORDERED = ("reshape", "transpose")
# What comes out of them lies at the same shares of height and width as what it came from.
_IN_PLACE = (
    *SAME,
    *("stop_gradient", "optimization_barrier", "broadcast_in_dim", "squeeze", "expand_dims", "select_n", "clamp"),
    *("add", "sub", "mul", "div", "rem", "neg", "abs", "sign", "pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt"),
    *("exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "erf", "erfc", "sin", "cos", "max", "min", "round"),
    *("floor", "ceil", "is_finite", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "xor", "add_any"),
    *("reduce_max", "reduce_min", "reduce_sum", "reduce_window", "reduce_window_max", "reduce_window_sum"),
)


def fronts(graph: Graph, value: Value, image: Value) -> list[tuple[Value, str]]:
    """Returns what goes into the first convolutions on the way from an image to a value; see `contract.Run.fronts`."""
    reached = reached_from(graph, image)
    before = [op for op in ancestors([value]) if not reached.isdisjoint(op.outputs) and _is_convolution(op)]
    entries = {id(v): v for op in before for v in op.inputs if v in reached} or {id(value): value}
    ways = []
    for entry in entries.values():
        way = ancestors([entry], lambda v: v in reached and not (v.op is not None and _is_convolution(v.op)))
        if entry is image or any(image in op.inputs for op in way):
            moving = [op for op in way if not _stays(op)]
            if len(entry.shape) != 4:  # Patches in a row, of which a grid may be made again.
                moving = [op for op in moving if op.kind not in _REORDERED]
            # How wide a border is, is only seen where nothing else changes the size.
            moved = any(not _adds_border(op) for op in moving) or (moving and any(map(_resizes, way)))
            ways.append((entry, "moved" if moved else "padded" if moving else "in place"))
    return ways


def keeps_places(graph: Graph, value: Value, image: Value) -> bool:
    """Tells whether nothing on the way from an image to a map moves values from their place; see `contract.Run`."""
    if len(value.shape) != 4:
        return False
    reached = reached_from(graph, image)
    for op in ancestors([value], lambda v: v in reached):
        if op.kind == "conv_general_dilated" or _stays(op) or _is_dense(op) or _adds_border(op, _BORDER):
            continue
        if any(v in reached and not _without_places(v) for v in op.inputs):
            return False
    return True


def _is_convolution(op: Op) -> bool:
    return op.kind in _CONVOLUTIONS and not _resizes(op)


def _resizes(op: Op) -> bool:
    """Tells whether an operation weighs pixels by constants, as JAX resizes images, one axis after the other."""
    if op.kind != "dot_general" or len(op.inputs[0].shape) + len(op.inputs[1].shape) < 5:
        return False
    return any(all(v.op is not None or v.constant is not None for v in sources_of([side])) for side in op.inputs)


def _stays(op: Op) -> bool:
    """Tells whether what comes out of an operation lies at the same shares of height and width."""
    rank = len(op.outputs[0].shape)
    if op.kind == "concatenate":
        return bool(op.params["dimension"] == rank - 1)  # Side by side, images lie elsewhere.
    if op.kind == "rev":
        return tuple(op.params["dimensions"]) == (rank - 1,)
    if op.kind in ("slice", "split"):
        return all(v.shape[:-1] == op.inputs[0].shape[:-1] for v in op.outputs)
    if op.kind == "transpose":
        source = root(op.inputs[0]).op
        return source is not None and _resizes(source)
    if op.kind == "reshape":
        before, after = op.inputs[0].shape, op.outputs[0].shape
        if [side for side in before if side != 1] == [side for side in after if side != 1]:
            return True
        # Channels in groups, as a normalization has them.
        return {len(before), len(after)} == {4, 5} and before[:3] == after[:3]
    return op.kind in _IN_PLACE or _resizes(op)


def _is_dense(op: Op) -> bool:
    """Tells whether an operation is the same product of channels at each position."""
    if op.kind != "dot_general":
        return False
    (contracted, _), (of_batch, _) = op.params["dimension_numbers"]
    rank = len(op.inputs[0].shape)
    return not of_batch and rank == 4 and tuple(contracted) == (rank - 1,) and len(op.inputs[1].shape) == 2


def _adds_border(op: Op, most: float = math.inf) -> bool:
    """Tells whether an operation puts a border around a map, of so many cells at most."""
    if op.kind != "pad":
        return False
    return all(
        0 <= low <= most and 0 <= high <= most and not inside for low, high, inside in op.params["padding_config"]
    )


def _without_places(value: Value) -> bool:
    """Tells whether a value (N, ...) is one row for each sample, as what has been pooled is."""
    return len([side for side in value.shape[1:] if side != 1]) <= 1
