"""Which image among a model's inputs is explained, found before a batch of it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..methods import resolve_methods
from ..network.targets import resolve_targets
from .tracing import traced


def chooser(
    model: Any, layer_name: Any, *, method: Any, target: Any, batch_size: int, tokens: Any = None
) -> Callable[[Any], tuple[int, str]]:
    """Returns what finds the image that is explained among several inputs; see `make_batch`.

    It traces the model, for only then it is known which layer is explained and what that depends on.

    Args:
        model: The model.
        layer_name: As for `explain`, and likewise the others.
        method: Likewise.
        target: Likewise.
        batch_size: Likewise.
        tokens: Likewise.
    """

    def choose(inputs: Any) -> tuple[int, str]:
        trace = traced(
            model,
            inputs,
            layer_list(layer_name),
            targets=tuple(resolve_targets(target).values()),
            needs=[one.needs for one in resolve_methods(method).values()],
            batch_size=int(batch_size),
            keeps=False,
            image_input=None,
            tokens=tokens,
        )
        return trace.capturer.ground.image_input, trace.capturer.ground.image_note

    return choose


def layer_list(layer_name: Any) -> list[Any]:
    """Returns the layers that were named; none where one is to be chosen."""
    if isinstance(layer_name, (list, tuple)):
        if not layer_name or None in layer_name:
            raise ValueError(
                "`layer_name` as a list must name the layers whose heatmaps are fused. "
                f"Received: {layer_name!r}. ['block3', 'block5'] works, or None to have one chosen."
            )
        return list(layer_name)
    return [] if layer_name is None else [layer_name]
