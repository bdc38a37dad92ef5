"""Layers of few bits: which method of theirs runs, and the way back through those in float8."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from .wrapped import exchanged

_FLOAT8 = (keras.layers.Dense, keras.layers.EinsumDense)


def entry(layer: Any) -> str:
    """Returns the name of the method that Keras runs when a layer is called: another one where it is quantized."""
    return "call" if getattr(layer, "quantization_mode", None) is None else "quantized_call"


@contextmanager
def plain_way_back(layer: Any) -> Iterator[None]:
    """Has the gradient of a layer in float8 be that of what it computes.

    Keras rounds gradients on the way back to float8, with a factor that fits the gradients of the loss: those of a
    score may be much larger, and would all be cut off at one value. What the layer puts out stays as it is.

    Args:
        layer: The layer; nothing is done to one that is not in float8.
    """
    kind = next((kind for kind in _FLOAT8 if isinstance(layer, kind)), None)
    if kind is None or layer.quantization_mode != "float8":
        yield
        return
    original = layer._float8_call

    def float8_call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Behind the rest, where what comes before a softmax is looked for.
        activation = layer.activation or keras.activations.linear
        kernel = _rounded(keras.ops.convert_to_tensor(layer._kernel), layer.kernel_scale, layer.compute_dtype)
        with exchanged(layer, "activation", None):
            output = original(inputs, *args, **kwargs)
            with exchanged(layer, "_kernel", kernel), exchanged(layer, "bias", _rounded_bias(layer)):
                rounded = _rounded(inputs, layer.inputs_scale, layer.compute_dtype)
                same = kind.call(layer, rounded, *args, **kwargs)
        return activation(same + keras.ops.stop_gradient(output - same))

    with exchanged(layer, "_float8_call", float8_call):
        yield


def _rounded(tensor: Any, scale: Any, dtype: str) -> Any:
    """Rounds to float8, as Keras does; the gradient passes as it is."""
    scale = keras.ops.convert_to_tensor(scale)
    rounded = keras.quantizers.quantize_and_dequantize(tensor, scale, "float8_e4m3fn", dtype)
    return tensor + keras.ops.stop_gradient(rounded - tensor)


def _rounded_bias(layer: Any) -> Any:
    if layer.bias is None or layer.compute_dtype != "float32":
        return layer.bias
    bias = keras.ops.convert_to_tensor(layer.bias)
    return keras.ops.cast(keras.ops.cast(bias, "bfloat16"), bias.dtype)
