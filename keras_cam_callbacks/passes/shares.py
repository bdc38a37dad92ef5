"""What each constant that a layer adds, such as a bias, has for a share in the scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from ..data.layout import channels_last
from ..network.biases import Place, adds_constant
from ..network.layers import is_feature_map


def shares(places: Sequence[Place], count: Any, axes: int = 2) -> tuple[tuple[Any, ...], Any]:
    """Multiplies each constant by the gradient where it is added.

    Args:
        places: Where they are added. No layer's `call` may be wrapped any more.
        count: M, the number of samples.
        axes: How many axes the image has.

    Returns:
        One tensor (M, *space, C) float32, channels last, for each place that is a feature map of more than one
        position; and the sum over all other places, (M,) float32.
    """
    ops = keras.ops
    maps, rest = [], ops.zeros((count,), "float32")
    for place in places:
        part = place.gradient * _constant(place)
        shape, layout = tuple(place.tensor.shape), place.layout
        if place.steps is not None:
            if layout == "channels_first":
                part, shape, layout = channels_last(part, layout), (shape[0], *shape[2:], shape[1]), "channels_last"
            part = ops.reshape(part, (count, place.steps, *ops.shape(part)[1:]))
            shape = (shape[0], None, *shape[1:])
        # Steps of what has fewer axes than the image aren't its height.
        is_map = is_feature_map(shape, layout, axes) and (place.steps is None or len(shape) == axes + 2)
        # Of the tokens by heads that an EinsumDense may put out no axis is one of the image's.
        if is_map and not isinstance(place.layer, keras.layers.EinsumDense):
            part = channels_last(part, layout)
            maps.append(part if len(shape) == axes + 2 else ops.expand_dims(part, 1))
        else:
            rest += ops.sum(ops.reshape(part, (count, -1)), axis=1)
    return tuple(maps), rest


def _constant(place: Place) -> Any:
    """Returns the constant, float32, in a shape that goes with the tensor's."""
    ops, layer = keras.ops, place.layer
    if adds_constant(layer):
        # What it makes of zero: for batch normalization beta - gamma mean / sqrt(variance + epsilon).
        return ops.cast(layer(ops.zeros_like(place.tensor[:1]), training=False), "float32")
    bias = ops.cast(layer.bias, "float32")
    if getattr(layer, "data_format", None) == "channels_first":
        bias = ops.reshape(bias, (-1, *[1] * (len(place.tensor.shape) - 2)))
    return bias
