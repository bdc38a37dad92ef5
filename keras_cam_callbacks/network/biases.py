"""The constants that layers add to a multiple of their input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

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
        steps: Where a layer around it steps through time, and all steps of a sample are rows of their own: how many
            they are, a number or a tensor.
    """

    path: str
    layer: Any
    tensor: Any
    layout: str
    gradient: Any
    steps: Any = None


def adds_bias(layer: Any) -> bool:
    """Tells whether a layer adds a bias, and then calls its activation."""
    return isinstance(layer, _WITH_BIAS) and layer.bias is not None


def adds_constant(layer: Any) -> bool:
    """Tells whether a layer's output is a multiple of its input, number by number, and a constant."""
    return isinstance(layer, _ELEMENTWISE) and not (
        isinstance(layer, keras.layers.Rescaling) and not np.any(layer.offset)
    )
