"""Functions of arrays: traced once for a number of samples, whole or without what is frozen."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import keras

from .frozen import FrozenPass, WholePass
from .programs import Lots, Program, as_arrays, current_values, needs_values


def compile_pass(
    function: Callable[..., Any],
    model: Any,
    example: tuple[Any, ...],
    samples: int | None = None,
    traced: bool = False,
    shared: Collection[int] = (),
) -> Callable[..., Any]:
    """Traces a function of arrays; see `contract.Engine`. It is compiled for the numbers of samples it is run with.

    What the user runs eagerly is traced as well where that can be done: it computes the same.
    """
    try:
        program = Program(function, model, example, samples)
    except Exception as error:  # Keras may put any in the place of JAX's own.
        if traced or not _runs_eagerly(model) or not needs_values(error):
            raise
        return _eager(function, model, example)
    lots = Lots(samples, shared)
    return lambda *arguments: lots.run(lambda *lot: program.compiled(program.values(), *lot), arguments, samples)


def compile_frozen_pass(
    function: Callable[..., Any],
    model: Any,
    example: tuple[Any, ...],
    samples: int | None,
    sizes: Sequence[int],
    most: int,
) -> Any:
    """Traces a function, and runs what the model's training leaves as it is once; see `contract.Engine`."""
    try:
        program = Program(function, model, example, samples or max(sizes))
    except Exception as error:
        if not _runs_eagerly(model) or not needs_values(error):
            raise
        return WholePass(_eager(function, model, example))
    return FrozenPass(program, model.trainable_variables, sizes, most)


def _runs_eagerly(model: Any) -> bool:
    return bool(getattr(model, "run_eagerly", False))


def _eager(function: Callable[..., Any], model: Any, example: tuple[Any, ...]) -> Callable[..., Any]:
    """Returns a function of arrays that runs operation by operation, after a first run in place of a trace."""
    held = weakref.ref(model)

    def run(*arguments: Any) -> Any:
        current: Any = held()
        current_values(current, current.variables)  # They are in their place then.
        return as_arrays(function(*jax.tree.map(keras.ops.convert_to_tensor, arguments)))

    run(*example)
    return run
