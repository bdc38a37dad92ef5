"""One run of a model: traced by itself, looked into, and run again from the explained layer on to be differentiated.

The model is traced to a jaxpr with its layers' calls wrapped, and so are the scores of what it puts out. Both are one
graph, of which the function around takes a copy. A gradient is that of the part of the graph between a layer's output
and a score; XLA computes what the copies have in common once.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import jax
import keras
from jax.extend import core

from ...network.layers import LayerCall, numbered, walk
from ...network.repeats import first_ones
from .. import stepping
from ..contract import Attention
from . import endings, places
from .attention import attentions
from .eager import eager_run
from .graph import Graph, Value, outer, reached_from, root, sources_of, tensor_of
from .pulling import as_float32, pulled, scale_for
from .state import is_traced, left_as_found, noting, tap
from .values import merged_values


def is_tensor(value: Any) -> bool:
    """Tells whether something is a tensor of JAX's."""
    return isinstance(value, jax.Array)


@dataclass(eq=False)
class Run:
    """One run of the model; see `contract.DifferentiatedRun`. Ids are values of its graph."""

    outputs: Any = None
    calls: list[LayerCall] = field(default_factory=list)
    tensors: dict[Hashable, Any] = field(default_factory=dict)
    watched: list[tuple[LayerCall, Any]] = field(default_factory=list)
    scores: Sequence[Any] = ()
    results: Any = None
    graph: Graph = field(default_factory=Graph)
    leaves: list[Value | None] = field(default_factory=list)
    _values: dict[Value, Any] = field(default_factory=dict)
    _of_tensor: dict[int, Value] = field(default_factory=dict)
    _outputs: Any = None
    _watched: list[tuple[LayerCall, Value]] = field(default_factory=list)
    _scores: list[Value] = field(default_factory=list)
    _made: dict[Hashable, Value] = field(default_factory=dict)
    _attentions: dict[int, list[tuple[Value, Attention]]] = field(default_factory=dict)

    def enter(self, values: dict[Value, Any]) -> None:
        """Has the graph's values be these tensors, those of the function that is traced now."""
        self._values, self._of_tensor = values, {}
        for value, tensor in values.items():
            self._of_tensor.setdefault(id(tensor), value)
        self.outputs = jax.tree.map(lambda v: self._tensor(v) if isinstance(v, Value) else v, self._outputs)
        self.tensors = {key: self._tensor(value) for key, value in self._made.items()}
        self.watched = [(call, self._tensor(value)) for call, value in self._watched]

    def _tensor(self, value: Value) -> Any:
        """Returns the tensor of a value, which is computed where it is within an operation."""
        if value.op is not None and value not in self._values:
            self.graph.evaluate(self._values, [value])
        tensor = tensor_of(value, self._values)
        tensor = tensor if is_tensor(tensor) else keras.ops.convert_to_tensor(tensor)
        self._values.setdefault(value, tensor)
        self._of_tensor.setdefault(id(tensor), value)
        return tensor

    def id_of(self, tensor: Any) -> Hashable:
        """Returns the id of a tensor; see `contract.Run`."""
        return root(self._of_tensor[id(tensor)])

    @property
    def output_ids(self) -> set[Hashable]:
        """Ids of all outputs of the model."""
        return {root(value) for value in jax.tree.leaves(self._outputs) if isinstance(value, Value)}

    @property
    def output_id(self) -> Hashable | None:
        """Id of the model's output; None where it has several."""
        values = jax.tree.leaves(self._outputs)
        return root(values[0]) if len(values) == 1 and isinstance(values[0], Value) else None

    def find_logits(self, output: Any | None = None) -> tuple[Any | None, bool]:
        """Finds what went into the final softmax or sigmoid, and whether the output is a probability."""
        value = self.output_id if output is None else self._of_tensor.get(id(output))
        logits, name = endings.find_logits(value) if isinstance(value, Value) else (None, None)
        return (None, False) if logits is None else (self._tensor(logits), name != "log_softmax")

    def ending(self, output: Any) -> str | None:
        """Tells what an output ends in; see `contract.Run`."""
        value = self._of_tensor.get(id(output))
        return None if value is None else endings.ending(value)

    def before_relu(self, tensor_id: Hashable) -> Any | None:
        """Returns what went into the ReLU that a tensor comes out of; None where it comes out of none."""
        before = endings.before_relu(self._made[tensor_id])
        return None if before is None else self._tensor(before)

    def gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d output for each watched output, float32; None where the score doesn't depend on it."""
        values = [value for _, value in self._watched]
        return pulled(self.graph, self._values, values, self._scores[score], scale_for(values))

    def used(self, score: int) -> set[Hashable] | None:
        """Returns the ids of all tensors that a score depends on."""
        ids: set[Hashable] = {*sources_of([self._scores[score]])}
        return ids

    def differentiable(self, score: int, tensor_ids: Sequence[Hashable]) -> set[Hashable] | None:
        """Returns those of some outputs that a score has a gradient at; see `contract.DifferentiatedRun`."""
        scores = self._scores[score]
        made = {tensor_id: root(self._made[tensor_id]) for tensor_id in tensor_ids}
        return {tensor_id for tensor_id, value in made.items() if scores in self.graph.differentiable([value])}

    def score_inputs(self, score: int) -> set[int] | None:
        """Returns which of the flattened inputs a score depends on."""
        sources = sources_of([self._scores[score]])
        return {i for i, leaf in enumerate(self.leaves) if leaf in sources}

    def attention_gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d weights of each self-attention; see `contract.DifferentiatedRun`."""
        self.attentions(score)
        values = [weights for weights, _ in self._attentions[score]]
        slopes = pulled(self.graph, self._values, values, self._scores[score], scale_for(values))
        return [None if slope is None else self._by_head(slope) for slope in slopes]

    def attentions(self, score: int) -> list[Attention]:
        """Returns the self-attentions on the way to a score, in their order; see `contract.DifferentiatedRun`."""
        if score not in self._attentions:
            leaves = [leaf for leaf in self.leaves if leaf is not None]
            pairs = attentions(self.graph, self._scores[score], leaves, self._made)
            # Computed at once: what is asked after the trace is where they are, and nothing can be computed then.
            self._attentions[score] = [
                (weights, Attention(self._by_head(self._tensor(weights)), source)) for weights, source in pairs
            ]
        return [attention for _, attention in self._attentions[score]]

    def _by_head(self, weights: Any) -> Any:
        """Returns weights as (N, heads, T, T), where heads that share keys are an axis of their own."""
        if weights.ndim < 5:
            return weights
        samples = next((leaf.shape[0] for leaf in self.leaves if leaf is not None and leaf.shape), None)
        if weights.shape[0] != samples and weights.shape[1] == samples:
            weights = keras.ops.moveaxis(weights, 1, 0)
        return weights.reshape((weights.shape[0], -1, *weights.shape[-2:]))

    def read_inputs(self, tensor_id: Hashable) -> set[int] | None:
        """Returns which of the flattened inputs a tensor depends on."""
        sources = sources_of([self._made[tensor_id]])
        return {i for i, leaf in enumerate(self.leaves) if leaf in sources}

    def behind(self, tensor_id: Hashable) -> set[Hashable] | None:
        """Returns the ids of all tensors that depend on a tensor."""
        made = self._made[tensor_id]
        ids: set[Hashable] = {*reached_from(self.graph, root(made))}
        return ids - {made, root(made)}

    def keeps_places(self, tensor_id: Hashable, leaf: int) -> bool:
        """Tells whether a layer's output is certainly a map of the image; see `contract.Run`."""
        image = self.leaves[leaf]
        return image is not None and places.keeps_places(self.graph, self._made[tensor_id], image)

    def fronts(self, tensor_id: Hashable, leaf: int) -> list[tuple[Any, str]] | None:
        """Returns what goes into the first convolutions on the way; see `contract.Run`."""
        image = self.leaves[leaf]
        if image is None:
            return None
        return [(self._tensor(value), how) for value, how in places.fronts(self.graph, self._made[tensor_id], image)]


def plain_run(model: Any, inputs: Any) -> Any:
    """Runs the model without a tap; see `contract.Engine`."""
    return differentiated_run(model, inputs, None, lambda run: ((), None))


def tapped_run(model: Any, inputs: Any) -> Any:
    """Runs the model; see `contract.Engine`."""
    return differentiated_run(model, inputs, lambda call: False, lambda run: ((), None))


def differentiated_run(
    model: Any,
    inputs: Any,
    wanted: Callable[[LayerCall], bool] | None,
    behind: Callable[[Any], tuple[Sequence[Any], Any]],
    last_only: bool = True,
) -> Any:
    """Runs the model and what lies behind it; see `contract.Engine`."""
    if not is_traced():
        return eager_run(model, inputs, wanted, behind, last_only)
    run = Run()
    values, notes = _trace_model(run, model, inputs, wanted is not None)
    for call in first_ones(run.calls):
        if wanted is not None and wanted(call) and call.output_shape is not None:
            if last_only:
                run._watched.clear()
            run._watched.append((call, run._made[call.output_ids[0]]))
    run.graph.evaluate(values, run.graph.results)
    run.enter(values)
    for noted, value in notes:  # They are tensors of the function around now.
        noted.tensor = run._tensor(value)
    _trace_scores(run, behind)
    return run


def _trace_model(run: Run, model: Any, inputs: Any, taps: bool) -> tuple[dict[Value, Any], list[Any]]:
    """Traces the model alone; returns the tensors of the graph's inputs, and what was noted with its values."""
    leaves = keras.tree.flatten(inputs)
    given = {i: keras.ops.convert_to_tensor(leaf) for i, leaf in enumerate(leaves) if leaf is not None}
    seen: list[tuple[str, Any, list[Any], list[Any], Any, int, Any]] = []
    kept: list[Any] = []
    structure: list[Any] = []
    notes: list[Any] = []

    def function(tensors: dict[int, Any]) -> list[Any]:
        state, times = core.get_opaque_trace_state(), Counter[int]()

        def on_call(path: str, layer: Any, received: Any, output: Any) -> None:
            if core.get_opaque_trace_state() != state:
                return  # Within a loop or a transformed function, whose tensors do not leave it.
            times[id(layer)] += 1
            before, after = (list(filter(is_tensor, keras.tree.flatten(part))) for part in (received, output))
            shape = output.shape if is_tensor(output) and output.ndim else None
            seen.append((path, layer, before, after, shape, times[id(layer)], stepping.current()))

        with left_as_found(model), noting() as noted, ExitStack() as wrapped:
            for path, layer in walk(model):
                wrapped.enter_context(tap(layer, functools.partial(on_call, path, layer)))
            outputs = model(keras.tree.pack_sequence_as(inputs, _in_order(leaves, tensors)), training=False)
        flat, tree = jax.tree.flatten(outputs)
        structure[:] = [tree, [None if is_tensor(leaf) else leaf for leaf in flat]]
        notes[:] = noted
        every = [*filter(is_tensor, flat), *(note.tensor for note in noted)]
        every += [t for _, _, before, after, *_ in seen for t in (*before, *after)]
        kept[:] = {id(tensor): tensor for tensor in every}.values()
        structure.append([id(leaf) if is_tensor(leaf) else None for leaf in flat])
        return kept

    closed = jax.make_jaxpr(function)(given)
    graph, values = run.graph, dict[Value, Any]()
    constants = [outer(constant, values) for constant in closed.consts]
    own = [outer(tensor, values, True) for tensor in given.values()]
    of_leaf = dict(zip(given, own, strict=True))
    run.leaves = [of_leaf.get(i) for i in range(len(leaves))]
    results = graph.add(closed.jaxpr, constants, own)
    of_tensor = {id(tensor): value for tensor, value in zip(kept, results, strict=True)}
    merged = merged_values((layer, [of_tensor[id(tensor)] for tensor in after]) for _, layer, _, after, *_ in seen)
    graph.merge(merged)
    of_tensor = {key: merged.get(value, value) for key, value in of_tensor.items()}
    tree, static, ids = structure
    run._outputs = jax.tree.unflatten(
        tree, [other if key is None else of_tensor[key] for key, other in zip(ids, static, strict=True)]
    )
    for path, layer, before, after, shape, number, steps in seen if taps else ():
        made = [of_tensor[id(tensor)] for tensor in after]
        for value in made:
            run._made.setdefault(root(value), value)  # A cast of it comes later.
        along_time = () if steps is None else (steps if isinstance(steps, int) else None,)
        run.calls.append(
            LayerCall(
                numbered(path, number),
                layer,
                None if shape is None else (None, *along_time, *shape[1:]),
                tuple(root(of_tensor[id(tensor)]) for tensor in before),
                tuple(map(root, made)),
                number,
                steps,
            )
        )
    return values, [(noted, of_tensor[id(noted.tensor)]) for noted in notes]


def _trace_scores(run: Run, behind: Callable[[Any], tuple[Sequence[Any], Any]]) -> None:
    """Traces what lies behind the model, and runs it."""
    outside = dict(run._values)
    inputs = list(outside)
    structure: list[Any] = []

    def function(tensors: list[Any]) -> list[Any]:
        run.enter(dict(zip(inputs, tensors, strict=True)))
        scores, results = behind(run)
        flat, tree = jax.tree.flatten((list(scores), results))
        structure[:] = [tree, [None if is_tensor(leaf) else leaf for leaf in flat]]
        return [leaf for leaf in flat if is_tensor(leaf)]

    try:
        closed = jax.make_jaxpr(function)(list(outside.values()))
    finally:
        run.enter(outside)
    tree, static = structure
    constants = [outer(constant, outside) for constant in closed.consts]
    computed = iter(run.graph.add(closed.jaxpr, constants, inputs))
    run.graph.evaluate(outside, run.graph.results)
    values = [next(computed) if leaf is None else leaf for leaf in static]
    scores, run.results = jax.tree.unflatten(
        tree, [run._tensor(leaf) if isinstance(leaf, Value) else leaf for leaf in values]
    )
    run.scores, run._scores = scores, values[: len(scores)]


def _in_order(leaves: Sequence[Any], tensors: dict[int, Any]) -> list[Any]:
    return [tensors.get(i) for i in range(len(leaves))]


__all__ = ["Run", "as_float32", "differentiated_run", "plain_run", "tapped_run"]
