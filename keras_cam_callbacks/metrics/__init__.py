"""Numbers from heatmaps: of the map alone, against another map, against where the object is, against the model.

Every function takes raw maps (N, h, w) float32, or with another number of axes, and returns one float64 for each, NaN
where there is nothing to measure. They know no framework.
"""

from .agreement import centre_shift, correlation, drift, moved, spearman, target_kept, top_iou
from .classes import means_by_class, rows_by_class
from .faithfulness import average_drop, deletion, increase, insertion, masked_confidence
from .maps import area, blobs, centre, clipped, degenerate, degenerate_cause, entropy, magnitude, mean, pooled
from .regions import energy_in_region, energy_ratio, inside, peak_outside, pointing, region_iou
from .registry import METRICS, QUESTIONS, REGISTRY, Metric, measured, resolve_metrics, worst

__all__ = [
    "METRICS",
    "QUESTIONS",
    "REGISTRY",
    "Metric",
    "area",
    "average_drop",
    "blobs",
    "centre",
    "centre_shift",
    "clipped",
    "correlation",
    "degenerate",
    "degenerate_cause",
    "deletion",
    "drift",
    "energy_in_region",
    "energy_ratio",
    "entropy",
    "increase",
    "insertion",
    "inside",
    "magnitude",
    "masked_confidence",
    "mean",
    "means_by_class",
    "measured",
    "moved",
    "peak_outside",
    "pointing",
    "pooled",
    "region_iou",
    "resolve_metrics",
    "rows_by_class",
    "spearman",
    "target_kept",
    "top_iou",
    "worst",
]
