"""Layers as they were before something ran, and layers whose calls put out something else for a while."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from . import stepping
from .precision import plain_way_back
from .wrapped import exchanged


@contextmanager
def layers_as_found(every: Sequence[Any]) -> Iterator[None]:
    """Undoes what running layers writes into them beside their variables: the losses that they add.

    Meanwhile layers that step through time take all steps at once; and what layers are to compute anew on the way back,
    to save memory while the model is trained, is kept, since what is inside could not be seen.

    Args:
        every: The model and all of its layers.
    """
    layers = [layer for layer in every if isinstance(layer, keras.layers.Layer)]
    # Later versions of Keras note the losses' ids beside them.
    noted = [(layer, list(layer._losses), set(getattr(layer, "_loss_ids", ()))) for layer in layers]
    try:
        with ExitStack() as changes:
            for layer in every:
                if getattr(layer, "_remat_mode", None) is not None:  # Older versions of Keras have none.
                    changes.enter_context(exchanged(layer, "_remat_mode", None))
                changes.enter_context(plain_way_back(layer))
                if stepping.steps_by_itself(layer) and not stepping.is_at_once(layer):
                    changes.enter_context(exchanged(layer, "call", stepping.at_once(layer)))
            yield
    finally:
        for layer, losses, ids in noted:
            layer._losses[:] = losses
            if hasattr(layer, "_loss_ids"):
                layer._loss_ids.clear()
                layer._loss_ids.update(ids)


def another_output(activations: Any, numbers: Collection[int]) -> Callable[[Any, Any], Any]:
    """Returns what a tapped layer puts out in the place of its output.

    Args:
        activations: A tensor, or a function of the output.
        numbers: Which of the layer's calls are meant, from 1 on; None is returned in the others.
    """
    calls = itertools.count(1)

    def instead(received: Any, output: Any) -> Any:
        if next(calls) not in numbers:
            return None
        return keras.ops.cast(activations(output) if callable(activations) else activations, output.dtype)

    return instead
