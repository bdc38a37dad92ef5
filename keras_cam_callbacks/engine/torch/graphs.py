"""What is looked up in the record of a run: what comes from what, and what went into a softmax or a ReLU."""

from __future__ import annotations

from collections.abc import Iterable

from .recording import Operation, Recorder, Unheld

RELUS = ("relu", "relu6")
"""The operations that are ReLUs."""

_SOFTMAXES = ("softmax", "log_softmax", "sigmoid", "expit")


def ancestors(record: Recorder, numbers: Iterable[int]) -> set[int]:
    """Returns the numbers of all tensors that tensors come from by values, and their own."""
    reached: set[int] = set()
    waiting = list(numbers)
    while waiting:
        number = waiting.pop()
        if number not in reached:
            reached.add(number)
            maker = record.maker[number]
            if maker is not None:
                waiting.extend(maker.inputs)
    return reached


def downstream(record: Recorder, numbers: Iterable[int]) -> set[int]:
    """Returns the numbers of all tensors that tensors' values go into, and their own."""
    reached: set[int] = set()
    waiting = list(numbers)
    while waiting:
        number = waiting.pop()
        if number not in reached:
            reached.add(number)
            waiting.extend(output for operation in record.consumers[number] for output in operation.outputs)
    return reached


def last_operation(record: Recorder, number: int, partial: bool) -> Operation | None:
    """Returns the operation that a tensor comes from; None where it comes from none.

    Args:
        record: The record.
        number: The tensor's number.
        partial: Whether the record doesn't begin where the model does.

    Raises:
        Unheld: If it isn't known, as the operation ran before the record began.
    """
    operation = record.maker[number]
    if operation is None and partial:
        raise Unheld
    return operation


def find_logits(operation: Operation | None) -> tuple[int | None, bool]:
    """Returns what went into the softmax or sigmoid that ends a model, and whether that makes a probability."""
    if operation is None or operation.name not in _SOFTMAXES:
        return None, False
    return operation.inputs[0], operation.name != "log_softmax"


def ending(record: Recorder, operation: Operation | None, units: int, by_keras: bool, partial: bool) -> str | None:
    """Tells what an output ends in; see `contract.Run`.

    Args:
        record: The record.
        operation: What it comes from.
        units: Size of its last axis.
        by_keras: Whether Keras has kept logits of it.
        partial: As for `last_operation`.
    """
    if operation is not None and operation.name in _SOFTMAXES:
        return "sigmoid" if operation.name == "expit" else operation.name
    if by_keras:
        return "sigmoid" if units == 1 else "softmax"
    if operation is None:
        return None
    if operation.name == "normalize":
        return "normalized"
    scales = operation.name in ("mul", "multiply", "div", "divide", "true_divide", "truediv", "rmul", "rtruediv")
    if scales and any(_is_length(record, number, partial) for number in operation.inputs):
        return "normalized"
    return None


_ROOTS = ("sqrt", "rsqrt", "norm", "linalg_norm", "vector_norm", "linalg_vector_norm")


def _is_length(record: Recorder, number: int, partial: bool) -> bool:
    """Tells whether a tensor is the root of a sum of squares, or its inverse."""
    root = False
    for _ in range(8):
        operation = last_operation(record, number, partial)
        if operation is None or not operation.inputs:
            return False
        if operation.name in _ROOTS[2:]:
            return True
        root = root or operation.name in _ROOTS
        if operation.name == "sum":
            squared = record.maker[operation.inputs[0]]
            return root and squared is not None and _is_square(squared)
        passed = (*_ROOTS, "maximum", "minimum", "clamp", "clamp_min", "clip", "reciprocal", "reshape", "add", "expand")
        if operation.name not in (*passed, "broadcast_to", "expand_as", "where"):
            return False
        number = operation.inputs[1 if operation.name == "where" and len(operation.inputs) > 2 else 0]
    return False


def _is_square(operation: Operation) -> bool:
    if operation.name == "square":
        return True
    if operation.name in ("mul", "multiply"):
        return len(operation.inputs) == 2 and operation.inputs[0] == operation.inputs[1]
    return operation.name in ("pow", "float_power") and operation.argument(1, "exponent") == 2


def before_relu(operation: Operation | None) -> int | None:
    """Returns what went into the ReLU that a tensor comes out of; None where it comes out of none."""
    return operation.inputs[0] if operation is not None and operation.name in RELUS else None
