"""`keras-cam layers`: what can be explained in a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .console import need, one_message, plain, print_json, print_table
from .loading import FREE_SIDES, load_model, running
from .options import JSON, MODEL, UNSAFE


@click.command(short_help="List the layers of a saved model that can be explained.")
@MODEL
@JSON
@UNSAFE
def layers(model: Path, as_json: bool, unsafe: bool) -> None:
    """Lists the layers that can be explained, and which one is by default.

    These are the layers of MODEL.keras, at any depth, whose output is a feature map larger than 1 x 1. Each path can be
    given as --layer, or as `layer_name` in Python.
    """
    need("rich")
    with one_message():
        loaded = load_model(model, unsafe=unsafe)
        with running(loaded):
            found = describe_layers(loaded)
    if as_json:
        print_json(found)
        return
    print_table(
        ["layer", "kind", "output", "parameters", "default"],
        [
            (
                each["path"],
                each["kind"],
                " x ".join("any" if side is None else str(side) for side in each["output_shape"]),
                f"{each['parameters']:,}",
                "yes" if each["path"] == found["chosen"] else "",
            )
            for each in found["candidates"]
        ],
        title=f"{found['model']}, {found['kind']}s of {found['input']}",
        right=["parameters"],
    )
    click.echo(plain(found["why"]))


def describe_layers(model: Any) -> dict[str, Any]:
    """Returns which layers of a loaded model can be explained, as plain data.

    Returns:
        model, input, kind, parameters; candidates in call order, each with path, kind, output_shape and parameters;
        chosen, a path or None; and why.

    Raises:
        ValueError: If the model takes no images, signals, volumes or clips, or anything beside them.
    """
    import numpy as np

    from ..network.layers import candidates
    from ..network.targets import resolve_target
    from ..passes.capture import Capturer
    from ..passes.taps import layer_calls
    from .loading import model_input

    given = model_input(model)
    *sides, channels = (side or free for side, free in zip(given.shape, (*FREE_SIDES[given.kind], 3), strict=True))
    shape = (channels, *sides) if given.channels_first else (*sides, channels)
    images = np.zeros((1, *shape), given.dtype)
    calls = candidates(layer_calls(model, images), len(sides))
    try:
        (tap,) = Capturer(model, images, targets=[resolve_target("predicted")]).taps
        chosen: str | None = tap.path
        why = f"By default {tap.path} is explained: the last feature map, in call order, that the score depends on."
    except ValueError as error:
        chosen, why = None, f"By default no layer can be explained. {error}"
    return {
        "model": model.name,
        "input": str(given),
        "kind": given.kind,
        "parameters": model.count_params(),
        "candidates": [
            {
                "path": call.path,
                "kind": type(call.layer).__name__,
                "output_shape": _shape(call.output_shape, given.shape),
                "parameters": call.layer.count_params() if hasattr(call.layer, "count_params") else 0,
            }
            for call in calls
        ],
        "chosen": chosen,
        "why": why,
    }


def _shape(shape: Any, given: tuple[int | None, ...]) -> list[int | None]:
    """Returns the shape of one sample's output; its sides mean nothing where the input's are free."""
    sides = list(shape[1:])
    axes = min(len(given), len(sides)) - 1
    return [None] * axes + sides[axes:] if None in given[:-1] else sides
