"""The batch under augmentations: its copies as the model and as people see them, and what becomes of their heatmaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from ..augmentations import Augmentation, apply, bring_back, resized, resolve_augmentations
from ..data.layout import as_images, as_input, image_size, input_at
from ..data.ranges import display_images, is_displayable, limits, value_range
from ..metrics import correlation
from ..records import Floats, Image, Look, ValidationBatch
from .explanation import Augmented, Explanation


def resolved_for(augmentations: Any, batch: ValidationBatch) -> dict[str, Augmentation]:
    """Returns the augmentations by name; those that are built in know what is black and white to the model.

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
    if not is_displayable(images):
        raise ValueError(
            "`augmentations` need images (samples, height, width, channels). "
            f"Received: inputs of shape {images.shape} of type {images.dtype}. Leave them out."
        )
    return resolve_augmentations(augmentations, limits(value_range(list(as_images(images)))))


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
    changed = apply(augmentation, as_images(images), name=name)
    inputs = keras.tree.map_structure(lambda a: as_input(changed, images) if a is images else a, batch.inputs)
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
    """Makes what people see of an augmented batch, of which the model sees the images (N, H, W, C)."""
    if batch.value_range == "given":
        shown = tuple(_augmented_display(image, augmentation, changed, name) for image in batch.display)
    else:
        shown = display_images(list(changed), batch.value_range)[0]
    return replace(batch.look, display=shown, beside={"original": batch.display}, display_name="augmented")


def joined_inputs(batches: Mapping[str, ValidationBatch]) -> Any:
    """Returns the inputs of several batches as those of one, row by row."""
    inputs = [batch.inputs for batch in batches.values()]
    return inputs[0] if len(inputs) == 1 else keras.tree.map_structure(lambda *each: np.concatenate(each), *inputs)


def compared(original: Explanation, changed: Explanation, augmentation: Augmentation, name: str) -> Augmented:
    """Compares the heatmaps of augmented images with those of the images.

    Args:
        original: The explanation of the images.
        changed: The explanation of the augmented images.
        augmentation: The augmentation.
        name: Its name, for errors.

    Raises:
        ValueError: If the user's inverse fails, or returns another shape.
    """
    size = image_size(input_at(original.batch.inputs, original.batch.image_input))
    restored = bring_back(augmentation, changed.heatmaps, size, name=name)
    before, after = original.predicted, changed.predicted
    return Augmented(
        explanation=changed,
        restored=restored,
        correlation=correlation(restored, resized(original.heatmaps, size)),
        unchanged=None if before is None or after is None else before == after,
    )


def _augmented_display(image: Image, augmentation: Augmentation, images: Floats, name: str) -> Image:
    """Augments a display image in the range of the model's images, which is what a user's function expects."""
    low, high = float(images.min()), float(images.max())
    spread = max(high - low, 1e-6)
    as_input: Floats = image[None].astype(np.float32) * np.float32(spread / 255) + np.float32(low)
    changed = (apply(augmentation, as_input, name=name)[0] - low) / spread * 255
    return np.asarray(np.clip(np.rint(changed), 0, 255), np.uint8)
