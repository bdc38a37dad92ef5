"""Outputs of models as rows of numbers, their shapes in words, and what is said where one has none that would do."""

from __future__ import annotations

from typing import Any

import keras

from ..network.detection import Detector
from .scores import example_of, row_shape

__all__ = ["check_pixels", "described", "flat", "flat_shape", "several"]


def check_pixels(output: Any, pixels: Any) -> None:
    """Checks that labels of pixels are of the size of the mask that a model puts out."""
    if pixels is None:
        return
    size, *others = tuple(output.shape[1:-1]), tuple(output.shape[2:]), (1,) * (len(output.shape) - 2)
    if None not in tuple(output.shape[1:]) and tuple(pixels.shape[1:]) not in (size, *others):
        raise ValueError(
            f"Labels of pixels must be of the output's size, {' x '.join(map(str, size))} pixels. "
            f"Received: {' x '.join(map(str, pixels.shape[1:]))}. "
            "Segment with where='predicted' needs none."
        )


def flat_shape(shape: Any) -> tuple[int | None, ...]:
    """Returns an output's shape; that of numbers at a single position, (N, 1, 1, K), as (N, K)."""
    sizes = tuple(shape)
    return (sizes[0], sizes[-1]) if len(sizes) == 4 and sizes[1:3] == (1, 1) else sizes


def flat(tensor: Any) -> Any:
    """Returns a tensor in the shape of `flat_shape`."""
    sizes = flat_shape(tensor.shape)
    return keras.ops.reshape(tensor, (-1, sizes[-1])) if len(sizes) < len(tensor.shape) else tensor


def described(outputs: Any, detector: Detector | None = None) -> tuple[str, str]:
    """Returns the shapes of a model's outputs in words, and the code of a function of them that works as a target."""
    at = None if detector is None else detector.logits
    return str(keras.tree.map_structure(row_shape, outputs)), example_of(outputs, at)


def several(shapes: str, works: str, example: str) -> str:
    """Returns what is said where a class is to be explained of a model with several outputs, or with other ones."""
    return (
        "The model must have one output of shape (samples, classes) for a class to be explained, or the target must "
        f"name one of several. Received: outputs of shape {shapes}. {f'{works} works. ' if works else ''}"
        f"Give as `target` a function of the outputs, such as `{example}`."
    )
