"""What a value of a traced graph comes out of: ReLUs, softmax, sigmoid, division by a length."""

from __future__ import annotations

import numpy as np

from .graph import Op, Value, root

# They bring values to another shape, and compute nothing.
_RESHAPED = ("broadcast_in_dim", "reshape", "squeeze", "stop_gradient", "expand_dims")
_MOST_STEPS = 12


def before_relu(value: Value) -> Value | None:
    """Returns what goes into the ReLU that a value comes from; None where it comes from none."""
    op = root(value).op
    if op is None:
        return None
    if op.kind == "min" and 6 in map(number, op.inputs):
        op = next(root(v).op for v in op.inputs if number(v) is None)
    elif op.kind == "clamp" and [number(op.inputs[0]), number(op.inputs[2])] == [0, 6]:
        return op.inputs[1]
    return rectified(op) if op is not None else None


def rectified(op: Op) -> Value | None:
    """Returns what an operation takes the positive part of; None where it does something else."""
    if op.kind != "max" or not op.outputs[0].is_float or 0 not in map(number, op.inputs):
        return None
    return next((value for value in op.inputs if number(value) is None), None)


def number(value: Value) -> float | None:
    """Returns a constant number, of any shape; None for anything else."""
    value = _plain(value)
    if value.op is not None or value.constant is None or np.size(value.constant) != 1:
        return None
    return float(np.asarray(value.constant).reshape(()))


def find_logits(value: Value) -> tuple[Value | None, str | None]:
    """Finds what went into the softmax or sigmoid that a value comes from.

    Returns:
        The logits, and which function it is: "softmax", "log_softmax" or "sigmoid"; None and None where it is none.
    """
    op = root(value).op
    if op is None:
        return None, None
    if op.kind == "logistic":
        return op.inputs[0], "sigmoid"
    logits = softmaxed(op)
    if logits is not None:
        return logits, "softmax"
    if op.kind == "sub":
        shifted, total = root(op.inputs[0]), _plain(op.inputs[1]).op
        if total is not None and total.kind == "log":
            summed = _plain(total.inputs[0]).op
            exponent = None if summed is None or summed.kind != "reduce_sum" else _exponent(summed.inputs[0])
            if exponent is not None and root(exponent) is shifted:
                return _unshifted(shifted), "log_softmax"
    return None, None


def softmaxed(op: Op) -> Value | None:
    """Returns the logits of a softmax that ends in an operation, exp(x) / sum(exp(x)); None where it is none."""
    if op.kind != "div":
        return None
    exponent, total = _exponent(op.inputs[0]), _plain(op.inputs[1]).op
    if exponent is None or total is None or total.kind != "reduce_sum":
        return None
    return _unshifted(exponent) if root(total.inputs[0]) is root(op.inputs[0]) else None


def ending(value: Value) -> str | None:
    """Tells what an output ends in; see `contract.Run`."""
    name = find_logits(value)[1]
    op = root(value).op
    if name is None and op is not None and op.kind in ("mul", "div") and any(map(_is_length, op.inputs)):
        return "normalized"
    return name


def _exponent(value: Value) -> Value | None:
    op = root(value).op
    return op.inputs[0] if op is not None and op.kind == "exp" else None


def _unshifted(value: Value) -> Value:
    """Returns what a value was before its largest number was taken off."""
    op = root(value).op
    if op is None or op.kind != "sub":
        return value
    shift = _plain(op.inputs[1])
    for _ in range(2):  # At least minus infinity.
        if shift.op is not None and shift.op.kind == "max":
            shift = _plain(next((v for v in shift.op.inputs if number(v) is None), shift))
    largest = shift.op is not None and shift.op.kind == "reduce_max"
    return op.inputs[0] if largest and root(shift.op.inputs[0]) is root(op.inputs[0]) else value  # type: ignore[union-attr]


def _is_length(value: Value) -> bool:
    """Tells whether a value is the root of a sum of squares, or its inverse."""
    has_root = False
    for _ in range(_MOST_STEPS):
        op = _plain(value).op
        if op is None:
            return False
        has_root = has_root or op.kind in ("sqrt", "rsqrt")
        if op.kind == "reduce_sum":
            squared = root(op.inputs[0]).op
            return has_root and squared is not None and _is_square(squared)
        if op.kind not in ("sqrt", "rsqrt", "max", "min", "add", "div"):
            return False
        value = next((v for v in op.inputs if number(v) is None), op.inputs[0])
    return False


def _is_square(op: Op) -> bool:
    twice = op.kind == "mul" and op.inputs[0] is op.inputs[1]
    return twice or op.kind == "square" or (op.kind == "integer_pow" and op.params["y"] == 2)


def _plain(value: Value) -> Value:
    """Returns what a value is a cast of, or the same in another shape."""
    value = root(value)
    while value.op is not None and value.op.kind in _RESHAPED:
        value = root(value.op.inputs[0])
    return value
