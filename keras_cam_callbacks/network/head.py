"""The head that CAM needs: global average pooling and at most one dense layer. Found in a model, or built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from ..checks import is_whole
from .layers import LayerCall, listing
from .legacy import check_keras3, is_keras2


@dataclass(frozen=True, eq=False)
class Head:
    """A GAP + Dense head, or a GAP head with no dense layer.

    Attributes:
        feature_map: The call that put out what goes into the pooling.
        feature_map_id: Id of that tensor.
        dense: The dense layer, or None.
    """

    feature_map: LayerCall
    feature_map_id: Any
    dense: Any


def find_head(model: Any, calls: Sequence[LayerCall], output_id: Any) -> Head:
    """Walks back from the model's output to the input of its global average pooling.

    Args:
        model: The model.
        calls: All calls of its layers, in call order.
        output_id: Id of the model's output tensor.

    Raises:
        ValueError: If the model does not end in such a head.
    """
    # The innermost call ends first, so that setdefault prefers it to the nested model that hands its output on. A
    # dropout that does nothing hands on its input, and so needs no rule of its own.
    producers: dict[Any, LayerCall] = {}
    for call in calls:
        for tensor in call.output_ids:
            producers.setdefault(tensor, call)

    def before(tensor: Any, *kinds: str) -> tuple[Any, Any]:
        """Steps over the layer behind a tensor if it is of one of these kinds."""
        call = producers.get(tensor)
        if call is not None and isinstance(call.layer, tuple(getattr(keras.layers, kind) for kind in kinds)):
            return call.layer, call.input_ids[0]
        return None, tensor

    last, tensor = before(output_id, "Softmax", "Activation")
    dense, tensor = before(tensor, "Dense")
    if dense is not None:
        tensor = before(tensor, "Flatten")[1]
    pooling, tensor = before(tensor, "GlobalAveragePooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling3D")
    if pooling is None or tensor not in producers or not (_is_linear(last) and _is_linear(dense)):
        leaves = [call.path for call in calls if not isinstance(call.layer, keras.Model)]
        raise ValueError(
            "CAM needs a model that ends in GlobalAveragePooling2D and one Dense layer with linear, softmax or sigmoid "
            "activation (Dropout between them is fine), or in a convolution and GlobalAveragePooling2D with no Dense. "
            f"Received: model {model.name!r}, whose last layers are {listing(leaves, 5)}. "
            "Grad-CAM (GradCAMLogger) works on any model; build_cam_model(base, classes) puts such a head on a base."
        )
    return Head(producers[tensor], tensor, dense)


def _is_linear(layer: Any) -> bool:
    """Tells whether a layer's activation, if it has one, is none or one that the explained score goes back behind."""
    known = (keras.activations.linear, keras.activations.softmax, keras.activations.sigmoid)
    return getattr(layer, "activation", None) in (None, *known)


def class_weights(head: Head, targets: Any, channels: int, units: int) -> Any:
    """Returns the weights of each sample's explained class, (N, C), as a tensor of Keras' backend.

    Args:
        head: The head.
        targets: (N,) integer class indices.
        channels: C, the channels of the feature map.
        units: K, the model's output units; with one unit, class 0 has the negated weights of class 1.
    """
    ops = keras.ops
    if units == 1:
        sign = ops.cast(2 * targets - 1, "float32")[:, None]
        return sign * (ops.ones((1, channels)) if head.dense is None else ops.transpose(_kernel(head.dense)))
    rows = ops.eye(channels) if head.dense is None else ops.transpose(_kernel(head.dense))
    return ops.take(rows, targets, axis=0)


def _kernel(dense: Any) -> Any:
    return keras.ops.cast(keras.ops.convert_to_tensor(dense.kernel), "float32")


def build_cam_model(
    base: Any, classes: int, *, activation: str | None = None, trainable: bool = False, dropout: float = 0.0
) -> Any:
    """Puts the head that CAM needs on a convolutional base: global average pooling and one dense layer.

    Args:
        base: A model whose output is a feature map, as `keras.applications.VGG16(include_top=False)` gives. It is
            used as it is, nested, and its `trainable` flag is set.
        classes: Number of output units; 1 for a binary classifier with one sigmoid unit.
        activation: Activation of the output; by default "sigmoid" for one unit and "softmax" for more.
        trainable: Whether the base is trained. By default it is frozen and only the head learns.
        dropout: Rate of the dropout before the dense layer, 0 for none.

    Returns:
        An uncompiled `keras.Model` from the base's input to (N, classes).

    Raises:
        ValueError: If the base's output is not a feature map, or `classes` is not positive.
        TypeError: If the base is a model of Keras 2.

    Example:
        >>> base = keras.applications.VGG16(include_top=False, input_shape=(224, 224, 3))
        >>> model = build_cam_model(base, classes=2)
    """
    if not is_whole(classes, 1):
        raise ValueError(f"`classes` must be a positive integer, 1 for a single sigmoid unit. Received: {classes!r}.")
    if is_keras2(base):
        check_keras3(base, "base")
    shape = getattr(base, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(
            "`base` must put out one feature map (samples, height, width, channels). "
            f"Received: {getattr(base, 'name', base)!r} with output shape {shape}. "
            "For keras.applications, give include_top=False and no pooling."
        )
    base.trainable = trainable
    inputs = keras.Input(base.input_shape[1:], name="images")
    x = keras.layers.GlobalAveragePooling2D(name="average")(base(inputs))
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    activation = activation or ("sigmoid" if classes == 1 else "softmax")
    outputs = keras.layers.Dense(classes, activation=activation, dtype="float32", name="classes")(x)
    return keras.Model(inputs, outputs, name=f"{base.name}_cam")
