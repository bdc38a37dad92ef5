"""Which calls of a layer compute the same in a traced graph: by the same operations on the same tensors."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import tensorflow as tf

from .graphs import READS, is_eager


class Values:
    """Numbers operations, those that certainly put out the same alike.

    What draws numbers, keeps a state or calls a function of its own is like nothing else, and so is what is read of a
    variable that the graph writes to.
    """

    def __init__(self) -> None:
        """Knows no operation yet."""
        self._numbers: dict[Hashable, int] = {}
        self._of_op: dict[Hashable, int] = {}

    def of(self, tensor: Any) -> Hashable:
        """Returns what is the same for two tensors of traced graphs that certainly hold the same values."""
        waiting = [tensor.op]
        while waiting:
            op = waiting[-1]
            before = [t.op for t in op.inputs if _name(t.op) not in self._of_op]
            if _name(op) in self._of_op or not before:
                waiting.pop()
                if _name(op) not in self._of_op:
                    self._of_op[_name(op)] = self._numbers.setdefault(self._key(op), len(self._numbers))
            else:
                waiting.extend(before)
        return self._number(tensor)

    def _number(self, tensor: Any) -> Hashable:
        return self._of_op[_name(tensor.op)], tensor.value_index

    def _key(self, op: Any) -> Hashable:
        if op.type == "Placeholder" or not (op.type in READS or not op.op_def.is_stateful):
            return _name(op)
        if op.type in READS and any(user.type not in READS for user in op.inputs[0].consumers()):
            return _name(op)
        # Those that begin with "_" say how an operation is run or differentiated, and nothing of what it puts out.
        settings = [
            (name, value.SerializeToString(deterministic=True))
            for name, value in op.node_def.attr.items()
            if not name.startswith("_")
        ]
        return op.type, tuple(sorted(settings)), tuple(map(self._number, op.inputs))


class Repeats:
    """Notes what layers put out in one run, and tells where a call repeats another one of its layer."""

    def __init__(self) -> None:
        """Has seen no call."""
        self._values = Values()
        self._outputs: dict[int, list[Any]] = {}

    def first(self, layer: Any, received: Any, output: Any) -> Any | None:
        """Returns what the first of the calls that compute the same has put out; None for a call that is none of these.

        Args:
            layer: The layer.
            received: What it was called with.
            output: What it has put out.
        """
        outputs = self._outputs.setdefault(id(layer), [])
        tensors = tf.nest.flatten(output)
        if not tensors or not all(tf.is_tensor(tensor) and not is_eager(tensor) for tensor in tensors):
            return None
        for other in outputs:
            others = tf.nest.flatten(other)
            if len(others) == len(tensors) and all(map(self._is_same, others, tensors)):
                return other
        outputs.append(output)
        return None

    def _is_same(self, one: Any, other: Any) -> bool:
        alike = one.dtype == other.dtype and one.op.type == other.op.type and one.graph is other.graph
        return alike and self._values.of(one) == self._values.of(other)


def _name(op: Any) -> Hashable:
    return id(op.graph), op.name
