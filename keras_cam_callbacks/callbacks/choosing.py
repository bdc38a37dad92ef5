"""Which samples of the validation data are explained, where it takes a pass over all of them to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from ..checks import did_you_mean
from ..data.batches import make_batch
from ..data.chosen import Taken, best_samples, matching_samples
from ..data.range_names import checked_range
from ..network.legacy import check_keras3, is_keras2
from ..network.weights import values_of
from ..passes.ranking import RANKINGS, Ranking
from ..records import ValidationBatch
from ..store import Run, find_run

__all__ = ["Chooser", "check_select", "chooser_of", "chosen_before"]

_SIMPLE = ("first", "balanced")
_LISTED = 8  # samples that are named
_WAYS = (
    "select_model= takes a trained model for the choice, and select=read_run(...) the samples of another run, which "
    "keeps runs comparable"
)
_CHUNK = 256  # samples that are looked at at once where none is run


def check_select(select: Any, select_model: Any) -> None:
    """Checks how samples are to be chosen.

    Args:
        select: "first", "balanced", one of `RANKINGS`, or a stored run.
        select_model: The model that chooses, or None.

    Raises:
        ValueError: If there is no such way, or nothing for the model to choose.
        TypeError: If it is no model.
    """
    names = (*_SIMPLE, *RANKINGS)
    if not isinstance(select, Run) and not (isinstance(select, str) and select in names):
        raise ValueError(
            f"`select` must be one of {', '.join(map(repr, names))}, or a stored run, whose samples are taken: "
            f"read_run('logs/gradcam'). Received: {select!r}.{did_you_mean(select, names)}"
        )
    if select_model is None:
        return
    if is_keras2(select_model):
        check_keras3(select_model)
    if not isinstance(select_model, keras.Model):
        raise TypeError(f"`select_model` must be a Keras model. Received: {select_model!r}.")
    if isinstance(select, Run) or select not in RANKINGS:
        raise ValueError(
            "`select_model` chooses the samples where `select` is one of "
            f"{', '.join(map(repr, RANKINGS))}. Received: select={select!r}. Leave `select_model` out, or the other."
        )


def chosen_before(select: Any, log_dir: Path, run: Any) -> Any:
    """Returns the stored run that goes on where the user names it, as its samples were chosen then; else `select`.

    Raises:
        ValueError: If there is no such run.
    """
    return find_run(log_dir, run) if run is not None and isinstance(select, str) and select in RANKINGS else select


def chooser_of(
    select: Any,
    select_model: Any,
    model: Any,
    *,
    output_kind: Any = None,
    batch_size: int = 32,
    value_range: Any = None,
    image_input: Any = None,
    choose_input: Any = None,
) -> Chooser | None:
    """Returns what chooses the samples; None where the first ones, or those of each class, are taken.

    Args:
        select: As for `check_select`.
        select_model: Likewise.
        model: The model that is explained.
        output_kind: As in `HeatmapLogger`, and likewise the others.
        batch_size: Likewise.
        value_range: Likewise.
        image_input: As for `make_batch`, and likewise the other.
        choose_input: Likewise.

    Raises:
        ValueError: As `check_select`, or if the loss of the model does not tell what one sample has.
        TypeError: As `check_select`.
    """
    check_select(select, select_model)  # It may have been changed since the logger was made.
    if isinstance(select, Run):
        return Chooser(run=select, value_range=value_range, image_input=image_input, choose_input=choose_input)
    if select in _SIMPLE:
        return None
    run_by = model if select_model is None else select_model
    return Chooser(ranking=Ranking(select, run_by, model, output_kind, batch_size), select=select)


@dataclass
class Chooser:
    """Chooses samples by one pass over the data, and says what that rests on.

    Attributes:
        ranking: By what they are ranked; None where another run's are taken.
        select: The name of the choice.
        run: The run whose samples are taken, or None.
        value_range: What the user said of the images' values.
        image_input: Which of several inputs the run's images are, where that is said.
        choose_input: What finds it else.
        words: What is to be said of the choice, and kept in the record.
        warning: What is to be warned of; "" for nothing.
    """

    ranking: Ranking | None = None
    select: str = ""
    run: Run | None = None
    value_range: Any = None
    image_input: Any = None
    choose_input: Any = None
    words: str = ""
    warning: str = ""

    @property
    def sample_keys(self) -> tuple[str, ...] | None:
        """The keys that the chosen samples have, where another run has named them."""
        return None if self.run is None else self.run.sample_keys

    def __call__(self, data: Any, model: Any, most: int) -> Taken:
        """Reads the data once, and returns the chosen samples.

        Args:
            data: As for `make_batch`.
            model: The model that is explained.
            most: How many at most; another run's are taken all.

        Raises:
            ValueError: If there are none to choose, or the data lack some of the run's.
        """
        if self.run is not None:
            return self._of_run(self.run, data, model)
        assert self.ranking is not None
        chosen = best_samples(data, model, most, self.ranking, self.ranking.size)
        number, total = len(chosen[2]), chosen[3]
        if not number:
            raise ValueError(
                f"select={self.select!r} must find a sample with {self.ranking.rests_on}. Received: {total} samples, "
                "none of which has it. select='confused' takes those that are nearest to being wrong."
            )
        self.words = f"{self.select}: {number} of {total} with {self.ranking.rests_on}"
        self._warn_of_chance()
        return chosen

    def _warn_of_chance(self) -> None:
        """Notes that the choice may say nothing, as the model has not learnt anything yet."""
        ranking = self.ranking
        assert ranking is not None
        if ranking.at_chance():
            self.warning = (
                f"select={self.select!r} chose by a model that is right in {ranking.right} of {ranking.seen} samples, "
                f"no more than its most frequent class has ({max(ranking.labels.values())}), as where the head is not "
                f"trained yet: what it finds {self.select} says little. {_WAYS}"
            )

    def warn_untrained(self, model: Any) -> None:
        """Notes it of a model of which the pass can't tell, where its optimizer has made no step.

        Args:
            model: The model that has chosen.
        """
        assert self.ranking is not None
        iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
        if self.ranking.at_chance() is None and iterations is not None and not int(values_of(iterations)):
            self.warning = (
                f"select={self.select!r} chose by a model whose optimizer has made no step yet; if its head is not "
                f"trained, the choice says little. {_WAYS}"
            )

    def _of_run(self, run: Run, data: Any, model: Any) -> Taken:
        wanted = list(map(str, run.manifest["fingerprints"]))
        said = self.value_range
        if said is None:
            try:
                said = checked_range(run.manifest.get("value_range"))
            except ValueError:  # In words, of what was shown.
                said = None

        place = self.image_input

        def digests(x: Any, y: Any) -> Sequence[str]:
            nonlocal place
            batch = make_batch(
                x if y is None else (x, y),
                model,
                max_samples=None,
                value_range=said,
                warns=False,
                image_input=place,
                choose_input=self.choose_input,
            )
            place = batch.image_input if place is None else place  # To find it takes a trace of the model.
            return batch.fingerprints

        taken, lacking = matching_samples(data, model, wanted, digests, _CHUNK)
        if lacking:
            keys = [key for key, digest in zip(run.sample_keys, wanted, strict=True) if digest in lacking]
            raise ValueError(
                f"The validation data must hold the samples of the run that `select` names, {run.directory}. "
                f"Received: data without {len(keys)} of {len(wanted)}: {', '.join(map(repr, keys[:_LISTED]))}"
                f"{' and others' if len(keys) > _LISTED else ''}. The same images, preprocessed alike, work; "
                "value_range= says which values they have."
            )
        self.words = f"those of run {run.manifest.get('run_id') or run.directory.name}"
        return taken

    def check(self, batch: ValidationBatch) -> None:
        """Checks that a batch has the samples of the run under their keys.

        Raises:
            ValueError: If it has others.
        """
        if self.run is None:
            return
        of_run = dict(zip(self.run.sample_keys, self.run.manifest["fingerprints"], strict=True))
        of_batch = zip(batch.sample_keys, batch.fingerprints, strict=True)
        other = [key for key, digest in of_batch if of_run.get(key) != digest]
        if other:
            raise ValueError(
                f"Samples must have the keys that they have in the run that `select` names, {self.run.directory}. "
                f"Received: {', '.join(map(repr, other[:_LISTED]))}, which there are other images, or none. Leave "
                "`sample_keys` out: the run's are taken."
            )
