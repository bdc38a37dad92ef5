"""What an augmentation is: a function of images, and the way back for the heatmaps; and how it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..checks import check, is_real, is_whole
from ..records import Floats
from ..space import resize

_SHAPES = {1: "(N, T, C)", 2: "(N, H, W, C)", 3: "(N, D, H, W, C)"}


@dataclass(frozen=True)
class Augmentation:
    """A change of the images, and the way back for their heatmaps.

    Attributes:
        function: Takes images (N, H, W, C) float32 in the model's value range and returns changed ones of the same
            shape; it must leave its input as it is, and should give the same result each time. Signals are (N, T, C),
            volumes and clips (N, D, H, W, C).
        inverse: Takes heatmaps (N, H, W) float32 of the changed images, at the images' size, and returns them in the
            frame of the original images, NaN where the changed image did not show that pixel. Inside `compose` its
            input can hold NaN too. None where the pixels do not move. Of other inputs the maps are (N, T) or
            (N, D, H, W).
        axes: What it has a meaning for: 1 for signals, 2 for images, 3 for volumes and clips.

    Raises:
        TypeError: If `function` is not callable, or `inverse` neither callable nor None.
        ValueError: If `axes` holds anything else.
    """

    function: Callable[[Floats], Any]
    inverse: Callable[[Floats], Any] | None = None
    axes: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        valid = isinstance(self.axes, tuple) and bool(self.axes) and all(is_whole(one, 1, 3) for one in self.axes)
        check("axes", self.axes, valid, "a tuple of some of 1, 2 and 3", "(2, 3)")
        for name, value, must in (
            ("function", self.function, "a function of images (N, H, W, C)"),
            ("inverse", self.inverse, "None or a function of heatmaps (N, H, W)"),
        ):
            if (value is None and name == "inverse") or (callable(value) and not isinstance(value, type)):
                continue
            raise TypeError(f"`{name}` must be {must}. Received: {value!r} of type {type(value).__name__}.")


def compose(*augmentations: Augmentation | Callable[[Floats], Any]) -> Augmentation:
    """Does several augmentations one after the other; the way back takes their inverses in reverse order.

    Args:
        augmentations: Each an `Augmentation`, or a function of images that moves no pixels.

    Raises:
        ValueError: If there is none, or no kind of input for which all have a meaning.
        TypeError: If one is of another kind.
    """
    if not augmentations:
        raise ValueError("compose() needs at least one augmentation. Received: none. compose(flip(), cut_out()) works.")
    parts = tuple(part if isinstance(part, Augmentation) else Augmentation(part) for part in augmentations)
    moves = any(part.inverse for part in parts)
    axes = tuple(one for one in (1, 2, 3) if all(one in part.axes for part in parts))
    if not axes:
        raise ValueError(
            "compose() needs augmentations that have a meaning for the same kind of input. "
            f"Received: {', '.join(f'{_name_of(part)} for {part.axes} axes' for part in parts)}."
        )
    back = partial(_one_by_one_back, parts=parts) if moves else None
    return Augmentation(partial(_one_by_one, parts=parts), back, axes)


def apply(augmentation: Augmentation, images: Floats, *, name: str = "") -> Floats:
    """Changes the images, and checks what a user's function made of them.

    Args:
        augmentation: The augmentation.
        images: (N, H, W, C), or (N, *space, C), in the model's value range; they are left as they are.
        name: The augmentation's name, for errors; without it, its function's.

    Returns:
        (N, H, W, C) float32, or (N, *space, C), a new array.

    Raises:
        ValueError: If the images are no finite numbers of that shape; or the function raises an error, changes its
            input, or returns another shape or numbers that are not finite.
    """
    images = np.ascontiguousarray(images, np.float32)
    name = name or _name_of(augmentation)
    if images.ndim - 2 not in augmentation.axes or 0 in images.shape or not np.isfinite(images).all():
        shapes = " or ".join(_SHAPES[one] for one in sorted(augmentation.axes, key=(2, 3, 1).index))
        raise ValueError(
            f"Images must be finite numbers of shape {shapes}. "
            f"Received: shape {images.shape}{'' if 0 in images.shape else f', {_extent(images)}'} "
            f"for augmentation {name!r}."
        )
    changed = _called(augmentation.function, images, f"The function of augmentation {name!r}")
    if not np.isfinite(changed).all():
        raise ValueError(
            f"The function of augmentation {name!r} must return finite numbers. Received: {_extent(changed)}, "
            f"from images with {_extent(images)}."
        )
    return changed


def bring_back(augmentation: Augmentation, heatmaps: Floats, size: tuple[int, ...], *, name: str = "") -> Floats:
    """Brings heatmaps of augmented images back into the frame of the original images.

    Args:
        augmentation: The augmentation that the images went through.
        heatmaps: (N, h, w) float32, raw: signed and unscaled, at any size; or of another number of axes.
        size: (H, W) of the images, or the positions along each axis of another input.
        name: The augmentation's name, for errors; without it, its function's.

    Returns:
        (N, H, W) float32, raw, a new array: see `resized`; NaN where the augmented image did not show a pixel.

    Raises:
        ValueError: If the shape is wrong; or the user's inverse raises an error, changes its input, or returns another
            shape or infinite numbers.
    """
    return _brought_back(augmentation, resized(heatmaps, size), name or _name_of(augmentation))


def resized(heatmaps: Floats, size: tuple[int, ...]) -> Floats:
    """Resizes raw heatmaps as overlays do: bilinearly, or by area where all sides shrink.

    Args:
        heatmaps: (N, h, w) float32, raw, or of another number of axes.
        size: (H, W), px, or positions along each of the axes.

    Returns:
        (N, H, W) float32, a new array; NaN throughout where a heatmap is not finite, for that map explains nothing.

    Raises:
        ValueError: If the heatmaps have not one to three axes beside the samples or hold no pixels, or `size` is not a
            size for each axis.
    """
    heatmaps = np.asarray(heatmaps, np.float32)
    # Two sizes are of images, whatever the heatmaps are.
    axes = 2 if isinstance(size, (tuple, list)) and len(size) == 2 else heatmaps.ndim - 1
    if heatmaps.ndim != axes + 1 or heatmaps.ndim not in (2, 3, 4) or 0 in heatmaps.shape[1:]:
        raise ValueError(
            "Heatmaps must have the shape (N, h, w) with h and w of at least 1. "
            f"Received: shape {heatmaps.shape}. Give one heatmap as heatmap[None]."
        )
    sides = isinstance(size, (tuple, list)) and len(size) == axes and all(is_whole(side, 1) for side in size)
    must = "(height, width) in px" if axes == 2 else f"{axes} whole numbers, one for each axis"
    check("size", size, sides, must, str((224,) * axes))
    smaller = all(side < have for side, have in zip(size, heatmaps.shape[1:], strict=True))
    result = np.full((len(heatmaps), *size), np.nan, np.float32)
    whole = np.isfinite(heatmaps).all(axis=tuple(range(1, heatmaps.ndim)))
    if whole.any():
        result[whole] = resize(heatmaps[whole], size, "area" if smaller else "linear")
    return result


def _one_by_one(images: Floats, parts: Sequence[Augmentation]) -> Floats:
    for part in parts:
        images = apply(part, images)
    return images


def _one_by_one_back(heatmaps: Floats, parts: Sequence[Augmentation]) -> Floats:
    for part in reversed(parts):
        heatmaps = _brought_back(part, heatmaps, _name_of(part))
    return heatmaps


def _brought_back(augmentation: Augmentation, heatmaps: Floats, name: str) -> Floats:
    if augmentation.inverse is None:
        return heatmaps
    back = _called(augmentation.inverse, heatmaps, f"The inverse of augmentation {name!r}")
    if np.isinf(back).any():
        raise ValueError(
            f"The inverse of augmentation {name!r} must return finite numbers, and NaN for pixels that were not shown. "
            "Received: infinite ones."
        )
    return back


def _called(function: Callable[[Floats], Any], array: Floats, who: str) -> Floats:
    """What a user's function makes of a copy of the array, once it is sure to be numbers of the same shape."""
    given = array.copy()
    try:
        result = np.asarray(function(given))
    except Exception as error:
        raise ValueError(
            f"{who} must take an array of shape {array.shape}. "
            f"Received: {function!r}, which raised {type(error).__name__}: {error}"
        ) from error
    if not np.array_equal(given, array, equal_nan=True):
        raise ValueError(
            f"{who} must leave its input as it is. Received: {function!r}, which changed it. "
            "Let it begin with a copy: array = array.copy()."
        )
    if result.dtype.kind not in "biuf" or result.shape != array.shape:
        raise ValueError(
            f"{who} must return numbers of shape {array.shape}, as it was given. "
            f"Received: {result.dtype} of shape {result.shape} from {function!r}."
        )
    with np.errstate(over="ignore"):  # What is too large for float32 becomes infinite, which is told then.
        return np.array(result, np.float32)


def _name_of(augmentation: Augmentation) -> str:
    function = augmentation.function
    function = function.func if isinstance(function, partial) else function
    return str(getattr(function, "__name__", type(function).__name__))


def check_position(position: Any) -> None:
    """Raises a ValueError unless this is a place in an image."""
    pair = isinstance(position, (tuple, list)) and len(position) == 2
    valid = pair and all(is_real(share, 0, 1) for share in position)
    check("position", position, valid, "two numbers in [0, 1], down and across", "(0.5, 0.5)")


def _extent(array: Floats) -> str:
    """The values of an array in words."""
    finite = array[np.isfinite(array)]
    extent = f"values from {finite.min():.4g} to {finite.max():.4g}" if finite.size else "no finite value"
    return extent + (f", and {array.size - finite.size} not finite" if finite.size < array.size else "")
