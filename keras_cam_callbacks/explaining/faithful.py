"""Whether the model needs what its explanations show: insertion, deletion and the drop of confidence, on a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..data.layout import input_at
from ..metrics import METRICS, average_drop, deletion, increase, insertion, masked_confidence
from ..metrics.faithfulness import STEPS
from ..passes.capture import Capturer
from ..passes.probe import Probe
from .explanation import Explanation

NEEDS = ("images", "confidence")
"""What has to be captured for it."""


def confidence_probe(capturer: Capturer) -> Probe:
    """Returns the probability of the explained class as a function of the images.

    One is enough for all targets: the classes are given to it.

    Raises:
        ValueError: If a target has no probability.
    """
    for t, target in enumerate(capturer.targets):
        if not capturer.has_probability(t):
            raise ValueError(
                "Insertion, deletion and the drop of confidence need the probability of a class. Received: model "
                f"{capturer.model.name!r} and target {target.text!r}, which gives none. Leave out "
                "`faithfulness_freq`, or explain a class of a classifier."
            )
        if capturer.outputs.place(t) != capturer.outputs.place(0):
            raise ValueError(
                "Insertion, deletion and the drop of confidence are measured of one output. "
                f"Received: targets {', '.join(one.text for one in capturer.targets)} of several. "
                "Leave out `faithfulness_freq`, or explain one output."
            )
    return Probe(capturer, ["confidence"])


def faithfulness(
    capturer: Capturer, probe: Probe, views: Mapping[str, Explanation], names: Sequence[str], steps: int = STEPS
) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Measures whether the model needs what the heatmaps show.

    Args:
        capturer: Knows the model.
        probe: From `confidence_probe`.
        views: Explanations by name, with the weights that the model still has.
        names: Those of "insertion", "deletion", "average_drop" and "increase" that are wanted.
        steps: Steps of insertion and deletion. Each of the two costs so many passes of the batch for each view, the
            other two cost one pass together.

    Returns:
        For each view by name (N,) float64.
    """
    found: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for view_name, view in views.items():
        if not view.placed:  # It isn't known what is hot.
            unknown = np.full(len(view.batch), np.nan)
            found[view_name] = {name: unknown for name in METRICS["faithfulness"] if name in names}
            continue
        images = capturer.as_images(input_at(view.batch.inputs, view.batch.image_input))
        # What a sample without a class gives is left out.
        nothing = view.absent if view.targets is None else view.targets < 0
        targets = None if view.targets is None else np.maximum(view.targets, 0)
        confidence = probe.functions(view.batch.inputs, targets)["confidence"]
        known = images, view.heatmaps, confidence, view.confidences
        of_view = {}
        if "insertion" in names:
            of_view["insertion"] = insertion(*known, steps=steps)
        if "deletion" in names:
            of_view["deletion"] = deletion(*known, steps=steps)
        if "average_drop" in names or "increase" in names:
            masked = masked_confidence(*known)
            of_view["average_drop"] = average_drop(masked, view.confidences)
            of_view["increase"] = increase(masked, view.confidences)
        found[view_name] = {
            name: np.where(nothing, np.nan, values) for name, values in of_view.items() if name in names
        }
    return found
