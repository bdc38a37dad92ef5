"""What comes of a target beyond a class: which samples have none, and what is told of its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics import energy_in_region
from ..network.detection import Detection
from ..network.objectives import Contrast, Present, Segment
from ..network.targets import Target
from .objects import box_masks

__all__ = ["BEST_BOX", "MOST_FREQUENT", "missing", "of_objective"]

BEST_BOX = (
    "takes the outputs for an object detector's: of each image the class of its best box is explained. "
    "target=Detection(1) explains the best box of class 1."
)
"""What is said where boxes are explained and no class is named."""

MOST_FREQUENT = (
    "takes the output for a mask: of each image the pixels of its most frequent predicted class that is not 0 are "
    "explained. target=Segment(1) explains those of class 1."
)
"""What is said where a mask is explained and no class is named."""

_PRESENT = 0.5


def missing(target: Target, arrays: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """Tells which rows have nothing that a target could explain, which only the model's outputs tell.

    Args:
        target: The target.
        arrays: What was captured, of which "absent" is taken out.

    Returns:
        (rows,) bool.
    """
    absent = arrays.pop("absent")
    if isinstance(target.objective, Present):
        return ~(np.asarray(arrays["confidences"]) > _PRESENT)
    return np.zeros(len(arrays["scores"]), np.bool_) if absent is None else np.asarray(absent, np.bool_)


def of_objective(objective: Any, arrays: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """Returns the numbers that a target tells of each row.

    Args:
        objective: What is explained other than a class's score.
        arrays: What was captured, in which "against", "segments" or "boxes" takes the place of "beside".
        size: Height and width of the images; None where there are none.
    """
    beside = arrays.pop("beside")
    arrays["against"] = beside.astype(np.int64) if isinstance(objective, Contrast) else None
    arrays["segments"] = beside if isinstance(objective, Segment) else None
    # How a model writes boxes may not be known.
    boxes = beside[:, -1] if isinstance(objective, Detection) and beside is not None else None
    arrays["boxes"] = boxes
    if boxes is not None and size is not None:
        return {"energy_in_box": energy_in_region(arrays["heatmaps"], box_masks(boxes, size))}
    if not isinstance(objective, Segment) or objective.place == "all":  # All of the heat is there.
        return {}
    return {"energy_in_segment": energy_in_region(arrays["heatmaps"], beside)}
