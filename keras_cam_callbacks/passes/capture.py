"""Runs the model on a batch: scores, and activations and gradients at layers, in chunks, as numpy arrays."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from .. import engine
from ..data.layout import as_images, input_at
from ..engine.contract import DifferentiatedRun, Run
from ..network.choosing import is_tokens
from ..network.detection import Detection
from ..network.head import class_weights
from ..network.layers import Candidates, LayerCall, Tap, listing
from ..network.objectives import Contrast, Segment, Similarity
from ..network.outputs import Clues, Output, clues_of
from ..network.repeats import repeats
from ..network.targets import PREDICTED, Target
from ..network.tokens import resolve_tokens
from ..records import Capture, Chunk, Floats, Ints
from .attention import NEEDS as OF_ATTENTION
from .attention import captured_attention
from .bands import banded
from .finding import chosen_call, head_call, named_calls, options, reachable, without_gradient
from .ground import Ground
from .images import early_layer
from .levels import chosen_levels
from .outputs import ModelOutputs
from .seen import Seen, seen, seen_at_once
from .settling import NO_GRADIENT, NO_GRID, settle
from .taps import as_activations, fixed_batch, make_tap, named_layer

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
        taps: The explained layers; empty where no method needs one.
        head: The layer that feeds the global average pooling, where CAM asked for it.
        ground: What maps lie on: the image among the inputs, and where each layer sees it.
        outputs: What the model's outputs are.
        explained: What the explained score is, in words.
        scores_by_rule: For each target, whether a callable gives the scores themselves, and no classes.
        chunk: Number of samples that run at once.
        fixed: The number of samples where the model takes no other, else None.
        traces: How often the model was traced; of one that runs eagerly, how often a layer was chosen.
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
        named = [named_layer(model, name, self.like, axes=self.ground.axes) for name in layer_names]
        if len({(id(layer), number) for _, layer, number in named}) < len(named):
            raise ValueError(
                "Fused layers must differ from each other. "
                f"Received: {listing([path for path, *_ in named])}. Name each once."
            )
        self._named = [(path, weakref.ref(layer), number) for path, layer, number in named]
        self.fixed = fixed_batch(model)
        self.chunk = self.fixed or batch_size
        self.traces = 0
        self._runs_eagerly = False
        clues = clues_of(model) if clues is None else clues
        size = None if self.ground.space is None else self.ground.space.image_size
        self.outputs = ModelOutputs(clues, self.targets, self._engine, size, self.ground.axes)
        self.taps: tuple[Tap, ...] = ()
        self.head: Tap | None = None
        self.explained = ""
        self.scores_by_rule: tuple[bool, ...] = ()
        samples = len(keras.tree.flatten(like)[0])
        self._kept = self._fed = like if keeps else None
        if keeps and samples <= self.chunk and not self.fixed:
            # What fits into one pass is made a tensor once; for more, that would take its memory a second time.
            self._fed = keras.tree.map_structure(keras.ops.convert_to_tensor, like)
        self._tokens = resolve_tokens(tokens)
        self._refused: dict[str, str] = {}
        self._resigned = False
        self._laid: dict[str, Tap] = {}
        self._shapes: dict[str, tuple[int | None, ...]] = {}
        self._run: Any = None
        self._picked: list[tuple[Any, int]] = []
        self._ahead: dict[str, Seen] | None = None
        self._decided: list[tuple[Any, int | None]] | None = None
        self._compile(model, samples, keeps)
        said: tuple[str, ...] = ()
        while True:
            refused, notes = self._settle(model)
            said += notes
            if not refused:
                break
            said += self._look_ahead(model)
            self._compile(model, samples, keeps)
        self._run = None
        dead = self._dead()
        if dead:
            said = (
                "The gradient is exactly zero at every layer that may be chosen: the score of the first sample depends "
                "on none, as where no position is predicted as the class that is explained. Such maps are empty. Layer "
                f"{dead[0]!r} is explained.",
            )
        # What runs eagerly would choose anew each time.
        taps: tuple[Tap, ...] = self.taps
        self._decided = [(weakref.ref(tap.layer), tap.number) for tap in taps]
        if self._runs_eagerly:
            self.once()
        self.ground.notes += said
        self.ground.measure((*self.taps, *([] if self.head is None else [self.head])))

    def _compile(self, model: Any, samples: int, keeps: bool) -> None:
        """Makes the pass."""
        before = self.traces
        self._pass = self._engine.compile_frozen_pass(
            self._traced,
            model,
            (self.like, self._asked(self.predicted(1), None)),
            self.fixed,
            sizes=[self.fixed or min(self.chunk, samples - start) for start in range(0, samples, self.chunk)],
            most=KEPT_BYTES if keeps else 0,
        )
        self._runs_eagerly = self.traces == before
        if self._runs_eagerly:  # An eager model shows only when it runs what is chosen, and its faults.
            self.traces += 1
            self._whole(self.like, 1)

    def _settle(self, model: Any, ahead: Mapping[str, Seen] | None = None) -> tuple[bool, tuple[str, ...]]:
        """Measures the layers where that is needed.

        Args:
            model: The model.
            ahead: What is seen of the layers by their paths; None to have the pass run.

        Returns:
            Whether the one that was chosen is no picture of the image; and what is to be said.
        """
        if self._resigned:
            return False, ()
        taps = {f"activations {i}": tap for i, tap in enumerate(self.taps)}
        taps = taps if self.head is None else {**taps, "head": self.head}

        def look(copies: Any, count: int) -> dict[str, Seen]:
            arrays = self._whole(copies, count) if ahead is None else {}
            return {name: seen(arrays, name, count) if ahead is None else ahead[tap.path] for name, tap in taps.items()}

        measured = settle(
            model,
            taps,
            look,
            self.like,
            self.ground.image_input,
            self.ground.space,
            unsure=self.ground.unsure,
            earlier=self.ground.earlier,
            tokens=self._tokens,
            named=bool(self._named),
        )
        self._laid = {tap.path: tap for tap in measured.taps if tap.tokens is not None}
        self.taps = measured.taps[: len(self.taps)]
        if self.head is not None:
            self.head = measured.taps[-1]
        self.ground.sights = measured.sights
        self._refused.update(measured.refused)
        for path, why in measured.refused.items():
            # Each try is a trace: as many tokens, such as a detector's queries, are the same ones in other layers.
            count = self._shapes[path][1] if len(self._shapes[path]) == 3 else None
            if count is not None and why == NO_GRID:
                alike = (other for other, shape in self._shapes.items() if len(shape) == 3 and shape[1] == count)
                self._refused.update(dict.fromkeys(alike, why))
        return bool(measured.refused), measured.notes

    def _look_ahead(self, model: Any) -> tuple[str, ...]:
        """Refuses the layers that would be chosen one after the other and are no picture; returns what is to be said.

        All of them are measured by one pass forward, so that the model isn't traced for each.
        """
        run, self._picked = self._run, []
        said: tuple[str, ...] = ()
        if self._ahead is None:
            self._ahead = self._measured(run)
        self._laid = {}
        while True:
            calls = self._find_calls(run, [])
            if self._resigned or any(call.path not in self._ahead for call in calls):
                return said
            self.taps = tuple(self._tap_of(call, run) for call in calls)
            self.ground.look(run, calls)
            refused, notes = self._settle(model, self._ahead)
            self._laid = {}  # How tokens lie is measured again, in the trace that is kept.
            if not refused:
                self._picked = [(weakref.ref(call.layer), call.number) for call in calls]
                return said
            said += notes

    def _measured(self, run: DifferentiatedRun) -> dict[str, Seen]:
        """Returns what is seen of all layers that may be chosen, by their paths; nothing where that can't be told."""
        ground = self.ground
        assert ground.space is not None
        copies = banded(self.like, ground.image_input, ground.space)
        count = len(keras.tree.flatten(copies)[0])
        if self._runs_eagerly or count > self.chunk or self.head is not None:
            return {}
        calls = options(run, ground, bool(self._needs.intersection(OF_ATTENTION)), self._dense_size())
        taken = np.resize(np.arange(count), self.chunk) if self.fixed else np.arange(count)
        arguments = keras.tree.map_structure(lambda a: a[taken], (copies, self._asked(self.predicted(count), None)))
        try:
            return seen_at_once(self._pass, run, [(call, self._tap_of(call, run)) for call in calls], arguments, count)
        except self._engine.FAILURES:
            return {}

    def _dead(self) -> list[str]:
        """Returns the paths of layers that were chosen although no gradient reaches them, for none has any."""
        return [tap.path for tap in self.taps if self._resigned and self._refused.get(tap.path) == NO_GRADIENT]

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
                f"{self.taps[0].path!r} and attention of {count} tokens. Leave layer_name out to have it chosen."
            )
        named = {name: arrays.get(f"{name} {target}") for name in ("attentions", "relevances", "readout")}
        return {**named, "positions": tokens.positions.reshape(tokens.grid)}

    def _traced(self, inputs: Any, asked: Any) -> dict[str, Any]:
        self.traces += not self._runs_eagerly
        layers = [(held, number) for _, held, number in self._named] or self._picked
        if self._decided is not None:
            layers = self._decided
        return self._step(inputs, asked, [(held(), number) for held, number in layers])

    def _step(self, inputs: Any, asked: Any, named: list[tuple[Any, int | None]]) -> dict[str, Any]:
        """What is traced: one run of the model, then the ways back from the scores to the layers."""
        accept = Candidates(self.ground.axes)

        def wanted(call: LayerCall) -> bool:
            if not self._watches or not named:
                return self._watches and accept(call)
            return any(call.makes(layer, number or call.number) for layer, number in named)

        def behind(run: Run) -> tuple[list[Any], tuple[list[Any], dict[str, Any]]]:
            return self._scored(run, asked)

        run = self._engine.differentiated_run(self.model, inputs, wanted, behind, last_only=len(named) < 2)
        targets, results = run.results
        if "kernel" in self._needs:
            results |= self._captured_head(run, targets)
        if not self._watches:
            if self._decided is None:
                self.ground.look(run, self._head_calls(run))
            return dict(results)

        if self._needs.intersection(OF_ATTENTION):
            results |= captured_attention(run, self._needs, self.model, self.ground.image_input)
        calls = [call for call, _ in run.watched]
        if self._decided is None:
            self._shapes = {call.path: call.output_shape for call in run.calls if call.output_shape is not None}
            calls = self._find_calls(run, named)
            self.taps = tuple(self._tap_of(call, run) for call in calls)
            if [call for call, _ in run.watched] != calls:
                # The last candidate is in another branch, or was called once more: run again for the chosen one.
                return self._step(inputs, asked, [(call.layer, call.number) for call in calls])
            self._run = run
            self._look(run, calls)
        for i, tap in enumerate(self.taps):
            results[f"activations {i}"] = as_activations(run.watched[i][1], tap, calls[i].steps)
        for t in range(len(run.scores)):
            wants = "gradients" in self._needs
            # Where no gradient is needed, the way to the score is followed in the graph.
            used = None if wants else run.used(t)
            every = run.gradients(t) if wants else [None] * len(calls)
            for i, (call, gradients) in enumerate(zip(calls, every, strict=True)):
                if gradients is not None:
                    results[f"gradients {t} {i}"] = as_activations(gradients, self.taps[i], call.steps)
                elif wants or (used is not None and used.isdisjoint(call.output_ids)):
                    if self._decided is None and not self._named and is_tokens(call):
                        # The way to the score is there, but gradients are stopped on it.
                        self._refused.update(dict.fromkeys([call.path, *without_gradient(run)], "has no gradient"))
                        others = self._find_calls(run, [])
                        return self._step(inputs, asked, [(other.layer, other.number) for other in others])
                    raise ValueError(
                        "The explained score must depend on the explained layer. Received: layer "
                        f"{call.path!r}, from which no gradient reaches target {self.targets[t].text!r}. "
                        f"These would do: {listing(reachable(run, t, self.ground.axes))}."
                    )
        return dict(results)

    def _look(self, run: DifferentiatedRun, calls: Sequence[LayerCall]) -> None:
        """Looks up where the maps of the explained layers lie, and what is to be said of their choice."""
        self.ground.look(run, calls, [(held(), number) for _, held, number in self._named])
        if any(number for *_, number in self._named):  # The user has said which image.
            self.ground.image_note = ""
        self.ground.look_at(run, self._head_calls(run))
        self.ground.look_behind(run, calls)
        # A bottleneck, what the last self-attention works on, a detector's maps, and those of a clip's frames have much
        # behind them, and are chosen for that.
        chosen = self.outputs.is_dense or self.outputs.detects or calls[0].steps is not None
        chosen = chosen or calls[0].output_ids[0] in self.ground.attended(run)
        if not self._named and not chosen:
            self.ground.notes += tuple(filter(None, (early_layer(run, calls[0]),)))

    def _scored(self, run: Run, asked: Any) -> tuple[list[Any], tuple[list[Any], dict[str, Any]]]:
        """Returns each target's scores; its classes, and what is captured of scores and outputs by name."""
        ops = keras.ops
        logits, _ = run.find_logits()
        scores, targets = [], []
        results: dict[str, Any] = {}
        self._describe_outputs(run, logits)
        class_index, beside = asked if isinstance(asked, tuple) else (asked, {})
        for t, target in enumerate(self.targets):
            score, classes, predicted, held = self.outputs.score(run, t, class_index[:, t], beside.get(str(t)))
            scores.append(score)
            targets.append(classes)
            results[f"scores {t}"] = score
            if classes is not None:
                results[f"targets {t}"] = ops.cast(classes, "int32")
            if held is not None:
                results[f"beside {t}"] = held
            if predicted is not None and (target.rule is None or classes is None):
                results[f"predicted {t}"] = ops.cast(predicted, "int32")
            row = self.outputs.row_of(run, t)
            if row is not None:
                results[f"outputs {t}"] = row
        self.scores_by_rule = tuple(
            target.rule is not None and classes is None for target, classes in zip(self.targets, targets, strict=True)
        )
        return scores, (targets, results)

    def _captured_head(self, run: DifferentiatedRun, targets: Sequence[Any]) -> dict[str, Any]:
        """Returns what CAM needs: what feeds the pooling, and for each target the dense layer's weights."""
        for t, (target, classes) in enumerate(zip(self.targets, targets, strict=True)):
            others = Contrast, Segment, Similarity, Detection
            beyond = isinstance(self.outputs.objectives[t], others) or self.outputs.is_part(t)
            if beyond or (classes is None and (target.rule is not None or self.outputs.units != 1)):
                raise ValueError(
                    "CAM explains a class of a model with one output of shape (samples, classes). "
                    f"Received: model {self.model.name!r} and target {target.text!r}, which is no class. "
                    "Grad-CAM (GradCAMLogger) explains any score."
                )
        head = head_call(run, self.model, self._named)
        tap = self._tap_of(head.feature_map, run)
        activations = as_activations(run.tensors[head.feature_map_id], tap, head.feature_map.steps)
        _, *sizes, channels = activations.shape
        space = tap.space if tap.tokens is not None else replace(tap.space, sizes=tuple(sizes))
        self.head = replace(tap, space=space, channels=channels)
        assert self.outputs.units is not None
        results = {"head": activations}
        for t, classes in enumerate(targets):
            if classes is None:  # The only number: its own weights, not negated.
                classes = keras.ops.cast(keras.ops.ones_like(run.scores[t]), "int32")
            results[f"kernel {t}"] = class_weights(head, classes, channels, self.outputs.units)
        return results

    def _head_calls(self, run: Run) -> list[LayerCall]:
        """Returns the call of the layer that feeds the pooling, where CAM asked for it."""
        return [call for call in run.calls if self.head and call.path == self.head.path][-1:]

    def _tap_of(self, call: LayerCall, run: DifferentiatedRun) -> Tap:
        """Describes a layer's call on the input's space."""
        if call.path in self._laid:  # The model was traced before.
            return self._laid[call.path]
        axes = self.ground.axis_names
        tap = make_tap(call, run.calls, axes=axes, attends=len(axes) == 1 and bool(self.ground.attended(run)))
        return replace(tap, again=tuple(other.number for other in repeats(call, run.calls) if other is not call))

    def _find_calls(self, run: DifferentiatedRun, named: Sequence[tuple[Any, int | None]]) -> list[LayerCall]:
        """Returns the one call of each named layer in call order, or the chosen call."""
        if named:
            return named_calls(run, named, {id(held()): path for path, held, _ in self._named}, self.ground)
        attends = bool(self._needs.intersection(OF_ATTENTION))
        if self.outputs.detects and not attends:
            levels = chosen_levels(run, self._refused, run.id_of(self.outputs.scores_of(run)))
            if levels:
                return levels
        call, self._resigned = chosen_call(run, self.model, self.ground, self._refused, attends, self._dense_size())
        return [call]

    def _dense_size(self) -> tuple[int, ...] | None:
        """Returns the image's size where pixels of a mask are explained, else None."""
        space = self.ground.space
        return space.size if self.outputs.is_dense and space is not None else None

    def _describe_outputs(self, run: Run, logits: Any) -> None:
        """Notes what the outputs are and what is explained of them, in words."""
        self.outputs.describe(run, self.model, self.ground.image_input)
        self.explained = "the target's score"
        if self._needs and all(name.endswith("activation_gradient") for name in self._needs - {"images", "confidence"}):
            self.explained = "the layer's largest activations"
        elif all(target.rule is None for target in self.targets):
            self.explained = (
                "scores before the final activation"
                if logits is not None
                else "log-probabilities, for no final softmax or sigmoid was found"
                if self.output.expects == "probabilities"
                else "the outputs themselves, for no final softmax or sigmoid was found"
            )

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
