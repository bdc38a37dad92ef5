"""One run of a model, eager: nothing is recorded for gradients before the first layer that is watched."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import keras
import torch

from ...network.layers import LayerCall, numbered, walk
from .. import stepping, wrapping
from ..as_found import another_output
from ..contract import Attention
from ..precision import entry
from ..wrapped import exchanged
from . import graphs, places
from .asked import next_run, unheld
from .attention import attentions
from .following import around
from .recording import Recorder
from .state import awake_left_as_found, left_as_found

FLOAT16_SCALE = 1024.0
"""Gradients of float16 activations vanish below 6e-8; they are computed this much larger, and divided in float32."""

_recorders: list[Recorder] = []


class Run:
    """One run of the model; see `contract.DifferentiatedRun`."""

    def __init__(self, inputs: Any) -> None:
        """Begins a run.

        Args:
            inputs: What the model is given.
        """
        self._expected, self._asked = next_run()
        self.record = Recorder(self._holds, self._on_softmax)
        self.outputs: Any = None
        self.calls: list[LayerCall] = []
        self.times: Counter[int] = Counter()
        self.watched: list[tuple[LayerCall, Any]] = []
        self.scores: Sequence[Any] = ()
        self.results: Any = None
        self.tensors: Mapping[Hashable, Any] = _Outputs(self)
        self.recording = ExitStack()
        self._made: dict[int, int] = {}
        self._attentions: dict[int, list[Attention]] = {}
        self._leaves = [self.record.number(leaf) for leaf in keras.tree.flatten(inputs) if torch.is_tensor(leaf)]
        self._places = [i for i, leaf in enumerate(keras.tree.flatten(inputs)) if torch.is_tensor(leaf)]
        self._noted = self._partial = False

    def begin(self, at_tap: bool = False) -> None:
        """Begins to note operations: with the model where its graph is asked for, else at the first tap.

        Args:
            at_tap: Whether a watched layer has just run.
        """
        wants = self._expected.graph or (self._expected.logits and (at_tap or not self._expected.watched))
        if wants and not self._noted:
            self._noted, self._partial = True, at_tap
            self.recording.enter_context(_noting(self.record))

    def note_call(self, call: LayerCall, tensors: Sequence[Any]) -> None:
        """Notes a layer's call, and holds what it puts out where that is asked for."""
        at = len(self.calls)
        self.calls.append(call)
        for number, tensor in zip(call.output_ids, tensors, strict=True):
            self._made.setdefault(number, at)
            if self._expected.everything or at in self._expected.outputs:
                self.record.held.setdefault(number, tensor)

    @property
    def place(self) -> tuple[int, int]:
        """How many calls and how many tensors have been noted until now."""
        return len(self.calls), len(self.record.shapes)

    def is_read(self, since: tuple[int, int]) -> bool:
        """Tells whether anything that was noted since then is looked at later."""
        (calls, numbers), asked = since, self._expected
        read = any(calls <= at < len(self.calls) for at in asked.outputs)
        noted = any(numbers <= number < len(self.record.shapes) for number in asked.tensors)
        return asked.everything or read or noted or bool(_recorders)

    def note_unseen(self, calls: Sequence[LayerCall]) -> None:
        """Notes calls of layers that were left out."""
        for at, call in enumerate(calls, len(self.calls)):
            self.times[id(call.layer)] += 1
            for number in call.output_ids:
                self._made.setdefault(number, at)
        self.calls += calls

    def watch(self, call: LayerCall, output: Any) -> Any:
        """Has gradients be recorded from a layer's output on; returns what takes its place."""
        self._asked.watched = True
        if not torch.is_grad_enabled():
            self.recording.enter_context(torch.enable_grad())
        # Gradients of attention go on to what came before.
        if not (output.requires_grad and (self.watched or self._expected.attends)):
            output = output.detach().requires_grad_()
            self.record.name(output, call.output_ids[0])
            self.record.held[call.output_ids[0]] = output
        self.watched.append((call, output))
        return output

    def _holds(self, number: int) -> bool:
        return self._expected.everything or number in self._expected.tensors

    def _on_softmax(self, tensor: Any) -> Any:
        """Has gradients be recorded from the first attention on, where gradients of attention are asked for."""
        if not self._expected.attends or tensor.requires_grad or tensor.ndim < 3:
            return tensor
        if not torch.is_grad_enabled():
            self.recording.enter_context(torch.enable_grad())
        return tensor.detach().requires_grad_()

    def output_of(self, number: int) -> Any:
        """Returns what a layer put out."""
        self._asked.outputs.add(self._made[number])
        if number not in self.record.held:
            raise unheld()
        return self.record.held[number]

    @property
    def made(self) -> Mapping[int, int]:
        """For the number of each tensor that a layer put out which call that was."""
        return self._made

    def _held(self, number: int) -> Any:
        if number in self._made:
            return self.output_of(number)
        self._asked.tensors.add(number)
        if number not in self.record.held:
            raise unheld()
        return self.record.held[number]

    def _graph(self) -> Recorder:
        """Returns the record, which must begin where the model does."""
        self._asked.graph = True
        if self._partial or not self._noted:
            raise unheld()
        return self.record

    def _end(self, output: Any) -> Any:
        """Returns the operation that one of the outputs comes from."""
        self._asked.logits = True
        if not self._noted:
            raise unheld()
        return graphs.last_operation(self.record, self.record.number(output), self._partial)

    def id_of(self, tensor: Any) -> Hashable:
        """Returns the id of a tensor; see `contract.Run`."""
        return self.record.number(tensor)

    @property
    def output_ids(self) -> set[Hashable]:
        """Ids of all outputs of the model."""
        record = self._graph()
        return {record.number(t) for t in keras.tree.flatten(self.outputs) if torch.is_tensor(t)}

    @property
    def output_id(self) -> Hashable | None:
        """Id of the model's output; None where it has several."""
        return None if self._output is None else self._graph().number(self._output)

    @property
    def _output(self) -> Any | None:
        leaves = keras.tree.flatten(self.outputs)
        return leaves[0] if len(leaves) == 1 else None

    def find_logits(self, output: Any | None = None) -> tuple[Any | None, bool]:
        """Finds what went into the final softmax or sigmoid, and whether the output is a probability."""
        output = self._output if output is None else output
        if output is None:
            return None, False
        kept = getattr(output, "_keras_logits", None)
        if kept is not None:
            return kept, True
        number, is_probability = graphs.find_logits(self._end(output))
        return (None if number is None else self._held(number)), is_probability

    def ending(self, output: Any) -> str | None:
        """Tells what an output ends in; see `contract.Run`."""
        by_keras = getattr(output, "_keras_logits", None) is not None
        units = output.shape[-1] if output.ndim else 1
        return graphs.ending(self.record, self._end(output), units, by_keras, self._partial)

    def before_relu(self, tensor_id: Any) -> Any | None:
        """Returns what went into the ReLU that a tensor comes out of; None where it comes out of none."""
        number = graphs.before_relu(self._graph().maker[tensor_id])
        return None if number is None else self._held(number)

    def gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d output for each watched output, float32; None where the score doesn't depend on it."""
        return differentiated(self.scores[score], [output for _, output in self.watched])

    def used(self, score: int) -> set[Hashable] | None:
        """Returns the ids of all tensors that a score depends on."""
        record = self._graph()
        numbers: set[Hashable] = set(graphs.ancestors(record, [record.number(self.scores[score])]))
        return numbers

    def differentiable(self, score: int, tensor_ids: Sequence[Hashable]) -> set[Hashable] | None:
        """Returns None: gradients are known only at what was watched."""
        return None

    def score_inputs(self, score: int) -> set[int] | None:
        """Returns which of the flattened inputs a score depends on."""
        record = self._graph()
        return self.read_inputs(record.number(self.scores[score]))

    def attention_gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d weights of each self-attention; see `contract.DifferentiatedRun`."""
        self._asked.attends = True
        if not self._expected.attends:
            raise unheld()
        return differentiated(self.scores[score], [attention.weights for attention in self.attentions(score)])

    def attentions(self, score: int) -> list[Attention]:
        """Returns the self-attentions on the way to a score, in their order; see `contract.DifferentiatedRun`."""
        record = self._graph()
        if score not in self._attentions:
            pairs = attentions(record, record.number(self.scores[score]), self._leaves, self._made)
            self._attentions[score] = [Attention(self._held(weights), source) for weights, source in pairs]
        return self._attentions[score]

    def read_inputs(self, tensor_id: Any) -> set[int] | None:
        """Returns which of the flattened inputs a tensor depends on."""
        reached = graphs.ancestors(self._graph(), [tensor_id])
        return {i for i, leaf in zip(self._places, self._leaves, strict=True) if leaf in reached}

    def behind(self, tensor_id: Any) -> set[Hashable] | None:
        """Returns the ids of all tensors that depend on a tensor."""
        numbers: set[Hashable] = set(graphs.downstream(self._graph(), [tensor_id]))
        return numbers - {tensor_id}

    def keeps_places(self, tensor_id: Any, leaf: int) -> bool:
        """Tells whether a layer's output is certainly a map of the image; see `contract.Run`."""
        return places.keeps_places(self._graph(), tensor_id, self._leaves[self._places.index(leaf)])

    def fronts(self, tensor_id: Any, leaf: int) -> list[tuple[Any, str]] | None:
        """Returns what goes into the first convolutions on the way; see `contract.Run`."""
        ways = places.fronts(self._graph(), tensor_id, self._leaves[self._places.index(leaf)])
        return [(self._held(number), way) for number, way in ways]


class _Outputs(Mapping[Hashable, Any]):
    """The outputs of a run's layers by their ids, as far as they are held."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getitem__(self, key: Any) -> Any:
        if key not in self._run.made:
            raise KeyError(key)
        return self._run.output_of(key)

    def __contains__(self, key: Any) -> bool:
        return key in self._run.made

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._run.made)

    def __len__(self) -> int:
        return len(self._run.made)


def plain_run(model: Any, inputs: Any) -> Run:
    """Runs the model without a tap; see `contract.Engine`."""
    run = Run(inputs)
    with left_as_found(model), run.recording:
        run.begin()
        run.outputs = model(inputs, training=False)
    return run


def tapped_run(model: Any, inputs: Any) -> Run:
    """Runs the model; see `contract.Engine`."""
    return differentiated_run(model, inputs, None, lambda run: ((), None))


def differentiated_run(
    model: Any,
    inputs: Any,
    wanted: Callable[[LayerCall], bool] | None,
    behind: Callable[[Run], tuple[Sequence[Any], Any]],
    last_only: bool = True,
) -> Run:
    """Runs the model and what lies behind it; see `contract.Engine`.

    At each wanted call the output is cut from what came before, so that gradients are recorded from there on.
    """
    run, by = Run(inputs), around()
    with wrapping, ExitStack() as taps:
        asleep = frozenset() if by is None else taps.enter_context(by.running(run, model))
        taps.enter_context(awake_left_as_found(model, asleep))
        taps.enter_context(run.recording)

        def on_call(path: str, layer: Any, received: Any, output: Any) -> Any:
            run.times[id(layer)] += 1
            tensors = [t for t in keras.tree.flatten(output) if torch.is_tensor(t)]
            steps = stepping.current()
            along_time = () if steps is None else (steps if isinstance(steps, int) else None,)
            single = torch.is_tensor(output)
            call = LayerCall(
                numbered(path, run.times[id(layer)]),
                layer,
                (None, *along_time, *map(int, output.shape[1:])) if single and output.ndim else None,
                tuple(run.record.number(t) for t in keras.tree.flatten(received) if torch.is_tensor(t)),
                tuple(run.record.number(t) for t in tensors),
                run.times[id(layer)],
                steps,
            )
            run.note_call(call, tensors)
            if wanted is None or not wanted(call) or not single or not torch.is_floating_point(output):
                return None
            if last_only:
                run.watched.clear()
            output = run.watch(call, output)
            run.begin(at_tap=True)
            return output

        run.begin()
        for path, layer in walk(model):
            if id(layer) not in asleep:
                taps.enter_context(tap(layer, functools.partial(on_call, path, layer)))
        run.outputs = model(inputs, training=False)
        run.scores, run.results = behind(run)
    return run


def differentiated(scores: Any, sources: Sequence[Any]) -> list[Any | None]:
    """Returns d scores / d each of the sources, float32; None where the scores don't depend on it."""
    # What needs no gradient can't be asked for.
    needed = [i for i, source in enumerate(sources) if source.requires_grad]
    if not (needed and scores.requires_grad):
        return [None] * len(sources)
    scale = FLOAT16_SCALE if any(source.dtype == torch.float16 for source in sources) else 1.0
    slopes = torch.autograd.grad(
        scores, [sources[i] for i in needed], torch.full_like(scores, scale), retain_graph=True, allow_unused=True
    )
    results: list[Any | None] = [None] * len(sources)
    for i, slope in zip(needed, slopes, strict=True):
        results[i] = None if slope is None else slope.to(torch.float32) / scale
    return results


@contextmanager
def _noting(record: Recorder) -> Iterator[None]:
    with record:
        _recorders.append(record)
        try:
            yield
        finally:
            _recorders.remove(record)


@contextmanager
def tap(layer: Any, on_call: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Wraps the layer's `call` for a while; what `on_call` returns, if anything, takes the place of the output."""
    name = entry(layer)
    original = getattr(layer, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        by = around()
        seen = bool(_recorders)
        output = original(*args, **kwargs) if by is None else by.call(layer, original, args, kwargs, seen)
        replacement = on_call((args, kwargs), output)
        return output if replacement is None else replacement

    with wrapping, exchanged(layer, name, call):
        yield


@contextmanager
def eagerly() -> Iterator[None]:
    """Notes nothing of what runs while the context lasts."""
    with ExitStack() as paused:
        for record in _recorders:
            paused.enter_context(record.paused())
        yield


def replaced(layer: Any, activations: Any, numbers: Collection[int] = (1,)) -> AbstractContextManager[None]:
    """Has some calls of the layer put out something else."""
    return tap(layer, another_output(activations, numbers))
