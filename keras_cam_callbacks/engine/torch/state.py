"""A model and PyTorch's own state, as they were before something ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
import torch

from ...network.layers import walk
from .. import wrapping
from ..as_found import layers_as_found


def left_as_found(model: Any) -> AbstractContextManager[None]:
    """Undoes what running a model writes into it; see `contract.Engine`."""
    return awake_left_as_found(model, frozenset())


@contextmanager
def awake_left_as_found(model: Any, asleep: Set[int]) -> Iterator[None]:
    """Undoes what running a model writes into it: states of seeds and metrics, losses, modes of modules, random state.

    Meanwhile its variables need no gradient, so that only what lies behind a watched tensor is recorded; layers that
    step through time take all steps at once; and what layers are to compute anew on the way back is kept.

    Args:
        model: The model.
        asleep: Ids of layers that will not be called.
    """
    with wrapping:
        every = [model, *(layer for _, layer in walk(model) if id(layer) not in asleep)]
        layers = [layer for layer in every if isinstance(layer, keras.layers.Layer)]
        modes = [(module, module.training) for layer in layers for module in _modules(layer)]
        random = _random_state()
        # A layer inside another one has its variables there as well.
        variables = {id(variable): variable for layer in layers for variable in _variables(layer)}
        # None of the operations of the model, for a mode that sees them.
        with torch._C.DisableTorchFunction():
            scope = keras.StatelessScope([(one, one.value.detach()) for one in variables.values()])
        try:
            # Assignments to variables stay in this scope.
            # What `torch.compile` made would run through the modes that see operations, which it can't follow.
            with scope, torch.compiler.set_stance("force_eager"), layers_as_found(every):
                yield
        finally:
            _set_random_state(random)
            for module, mode in modes:
                if module.training != mode:
                    vars(module)["training"] = mode


def _is_graph(layer: Any) -> bool:
    """Tells whether a model runs no layers but those that Keras' own classes hold in their graph."""
    return type(layer).__module__.partition(".")[0] == "keras" and isinstance(layer, keras.Model)


def _modules(layer: Any) -> Iterable[Any]:
    """Returns the modules of PyTorch that running a layer may bring into another mode."""
    return [layer] if _is_graph(layer) else torch.nn.Module.modules(layer)


def _variables(layer: Any) -> list[Any]:
    """Returns the variables of a layer and of those in it, but for models whose layers are walked through."""
    if not _is_graph(layer):
        return list(layer.variables)
    states = [generator.state for generator in layer._seed_generators]
    return [*layer._trainable_variables, *layer._non_trainable_variables, *states]


def _random_state() -> tuple[Any, Any]:
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return torch.get_rng_state(), on_devices


def _set_random_state(state: tuple[Any, Any]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
