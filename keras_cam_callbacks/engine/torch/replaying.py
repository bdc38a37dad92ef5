"""Runs a plan: the operations of a function, of which those that stay the same hand out what they put out before.

The functions of PyTorch are called by the same code in the same order as when they were followed. That each call is the
one that it was before is checked.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from .arrays import address, same_bits
from .following import METADATA, RUN, Span, Step, named, same_as, tensors_in, with_values
from .proofs import Proofs
from .shortcuts import Group, Shortcuts


class Diverged(BaseException):
    """Something else is computed than what was kept. No user's `except Exception` may stop it."""


@dataclass(frozen=True, eq=False)
class Noted:
    """What a run noted while a group of nodes ran.

    Attributes:
        place: How many calls and tensors had been noted before.
        calls: The calls of layers.
        shapes: Shapes of tensors.
        floats: Whether they hold floating point numbers.
        sources: Numbers of the tensors that the group takes; None for one that has none.
        outputs: Numbers of those that it puts out.
    """

    place: tuple[int, int]
    calls: Sequence[Any]
    shapes: Sequence[tuple[int, ...]]
    floats: Sequence[bool]
    sources: Sequence[int | None]
    outputs: Sequence[int | None]


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
        settings: For each model whose graph has a shortcut, by its `id`, the arguments that it was called with.
        noted: For each group of nodes, by its first step, what was noted of it.
    """

    calls: dict[int, tuple[Any, list[Any]]] = field(default_factory=dict)
    outside: dict[tuple[int, int], Any] = field(default_factory=dict)
    made: dict[int, Any] = field(default_factory=dict)
    received: dict[int, Any] = field(default_factory=dict)
    settings: dict[int, Any] = field(default_factory=dict)
    noted: dict[int, Noted] = field(default_factory=dict)

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


class Replay(TorchFunctionMode):  # type: ignore[misc]  # PyTorch's types are passed over
    """Runs the operations of a plan: keeps what is to be kept, or hands it out.

    Attributes:
        kept: What is kept.
    """

    def __init__(
        self,
        plan: Sequence[Step],
        spans: Mapping[int, Span],
        shortcuts: Shortcuts,
        arguments: Iterable[Any],
        kept: Kept,
        proofs: Proofs,
        again: bool,
    ) -> None:
        """Begins.

        Args:
            plan: The plan.
            spans: Calls of layers whose operations may be left out together, by the first of these.
            shortcuts: Nodes of models' graphs that may be left out.
            arguments: The tensors that the function takes.
            kept: What is kept, or is to be filled.
            proofs: What tells whether tensors from outside have changed.
            again: Whether what is kept is handed out.
        """
        super().__init__()
        self._plan, self.kept, self._proofs, self._again = plan, kept, proofs, again
        self._spans, self._shortcuts = spans, shortcuts
        self._holders = {id(holder) for holder, _ in shortcuts.graphs}
        self._run: Any = None
        self._before: tuple[Any, list[Any], dict[int, Any]] | None = None
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

    @contextmanager
    def running(self, run: Any, model: Any) -> Iterator[Set[int]]:
        """Leaves nodes out of the graphs in a model, or sees them; yields the ids of layers that aren't called."""
        self._run = run
        if self._again:
            with self._shortcuts.taken(self._left_out):
                yield self._shortcuts.asleep.keys()
        else:
            with self._shortcuts.watched(self._on_node):
                yield frozenset()

    def _on_node(self, group: Group, node: Any, values: list[Any], function: Callable[[], Any]) -> Any:
        """Notes what a run does while a group of nodes runs."""
        if node is group.nodes[0]:
            self._before = self._run.place, values, {}
        assert self._before is not None
        place, sources, made = self._before
        output = function()
        made |= {id(one): tensor for one, tensor in zip(node.outputs, keras.tree.flatten(output), strict=True)}
        if node is group.nodes[-1]:
            record, self._before = self._run.record, None
            self.kept.noted[group.steps[0]] = Noted(
                place,
                self._run.calls[place[0] :],
                record.shapes[place[1] :],
                record.floats[place[1] :],
                list(map(record.number_of, sources)),
                [record.number_of(made[id(one)]) for one in group.outputs],
            )
        return output

    def _left_out(self, group: Group, sources: Sequence[Any]) -> list[Any]:
        """Returns what a group of nodes put out before."""
        run, noted = self._run, self.kept.noted[group.steps[0]]
        alike = self._at == group.steps[0] and run.place == noted.place
        if not alike or any(map(vars, sources)) or list(map(self._origin, sources)) != group.origins:
            raise Diverged
        self._at = group.steps[1]
        run.note_unseen(noted.calls)
        run.record.add_unseen(noted.shapes, noted.floats)
        if run.is_read(noted.place):
            raise Diverged
        self._passes = True  # What is made here is no operation of the function.
        try:
            outputs = [sources[one] if isinstance(one, int) else self._filled(*one) for one in group.handed]
        finally:
            self._passes = False
        numbers = zip([*sources, *outputs], [*noted.sources, *noted.outputs], strict=True)
        for tensor, number in numbers:
            if number is not None:
                run.record.name(tensor, number)
        return outputs

    def call(self, layer: Any, function: Any, args: Any, kwargs: Any, seen: bool) -> Any:
        """Calls a layer, or hands out what it gave before."""
        if id(layer) in self._holders or id(getattr(layer, "_functional", None)) in self._holders:
            settings = [_plain(args), _plain(kwargs)]
            if not _alike(self.kept.settings.setdefault(id(layer), settings), settings):
                raise Diverged
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
