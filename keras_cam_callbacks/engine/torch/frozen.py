"""A pass whose frozen part runs once: what it puts out is kept, and handed out for as long as nothing is written.

Which operations those are is found with one sample; see `following`. While the rest runs, the functions of PyTorch are
called by the same code in the same order. Those of the frozen part hand out what is kept, or a tensor without values
that only others of them take. That each call is the one that it was before, and that whatever comes from outside has
the bits that it had, is checked; where it isn't so, the whole runs.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from .arrays import as_arrays, as_tensor, same_bits
from .asked import Memory
from .following import METADATA, RUN, Follower, Span, Step, address, called_by, named, same_as, tensors_in, with_values
from .proofs import Proofs


class Diverged(BaseException):
    """Something else is computed than what was kept. No user's `except Exception` may stop it."""


@dataclass(eq=False)
class Kept:
    """What is kept of one lot.

    Attributes:
        calls: For each operation that is left out its arguments without tensors, and for each output its size, strides,
            dtype and device, and its values where they are kept.
        outside: For each tensor from outside that it takes, by step and position, its bits.
        made: The constants that were made of Python's numbers, by step.
        received: For each call of a layer that may be left out whole, by its first step, where the tensors that it took
            were put out, and its other arguments.
    """

    calls: dict[int, tuple[Any, list[Any]]] = field(default_factory=dict)
    outside: dict[tuple[int, int], Any] = field(default_factory=dict)
    made: dict[int, Any] = field(default_factory=dict)
    received: dict[int, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """How many bytes are kept."""
        storages = {
            address(values): values.untyped_storage().nbytes()
            for _, outputs in self.calls.values()
            for *_, values in outputs
            if values is not None
        }
        return sum(storages.values())


class _Replay(TorchFunctionMode):  # type: ignore[misc]  # PyTorch's types are passed over
    """Runs the operations of a plan: keeps what is to be kept, or hands it out.

    Attributes:
        kept: What is kept.
    """

    def __init__(
        self,
        plan: Sequence[Step],
        spans: Mapping[int, Span],
        arguments: Iterable[Any],
        kept: Kept,
        proofs: Proofs,
        again: bool,
    ) -> None:
        """Begins.

        Args:
            plan: The plan.
            spans: Calls of layers whose operations may be left out together, by the first of these.
            arguments: The tensors that the function takes.
            kept: What is kept, or is to be filled.
            proofs: What tells whether tensors from outside have changed.
            again: Whether what is kept is handed out.
        """
        super().__init__()
        self._plan, self.kept, self._proofs, self._again = plan, kept, proofs, again
        self._spans = spans
        # Where a tensor comes from: one of the arguments, or a step and which of its outputs.
        self._origins: dict[int, Any] = {id(one): (weakref.ref(one), (-1, i)) for i, one in enumerate(arguments)}
        self._at = 0
        self._hollow: dict[int, Any] = {}
        self._passes = False

    def is_over(self) -> bool:
        """Tells whether all operations have run."""
        return self._at == len(self._plan)

    def is_hollow(self, tensor: Any) -> bool:
        """Tells whether a tensor stands for one that was left out."""
        held = self._hollow.get(id(tensor))
        return held is not None and held() is tensor

    def call(self, layer: Any, function: Any, args: Any, kwargs: Any, seen: bool) -> Any:
        """Calls a layer, or hands out what it gave before."""
        start = self._at
        span = self._spans.get(start)
        if span is None or span.layer != id(layer) or seen:
            return function(*args, **kwargs)
        origins = [self._origin(tensor) for tensor in (*tensors_in(args), *tensors_in(kwargs))]
        received = origins, _plain(args), _plain(kwargs)
        if not self._again:
            self.kept.received[start] = received
        elif None not in origins and _alike(list(received), list(self.kept.received.get(start, ()))):
            self._at, (at, position) = span.stop, span.origin
            self._passes = True  # What is made here is no operation of the function.
            try:
                return self._filled(at, position)
            finally:
                self._passes = False
        return function(*args, **kwargs)

    def _origin(self, tensor: Any) -> tuple[int, int] | None:
        held = self._origins.get(id(tensor))
        return held[1] if held is not None and held[0]() is tensor else None

    def _filled(self, at: int, position: int) -> Any:
        """Returns one of the outputs of a step: what is kept, or a tensor without values."""
        size, strides, dtype, device, values = self.kept.calls[at][1][position]
        if values is not None:
            tensor = values.detach()
        else:
            tensor = torch.empty_strided(size, strides, dtype=dtype, device=device)
            self._hollow[id(tensor)] = weakref.ref(tensor)
        self._origins[id(tensor)] = weakref.ref(tensor), (at, position)
        return tensor

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function, or hands out what it gave before."""
        if self._passes:
            return function(*args, **(kwargs or {}))
        args, kwargs = with_values(self, types, args, kwargs or {})
        name = named(function)
        if name in METADATA:
            return function(*args, **kwargs)
        taken = [*tensors_in(args), *tensors_in(kwargs)]
        if not taken and not self._is_next(name):
            result = function(*args, **kwargs)
            if next(tensors_in(result), None) is not None:
                raise Diverged
            return result
        if not self._is_next(name):
            raise Diverged
        at, step = self._at, self._plan[self._at]
        if len(step.inputs) != len(taken):
            raise Diverged
        self._at += 1
        if step.decision == RUN:
            if any(map(self.is_hollow, taken)):
                raise Diverged
            if not step.moving:
                self._check_outside(at, step, taken)
            result = function(*args, **kwargs)
            if not taken:
                self._check_made(at, result)
            return result
        self._check_outside(at, step, taken)
        return (
            self._handed_out(at, step, taken, args, kwargs)
            if self._again
            else self._keep(at, step, taken, function, args, kwargs)
        )

    def _is_next(self, name: str) -> bool:
        return self._at < len(self._plan) and self._plan[self._at].name == name

    def _check_made(self, at: int, result: Any) -> None:
        made = list(tensors_in(result))
        before = self.kept.made.setdefault(at, [tensor.clone() for tensor in made])
        if len(before) != len(made) or not all(map(same_bits, before, made)):
            raise Diverged

    def _check_outside(self, at: int, step: Step, taken: list[Any]) -> None:
        """Notes the bits of what comes from outside, or checks them."""
        for position, (tensor, origin) in enumerate(zip(taken, step.inputs, strict=True)):
            if origin is None and not self._again:
                self.kept.outside[at, position] = self._proofs.add(tensor)
            elif origin is None and not self._proofs.is_proven(self.kept.outside[at, position], tensor):
                raise Diverged

    def _keep(self, at: int, step: Step, taken: list[Any], function: Any, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        whole = isinstance(result, torch.Tensor) or all(isinstance(part, torch.Tensor) for part in result)
        if same_as(taken, result) != step.same or not whole:
            raise Diverged
        outputs = [
            (tensor.size(), tensor.stride(), tensor.dtype, tensor.device, tensor if i in step.needed else None)
            for i, tensor in enumerate(tensors_in(result))
        ]
        alone = isinstance(result, torch.Tensor)
        if step.same is None or step.in_place:
            for i, tensor in enumerate(tensors_in(result)):
                self._origins[id(tensor)] = weakref.ref(tensor), (at, i)
        self.kept.calls[at] = ((alone, type(result), _plain(args), _plain(kwargs)), outputs)
        return result

    def _handed_out(self, at: int, step: Step, taken: list[Any], args: Any, kwargs: Any) -> Any:
        (alone, kind, *settings), outputs = self.kept.calls[at]
        if not _alike(settings, [_plain(args), _plain(kwargs)]):
            raise Diverged
        if step.same is not None:
            values = outputs[0][-1]
            if step.in_place and values is not None:  # It had no values until now.
                taken[step.same].set_(values.detach())
                self._hollow.pop(id(taken[step.same]), None)
            if step.in_place:
                self._origins[id(taken[step.same])] = weakref.ref(taken[step.same]), (at, 0)
            return taken[step.same]
        results = [self._filled(at, position) for position in range(len(outputs))]
        return results[0] if alone else kind(tuple(results))


def _plain(value: Any) -> Any:
    """Returns arguments with None in the place of tensors."""
    if isinstance(value, torch.Tensor):
        return None
    if type(value) in (tuple, list):
        return [_plain(part) for part in value]
    return {name: _plain(part) for name, part in value.items()} if type(value) is dict else value


def _alike(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)


def _twice(tensor: Any) -> Any:
    return torch.cat([tensor, tensor]) if isinstance(tensor, torch.Tensor) else np.concatenate([tensor, tensor])


class FrozenPass:
    """Runs a function of fixed arguments, and of its operations no more than what can have changed.

    Attributes:
        reuses: How often the rest was run without the frozen part.
    """

    def __init__(
        self, function: Callable[..., Any], model: Any, example: tuple[Any, ...], fixed: bool, most: int
    ) -> None:
        """Runs nothing yet.

        Args:
            function: Takes tensors and returns a dict of tensors.
            model: The model that it runs.
            example: Arguments of a sample.
            fixed: Whether it takes no other number of samples.
            most: Largest number of bytes that may be kept. Where it would be more, nothing is.
        """
        self.reuses = 0
        self._function, self._example, self._fixed, self._most = function, example, fixed, most
        tensors = [*(variable.value for variable in model.variables), *torch.nn.Module.buffers(model)]
        self._variables = set(map(address, tensors))
        self._trained = {address(variable.value) for variable in model.trainable_variables}
        self._memory = Memory()
        self._plan: list[Step] | None = None
        self._spans: dict[int, Span] = {}
        self._whole_only = not most
        self._lots: dict[int, Kept] = {}
        self._proofs = Proofs(most)
        self._proven: set[int] = set()
        self._writes = 0

    @property
    def bytes_kept(self) -> float:
        """How many bytes are kept now."""
        return float(sum(kept.bytes for kept in self._lots.values()))

    def beside(self, tensors: Sequence[Any], function: Callable[..., Any]) -> Callable[..., Any] | None:
        """Returns None: nothing is traced."""
        return None

    def renew(self) -> None:
        """Lets go of what is kept if a variable that it depends on was written. To be called before each round."""
        if not self._lots:
            return
        if self._proofs.are_same():
            self._writes = 0
        else:
            self._changed()

    def _changed(self) -> None:
        self._writes += 1
        self._lots.clear()
        self._proofs = Proofs(self._most)
        if self._writes > 1:  # In two rounds running: training moves them, as it moves statistics of batches.
            self._run_whole_only()

    def __call__(self, lot: int | None, *arguments: Any) -> Any:
        """Returns what the function returns, as numpy arrays that are read-only.

        Args:
            lot: Number of the lot, which is called with the same arguments each time; None keeps nothing.
            *arguments: Arrays or tensors.
        """
        with torch.no_grad():
            tensors = keras.tree.map_structure(as_tensor, arguments)
            return as_arrays(self._run(lot, tensors))

    def _run(self, lot: int | None, arguments: Any) -> Any:
        whole = functools.partial(self._function, *arguments)
        if lot is None or self._whole_only:
            return self._memory.call(whole)
        if self._plan is None:
            self._plan = self._planned()
            if self._plan is None:
                self._run_whole_only()
                return self._memory.call(whole)
        if lot in self._lots:
            try:
                results = self._replayed(self._lots[lot], arguments, again=True)
            except Diverged:
                self._changed()
                return self._run(lot, arguments)
            self.reuses += 1
            return results
        kept = Kept()
        try:
            results = self._replayed(kept, arguments, again=False)
            if lot not in self._proven:
                rest = self._replayed(kept, arguments, again=True)
                if not all(map(same_bits, keras.tree.flatten(results), keras.tree.flatten(rest))):
                    raise Diverged
                self._proven.add(lot)
        except Diverged:
            self._run_whole_only()
            return self._memory.call(whole)
        self._lots[lot] = kept
        if self.bytes_kept > self._most:
            self._run_whole_only()
        return results

    def _planned(self) -> list[Step] | None:
        """Returns what is done with each operation, found with the example."""
        arguments = keras.tree.map_structure(as_tensor, self._example)
        if not self._fixed:
            # A tensor of one sample may be taken for one in another order.
            arguments = keras.tree.map_structure(_twice, arguments)
        # The first of them tells what the next is asked for.
        self._memory.call(functools.partial(self._function, *arguments))
        followers: list[Follower] = []

        def followed() -> Any:
            followers.append(
                Follower(filter(torch.is_tensor, keras.tree.flatten(arguments)), self._variables, self._trained)
            )
            with called_by(followers[-1]):
                return self._function(*arguments)

        results = self._memory.call(followed)
        plan: list[Step] | None = followers[-1].plan(keras.tree.flatten(results))
        self._spans = followers[-1].spans
        return plan

    def _replayed(self, kept: Kept, arguments: Any, again: bool) -> Any:
        assert self._plan is not None
        plan = self._plan

        def run() -> Any:
            replay = _Replay(plan, self._spans, keras.tree.flatten(arguments), kept, self._proofs, again)
            with called_by(replay):
                results = self._function(*arguments)
            if not replay.is_over() or any(map(replay.is_hollow, keras.tree.flatten(results))):
                raise Diverged
            return results

        return self._memory.call(run)

    def _run_whole_only(self) -> None:
        self._whole_only = True
        self._plan = None
        self._lots.clear()
        self._proofs = Proofs(0)
