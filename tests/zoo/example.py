"""What a model of the zoo comes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LOGITS = "logits"
PROBABILITIES = "sparse_categorical_crossentropy"
ONE_UNIT = "binary_crossentropy"
NUMBERS = "mse"


@dataclass
class Example:
    """A small model with two samples.

    Attributes:
        model: The model.
        inputs: Two samples, in the structure that the model takes.
        loss: What it is trained with: `LOGITS`, `PROBABILITIES`, `ONE_UNIT` (a sigmoid), or `NUMBERS`; None for a model
            that a loop of one's own trains.
        target: The score that is explained, a function of the outputs; None for the predicted class.
        settings: Further settings of `explain` and of the callback.
    """

    model: Any
    inputs: Any
    loss: str | None = LOGITS
    target: Callable[[Any], Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
