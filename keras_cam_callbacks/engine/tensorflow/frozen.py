"""A traced pass whose frozen part runs once: found in its graph, kept, and left out for as long as nothing is written.

Of a frozen network with a trainable head, all that lies before the head puts out the same in every epoch. What is the
same is decided in the graph, not by layers: a tensor is, if it comes from the arguments, from constants and from
variables that are not trained, whatever the model is made of. Those of them that the rest of the graph takes are kept;
the rest alone becomes a second function, of the very operations of the first.

Whether one of these variables was written meanwhile, by whomever, is looked up before each use. The tensors that were
read from them are held: TensorFlow copies a variable that someone holds before it writes to it, so that a variable is
as it was while it has the buffer that is held. That costs no memory as long as nothing is written; only a variable that
rows are gathered from, such as an embedding's, is read as a copy, and compared bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, prod
from typing import Any

import numpy as np
import tensorflow as tf

from .graphs import READS, ancestors, on_arrays, traced


@dataclass(frozen=True, eq=False)
class Cut:
    """Where a graph is cut into its frozen part and the rest.

    Attributes:
        kept: The tensors of the frozen part that the rest takes.
        variables: For each variable that these depend on, its handle and its dtype.
    """

    kept: tuple[Any, ...]
    variables: tuple[tuple[Any, Any], ...]


class FrozenPass:
    """Runs a function of fixed arguments, and of its graph no more than what can have changed.

    Attributes:
        reuses: How often the rest was run without the frozen part.
    """

    def __init__(
        self, function: Callable[..., Any], specs: Any, trained: Iterable[Any], sizes: Sequence[int], most: int
    ) -> None:
        """Traces the function.

        Args:
            function: Takes tensors and returns a dict of tensors.
            specs: For each argument `tf.TensorSpec`s in its structure; None to run the function eagerly, whole.
            trained: The Keras variables that are trained.
            sizes: Number of samples in each lot of arguments that it will be called with.
            most: Largest number of bytes that may be kept. Where it would be more, nothing is.
        """
        self.reuses = 0
        self._rest: Any = None
        self._kept: dict[int, list[Any]] = {}
        self._proven: set[int] = set()
        self._held: tuple[list[Any], list[Any]] | None = None
        self._writes = 0
        self._most = most
        handles = [handle for variable in trained for handle in _handles(variable)]
        cuts: list[Cut | None] = [None]

        def whole(*arguments: Any) -> tuple[Any, Any]:
            found = function(*arguments)
            cuts[:] = [None]  # The function may be traced twice.
            if specs is None or not most:
                return found, ()
            cut = find_cut(tf.nest.flatten(arguments), tf.nest.flatten(found), handles)
            if cut is None or sum(_bytes(tensor, size) for size in sizes for tensor in cut.kept) > most:
                return found, ()
            cuts[:] = [cut]
            return found, cut.kept

        self._whole: Callable[..., Any] = whole
        if specs is not None:
            self._whole = traced(whole, *specs)
        self._cut = cuts[0]
        self._read: Callable[[], list[Any]] = _reader(self._cut.variables) if self._cut else list

    @property
    def bytes_kept(self) -> float:
        """How many bytes are kept now."""
        return sum(_bytes(tensor) for lot in self._kept.values() for tensor in lot)

    def renew(self) -> None:
        """Lets go of what is kept if a variable that it depends on was written. To be called before each round."""
        if self._cut is None:
            return
        tensors = self._read()
        now = tensors, list(map(_in_memory, tensors))
        if not self._held or all(map(_is_same, *self._held, *now)):
            self._writes = 0
        else:
            self._writes += 1
            self._kept.clear()
        # Where the same values were written once more, they have a new buffer.
        self._held = now
        if self._writes > 1:  # In two rounds running: training moves them, as it moves statistics of batches.
            self._run_whole_only()

    def beside(self, tensors: Sequence[Any], function: Callable[..., Any]) -> Callable[..., Any] | None:
        """Compiles a function of tensors of the traced one; see `contract.FrozenPass`."""
        graph = getattr(self._whole, "graph", None)
        if graph is None or any(getattr(tensor, "graph", None) is not graph for tensor in tensors):
            return None  # It runs eagerly, or some of it in a loop.
        try:
            part = _part(self._whole, tensors, (), function)
        except (TypeError, ValueError, tf.errors.OpError):
            return None  # An operation that can't be moved into another graph.

        def flat(*arguments: Any) -> Any:
            return part(*tf.nest.flatten(arguments))

        return partial(on_arrays, flat)

    def __call__(self, lot: int | None, *arguments: Any) -> Any:
        """Returns what the function returns, as numpy arrays that are read-only.

        Args:
            lot: Number of the lot, which is called with the same arguments each time; None keeps nothing.
            *arguments: Arrays or tensors.
        """
        return on_arrays(partial(self._run, lot), *arguments)

    def _run(self, lot: int | None, *arguments: Any) -> Any:
        kept = None if lot is None else self._kept.get(lot)
        if kept is not None:
            self.reuses += 1
            return self._run_rest(arguments, kept)
        found, kept = self._whole(*arguments)
        if self._cut is None or lot is None:
            return found
        if lot not in self._proven:
            if not self._is_proven(arguments, found, kept):
                self._run_whole_only()
                return found
            self._proven.add(lot)
        self._kept[lot] = kept
        if self.bytes_kept > self._most:  # Rows of the batch may be folded with others, such as windows of the image.
            self._run_whole_only()
        return found

    def _is_proven(self, arguments: Any, found: Any, kept: Sequence[Any]) -> bool:
        """Tells whether the rest gives the same to the last bit; the two functions are optimised apart."""
        try:
            rest = self._run_rest(arguments, kept)
        except (TypeError, ValueError, tf.errors.OpError):
            return False  # An operation that can't be moved into another graph costs speed, and no maps.
        return all(map(_same_bits, tf.nest.flatten(found), tf.nest.flatten(rest)))

    def _run_whole_only(self) -> None:
        self._cut = None
        self._kept.clear()
        self._held = None

    def _run_rest(self, arguments: Any, kept: Sequence[Any]) -> Any:
        if self._rest is None:
            assert self._cut is not None
            self._rest = _behind(self._whole, self._cut)
        return self._rest(*tf.nest.flatten(arguments), *kept)


def find_cut(arguments: Sequence[Any], results: Sequence[Any], trained: Iterable[Any]) -> Cut | None:
    """Cuts the graph that is being traced.

    Args:
        arguments: Its argument tensors, which are the same at each call.
        results: The tensors that are asked for.
        trained: Handles of the variables that are trained.

    Returns:
        The cut; None where no variable is read for what is known to stay the same, or where something in the graph has
        a state of its own.
    """
    graph = tf.compat.v1.get_default_graph()
    handles = {inside.op.name: outside for outside, inside in graph.captures if inside.dtype == tf.resource}
    given = {tensor.op.name for tensor in arguments}
    moving = set(map(id, trained))
    of_batch, changes = set(given), set[str]()
    for op in graph.get_operations():
        sources = {tensor.op.name for tensor in op.inputs}
        if op.type in READS and op.inputs[0].op.name in handles:
            if id(handles[op.inputs[0].op.name]) in moving:
                changes.add(op.name)
        elif op.op_def.is_stateful or any(tensor.dtype == tf.resource for tensor in op.inputs):
            return None
        if sources & changes:
            changes.add(op.name)
        if sources & of_batch:
            of_batch.add(op.name)

    def is_kept(tensor: Any) -> bool:
        name = tensor.op.name
        return name in of_batch and name not in changes and name not in given

    # What depends on variables alone, such as a kernel in another dtype, is computed again.
    after = ancestors(results, lambda tensor: not is_kept(tensor))
    kept = {t.name: t for t in [*results, *(t for op in after for t in op.inputs)] if is_kept(t)}
    reads = [op for op in ancestors(kept.values()) if op.type in READS]
    variables = {op.inputs[0].op.name: op.outputs[0].dtype for op in reads}
    if not variables or any(tensor.dtype in (tf.resource, tf.variant) for tensor in kept.values()):
        return None
    return Cut(tuple(kept.values()), tuple((handles[name], dtype) for name, dtype in variables.items()))


def _behind(whole: Any, cut: Cut) -> Any:
    """Returns a function of arguments and kept tensors that gives what the whole one does, by the operations behind."""
    results = whole.structured_outputs[0]

    def packed(*tensors: Any) -> Any:
        return tf.nest.pack_sequence_as(results, tensors)

    return _part(whole, tf.nest.flatten(results), cut.kept, packed)


def _part(whole: Any, results: Sequence[Any], cut: Sequence[Any], function: Callable[..., Any]) -> Any:
    """Returns a function of arguments and of tensors at which the whole one is cut, by the operations behind these.

    Args:
        whole: A traced function.
        results: Tensors of its graph.
        cut: Further tensors of it, whose values are handed over.
        function: Takes the results; what it returns is returned.
    """
    kept = {tensor.name for tensor in cut}
    every = ancestors(results, lambda tensor: tensor.name not in kept)
    operations = [op for op in every if op.type != "Placeholder"]
    needed = {tensor.name for op in operations for tensor in op.inputs}
    definition = tf.compat.v1.GraphDef(node=[op.node_def for op in operations])
    if any(value.HasField("func") for node in definition.node for value in node.attr.values()):
        definition.library.CopyFrom(whole.graph.as_graph_def().library)
    for node in definition.node:
        # What orders the operations, or puts them beside others, may be left out here; nothing is written.
        node.input[:] = [name for name in node.input if not name.startswith("^")]
        node.attr.pop("_class", None)
    captured = whole.captured_inputs
    arguments = whole.inputs[: len(whole.inputs) - len(captured)]
    given = [*arguments, *cut]

    def rest(*values: Any) -> Any:
        capture = tf.compat.v1.get_default_graph().capture
        outside = zip(whole.inputs[len(arguments) :], captured, strict=True)
        sources = {inside.name: capture(tensor) for inside, tensor in outside if inside.name in needed}
        known = zip(given, values, strict=True)
        sources |= {inside.name: value for inside, value in known if inside.name in needed}
        found = tf.graph_util.import_graph_def(
            definition, input_map=sources, return_elements=[tensor.name for tensor in results], name=""
        )
        return function(*found)

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in given]
    return traced(rest, *specs)


def _handles(variable: Any) -> list[Any]:
    """Returns the resource handles of a Keras variable: under a distribution strategy it has one on each device."""
    value = getattr(variable, "value", variable)
    return [each.handle for each in getattr(value, "values", (value,))]


def _reader(variables: Sequence[tuple[Any, Any]]) -> Any:
    """Returns a function that reads variables, several times as quick as to read one by one."""

    def read() -> Any:
        capture = tf.compat.v1.get_default_graph().capture
        return [tf.raw_ops.ReadVariableOp(resource=capture(handle), dtype=dtype) for handle, dtype in variables]

    return traced(read)


def _in_memory(tensor: Any) -> Any | None:
    """Returns an array that is the tensor's own buffer, where that is in the CPU's memory."""
    return np.asarray(tensor) if "CPU" in tensor.device else None


def _is_same(held: Any, held_array: Any, now: Any, now_array: Any) -> bool:
    """Tells whether a variable has the value that is held; two buffers that are there at once are never one place."""
    if held_array is not None and now_array is not None and np.may_share_memory(held_array, now_array):
        return True
    return _same_bits(held, now)


def _same_bits(one: Any, other: Any) -> bool:
    """Tells whether two tensors are the same to the last bit, NaN and the sign of zero included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(tf.reduce_all(tf.equal(*(_as_numbers(tensor) for tensor in (one, other)))))


def _as_numbers(tensor: Any) -> Any:
    return tf.bitcast(tensor, tf.uint8) if tensor.dtype.is_floating else tensor


def _bytes(tensor: Any, samples: int = 1) -> float:
    """Returns the bytes of a tensor with so many samples; infinity where it may have any size."""
    shape = tensor.shape
    if shape.rank is None or None in tuple(shape)[1:]:
        return inf
    return float(prod(samples if size is None else size for size in shape) * tensor.dtype.size)
