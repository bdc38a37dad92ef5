"""Which layer is explained: found by name, path or object, or chosen from the order in which layers are called."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from ..checks import did_you_mean
from ..records import Space
from .tokens import Tokens

# A map of these shows what the layer before them shows, coarser, shifted or with holes.
_NOT_CHOSEN = tuple(
    getattr(keras.layers, name)
    for name in (
        *("MaxPooling2D", "AveragePooling2D", "GlobalMaxPooling2D", "GlobalAveragePooling2D"),
        *("MaxPooling1D", "AveragePooling1D", "GlobalMaxPooling1D", "GlobalAveragePooling1D"),
        *("MaxPooling3D", "AveragePooling3D", "GlobalMaxPooling3D", "GlobalAveragePooling3D"),
        *("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise"),
        *("SpatialDropout1D", "SpatialDropout3D", "Masking", "Embedding", "RepeatVector"),
        *("Reshape", "Permute", "Flatten", "ZeroPadding2D", "Cropping2D", "UpSampling2D", "Resizing"),
        *("ZeroPadding1D", "Cropping1D", "UpSampling1D", "ZeroPadding3D", "Cropping3D", "UpSampling3D"),
        *("InputLayer", "Identity", "Rescaling", "Normalization"),
        *("EinsumDense", "Softmax", "MultiHeadAttention", "Attention"),  # tokens by heads are no picture
        # Each step holds something of all before it.
        *("LSTM", "GRU", "SimpleRNN", "Bidirectional", "LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells"),
        *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomCrop", "CenterCrop"),
        *("RandomContrast", "RandomBrightness"),
    )
)
# Operations of a Functional graph that are no layers, and whose output is as good as a layer's.
_CHOSEN_OPERATIONS = (
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Concatenate"),
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSilu", "Softplus"),
)
# Behind these, layers or operations, stands the same at each position, by another scale or type.
_ACTIVATIONS = (
    *("Activation", "Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid", "HardSigmoid", "Tanh", "ReLU", "PReLU", "ELU"),
    *("Relu", "Relu6", "LeakyReLU", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSilu", "Softplus"),
    *("Softsign", "Exp", "Clip", "Cast", "Identity"),
)


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer, as it was seen while the model ran.

    Attributes:
        path: The layer's path, "base/conv5" for a layer of a nested model.
        layer: The layer.
        output_shape: Shape of its output with None for the samples, or None where it isn't one tensor.
        input_ids: One hashable for each input tensor.
        output_ids: The same for its outputs; a tensor that is passed on keeps its id.
        number: Which of its layer's calls it is, counted from 1; from the second on the path ends in it: "conv#2".
        steps: Where a layer around it steps through time, and all steps of a sample are rows of their own in its
            output: how many they are, a number or a tensor. `output_shape` has an axis for them behind the samples.
    """

    path: str
    layer: Any
    output_shape: tuple[int | None, ...] | None
    input_ids: tuple[Any, ...]
    output_ids: tuple[Any, ...]
    number: int = 1
    steps: Any = None

    @property
    def layer_path(self) -> str:
        """The layer's path, which is the same for all of its calls."""
        return self.path.removesuffix(f"#{self.number}") if self.number > 1 else self.path

    def makes(self, layer: Any, number: int) -> bool:
        """Tells whether it is one of the calls of a layer."""
        return self.layer is layer and self.number == number


@dataclass(frozen=True, eq=False)
class Tap:
    """A layer whose activations are captured, as (N, *space, C).

    Attributes:
        path: The layer's path.
        held: A weak reference to the layer, through which a model could be reached.
        space: What its axes are, and in which layout it puts them out.
        channels: C; None where it isn't fixed.
        tokens: How its tokens lie on the image, where it puts out a row of them.
        number: Which of the layer's calls it is, counted from 1.
        stepped: Whether steps in time of a sample are rows of their own in what it puts out.
        lacking: How many of the first axes of its space it doesn't put out: there they have one position.
        again: Numbers of its further calls that compute the same; what is done to the one is done to all of them.
    """

    path: str
    held: weakref.ref[Any]
    space: Space
    channels: int | None
    tokens: Tokens | None = None
    number: int = 1
    stepped: bool = False
    lacking: int = 0
    again: tuple[int, ...] = ()

    @property
    def layer(self) -> Any:
        """The layer."""
        return self.held()

    @property
    def shape(self) -> tuple[int | None, ...]:
        """(None, *space, C), as the activations are captured."""
        return None, *self.space.sizes, self.channels


def sublayers(layer: Any) -> list[Any]:
    """Returns what is directly inside a model or composite layer, in the order in which it holds them.

    Operations of a Functional model that are no layers, such as the addition in `x + shortcut`, are among them.
    """
    if isinstance(layer, keras.Model):
        return list(getattr(layer, "operations", None) or layer.layers)
    if isinstance(layer, keras.layers.Layer):
        return list(layer._flatten_layers(include_self=False, recursive=False))
    return []


def check_runs(model: Any) -> None:
    """Checks that a model can be called, as one that only trains its parts can not.

    Raises:
        ValueError: If it has no `call`; the message names the parts that have one.
    """
    if "call" in vars(model) or type(model).call not in (keras.Model.call, keras.layers.Layer.call):
        return
    # PyTorch keeps modules apart from other attributes.
    attributes = {**vars(model), **(dict(model.named_children()) if hasattr(model, "named_children") else {})}
    parts = {name: part for name, part in attributes.items() if isinstance(part, keras.Model)}
    parts |= {part.name: part for part in sublayers(model) if isinstance(part, keras.Model)}
    names = [name for i, (name, part) in enumerate(parts.items()) if part not in list(parts.values())[:i]]
    raise ValueError(
        f"A model must have a `call` to be explained. Received: model {model.name!r} of class {type(model).__name__}, "
        "which has none. "
        + (
            f"Its parts that are models are {listing(names)}: model={names[0]!r} has a callback explain that one, and "
            f"explain(model.{names[0]}, ...) does without training."
            if names
            else "Give it one, or explain a model that it uses."
        )
    )


def input_tensors(model: Any) -> list[Any]:
    """Returns the model's symbolic inputs; none where it does not know them, such as one that was never built."""
    try:
        return list(keras.tree.flatten(getattr(model, "inputs", None) or []))
    except ValueError:  # Keras 3.5 raises it for a Sequential model that is not built, later ones AttributeError.
        return []


def walk(model: Any) -> Iterator[tuple[str, Any]]:
    """Yields (path, layer) for every layer inside the model at any depth, each layer once."""
    seen = {id(model)}

    def inside(parent: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for layer in sublayers(parent):
            if id(layer) not in seen:
                seen.add(id(layer))
                yield prefix + layer.name, layer
                yield from inside(layer, f"{prefix}{layer.name}/")

    yield from inside(model, "")


def find_call(model: Any, layer_name: Any) -> tuple[str, Any, int | None]:
    """Finds a layer as `find_layer` does, and which of its calls is meant, as by "tower/conv#2"; None where none is."""
    if isinstance(layer_name, str) and "#" in layer_name:
        name, _, number = layer_name.rpartition("#")
        if number.isdecimal() and int(number) > 0 and layer_name not in [path for path, _ in walk(model)]:
            path, layer = find_layer(model, name)
            return numbered(path, int(number)), layer, int(number)
    return *find_layer(model, layer_name), None


def numbered(path: str, number: int) -> str:
    """Returns how a layer's call is addressed: the first one by the layer's path."""
    return path if number == 1 else f"{path}#{number}"


def find_layer(model: Any, layer_name: Any) -> tuple[str, Any]:
    """Finds a layer at any depth of the model.

    Args:
        model: The model.
        layer_name: A path from the model down ("base/conv5"), a name that occurs once, or the layer itself.

    Returns:
        The layer's path and the layer.

    Raises:
        ValueError: If there is none, or if several layers have the name.
        TypeError: If `layer_name` is neither text nor a layer.
    """
    layers = list(walk(model))
    if isinstance(layer_name, keras.Operation):
        for path, layer in layers:
            if layer is layer_name:
                return path, layer
        raise ValueError(
            "A layer given as `layer_name` must be part of the model that is explained. "
            f"Received: layer {layer_name.name!r}, which model {model.name!r} doesn't contain. "
            f"The model's layers are: {listing([path for path, _ in layers])}."
        )
    if not isinstance(layer_name, str):
        raise TypeError(
            "`layer_name` must be a layer's name, a path such as 'base/conv5', a Keras layer, or None to have one "
            f"chosen. Received: {layer_name!r} of type {type(layer_name).__name__}."
        )
    exact = [(path, layer) for path, layer in layers if path == layer_name]
    named = exact or [(path, layer) for path, layer in layers if layer.name == layer_name]
    if len(named) == 1:
        return named[0]
    if named:
        raise ValueError(
            "`layer_name` must name one layer. "
            f"Received: {layer_name!r}, the name of {len(named)} layers: {listing([path for path, _ in named])}. "
            "Give one of these paths."
        )
    paths = [path for path, _ in layers]
    names = {layer.name: path for path, layer in layers} | {path: path for path in paths}
    raise ValueError(
        f"`layer_name` must be a layer of model {model.name!r}. Received: {layer_name!r}."
        f"{did_you_mean(layer_name, names, names.__getitem__)}"
    )


def is_feature_map(shape: tuple[int | None, ...] | None, data_format: str = "channels_last", axes: int = 2) -> bool:
    """Tells whether a layer's output shape is that of a feature map of more than one position.

    Args:
        shape: The shape, (None, ...), or None.
        data_format: Where its channels are.
        axes: How many axes the input's space has; of a volume or a clip a map may lack the first one.
    """
    if shape is None or len(shape) not in (axes + 2, 4 if axes > 2 else 0):
        return False
    sizes = shape[1:-1] if data_format == "channels_last" else shape[2:]
    return all(side is None or side >= 1 for side in sizes) and any(side != 1 for side in sizes)


class Candidates:
    """Tells, call by call, which layers may be chosen.

    They are those whose output is a feature map larger than 1 x 1, of several channels, and that do not merely pool,
    drop, pad, shift or reshape. A nested model that hands on the output of one of its own layers is left out in favour
    of that layer, and so is a layer that is called again.
    """

    def __init__(self, axes: int = 2) -> None:
        """Begins, for an input whose space has so many axes."""
        self._axes = axes
        self._layers: list[Any] = []
        self._outputs: set[Any] = set()

    def __call__(self, call: LayerCall) -> bool:
        """Takes the calls one by one, in call order; True for a candidate."""
        passed_on = bool(self._outputs.intersection(call.output_ids))
        again = any(layer is call.layer for layer in self._layers)
        self._outputs.update(call.output_ids)
        self._layers.append(call.layer)
        layout = data_format(self._layers, call.layer)
        return (
            is_feature_map(call.output_shape, layout, self._axes)
            and call.output_shape is not None
            and call.output_shape[-1 if layout == "channels_last" else 1] != 1
            and may_be_chosen(call)
            and not (passed_on or again)
        )


def may_be_chosen(call: LayerCall) -> bool:
    """Tells whether a layer is of a kind that computes, and does not merely pool, drop, pad, shift or reshape."""
    layer = call.layer
    while isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    if isinstance(layer, keras.layers.Layer):
        return not isinstance(layer, _NOT_CHOSEN)
    return type(layer).__name__ in _CHOSEN_OPERATIONS


def candidates(calls: Sequence[LayerCall], axes: int = 2) -> list[LayerCall]:
    """Returns the calls among which a layer is chosen, in call order, for an input whose space has so many axes."""
    accept, single = Candidates(axes), {id(call) for call in called_once(calls)}
    return [call for call in calls if accept(call) and id(call) in single]


def called_once(calls: Sequence[LayerCall]) -> list[LayerCall]:
    """Returns the calls of layers that are called no more than once."""
    times = Counter(id(call.layer) for call in calls)
    return [call for call in calls if times[id(call.layer)] == 1]


def call_that_made(tensor_id: Any, calls: Sequence[LayerCall]) -> LayerCall | None:
    """Returns the call that put out a tensor: the innermost of several that hand it on, for that one ends first."""
    return next((call for call in calls if tensor_id in call.output_ids), None)


def has_kernels(layer: Any) -> bool:
    """Tells whether a layer, by itself and not by others inside it, works with weights of several axes."""
    return not sublayers(layer) and any(len(weight.shape) > 1 for weight in getattr(layer, "weights", ()))


def maps_before(calls: Sequence[LayerCall], call: LayerCall, axes: int = 2) -> list[tuple[int | None, ...]]:
    """Returns the sizes of the maps that layers put out before a call, the last ones first."""
    sizes: list[tuple[int | None, ...]] = []
    layers = [other.layer for other in calls]
    for other in calls:
        if other is call:
            break
        layout = data_format(layers, other.layer)
        if is_feature_map(other.output_shape, layout, axes):
            assert other.output_shape is not None
            sizes.append(other.output_shape[2:] if layout == "channels_first" else other.output_shape[1:-1])
    return list(dict.fromkeys(reversed(sizes)))


def prediction_ids(calls: Sequence[LayerCall], output_ids: Container[Any]) -> set[Any]:
    """Returns the ids of tensors that a model's outputs differ from by no more than activations and casts.

    Args:
        calls: The calls of its layers, in call order.
        output_ids: Ids of its outputs.
    """
    ids: set[Any] = set()
    for call in reversed(calls):
        own = {tensor for tensor in call.output_ids if tensor in output_ids or tensor in ids}
        ids |= own
        kind = type(call.layer)
        if own and kind.__name__ in _ACTIVATIONS and kind.__module__.split(".")[0] == "keras":
            ids.update(call.input_ids)
        elif own and isinstance(call.layer, keras.layers.TimeDistributed):
            # Its steps are put together from rows of the layer inside.
            inner = call.layer.layer
            ids.update(tensor for made in calls if made.layer is inner for tensor in made.output_ids)
            if type(inner).__name__ in _ACTIVATIONS and type(inner).__module__.split(".")[0] == "keras":
                ids.update(call.input_ids)
    return ids


def layers_behind(
    calls: Sequence[LayerCall], chosen: LayerCall, behind: Container[Any] | None
) -> tuple[list[LayerCall], list[LayerCall]]:
    """Finds the layers with kernels that work at positions, of a map or in a row of tokens, around a layer.

    Args:
        calls: All calls of the model's layers.
        chosen: The layer's call.
        behind: Ids of the tensors that depend on the layer's output; None where all later ones may.

    Returns:
        The calls up to the layer's, and those behind it; of a layer that is called again the first one.
    """
    before: dict[int, LayerCall] = {}
    after: dict[int, LayerCall] = {}
    passed = False
    for call in calls:
        if _works_at_positions(call) and id(call.layer) not in before:
            if not passed:
                before[id(call.layer)] = call
            elif behind is None or any(tensor in behind for tensor in call.output_ids):
                after.setdefault(id(call.layer), call)
        passed = passed or call is chosen
    return list(before.values()), list(after.values())


def _works_at_positions(call: LayerCall) -> bool:
    shape = call.output_shape
    if shape is None or len(shape) < 3 or sum(side != 1 for side in shape[1:]) < 2:
        return False
    return has_kernels(call.layer)


def data_format(layers: Sequence[Any], layer: Any) -> str:
    """Tells whether a layer puts out "channels_last" or "channels_first".

    Layers that do not know (activations, additions) follow the last layer before them that does.

    Args:
        layers: The model's layers in call order.
        layer: One of them.
    """
    found = str(keras.config.image_data_format())
    for other in layers:
        found = getattr(other, "data_format", None) or _format_of_module(other) or found
        if other is layer:
            break
    return found


def _format_of_module(layer: Any) -> str | None:
    """Returns the layout of a module of PyTorch that convolves, pools or normalizes maps; None of other layers."""
    if type(layer).__name__ != "TorchModuleWrapper":
        return None
    knows = any(hasattr(inner, "kernel_size") or hasattr(inner, "num_features") for inner in layer.module.modules())
    return "channels_first" if knows else None


def listing(paths: Sequence[str], most: int = 12) -> str:
    """Joins paths, the last ones when there are too many: the deep layers are those that people want."""
    if not paths:
        return "none"
    return ("..., " if len(paths) > most else "") + ", ".join(repr(path) for path in paths[-most:])
