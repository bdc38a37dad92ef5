"""Whether the model needs what a heatmap shows: the score of the image with parts of it taken away, or added.

The model comes in as a function `confidence`: it takes (image (H, W, C), row of the sample) pairs and their number, and
yields the probability of each sample's explained class in their order. Copies are made when they are needed, so that it
runs as many at once as fit. Only the positive part of a map counts, as in `maps`. The shapes are those of images; in
place of H, W and h, w there may be any number of axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import is_whole
from ..records import Floats
from ..space import blur
from .maps import Doubles, at_size, degenerate

__all__ = ["STEPS", "average_drop", "deletion", "increase", "insertion", "masked_confidence"]

Confidence = Callable[[Iterable[tuple[Floats, int]], int], Iterator[Any]]

STEPS = 16
"""In how many steps an image is taken away or put together, where nothing else is said."""


def insertion(
    images: Floats, heatmaps: Floats, confidence: Confidence, original: Doubles | Floats, *, steps: int = STEPS
) -> Doubles:
    """Measures how soon the class is recognised when a blurred image gets its pixels back, the highest first.

    It is the area under the curve of the class's probability over the share of the pixels that are sharp, from 0 to 1
    in `steps` equal steps, by the trapezoidal rule. The blur is Gaussian with a standard deviation of 1/20 of the
    image's shorter side: blurred and not blank, so that no edges arise that the class is seen in. Signals, volumes and
    clips are blurred by 1/20 of each axis: a volume may have few slices. A good value is near the probability of the
    image itself, and above that of a random map; the more it lies above `deletion`, the better.

    Args:
        images: (N, H, W, C) float32, as the model takes them.
        heatmaps: (N, h, w) float32, raw; brought to the images' size. Of equal pixels the upper left ones come first.
        confidence: The model; each image costs `steps` passes.
        original: (N,) the probability of the explained class for the images themselves.
        steps: How many steps, at least 1. RISE takes one for each row of pixels.

    Returns:
        (N,) float64 in [0, 1]; NaN where a map is degenerate or `original` is NaN.

    Raises:
        ValueError: If `steps` is no positive whole number, or the numbers of images and maps differ.

    Reference:
        Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, arXiv 1806.07421.
    """
    return _under_curve(images, heatmaps, confidence, original, steps, _blurred, backwards=True)


def deletion(
    images: Floats, heatmaps: Floats, confidence: Confidence, original: Doubles | Floats, *, steps: int = STEPS
) -> Doubles:
    """Measures how soon the class is lost when an image loses its pixels, the highest first.

    It is the area under the curve of the class's probability over the share of the pixels that are gone, from 0 to 1 in
    `steps` equal steps, by the trapezoidal rule. What is gone has the image's mean colour; in RISE it is 0, the mean
    colour of images less their mean. A good value is near 0, and below that of a random map. A sharp fall may also
    come from the edges that arise: look at `insertion`, too.

    Args:
        images: (N, H, W, C) float32, as the model takes them.
        heatmaps: (N, h, w) float32, raw, as for `insertion`.
        confidence: The model; each image costs `steps` passes.
        original: (N,) the probability of the explained class for the images themselves.
        steps: How many steps, at least 1.

    Returns:
        (N,) float64 in [0, 1]; NaN where a map is degenerate or `original` is NaN.

    Raises:
        ValueError: As `insertion`.

    Reference:
        Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, arXiv 1806.07421.
    """
    return _under_curve(images, heatmaps, confidence, original, steps, _mean_colour, backwards=False)


def masked_confidence(
    images: Floats, heatmaps: Floats, confidence: Confidence, original: Doubles | Floats
) -> npt.NDArray[np.float64]:
    """Runs the model on what the map leaves of each image, for `average_drop` and `increase`.

    The image is multiplied by the positive part of the map, at the image's size and scaled to a maximum of 1; where it
    is 0 the image has its mean colour (in the paper 0, which is about that for images less their mean).

    Args:
        images: (N, H, W, C) float32, as the model takes them.
        heatmaps: (N, h, w) float32, raw.
        confidence: The model; each image costs one pass.
        original: (N,) the probability of the explained class for the images themselves.

    Returns:
        (N,) float64 in [0, 1]; NaN where a map is degenerate or `original` is NaN.

    Raises:
        ValueError: If the numbers of images and maps differ.
    """
    rows = _rows(images, heatmaps, original)

    def copies() -> Iterator[tuple[Floats, int]]:
        for row in rows:
            level, _ = at_size(heatmaps[row], images.shape[1:-1])
            blank = _mean_colour(images[row])
            yield blank + (images[row] - blank) * (level / level.max())[..., None], int(row)

    found = np.full(len(images), np.nan)
    found[rows] = np.fromiter(confidence(copies(), len(rows)), np.float64, len(rows))
    return found


def average_drop(masked: Doubles, original: Doubles | Floats) -> Doubles:
    """Measures which share of the confidence is lost where only what the map shows is left of the image.

    drop = max(0, Y - O) / Y, Y the probability of the explained class for the image, O that for the masked image. The
    paper's figure is the mean, in percent. A good value is near 0: the map shows what the model needs.

    Args:
        masked: (N,) O, from `masked_confidence`.
        original: (N,) Y in [0, 1].

    Returns:
        (N,) float64 in [0, 1]; NaN where either is NaN, or Y is 0.

    Reference:
        Chattopadhay et al., Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks, WACV 2018,
        arXiv 1710.11063.
    """
    before = np.asarray(original, np.float64)
    drop: Doubles = np.divide(
        np.maximum(before - masked, 0), before, out=np.full(len(before), np.nan), where=before > 0
    )
    return drop


def increase(masked: Doubles, original: Doubles | Floats) -> Doubles:
    """Tells where the model is more confident when only what the map shows is left of the image.

    It is 1 where O > Y, as in `average_drop`. The paper's figure is the mean, in percent. A good value is near 1: what
    the map leaves out spoke for other classes.

    Args:
        masked: (N,) O, from `masked_confidence`.
        original: (N,) Y in [0, 1].

    Returns:
        (N,) float64, 1 or 0; NaN where either is NaN.

    Reference:
        Chattopadhay et al., as for `average_drop`.
    """
    before = np.asarray(original, np.float64)
    return np.where(np.isnan(before) | np.isnan(masked), np.nan, (masked > before).astype(np.float64))


def _under_curve(
    images: Floats,
    heatmaps: Floats,
    confidence: Confidence,
    original: Doubles | Floats,
    steps: int,
    blank: Callable[[Floats], Floats],
    *,
    backwards: bool,
) -> Doubles:
    """Returns the area under the curve from the image to a blank one, or `backwards` from that to the image."""
    if not is_whole(steps, 1):
        raise ValueError(f"`steps` must be a positive whole number. Received: {steps!r}. {STEPS} works.")
    rows = _rows(images, heatmaps, original)
    # The image itself is known: it is the end of an insertion and the begin of a deletion.
    counted = range(steps) if backwards else range(1, steps + 1)
    pixels = math.prod(images.shape[1:-1])

    def copies() -> Iterator[tuple[Floats, int]]:
        for row in rows:
            image = images[row].reshape(pixels, -1)
            empty = np.broadcast_to(blank(images[row]), images[row].shape).reshape(pixels, -1)
            order = np.argsort(-at_size(heatmaps[row], images.shape[1:-1])[0].ravel(), kind="stable")
            start, end = (empty, image) if backwards else (image, empty)
            for k in counted:
                copy = start.copy()
                first = order[: round(k * pixels / steps)]
                copy[first] = end[first]
                yield copy.reshape(images[row].shape), int(row)

    count = len(rows) * steps
    curve = np.fromiter(confidence(copies(), count), np.float64, count).reshape(len(rows), steps)
    known = np.asarray(original, np.float64)[rows, None]
    curve = np.hstack([curve, known] if backwards else [known, curve])
    found = np.full(len(images), np.nan)
    found[rows] = (curve[:, 1:] + curve[:, :-1]).sum(axis=1) / (2 * steps)
    return found


def _rows(images: Floats, heatmaps: Floats, original: Doubles | Floats) -> npt.NDArray[np.intp]:
    """Returns the rows in which there is something to measure."""
    if np.ndim(images) != np.ndim(heatmaps) + 1 or not len(images) == len(heatmaps) == len(original):
        raise ValueError(
            "`images` must be (N, H, W, C), with a heatmap and a probability for each. Received: images of shape "
            f"{np.shape(images)}, heatmaps of shape {np.shape(heatmaps)}, {len(original)} probabilities."
        )
    return np.flatnonzero(~degenerate(heatmaps) & ~np.isnan(original))


def _blurred(image: Floats) -> Floats:
    space = image.shape[:-1]
    sigma: float | list[float] = min(space) / 20 if len(space) == 2 else [side / 20 for side in space]
    blurred: Floats = blur(image[None], sigma)[0]
    return blurred


def _mean_colour(image: Floats) -> Floats:
    mean: Floats = image.mean(axis=tuple(range(image.ndim - 1)), keepdims=True)
    return mean
