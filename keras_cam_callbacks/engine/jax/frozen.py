"""A traced pass whose frozen part runs once: found in its graph, kept, and left out for as long as nothing is written.

Of a frozen network with a trainable head, all that lies before the head puts out the same in every epoch. What is the
same is decided in the graph, not by layers: a value is, if it comes from the arguments, from constants and from
variables that are not trained, whatever the model is made of. Those of them that the rest of the graph takes are kept;
the rest alone becomes a second program, of the very operations of the first.

Whether one of these variables was written meanwhile, by whomever, is looked up before each use. JAX's arrays never
change, so a variable is as it was while it has the same array. But `fit` hands all variables through its compiled step:
each comes out as another array, and the memory of the first is given away. So a copy of them is held, and compared bit
by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .graph import Graph, Value, outer, producer, reached_from, sources_of
from .programs import Lots, Program


@dataclass(frozen=True, eq=False)
class Cut:
    """Where a graph is cut into its frozen part and the rest.

    Attributes:
        kept: The values of the frozen part that the rest takes.
        variables: Numbers of the variables that these depend on.
    """

    kept: tuple[Value, ...]
    variables: tuple[int, ...]


class WholePass:
    """A function that runs whole each time; see `contract.FrozenPass`."""

    reuses = 0
    bytes_kept = 0.0

    def __init__(self, function: Callable[..., Any]) -> None:
        """Takes a function of arrays."""
        self._function = function

    def beside(self, tensors: Sequence[Any], function: Callable[..., Any]) -> Callable[..., Any] | None:
        """Returns None: the traced function is not taken apart."""
        return None

    def renew(self) -> None:
        """Does nothing: nothing is kept."""

    def __call__(self, lot: int | None, *arguments: Any) -> Any:
        """Returns what the function returns."""
        return self._function(*arguments)


class FrozenPass:
    """Runs a function of fixed arguments, and of its graph no more than what can have changed.

    Attributes:
        reuses: How often the rest was run without the frozen part.
    """

    def __init__(self, program: Program, trained: Iterable[Any], sizes: Sequence[int], most: int) -> None:
        """Cuts the graph.

        Args:
            program: The function, traced for the largest number of samples.
            trained: The Keras variables that are trained.
            sizes: Number of samples in each lot of arguments that it will be called with.
            most: Largest number of bytes that may be kept. Where it would be more, nothing is.
        """
        self.reuses = 0
        self._program, self._lots, self._most = program, Lots(program.size), most
        self._kept: dict[int, list[Any]] = {}
        self._proven: set[int] = set()
        self._held: list[Any] = []
        self._copies: list[Any] = []
        self._writes = 0
        self._cut: Cut | None = None
        self._whole: Any = None
        if most:
            moving = set(map(id, trained))
            self._graph = Graph()
            self._cut = self._find_cut([id(variable) in moving for variable in program.variables])
        if self._cut is not None:
            if len(sizes) * sum(_bytes(value) for value in self._cut.kept) > most:
                self._cut = None
            else:
                self._frontier = self._cut.kept
                self._whole, self._rest = jax.jit(self._run_whole), jax.jit(self._run_rest)

    def _find_cut(self, moving: Sequence[bool]) -> Cut | None:
        """Cuts the graph; None where no variable is read for what stays the same."""
        closed = self._program.traced.jaxpr
        tensors: dict[Value, Any] = {}
        constants = [outer(constant, tensors) for constant in closed.consts]
        self._constants = tensors
        self._inputs = [Value(var.aval) for var in closed.jaxpr.invars]
        self._results = self._graph.add(closed.jaxpr, constants, self._inputs)
        variables, arguments = self._inputs[: len(moving)], self._inputs[len(moving) :]
        changed, of_batch = set[Value](), set[Value]()
        for value, moves in zip(variables, moving, strict=True):
            changed |= reached_from(self._graph, value) if moves else set()
        for value in arguments:
            of_batch |= reached_from(self._graph, value)

        kept: dict[Value, None] = {}
        seen, waiting = set[Value](), list(self._results)
        while waiting:
            value = waiting.pop()
            step = producer(value)
            if value in seen or step is None:
                continue
            seen.add(value)
            if value in of_batch and value not in changed:
                kept[value] = None
            else:
                waiting.extend(step.inputs)
        sources = sources_of(kept)
        read = tuple(i for i, value in enumerate(variables) if value in sources)
        return Cut(tuple(kept), read) if read else None

    @property
    def bytes_kept(self) -> float:
        """How many bytes are kept now."""
        return float(sum(tensor.nbytes for lot in self._kept.values() for tensor in lot))

    def beside(self, tensors: Sequence[Any], function: Callable[..., Any]) -> Callable[..., Any] | None:
        """Returns None: the traced function is not taken apart."""
        return None

    def renew(self) -> None:
        """Lets go of what is kept if a variable that it depends on was written. To be called before each round."""
        if self._cut is None:
            return
        values = self._program.values()
        now = [values[i] for i in self._cut.variables]
        if self._held and all(map(_is_one, self._held, now)):
            self._writes = 0
            return
        if self._copies and bool(_are_same(self._copies, now)):
            self._writes = 0
        else:
            is_first = not self._copies
            self._writes += not is_first
            self._kept.clear()
            self._copies = _copied(now)
            if is_first:  # Compiled now, and not in a later epoch.
                _are_same(self._copies, now)
        self._held = now
        if self._writes > 1:  # In two rounds running: training moves them, as it moves statistics of batches.
            self._run_whole_only()

    def __call__(self, lot: int | None, *arguments: Any) -> Any:
        """Returns what the function returns, as numpy arrays that are read-only.

        Args:
            lot: Number of the lot, which is called with the same arguments each time; None keeps nothing.
            *arguments: Arrays or tensors.
        """
        size = None
        if lot is not None and jax.tree.leaves(arguments)[0].shape[0] <= self._program.size:
            size = self._program.size
        return self._lots.run(lambda *part: self._run(lot if size else None, part), arguments, size)

    def _run(self, lot: int | None, arguments: tuple[Any, ...]) -> Any:
        values = self._program.values()
        if self._whole is None or jax.tree.leaves(arguments)[0].shape[0] != self._program.size:
            return self._program.compiled(values, *arguments)
        kept = None if lot is None else self._kept.get(lot)
        if kept is not None:
            self.reuses += 1
            return self._structured(self._rest(values, arguments, kept))
        # Also where nothing is kept, as another program would have to be compiled.
        results, kept = self._whole(values, arguments)
        if self._cut is None or lot is None:
            return self._structured(results)
        if lot not in self._proven:
            rest = self._rest(values, arguments, kept)
            if not all(map(_same_bits, results, rest)):
                self._run_whole_only()
                return self._structured(results)
            self._proven.add(lot)
        self._kept[lot] = kept
        if self.bytes_kept > self._most:
            self._run_whole_only()
            self._whole = None  # It puts all of that out each time.
        return self._structured(results)

    def _structured(self, results: Sequence[Any]) -> Any:
        return jax.tree.unflatten(jax.tree.structure(self._program.traced.out_info), results)

    def _run_whole_only(self) -> None:
        self._cut = None
        self._kept.clear()
        self._held, self._copies = [], []

    def _tensors(self, values: Sequence[Any], arguments: tuple[Any, ...]) -> dict[Value, Any]:
        inputs = zip(self._inputs, [*values, *jax.tree.leaves(arguments)], strict=True)
        return {**self._constants, **dict(inputs)}

    def _run_whole(self, values: Sequence[Any], arguments: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        """What is compiled: all, and beside it what is kept, computed as if the rest were not there."""
        tensors = self._tensors(values, arguments)
        self._graph.evaluate(tensors, self._frontier)
        kept = jax.lax.optimization_barrier([tensors[value] for value in self._frontier])
        return self._behind(self._tensors(values, arguments), kept), kept

    def _run_rest(self, values: Sequence[Any], arguments: tuple[Any, ...], kept: Sequence[Any]) -> list[Any]:
        return self._behind(self._tensors(values, arguments), kept)

    def _behind(self, tensors: dict[Value, Any], kept: Sequence[Any]) -> list[Any]:
        tensors.update(zip(self._frontier, kept, strict=True))
        self._graph.evaluate(tensors, self._results)
        return [tensors[value] if value in tensors else jnp.asarray(value.constant) for value in self._results]


def _is_one(held: Any, now: Any) -> bool:
    """Tells whether two arrays are the same object, whose memory was not given away."""
    return held is now and not (isinstance(now, jax.Array) and now.is_deleted())


def _bits(tensor: Any) -> Any:
    if jnp.issubdtype(tensor.dtype, jnp.floating):
        return jax.lax.bitcast_convert_type(tensor, f"uint{8 * tensor.dtype.itemsize}")
    return tensor


@jax.jit  # type: ignore[untyped-decorator]
def _are_same(ones: Sequence[Any], others: Sequence[Any]) -> Any:
    """Tells whether all arrays are the same to the last bit, NaN and the sign of zero included."""
    pairs = zip(ones, others, strict=True)
    return jnp.all(jnp.stack([jnp.all(_bits(one) == _bits(other)) for one, other in pairs]))


@jax.jit  # type: ignore[untyped-decorator]
def _copied(tensors: Sequence[Any]) -> Any:
    return [jnp.copy(tensor) for tensor in tensors]


def _same_bits(one: Any, other: Any) -> bool:
    """Tells whether two tensors are the same to the last bit."""
    arrays = [np.ascontiguousarray(np.asarray(tensor)) for tensor in (one, other)]
    return arrays[0].shape == arrays[1].shape and arrays[0].tobytes() == arrays[1].tobytes()


def _bytes(value: Value) -> float:
    return float(prod(value.shape) * np.dtype(value.dtype).itemsize)
