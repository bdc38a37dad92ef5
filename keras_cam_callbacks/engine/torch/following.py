"""What of a function stays the same while a model is trained, found by following what its operations take.

A tensor stays the same if it comes from the arguments, from constants and from variables that are not trained. Those of
them that the rest takes are kept; the operations before them need not run again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import torch
from torch.overrides import TorchFunctionMode

from .arrays import address
from .proofs import is_plain
from .recording import is_in_place, name_of
from .shortcuts import Ran, Shortcuts, all_watched, find_shortcuts

RUN, KEEP, SKIP = "run", "keep", "skip"
"""What is done with an operation once what stays the same is kept: it runs, hands out what is kept, or nothing."""

METADATA = (
    *("size", "shape", "dtype", "device", "ndim", "dim", "is_contiguous", "stride", "numel", "requires_grad", "len"),
    *("is_floating_point", "layout", "storage_offset", "element_size", "is_leaf", "grad_fn", "is_cuda", "is_sparse"),
    *("is_quantized", "is_meta", "itemsize", "nelement", "is_complex", "type", "is_signed", "get_device", "names"),
    *("ndimension", "is_inference", "is_nested", "is_mkldnn", "is_cpu", "nbytes", "dim_order", "is_conj", "is_neg"),
    *("result_type", "can_cast", "broadcast_shapes", "is_tensor", "is_grad_enabled", "finfo", "iinfo", "hash", "repr"),
)
"""Functions that tell of a tensor what another one in its place has as well."""

_RANDOM = (
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial"),
    *("normal", "uniform", "poisson", "binomial", "exponential", "geometric", "log_normal", "cauchy", "random"),
)


def tensors_in(value: Any) -> Iterator[Any]:
    """Yields the tensors among arguments, in lists and tuples too."""
    if isinstance(value, torch.Tensor):
        yield value
    elif type(value) in (tuple, list):
        for part in value:
            yield from tensors_in(part)
    elif type(value) is dict:
        for part in value.values():
            yield from tensors_in(part)


def is_uncertain(function: Any, args: Any, kwargs: Any) -> bool:
    """Tells whether a function is random, or writes where that isn't seen: then nothing can be left out."""
    name = named(function)
    dropped = "dropout" in name and (kwargs.get("training", args[2] if len(args) > 2 else True) is not False)
    return name in _RANDOM or dropped or kwargs.get("out") is not None or "generator" in kwargs


@dataclass(eq=False, slots=True)
class Step:
    """One operation.

    Attributes:
        name: The function's name.
        inputs: For each tensor that it takes which step put it out and where, None for one from outside.
        moving: Whether it must run each time.
        of_batch: Whether it comes from the arguments.
        of_variables: Whether it comes from a variable of the model.
        in_place: Whether it writes into the tensor that it returns, which is then one of this step.
        shares: Whether it puts out a tensor in the memory of one that it takes.
        taken: Whether anything has taken what it puts out.
        decision: One of `RUN`, `KEEP` and `SKIP`.
        same: Which of the tensors that it takes it returns, as what needn't be cast; None for another one.
        needed: Which of its outputs are taken by what runs.
    """

    name: str
    inputs: list[tuple[int, int] | None]
    moving: bool
    of_batch: bool
    of_variables: bool
    same: int | None = None
    in_place: bool = False
    shares: bool = False
    taken: bool = False
    decision: str = RUN
    needed: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Span:
    """The operations of one call of a layer that calls no other.

    Attributes:
        layer: The layer's `id`.
        start: The first of them.
        stop: The one behind the last.
        origin: Which of them put out what the layer did, and where.
    """

    layer: int
    start: int
    stop: int
    origin: tuple[int, int]


_around: list[Any] = []


def around() -> Any | None:
    """Returns the mode that models and layers are called by, if any.

    Its `running` takes a run and a model, and is entered around the latter; its `call` takes a layer, the layer's
    `call`, the arguments, and whether what is inside is to be seen.
    """
    return _around[-1] if _around else None


@contextmanager
def called_by(mode: Any) -> Iterator[None]:
    """Enters a mode, and has the layers be called by it while the context lasts."""
    with mode:
        _around.append(mode)
        try:
            yield
        finally:
            _around.pop()


class Follower(TorchFunctionMode):  # type: ignore[misc]  # PyTorch's types are passed over
    """Follows what a function's operations take while it is entered.

    Attributes:
        steps: Its operations.
        spans: Calls of layers whose operations can be left out together, by the first of these.
        shortcuts: Nodes of models' graphs that can be left out.
        uncertain: Whether nothing may be left out.
    """

    def __init__(self, arguments: Iterable[Any], variables: set[int], trained: set[int]) -> None:
        """Begins.

        Args:
            arguments: The tensors that the function takes.
            variables: Addresses of the model's variables.
            trained: Addresses of those that are trained.
        """
        super().__init__()
        self.steps: list[Step] = []
        self.spans: dict[int, Span] = {}
        self.shortcuts = Shortcuts()
        self._calls = 0
        self._layers: dict[int, Any] = {}
        self._ran: dict[int, list[Ran]] = {}
        self._holders: dict[int, tuple[Any, Any]] = {}
        self._runs: list[Any] = []
        self.uncertain = False
        self._variables, self._trained = variables, trained
        self._arguments = {id(one): (one, i) for i, one in enumerate(arguments)}
        self._made: dict[int, tuple[Any, int, int]] = {}

    def origin(self, tensor: Any) -> tuple[int, int] | None:
        """Returns which step put out a tensor, and where; None for one from outside."""
        made = self._made.get(id(tensor))
        return made[1:] if made is not None and made[0]() is tensor else None

    def source(self, tensor: Any) -> tuple[int, int] | None:
        """Returns the same, and of an argument -1 and which it is."""
        argument = self._arguments.get(id(tensor))
        return self.origin(tensor) if argument is None else (-1, argument[1])

    @contextmanager
    def running(self, run: Any, model: Any) -> Iterator[Set[int]]:
        """Sees all nodes of graphs in a model; yields the ids of layers that aren't called, none."""
        self._runs.append(run)
        with all_watched(model, self._on_node) as holders:
            self._holders |= {id(holder): (layer, holder) for layer, holder in holders}
            yield frozenset()

    def _on_node(self, node: Any, values: Sequence[Any], function: Callable[[], Any]) -> Any:
        run, start, before = self._runs[-1], len(self.steps), self._runs[-1].place
        sources, bare = [self.source(value) for value in values], _are_bare(values)
        output = function()
        tensors = keras.tree.flatten(output)
        bare = bare and _are_bare(tensors) and len(tensors) == len(node.outputs) and not run.is_read(before)
        outputs = [self.source(tensor) for tensor in tensors]
        seen = Ran((start, len(self.steps)), run.calls[before[0] :], sources, outputs, bare)
        self._ran.setdefault(id(node), []).append(seen)
        return output

    def call(self, layer: Any, function: Any, args: Any, kwargs: Any, seen: bool) -> Any:
        """Calls a layer and notes which operations are its own."""
        self._layers[id(layer)] = layer
        self._calls += 1
        start, number = len(self.steps), self._calls
        output = function(*args, **kwargs)
        origin = self.origin(output) if self._calls == number and isinstance(output, torch.Tensor) else None
        if origin is not None and origin[0] >= start:
            self.spans[start] = Span(id(layer), start, len(self.steps), origin)
        return output

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function and follows it."""
        args, kwargs = with_values(self, types, args, kwargs or {})
        result = function(*args, **kwargs)
        if named(function) in METADATA:
            return result
        taken = list(tensors_in(args)) + list(tensors_in(kwargs))
        outputs = list(tensors_in(result))
        if not outputs and not taken:
            return result
        self.uncertain = self.uncertain or is_uncertain(function, args, kwargs)
        inputs = [self.origin(tensor) for tensor in taken]
        of_batch = any(id(tensor) in self._arguments for tensor in taken)
        of_variables = False
        # What is read as a number by Python, and what gradients are taken from, is needed as it is.
        moving = not outputs or not taken or named(function) == "requires_grad_"
        for tensor, origin in zip(taken, inputs, strict=True):
            if origin is None:
                moving = moving or address(tensor) in self._trained
                of_variables = of_variables or address(tensor) in self._variables
            else:
                step = self.steps[origin[0]]
                of_variables = of_variables or step.of_variables
                moving, of_batch = moving or (step.moving and bool(step.inputs)), of_batch or step.of_batch
            moving = moving or tensor.requires_grad
        at, same = len(self.steps), same_as(taken, result)
        writes = is_in_place(function) and named(function) != "requires_grad_"
        self.uncertain = self.uncertain or (writes and (same != 0 or not self._may_write(inputs[0], moving)))
        for origin in inputs:
            if origin is not None:
                self.steps[origin[0]].taken = True
        step = Step(named(function), inputs, moving, of_batch, of_variables, None if moving else same, writes)
        step.shares = not {address(tensor) for tensor in taken}.isdisjoint(map(address, outputs))
        self.steps.append(step)
        if step.same is None or writes:
            for position, tensor in enumerate(outputs):
                self._made[id(tensor)] = (weakref.ref(tensor), at, position)
        return result

    def layers(self) -> list[Any]:
        """Returns the layers and operations that may be left out."""
        return [*(self._layers[span.layer] for span in self.spans.values()), *self.shortcuts.layers()]

    def _may_write(self, origin: tuple[int, int] | None, moving: bool) -> bool:
        """Tells whether a function may write into a tensor: nobody else has it, and it isn't one that is kept."""
        if origin is None:
            return False
        step = self.steps[origin[0]]
        return (
            not step.taken and (step.in_place or not step.shares) and not (moving and step.of_batch and not step.moving)
        )

    def _may_leave_out(self, steps: tuple[int, int], outputs: Collection[tuple[int, int] | None]) -> bool:
        """Tells whether of some operations no more is needed than what they put out."""
        for at in range(*steps):
            step = self.steps[at]
            if step.decision == RUN and (step.inputs or step.needed):
                return False
            if step.decision == KEEP and not {(at, position) for position in step.needed} <= set(outputs):
                return False
            if step.in_place and (step.inputs[0] is None or step.inputs[0][0] < steps[0]):
                return False
        return True

    def plan(self, results: Iterable[Any]) -> list[Step] | None:
        """Decides what is done with each operation.

        Args:
            results: The tensors that the function has returned.

        Returns:
            The steps; None where nothing can be kept.
        """
        if self.uncertain:
            return None
        for tensor in results:
            origin = self.origin(tensor)
            if origin is not None:
                self.steps[origin[0]].needed.add(origin[1])
        for step in reversed(self.steps):
            runs = step.moving or (not step.of_batch and step.needed)
            step.decision = RUN if runs else KEEP if step.needed else SKIP
            for origin in step.inputs if runs else ():
                if origin is not None:
                    self.steps[origin[0]].needed.add(origin[1])
        self.spans = {
            start: span
            for start, span in self.spans.items()
            if self.steps[span.origin[0]].decision != RUN
            and self._may_leave_out((span.start, span.stop), [span.origin])
            and is_plain(self._layers[span.layer])
        }
        calls = [call for run in self._runs for call in run.calls]
        self.shortcuts = find_shortcuts(self._holders.values(), self._ran, calls, self._may_leave_out)
        # Of images alone, such as with a border, nothing is worth keeping.
        return self.steps if any(step.decision == KEEP and step.of_variables for step in self.steps) else None


def _are_bare(values: Iterable[Any]) -> bool:
    """Tells whether values are tensors that nothing, such as a mask, is attached to."""
    return all(isinstance(value, torch.Tensor) and not vars(value) for value in values)


def with_values(mode: TorchFunctionMode, types: Any, args: Any, settings: dict[str, Any]) -> tuple[Any, Any]:
    """Returns arguments with the values of Keras' variables in their place, which the mode sees to be read."""
    if not any(issubclass(kind, keras.Variable) for kind in types):
        return args, settings

    def value(argument: Any) -> Any:
        if isinstance(argument, keras.Variable):
            return argument.value
        return type(argument)(map(value, argument)) if type(argument) in (tuple, list) else argument

    with mode:
        return tuple(map(value, args)), {name: value(argument) for name, argument in settings.items()}


def same_as(taken: list[Any], result: Any) -> int | None:
    """Returns which of the tensors that a function takes it returns; None where it returns another one."""
    return next((i for i, tensor in enumerate(taken) if tensor is result), None)


def named(function: Any) -> str:
    """Returns a function's name, looked up once."""
    try:
        return _names[function]
    except KeyError:
        return _names.setdefault(function, name_of(function))


_names: dict[Any, str] = {}
