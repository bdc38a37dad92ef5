"""What a model's outputs are, as one run of it shows, and what targets and their functions get of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from ..engine.contract import Engine, Run
from ..network.outputs import Clues, Output, check_said
from ..network.structure import leaves, output_names
from ..network.targets import Target, check_target
from ..records import Floats, Ints
from .picking import only_picks, reads
from .scores import before_activation, confidences, example_of, scores_before_activation, single_output


class ModelOutputs:
    """What a model's outputs are, from the first run on.

    Attributes:
        output: What the model's output is; of several the first.
        units: Its units; None where the model has several outputs, or one that is no row of numbers.
        classes: How many classes, labels or numbers it tells apart; None likewise.
        notes: What is to be said, once, of what targets' functions are handed.
    """

    def __init__(self, clues: Clues, targets: Sequence[Target], engine: Engine) -> None:
        """Knows nothing yet.

        Args:
            clues: What is known before the model runs.
            targets: What is explained.
            engine: The engine that runs the model.
        """
        self._clues, self._targets, self._engine = clues, targets, engine
        self._every: list[Output] = []
        self._picks: dict[int, bool] = {}
        self.notes: tuple[str, ...] = ()
        self.output = Output("classes")
        self.units: int | None = None
        self.classes: int | None = None

    def describe(self, run: Run, model: Any) -> None:
        """Notes what the outputs of a run are, and checks that what the targets explain exists.

        Raises:
            ValueError: If it doesn't, or the user says of an output what it can't be.
        """
        parts = leaves(run.outputs)
        names = output_names(model, [path for path, _ in parts])
        check_said(self._clues.said, list(dict.fromkeys(name for of_output in names for name in of_output)))
        self._every = [
            self._clues.output(tuple(tensor.shape), run.ending(tensor), of_output, i)
            for i, ((_, tensor), of_output) in enumerate(zip(parts, names, strict=True))
        ]
        self.output, self.units = self._every[0], None
        single = single_output(run.outputs)
        if single is not None and len(single.shape) <= 2:
            self.units = 1 if len(single.shape) == 1 else single.shape[1]
        self.classes = self.units
        if self.units is not None:
            self.classes = max(self.units, 2) if self.output.tells_classes else self.units
            for target in self._targets:
                check_target(target, self.classes, self.output, example_of(run.outputs))

    def handed(self, run: Run, target: int) -> Any:
        """Returns the outputs as a target's function gets them.

        The one output of a model is handed on as it is: an index explains its score before the activation. Of several,
        a function that only picks a number, or takes the difference of two, gets what went into the softmax or sigmoid
        that an output ends in. All others get the probabilities, which is noted.
        """
        rule = self._targets[target].rule
        if rule is None or single_output(run.outputs) is not None:
            return run.outputs
        before = []
        for tensor, output in zip(keras.tree.flatten(run.outputs), self._every, strict=True):
            logits, _ = run.find_logits(tensor)
            floats = keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
            replaces = floats and len(tensor.shape) > 1 and (logits is not None or output.expects == "probabilities")
            before.append(scores_before_activation(tensor, logits, output.expects) if replaces else None)
        if target not in self._picks:
            with self._engine.eagerly():
                self._picks[target] = only_picks(rule, run.outputs)
                differs = not self._picks[target] and reads(rule, run.outputs, [one is not None for one in before])
            if differs:
                self.notes += (
                    f"target {self._targets[target].text!r} gets probabilities, as it does more than pick a number of "
                    "an output, or the difference of two, for which it would get logits: where a probability is near "
                    "0 or 1, its heatmaps are faint",
                )
        return before_activation(run.outputs, before) if self._picks[target] else run.outputs

    def confidences(self, outputs: Floats | None, scores: Floats, targets: Ints | None) -> Floats:
        """Returns the probability of the explained class, (N,) float32 in [0, 1]; NaN where there is none."""
        if not self.output.has_probability:
            targets = None
        return confidences(outputs, scores, targets, self.output.activated, self.output.kind == "labels")
