"""Input gradients: which pixels a score depends on, from its gradient with respect to the image.

Every method is a frozen dataclass that holds its options; called, it returns signed maps for each channel of the image,
(N, H, W, C) float32, which `one_map` then makes one, as its `channels` says. They are numpy: the model comes in as a
function, which takes (image (H, W, C), row of the sample) pairs and their number, and yields d score / d image for each
in their order. It runs as many at once as fit, so that copies are made when they are needed and memory stays bounded.

Symbols: x an image, y its score, G(x) = dy/dx. A map in one channel has the unit of G, score per unit of the image's
values, and where the method multiplies by the image, that of the score.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import cv2
import numpy as np

from ..checks import check_choice, check_whole, is_real
from ..records import Floats
from .cams import gradcam

logger = logging.getLogger("keras_cam_callbacks")

Channels = Literal["absolute", "maximum", "signed"]
Gradient = Callable[[Iterable[tuple[Floats, int]], int], Iterator[Floats]]
Score = Callable[[Iterable[tuple[Floats, int]], int], Iterator[Any]]

_LARGEST_GAP = 0.05


def one_map(attributions: Floats, channels: Channels) -> Floats:
    """Makes one map of the maps of an image's channels.

    Args:
        attributions: (N, H, W, C), signed.
        channels: "absolute", the sum of the absolute values; "maximum", the largest absolute value; "signed", the sum.

    Returns:
        (N, H, W) float32; nonnegative unless "signed".
    """
    if channels == "signed":
        return np.asarray(attributions.sum(axis=-1), np.float32)
    sizes = np.abs(attributions)
    return np.asarray(sizes.sum(axis=-1) if channels == "absolute" else sizes.max(axis=-1), np.float32)


@dataclass(frozen=True, eq=False)
class Saliency:
    """Saliency: the plain gradient, M = G(x).

    Attributes:
        channels: How the image's channels become one map (see `one_map`). The paper takes "maximum".

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Simonyan et al., Deep Inside Convolutional Networks, arXiv 1312.6034.
    """

    channels: Channels = "absolute"
    name: ClassVar[str] = "saliency"
    needs: ClassVar[tuple[str, ...]] = ("images", "gradient")

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    def __call__(self, images: Floats, gradient: Gradient) -> Floats:
        """Returns (N, H, W, C) float32, signed, for images (N, H, W, C)."""
        return _of_each(images, gradient)


@dataclass(frozen=True, eq=False)
class InputXGradient:
    """Input x gradient, M = x G(x): for a network of ReLUs without biases it sums to the score.

    Attributes:
        channels: How the image's channels become one map (see `one_map`).

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Shrikumar et al., Not Just a Black Box, arXiv 1605.01713.
    """

    channels: Channels = "absolute"
    name: ClassVar[str] = "input_x_gradient"
    needs: ClassVar[tuple[str, ...]] = ("images", "gradient")

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    def __call__(self, images: Floats, gradient: Gradient) -> Floats:
        """Returns (N, H, W, C) float32, signed, for images (N, H, W, C)."""
        return images * _of_each(images, gradient)


@dataclass(frozen=True, eq=False)
class SmoothGrad:
    """SmoothGrad: the mean gradient of noisy copies, M = 1/n sum_k G(x + s e_k), e_k standard normal.

    Noise k is the same for all images, so that a map depends neither on the image's place in the batch nor on how many
    run at once.

    Attributes:
        samples: n, the noisy copies; each costs a forward and a backward pass.
        sigma: s as a share of each image's own range, max - min.
        seed: Seed of the noise; the same in every epoch, so that maps differ by the model alone.
        average: "signed" averages G; "absolute" averages |G|, where copies cannot cancel each other.
        channels: How the image's channels become one map (see `one_map`).

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Smilkov et al., SmoothGrad: removing noise by adding noise, arXiv 1706.03825.
    """

    samples: int = 25
    sigma: float = 0.1
    seed: int = 0
    average: Literal["signed", "absolute"] = "signed"
    channels: Channels = "absolute"
    name: ClassVar[str] = "smoothgrad"
    needs: ClassVar[tuple[str, ...]] = ("images", "gradient")

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        check_whole("samples", self.samples, 1, 25)
        check_whole("seed", self.seed, 0, 0)
        if not is_real(self.sigma, 0):
            raise ValueError(f"`sigma` must be a share of the image's range, 0 or more. Received: {self.sigma!r}.")
        check_choice("average", self.average, ("signed", "absolute"))

    def __call__(self, images: Floats, gradient: Gradient) -> Floats:
        """Returns (N, H, W, C) float32, signed unless `average` is "absolute", for images (N, H, W, C)."""
        deviations = self.sigma * np.ptp(images, axis=(1, 2, 3))

        def copies() -> Iterator[tuple[Floats, int]]:
            random = np.random.default_rng(self.seed)
            for _ in range(self.samples):
                noise = random.standard_normal(images.shape[1:], dtype=np.float32)
                for row, image in enumerate(images):
                    copy = noise * deviations[row]
                    copy += image
                    yield copy, row

        total = np.zeros(images.shape, np.float32)
        for k, found in enumerate(gradient(copies(), self.samples * len(images))):
            total[k % len(images)] += found if self.average == "signed" else np.abs(found)
        return np.asarray(total / np.float32(self.samples))


@dataclass(frozen=True, eq=False)
class IntegratedGradients:
    """Integrated gradients: M = (x - b) times the mean gradient on the straight way from a baseline b to x.

    M = (x - b) integral_0^1 G(b + t (x - b)) dt. It is complete: it sums to y(x) - y(b), up to the
    error of the quadrature. The gap, as a share of that difference, is among the numbers of each sample and of each
    epoch as "completeness_gap"; above 5 % it is logged, as a warning to take more steps.

    Attributes:
        baseline: b: "blurred", the image without detail; a number in the image's unit; or an image as the
            model takes it but channels last, (H, W, C).
        steps: Number of gradients for each image.
        rule: "gausslegendre", the more exact one for the same steps, or "trapezoid".
        channels: How the image's channels become one map (see `one_map`). "signed" keeps completeness.

    Raises:
        ValueError: If an option is impossible, or the baseline does not fit the images.

    Reference:
        Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, arXiv 1703.01365.
    """

    baseline: float | Literal["blurred"] | Floats = 0.0
    steps: int = 32
    rule: Literal["gausslegendre", "trapezoid"] = "gausslegendre"
    channels: Channels = "absolute"
    name: ClassVar[str] = "integrated_gradients"
    needs: ClassVar[tuple[str, ...]] = ("images", "scores", "gradient", "score")

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        check_choice("rule", self.rule, ("gausslegendre", "trapezoid"))
        check_whole("steps", self.steps, 2, 32)
        if self.baseline is None or (isinstance(self.baseline, str) and self.baseline != "blurred"):
            raise ValueError(
                f"`baseline` must be 'blurred', a number or an image (H, W, C). Received: {self.baseline!r}."
            )

    def __call__(
        self, images: Floats, scores: Floats, gradient: Gradient, score: Score
    ) -> tuple[Floats, dict[str, Floats]]:
        """Explains images (N, H, W, C) with scores (N,).

        Returns:
            (N, H, W, C) float32, signed, in the unit of the score; and "completeness_gap", see `completeness_gap`.
        """
        baselines = self._baselines(images)
        if self.rule == "trapezoid":
            positions = np.linspace(0, 1, self.steps)
            weights = np.full(self.steps, 1 / (self.steps - 1))
            weights[[0, -1]] /= 2
        else:
            positions, weights = np.polynomial.legendre.leggauss(self.steps)
            positions, weights = (positions + 1) / 2, weights / 2
        ways = images - baselines
        copies = ((baselines[row] + np.float32(t) * ways[row], row) for t in positions for row in range(len(images)))
        total = np.zeros(images.shape, np.float32)
        for k, found in enumerate(gradient(copies, self.steps * len(images))):
            step, row = divmod(k, len(images))
            total[row] += np.float32(weights[step]) * found
        attributions: Floats = ways * total
        started = np.fromiter(score(((b, row) for row, b in enumerate(baselines)), len(images)), np.float32)
        gaps = completeness_gap(attributions, scores, started)
        self._report(gaps)
        return attributions, {"completeness_gap": gaps}

    def _baselines(self, images: Floats) -> Floats:
        if isinstance(self.baseline, str):
            sigma = max(images.shape[1:3]) / 10
            blurred = [cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape) for image in images]
            return np.stack(blurred).astype(np.float32)
        try:
            one: Floats = np.broadcast_to(np.asarray(self.baseline, np.float32), images.shape[1:])
        except ValueError:
            raise ValueError(
                f"`baseline` must be an image of shape {images.shape[1:]}. Received: shape {np.shape(self.baseline)}."
            ) from None
        return np.broadcast_to(one, images.shape)

    def _report(self, gaps: Floats) -> None:
        largest = float(np.nanmax(gaps, initial=0))
        level = logging.WARNING if largest > _LARGEST_GAP else logging.INFO
        advice = f" More steps than {self.steps} make it smaller." if level == logging.WARNING else ""
        logger.log(
            level, "Integrated gradients: largest completeness gap %.2g of the score difference.%s", largest, advice
        )


def completeness_gap(attributions: Floats, scores: Floats, baseline_scores: Floats) -> Floats:
    """Measures how far attributions are from summing to the difference of the scores that they explain.

    Args:
        attributions: (N, H, W, C).
        scores: (N,), of the images.
        baseline_scores: (N,), of the baselines.

    Returns:
        (N,) float32, |sum - difference| / |difference|; NaN where the scores do not differ.
    """
    difference = (scores - baseline_scores).astype(np.float64)
    gap = np.abs(attributions.sum(axis=(1, 2, 3), dtype=np.float64) - difference)
    result = np.full(len(gap), np.nan, np.float32)
    np.divide(gap, np.abs(difference), out=result, where=difference != 0, casting="same_kind")
    return result


@dataclass(frozen=True, eq=False)
class GuidedBackprop:
    """Guided backpropagation: the gradient, where every ReLU hands back positive gradients only.

    Sharp, but not to be trusted: it fails the sanity checks of Adebayo et al. (arXiv 1810.03292). Its maps hardly
    change when the weights are randomised; they show edges of the image rather than what the model has learnt. It is
    refused for a model without ReLU.

    Attributes:
        channels: How the image's channels become one map (see `one_map`).

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Springenberg et al., Striving for Simplicity: The All Convolutional Net, arXiv 1412.6806.
    """

    channels: Channels = "absolute"
    name: ClassVar[str] = "guided_backprop"
    needs: ClassVar[tuple[str, ...]] = ("images", "guided_gradient")

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    def __call__(self, images: Floats, guided_gradient: Gradient) -> Floats:
        """Returns (N, H, W, C) float32, signed, for images (N, H, W, C)."""
        return _of_each(images, guided_gradient)


@dataclass(frozen=True, eq=False)
class GuidedGradCAM:
    """Guided Grad-CAM: guided backpropagation times the positive part of Grad-CAM, enlarged bilinearly.

    It is as sharp as guided backpropagation, and hardly more to be trusted (see `GuidedBackprop`).

    Attributes:
        channels: How the image's channels become one map (see `one_map`).

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Selvaraju et al., Grad-CAM, ICCV 2017, arXiv 1610.02391.
    """

    channels: Channels = "absolute"
    name: ClassVar[str] = "guided_gradcam"
    needs: ClassVar[tuple[str, ...]] = ("images", "activations", "gradients", "guided_gradient")

    def __post_init__(self) -> None:
        _check_channels(self.channels)

    def __call__(self, images: Floats, activations: Floats, gradients: Floats, guided_gradient: Gradient) -> Floats:
        """Returns (N, H, W, C) float32, signed, for images (N, H, W, C) and what was captured (N, h, w, K)."""
        coarse = np.maximum(gradcam(activations, gradients), 0)
        height, width = images.shape[1:3]
        fine = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in coarse])
        attributions: Floats = _of_each(images, guided_gradient) * fine[..., None]
        return attributions


@dataclass(frozen=True, eq=False)
class MaxActivation:
    """Saliency of a layer's maximum activation: M = d (sum_ij max_k A[i, j, k]) / dx. It knows no class.

    Attributes:
        channels: How the image's channels become one map (see `one_map`).
        guided: Whether ReLUs hand back positive gradients only, as in guided backpropagation (see `GuidedBackprop`).

    Raises:
        ValueError: If an option is impossible.

    Reference:
        Known from public notebooks on Grad-CAM for Keras, with `guided=True`; it has no paper.
    """

    channels: Channels = "absolute"
    guided: bool = False
    name: ClassVar[str] = "max_activation"

    def __post_init__(self) -> None:
        _check_channels(self.channels)
        check_choice("guided", self.guided, (False, True))

    @property
    def needs(self) -> tuple[str, ...]:
        """What it is a function of."""
        return "images", "guided_activation_gradient" if self.guided else "activation_gradient"

    def __call__(self, images: Floats, activation_gradient: Gradient) -> Floats:
        """Returns (N, H, W, C) float32, signed, for images (N, H, W, C)."""
        return _of_each(images, activation_gradient)


def _of_each(images: Floats, gradient: Gradient) -> Floats:
    return np.stack(list(gradient(((image, row) for row, image in enumerate(images)), len(images))))


def _check_channels(channels: object) -> None:
    check_choice("channels", channels, get_args(Channels))
