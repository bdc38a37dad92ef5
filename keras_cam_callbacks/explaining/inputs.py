"""Which image among a model's inputs is explained, found before a batch of it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..methods import Method, resolve_methods
from ..network.targets import resolve_targets
from ..passes.capture import needs_layer
from ..passes.ground import Ground
from .tracing import traced


def chooser(
    model: Any, layer_name: Any, *, method: Any, target: Any, batch_size: int, tokens: Any = None, one: bool = False
) -> Callable[[Any], tuple[Sequence[int], str]]:
    """Returns what finds the images that are explained among several inputs; see `make_batch`.

    It traces the model, for only then it is known which layer is explained and what that depends on.

    Args:
        model: The model.
        layer_name: As for `explain`, and likewise the others.
        method: Likewise.
        target: Likewise.
        batch_size: Likewise.
        tokens: Likewise.
        one: Whether one image alone is explained.
    """

    def choose(inputs: Any) -> tuple[Sequence[int], str]:
        methods = resolve_methods(method)
        trace = traced(
            model,
            inputs,
            layer_list(layer_name),
            targets=tuple(resolve_targets(target).values()),
            needs=[each.needs for each in methods.values()],
            batch_size=int(batch_size),
            keeps=False,
            image_input=None,
            tokens=tokens,
        )
        ground = trace.capturer.ground
        of_others = {} if one else {at: methods_of(methods, ground, at) for at in ground.others}
        shown = [at for at, own in of_others.items() if own]
        # Where all methods show all images there is nothing to be said of a choice.
        whole = bool(shown) and all(len(own) == len(methods) for own in of_others.values())
        return (ground.image_input, *shown), "" if whole else ground.image_note

    return choose


def methods_of(methods: Mapping[str, Method], ground: Ground, at: int) -> dict[str, Method]:
    """Returns the methods that have a map of their own of a further image.

    Methods of the image have one of each that the score depends on; methods of a layer where the image has layers of
    its own. CAM has one head.

    Args:
        methods: The methods by name.
        ground: What the explained layers see.
        at: Which of the inputs, flattened, the image is.
    """

    def explains(needs: Sequence[str]) -> bool:
        if "kernel" in needs:
            return False
        return at in (ground.unseen if needs_layer(needs) else ground.others if "images" in needs else ())

    return {name: method for name, method in methods.items() if explains(method.needs)}


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
