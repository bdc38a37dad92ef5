"""The plain data that travels the pipe, from the validation batch to the trackers.

numpy and the standard library only: every later stage can be used and tested without a framework.
"""

from .explained import (
    ABSENT,
    Capture,
    Chunk,
    Floats,
    Image,
    Ints,
    Label,
    Look,
    Place,
    Region,
    Space,
    ValidationBatch,
    ValueRange,
    brief,
    short_repr,
)
from .logged import Alert, DrawnFrom, EpochRecord, RunConfig, Sample, View, class_name

__all__ = [
    "ABSENT",
    "Alert",
    "Capture",
    "Chunk",
    "DrawnFrom",
    "EpochRecord",
    "Floats",
    "Image",
    "Ints",
    "Label",
    "Look",
    "Place",
    "Region",
    "RunConfig",
    "Sample",
    "Space",
    "ValidationBatch",
    "ValueRange",
    "View",
    "brief",
    "class_name",
    "short_repr",
]
