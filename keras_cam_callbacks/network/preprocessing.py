"""What a model does to the values of its images before its first weights, and so which values it expects.

Read from the graph: nothing is run. Scalings, normalizations, sums and products with constants, and exchanges of
channels are followed, as layers and as operations, through nested models; what moves pixels is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from .expected import Expected, Numbers, by_arithmetic, by_moments, met, range_name
from .layers import input_tensors, sublayers, walk
from .weights import values_of

# What leaves the values of a channel's pixels, or their range, as they are.
_PASSING = (
    *("InputLayer", "Identity", "Dropout", "SpatialDropout2D", "GaussianNoise", "Cast", "Reshape", "Permute"),
    *("Resizing", "Resize", "CenterCrop", "Cropping2D", "ZeroPadding2D", "Pad", "Transpose", "ExpandDims", "Squeeze"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomCrop", "RandomTranslation", "RandomShear"),
    *("RandomContrast", "RandomBrightness", "RandomPerspective", "RandomErasing", "RandomColorJitter"),
    *("Clip", "Convert", "AveragePooling2D", "MaxPooling2D", "StopGradient", "Pipeline", "AutoContrast"),
)
_BGR_MEAN = np.array([103.939, 116.779, 123.68])

# The preprocessing that keras.applications' networks without their own expect, by how their names begin.
_APPLICATIONS = {
    **dict.fromkeys(("vgg16", "vgg19", "resnet50", "resnet101", "resnet152"), "mean-subtracted"),
    **dict.fromkeys(("resnet50v2", "resnet101v2", "resnet152v2"), "[-1, 1]"),
    **dict.fromkeys(("mobilenet", "inception", "xception", "nasnet"), "[-1, 1]"),
    "densenet": "mean/std",
    # These have their own, unless they were made with include_preprocessing=False.
    **dict.fromkeys(("efficientnetv2-s", "efficientnetv2-m", "efficientnetv2-l"), "[-1, 1]"),
    **dict.fromkeys(("efficientnet", "convnext"), "mean/std"),
}


@dataclass(frozen=True, eq=False)
class _Values:
    """What became of the channels of the images: y[i] = factor[i] * x[channel[i]] + offset[i].

    Attributes:
        factor: (C,), or (1,) where all channels are alike.
        offset: Likewise.
        channel: (C,) int, or None where they stand as they stood.
        by: What has changed the values, in words; "" for nothing.
        settled: The range that a scaling on the way brings to one of those that networks take; None for none.
        moments: (C,) or (1,) mean and deviation of the images, from a Normalization; None where there was none. They
            fix no range: a mean of 0.1 and a deviation of 0.3 are those of drawings in [0, 1], and may be others'.
    """

    factor: Numbers
    offset: Numbers
    channel: npt.NDArray[np.intp] | None = None
    by: str = ""
    settled: tuple[float, float] | None = None
    moments: tuple[Numbers, Numbers] | None = None


_UNCHANGED = _Values(np.ones(1), np.zeros(1))


def expected_range(model: Any, image: Any = None) -> Expected | None:
    """Tells which values of its images a model expects, as far as its graph or its name says.

    Args:
        model: A Keras model, or None.
        image: Which of several inputs is meant: one of the model's `inputs`; None for the one with the most axes.

    Returns:
        The range, or None where nothing says it.
    """
    if not isinstance(model, keras.Model):
        return None
    for values in _first_uses(model, image):
        if values.by:
            return _expected(values)
    layers = [(model.name, model), *walk(model)]
    for name in (layer.name for _, layer in layers if isinstance(layer, keras.Model)):
        begins = [start for start in _APPLICATIONS if name.lower().startswith(start)]
        if begins:
            return Expected(_APPLICATIONS[max(begins, key=len)], f"as keras.applications trained {name!r}", False)
    return None


def _first_uses(model: Any, image: Any = None) -> list[_Values]:
    """Returns what the images have become where layers with weights, or others that are not followed, take them."""
    uses: list[_Values] = []
    graph = _graph(model)
    if graph is None:
        _follow_layers(model, uses)
        return uses
    images = image
    if all(tensor is not image for tensor in input_tensors(graph)):
        images = max(input_tensors(graph), key=lambda tensor: len(tensor.shape), default=None)
    if images is not None:
        _follow(graph, {id(images): _UNCHANGED}, uses, "")
    return uses


def _graph(model: Any) -> Any:
    """Returns the Functional model that a model is or holds; None for one without a graph."""
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_nodes_by_depth") else None


def _follow(graph: Any, values: dict[int, _Values], uses: list[_Values], prefix: str) -> None:
    """Follows values by the ids of their tensors through the nodes of a graph, and collects where they are used."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            arguments = keras.tree.flatten([node.arguments.args, node.arguments.kwargs])
            incoming = [values[id(tensor)] for tensor in arguments if id(tensor) in values]
            if not incoming or node.is_input:
                continue
            operation = node.operation
            inner = _graph(operation) if isinstance(operation, keras.Model) else None
            if inner is not None:
                handed = [values.get(id(t)) for t in arguments if isinstance(t, keras.KerasTensor)]
                taken = zip(input_tensors(inner), handed, strict=False)
                start = {id(t): v for t, v in taken if v is not None}
                _follow(inner, start, uses, f"{prefix}{operation.name}/")
                ends = [start[id(t)] for t in keras.tree.flatten(inner.outputs) if id(t) in start]
                changed = ends[0] if len(ends) == 1 else None
                if changed is None:
                    continue  # What the inner model does with it has been collected.
            else:
                changed = _changed(operation, node.arguments, values, prefix)
            if changed is None:
                uses.extend(incoming)
                continue
            values.update({id(tensor): changed for tensor in node.output_tensors})


def _follow_layers(model: Any, uses: list[_Values]) -> None:
    """Follows the layers of a model without a graph in the order in which it holds them, up to the first weights."""
    values = _UNCHANGED
    for path, layer in _in_order(model, ""):
        changed = _by_layer(layer, values, path)
        if changed is None:
            break
        values = changed
    uses.append(values)


def _in_order(parent: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for layer in sublayers(parent):
        if sublayers(layer):
            yield from _in_order(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer


def _changed(operation: Any, arguments: Any, values: Mapping[int, _Values], prefix: str) -> _Values | None:
    """Returns what an operation makes of values; None where it is not followed."""
    tensors = keras.tree.flatten([arguments.args, arguments.kwargs])
    tracked = [values[id(tensor)] for tensor in tensors if id(tensor) in values]
    kind = type(operation).__name__
    if kind == "Stack" or (kind == "Concatenate" and isinstance(arguments.args[0], (list, tuple))):
        return _joined(tracked) if len(tracked) == len(keras.tree.flatten(arguments.args[0])) else None
    if len(tracked) != 1:
        return None
    (before,) = tracked
    if kind in ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative"):
        where = f"the operation {prefix + operation.name!r}"
        parts = [part if id(part) in values else _constant(part) for part in arguments.args]
        if any(part is None for part in parts) or len(parts) != (1 if kind == "Negative" else 2):
            return None
        return _calculated(kind, parts, before, where, values)
    if kind == "Flip" and operation.axis in (-1, 3):
        return _picked(before, slice(None, None, -1))
    if kind == "GetItem":
        key = arguments.args[1]
        last = key[-1] if isinstance(key, (list, tuple)) and len(key) and (key[0] is Ellipsis or len(key) == 4) else 0
        if isinstance(key, (list, tuple)) and (key[0] is Ellipsis or len(key) == 4):
            return _picked(before, last)
        return None
    return _by_layer(operation, before, prefix + operation.name)


def _calculated(kind: str, parts: list[Any], before: _Values, where: str, values: Mapping[int, _Values]) -> _Values:
    """Returns what a sum, difference, product or quotient with a constant makes of values."""
    first = id(parts[0]) in values
    constant = np.zeros(1) if kind == "Negative" else parts[1 if first else 0]
    factor, offset = before.factor, before.offset
    if kind == "Add":
        offset = offset + constant
    elif kind == "Subtract":
        factor, offset = (factor, offset - constant) if first else (-factor, constant - offset)
    elif kind == "Multiply":
        factor, offset = factor * constant, offset * constant
    elif kind == "Negative":
        factor, offset = -factor, -offset
    elif first:
        with np.errstate(divide="ignore", invalid="ignore"):
            factor, offset = factor / constant, offset / constant
    else:
        factor, offset = np.full(1, np.nan), np.full(1, np.nan)
    return _scaled(before, factor, offset, where)


def _by_layer(layer: Any, before: _Values, path: str) -> _Values | None:
    """Returns what a layer makes of values; None where it is not followed."""
    kind = type(layer).__name__
    where = f"layer {path!r}"
    if isinstance(layer, keras.layers.Rescaling) or (kind.endswith("ImageConverter") and hasattr(layer, "scale")):
        scale = _constant(1.0 if layer.scale is None else layer.scale)
        offset = _constant(0.0 if layer.offset is None else layer.offset)
        if scale is None or offset is None:
            return None
        return _scaled(before, before.factor * scale, before.offset * scale + offset, where)
    if isinstance(layer, keras.layers.Normalization):
        mean, variance = (_constant(getattr(layer, name, None)) for name in ("mean", "variance"))
        if mean is None or variance is None:
            return _Values(np.full(1, np.nan), np.full(1, np.nan), before.channel, before.by or where)
        deviation = np.sqrt(np.maximum(variance, 1e-14))
        if getattr(layer, "invert", False):
            return _scaled(before, before.factor * deviation, before.offset * deviation + mean, where)
        is_identity = np.allclose(mean, 0) and np.allclose(variance, 1)  # It has not been adapted.
        moments = before.moments
        if not is_identity and moments is None:
            moments = (mean - before.offset) / before.factor, deviation / np.abs(before.factor)
        return replace(
            before,
            factor=before.factor / deviation,
            offset=(before.offset - mean) / deviation,
            by=before.by or ("" if is_identity else where),
            moments=moments,
        )
    return before if kind in _PASSING else None


def _constant(value: Any) -> Numbers | None:
    """Returns a constant of a graph as (1,) or (C,); None for what is none, or differs by pixel."""
    if value is None or isinstance(value, (str, keras.KerasTensor, keras.Variable)):
        return None
    try:
        array = np.asarray(values_of(value), np.float64)
    except (TypeError, ValueError):
        return None
    # Channels first has them on another axis; all others must be alone.
    return array.reshape(-1) if array.size == max(array.shape, default=1) and array.size <= 1024 else None


def _picked(values: _Values, key: Any) -> _Values | None:
    """Returns values of which channels were picked: one of them, or all in another order."""
    if values.channel is None and isinstance(key, slice) and key == slice(None, None, -1):
        return replace(_by_channel(values, slice(None, None, -1)), channel=np.array([2, 1, 0]))
    if isinstance(key, slice) and key == slice(None):
        return values
    if not isinstance(key, (int, np.integer)) or values.channel is not None:
        return None
    return replace(_by_channel(values, [int(key)]), channel=np.array([int(key)]))


def _by_channel(values: _Values, key: Any) -> _Values:
    """Returns the numbers of some channels."""
    numbers = (values.factor, values.offset, *(values.moments or ()))
    factor, offset, *moments = (array if array.size == 1 else array[key] for array in numbers)
    return replace(values, factor=factor, offset=offset, moments=(moments[0], moments[1]) if moments else None)


def _joined(parts: list[_Values]) -> _Values | None:
    """Returns the values of channels that were put side by side."""
    if len({part.by for part in parts}) > 1:
        return None
    if all(part is parts[0] for part in parts):
        return parts[0]  # A grey image in three channels.
    channels = [part.channel for part in parts if part.channel is not None]
    if len(channels) < len(parts):
        return None
    numbers = [(part.factor, part.offset, *(part.moments or ())) for part in parts]
    if len({len(of_part) for of_part in numbers}) > 1:
        return None
    factor, offset, *moments = (
        np.concatenate([np.broadcast_to(array, len(c)) for array, c in zip(arrays, channels, strict=True)])
        for arrays in zip(*numbers, strict=True)
    )
    settled = parts[0].settled if len({part.settled for part in parts}) == 1 else None
    joined = (moments[0], moments[1]) if moments else None
    return _Values(factor, offset, np.concatenate(channels), parts[0].by, settled, joined)


def _scaled(before: _Values, factor: Numbers, offset: Numbers, where: str) -> _Values:
    """Returns values with another factor and offset, and the range that these settle."""
    settled = before.settled
    if before.moments is None:  # Else they are standardized, and reach anywhere.
        settled = met(factor, offset) or settled
    return replace(before, factor=factor, offset=offset, by=before.by or where, settled=settled)


def _expected(values: _Values) -> Expected:
    """Returns which range fits what a model makes of the values of images."""
    factor, offset, by = values.factor, values.offset, values.by
    if np.allclose(factor, 1) and any(np.allclose(offset, -mean) for mean in (_BGR_MEAN, _BGR_MEAN[::-1])):
        return Expected(range_name(0, 255), by, True)
    if values.settled is not None:
        return Expected(range_name(*values.settled), by, True)
    return by_arithmetic(factor, offset, by) if values.moments is None else by_moments(*values.moments, by)
