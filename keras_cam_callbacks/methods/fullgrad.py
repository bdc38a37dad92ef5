"""FullGrad: the whole score, shared out among the image and the biases, and drawn where each share is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..checks import check, is_real
from ..records import Floats
from ..space import resize

logger = logging.getLogger("keras_cam_callbacks")

Parts = tuple[Floats, tuple[Floats, ...], float]
"""d score / d image (*space, C), one array (*space, K) for each layer that adds a bias, and the sum of the rest."""
FullGradient = Callable[[Iterable[tuple[Floats, int]], int], Iterator[Parts]]


@dataclass(frozen=True)
class FullGrad:
    """FullGrad: the image times its gradient, and every bias times the gradient where it is added.

    M = psi(x dy/dx) + sum_l sum_k psi(b_lk dy/dz_lk), z_l what layer l has just added its biases b_l to, with one map
    for each of its channels k. psi takes absolute values, scales them, and enlarges them bilinearly (OpenCV's, with
    pixels as squares; the paper's code aligns the corners). It needs no layer: all layers take part.

    It is complete: in a network of linear layers, pooling and ReLUs the terms before psi sum to the score. The gap, a
    share of the largest score, is among the numbers of each sample and of each epoch as "completeness_gap". With swish,
    sigmoids or layer normalization inside, or ReLU6 where it is saturated, there is no completeness: constants are then
    left out that are no layer's bias.

    Biases are those of convolutions and dense layers, of batch normalization in inference (beta - gamma mean /
    sqrt(variance + epsilon)), and what Normalization and Rescaling layers in the model add to the image. Those without
    a position, of dense layers on flat features and of 1 x 1 maps, are in the sum and not in the map. A layer that is
    called twice counts at each call, unless both compute the same; one inside `TimeDistributed` counts at each frame.

    It costs a forward and a backward pass, and about the memory of a training step of `batch_size` images, for the
    parts of all layers are there at once.

    Attributes:
        scale: What psi scales to [0, 1]: "layer", all channels of a layer together, as the paper's code does, so that
            large biases count more than small ones; or "channel", each by itself, as pytorch-grad-cam does. Either is
            done for each image by itself.
        eps: What is added to the largest value by which psi divides. The paper has none. Its code adds 1e-6 and
            pytorch-grad-cam 1e-7, which dims layers whose parts are as small.

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019,
        arXiv 1905.00780.
    """

    scale: Literal["layer", "channel"] = "layer"
    eps: float = 0.0
    name: ClassVar[str] = "fullgrad"
    needs: ClassVar[tuple[str, ...]] = ("images", "scores", "full_gradient")

    def __post_init__(self) -> None:
        if self.scale not in ("layer", "channel"):
            raise ValueError(f"`scale` must be 'layer' or 'channel'. Received: scale={self.scale!r}.")
        check("eps", self.eps, is_real(self.eps, 0), "a finite number of at least 0", "0")

    def __call__(self, images: Floats, scores: Floats, full_gradient: FullGradient) -> tuple[Floats, dict[str, Floats]]:
        """Explains images (N, H, W, C) with scores (N,).

        Returns:
            (N, H, W) float32, nonnegative; and "completeness_gap", (N,) float32: how far the parts are from summing to
            the score, as a share of the largest score.
        """
        found = full_gradient(((image, row) for row, image in enumerate(images)), len(images))
        heatmaps, sums = np.zeros(images.shape[:-1], np.float32), np.zeros(len(images), np.float32)
        # `map` holds no image's parts while the next ones are computed.
        for row, (heatmap, total) in enumerate(map(self._one, images, found)):
            heatmaps[row], sums[row] = heatmap, total
        # Against the largest score: one that happens to be near zero has no share to speak of.
        gaps = (np.abs(sums - scores) / (np.abs(scores).max() or 1)).astype(np.float32)
        logger.info("FullGrad: largest completeness gap %.2g of the largest score.", gaps.max())
        return heatmaps, {"completeness_gap": gaps}

    def _one(self, image: Floats, found: Parts) -> tuple[Floats, float]:
        """Returns the map (H, W) of an image (H, W, C), and the sum of all parts of its score."""
        gradient, parts, rest = found
        terms = (image * gradient, *parts)
        size = image.shape[:-1]
        heatmap = np.zeros(size, np.float32)
        for term in terms:
            heatmap += self._psi(term, size)
        return heatmap, float(rest) + sum(float(term.sum(dtype=np.float64)) for term in terms)

    def _psi(self, term: Floats, size: tuple[int, ...]) -> Floats:
        """Returns (H, W), the sum over the channels of psi, from (h, w, K)."""
        values = np.abs(term)
        axes = tuple(range(term.ndim if self.scale == "layer" else term.ndim - 1))
        values -= values.min(axis=axes, keepdims=True)
        largest = values.max(axis=axes, keepdims=True) + np.float32(self.eps)
        np.divide(values, largest, out=values, where=largest != 0)
        # Enlarging is linear, and so may follow the sum.
        total = values.sum(axis=-1)
        enlarged: Floats = resize(total[None], size)[0]
        return enlarged
