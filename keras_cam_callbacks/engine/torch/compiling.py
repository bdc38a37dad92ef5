"""Functions of arrays: run eagerly, whole or without what is frozen, and without gradients where none are asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import torch

from .arrays import as_arrays, as_tensor
from .asked import Memory
from .frozen import FrozenPass


def compile_pass(
    function: Callable[..., Any],
    model: Any,
    example: tuple[Any, ...],
    samples: int | None = None,
    traced: bool = False,
    shared: Collection[int] = (),
) -> Callable[..., Any]:
    """Returns a function of arrays, for any number of samples, that nothing is traced for; see `contract.Engine`."""
    memory = Memory()

    def run(*arguments: Any) -> Any:
        with torch.no_grad():
            tensors = keras.tree.map_structure(as_tensor, arguments)
            return as_arrays(memory.call(functools.partial(function, *tensors)))

    return run


def compile_frozen_pass(
    function: Callable[..., Any],
    model: Any,
    example: tuple[Any, ...],
    samples: int | None,
    sizes: Sequence[int],
    most: int,
) -> FrozenPass:
    """Runs a function, and what the model's training leaves as it is once; see `contract.Engine`."""
    return FrozenPass(function, model, example, samples is not None, most)
