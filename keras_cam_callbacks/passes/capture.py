"""Runs the model on a batch: scores, and activations and gradients at layers, in chunks, as numpy arrays."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from .. import engine
from ..data.layout import as_images, input_at
from ..engine.contract import DifferentiatedRun
from ..network.detection import Detection
from ..network.layers import Tap
from ..network.objectives import Segment
from ..network.outputs import Clues, Output, clues_of
from ..network.targets import PREDICTED, Target
from ..network.tokens import resolve_tokens
from ..records import Capture, Chunk, Floats, Ints
from .attention import NEEDS as OF_ATTENTION
from .bands import banded
from .explained import ExplainedLayers
from .ground import Ground
from .outputs import ModelOutputs
from .seen import Seen, seen, seen_at_once
from .step import Step
from .taps import fixed_batch

# What a method can need that has nothing to do with a layer.
_WITHOUT_LAYER = {"images", "scores", "score", "confidence", "gradient", "guided_gradient", "full_gradient"}

KEPT_BYTES = 128 * 2**20
"""Most memory for what the frozen part of a model puts out."""


def needs_layer(needs: Iterable[str]) -> bool:
    """Tells whether a method that needs these explains a layer."""
    return not _WITHOUT_LAYER.issuperset(needs)


class Capturer:
    """Captures layers of one model for one or several targets: any number of batches, by one trace.

    The model is traced once, when the object is made, and wrong settings are found there; afterwards each batch costs
    one forward pass, and for each target the way back from the score to the layers. The model is held weakly.

    Attributes:
        like: One sample of the batch that it was traced for.
        targets: What is explained.
        ground: What maps lie on: the image among the inputs, and where each layer sees it.
        outputs: What the model's outputs are.
        chunk: Number of samples that run at once.
        fixed: The number of samples where the model takes no other, else None.
    """

    def __init__(
        self,
        model: Any,
        like: Any,
        layer_names: Sequence[Any] = (),
        *,
        targets: Sequence[Target],
        needs: Iterable[tuple[str, ...]] = (("activations", "gradients"),),
        batch_size: int = 32,
        keeps: bool = False,
        clues: Clues | None = None,
        image_input: int | None = None,
        tokens: Any = None,
        beside: Sequence[Any] | None = None,
    ) -> None:
        """Finds or chooses the layers and traces the model.

        Args:
            model: The built model.
            like: A batch, at least one row in any structure that the model takes.
            layer_names: Paths, names or layers; none has one chosen.
            targets: What is explained.
            needs: For each method what it needs: "activations", "gradients" or "kernel" of the layer, "images", and
                names of functions of the model (see `probe`), by which it is known whether there is a layer at all.
            batch_size: Largest number of samples that run at once.
            keeps: Whether `like` is a batch that will be captured again and again: what the frozen part of the model
                puts out for it is then kept, if it takes no more than `KEPT_BYTES`.
            clues: What is known of the outputs; by default what the model's loss tells.
            image_input: Which of the flattened inputs is the image; None to have it found: what the layers depend on.
            tokens: How tokens lie on the image: a grid, `Tokens`, or a function; None to have it found.
            beside: For each target what says beside a class what is explained, of one sample at least, see
                `Target.beside`; None for what stands for it.

        Raises:
            ValueError: If a layer, a target or the model does not fit. The message tells what would.
        """
        self._model, self.targets = weakref.ref(model), tuple(targets)
        self.like = keras.tree.map_structure(lambda a: a[:1].copy(), like)
        needs = list(needs)
        self._needs = {name for names in needs for name in names}
        self._engine = engine.load()
        self._watches = any(needs_layer(names) and "kernel" not in names for names in needs)
        if layer_names and not self._watches and "kernel" not in self._needs:
            raise ValueError(
                "This method explains the image itself and knows no layer. "
                f"Received: layer_name={getattr(layer_names[0], 'name', layer_names[0])!r}. Leave it out."
            )
        self.ground = Ground(model, self.like, image_input, "images" in self._needs)
        beside = [target.beside_like(self.ground.axes) for target in self.targets] if beside is None else beside
        self._beside = tuple(None if array is None else array[:1] for array in beside)
        self.fixed = fixed_batch(model)
        self.chunk = self.fixed or batch_size
        self._choices = 0
        clues = clues_of(model) if clues is None else clues
        size = None if self.ground.space is None else self.ground.space.image_size
        self.outputs = ModelOutputs(clues, self.targets, self._engine, size, self.ground.axes)
        samples = len(keras.tree.flatten(like)[0])
        self._kept = self._fed = like if keeps else None
        if keeps and samples <= self.chunk and not self.fixed:
            # What fits into one pass is made a tensor once; for more, that would take its memory a second time.
            self._fed = keras.tree.map_structure(keras.ops.convert_to_tensor, like)
        self._layers = ExplainedLayers(
            model,
            layer_names,
            self.ground,
            self.outputs,
            self.like,
            attends=bool(self._needs.intersection(OF_ATTENTION)),
            tokens=resolve_tokens(tokens),
        )
        self._step = Step(model, self.ground, self.outputs, self._layers, self.targets, self._needs, self._watches)
        self._compile(model, samples, keeps)
        said: tuple[str, ...] = ()
        ahead: dict[str, Seen] | None = None
        while True:
            refused, notes = self._layers.settle(self._seen)
            said += notes
            if not refused:
                break
            run = self._step.run
            ahead = self._measured(run) if ahead is None else ahead
            said += self._layers.look_ahead(run, ahead)
            self._compile(model, samples, keeps)
        self._step.run = None
        dead = self._layers.dead()
        if dead:
            said = (
                "The gradient is exactly zero at every layer that may be chosen: the score of the first sample depends "
                "on none, as where no position is predicted as the class that is explained. Such maps are empty. Layer "
                f"{dead[0]!r} is explained.",
            )
        # What runs eagerly would choose anew each time.
        self._layers.decide()
        if self._runs_eagerly and self._choices > 1:
            self.once()
        self.ground.notes += said
        self.ground.measure((*self.taps, *([] if self.head is None else [self.head])))

    def _compile(self, model: Any, samples: int, keeps: bool) -> None:
        """Makes the pass."""
        before = self._step.calls
        self._pass = self._engine.compile_frozen_pass(
            self._step,
            model,
            (self.like, self._asked(self.predicted(1), None)),
            self.fixed,
            sizes=[self.fixed or min(self.chunk, samples - start) for start in range(0, samples, self.chunk)],
            most=KEPT_BYTES if keeps else 0,
        )
        self._runs_eagerly = self._step.calls == before
        if self._runs_eagerly:  # An eager model shows only when it runs what is chosen, and its faults.
            self._choices += 1
            self._whole(self.like, 1)

    def _seen(self, copies: Any, count: int, taps: Iterable[str]) -> dict[str, Seen]:
        """Returns what is seen of the explained layers in one pass of copies of the sample."""
        arrays = self._whole(copies, count)
        return {name: seen(arrays, name, count) for name in taps}

    def _measured(self, run: DifferentiatedRun) -> dict[str, Seen]:
        """Returns what is seen of all layers that may be chosen, by their paths; nothing where that can't be told."""
        ground = self.ground
        assert ground.space is not None
        copies = banded(self.like, ground.image_input, ground.space)
        count = len(keras.tree.flatten(copies)[0])
        if self._runs_eagerly or count > self.chunk or self.head is not None:
            return {}
        taken = np.resize(np.arange(count), self.chunk) if self.fixed else np.arange(count)
        arguments = keras.tree.map_structure(lambda a: a[taken], (copies, self._asked(self.predicted(count), None)))
        try:
            return seen_at_once(self._pass, run, self._layers.options(run), arguments, count)
        except self._engine.FAILURES:
            return {}

    def _whole(self, inputs: Any, count: int) -> dict[str, Any]:
        """Returns what is captured of any number of samples, as the layers put it out."""
        asked, lots = self._asked(self.predicted(count), None), []
        for start in range(0, count, self.chunk):
            rows = np.arange(start, min(start + self.chunk, count))
            taken = np.resize(rows, self.chunk) if self.fixed else rows
            fed = keras.tree.map_structure(lambda a: a[taken], (inputs, asked))  # noqa: B023
            arrays = self._pass(None, *fed)
            per_row = {name: len(value) // len(taken) for name, value in arrays.items()}
            lots.append({name: value[: len(rows) * max(1, per_row[name])] for name, value in arrays.items()})
        return {name: np.concatenate([lot[name] for lot in lots]) for name in lots[0]}

    def once(self) -> Chunk:
        """Returns what is captured of the first sample that it was traced for."""
        return next(self(self.like, self.predicted(1)))

    def named(self, target: int) -> Any | None:
        """Returns what says beside a class what a target explains of one sample, in the shape of `Capture.beside`."""
        objective = self.outputs.objectives[target]
        # The pixels of a segment are those of the output, whose size is known once the model has run.
        outputs = isinstance(objective, (Segment, Detection))
        return self.once().captures[target][0].beside if outputs else self._beside[target]

    def __call__(self, inputs: Any, class_index: Ints, beside: Sequence[Any] | None = None) -> Iterator[Chunk]:
        """Yields what is captured with the weights that the model has now, chunk by chunk.

        Args:
            inputs: A batch, N rows in the structure, and with the shapes and dtypes, of `like`.
            class_index: (N, T) integers, what each target explains of each sample; see `Target.class_index`.
            beside: For each target what says it beside a class, (N, ...) or None; see `Target.beside`.

        Raises:
            ValueError: If the batch is not like the one that the model was traced for.
        """
        kept = inputs is self._kept
        if kept:
            self._pass.renew()
        else:
            self._check_alike(inputs)
        count, asked = len(class_index), self._asked(class_index, beside)
        for start in range(0, count, self.chunk):
            rows = slice(start, min(start + self.chunk, count))
            yield self._run_chunk(inputs, asked, count, rows, start if kept else None)

    def _asked(self, class_index: Ints, beside: Sequence[Any] | None) -> Any:
        """Returns what is handed to the pass of what is explained, as it was traced."""
        count = len(class_index)
        if beside is None:
            beside = [None if like is None else np.repeat(like, count, axis=0) for like in self._beside]
        arrays = {str(t): as_traced(array) for t, array in enumerate(beside) if array is not None}
        return (class_index.astype(np.int32), arrays) if arrays else class_index.astype(np.int32)

    @property
    def model(self) -> Any:
        """The model."""
        return self._model()

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The explained layers; empty where no method needs one."""
        return self._layers.taps

    @property
    def head(self) -> Tap | None:
        """The layer that feeds the global average pooling, where CAM asked for it."""
        return self._layers.head

    @property
    def traces(self) -> int:
        """How often the model was traced; of one that runs eagerly, how often a layer was chosen."""
        return self._choices if self._runs_eagerly else self._step.calls

    @property
    def explained(self) -> str:
        """What the explained score is, in words."""
        return self._step.explained

    @property
    def scores_by_rule(self) -> tuple[bool, ...]:
        """For each target, whether a callable gives the scores themselves, and no classes."""
        return self._step.scores_by_rule

    @property
    def reuses(self) -> int:
        """How many chunks were captured without running the frozen part of the model."""
        return int(self._pass.reuses)

    @property
    def bytes_kept(self) -> int:
        """How many bytes of what that part puts out are kept."""
        return int(self._pass.bytes_kept)

    def predicted(self, samples: int) -> Ints:
        """Returns (N, T) integers by which each target explains the predicted class."""
        return np.full((samples, len(self.targets)), PREDICTED, np.int32)

    @property
    def output(self) -> Output:
        """What the model's output is; of several the first."""
        return self.outputs.output

    @property
    def classes(self) -> int | None:
        """How many classes, labels or numbers the output tells apart; None for several outputs, or one without rows."""
        return self.outputs.classes

    def has_probability(self, target: int) -> bool:
        """Tells whether a target's score is that of a class or label which has a probability."""
        return self.outputs.has_probability(target) and not self.scores_by_rule[target]

    def is_own(self, target: int) -> bool:
        """Tells whether a target's score is made otherwise than that of a class, which is handed to the function."""
        return self.scores_by_rule[target] or self.outputs.is_own(target)

    def as_images(self, images: Any) -> Floats:
        """Returns images as (N, *space, C) float32, whatever the model takes."""
        return as_images(images, self.ground.layout, self.ground.axes)

    def _check_alike(self, inputs: Any) -> None:
        received, like = (keras.tree.map_structure(sample_text, tree) for tree in (inputs, self.like))
        if received != like:
            raise ValueError(
                "A batch must have the structure, shapes and dtypes of the one that the model was traced for. "
                f"Received: samples of {received}, traced for {like}. Make another Explainer for them."
            )

    def _run_chunk(self, inputs: Any, asked: Any, samples: int, rows: slice, lot: int | None) -> Chunk:
        count = rows.stop - rows.start
        fed = self._fed if lot is not None else inputs
        # A slice copies no images; a model of a fixed batch has its last chunk filled up.
        taken: Any = np.resize(np.arange(rows.start, rows.stop), self.chunk) if self.fixed else rows
        arguments = fed, asked
        if self.fixed or count < samples:
            arguments = keras.tree.map_structure(lambda a: a[taken], arguments)
        arrays = self._pass(lot, *arguments)
        arrays = {name: value[:count] for name, value in arrays.items()}
        images = self.as_images(input_at(inputs, self.ground.image_input)[rows]) if "images" in self._needs else None
        captures, heads = [], []
        for t, target in enumerate(self.targets):
            scores, outputs = arrays[f"scores {t}"], arrays.get(f"outputs {t}")
            targets, predicted = (_as_classes(arrays.get(f"{name} {t}")) for name in ("targets", "predicted"))
            beside = arrays.get(f"beside {t}")
            if target.rule is not None and targets is not None:
                # Of outputs that are not finite no class follows.
                self._check_rule(target, targets if outputs is None else targets[np.isfinite(outputs).all(axis=1)])
            of_target = Capture(
                activations=None,
                gradients=None,
                kernel=None,
                outputs=outputs,
                scores=scores,
                targets=targets,
                # A rule that names classes names the predicted ones.
                predicted=predicted if target.rule is None or targets is None else targets,
                confidences=self.outputs.confidences(t, outputs, scores, targets),
                images=images,
                beside=beside,
                absent=self.outputs.absent(t, targets, beside),
                **self._attention(arrays, t),
            )
            captures.append(
                tuple(
                    replace(
                        of_target,
                        activations=_placed(arrays[f"activations {i}"], tap),
                        gradients=_placed(arrays.get(f"gradients {t} {i}"), tap),
                    )
                    for i, tap in enumerate(self.taps)
                )
                or (of_target,)
            )
            if self.head is not None:
                heads.append(
                    replace(of_target, activations=_placed(arrays["head"], self.head), kernel=arrays[f"kernel {t}"])
                )
        return Chunk(tuple(captures), tuple(heads), count)

    def _attention(self, arrays: dict[str, Any], target: int) -> dict[str, Any]:
        """Returns what attention methods need of a chunk, for tokens as they lie on the image."""
        if not self._needs.intersection(OF_ATTENTION):
            return {}
        tokens, count = self.taps[0].tokens, arrays[f"readout {target}"].shape[1]
        if tokens is None or tokens.cells + len(tokens.others) != count:
            raise ValueError(
                "Attention methods need the layer of tokens that the attention works on. Received: layer "
                f"{self.taps[0].path!r} and attention of {count} tokens. Leave layer_name out to have it chosen, and "
                "have a layer of its own, such as keras.layers.Reshape, make the tokens of a map."
            )
        named = {name: arrays.get(f"{name} {target}") for name in ("attentions", "relevances", "readout")}
        return {**named, "positions": tokens.positions.reshape(tokens.grid)}

    def _check_rule(self, target: Target, targets: Ints) -> None:
        """Checks the classes that a user's rule gave, which are known only once the model has run."""
        wrong = sorted({int(c) for c in targets if not 0 <= c < (self.classes or 0)})
        if wrong:
            raise ValueError(
                "A callable `target` that gives class indices must give them between 0 and "
                f"{(self.classes or 0) - 1}. Received: {wrong} from {target.text!r}."
            )


def as_traced(array: Any) -> Any:
    """Returns an array of classes as int32, and what else says what is explained as it is."""
    return array.astype(np.int32) if array.dtype.kind == "i" else array


def sample_text(array: Any) -> str:
    """Returns what a trace depends on of an array (N, ...): shape and dtype of a sample, texts of any length."""
    return f"{'text' if array.dtype.kind in 'USO' else array.dtype} {tuple(array.shape[1:])}"


def _as_classes(values: Any) -> Any:
    """Returns classes as int64, which not every backend has."""
    return None if values is None else values.astype(np.int64)


def _placed(values: Any, tap: Tap) -> Any:
    """Returns activations or gradients (N, *space, C), from tokens (N, T, C) where the layer puts out these."""
    return values if values is None or tap.tokens is None else tap.tokens.to_grid(values)
