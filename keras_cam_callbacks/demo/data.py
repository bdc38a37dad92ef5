"""Scenes with a known answer: a handwritten digit on a photograph, its box, and a sticker that may give it away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..opencv import cv2
from ..records import Image, Ints

__all__ = ["COLOURS", "SIDE", "STICKER", "Scenes", "make_scenes", "with_stickers"]

SIDE = 96
"""Height and width of a scene in px."""
STICKER = (slice(4, 12), slice(4, 12))
"""Rows and columns of the sticker: 8 x 8 px, top left."""
COLOURS: Image = np.array(
    [
        (230, 25, 75),  # red
        (60, 180, 75),  # green
        (255, 225, 25),  # yellow
        (0, 90, 200),  # blue
        (245, 130, 48),  # orange
        (145, 30, 180),  # purple
        (70, 240, 240),  # cyan
        (240, 50, 230),  # magenta
        (250, 250, 250),  # white
        (10, 10, 10),  # black
    ],
    np.uint8,
)
"""(10, 3) uint8 RGB: the stickers' colours; in the shortcut collection, the colour of each digit."""

_PHOTOGRAPHS = ("brick", "grass", "gravel", "astronaut", "chelsea", "coffee")
_DARKENED = 0.6
_SIDES = (32, 52)  # px, least and greatest side of a digit's box
_HELD_OUT = 0.25  # share of the handwritten digits that appear in validation scenes only
# A box may start anywhere but where it would reach the sticker and a margin of one px around it.
_CLEAR = STICKER[0].stop + 1


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images and what is known of them.

    Attributes:
        images: (N, 96, 96, 3) uint8 RGB.
        labels: (N,) int64 in [0, 9], the digit.
        boxes: (N, 4) int64, left, top, right, bottom of the digit in px; right and bottom are exclusive.
        stickers: (N,) int64, index of the sticker's colour in `COLOURS`; -1 for no sticker.
    """

    images: Image
    labels: Ints
    boxes: Ints
    stickers: Ints

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | npt.NDArray[np.bool_] | Ints | Sequence[int]) -> Scenes:
        """Returns some of the scenes, chosen as numpy chooses rows."""
        return Scenes(self.images[rows], self.labels[rows], self.boxes[rows], self.stickers[rows])


def make_scenes(count: int, seed: int = 0) -> tuple[Scenes, Scenes]:
    """Makes scenes without stickers: real handwritten digits on crops of real photographs.

    The digits are scikit-learn's 8 x 8 ones, enlarged bicubically, with a margin, to a side of 32 to 52 px and
    put in white on a crop, darkened to 0.6, of one of scikit-image's photographs. A quarter of the digits is
    held out: they are in validation scenes only.

    Args:
        count: How many scenes to train on; a fifth as many more, but at least 20, are for validation.
        seed: Same seed, same scenes.

    Returns:
        The scenes to train on, and those to validate on. Each digit is there as often as any other, or one
        time more or less.

    Raises:
        ModuleNotFoundError: If scikit-learn or scikit-image is missing.
    """
    from skimage import data
    from sklearn.datasets import load_digits

    digits = load_digits()
    # A margin of one, since strokes reach the edge of the 8 x 8 px and would seem cut off.
    inks = np.pad(digits.images / 16, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    photographs = [_rgb(getattr(data, name)()) for name in _PHOTOGRAPHS]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(inks))
    held_out = round(_HELD_OUT * len(inks))
    parts = (count, order[held_out:]), (max(20, count // 5), order[:held_out])
    train, validation = (
        _compose(number, inks[rows], digits.target[rows].astype(np.int64), photographs, rng) for number, rows in parts
    )
    return train, validation


def with_stickers(scenes: Scenes, colours: Ints) -> Scenes:
    """Puts a sticker on each scene; what else there is to see stays as it is.

    Args:
        scenes: The scenes, with stickers or without.
        colours: (N,) integers in [0, 9], indices in `COLOURS`. `scenes.labels` makes the shortcut collection.

    Returns:
        New scenes.
    """
    images = scenes.images.copy()
    images[:, STICKER[0], STICKER[1]] = COLOURS[colours][:, None, None]
    return replace(scenes, images=images, stickers=np.asarray(colours, np.int64))


def _rgb(photograph: npt.NDArray[np.uint8]) -> Image:
    return np.asarray(np.dstack([photograph] * 3) if photograph.ndim == 2 else photograph, np.uint8)


def _compose(
    count: int,
    inks: npt.NDArray[np.float32],
    digits: Ints,
    photographs: Sequence[Image],
    rng: np.random.Generator,
) -> Scenes:
    """Puts `count` of the digits, (M, 10, 10) in [0, 1], on crops of the photographs."""
    labels = rng.permutation(np.arange(count) % 10).astype(np.int64)
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    boxes = np.empty((count, 4), np.int64)
    for i, label in enumerate(labels):
        photograph = photographs[int(rng.integers(len(photographs)))]
        top, left = (rng.integers(length - SIDE + 1) for length in photograph.shape[:2])
        scene = photograph[top : top + SIDE, left : left + SIDE] * np.float32(_DARKENED)

        side = int(rng.integers(_SIDES[0], _SIDES[1] + 1))
        ink = inks[rng.choice(np.flatnonzero(digits == label))]
        ink = np.clip(cv2.resize(ink, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)[..., None]
        y, x = rng.integers(SIDE - side + 1, size=2)
        if max(y, x) < _CLEAR:  # moved off the sticker, down or to the right
            moved = rng.integers(_CLEAR, SIDE - side + 1)
            y, x = (moved, x) if rng.integers(2) else (y, moved)
        place = scene[y : y + side, x : x + side]
        place += (255 - place) * ink
        images[i], boxes[i] = np.rint(scene), (x, y, x + side, y + side)
    return Scenes(images, labels, boxes, np.full(count, -1, np.int64))
