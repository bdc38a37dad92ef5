"""Numbers from heatmaps: of the map alone, against another map, against where the object is, against the model.

Every function takes raw maps (N, h, w) float32 and returns one float64 for each, NaN where there is nothing to measure.
They are numpy and OpenCV and know no framework.
"""

from .agreement import centre_shift, correlation, drift, moved, spearman, top_iou
from .maps import area, blobs, centre, clipped, degenerate, degenerate_cause, entropy, pooled

__all__ = [
    "area",
    "blobs",
    "centre",
    "centre_shift",
    "clipped",
    "correlation",
    "degenerate",
    "degenerate_cause",
    "drift",
    "entropy",
    "moved",
    "pooled",
    "spearman",
    "top_iou",
]
