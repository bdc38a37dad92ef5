"""Perturbation: what happens to a score when parts of the image, or channels of a layer, are taken away.

Every method is a frozen dataclass that holds its options; called, it returns raw heatmaps (N, h, w) float32. They are
numpy and OpenCV: the model comes in as a function, which takes (image (H, W, C), row of the sample) pairs, or
(activations (h, w, K), row) pairs, and their number, and yields the explained scores y in their order. It runs as many
at once as fit, and copies are made when they are needed. Costs are given in passes for each image, besides the one that
every explanation takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from ..checks import check_whole, is_real
from ..records import Floats, Ints
from .cams import cam

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
        height, width = images.shape[1:3]

        def copies() -> Iterator[tuple[Floats, int]]:
            for row, index in enumerate(chosen):
                for k in index:
                    mask = cv2.resize(activations[row, ..., k], (width, height), interpolation=cv2.INTER_LINEAR)
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
        window: Height and width of the window, or one number for both, px.
        stride: Steps down and across, or one number for both, px; at most the window's.
        fill: What stands in the window, in the image's unit.

    Raises:
        ValueError: If an option is impossible, or the window is larger than the image.

    Reference:
        Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, arXiv 1311.2901.
    """

    window: int | tuple[int, int] = 16
    stride: int | tuple[int, int] = 8
    fill: float = 0.0
    name: ClassVar[str] = "occlusion"
    needs: ClassVar[tuple[str, ...]] = ("images", "scores", "score")

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            for side in _pair(getattr(self, name)):
                check_whole(name, side, 1, 8)
        if any(step > side for step, side in zip(_pair(self.stride), _pair(self.window), strict=True)):
            raise ValueError(
                "`stride` must be at most `window`, or pixels are left out. "
                f"Received: stride={self.stride!r}, window={self.window!r}."
            )
        if not is_real(self.fill):
            raise ValueError(f"`fill` must be a finite number. Received: {self.fill!r}.")

    def __call__(self, images: Floats, scores: Floats, score: Score) -> Floats:
        """Returns (N, H, W), signed, from images (N, H, W, C) and their scores (N,)."""
        sides, steps, size = _pair(self.window), _pair(self.stride), images.shape[1:3]
        if any(side > whole for side, whole in zip(sides, size, strict=True)):
            raise ValueError(f"`window` must fit into the images, {size}. Received: window={self.window!r}.")
        # The last window of a row is the first that reaches the border.
        tops, lefts = (
            range(0, whole - side + step, step) for whole, side, step in zip(size, sides, steps, strict=True)
        )
        windows = [np.s_[top : top + sides[0], left : left + sides[1]] for top in tops for left in lefts]

        def copies() -> Iterator[tuple[Floats, int]]:
            for row, image in enumerate(images):
                for window in windows:
                    copy = image.copy()
                    copy[window] = self.fill
                    yield copy, row

        falls = scores[:, None] - _scores(score, copies(), len(images) * len(windows)).reshape(len(images), -1)
        total, count = np.zeros(images.shape[:3]), np.zeros(size)
        for k, window in enumerate(windows):
            count[window] += 1
            rows, columns = window
            total[:, rows, columns] += falls[:, k, None, None]
        return (total / count).astype(np.float32)


@dataclass(frozen=True)
class RISE:
    """RISE: the mean of random masks, weighted by the score of the image that they leave visible.

    M = 1 / (n p) sum_k (y(x * m_k) - mean y) m_k, m_k a grid of `cells` x `cells` cells, each 1 with probability p and
    else 0, enlarged bilinearly beyond the image and shifted at random. All images have the same masks.

    Attributes:
        masks: n; each costs a forward pass. The paper takes 4000.
        cells: Cells of the grid down and across.
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
        if not 0 < self.probability < 1:
            raise ValueError(f"`probability` must be between 0 and 1. Received: {self.probability!r}. 0.5 works.")

    def __call__(self, images: Floats, score: Score) -> Floats:
        """Returns (N, H, W), signed, from images (N, H, W, C)."""

        def copies() -> Iterator[tuple[Floats, int]]:
            for mask in self.draw(*images.shape[1:3]):
                for row, image in enumerate(images):
                    yield image * mask[..., None], row

        scores = _scores(score, copies(), self.masks * len(images)).reshape(self.masks, -1)
        weights = (scores - scores.mean(axis=0)) / (self.masks * self.probability)
        total = np.zeros(images.shape[:3])
        # Drawn once more, which takes less time than a pass and less memory than all masks.
        for mask, row in zip(self.draw(*images.shape[1:3]), weights, strict=True):
            total += row[:, None, None] * mask
        return total.astype(np.float32)

    def draw(self, height: int, width: int) -> Iterator[Floats]:
        """Yields the masks (height, width) float32 in [0, 1], the same ones each time."""
        random = np.random.default_rng(self.seed)
        down, across = -(-height // self.cells), -(-width // self.cells)
        # A cell more for the shift; and another, because resizing repeats the outer half of the cells at the border.
        count = self.cells + 2
        for _ in range(self.masks):
            grid = (random.random((count, count)) < self.probability).astype(np.float32)
            large = cv2.resize(grid, (count * across, count * down), interpolation=cv2.INTER_LINEAR)
            top, left = down // 2 + random.integers(down), across // 2 + random.integers(across)
            yield large[top : top + height, left : left + width]


def _scores(score: Score, copies: Iterable[tuple[Floats, int]], count: int) -> npt.NDArray[np.float64]:
    return np.fromiter(score(copies, count), np.float64, count)


def _strongest(activations: Floats, channels: int | None) -> Ints:
    """Returns for each sample the channels with the largest activation, (N, k), in rising order; or all of them."""
    count = activations.shape[-1]
    if channels is None or channels >= count:
        return np.broadcast_to(np.arange(count), (len(activations), count))
    order = np.argsort(-activations.max(axis=(1, 2)), axis=1, kind="stable")
    return np.sort(order[:, :channels], axis=1)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"`window` and `stride` must be a number or (height, width). Received: {value!r}.")
        return value[0], value[1]
    return value, value


def _check_channels(channels: int | None) -> None:
    if channels is not None:
        check_whole("channels", channels, 1, 64)
