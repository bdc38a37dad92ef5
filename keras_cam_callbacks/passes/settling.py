"""Whether what was tapped is a picture of the image: how tokens lie on it, and whether positions answer to places."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from .. import engine
from ..network.layers import Tap, walk
from ..network.tokens import Tokens, settled
from ..records import Space
from .bands import LEAST, Sight, banded, layout_of_tokens, sight
from .seen import Seen

NO_GRID = "puts out tokens that make no grid whose cells answer to places of the image"

NO_GRADIENT = "has a gradient of exactly zero"


@dataclass(frozen=True)
class Settled:
    """What has been measured of the tapped layers.

    Attributes:
        taps: The layers, tokens with their layout.
        refused: Paths of the layers that are no picture, with the reason in words.
        notes: What is to be said of layers that were named.
        sights: Which part of the image each of the layers that were measured sees.
    """

    taps: tuple[Tap, ...]
    refused: Mapping[str, str]
    notes: tuple[str, ...]
    sights: Mapping[str, Sight]


def settle(
    model: Any,
    taps: Mapping[str, Tap],
    look: Callable[[Any, int], Mapping[str, Seen]],
    inputs: Any,
    at: int,
    image: Space | None,
    *,
    unsure: Container[str],
    earlier: Mapping[str, Sequence[Sequence[int | None]]],
    tokens: Tokens | Callable[[Any], Any] | None,
    named: bool,
) -> Settled:
    """Measures the tapped layers by one pass of copies of a sample, where that is needed.

    Args:
        model: The model.
        taps: The layers by some names.
        look: Takes copies of a sample, and their number; returns what is seen of each layer.
        inputs: One sample of the model's inputs.
        at: Which of them, flattened, is the image.
        image: Its space, with its layout; None for an input without places.
        unsure: Paths of the layers of which the graph doesn't tell that they are pictures.
        earlier: For each layer of tokens the sizes of the maps that were computed before it.
        tokens: How tokens lie on the image, where the user says it.
        named: Whether the user has named the layers.

    Raises:
        ValueError: If a layer that was named puts out no row for each sample, or tokens whose layout isn't found.
    """
    for tap in taps.values():
        if tap.space.axes == ("tokens",) and (image is None or tap.path not in unsure):
            raise ValueError(
                "Tokens are explained of images (samples, height, width, channels). "
                f"Received: layer {tap.path!r} and inputs of shape {(None, *keras.tree.flatten(inputs)[at].shape[1:])}."
            )
    if image is None or not any(tap.path in unsure for tap in taps.values()):
        return Settled(tuple(taps.values()), {}, (), {})
    copies = banded(inputs, at, image)
    count = len(keras.tree.flatten(copies)[0])
    try:
        every = look(copies, count)
    except engine.load().FAILURES:
        if any(tap.space.axes == ("tokens",) for tap in taps.values()):
            raise
        # A function of the user's own that takes no image but theirs: training is not kept from beginning by that.
        return Settled(tuple(taps.values()), {}, (), {})
    results, refused, notes, sights = dict(taps), {}, [], {}
    for name, tap in taps.items():
        if tap.path not in unsure:
            continue
        seen, must = every[name], named or name == "head"
        if seen.rows != 1:
            if must:
                raise ValueError(_rows(model, tap, seen.rows))
            refused[tap.path] = f"puts out {seen.rows:g} rows for each sample"
            continue
        changes = seen.changes
        if tap.space.axes == ("tokens",):
            laid, follows = (
                layout_of_tokens(changes, image.size, earlier.get(tap.path, ()))
                if tokens is None
                else (settled(tokens, changes.shape[1]), np.nan)
            )
            if laid is None:
                if named:
                    raise ValueError(_no_grid(tap, changes.shape[1], follows))
                refused[tap.path] = NO_GRID
                continue
            if len(laid.grid) != len(image.axes):
                raise ValueError(
                    f"The grid of tokens must have the axes {', '.join(image.axes)}. Received: {laid.grid}."
                )
            tap = results[name] = replace(tap, space=Space(image.axes, laid.grid), tokens=laid)
            changes = changes[:, laid.positions].reshape(len(changes), *laid.grid)
        part = sight(changes, image.size)
        if tokens is None or tap.tokens is None:  # Where tokens lie is the user's word.
            sights[tap.path] = part
        if part.follows < LEAST and not part.turned:
            if must:
                sights.pop(tap.path, None)
                notes.append(_no_picture(tap, part.follows))
            else:
                refused[tap.path] = "doesn't answer to places of the image"
        elif not must and all(_is_dead(every[other], tap) for other, tap in results.items() if other != "head"):
            refused[tap.path] = NO_GRADIENT
            notes.append(
                f"Layer {tap.path!r} would have been explained, but its gradient is exactly zero: the score doesn't "
                "depend on it. The next one is taken."
            )
    return Settled(tuple(results.values()), refused, tuple(notes), sights)


def _is_dead(seen: Seen, tap: Tap) -> bool:
    """Tells whether gradients were captured of a layer, and all of its cells are zero."""
    if seen.reached is None:
        return False
    return not np.any(seen.reached if tap.tokens is None else seen.reached[tap.tokens.positions])


def _rows(model: Any, tap: Tap, times: float) -> str:
    paths = [path for path, _ in walk(model)]
    around = next((tap.path.rsplit("/", i)[0] for i in range(1, tap.path.count("/") + 1)), None)
    block = f" layer_name={around!r}, the block around it, may do." if around in paths else ""
    return (
        "The explained layer must put out one row for each sample. "
        f"Received: layer {tap.path!r}, which puts out {times:g} for each, as where windows have become samples."
        f"{block} Leave layer_name out to have one chosen."
    )


def _no_grid(tap: Tap, count: int, follows: float) -> str:
    return (
        "The tokens of the explained layer must lie on the image as a grid, with at most 16 others. "
        f"Received: layer {tap.path!r} with {count} tokens, of which "
        + (
            "no number makes a grid like the image. "
            if np.isnan(follows)
            else f"no grid answers to places of the image (correlation {follows:.2f} at best). "
        )
        + "tokens=(14, 14) or tokens=Tokens(grid=(14, 14), special=[0]) says how they lie."
    )


def _no_picture(tap: Tap, follows: float) -> str:
    return (
        f"The positions of layer {tap.path!r} hardly answer to places of the image: where a position is and what it "
        f"answers to have a correlation of {follows:.2f}, and of {LEAST} at least in a map. Its heatmaps may be no "
        "picture of the image. Leave layer_name out to have another one chosen."
    )
