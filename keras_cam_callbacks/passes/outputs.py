"""What a model's outputs are, as one run of it shows, and what targets and their functions get of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import keras

from ..engine.contract import Engine, Run
from ..network.advice import check_detection, check_objective, find_output, no_detector, working_target
from ..network.detection import Detection, Detector, find_detector
from ..network.objectives import Contrast, Segment, Similarity, Value
from ..network.outputs import Clues, Output, check_said
from ..network.structure import leaves, output_names
from ..network.targets import Target, check_target
from ..records import ABSENT, Floats, Ints
from .detection import best_box, decoded, on_image, unknown_boxes
from .objectives import contrasted, segment, similarity
from .picking import only_picks, reads
from .scores import (
    before_activation,
    confidences,
    explained_scores,
    scores_before_activation,
    single_output,
)
from .shapes import check_pixels, described, flat, flat_shape, several


class Scored(NamedTuple):
    """What is explained of the rows of a run, as tensors.

    Attributes:
        scores: (N,) float32.
        classes: (N,) int32, the explained classes, labels or numbers; None where it is none.
        predicted: (N,) int32, the predicted classes, or None.
        beside: What else says what is explained, see `Target.beside`, so that copies of a sample are held to it.
    """

    scores: Any
    classes: Any | None
    predicted: Any | None
    beside: Any | None = None


class ModelOutputs:
    """What a model's outputs are, from the first run on.

    Attributes:
        output: What the model's output is; of several the first.
        units: Its units; None where the model has several outputs, or one that is no row of numbers.
        classes: How many classes, labels or numbers it tells apart; None likewise.
        explained: For each target what the output is that it explains; None for a function of several.
        objectives: For each target what is explained other than a class's score, or None.
        detector: Where boxes are among them; None where the model is no detector, or isn't known to be one.
        notes: What is to be said, once, of what targets' functions are handed.
    """

    def __init__(
        self,
        clues: Clues,
        targets: Sequence[Target],
        engine: Engine,
        size: tuple[int, int] | None = None,
        axes: int = 2,
    ) -> None:
        """Knows nothing yet.

        Args:
            clues: What is known before the model runs.
            targets: What is explained.
            engine: The engine that runs the model.
            size: Height and width of the image, in which boxes may lie; None where there is no image.
            axes: How many axes the image has, or what stands in its place.
        """
        self._clues, self._targets, self._engine, self._size, self._axes = clues, targets, engine, size, axes
        self._every: list[Output] = []
        self.detector: Detector | None = None
        self._picks: dict[int, bool] = {}
        self.notes: tuple[str, ...] = ()
        self.output = Output("classes")
        self.units: int | None = None
        self.classes: int | None = None
        self.explained: tuple[Output | None, ...] = ()
        self.objectives: tuple[Any, ...] = tuple(target.objective for target in targets)
        self._at: list[int | None] = []
        self._sizes: list[int | None] = []
        self._seen: tuple[Any, ...] = ()

    def describe(self, run: Run, model: Any, image_input: int = 0) -> None:
        """Notes what the outputs of a run are, and checks that what the targets explain exists.

        Args:
            run: The run.
            model: The model.
            image_input: Which of its flattened inputs is the image, in which boxes may lie.

        Raises:
            ValueError: If it doesn't, or the user says of an output what it can't be.
        """
        parts = leaves(run.outputs)
        names = output_names(model, [path for path, _ in parts])
        check_said(self._clues.said, list(dict.fromkeys(name for of_output in names for name in of_output)))
        shapes = [flat_shape(tensor.shape) for _, tensor in parts]
        self._every = [
            self._clues.output(shape, run.ending(tensor), of_output, i)
            for i, ((_, tensor), of_output, shape) in enumerate(zip(parts, names, shapes, strict=True))
        ]
        if self._axes == 1:  # Of a signal a row of four scores for each position is no box.
            self._every = [
                replace(output, kind="mask") if output.kind == "boxes" and not self._clues.said else output
                for output in self._every
            ]
        detector = None if self._size is None else find_detector(model, names, shapes, self._clues.said)
        if detector is not None:
            scores = detector.logits
            detector = replace(detector, is_softmax=run.ending(parts[scores][1]) == "softmax")
            if not on_image(run, detector, parts[detector.boxes][1], model, image_input, self._size):
                detector = replace(detector, box_format=None, anchored=None, moved=True)
            self._every[scores] = replace(self._every[scores], kind="boxes", why="for boxes are beside it")
        self.detector, self.output, self.units = detector, self._every[0], None
        if len(parts) == 1 and len(shapes[0]) <= 2:
            self.units = 1 if len(shapes[0]) == 1 else shapes[0][1]
        self.classes = self.units
        if self.units is not None:
            self.classes = max(self.units, 2) if self.output.tells_classes else self.units
        works = working_target(self._every, names, shapes, self.detector, self._axes)
        self._seen = shapes, names, works, described(run.outputs, self.detector)
        self._at, self._sizes, explained, objectives = [], [], [], []
        for at, output, objective, size in self.check(self._targets):
            self._at.append(at)
            self._sizes.append(size)
            explained.append(output)
            objectives.append(objective)
        self.explained, self.objectives = tuple(explained), tuple(objectives)
        if detector is not None and detector.moved and any(map(_without_format, objectives)):
            note = unknown_boxes(model)
            self.notes += () if note in self.notes else (note,)

    def check(self, targets: Sequence[Target]) -> list[tuple[int | None, Output | None, Any, int | None]]:
        """Checks that the outputs have what targets explain.

        Returns:
            For each target which output it explains and what that is, None for a function of the outputs; what is
            explained other than a class's score, or None; and how many classes or numbers the output tells apart.

        Raises:
            ValueError: If they haven't; the message names a target that does for this model.
        """
        shapes, names, works, (described, example) = self._seen
        checked: list[tuple[int | None, Output | None, Any, int | None]] = []
        for target in targets:
            if target.rule is not None:
                checked.append((None, self.output if len(shapes) == 1 else None, None, self.classes))
                continue
            at = find_output(target, names)
            of_boxes = isinstance(target.objective, Detection)
            if of_boxes and self.detector is None:
                raise no_detector(target, described, works, example)
            if self.detector is not None and (of_boxes or (at is None and _plain(target))):
                at = self.detector.logits
            if at is None:
                raise ValueError(several(described, works, example))
            objective, size = self._fitting(target, self._every[at], shapes[at])
            checked.append((at, self._every[at], objective, size))
        return checked

    def _fitting(self, target: Target, output: Output, shape: tuple[int | None, ...]) -> tuple[Any, int | None]:
        """Returns what is explained of an output, and how many classes or numbers it tells apart, after checks."""
        _, _, works, (described, example) = self._seen
        objective = target.objective
        if self.detector is not None and output is self._every[self.detector.logits]:
            if _plain(target):
                objective = Detection()
            if isinstance(objective, Detection):
                check_detection(target, objective, self.detector, shape[-1])
                return objective, shape[-1]
        is_mask = output.kind == "mask" and len(shape) == self._axes + 2
        if is_mask and _plain(target):
            objective = Segment() if target.indices is None else Segment(int(target.indices.max()))
        if is_mask and objective is not None:
            check_objective(replace(target, objective=objective), output, shape, works, self._axes)
            return objective, None if shape[-1] is None else max(2, shape[-1])
        if objective is not None:
            check_objective(target, output, shape, works, self._axes)
        if len(shape) > 2:
            raise ValueError(several(described, works, example))
        if isinstance(objective, Similarity):
            return objective, None
        units = 1 if len(shape) == 1 else shape[1]
        if units is None:
            return objective, None
        if isinstance(objective, Value):
            output = replace(output, kind="numbers")
            if target.output == objective.index and units > 1:
                raise ValueError(
                    f"Value must say which of an output's numbers is explained. Received: {target.text} for an output "
                    f"of {units}. Value(0, output={target.output!r}) works."
                )
        classes = max(units, 2) if output.tells_classes else units
        check_target(target, classes, output, example)
        if target.against is not None:
            check_target(target.against, classes, output, example)
        return objective, classes

    def classes_of(self, target: int) -> int | None:
        """Returns how many classes, labels or numbers the output of a target tells apart; None where that is open."""
        return self._sizes[target]

    def kind_of(self, target: int) -> str:
        """Returns what a target takes its output for, one of `network.outputs.KINDS`."""
        output = self.explained[target]
        return "numbers" if isinstance(self.objectives[target], Value) else (output or self.output).kind

    @property
    def is_dense(self) -> bool:
        """Whether all that is explained is of masks."""
        return all(output is not None and output.kind == "mask" for output in self.explained)

    @property
    def detects(self) -> bool:
        """Whether all that is explained is of boxes."""
        return all(isinstance(objective, Detection) for objective in self.objectives)

    def scores_of(self, run: Run) -> Any:
        """Returns the scores of a detector's boxes, (N, boxes, classes), as a run has put them out."""
        assert self.detector is not None
        return keras.tree.flatten(run.outputs)[self.detector.logits]

    def place(self, target: int) -> int | None:
        """Returns which of the flattened outputs a target explains; None for a function of them."""
        return self._at[target]

    def is_part(self, target: int) -> bool:
        """Tells whether a target explains one of several outputs by its name."""
        return self._at[target] is not None and len(self._every) > 1

    def is_own(self, target: int) -> bool:
        """Tells whether a target's score is made otherwise than that of a class of the model's only output."""
        return self.is_part(target) or isinstance(self.objectives[target], _BEYOND)

    def has_probability(self, target: int) -> bool:
        """Tells whether a target's score is that of a class or label which has a probability."""
        output, objective = self.explained[target], self.objectives[target]
        beyond = isinstance(objective, _BEYOND)
        return output is not None and output.has_probability and not beyond and self._sizes[target] is not None

    def row_of(self, run: Run, target: int) -> Any | None:
        """Returns what the output of a target is, (N, K) float32; None where it is no row of numbers."""
        at = self._at[target]
        if at is None and len(self._every) > 1:
            return None
        tensor = keras.tree.flatten(run.outputs)[at or 0]
        units = flat_shape(tensor.shape)
        if len(units) > 2 or (len(units) == 2 and units[1] is None):
            return None
        return keras.ops.cast(keras.ops.reshape(tensor, (-1, 1 if len(units) == 1 else units[1])), "float32")

    def score(self, run: Run, target: int, class_index: Any, beside: Any = None, held: bool = False) -> Scored:
        """Computes a target's scores of a run.

        Args:
            run: The run.
            target: Which target.
            class_index: (N,) int32, as `Target.class_index` has it.
            beside: What is needed beside it, as `Target.beside` has it.
            held: Whether the classes come from a run before. A rule that names classes is not asked again then.

        Raises:
            ValueError: As `explained_scores`.
        """
        of, objective, at = self._targets[target], self.objectives[target], self._at[target]
        if at is None:
            logits, _ = run.find_logits()
            return Scored(
                *explained_scores(
                    self.handed(run, target),
                    logits,
                    class_index,
                    None if held else of.rule,
                    self.output.expects,
                    max(1, of.rank),
                    self.output.tells_classes,
                )
            )
        output, tensor = self._every[at], keras.tree.flatten(run.outputs)[at]
        logits, _ = run.find_logits(tensor)
        tensor, logits = flat(tensor), None if logits is None else flat(logits)
        if isinstance(objective, Detection):
            return self._detected(run, output, objective, class_index, beside)
        if isinstance(objective, Segment):
            check_pixels(tensor, beside)
            unit = tensor.shape[-1] == 1 or (len(tensor.shape) == 4 and tensor.shape[1] == 1)
            raw = scores_before_activation(tensor, logits, output.expects, unit)
            scores, classes, pixels = segment(raw, class_index, objective.place, beside)
            return Scored(scores, classes, None, pixels)
        if isinstance(objective, Similarity):
            return Scored(similarity(tensor, beside), None, None, beside)
        rank = max(1, of.rank, 0 if of.against is None else of.against.rank)
        tells = output.tells_classes and not isinstance(objective, Value)
        settings = None, output.expects, rank, tells
        scored = Scored(*explained_scores(tensor, logits, class_index, *settings))
        if not isinstance(objective, Contrast):
            return scored
        other = Scored(*explained_scores(tensor, logits, beside, *settings))
        difference = contrasted(scored.scores, other.scores, len(tensor.shape) == 1 or tensor.shape[1] == 1)
        return scored._replace(scores=difference, beside=other.classes)

    def _detected(self, run: Run, output: Output, objective: Detection, class_index: Any, beside: Any) -> Scored:
        """Computes the scores of boxes; beside the class are the boxes that are asked for, and then the best one."""
        ops, detector = keras.ops, self.detector
        assert detector is not None
        assert self._size is not None
        leaves, tensor = keras.tree.flatten(run.outputs), self.scores_of(run)
        raw = scores_before_activation(tensor, run.find_logits(tensor)[0], output.expects, unit=False)
        # Logits of a softmax are of one box alone: others may have all of theirs higher.
        ranking = ops.cast(tensor, "float32") if detector.is_softmax else raw
        asked = None if objective.box is None else beside[:, :-1]
        boxes = decoded(leaves[detector.boxes], detector, objective.output_format, self._size, asked is not None)
        scores, classes, box = best_box(raw, ranking, boxes, class_index, asked)
        if box is not None:
            box = box[:, None] if asked is None else ops.concatenate([asked, box[:, None]], axis=1)
        return Scored(scores, classes, None, box)

    def absent(self, target: int, classes: Ints | None, beside: Any) -> Any:
        """Tells which samples have nothing that could be explained, (N,) bool; None where that was known before."""
        objective = self.objectives[target]
        if isinstance(objective, Contrast):
            return classes == beside
        if isinstance(objective, Detection):
            return classes == ABSENT
        if isinstance(objective, Segment) and classes is not None:
            return (classes == ABSENT) | ~beside.reshape(len(beside), -1).any(axis=1)
        return None

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
            hidden = output.expects == "probabilities" and output.tells_classes
            replaces = floats and len(tensor.shape) > 1 and (logits is not None or hidden)
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

    def confidences(self, target: int, outputs: Floats | None, scores: Floats, targets: Ints | None) -> Floats:
        """Returns the probability of the explained class, (N,) float32 in [0, 1]; NaN where there is none."""
        output = self.explained[target] or self.output
        if not output.has_probability or (self._at[target] is not None and not self.has_probability(target)):
            targets = None
        return confidences(outputs, scores, targets, output.activated, output.kind == "labels")


_BEYOND = Contrast, Value, Similarity, Segment, Detection
"""What is explained that is no class with a probability."""


def _without_format(objective: Any) -> bool:
    """Tells whether boxes are explained of which nobody has said how they are written."""
    return isinstance(objective, Detection) and objective.output_format is None


def _plain(target: Target) -> bool:
    """Tells whether a target is the predicted class, or named ones, and nothing beyond."""
    return target.objective is None and (target.rank == 1 or target.indices is not None)
