"""Augmented copies of the images, and their heatmaps brought back: does attention stay where it was?

An augmentation here is no random one: the same image comes out the same in every epoch and run and in any batch, so
that maps differ by the model alone. What is removed or moved depends on the size of the image and the options only.

Images are in the model's own value range, whatever that is; see `tones` for what is black and white in it.

To add one: a function in its family's file that returns an `Augmentation`; a row here; tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checks import did_you_mean
from .base import Augmentation, apply, bring_back, compose, resized
from .geometry import crop_and_resize, flip, rotation, shift
from .tones import ValueRange, brightness_contrast, cut_out, noise, scale, sun_flare

__all__ = [
    "AUGMENTATIONS",
    "ON_RANGE",
    "Augmentation",
    "apply",
    "brightness_contrast",
    "bring_back",
    "compose",
    "crop_and_resize",
    "cut_out",
    "flip",
    "noise",
    "resized",
    "resolve_augmentations",
    "rotation",
    "scale",
    "shift",
    "sun_flare",
]


def _built_in(value_range: ValueRange | None = None) -> dict[str, Augmentation]:
    single = {
        "flip": flip(),
        "rotation": rotation(),
        "brightness_contrast": brightness_contrast(value_range=value_range),
        "crop_and_resize": crop_and_resize(),
        "cut_out": cut_out(value_range=value_range),
        "sun_flare": sun_flare(value_range=value_range),
        "noise": noise(),
        "scale": scale(),
        "shift": shift(),
    }
    # The boxes last, or the others would shine on them and turn them. Noise, scale and shift are no part of it: records
    # of earlier versions have the same one.
    order = ("flip", "rotation", "crop_and_resize", "brightness_contrast", "sun_flare", "cut_out")
    return {**single, "all": compose(*(single[name] for name in order))}


AUGMENTATIONS: dict[str, Augmentation] = _built_in()
"""The built-in augmentations by name, each with its defaults."""

ON_RANGE = ("brightness_contrast", "cut_out", "sun_flare", "all")
"""Names of the built-in augmentations that depend on what is black and white."""

_MAKERS = (brightness_contrast, compose, crop_and_resize, cut_out, flip, noise, rotation, scale, shift, sun_flare)
_PLURALS = {1: "signals", 2: "images", 3: "volumes and clips"}


def resolve_augmentations(
    augmentations: Any, value_range: ValueRange | None = None, axes: int = 2
) -> dict[str, Augmentation]:
    """Turns what the user gave as `augmentations` into augmentations by name, in the user's order.

    Args:
        augmentations: None for none; a list of names of built-in ones (see `AUGMENTATIONS`); or a mapping from a name
            of the user's to an `Augmentation`, a function of images, or the name of a built-in one.
        value_range: (black, white) for the built-in ones that are given by name, each one number or one for each
            channel; None for each image's own. Where it is known, a flare is white on an image without any white.
        axes: How many axes the model's input has: 1 of signals, 2 of images, 3 of volumes and clips.

    Raises:
        ValueError: If there is none, a built-in name is unknown or given twice, or a name is empty or contains "/"; if
            one has no meaning for such inputs; or if `value_range` is not a range.
        TypeError: If it is of another kind.
    """
    if augmentations is None:
        return {}
    if not isinstance(augmentations, (Mapping, list, tuple)):
        raise TypeError(
            "`augmentations` must be None, a list of names, or a mapping from names to augmentations. "
            f"Received: {augmentations!r} of type {type(augmentations).__name__}. "
            "['flip', 'cut_out'] and {'turned': rotation(30)} work."
        )
    if not augmentations:
        raise ValueError(f"`augmentations` must not be empty. Received: {augmentations!r}. None is for none at all.")
    if not isinstance(augmentations, Mapping):
        for name in augmentations:
            if not isinstance(name, str):
                raise TypeError(
                    "A list of `augmentations` must hold names of built-in ones. "
                    f"Received: {name!r} of type {type(name).__name__}. A mapping gives others a name: "
                    "{'mine': my_function}."
                )
        if len(set(augmentations)) < len(augmentations):
            raise ValueError(f"`augmentations` must name each one once. Received: {augmentations!r}.")
        augmentations = {name: name for name in augmentations}
    for name in augmentations:
        if not isinstance(name, str):
            raise TypeError(f"Names of `augmentations` must be text. Received: {name!r} of type {type(name).__name__}.")
        if not name.strip() or "/" in name:
            raise ValueError(
                "Names of `augmentations` must not be empty or contain '/', which separates the parts of logged names. "
                f"Received: {name!r}. 'my flip' works."
            )
    built_in = _built_in(value_range)
    resolved = {name: _as_augmentation(name, value, built_in) for name, value in augmentations.items()}
    for name, augmentation in resolved.items():
        if axes not in augmentation.axes:
            works = ", ".join(name for name, one in built_in.items() if axes in one.axes)
            raise ValueError(
                f"`augmentations` must have a meaning for {_PLURALS[axes]}. Received: {name!r}, which is for "
                f"{', '.join(_PLURALS[one] for one in augmentation.axes)}. {works} work."
            )
    return resolved


def _as_augmentation(name: str, value: Any, built_in: dict[str, Augmentation]) -> Augmentation:
    if isinstance(value, Augmentation):
        return value
    if isinstance(value, str):
        if value not in built_in:
            raise ValueError(
                f"A built-in augmentation must be one of {', '.join(built_in)}. Received: {value!r}."
                + did_you_mean(value, built_in)
            )
        return built_in[value]
    if callable(value) and not isinstance(value, type):
        if value in _MAKERS:
            raise TypeError(
                f"Augmentation {name!r} must be what {value.__name__}() returns. Received: {value.__name__} itself."
            )
        return Augmentation(value)
    raise TypeError(
        f"Augmentation {name!r} must be an Augmentation, a function of images (N, H, W, C), or one of "
        f"{', '.join(built_in)}. Received: {value!r} of type {type(value).__name__}."
    )
