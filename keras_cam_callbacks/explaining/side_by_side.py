"""Several images among a model's inputs: each is explained by itself, and the views stand side by side."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..methods import Method
from ..passes.capture import needs_layer
from ..passes.ground import Ground
from ..records import ValidationBatch
from .inputs import methods_of

if TYPE_CHECKING:
    from .explainer import Explainer


@dataclass(frozen=True, eq=False)
class Beside:
    """What explains the further images.

    Attributes:
        explainers: By the names of their inputs.
        notes: What is to be said of them.
    """

    explainers: Mapping[str, Explainer]
    notes: tuple[str, ...] = ()


def of_others(
    make: Callable[..., Explainer], batch: ValidationBatch, method: Any, methods: Mapping[str, Method], ground: Ground
) -> Beside:
    """Makes what explains the further images of a batch.

    Args:
        make: Makes an explainer of `like` by `method`.
        batch: The batch.
        method: The methods as the user gave them.
        methods: The same by name.
        ground: What the explained layers see.

    Returns:
        An explainer for each input of which a method has a map of its own. One that can't be explained, as by a
        gradient where the model rounds it, is left out, and that is said.

    Raises:
        ValueError: If no method has one of an input.
    """
    explainers, notes = {}, []
    for name, other in batch.others.items():
        own = methods_of(methods, ground, other.image_input)
        if not own:
            raise ValueError(
                "`input` as a list must name images of which a method has maps of their own. "
                f"Received: {name!r} beside {batch.input_name!r}, of which "
                f"{', '.join(one.text for one in methods.values())} has one map for both, or none of the one. "
                f"input={name!r} alone may do, and so do methods of the image such as 'saliency' and 'occlusion'."
            )
        # What is said of them stands in their notes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            of_layer = any(needs_layer(one.needs) for one in own.values())
            layers = {} if of_layer else {"layer_name": None, "fuse": None}
            try:
                explainers[name] = make(like=other, method=_part(method, methods, own), **layers)
            except ValueError as error:
                notes.append(f"The input {name!r} is an image, too, but has no map: {error}")
                continue
        notes += explainers[name].notes
    return Beside(explainers, tuple(notes))


def _part(method: Any, methods: Mapping[str, Method], names: Iterable[str]) -> Any:
    """Returns some of the methods as the user gave them."""
    if len(methods) == len([*names]):
        return method
    every = method if isinstance(method, Mapping) else dict(zip(methods, method, strict=True))
    return {name: every[name] for name in names}


def owners(
    explainer: Explainer, own: Iterable[str], input_name: str, others: Mapping[str, Explainer]
) -> dict[str, tuple[Explainer, str]]:
    """Returns by the name of each view which explainer has it, and by what name.

    Args:
        explainer: That of the first image.
        own: Names of its own views.
        input_name: What its input is called.
        others: Those of further images by the names of their inputs.

    Raises:
        ValueError: If two views would have the same name.
    """
    if not others:
        return {name: (explainer, name) for name in own}
    every = [(explainer, name, input_name) for name in own]
    every += [(other, name, of_input) for of_input, other in others.items() for name in other.names]
    named = [("_".join(filter(None, (name, of_input))), owner, name) for owner, name, of_input in every]
    names = [name for name, *_ in named]
    if len(set(names)) < len(names):
        raise ValueError(
            "Methods, targets and inputs must have names that can be told apart together. "
            f"Received: views {', '.join(names)}. Name a method or a target otherwise."
        )
    return {name: (owner, inner) for name, owner, inner in named}
