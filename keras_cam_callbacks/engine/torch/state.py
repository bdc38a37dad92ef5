"""A model and PyTorch's own state, as they were before something ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import torch

from ...network.layers import walk
from .. import stepping, wrapping
from ..precision import plain_way_back
from ..wrapped import exchanged


@contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """Undoes what running a model writes into it: states of seeds and metrics, losses, modes of modules, random state.

    Meanwhile its variables need no gradient, so that only what lies behind a watched tensor is recorded; layers that
    step through time take all steps at once; and what layers are to compute anew on the way back is kept.
    """
    with wrapping:
        every = [model, *(layer for _, layer in walk(model))]
        layers = [layer for layer in every if isinstance(layer, keras.layers.Layer)]
        # Later versions of Keras note the losses' ids beside them.
        noted = [(layer, list(layer._losses), set(getattr(layer, "_loss_ids", ()))) for layer in layers]
        modes = [(module, module.training) for module in torch.nn.Module.modules(model)]
        random = _random_state()
        # A layer inside another one has its variables there as well.
        variables = {id(variable): variable for layer in layers for variable in layer.variables}
        values = [(variable, variable.value.detach()) for variable in variables.values()]
        try:
            # Assignments to variables stay in this scope.
            with keras.StatelessScope(values), ExitStack() as taps:
                for layer in every:
                    if getattr(layer, "_remat_mode", None) is not None:  # Older versions of Keras have none.
                        taps.enter_context(exchanged(layer, "_remat_mode", None))
                    taps.enter_context(plain_way_back(layer))
                    if stepping.steps_by_itself(layer) and not stepping.is_at_once(layer):
                        taps.enter_context(exchanged(layer, "call", stepping.at_once(layer)))
                yield
        finally:
            _set_random_state(random)
            for module, mode in modes:
                if module.training != mode:
                    vars(module)["training"] = mode
            for layer, losses, ids in noted:
                layer._losses[:] = losses
                if hasattr(layer, "_loss_ids"):
                    layer._loss_ids.clear()
                    layer._loss_ids.update(ids)


def _random_state() -> tuple[Any, Any]:
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return torch.get_rng_state(), on_devices


def _set_random_state(state: tuple[Any, Any]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
