"""Gradients with respect to the images, also those that ReLUs or biases change on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import keras
import torch
from torch.overrides import TorchFunctionMode

from ...network.biases import Place
from ...network.layers import walk
from ..constants import watched_constants
from .graphs import RELUS
from .recording import name_of
from .runs import FLOAT16_SCALE, tap


class _Guided(torch.autograd.Function):  # type: ignore[misc]  # PyTorch's types are passed over
    """A ReLU that hands back positive gradients only."""

    @staticmethod
    def forward(context: Any, values: Any, highest: float) -> Any:
        """Computes the ReLU."""
        output = values.clamp(0, highest)
        context.save_for_backward(output)
        context.highest = highest
        return output

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        """Lets positive gradients pass where the ReLU is open."""
        (output,) = context.saved_tensors
        passes = (gradient > 0) & (output > 0) & (output < context.highest)
        return torch.where(passes, gradient, torch.zeros_like(gradient)), None


class _Guiding(TorchFunctionMode):  # type: ignore[misc]  # PyTorch's types are passed over
    """Puts guided ReLUs in the place of all others while it is entered.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function, or the guided ReLU in its place."""
        kwargs = kwargs or {}
        name = name_of(function)
        if name in RELUS:
            values = args[0] if args else kwargs["input"]
            if torch.is_floating_point(values):
                self.count += 1
                return _Guided.apply(values, 6.0 if name == "relu6" else torch.inf)
        return function(*args, **kwargs)


def gradient(
    function: Callable[[Any], Any], values: Any, model: Any, guided: bool = False
) -> tuple[Any, Any | None, int]:
    """Differentiates a function that runs the model; see `contract.Engine`.

    ReLUs inside a module that TorchScript or `torch.compile` has made are out of reach.
    """
    scale = FLOAT16_SCALE if _has_halves(model) else 1.0
    guiding = _Guiding()
    with torch.enable_grad(), ExitStack() as guidance:
        values = values.detach().requires_grad_()
        if guided:
            guidance.enter_context(guiding)
        scores = function(values)
    count = guiding.count if guided else 0
    if guided and any(map(_is_closed, torch.nn.Module.modules(model))):
        count = -1
    (slope,) = _slopes(scores, [values], scale)
    return scores, slope, count


def full_gradient(
    function: Callable[[Any], Any], values: Any, model: Any, others: Sequence[Any] = ()
) -> tuple[Any, Any | None, list[Any | None], list[Place]]:
    """Differentiates a function that runs the model, also where its layers add constants; see `contract.Engine`.

    A layer that is called twice has two places. What a module of PyTorch adds is out of reach.
    """
    scale = FLOAT16_SCALE if _has_halves(model) else 1.0

    def watch(tensor: Any) -> Any:
        if not tensor.requires_grad:
            tensor.requires_grad_()
        return tensor

    with torch.enable_grad(), watched_constants(model, tap, watch) as constants:
        for path, layer in walk(model):
            if isinstance(layer, keras.layers.TorchModuleWrapper) and any(map(_adds, layer.module.modules())):
                constants.missed.append((path, "a module of PyTorch that adds its own"))
        values = values.detach().requires_grad_()
        for other in others:  # The function has them already.
            other.requires_grad_()
        scores = function(values)
    constants.check()
    sources = [values, *others, *(tensor for _, _, tensor, _, _ in constants.reached)]
    gradients = _slopes(scores, sources, scale)
    outer, inner = gradients[1 : 1 + len(others)], gradients[1 + len(others) :]
    places = [
        Place(path, layer, tensor, layout, slope, steps)
        for (path, layer, tensor, layout, steps), slope in zip(constants.reached, inner, strict=True)
        if slope is not None
    ]
    return scores, gradients[0], outer, places


def _slopes(scores: Any, sources: Sequence[Any], scale: float) -> list[Any | None]:
    if not scores.requires_grad:
        return [None] * len(sources)
    slopes = torch.autograd.grad(scores, sources, torch.full_like(scores, scale), allow_unused=True)
    return [None if slope is None else slope.to(torch.float32) / scale for slope in slopes]


def _has_halves(model: Any) -> bool:
    return any(getattr(layer, "compute_dtype", None) == "float16" for _, layer in walk(model))


def _is_closed(module: Any) -> bool:
    """Tells whether what a module computes can't be seen, function by function."""
    return isinstance(module, torch.jit.ScriptModule) or type(module).__name__ == "OptimizedModule"


def _adds(module: Any) -> bool:
    """Tells whether a module has a bias, or statistics that it takes off."""
    return getattr(module, "bias", None) is not None or getattr(module, "running_mean", None) is not None
