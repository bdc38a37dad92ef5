"""One heatmap from those of several layers: early layers are sharp, deep layers know what is where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ..records import Floats
from ..space import resize

Fusion = Literal["mean", "maximum", "product"]


def check_fusion(fuse: object, layers: int) -> None:
    """Checks how heatmaps are to be fused.

    Args:
        fuse: What the user gave; None where nothing was.
        layers: How many layers are explained.

    Raises:
        ValueError: If there is no such rule, or nothing to be fused.
    """
    if fuse is not None and (fuse not in get_args(Fusion) or layers < 2):
        raise ValueError(
            "`fuse` must be 'mean', 'maximum' or 'product', for a list of layers as `layer_name`. "
            f"Received: fuse={fuse!r} and {layers} {'layer' if layers == 1 else 'layers'}. "
            "layer_name=['block3', 'block5'], fuse='mean' works."
        )


def fused(heatmaps: Sequence[Floats], fuse: Fusion = "mean", of_levels: bool = False) -> Floats:
    """Fuses the heatmaps of several layers.

    M[i, j] = mean, maximum or geometric mean over the layers l of u(relu(M_l) / max relu(M_l))[i, j], u: enlarged
    bilinearly. So every layer counts alike, whatever its scale. The maximum shows what any layer shows, the product
    only what all do: its pixels are in the order of the product of the maps, and its L-th root, for L layers, keeps
    it on the scale of one.

    Args:
        heatmaps: For each layer (N, *space) float32, raw; the sizes may differ.
        fuse: "mean"; "maximum" as in the LayerCAM paper (which scales by tanh before); or "product".
        of_levels: Whether the layers may be levels of a pyramid, of which objects of a size are found in some: then the
            mean or product of a sample is over those of its maps that are somewhere positive.

    Returns:
        (N, *space) float32 in [0, 1], at the size of the largest map. A map that is nowhere positive counts as zero
        (and makes a product zero everywhere), one that is not finite makes the sample's fused map NaN.

    Reference:
        Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE TIP 2021.
    """
    size = max((maps.shape[1:] for maps in heatmaps), key=math.prod)
    levels, tops, counts = [], [], np.zeros(len(heatmaps[0]), np.float32)
    for maps in heatmaps:
        positive = np.maximum(maps, 0)
        space = tuple(range(1, maps.ndim))
        top = positive.max(axis=space, keepdims=True)
        with np.errstate(invalid="ignore"):
            scaled = positive / np.where(top > 0, top, 1)
        scaled[~np.isfinite(maps).all(axis=space)] = np.nan
        levels.append(resize(scaled, size))
        tops.append(top.reshape(-1) > 0)
        counts += tops[-1]
    together = np.asarray(levels, np.float32)
    if fuse == "maximum":
        return np.asarray(together.max(axis=0), np.float32)
    if fuse == "product":
        if of_levels:  # What shows nothing has no say, unless none shows anything.
            shows = (np.asarray(tops) | (counts == 0)).reshape(*together.shape[:2], *[1] * (together.ndim - 2))
            together = np.where(shows | np.isnan(together), together, np.float32(1))
        number = counts if of_levels else np.full_like(counts, len(levels))
        root = 1 / np.maximum(number, 1).reshape(-1, *[1] * (together.ndim - 2))
        return np.asarray(together.prod(axis=0) ** root, np.float32)
    if not of_levels:
        return np.asarray(together.mean(axis=0), np.float32)
    total = together.sum(axis=0)
    return np.asarray(total / np.maximum(counts, 1).reshape(-1, *[1] * (total.ndim - 1)), np.float32)
