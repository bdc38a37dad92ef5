"""Functions of arrays: run eagerly, whole or without what is frozen, and without gradients where none are asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import torch

from .asked import Memory
from .frozen import FrozenPass


def compile_pass(
    function: Callable[..., Any], model: Any, example: tuple[Any, ...], samples: int | None = None, traced: bool = False
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
    return FrozenPass(compile_pass(function, model, example), model, most)


def as_tensor(array: Any) -> Any:
    """Returns an array as a tensor on Keras' device; texts as they are."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "USO":
        return array
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()  # PyTorch warns of others, as it can't have tensors that are read-only.
    return keras.ops.convert_to_tensor(array)


def as_arrays(results: Any) -> Any:
    """Returns tensors in any structure as numpy arrays that are read-only, without a copy where they are on the CPU."""
    return keras.tree.map_structure(_as_array, results)


def _as_array(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    array = (tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    array.flags.writeable = False
    return array
