"""Taps: the layers that are looked into, found among the calls of one run, and the model made ready for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from .. import engine
from ..data.layout import channels_last, in_layout
from ..data.spaces import AXES
from ..network.choosing import is_tokens, token_calls
from ..network.layers import (
    LayerCall,
    Tap,
    candidates,
    data_format,
    find_call,
    input_tensors,
    is_feature_map,
    listing,
    may_be_chosen,
)
from ..records import Space


@dataclass(frozen=True)
class Purpose:
    """What layers are tapped for.

    Attributes:
        subject: How messages call such a layer.
        options: Returns those of the calls that would do, for an input whose space has so many axes.
        tokens: Whether rows of tokens do as well.
    """

    subject: str
    options: Callable[[Sequence[LayerCall], int], list[LayerCall]]
    tokens: bool = False

    def advice(self, calls: Sequence[LayerCall], axes: int = 2) -> str:
        """Returns which layers would do, in words."""
        return f"These layers would do: {listing([call.path for call in self.options(calls, axes)])}."


def _explained(calls: Sequence[LayerCall], axes: int) -> list[LayerCall]:
    options = [*candidates(calls, axes), *(token_calls(calls) if axes > 1 else ())]
    if not options:  # All are called several times.
        options = [call for call in calls if may_be_chosen(call) and is_feature_map(call.output_shape, axes=axes)]
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


def named_layer(
    model: Any, layer_name: Any, inputs: Any, purpose: Purpose = EXPLAINED, axes: int = 2
) -> tuple[str, Any, int | None]:
    """Finds a named layer, and which of its calls is meant, None where that isn't said.

    Where there is none, the error lists the layers that would do.
    """
    try:
        return find_call(model, layer_name)
    except ValueError as error:
        raise ValueError(f"{error} {purpose.advice(layer_calls(model, inputs), axes)}") from None


def single_call(
    path: str,
    layer: Any,
    calls: Sequence[LayerCall],
    purpose: Purpose = EXPLAINED,
    axes: int = 2,
    number: int | None = None,
) -> LayerCall:
    """Returns the one call of a layer, or one of several by its number.

    Raises:
        ValueError: If there is none, or there are several.
    """
    mine = [call for call in calls if call.layer is layer]
    meant = [call for call in mine if number in (None, call.number)]
    if len(meant) != 1:
        raise ValueError(
            f"{purpose.subject} must be called once when the model runs, or one of its calls be named. "
            f"Received: layer {path!r}, called {_times(len(mine))}"
            + (f"; {mine[-1].path!r} names its last call. " if mine else ", because the model doesn't use it. ")
            + purpose.advice(calls, axes)
        )
    return meant[0]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count or 'no'} times"


def make_tap(
    call: LayerCall,
    calls: Sequence[LayerCall],
    purpose: Purpose = EXPLAINED,
    axes: tuple[str, ...] = AXES["image"],
    attends: bool = False,
) -> Tap:
    """Describes a layer, after a check that it puts out a feature map.

    Args:
        call: The layer's call.
        calls: All calls of the model's layers, in call order.
        purpose: What it is tapped for.
        axes: Names of the axes of the input's space.
        attends: Whether rows of a signal may have special tokens among them, as for self-attention.

    Raises:
        ValueError: If it puts out anything else.
    """
    held, stepped = weakref.ref(call.layer), call.steps is not None
    if purpose.tokens and (len(axes) > 1 or attends) and is_tokens(call):
        assert call.output_shape is not None
        space = Space(("tokens",), (call.output_shape[1],))
        return Tap(call.path, held, space, call.output_shape[2], number=call.number)
    layout = data_format([c.layer for c in calls], call.layer)
    if not is_feature_map(call.output_shape, layout, len(axes)):
        raise ValueError(
            f"{purpose.subject} must put out a feature map (samples, {', '.join(axes)}, channels) of more than one "
            f"position. Received: layer {call.path!r} with output shape {call.output_shape or 'of several tensors'}. "
            f"{purpose.advice(calls, len(axes))}"
        )
    assert call.output_shape is not None
    sizes = list(call.output_shape[1:])
    channels = sizes.pop(int(stepped) if layout == "channels_first" else -1)
    lacking = len(axes) - len(sizes)
    space = Space(axes, (*(1,) * lacking, *sizes), layout)
    return Tap(call.path, held, space, channels, number=call.number, stepped=stepped, lacking=lacking)


def as_activations(tensor: Any, tap: Tap, steps: Any = None) -> Any:
    """Returns what a layer puts out, or its gradient, as (N, *space, C) float32.

    Args:
        tensor: The tensor.
        tap: The layer.
        steps: As `LayerCall` has it.
    """
    ops = keras.ops
    values = channels_last(ops.cast(tensor, "float32"), tap.space.layout)
    if steps is not None:
        values = ops.reshape(values, (-1, steps, *ops.shape(values)[1:]))
    for _ in range(tap.lacking):
        values = ops.expand_dims(values, 1)
    return values


def as_output(activations: Any, tap: Tap) -> Any:
    """Returns activations (N, *space, C) as the layer puts them out."""
    ops = keras.ops
    for _ in range(tap.lacking):
        activations = ops.squeeze(activations, 1)
    if tap.stepped:
        activations = ops.reshape(activations, (-1, *ops.shape(activations)[2:]))
    return in_layout(activations, tap.space.layout)


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
