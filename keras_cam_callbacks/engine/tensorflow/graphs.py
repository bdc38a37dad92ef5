"""Traced functions and their graphs, as the other files of this engine use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf


def traced(function: Callable[..., Any], *specs: Any) -> Any:
    """Traces a function once, as it is, for arguments of these specs."""
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def on_arrays(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of tensors with arrays, or tensors, in any structure; returns numpy arrays that are read-only.

    They are the tensors' own memory, for a copy of a small model's activations takes as long as its head.
    """
    found = function(*tf.nest.map_structure(tf.convert_to_tensor, arguments))
    return tf.nest.map_structure(np.asarray, found)


def ancestors(tensors: Iterable[Any], follow: Callable[[Any], bool] = lambda tensor: True) -> list[Any]:
    """Returns the operations that tensors come from, each once, back to the tensors that are not followed."""
    found: dict[str, Any] = {}
    waiting = [tensor.op for tensor in tensors if follow(tensor)]
    while waiting:
        op = waiting.pop()
        if op.name not in found:
            found[op.name] = op
            waiting.extend(tensor.op for tensor in op.inputs if follow(tensor))
    return list(found.values())
