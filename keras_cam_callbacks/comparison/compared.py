"""Runs that are compared: the aligned data, and what is asked of them. Every view is made from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics import QUESTIONS, REGISTRY, Metric, mean
from ..records import Floats, Ints, Label, Region, class_name
from ..store import Run, StoredEpoch
from .reading import Reader, unlike

__all__ = ["Compared", "epoch_numbers", "lasting", "ordered", "row_of"]

Doubles = npt.NDArray[np.float64]

_OWN = {
    row.name: row
    for row in (
        Metric("accuracy", "", "share of these images whose class is predicted rightly", "near 1", (0, 1), 1),
        Metric(
            "top_label", "",
            "share of these images whose highest label is one of theirs; images without any are not counted",
            "near 1", (0, 1), 1,
        ),
        Metric(
            "agreement", "",
            "correlation of two runs' heatmaps of one class: 1 is the same place, 0 an unrelated one", limits=(-1, 1),
        ),
    )
}  # fmt: skip
"""Numbers that no run logs, and that are known where runs are compared."""
_ROWS = _OWN | {
    name: REGISTRY[name] for name in sorted(REGISTRY, key=lambda name: [*QUESTIONS].index(REGISTRY[name].group))
}
_PLACES = {name: place for place, name in enumerate(_ROWS)}


@dataclass(frozen=True, eq=False, repr=False)
class Compared:
    """Stored runs, aligned by sample and epoch, and what views ask of them. `Comparison` says what its fields are."""

    names: tuple[str, ...]
    runs: tuple[Run, ...]
    view: str
    sample_keys: tuple[str, ...]
    labels: tuple[Label | None, ...]
    class_names: tuple[str, ...] | None
    epochs: tuple[int, ...]
    predicted: Ints
    targets: Ints
    confidences: Floats
    peaks: Floats
    values: Mapping[str, Doubles]
    scalars: Mapping[str, Doubles]
    pairs: tuple[tuple[int, int], ...]
    agreement: Doubles
    differences: Mapping[str, tuple[Any, ...]]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        epochs = f"{self.unit}s {self.epochs[0]} to {self.epochs[-1]}"
        return f"{type(self).__name__}({', '.join(self.names)}; {len(self.sample_keys)} samples, {epochs})"

    @property
    def unit(self) -> str:
        """What `epochs` counts: "epoch", or "step" where all runs were logged by training steps."""
        return "step" if all(run.steps is not None for run in self.runs) else "epoch"

    def stored(self, run: int, epoch: int) -> StoredEpoch | None:
        """Returns the stored epoch of a run.

        Args:
            run: Its place in `runs`.
            epoch: One of `epochs`.

        Returns:
            The epoch, or None where the run lacks it.
        """
        return next((stored for stored in self.runs[run].epochs if stored.step == epoch), None)

    def heatmaps(self, run: int, epoch: int) -> Floats | None:
        """Reads heatmaps from disk.

        Args:
            run: The run's place in `runs`.
            epoch: One of `epochs`.

        Returns:
            (N, h, w) float32, raw, in the order of `sample_keys`; None where the run lacks the epoch.

        Raises:
            ValueError: If the file is damaged.
            OSError: If the file is gone.
        """
        stored = self.stored(run, epoch)
        return None if stored is None else Reader(self.runs[run], self.sample_keys, self.view).heatmaps(stored)

    def disagreement(self) -> Doubles:
        """Measures for each sample how far the runs differ: 1 - mean agreement over pairs and epochs.

        Returns:
            (N,) float64 in [0, 2]; NaN where nothing can be compared, such as for one run alone.
        """
        return 1 - mean(self.agreement, (0, 1))

    def parted(self, threshold: float = 0.5, pair: int | None = None) -> Ints:
        """Finds for each sample the epoch from which the runs look at different places.

        It is the first epoch from which the agreement is below `threshold` in every epoch up to the last one. What
        counts is the mean over the pairs of runs; epochs in which that of a pair is not known are passed over. Runs
        that agree again in the end have not parted; runs that never agreed parted in the first epoch that they share.

        Args:
            threshold: In (-1, 1].
            pair: Which of `pairs` alone; None for the mean over all.

        Returns:
            (N,) int64, one of `epochs`, or -1 where the runs have not parted or nothing can be compared.

        Raises:
            ValueError: If `threshold` is not in (-1, 1], or there is no such pair.
        """
        _check_threshold(threshold)
        return self._parted(self.together(pair), threshold)

    def parted_overall(self, threshold: float = 0.5, pair: int | None = None) -> int:
        """Finds the epoch from which the runs part over all samples: as `parted`, by the samples' mean agreement."""
        _check_threshold(threshold)
        return int(self._parted(mean(self.together(pair), 1)[:, None], threshold)[0])

    def together(self, pair: int | None = None) -> Doubles:
        """Returns the agreement of one pair of runs, or its mean over all.

        Args:
            pair: Which of `pairs`; None for all.

        Returns:
            (E, N) float64; NaN where that of one of the pairs is not known, unless it never is for the sample.

        Raises:
            ValueError: If there is no such pair.
        """
        if pair is None:
            # Not the mean of whatever is known: it would jump where one of the runs ends.
            known = ~np.isnan(self.agreement)
            whole = (known | ~known.any(axis=1, keepdims=True)).all(axis=0)
            return np.where(whole, mean(self.agreement, 0), np.nan)
        if pair not in range(len(self.pairs)):
            raise ValueError(
                f"`pair` must be the place of one of the {len(self.pairs)} pairs of runs, or None. "
                f"Received: pair={pair!r}. None takes all."
            )
        together: Doubles = self.agreement[pair]
        return together

    def _parted(self, together: Doubles, threshold: float) -> Ints:
        known = ~np.isnan(together)
        with np.errstate(invalid="ignore"):
            rows = lasting(together < threshold, known)
        return np.where(rows >= 0, np.array(self.epochs, np.int64)[rows], np.int64(-1))

    def settled(self, threshold: float = 0.1) -> Ints:
        """Finds since when each run's heatmaps hardly move: the mean drift of the samples stays below a threshold.

        Args:
            threshold: In (0, 2].

        Returns:
            (R,) int64, one of `epochs`, from which on it is so up to the run's last one; -1 where it isn't, or isn't
            known.

        Raises:
            ValueError: If `threshold` is not in (0, 2].
        """
        if not 0 < threshold <= 2:
            raise ValueError(f"`threshold` must be in (0, 2]. Received: {threshold!r}. 0.1 works.")
        nothing = np.full((len(self.runs), len(self.epochs)), np.nan)
        drift = epoch_numbers(self).get("drift", nothing)
        with np.errstate(invalid="ignore"):
            rows = lasting(np.less(drift.T, threshold), np.isfinite(drift.T))
        return np.where(rows >= 0, np.array(self.epochs, np.int64)[rows], np.int64(-1))

    def held(self) -> npt.NDArray[np.bool_]:
        """Tells which epochs each run has, (R, E) bool."""
        steps = [{stored.step for stored in run.epochs} for run in self.runs]
        return np.array([[epoch in of_run for epoch in self.epochs] for of_run in steps])

    def unlike(self) -> npt.NDArray[np.bool_]:
        """Tells where the maps of two runs explain different classes, which leaves them out of the agreement.

        Returns:
            (P, E, N) bool; False where either run lacks the epoch.
        """
        held = self.held()
        both = np.array([held[one] & held[other] for one, other in self.pairs], np.bool_)
        return unlike(self.targets, self.pairs) & both.reshape(len(self.pairs), -1, 1)

    def correct(self) -> Doubles:
        """Tells which predictions are right: (R, E, N) float64, 1 right, 0 wrong, NaN where either class is unknown.

        Of several labels of a sample the highest one counts: it is right where it is one of the sample's. A sample that
        has none is NaN: whether a model holds its highest label for present is not in records.
        """
        unknown = (self.predicted < 0) | np.array([label in (None, ()) for label in self.labels])
        # One of several labels is as right as the only one.
        classes = [label if isinstance(label, tuple) else (-1 if label is None else label,) for label in self.labels]
        right = [np.isin(self.predicted[..., i], of_sample) for i, of_sample in enumerate(classes)]
        return np.where(unknown, np.nan, np.stack(right, axis=-1))

    @property
    def right_name(self) -> str:
        """What the mean of `correct` is called: "accuracy"; "top_label" where samples can have several labels."""
        return "top_label" if any(isinstance(label, tuple) for label in self.labels) else "accuracy"

    def class_name(self, index: Label | None) -> str | None:
        """Returns the name of a class: its index as text where it has no name, None for None."""
        return None if index is None or (isinstance(index, int) and index < 0) else class_name(self.class_names, index)

    def most_different(self, count: int | None = None) -> tuple[int, ...]:
        """Finds the samples in which the runs differ most, by `disagreement`.

        Of one run alone, those that it gets wrong most often. Where two differ as much, the first comes first.

        Args:
            count: How many; None for all.

        Returns:
            Their places in `sample_keys`, the most different one first.
        """
        key = self.disagreement() if self.pairs else -mean(self.correct(), (0, 1))
        return tuple(np.argsort(np.where(np.isnan(key), np.inf, -key), kind="stable")[:count].tolist())

    def regions(self) -> list[Region | None]:
        """Returns where the object is in each sample, by the first run that knows it; None where none does."""
        places: dict[str, Region] = {}
        for run in self.runs:
            for key, region in zip(run.sample_keys, run.regions(self.view), strict=True):
                if region is not None:
                    places.setdefault(key, region)
        return [places.get(key) for key in self.sample_keys]


def _check_threshold(threshold: float) -> None:
    if not -1 < threshold <= 1:
        raise ValueError(f"`threshold` must be in (-1, 1]. Received: {threshold!r}. 0.5 works.")


def epoch_numbers(comparison: Compared) -> dict[str, Any]:
    """Returns the numbers of each epoch by name, (R, E) float64.

    What is known of each sample is its mean over the compared ones: so runs with further samples can be compared.
    """
    found = dict(comparison.scalars)
    for name, values in comparison.values.items():
        means = mean(values, 2)
        found[name] = np.where(np.isnan(means), found[name], means) if name in found else means
    return found


def row_of(name: str) -> Metric:
    """Returns what is said of a number: its row, or one that says that it is as it was logged."""
    return _ROWS.get(name, Metric(name, "", "as it was logged", limits=(-np.inf, np.inf)))


def ordered(names: Iterable[str]) -> list[str]:
    """Returns names in the order in which people should see them, those of no row last, by name."""
    return sorted(names, key=lambda name: (_PLACES.get(name, len(_PLACES)), name))


def lasting(holds: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Finds since when something holds without a break up to the end.

    Args:
        holds: (E, N) bool, whether it holds in each epoch.
        known: (E, N) bool, whether that is known; other epochs are passed over.

    Returns:
        (N,) int64, the first row from which it holds in every known one; -1 where it does not hold in the last known
        one, or none is known.
    """
    rows = np.arange(len(holds))[:, None]
    last_break = np.where(known & ~holds, rows, -1).max(axis=0, initial=-1)
    later = known & (rows > last_break)
    return np.where(later.any(axis=0), later.argmax(axis=0), -1).astype(np.int64)
