"""What a model is, whatever Keras has numbered: a digest of its architecture, and places of layers.

Keras names what has no name after its class, and counts on over the whole process: `conv2d_3` tells what was built
before. Names that people gave are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any

import keras

from .layers import input_tensors, sublayers, walk
from .settings import call_settings, layer_settings

# Settings that digests of structures tell, as records have them whose digests told no others.
_SETTINGS = ("strides", "padding", "dilation_rate", "pool_size", "activation")
# The class may be another one than when the model was named, as after loading.
_MODELS = ("functional", "model", "sequential")


def architecture(model: Any) -> str:
    """Returns a digest of a model that has its weights: the same for one that is built anew, here or elsewhere.

    It tells classes of layers, how they are wired, the shapes of weights, the settings by which they compute something
    else (see `layer_settings`), and names that people gave to layers; of a subclassed model, which holds no wiring, the
    tree of layers. It does not tell the model's own name, the numbers in names by Keras, values of weights, what is
    trainable, dtypes, seeds, what is done in the training alone, or how it is compiled. Layers with LoRA, and quantized
    ones, have weights of their own, and so are others.

    Args:
        model: The model.

    Returns:
        16 hexadecimal digits.
    """
    return digests(model)[0]


def digests(model: Any) -> tuple[str, str]:
    """Returns `architecture`, and the digest of a model's structure: the same with few settings of layers.

    Records of earlier versions have the latter alone, so that it tells which of them are of this model.
    """
    names = _Names(model)
    described = names.described(model, {})[1:]
    return _digest([described, names.settings]), _digest(described)


def _digest(described: list[Any]) -> str:
    return hashlib.sha256(json.dumps(described).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def model_label(model: Any) -> str:
    """Returns what a model is called: its name where a person gave it one, else its class."""
    return _Names(model).stable(model)[0]


def layer_places(model: Any) -> dict[str, str]:
    """Returns for each layer's path one that is the same whenever the model is built.

    A layer that Keras has named is "Conv2D 2", the second of its class directly in the model or composite layer that
    holds it, in the order in which that holds them. So "functional_4/conv2d_9" may be "Functional 1/Conv2D 2".

    Args:
        model: The model.
    """
    names = _Names(model)
    places: dict[str, str] = {}
    seen = {id(model)}

    def inside(parent: Any, path: str, place: str) -> None:
        parts = sublayers(parent)
        shared = Counter(names.stable(part)[0] for part in parts if not names.stable(part)[1])
        numbers: Counter[str] = Counter()
        for part in parts:
            name, is_automatic = names.stable(part)
            counted = (type(part).__name__, name) if not is_automatic else (name,)
            numbers.update(counted)
            if id(part) in seen:
                continue
            seen.add(id(part))
            own = f"{name} {numbers[name]}" if is_automatic or shared[name] > 1 else name
            places.setdefault(path + part.name, place + own)
            inside(part, f"{path}{part.name}/", f"{place}{own}/")

    inside(model, "", "")
    return places


def layer_place(model: Any, paths: str) -> str:
    """Returns paths of layers or of their calls, such as "tower/conv#2", joined by ", ", as `layer_places` has them."""
    places = layer_places(model)
    named = []
    for path in paths.split(", "):
        layer, mark, number = (path, "", "") if path in places else path.partition("#")
        named.append(places.get(layer, layer) + mark + number)
    return ", ".join(named)


class _Names:
    """Tells the names that people gave in a model from those that Keras numbered.

    Attributes:
        settings: What `described` has met of settings of layers and of their calls, in its order.
    """

    def __init__(self, model: Any) -> None:
        self.settings: list[Any] = []
        classes = {_snake_case(type(layer).__name__) for _, layer in walk(model)} | {
            _snake_case(type(model).__name__),
            *_MODELS,
        }
        alternatives = "|".join(sorted(map(re.escape, classes), key=len, reverse=True))
        # Also in names that are made of such, as by Bidirectional, or by f"{layer.name}_norm".
        self._numbered = re.compile(rf"^((?:forward_|backward_)?(?:{alternatives}))_\d+(?=_|$)")

    def stable(self, layer: Any) -> tuple[str, bool]:
        """Returns a layer's name without Keras' number, or its class; and whether Keras has named it."""
        kind = type(layer).__name__
        kinds = (_snake_case(kind), *(_MODELS if isinstance(layer, keras.Model) else ()))
        if re.sub(r"_\d+$", "", layer.name) in kinds:
            return kind, True
        return self._numbered.sub(r"\1", layer.name), False

    def _text(self, text: str) -> str:
        return self._numbered.sub(r"\1", text)

    def described(self, layer: Any, seen: dict[int, int]) -> list[Any]:
        """Returns what a layer is, and what is in it, as plain values, of which the first is its name."""
        name, is_automatic = self.stable(layer)
        name = "" if is_automatic else name
        if id(layer) in seen:
            return [name, seen[id(layer)]]
        seen[id(layer)] = len(seen)
        graph = _graph(layer)
        if graph is not None:
            self.settings.append([call_settings(op, index, self._text) for op, index, _ in graph[0]])
        elif not isinstance(layer, keras.Sequential | keras.layers.InputLayer):
            self.settings.append(layer_settings(layer, self._text))
        parts = sublayers(layer) if graph is None else list({id(op): op for op, *_ in graph[0]}.values())
        inner = {id(weight) for part in parts for weight in getattr(part, "weights", ())}
        own = (weight for weight in getattr(layer, "weights", ()) if id(weight) not in inner)
        # Sorted: the order of weights is another one where some are not trained.
        shapes = sorted([int(size) for size in weight.shape] for weight in own)
        numbers = {id(part): number for number, part in enumerate(parts)}
        return [
            name,
            type(layer).__name__,
            shapes,
            [_setting(getattr(layer, setting, None)) for setting in _SETTINGS],
            [self.described(part, seen) for part in parts],
            None if graph is None else [[[numbers[id(op)], taken] for op, _, taken in graph[0]], graph[1]],
        ]


def _graph(model: Any) -> tuple[list[tuple[Any, int, list[list[int]]]], list[list[int]]] | None:
    """Returns the graph of a Functional model.

    Returns:
        Its calls, each after those that it needs: the operation, which of its calls it is, and where the tensors that
        it takes come from; and where the model's outputs come from. That is the number of a call, negative for one of
        the model's inputs, and which of the tensors that this puts out. None for what has no graph.
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        return None
    inputs = {id(tensor): [-1 - place, 0] for place, tensor in enumerate(input_tensors(model))}
    outputs = keras.tree.flatten(model.outputs)
    numbers: dict[tuple[int, int], int] = {}
    calls: list[tuple[Any, int, list[list[int]]]] = []

    def source(tensor: Any) -> list[int] | None:
        if id(tensor) in inputs:
            return inputs[id(tensor)]
        operation, index, place = tensor._keras_history
        number = numbers.get((id(operation), index))
        return None if number is None else [number, place]

    def sources(tensors: Any) -> list[list[int]]:
        return [place for tensor in tensors if (place := source(tensor)) is not None]

    waiting = list(reversed(outputs))
    while waiting:
        if source(waiting[-1]) is not None:
            waiting.pop()
            continue
        operation, index, _ = waiting[-1]._keras_history
        taken = operation._inbound_nodes[index].input_tensors
        missing = [tensor for tensor in taken if source(tensor) is None]
        waiting.extend(reversed(missing))
        if missing:
            continue
        if type(operation).__name__ == "Cast":  # Keras 3.5 puts one behind an input in mixed precision.
            inputs[id(waiting[-1])] = sources(taken)[0]
        else:
            numbers[id(operation), index] = len(calls)
            calls.append((operation, index, sources(taken)))
    return calls, sources(outputs)


def _setting(value: Any) -> Any:
    """Returns a setting as plain values: a function by its name, None for what has none."""
    if isinstance(value, (list, tuple)):
        return list(map(_setting, value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else type(value).__name__


def _snake_case(name: str) -> str:
    """Returns a class' name as Keras makes names of it."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
