"""The CAM family: heatmaps from a layer's activations and the gradients of a score with respect to them.

Every function is pure numpy and returns the map raw: signed, unscaled, at the layer's size. The ReLU with
which most of the papers end is left to whoever draws or measures the map, because the negative part (evidence
against the class) can't be had back. A ReLU inside a formula, as in LayerCAM, stays where it is.

Shapes, the same throughout: `activations` A and `gradients` G = dy/dA are (N, h, w, C) float32 with y the (N,) score;
the result is (N, h, w) float32. Sums over i, j run over the h x w positions, sums over k over the C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..checks import check_whole
from ..records import Floats


def cam(activations: Floats, kernel: Floats) -> Floats:
    """Class activation map of a network that ends in global average pooling and one dense layer.

    M[i, j] = sum_k w[k, c] A[i, j, k], with w the dense layer's kernel and c the explained class.

    Args:
        activations: (N, h, w, C), what goes into the global average pooling.
        kernel: (N, C), for each sample the dense layer's weights of the explained class; for one sigmoid unit
            that explains the negative class, the negated weights; without a dense layer, one-hot rows.

    Returns:
        (N, h, w) float32, raw. Its mean over i, j plus the bias is the class's logit.

    Reference:
        Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, arXiv 1512.04150.
    """
    heatmaps: Floats = np.einsum("nijk,nk->nij", activations, kernel, optimize=True)
    return heatmaps


def gradcam(activations: Floats, gradients: Floats) -> Floats:
    """Grad-CAM: activations weighted by their mean gradient.

    M[i, j] = sum_k a_k A[i, j, k], a_k = 1 / (h w) sum_ij G[i, j, k].

    Args:
        activations: (N, h, w, C).
        gradients: (N, h, w, C).

    Returns:
        (N, h, w) float32, raw (the paper then takes the positive part).

    Reference:
        Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
        ICCV 2017, arXiv 1610.02391.
    """
    return cam(activations, gradients.mean(axis=(1, 2)))


def gradcam_plus_plus(activations: Floats, gradients: Floats, eps: float = 0.0) -> Floats:
    """Grad-CAM++: like Grad-CAM with positive gradients only, weighted so that several objects count alike.

    M[i, j] = sum_k a_k A[i, j, k], a_k = sum_ij alpha[i, j, k] relu(G[i, j, k]),
    alpha = G^2 / (2 G^2 + G^3 sum_ij A + eps), with alpha = 0 where G = 0: the paper's closed form for a score
    exp(y), up to the positive factor exp(y) of each sample.

    Args:
        activations: (N, h, w, C).
        gradients: (N, h, w, C).
        eps: The paper has none. Some libraries add 1e-6, which outweighs G^2 as soon as |G| falls under 1e-3, as it
            does at any large layer, and then changes the map with the scale of the gradients.

    Returns:
        (N, h, w) float32, raw.

    Reference:
        Chattopadhyay et al., Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks, WACV 2018,
        arXiv 1710.11063.
    """
    # Divided by G^2 on both sides, which avoids the underflow of G^3 in float32 where gradients are small. Only
    # positive gradients count, so that the others may have any denominator.
    g = np.maximum(gradients, 0)
    denominator = 2 + g * activations.sum(axis=(1, 2), keepdims=True)
    if eps:
        denominator += np.divide(eps, g**2, out=np.zeros_like(g), where=g > 0)
    weights = np.divide(g, denominator, out=np.zeros_like(g), where=denominator != 0).sum(axis=(1, 2))
    return cam(activations, weights.astype(np.float32))


def xgradcam(activations: Floats, gradients: Floats) -> Floats:
    """XGrad-CAM: gradients averaged with the activations themselves as weights.

    M[i, j] = sum_k a_k A[i, j, k], a_k = sum_ij G[i, j, k] A[i, j, k] / sum_ij A[i, j, k], with a_k = 0 for a channel
    whose activations sum to zero.

    Args:
        activations: (N, h, w, C).
        gradients: (N, h, w, C).

    Returns:
        (N, h, w) float32, raw.

    Reference:
        Fu et al., Axiom-based Grad-CAM, BMVC 2020, arXiv 2008.02312.
    """
    total = activations.sum(axis=(1, 2))
    usable = total != 0
    weights = (gradients * activations).sum(axis=(1, 2)) / np.where(usable, total, 1)
    return cam(activations, np.where(usable, weights, 0).astype(np.float32))


def hirescam(activations: Floats, gradients: Floats) -> Floats:
    """HiResCAM: gradients times activations, position by position; it shows only what the score used.

    M[i, j] = sum_k G[i, j, k] A[i, j, k].

    Args:
        activations: (N, h, w, C).
        gradients: (N, h, w, C).

    Returns:
        (N, h, w) float32, raw. Where only linear layers follow, it sums to the logit less the bias.

    Reference:
        Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
        networks, arXiv 2011.08891.
    """
    heatmaps: Floats = np.einsum("nijk,nijk->nij", gradients, activations, optimize=True)
    return heatmaps


def layercam(activations: Floats, gradients: Floats) -> Floats:
    """LayerCAM: like HiResCAM with positive gradients only; useful at early layers, too.

    M[i, j] = sum_k relu(G[i, j, k]) A[i, j, k].

    Args:
        activations: (N, h, w, C).
        gradients: (N, h, w, C).

    Returns:
        (N, h, w) float32, raw.

    Reference:
        Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE TIP 2021.
    """
    return hirescam(activations, np.maximum(gradients, 0))


def gradcam_elementwise(activations: Floats, gradients: Floats) -> Floats:
    """Grad-CAM elementwise: the positive part of each product before the sum over channels.

    M[i, j] = sum_k relu(G[i, j, k] A[i, j, k]).

    Args:
        activations: (N, h, w, C).
        gradients: (N, h, w, C).

    Returns:
        (N, h, w) float32, nonnegative.

    Reference:
        A variant of HiResCAM known from the library pytorch-grad-cam (GradCAMElementWise); it has no paper.
    """
    heatmaps: Floats = np.maximum(gradients * activations, 0).sum(axis=-1)
    return heatmaps


def eigencam(activations: Floats) -> Floats:
    """Eigen-CAM: the activations projected on their first principal component; knows no class and no gradient.

    With X the (h w, C) matrix of a sample's activations less their mean over positions and v its first right
    singular vector, M = X v.

    Args:
        activations: (N, h, w, C).

    Returns:
        (N, h, w) float32, raw and centred: it sums to zero. A singular vector's sign is arbitrary; here it is the
        one with which the map grows with the summed activations.

    Reference:
        Muhammad and Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020,
        arXiv 2008.00299.
    """
    return _first_component(activations)


@dataclass(frozen=True)
class RandomCAM:
    """A background for the other maps: the activations in a random mixture, chosen without the model's score.

    M[i, j] = sum_k u[k] A[i, j, k], u[k] uniform in [-1, 1]. It shows where the layer is active. A method whose maps
    are no different from it tells that too, and not why the model decides as it does. Explain the same batch and layer
    by both, and with several seeds: if the maps look alike, or the metrics of the run (drift, share of the box) are
    within what the seeds give among themselves, the method's have said nothing about the class.

    Attributes:
        seed: Seed of u. All images and epochs have the same u, so that the maps drift by the activations alone.

    Raises:
        ValueError: If the seed is no whole number of at least 0.

    Reference:
        Known from the library pytorch-grad-cam (RandomCAM), which draws another u for each image and call; it has no
        paper.
    """

    seed: int = 0
    name: ClassVar[str] = "randomcam"
    needs: ClassVar[tuple[str, ...]] = ("activations",)

    def __post_init__(self) -> None:
        check_whole("seed", self.seed, 0, 0)

    def __call__(self, activations: Floats) -> Floats:
        """Returns (N, h, w) float32, raw, from activations (N, h, w, C)."""
        count, channels = len(activations), activations.shape[-1]
        weights = np.random.default_rng(self.seed).uniform(-1, 1, (1, channels)).astype(np.float32)
        return cam(activations, np.broadcast_to(weights, (count, channels)))


def eigen_gradcam(activations: Floats, gradients: Floats) -> Floats:
    """Eigen-Grad-CAM: Eigen-CAM of gradients times activations, and so with a class.

    Args:
        activations: (N, h, w, C).
        gradients: (N, h, w, C).

    Returns:
        (N, h, w) float32, raw and centred; the sign is the one with which the map grows with HiResCAM's.

    Reference:
        Known from the library pytorch-grad-cam (EigenGradCAM); the projection is that of arXiv 2008.00299.
    """
    return _first_component(gradients * activations)


def _first_component(values: Floats) -> Floats:
    """Projects each sample's (h w, C) values on their first principal direction, with a sign that means something."""
    n, h, w, channels = values.shape
    rows = values.reshape(n, h * w, channels).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    maps = np.zeros((n, h * w))
    for i, x in enumerate(rows):
        # NaN would make the decomposition raise; such a map is NaN and is reported as degenerate.
        if not np.isfinite(x).all():
            maps[i] = np.nan
            continue
        # The smaller of the two Gram matrices: for 512 channels on 7 x 7 positions it is 49 x 49.
        if h * w <= channels:
            value, vector = _largest_eigenpair(x @ x.T)
            component = vector * np.sqrt(max(value, 0.0))
        else:
            component = x @ _largest_eigenpair(x.T @ x)[1]
        maps[i] = -component if component @ x.sum(axis=1) < 0 else component
    return maps.reshape(n, h, w).astype(np.float32)


def _largest_eigenpair(gram: npt.NDArray[np.float64], block: int = 8) -> tuple[float, npt.NDArray[np.float64]]:
    """Returns the largest eigenvalue and its eigenvector of a positive semidefinite matrix.

    Subspace iteration: for activations, whose spectrum falls fast, ten times as fast as a whole decomposition, which
    is what remains where it does not converge.
    """
    basis = gram[:, np.argsort(np.diag(gram))[-block:]]
    for _ in range(60):
        basis = np.linalg.qr(gram @ basis)[0]
        values, vectors = np.linalg.eigh(basis.T @ gram @ basis)
        basis = basis @ vectors
        rest = gram @ basis[:, -1] - values[-1] * basis[:, -1]
        if np.linalg.norm(rest) <= 1e-9 * values[-1]:
            return float(values[-1]), basis[:, -1]
    values, vectors = np.linalg.eigh(gram)
    return float(values[-1]), vectors[:, -1]
