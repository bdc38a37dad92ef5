"""Where the layers of a model add constants while it runs: the places of FullGrad, alike in every framework."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras

from ..network.biases import adds_bias, adds_constant
from ..network.layers import data_format, walk
from . import stepping, wrapping
from .wrapped import exchanged


@dataclass(eq=False)
class Constants:
    """What was seen of a run.

    Attributes:
        reached: Each place: path, layer, what `watch` returned of its tensor, layout, and how many steps of a sample
            are rows of their own there, or None.
        missed: Paths of layers with a constant that is out of reach, each with the reason.
    """

    reached: list[tuple[str, Any, Any, str, Any]] = field(default_factory=list)
    missed: list[tuple[str, str]] = field(default_factory=list)

    def check(self) -> None:
        """Raises ValueError if a place is out of reach."""
        for path, reason in self.missed:
            raise ValueError(
                "FullGrad needs the gradient wherever a layer adds its bias. "
                f"Received: layer {path!r}, {reason}. 'saliency' and 'input_x_gradient' need the image's gradient only."
            )


@contextmanager
def watched_constants(
    model: Any, tap: Callable[..., AbstractContextManager[None]], watch: Callable[[Any], Any]
) -> Iterator[Constants]:
    """Watches every tensor to which a layer has added a constant, while the model runs in the context.

    Args:
        model: The model.
        tap: The engine's own: (layer, on_call) wraps the layer's `call`.
        watch: Takes such a tensor; returns what is kept of it, None where it is out of reach.
    """
    every, constants = list(walk(model)), Constants()
    called: list[Any] = []
    handed: set[int] = set()
    activations = {id(layer): layer.activation for _, layer in every if adds_bias(layer)}

    def on_constant(path: str, layer: Any, tensor: Any) -> None:
        kept = watch(tensor)
        if kept is None:
            constants.missed.append((path, "which runs in a loop or in another graph of its own"))
        else:
            layout = data_format([*called, layer], layer)
            constants.reached.append((path, layer, kept, layout, stepping.current()))

    def on_call(path: str, layer: Any, received: Any, output: Any) -> None:
        if adds_constant(layer):
            on_constant(path, layer, output)
        elif adds_bias(layer) and id(layer) not in handed:
            # A class that overrides `call` need not hand anything to the activation.
            on_constant(path, layer, output)
            if activations[id(layer)] not in (None, keras.activations.linear):
                constants.missed.append((path, "whose own `call` does not use the layer's `activation`"))
        handed.discard(id(layer))
        called.append(layer)

    def activated(path: str, layer: Any) -> Any:
        original = layer.activation

        def activation(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            handed.add(id(layer))
            on_constant(path, layer, tensor)
            return original(tensor, *args, **kwargs)

        return activation

    with wrapping, ExitStack() as taps:
        for path, layer in every:
            # All steps run at once but those of a class that overrides `call`.
            loops = isinstance(layer, keras.layers.TimeDistributed) and not stepping.steps_by_itself(layer)
            inside = [inner for _, inner in walk(layer)] if loops else []
            if any(adds_bias(inner) or adds_constant(inner) for inner in inside):
                constants.missed.append((path, "which runs layers in a loop"))
            taps.enter_context(tap(layer, functools.partial(on_call, path, layer)))
            if activations.get(id(layer)) is not None:
                taps.enter_context(exchanged(layer, "activation", activated(path, layer)))
        yield constants
