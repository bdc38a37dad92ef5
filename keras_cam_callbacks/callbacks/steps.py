"""When something is logged within an epoch: every so many training steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import check_whole, is_whole

__all__ = ["StepClock", "Steps", "check_freq", "epochs_of", "steps_of"]


@dataclass(frozen=True)
class Steps:
    """As `freq`: log every so many training steps, besides the end of each epoch.

    A fine-tune often lasts two or three epochs, so that epoch ends give two or three points. A step is one batch that
    the model is trained on. Steps are counted over all fits of a run; the record of a run that is logged so counts
    them, not epochs.

    Attributes:
        every: Of how many steps one is logged, at least 1. A step that an epoch ends with is logged once.

    Raises:
        ValueError: If it is no whole number of at least 1.

    Example:
        >>> GradCAMLogger(validation_data, freq=Steps(500))
    """

    every: int

    def __post_init__(self) -> None:
        check_whole("every", self.every, 1, 500)


def check_freq(freq: object) -> None:
    """Raises ValueError for what is neither a number of epochs nor `Steps`."""
    if not isinstance(freq, Steps) and not is_whole(freq, 1):
        raise ValueError(
            "`freq` must be a positive integer, of epochs, or Steps(...), of training steps. "
            f"Received: {freq!r}. freq=1 logs each epoch, freq=Steps(500) every 500 steps as well."
        )


def epochs_of(freq: int | Steps) -> int:
    """Returns of how many epochs one is logged at its end."""
    return 1 if isinstance(freq, Steps) else freq


def steps_of(freq: int | Steps) -> int | None:
    """Returns of how many training steps one is logged; None where epochs are."""
    return int(freq.every) if isinstance(freq, Steps) else None


class StepClock:
    """Counts the steps that a fit trains.

    Keras tells which batch begins. That more were trained than before is known then, so that what is logged between two
    batches has the weights that all steps before it have made; and the last batch of an epoch has none that begins
    after it: the epoch's end is logged once.

    Attributes:
        due: The batch of the running epoch from which on `asks` is to be called; no other costs more than to compare.
        batch: The batch that began last in the running epoch; None where none has been told.
    """

    def __init__(self) -> None:
        self.due = 0
        self.batch: int | None = None
        self._before = 0  # steps of this fit before the running epoch
        self._last: int | None = None  # the run's step that was asked for last

    def trained(self, batch: int) -> int:
        """Returns how many steps the fit has trained where a batch of the running epoch begins."""
        return self._before + batch

    def asks(self, batch: int, step: int, every: int) -> bool:
        """Tells whether the step is to be logged at the begin of a batch, and sets `due` to the next that may be.

        Args:
            batch: The batch.
            step: The run's count of steps that were trained before it.
            every: Of how many steps one is logged.
        """
        if self._last is None or batch == 0:  # The end of the epoch before is logged, as is what a run goes on from.
            self._last = step - batch
        is_due = step // every > self._last // every
        self._last = step
        self.due = batch + every - step % every
        return is_due

    def end_epoch(self, model: Any, params: Mapping[str, Any]) -> int:
        """Returns how many steps the fit has trained by the end of an epoch.

        Args:
            model: The model. Keras tells of the first of `steps_per_execution` batches alone; of data of which it does
                not know the number of batches, the last ones count as so many.
            params: What Keras tells callbacks of the fit.
        """
        together = getattr(model, "steps_per_execution", 1)
        trained = (self.batch or 0) + (together if is_whole(together, 1) else 1)
        steps = params.get("steps")
        self._before += min(trained, steps) if is_whole(steps, 1) else trained
        self.due, self.batch = 0, None
        return self._before
