"""Methods of the self-attention of vision transformers: which places the read-out token reads, through all blocks.

Shapes, the same throughout: `attentions` are (N, blocks, T, T) float32, averaged over heads, each row summing to 1: row
i, what token i reads. `readout` is (N, T) float32, which tokens the score is read from behind the last block, summing
to 1: the class token, or all that are pooled. `positions` is (h, w), the index of each cell's token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Floats


def attention_rollout(attentions: Floats, readout: Floats, positions: npt.NDArray[np.int64]) -> Floats:
    """Attention rollout: how much of each place arrives in the read-out, whatever the class.

    R = Â_B ... Â_2 Â_1 with Â_b = (A_b + I) / 2, for each block's residual connection; the map is readout R.

    Args:
        attentions: (N, blocks, T, T), A.
        readout: (N, T).
        positions: (h, w).

    Returns:
        (N, h, w) float32, nonnegative, at most 1 in sum; what special tokens hold is left out.

    Reference:
        Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, arXiv 2005.00928.
    """
    arrived: Any = readout[:, None]
    for block in range(attentions.shape[1] - 1, -1, -1):
        arrived = (arrived + arrived @ attentions[:, block]) / 2
    heatmaps: Floats = np.ascontiguousarray(arrived[:, 0][:, positions], np.float32)
    return heatmaps


def attention_relevance(relevances: Floats, readout: Floats, positions: npt.NDArray[np.int64]) -> Floats:
    """Attention relevance: how much each place adds to the score through the attention of all blocks.

    R = (I + P_B) ... (I + P_1) with P_b = 1 / H sum_h max(0, dy/dA_bh * A_bh) over the H heads of block b; the map is
    readout R.

    Args:
        relevances: (N, blocks, T, T) float32, nonnegative, P.
        readout: (N, T).
        positions: (h, w).

    Returns:
        (N, h, w) float32, nonnegative; what special tokens hold is left out.

    Reference:
        Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021, arXiv 2012.09838, with
        attention in place of its relevance, as in their Generic Attention-model Explainability, arXiv 2103.15679.
    """
    arrived: Any = readout[:, None]
    for block in range(relevances.shape[1] - 1, -1, -1):
        arrived = arrived + arrived @ relevances[:, block]
    # Not a part of the product: what every token keeps of itself.
    heatmaps: Floats = np.ascontiguousarray((arrived[:, 0] - readout)[:, positions], np.float32)
    return heatmaps
