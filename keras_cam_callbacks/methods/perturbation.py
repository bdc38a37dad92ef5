"""Perturbation: what happens to a score when parts of the image, or channels of a layer, are taken away.

Every method is a frozen dataclass that holds its options; called, it returns raw heatmaps (N, h, w) float32. The shapes
are those of images; in place of h, w there may be any number of axes. The model comes in as a function, which takes
(image (H, W, C), row of the sample) pairs, or (activations (h, w, K), row) pairs, and their number, and yields the
explained scores y in their order. It runs as many at once as fit, and copies are made when they are needed. Costs are
given in passes for each image, besides the one that every explanation takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..checks import check, check_whole, is_real
from ..records import Floats, Ints
from ..space import resize
from .cams import cam

_WINDOW = 16  # px

Score = Callable[[Iterable[tuple[Floats, int]], int], Iterator[Any]]

__all__ = ["RISE", "AblationCAM", "Occlusion", "ScoreCAM"]


@dataclass(frozen=True)
class ScoreCAM:
    """Score-CAM: activations weighted by the score that the image has where they are high.

    M[i, j] = sum_k a_k A[i, j, k], a = softmax over k of y(x * u(A_k)), u: enlarged bilinearly to the image and scaled
    to [0, 1] (a constant channel masks all). The paper subtracts a baseline's score, to which a softmax is blind.

    Attributes:
        channels: None for all K channels, or how many: those with the largest activation, sample by sample; the others
            have no weight. It costs as many forward passes.

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, arXiv 1910.01279.
    """

    channels: int | None = None
    name: ClassVar[str] = "scorecam"
    needs: ClassVar[tuple[str, ...]] = ("images", "activations", "score")

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    def __call__(self, images: Floats, activations: Floats, score: Score) -> Floats:
        """Returns (N, h, w) at the layer's size, signed, from images (N, H, W, C) and activations (N, h, w, K)."""
        chosen = _strongest(activations, self.channels)
        size = images.shape[1:-1]

        def copies() -> Iterator[tuple[Floats, int]]:
            for row, index in enumerate(chosen):
                for k in index:
                    mask = resize(activations[None, row, ..., k], size)[0]
                    mask -= mask.min()
                    highest = mask.max()
                    yield images[row] * (mask / highest if highest > 0 else mask)[..., None], row

        scores = _scores(score, copies(), chosen.size).reshape(chosen.shape)
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights = np.zeros((len(images), activations.shape[-1]), np.float32)
        np.put_along_axis(weights, chosen, exponents / exponents.sum(axis=1, keepdims=True), axis=1)
        return cam(activations, weights)


@dataclass(frozen=True)
class AblationCAM:
    """Ablation-CAM: activations weighted by how far the score falls without them.

    M[i, j] = sum_k a_k A[i, j, k], a_k = (y - y_k) / |y|, y_k the score with channel k of the layer at zero. The paper
    divides by y, which would turn the map of a negative score around. Only what lies behind the layer is run.

    Attributes:
        channels: None for all K channels, or how many: those with the largest activation, sample by sample; the others
            have no weight. It costs as many passes through the part behind the layer.

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Desai and Ramaswamy, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
        Localization, WACV 2020.
    """

    channels: int | None = None
    name: ClassVar[str] = "ablationcam"
    needs: ClassVar[tuple[str, ...]] = ("activations", "scores", "layer_score")

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    def __call__(self, activations: Floats, scores: Floats, layer_score: Score) -> Floats:
        """Returns (N, h, w) at the layer's size, signed, from activations (N, h, w, K) and scores (N,)."""
        chosen = _strongest(activations, self.channels)

        def copies() -> Iterator[tuple[Floats, int]]:
            for row, index in enumerate(chosen):
                for k in index:
                    ablated = activations[row].copy()
                    ablated[..., k] = 0
                    yield ablated, row

        found = _scores(layer_score, copies(), chosen.size).reshape(chosen.shape)
        weights = np.zeros((len(scores), activations.shape[-1]), np.float32)
        size = np.where(scores == 0, 1, np.abs(scores))[:, None]
        np.put_along_axis(weights, chosen, (scores[:, None] - found) / size, axis=1)
        return cam(activations, weights)


@dataclass(frozen=True)
class Occlusion:
    """Occlusion: how far the score falls while a window over the image is filled.

    M[i, j] is the mean of y - y_w over the windows w that cover pixel i, j. Windows begin at every `stride` pixels; the
    last ones are cut at the border, so that any size of image is covered without a gap.

    Attributes:
        window: The window's size along each axis, such as height and width, or one number for all, px. None for 16 px
            of an image, or half of a smaller one; 1/16 of a signal; and 1/4 along each axis of a volume or a clip.
        stride: Steps along each axis, or one number for all, px; at most the window's. None for half the window.
        fill: What stands in the window, in the image's unit.

    Raises:
        ValueError: If an option is impossible, or the window is larger than the image.

    Reference:
        Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, arXiv 1311.2901.
    """

    window: int | tuple[int, ...] | None = None
    stride: int | tuple[int, ...] | None = None
    fill: float = 0.0
    name: ClassVar[str] = "occlusion"
    needs: ClassVar[tuple[str, ...]] = ("images", "scores", "score")

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is None:
                continue
            check(name, value, value not in ((), []), "a number, or one for each axis", "16")
            for side in value if isinstance(value, (tuple, list)) else (value,):
                check_whole(name, side, 1, 8)
        if self.window is not None and self.stride is not None:
            axes = next((len(value) for value in (self.window, self.stride) if isinstance(value, (tuple, list))), 1)
            self._check_steps(_sides(self.window, axes), _sides(self.stride, axes))
        if not is_real(self.fill):
            raise ValueError(f"`fill` must be a finite number. Received: {self.fill!r}.")

    def check_images(self, size: Sequence[int]) -> None:
        """Raises ValueError where the window doesn't fit into images of a size, or has another number of axes."""
        self._windows(size)

    def _windows(self, size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the window's size and its steps along each axis of images of a size."""
        if self.window is not None:
            sides = _sides(self.window, len(size))
        elif len(size) == 2:
            sides = tuple(_WINDOW if side >= _WINDOW else max(1, side // 2) for side in size)
        else:
            sides = tuple(max(1, side // (16 if len(size) == 1 else 4)) for side in size)
        steps = tuple(max(1, side // 2) for side in sides) if self.stride is None else _sides(self.stride, len(size))
        if any(side > whole for side, whole in zip(sides, size, strict=True)):
            raise ValueError(f"`window` must fit into the images, {tuple(size)}. Received: window={self.window!r}.")
        self._check_steps(sides, steps)
        return sides, steps

    def _check_steps(self, sides: Sequence[int], steps: Sequence[int]) -> None:
        if any(step > side for step, side in zip(steps, sides, strict=True)):
            raise ValueError(
                "`stride` must be at most `window`, or pixels are left out. "
                f"Received: stride={self.stride!r}, window={self.window!r}."
            )

    def __call__(self, images: Floats, scores: Floats, score: Score) -> Floats:
        """Returns (N, H, W), signed, from images (N, H, W, C) and their scores (N,)."""
        size = images.shape[1:-1]
        sides, steps = self._windows(size)
        # The last window of a row is the first that reaches the border.
        starts = (range(0, whole - side + step, step) for whole, side, step in zip(size, sides, steps, strict=True))
        windows = [
            tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))
            for corner in product(*starts)
        ]

        def copies() -> Iterator[tuple[Floats, int]]:
            for row, image in enumerate(images):
                for window in windows:
                    copy = image.copy()
                    copy[window] = self.fill
                    yield copy, row

        falls = scores[:, None] - _scores(score, copies(), len(images) * len(windows)).reshape(len(images), -1)
        total, count = np.zeros(images.shape[:-1]), np.zeros(size)
        for k, window in enumerate(windows):
            count[window] += 1
            total[(slice(None), *window)] += falls[:, k].reshape(-1, *(1 for _ in size))
        return (total / count).astype(np.float32)


@dataclass(frozen=True)
class RISE:
    """RISE: the mean of random masks, weighted by the score of the image that they leave visible.

    M = 1 / (n p) sum_k (y(x * m_k) - mean y) m_k, m_k a grid of `cells` x `cells` cells, each 1 with probability p and
    else 0, enlarged bilinearly beyond the image and shifted at random. All images have the same masks.

    Attributes:
        masks: n; each costs a forward pass. The paper takes 4000.
        cells: Cells of the grid along each axis.
        probability: p in (0, 1).
        seed: Seed of the masks; the same in every epoch, so that maps differ by the model alone.

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, arXiv 1806.07421. There y
        is a probability; here it is the score before the final activation, and its mean over the masks is subtracted:
        else M would mostly show how often a pixel was visible.
    """

    masks: int = 1000
    cells: int = 7
    probability: float = 0.5
    seed: int = 0
    name: ClassVar[str] = "rise"
    needs: ClassVar[tuple[str, ...]] = ("images", "score")

    def __post_init__(self) -> None:
        check_whole("masks", self.masks, 2, 1000)
        check_whole("cells", self.cells, 1, 7)
        check_whole("seed", self.seed, 0, 0)
        if not (is_real(self.probability) and 0 < self.probability < 1):
            raise ValueError(f"`probability` must be between 0 and 1. Received: {self.probability!r}. 0.5 works.")

    def __call__(self, images: Floats, score: Score) -> Floats:
        """Returns (N, H, W), signed, from images (N, H, W, C)."""

        def copies() -> Iterator[tuple[Floats, int]]:
            for mask in self.draw(*images.shape[1:-1]):
                for row, image in enumerate(images):
                    yield image * mask[..., None], row

        scores = _scores(score, copies(), self.masks * len(images)).reshape(self.masks, -1)
        weights = (scores - scores.mean(axis=0)) / (self.masks * self.probability)
        total = np.zeros(images.shape[:-1])
        # Drawn once more, which takes less time than a pass and less memory than all masks.
        for mask, row in zip(self.draw(*images.shape[1:-1]), weights, strict=True):
            total += row.reshape(-1, *(1 for _ in mask.shape)) * mask
        return total.astype(np.float32)

    def draw(self, *size: int) -> Iterator[Floats]:
        """Yields the masks of that size, float32 in [0, 1], the same ones each time."""
        random = np.random.default_rng(self.seed)
        steps = [-(-side // self.cells) for side in size]
        # A cell more for the shift; and another, because resizing repeats the outer half of the cells at the border.
        count = self.cells + 2
        for _ in range(self.masks):
            grid = (random.random((1, *(count for _ in size))) < self.probability).astype(np.float32)
            large = resize(grid, [count * step for step in steps])[0]
            starts = [step // 2 + random.integers(step) for step in steps]
            yield large[tuple(slice(start, start + side) for start, side in zip(starts, size, strict=True))]


def _scores(score: Score, copies: Iterable[tuple[Floats, int]], count: int) -> npt.NDArray[np.float64]:
    return np.fromiter(score(copies, count), np.float64, count)


def _strongest(activations: Floats, channels: int | None) -> Ints:
    """Returns for each sample the channels with the largest activation, (N, k), in rising order; or all of them."""
    count = activations.shape[-1]
    if channels is None or channels >= count:
        return np.broadcast_to(np.arange(count), (len(activations), count))
    order = np.argsort(-activations.max(axis=tuple(range(1, activations.ndim - 1))), axis=1, kind="stable")
    return np.sort(order[:, :channels], axis=1)


def _sides(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        return (value,) * axes
    if len(value) != axes:
        raise ValueError(
            "`window` and `stride` must be a number, or one for each axis of the images, such as (height, width). "
            f"Received: {value!r} for {axes} {'axis' if axes == 1 else 'axes'}."
        )
    return tuple(value)


def _check_channels(channels: int | None) -> None:
    if channels is not None:
        check_whole("channels", channels, 1, 64)
