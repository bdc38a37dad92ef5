"""One run of the model, tapped: its layers' calls are seen, and a tape begins at the layer that is explained.

The model is left alone. While the function is traced, `call` of each of its layers is wrapped on the instance, so that
calls are seen in their order; afterwards the wrappers are gone, and so is every trace of the run in the model.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from ...network.layers import LayerCall, numbered, walk
from .. import stepping, wrapping
from ..as_found import another_output, layers_as_found
from ..contract import Attention
from ..precision import entry
from ..wrapped import exchanged
from . import graphs
from .attention import attentions
from .values import Repeats

FLOAT16_SCALE = 1024.0
"""Gradients of float16 activations vanish below 6e-8; they are computed this much larger, and divided in float32."""


@dataclass(eq=False)
class Run:
    """One run of the model; see `contract.DifferentiatedRun`."""

    outputs: Any = None
    leaves: Sequence[Any] = ()
    calls: list[LayerCall] = field(default_factory=list)
    tensors: dict[Hashable, Any] = field(default_factory=dict)
    watched: list[tuple[LayerCall, Any]] = field(default_factory=list)
    scores: Sequence[Any] = ()
    results: Any = None
    tape: Any = None
    _attentions: dict[int, list[Attention]] = field(default_factory=dict)

    def id_of(self, tensor: Any) -> Hashable:
        """Returns the id of a tensor; see `contract.Run`."""
        return graphs.tensor_id(tensor)

    @property
    def output_ids(self) -> set[Hashable]:
        """Ids of all outputs of the model."""
        return {graphs.tensor_id(t) for t in tf.nest.flatten(self.outputs) if tf.is_tensor(t)}

    @property
    def output_id(self) -> Hashable | None:
        """Id of the model's output; None where it has several."""
        return None if self._output is None else graphs.tensor_id(self._output)

    @property
    def _output(self) -> Any | None:
        leaves = tf.nest.flatten(self.outputs)
        return leaves[0] if len(leaves) == 1 else None

    def find_logits(self, output: Any | None = None) -> tuple[Any | None, bool]:
        """Finds what went into the final softmax or sigmoid, and whether the output is a probability."""
        output = self._output if output is None else output
        return (None, False) if output is None else graphs.find_logits(output)

    def ending(self, output: Any) -> str | None:
        """Tells what an output ends in; see `contract.Run`."""
        return graphs.ending(output)

    def before_relu(self, tensor_id: Hashable) -> Any | None:
        """Returns what went into the ReLU that a tensor comes out of; None where it comes out of none."""
        return graphs.before_relu(self.tensors[tensor_id])

    def gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d output for each watched output, float32; None where the score doesn't depend on it."""
        scores = self.scores[score]
        activations = [output for _, output in self.watched]
        scale = FLOAT16_SCALE if any(output.dtype == tf.float16 for output in activations) else 1.0
        gradients = self.tape.gradient(scores, activations, output_gradients=tf.fill(tf.shape(scores), scale))
        return [as_float32(gradient, scale) for gradient in gradients]

    def differentiable(self, score: int, tensor_ids: Sequence[Hashable]) -> set[Hashable] | None:
        """Returns those of some outputs that a score has a gradient at; see `contract.DifferentiatedRun`."""
        scores = self.scores[score]
        if graphs.is_eager(scores):
            return None
        # What runs in a loop is in another graph, and out of reach.
        ids = [tensor_id for tensor_id in tensor_ids if getattr(self.tensors[tensor_id], "graph", None) is scores.graph]
        slopes = tf.gradients(scores, [self.tensors[tensor_id] for tensor_id in ids])
        return {tensor_id for tensor_id, slope in zip(ids, slopes, strict=True) if slope is not None}

    def used(self, score: int) -> set[Hashable] | None:
        """Returns the ids of all tensors that a score depends on; None for an eager run."""
        return graphs.used_ids(self.scores[score])

    def attention_gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d weights of each self-attention; see `contract.DifferentiatedRun`."""
        scores, weights = self.scores[score], [attention.weights for attention in self.attentions(score)]
        scale = FLOAT16_SCALE if any(tensor.dtype == tf.float16 for tensor in weights) else 1.0
        # The tape has not watched them, for they are no layer's output.
        gradients = tf.gradients(scores, weights, grad_ys=tf.fill(tf.shape(scores), scale))
        return [as_float32(gradient, scale) for gradient in gradients]

    def attentions(self, score: int) -> list[Attention]:
        """Returns the self-attentions on the way to a score, in their order; see `contract.DifferentiatedRun`."""
        if score not in self._attentions:
            scores = self.scores[score]
            leaves = [leaf for leaf in self.leaves if not graphs.is_eager(leaf)]
            self._attentions[score] = [] if graphs.is_eager(scores) else attentions(scores, leaves, self.tensors)
        return self._attentions[score]

    def read_inputs(self, tensor_id: Hashable) -> set[int] | None:
        """Returns which of the flattened inputs a tensor depends on; None for an eager run."""
        return self._read_by(self.tensors[tensor_id])

    def score_inputs(self, score: int) -> set[int] | None:
        """Returns which of the flattened inputs a score depends on; None for an eager run."""
        return self._read_by(self.scores[score])

    def _read_by(self, tensor: Any) -> set[int] | None:
        if graphs.is_eager(tensor) or any(map(graphs.is_eager, self.leaves)):
            return None
        names = {op.name for op in graphs.ancestors([tensor], graphs.reads_values)}
        return {i for i, leaf in enumerate(self.leaves) if leaf.op.name in names}

    def behind(self, tensor_id: Hashable) -> set[Hashable] | None:
        """Returns the ids of all tensors that depend on a tensor; None for an eager run."""
        tensor = self.tensors[tensor_id]
        if graphs.is_eager(tensor):
            return None
        return {(id(op.graph), output.name) for op in graphs.downstream(tensor) for output in op.outputs}

    def keeps_places(self, tensor_id: Hashable, leaf: int) -> bool:
        """Tells whether a layer's output is certainly a map of the image; see `contract.Run`."""
        tensor = self.tensors[tensor_id]
        if graphs.is_eager(tensor) or graphs.is_eager(self.leaves[leaf]):
            return False
        return graphs.keeps_places(tensor, self.leaves[leaf])

    def fronts(self, tensor_id: Hashable, leaf: int) -> list[tuple[Any, str]] | None:
        """Returns what goes into the first convolutions on the way; see `contract.Run`."""
        tensor = self.tensors[tensor_id]
        if graphs.is_eager(tensor) or graphs.is_eager(self.leaves[leaf]):
            return None
        return graphs.fronts(tensor, self.leaves[leaf])


def plain_run(model: Any, inputs: Any) -> Run:
    """Runs the model without a tap; see `contract.Engine`."""
    repeats = Repeats()
    with left_as_found(model), ExitStack() as taps:
        for _, layer in walk(model):
            taps.enter_context(tap(layer, functools.partial(repeats.first, layer)))
        return Run(model(inputs, training=False))


def tapped_run(model: Any, inputs: Any) -> Run:
    """Runs the model; see `contract.Engine`."""
    return differentiated_run(model, inputs, lambda call: False, lambda run: ((), None))


def differentiated_run(
    model: Any,
    inputs: Any,
    wanted: Callable[[LayerCall], bool],
    behind: Callable[[Run], tuple[Sequence[Any], Any]],
    last_only: bool = True,
) -> Run:
    """Runs the model and what lies behind it; see `contract.Engine`.

    Each wanted call starts the tape anew at its output, or all of them are watched by one tape.
    """
    run = Run(leaves=keras.tree.flatten(inputs))
    times: Counter[int] = Counter()
    repeats = Repeats()
    with ExitStack() as recording, left_as_found(model):

        def on_call(path: str, layer: Any, received: Any, output: Any) -> Any:
            times[id(layer)] += 1
            first = repeats.first(layer, received, output)
            output = output if first is None else first
            tensors = [t for t in tf.nest.flatten(output) if tf.is_tensor(t)]
            for tensor in tensors:
                run.tensors.setdefault(graphs.tensor_id(tensor), tensor)  # A cast of it comes later.
            steps = stepping.current()
            along_time = () if steps is None else (steps if isinstance(steps, int) else None,)
            call = LayerCall(
                numbered(path, times[id(layer)]),
                layer,
                (None, *along_time, *output.shape[1:]) if tf.is_tensor(output) and output.shape.rank else None,
                tuple(graphs.tensor_id(t) for t in tf.nest.flatten(received) if tf.is_tensor(t)),
                tuple(graphs.tensor_id(t) for t in tensors),
                times[id(layer)],
                steps,
            )
            run.calls.append(call)
            if first is None and wanted(call) and tf.is_tensor(output):
                if last_only:
                    recording.close()
                    run.watched.clear()
                if not run.watched:
                    # Persistent, for several scores may be differentiated.
                    run.tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
                    recording.enter_context(run.tape)
                run.tape.watch(output)
                run.watched.append((call, output))
            return first

        with ExitStack() as taps:
            for path, layer in walk(model):
                taps.enter_context(tap(layer, functools.partial(on_call, path, layer)))
            run.outputs = model(inputs, training=False)
        run.scores, run.results = behind(run)
    return run


def as_float32(gradient: Any | None, scale: float = 1.0) -> Any | None:
    """Returns a gradient as a float32 tensor, divided by what it was computed larger by."""
    return None if gradient is None else tf.cast(tf.convert_to_tensor(gradient), tf.float32) / scale


@contextmanager
def tap(layer: Any, on_call: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Wraps the layer's `call` for a while; what `on_call` returns, if anything, takes the place of the output."""
    name = entry(layer)
    # A `call` that is a tf.function runs in a graph of its own, in which its layers could not be seen.
    original = getattr(getattr(layer, name), "python_function", getattr(layer, name))

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        replacement = on_call((args, kwargs), output)
        return output if replacement is None else replacement

    with wrapping, exchanged(layer, name, call):
        yield


@contextmanager
def eagerly() -> Iterator[None]:
    """Leaves the function that is traced, so that operations run at once, while the context lasts."""
    with tf.init_scope():
        yield


@contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """Undoes what running a model writes into it: states of seeds and metrics, and losses that layers add.

    Meanwhile each `call` that is a tf.function runs in the graph around it, so that what is inside can be replaced and
    differentiated in another way; layers that step through time take all steps at once; and what layers are to compute
    anew on the way back, to save memory while the model is trained, is kept, since what is inside could not be seen.
    """
    with wrapping:
        every = [model, *(layer for _, layer in walk(model))]
        # Assignments to variables stay in this scope.
        with keras.StatelessScope(), layers_as_found(every), ExitStack() as taps:
            for layer in every:
                if hasattr(layer.call, "python_function"):
                    taps.enter_context(tap(layer, lambda received, output: None))
            yield


def replaced(layer: Any, activations: Any, numbers: Collection[int] = (1,)) -> AbstractContextManager[None]:
    """Has some calls of the layer put out something else; in a traced function all that only led to it is left out."""
    return tap(layer, another_output(activations, numbers))
