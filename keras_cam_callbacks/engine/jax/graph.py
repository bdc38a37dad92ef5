"""What JAX has traced, as one graph: which value is which, what comes from what, and its parts run again.

Functions that were traced within others, such as `jax.jit` and `jax.checkpoint` make them, are taken apart. Those with
a derivative of their own (`jax.custom_jvp`) stay one operation where the graph is run, and are looked into all the
same. Loops and branches are one operation each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

# They hold operations that may as well be the graph's own.
_TAKEN_APART = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
_OF_OWN_DERIVATIVE = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
# They hand a value on as it is, but for its precision.
SAME = ("convert_element_type", "copy", "copy_p", "reduce_precision", "sharding_constraint")
# No derivative goes through them.
_STOPS = ("stop_gradient", "sign", "round", "floor", "ceil", "argmax", "argmin", "is_finite")


class Value:
    """A value of the graph: an input, a constant, or what an operation puts out.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        op: What puts it out; None for inputs and constants.
        constant: What it is, where it is a constant.
    """

    __slots__ = ("constant", "dtype", "op", "shape")

    def __init__(self, aval: Any, op: Op | None = None, constant: Any = None) -> None:
        """Takes shape and dtype from what JAX knows of a value."""
        self.shape, self.dtype = tuple(getattr(aval, "shape", ())), getattr(aval, "dtype", None)
        self.op, self.constant = op, constant

    @property
    def is_float(self) -> bool:
        """Whether it can have a derivative."""
        return self.dtype is not None and jax.dtypes.issubdtype(self.dtype, jax.numpy.inexact)


class Op:
    """An operation.

    Attributes:
        kind: The name of JAX's primitive.
        params: Its settings.
        inputs: What it takes.
        outputs: What it puts out.
        number: Its place in the order of all.
        unit: What runs in its place: itself, or the operation with a derivative of its own that it is within.
        inner: What is within one with a derivative of its own.
    """

    __slots__ = ("_part", "inner", "inputs", "kind", "number", "outputs", "params", "unit")

    def __init__(self, equation: Any, jaxpr: Any, inputs: Sequence[Value], number: int, unit: Op | None) -> None:
        """Notes an equation of a jaxpr."""
        self.kind, self.params = equation.primitive.name, equation.params
        self.inputs, self.number, self.unit = tuple(inputs), number, unit or self
        self.outputs: tuple[Value, ...] = ()
        self.inner: list[Op] = []
        self._part = equation, jaxpr

    @property
    def has_effects(self) -> bool:
        """Whether it does anything but put out values."""
        return bool(self._part[0].effects)

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Runs it on values of its inputs; returns those of its outputs."""
        equation, jaxpr = self._part
        taken = {v: x for v, x in zip(equation.invars, values, strict=True) if not isinstance(v, core.Literal)}
        alone = jaxpr.replace(
            constvars=[],
            invars=list(taken),
            outvars=list(equation.outvars),
            eqns=[equation],
            debug_info=jaxpr.debug_info,
        )
        results: list[Any] = jax.core.eval_jaxpr(alone, (), *taken.values())
        return results


class Graph:
    """Operations in the order in which they ran.

    Attributes:
        ops: All operations; those with a derivative of their own by what is within them.
        consumers: For each value the operations that take it.
    """

    def __init__(self) -> None:
        """Makes an empty graph."""
        self.ops: list[Op] = []
        self.consumers: dict[Value, list[Op]] = defaultdict(list)
        self._units: list[Op] = []
        self._count = 0

    def add(self, jaxpr: Any, constants: Sequence[Value], inputs: Sequence[Value], unit: Op | None = None) -> list[Any]:
        """Adds the operations of a jaxpr.

        Args:
            jaxpr: The jaxpr, open.
            constants: The values of its constants.
            inputs: The values of its inputs.
            unit: The operation that it is within.

        Returns:
            The values of its outputs.
        """
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

        def read(atom: Any) -> Value:
            return Value(atom.aval, constant=atom.val) if isinstance(atom, core.Literal) else values[atom]

        for equation in jaxpr.eqns:
            taken, kind = [read(atom) for atom in equation.invars], equation.primitive.name
            inner = _within(equation) if kind in (*_TAKEN_APART, *_OF_OWN_DERIVATIVE) else None
            outputs: Sequence[Value]
            if inner is None:
                op = self._op(equation, jaxpr, taken, unit)
                op.outputs = outputs = tuple(Value(var.aval, op) for var in equation.outvars)
                self.ops.append(op)
                for value in set(taken):
                    self.consumers[value].append(op)
                if unit is None:
                    self._units.append(op)
            elif kind in _TAKEN_APART:
                outputs = self.add(*inner, taken, unit)
            else:
                op = self._op(equation, jaxpr, taken, unit)
                before = len(self.ops)
                op.outputs = outputs = tuple(self.add(*inner, taken, op.unit))
                op.inner = self.ops[before:]
                if unit is None:
                    self._units.append(op)
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _op(self, equation: Any, jaxpr: Any, inputs: Sequence[Value], unit: Op | None) -> Op:
        self._count += 1
        return Op(equation, jaxpr, inputs, self._count, unit)

    def merge(self, instead: Mapping[Value, Value]) -> None:
        """Has all operations take other values in the place of some, which hold the same."""
        if not instead:
            return
        self.consumers.clear()
        for op in {id(op): op for op in (*self.ops, *self._units)}.values():
            op.inputs = tuple(instead.get(value, value) for value in op.inputs)
        for op in self.ops:
            for value in set(op.inputs):
                self.consumers[value].append(op)

    @property
    def results(self) -> list[Value]:
        """What all operations put out that run as they are."""
        return [value for op in self._units for value in op.outputs]

    def evaluate(
        self,
        values: dict[Value, Any],
        wanted: Iterable[Value],
        opened: Container[Op] = (),
        instead: Callable[[Op, list[Any]], list[Any] | None] | None = None,
    ) -> None:
        """Runs what is needed for some values, and puts all that it computes into `values`.

        Args:
            values: What is there, of inputs at least.
            wanted: What is wanted.
            opened: Operations with a derivative of their own of which what is within runs instead.
            instead: Takes an operation and its inputs; returns what it puts out, or None to have it run.
        """
        steps: dict[int, Op] = {}
        waiting = list(wanted)
        while waiting:
            value = waiting.pop()
            step = None if value in values else producer(value, opened)
            if step is not None and step.number not in steps:
                steps[step.number] = step
                waiting.extend(step.inputs)
        for _, step in sorted(steps.items()):
            taken = [tensor_of(value, values) for value in step.inputs]
            results = None if instead is None else instead(step, taken)
            if results is None:
                results = step.run(taken)
            for value, result in zip(step.outputs, results, strict=True):
                if producer(value, opened) is step:
                    values.setdefault(value, result)

    def differentiable(self, sources: Iterable[Value]) -> set[Value]:
        """Returns the values that have a derivative by any of some values, which are among them."""
        reached = {value for value in sources if value.is_float}
        first = min((0 if value.op is None else value.op.unit.number for value in reached), default=0)
        for op in self._units:
            if op.number < first or op.kind in _STOPS:
                continue
            within = [value for inner in op.inner for value in inner.outputs]
            if not reached.isdisjoint(op.inputs) or not reached.isdisjoint(within):
                reached.update(value for value in (*op.outputs, *within) if value.is_float)
        return reached


def _within(equation: Any) -> tuple[Any, list[Value]] | None:
    """Returns the jaxpr that an equation holds, and its constants; None where it holds none."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        if isinstance(inner, core.ClosedJaxpr):
            constants = zip(inner.jaxpr.constvars, inner.consts, strict=True)
            return inner.jaxpr, [Value(var.aval, constant=constant) for var, constant in constants]
        if isinstance(inner, core.Jaxpr) and not inner.constvars:
            return inner, []
    return None


def producer(value: Value, opened: Container[Op] = ()) -> Op | None:
    """Returns what runs to compute a value; None for inputs and constants."""
    if value.op is None:
        return None
    unit = value.op.unit
    return value.op if unit in opened or value not in unit.outputs else unit


def tensor_of(value: Value, values: dict[Value, Any]) -> Any:
    """Returns the tensor of a value that is a constant, or among those that are there."""
    return values[value] if value.op is not None or value in values else value.constant


def ancestors(values: Iterable[Value], follow: Callable[[Value], bool] = lambda value: True) -> list[Op]:
    """Returns the operations that values come from, each once, back to the values that are not followed."""
    ops: dict[int, Op] = {}
    waiting = [value.op for value in values if value.op is not None and follow(value)]
    while waiting:
        op = waiting.pop()
        if op.number not in ops:
            ops[op.number] = op
            waiting.extend(value.op for value in op.inputs if value.op is not None and follow(value))
    return list(ops.values())


def sources_of(values: Iterable[Value]) -> set[Value]:
    """Returns values and all that they come from."""
    values = list(values)
    return {*values, *(value for op in ancestors(values) for value in (*op.inputs, *op.outputs))}


def reached_from(graph: Graph, value: Value) -> set[Value]:
    """Returns a value and all that come from it."""
    reached, waiting = {value}, [value]
    while waiting:
        for op in graph.consumers.get(waiting.pop(), ()):
            fresh = [output for output in op.outputs if output not in reached]
            reached.update(fresh)
            waiting.extend(fresh)
    return reached


def root(value: Value) -> Value:
    """Returns what a value is a cast or a copy of."""
    while value.op is not None and value.op.kind in SAME:
        value = value.op.inputs[0]
    return value


def outer(tensor: Any, values: dict[Value, Any], is_input: bool = False) -> Value:
    """Returns the value of what comes from outside of a graph; arrays with fixed numbers are constants."""
    fixed = not isinstance(tensor, jax.core.Tracer) and not is_input
    value = Value(jax.typeof(tensor), constant=tensor if fixed else None)
    values[value] = tensor
    return value
