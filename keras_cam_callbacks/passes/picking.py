"""Whether a target's function only picks one number of the outputs, so that it can be handed the logits instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from ..network.weights import values_of
from ..records import Floats

_ROWS = 64
_NUMBERS = 4_000_000  # Most that are drawn at once, of outputs as large as masks.
_RANGES = ((0.05, 0.95), (-3.0, 3.0))  # Of probabilities, and of what logits may be.


def only_picks(rule: Callable[[Any], Any], outputs: Any) -> bool:
    """Tells whether a rule gives one number of the outputs, always the same, its negative, or a difference of two.

    The largest of a row counts, too, as logits have it at the same place. Of these alone the logit says what the
    probability does: a sum of probabilities that are weighed, a product or a choice by a threshold is another thing of
    logits. The rule is tried on random numbers, outside of any traced function: on so many that each side of a
    threshold comes up.

    Args:
        rule: A user's function of the outputs.
        outputs: Tensors (N, ...) in any structure. A difference must be of two numbers of one of them.
    """
    rng = np.random.default_rng(0)
    shapes = _shapes(outputs)
    lot = max(2, min(_ROWS, _NUMBERS // max(1, sum(int(np.prod(shape)) for shape in shapes))))
    ways: _Ways | None = None
    for low, high in _RANGES:
        for _ in range(0, _ROWS, lot):
            arrays = [rng.uniform(low, high, (lot, *shape)).astype(np.float32) for shape in shapes]
            results = _applied(rule, outputs, arrays)
            if results is None:
                return False
            numbers = [array.reshape(lot, -1) for array in arrays]
            ways = _Ways(numbers, results, [len(shape) == 1 for shape in shapes]) if ways is None else ways
            if not ways.left(numbers, results):
                return False
    return True


def reads(rule: Callable[[Any], Any], outputs: Any, replaced: Sequence[bool]) -> bool:
    """Tells whether what a rule gives depends on some of the outputs; True where that can't be tried.

    Args:
        rule: A user's function of the outputs.
        outputs: Tensors (N, ...) in any structure.
        replaced: For each of them, flattened, whether it is one of these.
    """
    rng = np.random.default_rng(0)
    shapes = _shapes(outputs)
    before = [rng.uniform(*_RANGES[0], (2, *shape)).astype(np.float32) for shape in shapes]
    fresh = [rng.uniform(*_RANGES[0], (2, *shape)).astype(np.float32) for shape in shapes]
    after = [new if own else old for old, new, own in zip(before, fresh, replaced, strict=True)]
    results = [_applied(rule, outputs, arrays) for arrays in (before, after)]
    return any(result is None for result in results) or not np.array_equal(*results)  # type: ignore[arg-type]


class _Ways:
    """In which ways the results may have been picked: which number, or which two, of which output."""

    def __init__(self, numbers: Sequence[Floats], results: Floats, rows: Sequence[bool]) -> None:
        self._ones = [(sign, i, np.arange(a.shape[1])) for i, a in enumerate(numbers) for sign in (1, -1)]
        self._largest = [i for i, is_row in enumerate(rows) if is_row]
        self._pairs = [(i, *_pairs(array[0], float(results[0]))) for i, array in enumerate(numbers)]

    def left(self, numbers: Sequence[Floats], results: Floats) -> bool:
        """Tells whether a way is left that gives these results (M,) of these numbers, (M, D) of each output."""
        self._ones = [(sign, i, at[_equal(sign * numbers[i][:, at], results)]) for sign, i, at in self._ones if at.size]
        self._pairs = [
            (i, plus[same], minus[same])
            for i, plus, minus in self._pairs
            if plus.size
            for same in [_equal(numbers[i][:, plus] - numbers[i][:, minus], results)]
        ]
        self._largest = [i for i in self._largest if _equal(numbers[i].max(axis=1, keepdims=True), results).all()]
        picked = [*(at for *_, at in self._ones), *(plus for _, plus, _ in self._pairs)]
        return bool(self._largest) or any(places.size for places in picked)


def _equal(columns: Floats, results: Floats) -> Any:
    return np.isclose(columns, results[:, None], rtol=1e-5, atol=1e-6).all(axis=0)


def _pairs(values: Floats, result: float) -> tuple[Any, Any]:
    """Returns the places of all pairs of values (D,) whose difference is the result, as far as one row tells."""
    order = np.argsort(values)
    wanted = values.astype(np.float64) - result
    first, behind = (np.searchsorted(values[order], wanted + shift, side) for shift, side in _WINDOW)
    counts = behind - first
    plus = np.repeat(np.arange(len(values)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return plus, order[np.repeat(first, counts) + offsets]


_WINDOW: tuple[tuple[float, Any], ...] = ((-2e-6, "left"), (2e-6, "right"))


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(3 if side is None else side for side in leaf.shape[1:]) for leaf in keras.tree.flatten(outputs)]


def _applied(rule: Callable[[Any], Any], outputs: Any, arrays: Sequence[Floats]) -> Floats | None:
    """Returns what the rule gives of other numbers, (M,) float32; None where it fails or gives something else."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    try:
        result = values_of(rule(keras.tree.pack_sequence_as(outputs, tensors)))
        return np.asarray(result, np.float32).reshape(len(arrays[0]))
    except Exception:
        # A user's function may fail in any way, as on another number of samples. Its faults are told by `scores`.
        return None
