"""Functions of arrays: traced once for any number of samples, whole or without what is frozen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import tensorflow as tf

from . import graphs
from .frozen import FrozenPass


def compile_pass(
    function: Callable[..., Any],
    model: Any,
    example: tuple[Any, ...],
    samples: int | None = None,
    traced: bool = False,
    shared: Collection[int] = (),
) -> Callable[..., Any]:
    """Traces a function of arrays once, for any numbers of rows; see `contract.Engine`."""
    compiled = function
    if not _runs_eagerly(model) or traced:
        compiled = graphs.traced(function, *_specs(example, samples))
    return functools.partial(graphs.on_arrays, compiled)


def compile_frozen_pass(
    function: Callable[..., Any],
    model: Any,
    example: tuple[Any, ...],
    samples: int | None,
    sizes: Sequence[int],
    most: int,
) -> FrozenPass:
    """Traces a function, and runs what the model's training leaves as it is once; see `contract.Engine`."""
    specs = None if _runs_eagerly(model) else _specs(example, samples)
    return FrozenPass(function, specs, model.trainable_variables, sizes, most)


def _runs_eagerly(model: Any) -> bool:
    return bool(getattr(model, "run_eagerly", False))


def _specs(example: tuple[Any, ...], samples: int | None) -> Any:
    return tf.nest.map_structure(lambda a: tf.TensorSpec((samples, *a.shape[1:]), tf.as_dtype(a.dtype)), example)
