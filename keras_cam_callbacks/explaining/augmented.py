"""The batch under augmentations: its copies as the model and as people see them, and what becomes of their heatmaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..augmentations import ON_RANGE, Augmentation, apply, bring_back, resized, resolve_augmentations
from ..data.layout import as_images, as_pictures, as_type, in_layout, input_at
from ..data.ranges import display_images
from ..data.recognition import recognised
from ..data.spaces import displayed_space, has_channels, pixels_of
from ..metrics import correlation
from ..metrics.agreement import of_one_class
from ..records import Floats, Image, Look, Space, ValidationBatch, ValueRange
from .explanation import Augmented, Explanation


def resolved_for(augmentations: Any, batch: ValidationBatch) -> dict[str, Augmentation]:
    """Returns the augmentations by name; those that are built in know what is black and white to the model.

    Where that is not certain they work in each image's own range: see `guessed_range`.

    Args:
        augmentations: As for `resolve_augmentations`.
        batch: The batch.

    Raises:
        ValueError: As `resolve_augmentations`, or if the batch holds no images.
        TypeError: As `resolve_augmentations`.
    """
    if augmentations is None:
        return {}
    images = input_at(batch.inputs, batch.image_input)
    if batch.space is None:
        raise ValueError(
            "`augmentations` need images (samples, height, width, channels), signals, volumes or clips. "
            f"Received: inputs of shape {images.shape} of type {images.dtype}. Leave them out."
        )
    axes = len(batch.space.axes)
    # Names and options are checked before the values are looked at.
    resolved = resolve_augmentations(augmentations, axes=axes)
    known = _pixel_range(batch)
    if known is None or not known.certain:
        return resolved
    return resolve_augmentations(augmentations, (known.black, known.white), axes)


def guessed_range(augmentations: Any, batch: ValidationBatch) -> tuple[str, ...]:
    """Returns the names of the augmentations that depend on what is black and white, where that is not certain.

    Args:
        augmentations: As for `resolve_augmentations`, after its checks.
        batch: The batch.
    """
    pixel_range = None if augmentations is None else _pixel_range(batch)
    if pixel_range is None or pixel_range.certain:
        return ()
    named = augmentations if isinstance(augmentations, Mapping) else {name: name for name in augmentations}
    return tuple(name for name, value in named.items() if isinstance(value, str) and value in ON_RANGE)


def without_numbers(names: tuple[str, ...], batch: ValidationBatch) -> str:
    """Says in words why some augmentations have no numbers; "" for none."""
    pixel_range = _pixel_range(batch) if names else None
    if pixel_range is None:
        return ""
    return (
        f"{', '.join(names)} depend{'s' * (len(names) == 1)} on what is black and white, which is not certain for "
        f"images of range {pixel_range.name}: each image's own least and largest values are taken, and no "
        "numbers are reported. value_range= tells the range."
    )


def _pixel_range(batch: ValidationBatch) -> ValueRange | None:
    """Returns which values are black and white; None of signals, which have neither."""
    if batch.pixel_range is not None or batch.space is None or len(batch.space.axes) == 1:
        return batch.pixel_range
    pixels = pixels_of(input_at(batch.inputs, batch.image_input), batch.space)
    return None if pixels is None else recognised(as_pictures(pixels))


def _as_arrays(images: npt.NDArray[Any], space: Space) -> Floats:
    """Returns what a model takes, (N, ...), as (N, *space, C) float32."""
    return as_images(images, space.layout, len(space.axes))


def _as_input(arrays: Floats, like: npt.NDArray[Any], space: Space) -> npt.NDArray[Any]:
    """Returns (N, *space, C) in the layout and the type of what the model takes."""
    arrays = in_layout(arrays, space.layout) if has_channels(space, like) else arrays[..., 0]
    return as_type(arrays, like.dtype)


def augmented_batch(batch: ValidationBatch, augmentation: Augmentation, name: str) -> ValidationBatch:
    """Returns the batch with its images augmented.

    Args:
        batch: The batch.
        augmentation: The augmentation.
        name: Its name, for errors.

    Returns:
        A batch with the same keys and labels. Its display images are the augmented ones, as the model sees them where
        that is recognised, else the display images augmented alike; the original ones stand beside them.

    Raises:
        ValueError: If a user's function fails, or returns another shape.
    """
    images = input_at(batch.inputs, batch.image_input)
    space = batch.space
    assert space is not None
    changed = apply(augmentation, _as_arrays(images, space), name=name)
    inputs = keras.tree.map_structure(lambda a: _as_input(changed, images, space) if a is images else a, batch.inputs)
    augmented = replace(
        batch,
        inputs=inputs,
        make_look=partial(_augmented_look, batch, augmentation, changed, name),
        regions=(),  # Where an object has gone, a user's function doesn't tell.
    )
    if "look" in vars(batch) and batch.value_range == "given":
        augmented.look  # noqa: B018 - the user's function is called where its faults are told
    return augmented


def _augmented_look(batch: ValidationBatch, augmentation: Augmentation, changed: Floats, name: str) -> Look:
    """Makes what people see of an augmented batch, of which the model sees the arrays (N, *space, C)."""
    assert batch.space is not None
    if batch.value_range == "given":
        axes = len(batch.space.axes)
        # A picture of a signal, or of a part of a volume or clip, has none of its axes.
        alike = all(image.ndim == axes + 1 for image in batch.display)
        shown = (
            tuple(_augmented_display(image, augmentation, changed, name) for image in batch.display)
            if alike
            else batch.display
        )
    elif len(batch.space.axes) == 2:
        shown = display_images(list(changed), _pixel_range(batch))[0]
    else:
        shown = displayed_space(changed, replace(batch.space, layout="channels_last"), _pixel_range(batch))[0]
    return replace(batch.look, display=shown, beside={"original": batch.display}, display_name="augmented")


def joined_inputs(batches: Mapping[str, ValidationBatch]) -> Any:
    """Returns the inputs of several batches as those of one, row by row."""
    inputs = [batch.inputs for batch in batches.values()]
    return inputs[0] if len(inputs) == 1 else keras.tree.map_structure(lambda *each: np.concatenate(each), *inputs)


def compared(
    original: Explanation, changed: Explanation, augmentation: Augmentation, name: str, guessed: bool = False
) -> Augmented:
    """Compares the heatmaps of augmented images with those of the images.

    Args:
        original: The explanation of the images.
        changed: The explanation of the augmented images.
        augmentation: The augmentation.
        name: Its name, for errors.
        guessed: Whether the change depends on a range that is not certain, so that no number is reported.

    Raises:
        ValueError: If the user's inverse fails, or returns another shape.
    """
    assert original.batch.space is not None
    size = original.batch.space.size
    restored = bring_back(augmentation, changed.heatmaps, size, name=name)
    before, after = original.predicted, changed.predicted
    reference = of_one_class(resized(original.heatmaps, size), changed.targets, original.targets)
    return Augmented(
        explanation=changed,
        restored=restored,
        correlation=np.full(len(restored), np.nan) if guessed else correlation(restored, reference),
        unchanged=None if guessed or before is None or after is None else (before == after) & (before >= 0),
        guessed=guessed,
    )


def _augmented_display(image: Image, augmentation: Augmentation, images: Floats, name: str) -> Image:
    """Augments a display image in the range of the model's images, which is what a user's function expects."""
    low, high = float(images.min()), float(images.max())
    spread = max(high - low, 1e-6)
    as_input: Floats = image[None].astype(np.float32) * np.float32(spread / 255) + np.float32(low)
    changed = (apply(augmentation, as_input, name=name)[0] - low) / spread * 255
    return np.asarray(np.clip(np.rint(changed), 0, 255), np.uint8)
