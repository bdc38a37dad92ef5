"""Augmentations that change values and leave the pixels where they are: brightness, cut-out, flare, noise, scale.

Of volumes and clips all slices or frames are changed alike. Signals have no black and white: what goes by these is for
all others, and stretches of a signal are cut out by its mean.

Black and white are the least and the largest value of each channel of each image, so that no image depends on the
others, or what is given as `value_range`: (black, white), each one number or one for each channel. What comes out lies
between them; a constant channel stays constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import check, check_whole, is_real
from ..records import Floats
from .base import Augmentation, check_position

ValueRange = tuple[float | Sequence[float], float | Sequence[float]]
Ends = tuple[Floats, Floats]

# Discs of a flare: place on the line from the sun (0) through the centre (1), radius as a share of the image's
# shorter side, and light.
_DISCS = (
    (0.45, 0.035, 0.45),
    (0.7, 0.07, 0.25),
    (1.15, 0.045, 0.4),
    (1.4, 0.11, 0.25),
    (1.7, 0.06, 0.4),
    (1.95, 0.15, 0.2),
)


def brightness_contrast(
    brightness: float = 0.15, contrast: float = 1.4, *, value_range: ValueRange | None = None
) -> Augmentation:
    """Makes the images brighter or darker, and their contrast stronger or weaker.

    x' = mean + contrast * (x - mean) + brightness * (white - black), cut to [black, white], with the mean of each
    channel of each image.

    Args:
        brightness: In [-1, 1], what is added, as a share of the range from black to white.
        contrast: Factor of at least 0; 1 leaves the contrast as it is.
        value_range: (black, white), each one number or one for each channel; None for the image's own.

    Raises:
        ValueError: If an option is impossible.
    """
    check("brightness", brightness, is_real(brightness, -1, 1), "a number in [-1, 1]", "0.15")
    check("contrast", contrast, is_real(contrast, 0), "a finite number of at least 0", "1.4")
    function = partial(
        _adjusted, brightness=float(brightness), contrast=float(contrast), value_range=_checked_range(value_range)
    )
    return Augmentation(function, axes=(2, 3))


def cut_out(
    boxes: int = 6,
    size: float = 0.15,
    seed: int = 7,  # Places six boxes apart from each other, and from the default sun.
    fill: float = 0.0,
    *,
    value_range: ValueRange | None = None,
) -> Augmentation:
    """Fills square boxes; they are NaN on the way back, for the map says nothing of what was not shown.

    The boxes are the same for every image of one size, and at the same relative places at another; of volumes and clips
    they go through all slices or frames. They may overlap. Of signals stretches of time become the mean of each
    channel, whatever `fill` says.

    Args:
        boxes: How many, at least 1.
        size: In (0, 1), their side as a share of the image's shorter side; at least a pixel. Of signals its square is
            their share of the length, so that as much is taken away as of an image.
        seed: Seed of their places.
        fill: In [0, 1], what stands in them: 0 is black, 1 is white.
        value_range: (black, white), each one number or one for each channel; None for the image's own.

    Raises:
        ValueError: If an option is impossible.

    Reference:
        DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, arXiv 1708.04552.
    """
    check_whole("boxes", boxes, 1, 6)
    check("size", size, is_real(size) and 0 < size < 1, "a number in (0, 1)", "0.15")
    check_whole("seed", seed, 0, 7)
    check("fill", fill, is_real(fill, 0, 1), "a number in [0, 1]", "0.5")
    removed = partial(_removed, boxes=int(boxes), share=float(size), seed=int(seed))
    function = partial(_filled, removed=removed, fill=float(fill), value_range=_checked_range(value_range))
    return Augmentation(function, partial(_filled_back, removed=removed))


def sun_flare(
    position: tuple[float, float] = (0.15, 0.2),
    radius: float = 0.6,
    strength: float = 0.9,
    *,
    value_range: ValueRange | None = None,
) -> Augmentation:
    """Lets the sun shine into the lens: a glow, and six faint discs on the line from it through the centre.

    x' = x + light * (white - x). The glow's light is strength * min(1, 1.6 * (1 - d)^2) at distance d from the sun, in
    radii, and 0 beyond; the lights of glow and discs join as 1 - product of (1 - light).

    Args:
        position: Of the sun, down and across, in [0, 1]: (0, 0) is the upper left corner.
        radius: Of the glow, positive, as a share of the image's shorter side.
        strength: In (0, 1]; at 1 the sun itself is white.
        value_range: (black, white), each one number or one for each channel; None for the image's own.

    Raises:
        ValueError: If an option is impossible.
    """
    check_position(position)
    check("radius", radius, is_real(radius) and radius > 0, "a positive number", "0.6")
    check("strength", strength, is_real(strength) and 0 < strength <= 1, "a number in (0, 1]", "0.9")
    light = partial(
        _light, position=(float(position[0]), float(position[1])), radius=float(radius), strength=float(strength)
    )
    return Augmentation(partial(_lit, light=light, value_range=_checked_range(value_range)), axes=(2, 3))


def noise(level: float = 0.2, seed: int = 7) -> Augmentation:
    """Adds noise, the same for every image of one size, and in each of its channels.

    x' = x + level * s * e, with s the standard deviation of each channel of each image and e independent standard
    normal numbers, one for each pixel. Values may leave the model's range.

    Args:
        level: Positive, the noise's standard deviation as a share of the channel's own.
        seed: Seed of the noise.

    Raises:
        ValueError: If an option is impossible.
    """
    check("level", level, is_real(level) and level > 0, "a positive finite number", "0.2")
    check_whole("seed", seed, 0, 7)
    return Augmentation(partial(_noisy, level=float(level), seed=int(seed)))


def scale(factor: float = 1.5) -> Augmentation:
    """Makes the values of each channel deviate more or less from their mean.

    x' = mean + factor * (x - mean), with the mean of each channel of each image. Values may leave the model's range.

    Args:
        factor: At least 0 and not 1.

    Raises:
        ValueError: If `factor` is impossible.
    """
    check("factor", factor, is_real(factor, 0) and factor != 1, "a finite number of at least 0, and not 1", "1.5")
    return Augmentation(partial(_scaled, factor=float(factor)))


def _adjusted(images: Floats, brightness: float, contrast: float, value_range: Ends | None) -> Floats:
    black, white = _black_and_white(images, value_range)
    means = _of_channels(images, np.mean)
    changed = means + contrast * (images - means) + brightness * (white - black)
    return np.asarray(np.clip(changed, black, white))


def _of_channels(images: Floats, function: Callable[..., Any]) -> Floats:
    """Returns a number of each channel of each image, in a shape that goes with (N, *space, C)."""
    # One by one: numpy's sums depend in their last bits on the shape, which would be on the batch.
    axes = tuple(range(images.ndim - 2))
    numbers = np.array([function(image, axis=axes, dtype=np.float64) for image in images], np.float32)
    return numbers.reshape(len(images), *[1] * len(axes), -1)


def _noisy(images: Floats, level: float, seed: int) -> Floats:
    pattern = np.random.default_rng(seed).standard_normal((*images.shape[1:-1], 1), np.float32)
    return np.asarray(images + np.float32(level) * _of_channels(images, np.std) * pattern)


def _scaled(images: Floats, factor: float) -> Floats:
    means = _of_channels(images, np.mean)
    return np.asarray(means + np.float32(factor) * (images - means))


def _removed(size: tuple[int, ...], boxes: int, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """(H, W), True in the boxes; (T,) of signals."""
    removed = np.zeros(size, bool)
    side = max(1, round(share ** (2 / len(size)) * min(size)))
    for place in np.random.default_rng(seed).random((boxes, len(size))):
        starts = [int(at * (whole - side + 1)) for at, whole in zip(place, size, strict=True)]
        removed[tuple(slice(start, start + side) for start in starts)] = True
    return removed


def _filled(
    images: Floats, removed: Callable[[tuple[int, ...]], npt.NDArray[np.bool_]], fill: float, value_range: Ends | None
) -> Floats:
    if images.ndim == 3:
        return np.where(removed(images.shape[1:2])[:, None], _of_channels(images, np.mean), images)
    black, white = _black_and_white(images, value_range)
    tone = np.clip(black + fill * (white - black), black, white)
    return np.where(removed(images.shape[-3:-1])[..., None], tone, images)


def _filled_back(heatmaps: Floats, removed: Callable[[tuple[int, ...]], npt.NDArray[np.bool_]]) -> Floats:
    plane = heatmaps.shape[1:] if heatmaps.ndim == 2 else heatmaps.shape[-2:]
    return np.where(removed(plane), np.float32(np.nan), heatmaps)


def _lit(images: Floats, light: Callable[[tuple[int, ...]], Floats], value_range: Ends | None) -> Floats:
    black, white = _black_and_white(images, value_range)
    return np.clip(images + light(images.shape[-3:-1])[..., None] * (white - images), black, white)


def _light(size: tuple[int, ...], position: tuple[float, float], radius: float, strength: float) -> Floats:
    """(H, W) in [0, 1]: how far each pixel goes towards white."""
    ends, shorter = np.array(size) - 1, min(size)
    sun, centre = position * ends, ends / 2
    rows, columns = np.ogrid[: size[0], : size[1]]
    near = np.maximum(0, 1 - np.hypot(rows - sun[0], columns - sun[1]) / (radius * shorter))
    dark = 1 - strength * np.minimum(1, 1.6 * near**2)
    for along, share, light in _DISCS:
        y, x = sun + along * (centre - sun)
        disc = np.clip(share * shorter - np.hypot(rows - y, columns - x) + 0.5, 0, 1)
        dark *= 1 - strength * light * disc
    return (1 - dark).astype(np.float32)


def _black_and_white(images: Floats, value_range: Ends | None) -> tuple[Floats, Floats]:
    """Black and white of each image and channel, in a shape that goes with (N, *space, C)."""
    if value_range is None:
        axes = tuple(range(1, images.ndim - 1))
        return images.min(axis=axes, keepdims=True), images.max(axis=axes, keepdims=True)
    channels = images.shape[-1]
    if any(end.size not in (1, channels) for end in value_range):
        raise ValueError(
            f"`value_range` must hold one number or one for each of the {channels} channels. Received: "
            f"value_range={tuple(end.tolist() for end in value_range)!r}."
        )
    return value_range


def _checked_range(value_range: Any) -> Ends | None:
    """Black and white as float32 arrays, (1,) or (C,), once it is sure that they are that."""
    if value_range is None:
        return None
    valid = isinstance(value_range, (tuple, list)) and len(value_range) == 2
    if valid:
        given = (end.tolist() if isinstance(end, np.ndarray) else end for end in value_range)
        black, white = (list(end) if isinstance(end, (tuple, list)) else [end] for end in given)
        fits = len(black) == len(white) or 1 in (len(black), len(white))
        valid = bool(black and white) and fits and all(map(is_real, black + white))
        valid = valid and bool((np.array(black, np.float32) < np.array(white, np.float32)).all())
    must = "None or (black, white), rising, each one finite number or one for each channel"
    check("value_range", value_range, valid, must, "(0, 255)")
    return np.array(black, np.float32), np.array(white, np.float32)
