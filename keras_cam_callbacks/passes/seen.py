"""What copies of a sample, each with a band of the image changed, change in a layer, or in many layers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..engine.contract import FrozenPass, Run
from ..network.layers import LayerCall, Tap
from .bands import Answers, answers, finite
from .taps import as_activations


@dataclass(frozen=True, eq=False)
class Seen:
    """What is seen of a layer.

    Attributes:
        rows: How many rows it puts out for each sample.
        changes: (6 x axes, *positions), as `answers` gives it, where there is one row for each.
        reached: (*positions,) bool, where some target has a gradient that isn't zero; None where none was captured.
    """

    rows: float
    changes: Answers
    reached: npt.NDArray[np.bool_] | None = None


def seen(arrays: Mapping[str, Any], name: str, count: int) -> Seen:
    """Returns what is seen of a layer in one pass of `Capturer` on `count` copies.

    Args:
        arrays: What the pass returns.
        name: Under which name it has the layer's activations.
        count: The number of copies.
    """
    values, at = arrays[name], name.rpartition(" ")[2]
    gradients = [value for key, value in arrays.items() if key.startswith("gradients ") and key.endswith(f" {at}")]
    reached = [np.any(value, axis=(0, -1)) for value in gradients]
    rows = len(values) / count
    changes = answers(values) if rows == 1 else np.zeros((0, *values.shape[1:-1]))
    return Seen(rows, changes, np.any(reached, axis=0) if reached else None)


def seen_at_once(
    traced: FrozenPass, run: Run, taps: Iterable[tuple[LayerCall, Tap]], arguments: Any, count: int
) -> dict[str, Seen]:
    """Returns what is seen of many layers in one pass forward, by their paths; the model is not traced anew for it.

    No gradient is computed, and no more leaves the pass than what changes at each position.

    Args:
        traced: The traced function.
        run: The run of the model in it.
        taps: The calls of the layers.
        arguments: What the function takes, of the copies.
        count: The number of copies; where the model takes more, the further samples are of no matter.

    Returns:
        Nothing where that can't be told, as of a model that runs eagerly.
    """
    # How many steps there are may be a tensor of that trace.
    of_layers = [(call, tap) for call, tap in taps if call.steps is None or isinstance(call.steps, int)]

    def function(*tensors: Any) -> dict[str, Any]:
        ops, results = keras.ops, {}
        for i, (tensor, (call, tap)) in enumerate(zip(tensors, of_layers, strict=True)):
            values = as_activations(tensor, tap, call.steps)
            results[f"rows {i}"] = ops.shape(values)[0]
            results[f"changes {i}"] = ops.sqrt(ops.sum(ops.square(values[1:] - values[:1]), axis=-1))
        return results

    look: Callable[..., Any] | None = traced.beside(
        [run.tensors[call.output_ids[0]] for call, _ in of_layers], function
    )
    if look is None:
        return {}
    arrays, samples = look(*arguments), len(keras.tree.flatten(arguments)[0])
    return {
        tap.path: Seen(
            float(arrays[f"rows {i}"]) / samples, finite(arrays[f"changes {i}"][: count - 1].astype(np.float64))
        )
        for i, (_, tap) in enumerate(of_layers)
    }
