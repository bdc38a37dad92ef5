"""Where the objects are that an explanation is measured by: all of a sample, or those of the explained class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..checks import did_you_mean
from ..metrics import inside
from ..records import Floats, Ints, Region, ValidationBatch, class_name


def object_masks(
    batch: ValidationBatch, targets: Ints | None = None, class_names: Sequence[str] | None = None
) -> npt.NDArray[np.bool_] | None:
    """Returns where the objects are, (N, *space) bool at the size of the input; None where `regions` were not given.

    Args:
        batch: The batch.
        targets: (N,) the explained classes; None where none is explained.
        class_names: Names by class index.

    Returns:
        Where the regions were given by class, those of the explained class: all False where it has none.
    """
    if not batch.regions or batch.space is None:
        return None
    regions: list[Region | None] = list(batch.regions)
    for i, by_class in enumerate(batch.class_regions):
        if by_class is not None:
            index = None if targets is None else int(targets[i])
            name = None if index is None else class_name(class_names, index)
            own = None if index is None else by_class.get(index)
            named = by_class.get(name) if class_names and name is not None else None
            regions[i] = own if own is not None else named
    return inside(regions, batch.space.size)


def check_region_classes(
    class_regions: Sequence[Mapping[int | str, Region] | None], class_names: Sequence[str] | None, classes: int | None
) -> None:
    """Checks that the classes by which regions were given exist.

    Raises:
        ValueError: If one has no such name, or its index is out of range.
    """
    for by_class in class_regions:
        for key in by_class or ():
            if isinstance(key, str) and key not in (class_names or ()):
                names = list(class_names or ())
                known = f"one of {', '.join(map(repr, names))}" if names else "known by `class_names`"
                raise ValueError(
                    f"A name in `regions` must be of a class, {known}, or 'boxes' and 'masks' for those of any class. "
                    f"Received: {key!r}.{did_you_mean(key, [*names, 'boxes', 'masks', 'mask'])} "
                    "A class index, as in {0: (10, 20, 90, 80)}, works too."
                )
            if not isinstance(key, str) and classes is not None and key >= classes:
                raise ValueError(
                    f"A class in `regions` must lie between 0 and {classes - 1}, for the model tells {classes} classes "
                    f"apart. Received: {key}."
                )


def box_masks(boxes: Floats, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Returns where boxes are on the images, (N, H, W) bool.

    Args:
        boxes: (N, 4) left, top, right, bottom in px, NaN where a sample has none. A model's boxes may reach beyond the
            image, and those that lie beside it are nowhere on it.
        size: H and W of the images.
    """
    shares = np.clip(boxes / (*size[::-1], *size[::-1]), 0, 1).astype(np.float64)
    # NaN is not less.
    regions = [Region(box[None]) if (box[:2] < box[2:]).all() else None for box in shares]
    return inside(regions, size)


def shares_of(box: Floats | None, size: tuple[int, int] | None) -> tuple[float, float, float, float] | None:
    """Returns a box as shares of the image; None where there is none, or it isn't finite.

    Args:
        box: (4,) left, top, right, bottom in px.
        size: H and W of the image.
    """
    if box is None or size is None or not np.isfinite(box).all():
        return None
    left, top, right, bottom = (box.astype(np.float64) / (*size[::-1], *size[::-1])).tolist()
    return left, top, right, bottom
