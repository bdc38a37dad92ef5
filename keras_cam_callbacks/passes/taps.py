"""Taps: the layers that are looked into, found among the calls of one run, and the model made ready for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from .. import engine
from ..data.layout import channels_last
from ..network.choosing import is_tokens, token_calls
from ..network.layers import LayerCall, Tap, candidates, data_format, find_layer, input_tensors, is_feature_map, listing
from ..records import Space


@dataclass(frozen=True)
class Purpose:
    """What layers are tapped for.

    Attributes:
        subject: How messages call such a layer.
        options: Returns those of the calls that would do.
        tokens: Whether rows of tokens do as well.
    """

    subject: str
    options: Callable[[Sequence[LayerCall]], list[LayerCall]]
    tokens: bool = False

    def advice(self, calls: Sequence[LayerCall]) -> str:
        """Returns which layers would do, in words."""
        return f"These layers would do: {listing([call.path for call in self.options(calls)])}."


def _explained(calls: Sequence[LayerCall]) -> list[LayerCall]:
    options = [*candidates(calls), *token_calls(calls)]
    return [call for call in calls if call in options]


EXPLAINED = Purpose("The explained layer", _explained, tokens=True)


def layer_calls(model: Any, inputs: Any) -> list[LayerCall]:
    """Returns the calls of all layers inside the model at any depth, in the order in which they end.

    Args:
        model: The built model.
        inputs: At least one sample, in any structure that the model takes.
    """
    loaded = engine.load()
    calls: list[LayerCall] = []

    def look(inputs: Any) -> dict[str, Any]:
        calls[:] = loaded.tapped_run(model, inputs).calls
        return {}

    run = loaded.compile_pass(look, model, (inputs,), fixed_batch(model))
    if not calls:
        run(keras.tree.map_structure(lambda a: a[:1], inputs))
    return calls


def named_layer(model: Any, layer_name: Any, inputs: Any, purpose: Purpose = EXPLAINED) -> tuple[str, Any]:
    """Finds a named layer; where there is none, the error lists the layers that would do."""
    try:
        return find_layer(model, layer_name)
    except ValueError as error:
        raise ValueError(f"{error} {purpose.advice(layer_calls(model, inputs))}") from None


def single_call(path: str, layer: Any, calls: Sequence[LayerCall], purpose: Purpose = EXPLAINED) -> LayerCall:
    """Returns the one call of a layer.

    Raises:
        ValueError: If there is none, or there are several.
    """
    mine = [call for call in calls if call.layer is layer]
    if len(mine) != 1:
        raise ValueError(
            f"{purpose.subject} must be called once when the model runs. "
            f"Received: layer {path!r}, called {len(mine) or 'no'} times"
            + (". " if mine else ", because the model doesn't use it. ")
            + purpose.advice(calls)
        )
    return mine[0]


def make_tap(call: LayerCall, calls: Sequence[LayerCall], purpose: Purpose = EXPLAINED) -> Tap:
    """Describes a layer, after a check that it puts out a feature map.

    Args:
        call: The layer's call.
        calls: All calls of the model's layers, in call order.
        purpose: What it is tapped for.

    Raises:
        ValueError: If it puts out anything else.
    """
    if purpose.tokens and is_tokens(call):
        assert call.output_shape is not None
        return Tap(
            call.path, weakref.ref(call.layer), Space(("tokens",), (call.output_shape[1],)), call.output_shape[2]
        )
    layout = data_format([c.layer for c in calls], call.layer)
    if not is_feature_map(call.output_shape, layout):
        raise ValueError(
            f"{purpose.subject} must put out a feature map (samples, height, width, channels) larger than 1 x 1. "
            f"Received: layer {call.path!r} with output shape {call.output_shape or 'of several tensors'}. "
            f"{purpose.advice(calls)}"
        )
    assert call.output_shape is not None
    sizes = list(call.output_shape[1:])
    channels = sizes.pop(0 if layout == "channels_first" else -1)
    return Tap(call.path, weakref.ref(call.layer), Space(("height", "width"), tuple(sizes), layout), channels)


def as_activations(tensor: Any, space: Space) -> Any:
    """Returns what a layer puts out, or its gradient, as (N, *space, C) float32."""
    return channels_last(keras.ops.cast(tensor, "float32"), space.layout)


def fixed_batch(model: Any) -> int | None:
    """Returns the number of samples that the model takes, where it takes no other."""
    inputs = input_tensors(model)
    return inputs[0].shape[0] if inputs else None


def make_variables(model: Any, sample: Any) -> None:
    """Makes the variables of a model that has not run yet, on all devices that it is trained on."""
    with engine.load().scope(model):
        try:
            # What the call itself would change, such as the states of seeds, stays in the scope.
            with keras.StatelessScope():
                model(sample, training=False)
        except ValueError:  # Keras allows no variables of given values there; a model that has them is built by a call.
            model(sample, training=False)
