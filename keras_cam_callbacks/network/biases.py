"""The constants that layers add to a multiple of their input, and what each of them adds to a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from .layers import is_feature_map

# They add a bias and then call their activation.
_WITH_BIAS = tuple(
    getattr(keras.layers, name)
    for name in (
        *("Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
        *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Dense", "EinsumDense"),
    )
)
# Each number that they put out is a multiple of the same number that went in, and a constant.
_ELEMENTWISE = tuple(getattr(keras.layers, name) for name in ("BatchNormalization", "Normalization", "Rescaling"))


@dataclass(frozen=True, eq=False)
class Place:
    """Where a layer has just added its constant, in one of its calls.

    Attributes:
        path: The layer's path.
        layer: The layer.
        tensor: What it is then, (M, ...), before any activation of the layer's own.
        layout: "channels_last" or "channels_first".
        gradient: d scores / d tensor, (M, ...) float32.
    """

    path: str
    layer: Any
    tensor: Any
    layout: str
    gradient: Any


def adds_bias(layer: Any) -> bool:
    """Tells whether a layer adds a bias, and then calls its activation."""
    return isinstance(layer, _WITH_BIAS) and layer.bias is not None


def adds_constant(layer: Any) -> bool:
    """Tells whether a layer's output is a multiple of its input, number by number, and a constant."""
    return isinstance(layer, _ELEMENTWISE) and not (
        isinstance(layer, keras.layers.Rescaling) and not np.any(layer.offset)
    )


def parts(places: Sequence[Place], count: Any) -> tuple[tuple[Any, ...], Any]:
    """Multiplies each constant by the gradient where it is added.

    Args:
        places: Where they are added. No layer's `call` may be wrapped any more.
        count: M, the number of samples.

    Returns:
        One tensor (M, h, w, C) float32, channels last, for each place that is a feature map larger than 1 x 1; and
        the sum over all other places, (M,) float32.
    """
    ops = keras.ops
    found, rest = [], ops.zeros((count,), "float32")
    for place in places:
        part = place.gradient * _constant(place)
        shape = tuple(place.tensor.shape)
        # Of the tokens by heads that an EinsumDense may put out no axis is one of the image's.
        if is_feature_map(shape, place.layout) and not isinstance(place.layer, keras.layers.EinsumDense):
            found.append(ops.transpose(part, (0, 2, 3, 1)) if place.layout == "channels_first" else part)
        else:
            rest += ops.sum(ops.reshape(part, (count, -1)), axis=1)
    return tuple(found), rest


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
