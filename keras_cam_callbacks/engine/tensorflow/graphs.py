"""Traced functions, and what is looked up in their graphs: which tensor is which, and what comes from what."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

RELUS = ("Relu", "Relu6")
"""The operations that are ReLUs."""

READS = ("ReadVariableOp", "ResourceGather")
"""The stateful operations that change nothing; they give what a variable holds."""

# They hand a tensor on as it is, but for its precision.
_SAME = ("Identity", "Cast")
_SIZES = ("Shape", "ShapeN", "Size", "Rank")
_CONVOLUTIONS = (
    "Conv2D",
    "DepthwiseConv2dNative",
    "Conv2DBackpropInput",
    "Conv3D",
    "MatMul",
    "BatchMatMulV2",
    "Einsum",
)
_WINDOWED = ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput")
_RESIZES = ("ResizeBilinear", "ResizeNearestNeighbor", "ResizeArea", "ResizeBicubic")
_PADS = ("Pad", "PadV2", "MirrorPad")
_BORDER = 3  # px or cells
_REORDERED = ("Reshape", "Transpose", "ExtractImagePatches")
# What comes out of them lies at the same shares of height and width as what it came from.
_IN_PLACE = (
    *("Identity", "IdentityN", "Cast", "StopGradient", "PreventGradient", "CheckNumerics", "ExpandDims", "Squeeze"),
    *("Add", "AddV2", "AddN", "Sub", "Mul", "RealDiv", "Div", "FloorDiv", "MulNoNan", "DivNoNan", "Neg", "Abs", "Sign"),
    *("Pow", "Square", "Sqrt", "Rsqrt", "Exp", "Expm1", "Log", "Log1p", "Reciprocal", "Inv", "SquaredDifference"),
    *("Maximum", "Minimum", "ClipByValue", "Round", "Floor", "Ceil", "Select", "SelectV2", "IsNan", "IsFinite"),
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Erf", "BiasAdd", "FusedBatchNormV3"),
    *("Mean", "Sum", "Max", "Min", "Less", "LessEqual", "Greater", "GreaterEqual", "Equal", "NotEqual", "LogicalAnd"),
    *("LogicalOr", "LogicalNot", "MaxPool", "AvgPool", "BroadcastTo", "FakeQuantWithMinMaxVars"),
    *_RESIZES,
)


def traced(function: Callable[..., Any], *specs: Any) -> Any:
    """Traces a function once, as it is, for arguments of these specs."""
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def on_arrays(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of tensors with arrays, or tensors, in any structure; returns numpy arrays that are read-only.

    They are the tensors' own memory, for a copy of a small model's activations takes as long as its head.
    """
    results = function(*tf.nest.map_structure(tf.convert_to_tensor, arguments))
    return tf.nest.map_structure(np.asarray, results)


def ancestors(tensors: Iterable[Any], follow: Callable[[Any], bool] = lambda tensor: True) -> list[Any]:
    """Returns the operations that tensors come from, each once, back to the tensors that are not followed."""
    operations: dict[str, Any] = {}
    waiting = [tensor.op for tensor in tensors if follow(tensor)]
    while waiting:
        op = waiting.pop()
        if op.name not in operations:
            operations[op.name] = op
            waiting.extend(tensor.op for tensor in op.inputs if follow(tensor))
    return list(operations.values())


def downstream(tensor: Any) -> list[Any]:
    """Returns the operations that a tensor's values go into, directly or through others, each once."""
    operations: dict[str, Any] = {}
    waiting = list(tensor.consumers())
    while waiting:
        op = waiting.pop()
        if op.name not in operations and op.type not in _SIZES:
            operations[op.name] = op
            waiting.extend(consumer for output in op.outputs for consumer in output.consumers())
    return list(operations.values())


def reached_from(tensor: Any) -> set[str]:
    """Returns the names of the operations that a tensor's values go into, and of its own."""
    return {op.name for op in downstream(tensor)} | {tensor.op.name}


def reads_values(tensor: Any) -> bool:
    """Tells whether a tensor is more than the size of another."""
    return tensor.op.type not in _SIZES


def fronts(tensor: Any, image: Any) -> list[tuple[Any, str]]:
    """Returns what goes into the first convolutions on the way from an image to a tensor; see `contract.Run.fronts`."""
    reached = reached_from(image)

    def follow(t: Any) -> bool:
        return t.op.name in reached and t.op.type not in _CONVOLUTIONS and reads_values(t)

    before = [op for op in ancestors([tensor], reads_values) if op.type in _CONVOLUTIONS and op.name in reached]
    entries = {t.name: t for op in before for t in op.inputs if t.op.name in reached} or {tensor.name: tensor}
    ways = []
    for entry in entries.values():
        way = ancestors([entry], follow)
        if image.op in way:
            kinds = {op.type for op in way if op is not image.op and not _stays(op)}
            if entry.shape.rank != 4:  # Patches in a row, of which a grid may be made again.
                kinds.difference_update(_REORDERED)
            # How wide a border is, is only seen where nothing else changes the size.
            resized = any(op.type in _RESIZES for op in way)
            moved = kinds.difference(_PADS) or (kinds and resized)
            ways.append((entry, "moved" if moved else "padded" if kinds else "in place"))
    return ways


def keeps_places(tensor: Any, image: Any) -> bool:
    """Tells whether nothing on the way from an image to a map moves values from their place; see `contract.Run`."""
    if tensor.shape.rank != 4:
        return False
    reached = reached_from(image)

    def follow(t: Any) -> bool:
        return t.op.name in reached and reads_values(t)

    for op in ancestors([tensor], follow):
        if op is image.op or op.type in _WINDOWED or _stays(op) or _is_border(op):
            continue
        places = [t for t in op.inputs if t.op.name in reached and not _without_places(t)]
        if places:
            return False
    return True


def _stays(op: Any) -> bool:
    """Tells whether what comes out of an operation lies at the same shares of height and width."""
    if op.type == "ConcatV2":
        # Side by side, images lie elsewhere.
        return _constant(op.inputs[-1], -1) in (-1, (op.outputs[0].shape.rank or 0) - 1)
    if op.type == "Reshape":
        # Channels in groups, as a normalization has them.
        before, after = op.inputs[0].shape, op.outputs[0].shape
        if None in (before.rank, after.rank) or {before.rank, after.rank} != {4, 5}:
            return False
        if None in list(before[3:]) + list(after[3:]):
            return False
        return list(before[1:3]) == list(after[1:3]) and math.prod(before[3:]) == math.prod(after[3:])
    return op.type in _IN_PLACE


def _is_border(op: Any) -> bool:
    """Tells whether an operation puts a border around a map, as small as convolutions take off again."""
    if op.type not in _PADS:
        return False
    widths = tf.get_static_value(op.inputs[1])
    return widths is not None and int(np.max(widths)) <= _BORDER


def _constant(tensor: Any, otherwise: int) -> int:
    value = tf.get_static_value(tensor)
    return otherwise if value is None else int(value)


def _without_places(tensor: Any) -> bool:
    """Tells whether a tensor (N, ...) is one row for each sample, as what has been pooled is."""
    shape = tensor.shape
    return shape.rank is not None and sum(side != 1 for side in shape[1:]) <= 1


def is_eager(tensor: Any) -> bool:
    """Tells whether a tensor belongs to no graph."""
    # Variables, which layers may be given, have no operation either.
    return isinstance(tensor, tf.__internal__.EagerTensor) or not hasattr(tensor, "op")


def tensor_id(tensor: Any) -> Hashable:
    """Returns a hashable that is the same for a tensor and for its casts and identities in the traced graph."""
    if is_eager(tensor):
        return id(tensor)
    tensor = _source(tensor)
    return id(tensor.graph), tensor.name


def find_logits(output: Any) -> tuple[Any | None, bool]:
    """Finds what went into the softmax or sigmoid that an output comes from, and whether it is a probability.

    Keras keeps it on the output; an activation by TensorFlow's own functions is found in the traced graph.
    """
    logits = getattr(output, "_keras_logits", None)
    if logits is not None or is_eager(output):
        return logits, logits is not None
    op = _source(output).op
    if op.type in ("Softmax", "LogSoftmax", "Sigmoid"):
        return op.inputs[0], op.type != "LogSoftmax"
    return None, False


def ending(output: Any) -> str | None:
    """Tells what an output ends in: "softmax", "log_softmax", "sigmoid", "normalized" (rows of length 1), or None.

    Of an eager tensor only Keras' own activations are seen, which of them by its values.
    """
    if is_eager(output):
        if getattr(output, "_keras_logits", None) is None:
            return None
        values = np.asarray(output, np.float64)
        one = values.ndim > 1 and values.shape[-1] > 1 and np.allclose(values.sum(axis=-1), 1, atol=1e-2)
        return "softmax" if one else "sigmoid"
    op = _source(output).op
    by_type = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
    if op.type in by_type:
        return by_type[op.type]
    if getattr(output, "_keras_logits", None) is not None:
        return "sigmoid" if output.shape[-1] == 1 else "softmax"
    if op.type in ("Mul", "RealDiv"):
        for factor in op.inputs:
            if _is_length(factor):
                return "normalized"
    return None


def _is_length(tensor: Any) -> bool:
    """Tells whether a tensor is the root of a sum of squares, or its inverse."""
    root = False
    for _ in range(8):
        op = _source(tensor).op
        root = root or op.type in ("Sqrt", "Rsqrt")
        if op.type == "Sum":
            squared = _source(op.inputs[0]).op
            square = squared.type == "Square" or (squared.type == "Mul" and squared.inputs[0] is squared.inputs[1])
            return root and square
        if op.type not in ("Sqrt", "Rsqrt", "Maximum", "Minimum", "Reciprocal", "Reshape", "AddV2"):
            return False
        tensor = op.inputs[0]
    return False


def before_relu(tensor: Any) -> Any | None:
    """Returns what goes into the ReLU that a tensor comes from; None where it comes from none that is seen."""
    op = None if is_eager(tensor) else _source(tensor).op
    return op.inputs[0] if op is not None and op.type in RELUS else None


def used_ids(scores: Any) -> set[Hashable] | None:
    """Returns the ids of all tensors of the traced graph that the scores depend on; None for an eager run."""
    if is_eager(scores):
        return None
    return {(id(op.graph), tensor.name) for op in ancestors([scores]) for tensor in op.outputs}


def _source(tensor: Any) -> Any:
    while tensor.op.type in _SAME:
        tensor = tensor.op.inputs[0]
    return tensor
