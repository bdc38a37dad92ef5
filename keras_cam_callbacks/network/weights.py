"""A model's weights from the top down: in which order they are used, drawn anew, and put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from .layers import LayerCall, sublayers, walk

# What the data were like, and nothing that is trained. An adapted layer keeps its statistics as constants; and with
# those of batch normalisation at their initial 0 and 1, random kernels let the signal of a deep network die out:
# MobileNetV2's scores fall to 1e-11, and in float16 to 0.
_DATA_LAYERS = (keras.layers.Normalization,)
_STATISTICS = ("moving_mean", "moving_variance")


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What belongs to one layer itself, without the layers inside it.

    Attributes:
        path: The layer's path; the model's name for what the model itself holds.
        layer: The layer.
        variables: Its floating point variables, at least one.
    """

    path: str
    layer: Any
    variables: tuple[Any, ...]


def weights_from_top(model: Any, calls: Sequence[LayerCall]) -> list[LayerWeights]:
    """Lists the layers that hold weights, from the model's output down to its input.

    A variable that several layers share stands where it is used last. A layer whose call is not seen stands at the end,
    since what reads its weights is not known. Integers, such as counters, are left out, and so are the statistics that
    a `Normalization` layer or batch normalisation has of the data.

    Args:
        model: The built model.
        calls: The calls of its layers, in call order.

    Raises:
        ValueError: If a layer is quantized, or no layer holds weights.
    """
    order = [
        (model.name, model),
        *((call.layer_path, call.layer) for call in reversed(calls)),
        *reversed([*walk(model)]),
    ]
    seen: set[int] = set()
    found = []
    for path, layer in order:
        if not isinstance(layer, keras.layers.Layer) or isinstance(layer, _DATA_LAYERS):
            continue
        if getattr(layer, "quantization_mode", None):
            raise ValueError(
                "Only weights of floating point numbers can be randomised. "
                f"Received: layer {path!r}, quantized to {layer.quantization_mode}. Give the model before quantization."
            )
        own = [variable for variable in _own(layer) if id(variable) not in seen]
        seen.update(map(id, own))
        if own:
            found.append(LayerWeights(path, layer, tuple(own)))
    if not found:
        raise ValueError(
            f"A model must have weights that can be randomised. Received: model {model.name!r}, which has none."
        )
    return found


def fresh_values(layer: Any, variable: Any, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Draws values for a variable that know nothing of what was learned.

    Where the layer has a Keras initializer for it, they are what that makes, with a seed from `rng`. Otherwise they are
    normal with the mean and deviation of the present values; fewer than two axes (biases, factors) are shuffled, which
    keeps what may have to be positive so. A kernel that starts constant (zeros) is drawn normal, too: an output layer
    of zeros would leave no map.

    Args:
        layer: The layer that holds the variable.
        variable: A floating point variable.
        rng: Where all randomness comes from; no other random state is touched.

    Returns:
        An array of the variable's shape.
    """
    seed = int(rng.integers(2**31))
    initializer = _initializer(layer, variable.name)
    config = {} if initializer is None else initializer.get_config()
    vector = len(variable.shape) < 2
    if initializer is not None and "seed" in config:
        # A copy: the user's own may hold the state of a seed generator.
        initializer = type(initializer).from_config({**config, "seed": seed})
    if initializer is not None and (vector or "seed" in config):
        return np.asarray(values_of(initializer(variable.shape, dtype=variable.dtype)))
    present = values_of(variable).astype(np.float64)
    return (
        rng.permutation(present)
        if vector and present.ndim
        else np.asarray(rng.normal(present.mean(), present.std(), present.shape))
    )


def values_of(tensor: Any) -> Any:
    """Returns the values of a Keras variable, or of a tensor, as an array.

    Not by their own conversion, of which NumPy 2 warns on some backends, as it does of Keras' conversion of PyTorch's.
    """
    value = getattr(tensor, "value", tensor)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy().copy()
    if hasattr(value, "numpy"):  # TensorFlow's, which warns of Keras' way.
        return np.asarray(value.numpy())
    return np.asarray(keras.ops.convert_to_numpy(value))


@contextmanager
def kept(variables: Iterable[Any]) -> Iterator[None]:
    """Gives variables their values back, bit for bit, whatever happens inside; meanwhile a copy of them is held."""
    values = [(variable, values_of(variable).copy()) for variable in variables]
    try:
        yield
    finally:
        for variable, value in values:
            variable.assign(value)


def _own(layer: Any) -> list[Any]:
    """Returns the variables that are held by the layer itself, and that are to be randomised."""
    inner = [sub for sub in sublayers(layer) if isinstance(sub, keras.layers.Layer)]
    theirs = {id(variable) for sub in inner for variable in sub.weights}
    return [
        variable
        for variable in layer.weights
        if id(variable) not in theirs
        and keras.backend.is_float_dtype(variable.dtype)
        and variable.name not in _STATISTICS
    ]


def _initializer(layer: Any, name: str) -> Any | None:
    """Returns the layer's initializer for a variable, if it is one of Keras' own."""
    # DepthwiseConv2D calls its kernel "kernel", and the initializer "depthwise_initializer".
    stems = (name, name.removesuffix("_kernel"), *(["depthwise"] if name == "kernel" else []))
    found = next((f for stem in stems if (f := getattr(layer, f"{stem}_initializer", None)) is not None), None)
    return found if getattr(keras.initializers, type(found).__name__, None) is type(found) else None
