"""The structure of a model's outputs: where each is in it, the names that it goes by, and code that reaches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras


def leaves(outputs: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns a model's output tensors in Keras' order, each with the keys and places that lead to it."""
    order = [id(leaf) for leaf in keras.tree.flatten(outputs)]
    paths: dict[int, tuple[Any, ...]] = {}
    tensors: dict[int, Any] = {}

    def walk(part: Any, path: tuple[Any, ...]) -> None:
        if isinstance(part, Mapping):
            for name in part:
                walk(part[name], (*path, name))
        elif isinstance(part, (list, tuple)):
            for i, item in enumerate(part):
                walk(item, (*path, i))
        else:
            paths.setdefault(id(part), path)
            tensors[id(part)] = part

    walk(outputs, ())
    return [(paths[key], tensors[key]) for key in order if key in paths]


def output_names(model: Any, paths: Sequence[tuple[Any, ...]]) -> list[list[str]]:
    """Returns the names that each output goes by: its path, the last part of that, and its layer's name."""
    own = list(getattr(model, "output_names", None) or [])
    names = []
    for i, path in enumerate(paths):
        of_output = ["/".join(map(str, path)), str(path[-1])] if path else []
        if len(own) == len(paths):
            of_output.append(str(own[i]))
        names.append(list(dict.fromkeys(of_output)))
    return names


def example_rule(paths: Sequence[tuple[Any, ...]], shapes: Sequence[Sequence[int | None]]) -> str:
    """Returns the code of a function of these outputs, one number for each sample, that works for this very model."""
    # An output of classes or numbers makes a plainer example than a mask.
    at = min(range(len(shapes)), key=lambda i: (abs(len(shapes[i]) - 2), i))
    path, shape = paths[at], shapes[at]
    part = "outputs" + "".join(f"[{key!r}]" for key in path)
    if len(shape) < 2:
        return f"lambda outputs: {part}"
    last = 3 if shape[-1] is None else min(3, shape[-1] - 1)
    if len(shape) == 2:
        return f"lambda outputs: {part}[:, {last if shape[-1] is not None else 0}]"
    axes = tuple(range(1, len(shape) - 1))
    return f"lambda outputs: keras.ops.mean({part}[..., {last}], axis={axes if len(axes) > 1 else axes[0]})"
