"""Which layer is explained where none is named: the layers that may be, the best ones first."""

from __future__ import annotations

from collections.abc import Container, Sequence
from math import inf, prod
from typing import Any

import keras

from .layers import (
    LayerCall,
    call_that_made,
    called_once,
    candidates,
    data_format,
    has_kernels,
    is_feature_map,
    listing,
    may_be_chosen,
)

_CONVOLUTIONS = tuple(
    getattr(keras.layers, name.format(axes))
    for axes, names in (
        (1, ("Conv{}D", "SeparableConv{}D", "Conv{}DTranspose")),
        (2, ("Conv{}D", "SeparableConv{}D", "Conv{}DTranspose")),
        (3, ("Conv{}D", "Conv{}DTranspose")),
    )
    for name in names
)

_COARSEST = 32
"""Most pixels along an axis that a position of a bottleneck stands for."""


def token_calls(calls: Sequence[LayerCall]) -> list[LayerCall]:
    """Returns the calls, once each, of layers that put out rows of tokens (samples, tokens, channels)."""
    return [call for call in called_once(calls) if is_tokens(call) and may_be_chosen(call)]


def is_tokens(call: LayerCall) -> bool:
    """Tells whether a layer's output may be tokens: (samples, tokens, channels), a few of both at least."""
    shape = call.output_shape
    return shape is not None and len(shape) == 3 and (shape[1] is None or shape[1] >= 4) and shape[2] != 1


def is_of_frames(call: LayerCall, frames: int) -> bool:
    """Tells whether a layer puts out one row of features for each frame of a clip, which has no places in the frame."""
    if not is_tokens(call):
        return False
    stepped = call.steps is not None or isinstance(call.layer, keras.layers.TimeDistributed)
    return stepped or (call.output_shape is not None and call.output_shape[1] == frames)


def preferred(
    calls: Sequence[LayerCall],
    used: Container[Any] | None,
    sources: Sequence[Any],
    tokens: bool,
    dense: tuple[int, ...] | None = None,
    axes: int = 2,
) -> list[LayerCall]:
    """Returns the layers among which one is chosen, the best first.

    Behind self-attention, each token holds something of all others, and a map of it says little of places. So the first
    one is the input of the last self-attention, its norm as a rule; unless convolutions make a map again behind it.
    Else it is the last map or row of tokens in call order, where classes are most distinct.

    The last map before a mask is hardly more than the mask. There it is the last of the smallest maps, the bottleneck,
    in which a position has seen most. Maps of less than a position for 32 x 32 px, as pyramid pooling makes
    them beside it, come last.

    Args:
        calls: The calls of the model's layers, without those of its outputs.
        used: Ids of the tensors that the score depends on, where that is known; other branches are left out.
        sources: Ids of the inputs of the self-attentions on the way to the score, in their order.
        tokens: Whether rows of tokens may be chosen.
        dense: The image's sizes, where pixels of a mask are explained; else None.
        axes: How many axes the image has.
    """
    options = candidates(calls, axes) + ([*token_calls(calls), *_made_maps(calls, axes)] if tokens else [])
    order = {id(call): i for i, call in enumerate(calls)}
    options = _behind_weights(calls, options)
    options = [call for call in options if used is None or any(tensor in used for tensor in call.output_ids)]
    options.sort(key=lambda call: order[id(call)], reverse=True)
    if dense is not None:
        least = prod(-(-side // _COARSEST) for side in dense)
        options.sort(key=lambda call: (_cells(call, calls) < least, _cells(call, calls)))
        return options
    single = called_once(calls)
    makers = [call_that_made(source, calls) for source in reversed(sources)] if tokens or axes == 1 else []
    first = [call for call in makers if call in single and (call in options or is_tokens(call))]
    made = [order[id(call)] for call in options if isinstance(call.layer, _CONVOLUTIONS) and _is_wide(call.layer)]
    if first and max(made, default=-1) > order[id(first[0])]:
        return options
    return [*first, *(call for call in options if call not in first)]


def _cells(call: LayerCall, calls: Sequence[LayerCall]) -> float:
    """Returns how many positions a map or a row of tokens has; infinity where that isn't fixed."""
    sides = list(call.output_shape or ())[1:]
    sides.pop(0 if len(sides) > 2 and data_format([c.layer for c in calls], call.layer) == "channels_first" else -1)
    return prod(inf if side is None else side for side in sides)


def _made_maps(calls: Sequence[LayerCall], axes: int) -> list[LayerCall]:
    """Returns the calls that reshape something into a map, which may be tokens."""
    reshapes = [call for call in called_once(calls) if type(call.layer).__name__ == "Reshape"]
    maps = [call for call in reshapes if is_feature_map(call.output_shape, axes=axes)]
    return [call for call in maps if (call.output_shape or (1,))[-1] != 1]


def no_layer(
    model: Any, calls: Sequence[LayerCall], refused: Sequence[str], axes: Sequence[str] = ("height", "width")
) -> ValueError:
    """Returns the error of a model in which no layer can be chosen.

    Args:
        model: The model.
        calls: The calls of its layers.
        refused: Paths of layers whose positions are no places of the image.
        axes: Names of the axes of the image.
    """
    again = next(
        (
            call.path
            for call in reversed(calls)
            if call.number > 1 and is_feature_map(call.output_shape, axes=len(axes)) and may_be_chosen(call)
        ),
        None,
    )
    return ValueError(
        f"A heatmap needs a layer whose output is a feature map (samples, {', '.join(axes)}, channels) of more than "
        "one position, "
        + ("or tokens (samples, tokens, channels) that make one, " if len(axes) > 1 else "")
        + "in one call, on the way to the score. "
        f"Received: model {model.name!r}, which has none among: {listing([call.path for call in calls])}. "
        + (
            f"Positions of {listing(refused)} don't answer to places of the image; layer_name=... takes one all the "
            "same. "
            if refused
            else ""
        )
        + (f"layer_name={again!r} takes the last call of a layer that is called several times. " if again else "")
        + "Methods of the image itself, such as method='occlusion' or 'saliency', need no layer."
    )


def _is_wide(layer: Any) -> bool:
    return bool(max(layer.kernel_size) > 1)


def _behind_weights(calls: Sequence[LayerCall], options: Sequence[LayerCall]) -> list[LayerCall]:
    """Returns the options that a layer with kernels has worked for: what comes before is the image, rearranged."""
    weighted = False
    late = set()
    for call in calls:
        weighted = weighted or has_kernels(call.layer)
        if weighted:
            late.add(id(call))
    if not weighted:  # Weights that no layer holds.
        return list(options)
    return [call for call in options if id(call) in late]
