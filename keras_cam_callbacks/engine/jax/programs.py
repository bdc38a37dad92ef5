"""A function of arrays, traced and compiled for numbers of samples; variables are arguments of it.

JAX compiles for one shape. So that not each number of samples has a program of its own, few rows are filled up to a
number that is there, as the last ones of a batch are behind full lots of it, and many are run in several lots.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax
import keras
import numpy as np

from .state import variables_as

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_MOST_PADDED = 4
"""Rows are filled up to so many times their number, and run in as many lots, before a program is made for them."""


class Program:
    """A function of a model's variables and of arguments (N, ...).

    Attributes:
        variables: The variables that it reads.
        compiled: The function, of the variables' tensors and the arguments.
        traced: What JAX has traced of it first.
        size: The number of samples that it was traced for first.
    """

    def __init__(self, function: Callable[..., Any], model: Any, example: tuple[Any, ...], samples: int | None) -> None:
        """Traces the function.

        Args:
            function: Takes arguments like `example`.
            model: The model that it runs; held weakly.
            example: Arrays of one sample at least.
            samples: The number of samples to trace it for; None for that of `example`.
        """
        self._model, self._function = weakref.ref(model), function
        self.variables: list[Any] = list({id(variable): variable for variable in model.variables}.values())
        specs = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((samples or a.shape[0], *a.shape[1:]), _dtype(a)), tuple(example)
        )
        self.size: int = jax.tree.leaves(specs)[0].shape[0]
        while True:
            noted: dict[int, Any] = {}
            self.compiled = jax.jit(self._of_variables(list(self.variables), noted))
            self.traced = self.compiled.trace(self.values(), *specs)
            if not noted:
                break
            # Of a layer that the model doesn't know: as a constant it would keep the weights that it has now.
            self.variables.extend(noted.values())

    def _of_variables(self, variables: Sequence[Any], noted: dict[int, Any]) -> Callable[..., Any]:
        def function(values: Sequence[Any], *arguments: Any) -> Any:
            with variables_as(list(zip(variables, values, strict=True)), noted):
                return jax.tree.map(keras.ops.convert_to_tensor, self._function(*arguments))

        return function

    def values(self) -> list[Any]:
        """Returns what the variables hold now."""
        return current_values(self._model(), self.variables)


def current_values(model: Any, variables: Iterable[Any]) -> list[Any]:
    """Returns what variables of a model hold now; within `fit`, Keras has that elsewhere until it is asked.

    Raises:
        ValueError: If another model is in training that has them, as where the explained one is a part of it.
    """
    if getattr(model, "_jax_state", None):
        model.jax_state_sync()
    values = []
    for variable in variables:
        # Of one that holds nothing, Keras would hand out numbers that are drawn anew.
        if getattr(variable, "_value", variable) is None:
            raise ValueError(
                "A model must have its weights when it is explained. "
                f"Received: model {model.name!r}, whose weights are with another one that is in the middle of `fit`. "
                "Call `jax_state_sync()` of that one first: in a callback, `self.model.jax_state_sync()`."
            )
        values.append(variable.value)
    return values


def needs_values(error: BaseException | None) -> bool:
    """Tells whether an error is what JAX raises where a function that it traces needs the numbers of a tensor.

    Keras adds to errors the layer that they come from, and fails in that with these: another one takes their place.
    """
    while error is not None:
        if isinstance(error, _NEEDS_VALUES):
            return True
        error = error.__context__
    return False


class Lots:
    """Which numbers of samples a function runs with."""

    def __init__(self, size: int | None = None, shared: Collection[int] = ()) -> None:
        """Takes the number that it has a program for, if any, and which arguments are the same for all samples."""
        self._shared = shared
        self._sizes: dict[Any, set[int]] = {}
        self._first, self._last = size, 0

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...], size: int | None = None) -> Any:
        """Runs a function of arguments whose rows are samples.

        Args:
            function: The function; returns a structure of arrays whose rows are as many as the samples, or a multiple.
            arguments: Arrays or tensors. Those that are the same for all samples are handed on as they are.
            size: The number of samples to run at once; None to have it chosen.

        Returns:
            What the function returns, as numpy arrays, read-only.
        """
        leaves, tree = jax.tree.flatten(arguments)
        count = leaves[0].shape[0]
        varied = [i not in self._shared for i, part in enumerate(arguments) for _ in jax.tree.leaves(part)]
        if size is None:
            key = (*varied, *(leaf.shape[0] for leaf, of_rows in zip(leaves, varied, strict=True) if not of_rows))
            size = self._choose(count, self._sizes.setdefault(key, {self._first} if self._first else set()))
        self._last, parts = count, []
        for start in range(0, count, size):
            rows: Any = np.arange(start, min(start + size, count))
            taken = leaves
            if size != count:
                filled = slice(start, start + size) if len(rows) == size else np.resize(rows, size)
                taken = [leaf[filled] if of_rows else leaf for leaf, of_rows in zip(leaves, varied, strict=True)]
            parts.append(jax.tree.map(lambda a: _rows(a, size, len(rows)), function(*jax.tree.unflatten(tree, taken))))  # noqa: B023
        return parts[0] if len(parts) == 1 else jax.tree.map(_joined, *parts)

    def _choose(self, count: int, sizes: set[int]) -> int:
        if count < self._last and self._last in sizes:  # The last ones of a batch, most likely.
            return self._last
        larger = [size for size in sizes if count <= size <= _MOST_PADDED * count]
        smaller = [size for size in sizes if size < count <= _MOST_PADDED * size]
        if larger:
            return min(larger)
        if smaller:
            return max(smaller)
        sizes.add(count)
        return count


def as_arrays(results: Any) -> Any:
    """Returns tensors as numpy arrays that are read-only; they are the tensors' own memory where that is the CPU's."""
    return jax.tree.map(_as_array, results)


def _as_array(tensor: Any) -> Any:
    array = np.asarray(tensor).view()
    array.flags.writeable = False
    return array


def _rows(tensor: Any, size: int, count: int) -> Any:
    """Returns what came of the first rows of a lot that was filled up."""
    array = _as_array(tensor)
    if size == count or not array.ndim or len(array) % size:
        return array
    return array[: len(array) // size * count]


def _joined(*parts: Any) -> Any:
    joined = np.concatenate(parts) if parts[0].ndim else parts[0]
    joined.flags.writeable = False
    return joined


def _dtype(array: Any) -> Any:
    """Returns the dtype that JAX gives an array: without `jax_enable_x64` one of 32 bits at most."""
    return jax.dtypes.canonicalize_dtype(array.dtype)
