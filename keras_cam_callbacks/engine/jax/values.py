"""Which calls of a layer compute the same in a traced graph: by the same operations on the same values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from .graph import Op, Value

_MOST_NUMBERS = 2**18  # of a constant that is compared by what it holds


class Values:
    """Numbers values, those that are certainly the same alike.

    JAX draws numbers from a key that is a value like others, and what a variable holds after the model has written to
    it is another value. What has an effect, or runs a function of its own, is like nothing else.
    """

    def __init__(self) -> None:
        """Knows no value yet."""
        self._numbers: dict[Hashable, int] = {}
        self._of_value: dict[Value, int] = {}

    def of(self, value: Value) -> int:
        """Returns what is the same for two values of one graph that certainly hold the same."""
        waiting = [value]
        while waiting:
            now = waiting[-1]
            before = [] if now.op is None or now in self._of_value else now.op.inputs
            before = [v for v in before if v not in self._of_value]
            if before:
                waiting.extend(before)
                continue
            waiting.pop()
            if now not in self._of_value:
                self._of_value[now] = self._numbers.setdefault(self._key(now), len(self._numbers))
        return self._of_value[value]

    def _key(self, value: Value) -> Hashable:
        op = value.op
        if op is None:
            return _constant_key(value)
        settings = _settings(op)
        if settings is None:
            return id(value)
        at = next(i for i, output in enumerate(op.outputs) if output is value)
        # Two functions may compute the same, and have different derivatives.
        return op.kind, op.unit.kind, settings, tuple(self._of_value[v] for v in op.inputs), at


def merged_values(calls: Iterable[tuple[Any, Sequence[Value]]]) -> dict[Value, Value]:
    """Returns what later calls of a layer put out that certainly compute the same, each with that of the first.

    Args:
        calls: The calls in their order, each as its layer and what it has put out.
    """
    calls = list(calls)
    values, merged, times = Values(), dict[Value, Value](), Counter(id(layer) for layer, _ in calls)
    firsts: dict[Hashable, Sequence[Value]] = {}
    for layer, made in (call for call in calls if times[id(call[0])] > 1):
        kinds = tuple((value.shape, value.dtype, values.of(value)) for value in made)
        for own, first in zip(made, firsts.setdefault((id(layer), kinds), made), strict=True):
            # What a layer hands on as it is may have been there before.
            if own.op is not None and (first.op is None or first.op.unit.number < own.op.unit.number):
                merged.setdefault(own, merged.get(first, first))
    return merged


def _settings(op: Op) -> Hashable | None:
    """Returns the settings of an operation, as something to compare; None where they can't be.

    Functions that it holds, such as the body of a loop, are the same only where they are one object.
    """
    if op.has_effects or "callback" in op.kind:
        return None
    settings = tuple(sorted(op.params.items()))
    try:
        hash(settings)
    except TypeError:
        return None
    return settings


def _constant_key(value: Value) -> Hashable:
    constant = value.constant
    if constant is None or isinstance(constant, jax.core.Tracer):
        return id(value)
    # Keys of random numbers are no numbers themselves.
    if not jax.dtypes.issubdtype(value.dtype, np.generic) or np.size(constant) > _MOST_NUMBERS:
        return id(constant)
    array = np.asarray(constant)
    return str(value.dtype), array.shape, array.tobytes()
