"""What the numbers of a run are called in a report, what they mean, and which way is the better one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Entry", "entry", "ordered"]


class Entry(NamedTuple):
    """A number in words.

    Attributes:
        label: What it is called.
        about: What it means, in a clause.
        better: 1 where higher values are better, -1 where lower ones are, 0 where neither can be said.
    """

    label: str
    about: str
    better: int = 0


_LAST, _FIRST = "the last logged epoch", "the first logged epoch"
# In the order in which people should see them.
_ENTRIES = {
    "accuracy": Entry("Right predictions", "share of these images whose class is predicted rightly", 1),
    "energy_in_region": Entry("Heat on the object", "share of a heatmap's sum that lies on the object", 1),
    "energy_ratio": Entry(
        "Heat on the object, to chance", "that share divided by the object's share of the image; 1 is chance", 1
    ),
    "pointing": Entry("Peak on the object", "1 where the hottest place lies on the object, else 0", 1),
    "region_iou": Entry("Overlap with the object", "intersection over union of the hot area and the object", 1),
    "peak_outside": Entry("Peaks beside the object", "share of images whose hottest place is not on the object", -1),
    "agreement": Entry(
        "Agreement of the runs", "correlation of two runs' heatmaps: 1 is the same place, 0 an unrelated one"
    ),
    "confidence": Entry("Confidence", "probability of the explained class"),
    "drift": Entry("Drift", f"1 - correlation with {_LAST}: 0 is no move, 1 an unrelated place"),
    "first_drift": Entry("Drift from the first", f"1 - correlation with {_FIRST}"),
    "area": Entry("Hot area", "share of the image above half of the heatmap's maximum"),
    "entropy": Entry("Spread", "entropy of the heatmap: 0 is one spot, 1 the whole image alike"),
    "blobs": Entry("Hot spots", "separate hot places"),
    "centre_x": Entry("Centre, across", "the heat's centre of mass: 0 is left, 1 is right"),
    "centre_y": Entry("Centre, down", "the heat's centre of mass: 0 is the top, 1 the bottom"),
    "degenerate": Entry("No heatmap", "images whose heatmap is nowhere positive, constant or not finite", -1),
    "centre_shift": Entry("Shift of the centre", f"how far the centre of mass is from that of {_LAST}"),
    "moved": Entry("Moved heat", f"how far the heat has to be carried from {_LAST} (earth mover's distance)"),
    "top_iou": Entry("Same top fifth", f"overlap of the hottest 20 % of the pixels with those of {_LAST}"),
    "spearman": Entry("Same order", f"rank correlation with {_LAST}"),
    "first_centre_shift": Entry("Shift of the centre from the first", f"how far it is from that of {_FIRST}"),
    "first_moved": Entry("Moved heat from the first", f"how far the heat has to be carried from {_FIRST}"),
    "first_top_iou": Entry("Same top fifth as the first", f"overlap of the hottest 20 % with those of {_FIRST}"),
    "first_spearman": Entry("Same order as the first", f"rank correlation with {_FIRST}"),
    "insertion": Entry("Insertion", "mean score while the hottest pixels are put in first", 1),
    "deletion": Entry("Deletion", "mean score while the hottest pixels are taken out first", -1),
    "average_drop": Entry("Average drop", "loss of confidence where only hot pixels are left", -1),
    "increase": Entry("Increase", "share of images whose confidence grows where only hot pixels are left", 1),
}
_ORDER = {name: place for place, name in enumerate(_ENTRIES)}


def entry(name: str) -> Entry:
    """Returns a number in words; one that is not known is called by its own name."""
    return _ENTRIES.get(name, Entry(name, "as it was logged"))


def ordered(names: Iterable[str]) -> list[str]:
    """Returns names in the order in which people should see them, unknown ones last, by name."""
    return sorted(names, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
