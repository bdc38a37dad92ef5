"""What a run computes, noted as it runs: every operation, what it takes and what it puts out, by numbers for tensors.

PyTorch runs eagerly and keeps no graph of what isn't differentiated. So a mode that sees all of its functions notes
them: their names and settings, and the shapes of tensors. The tensors themselves are let go of, but for those that a
run like this one was asked for before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# They hand a tensor on as it is, but for its precision and place.
_SAME = (
    *("to", "type", "float", "half", "bfloat16", "double", "contiguous", "clone", "detach", "cpu", "cuda", "alias"),
    *("positive", "data", "requires_grad_", "type_as", "as_tensor", "asarray", "_to_copy"),
)
_ATTENTION = "scaled_dot_product_attention"


@dataclass(frozen=True, eq=False, slots=True)
class Ref:
    """A tensor among an operation's arguments.

    Attributes:
        number: Its number in the record.
    """

    number: int


@dataclass(frozen=True, eq=False, slots=True)
class Operation:
    """One operation.

    Attributes:
        name: The function's name, without underscores.
        function: The function.
        inputs: Numbers of the tensors that it takes.
        outputs: Numbers of those that it puts out.
        arguments: As it was called, with a `Ref` for each tensor.
        settings: The same of named arguments.
    """

    name: str
    function: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    arguments: tuple[Any, ...]
    settings: dict[str, Any]

    def argument(self, position: int, name: str, otherwise: Any = None) -> Any:
        """Returns one of the arguments, by its position or its name."""
        if name in self.settings:
            return self.settings[name]
        return self.arguments[position] if len(self.arguments) > position else otherwise


class Unheld(BaseException):
    """What is asked of a run was not noted or held: it runs once more. No user's `except Exception` may stop it."""


class Recorder(TorchFunctionMode):  # type: ignore[misc]  # PyTorch's types are passed over
    """Notes operations while it is entered.

    Attributes:
        operations: All of them, in their order.
        shapes: For each tensor its shape.
        floats: For each whether it holds floating point numbers.
        maker: For each the operation that put it out, None where none did that was seen.
        consumers: For each the operations that take it.
        held: The tensors that are held, by number.
    """

    def __init__(self, holds: Callable[[int], bool], on_softmax: Callable[[Any], Any] | None = None) -> None:
        """Begins.

        Args:
            holds: Tells of a tensor's number whether it is held.
            on_softmax: Takes what a softmax puts out, and returns what is put in its place.
        """
        super().__init__()
        self.operations: list[Operation] = []
        self.shapes: list[tuple[int, ...]] = []
        self.floats: list[bool] = []
        self.maker: list[Operation | None] = []
        self.consumers: list[list[Operation]] = []
        self.held: dict[int, Any] = {}
        self._holds, self._on_softmax = holds, on_softmax
        self._numbers: dict[int, tuple[Any, int]] = {}
        self._paused = False

    def number(self, tensor: Any) -> int:
        """Returns a tensor's number, a new one if it has none yet."""
        number = self.number_of(tensor)
        return self._add(tensor, None) if number is None else number

    def number_of(self, tensor: Any) -> int | None:
        """Returns a tensor's number; None if it has none yet."""
        held = self._numbers.get(id(tensor))
        return held[1] if held is not None and held[0]() is tensor else None

    def add_unseen(self, shapes: Sequence[tuple[int, ...]], floats: Sequence[bool]) -> None:
        """Numbers tensors that are not there."""
        self.shapes += shapes
        self.floats += floats
        self.maker += [None] * len(shapes)
        self.consumers += [[] for _ in shapes]

    def _add(self, tensor: Any, maker: Operation | None) -> int:
        number = len(self.shapes)
        self.shapes.append(tuple(torch.Tensor.size(tensor)))
        self.floats.append(torch.is_floating_point(tensor))
        self.maker.append(maker)
        self.consumers.append([])
        self.name(tensor, number)
        if self._holds(number):
            self.held[number] = tensor
        return number

    def name(self, tensor: Any, number: int) -> None:
        """Has a tensor be known by a number."""
        self._numbers[id(tensor)] = (weakref.ref(tensor), number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Notes nothing while the context lasts."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function and notes it."""
        kwargs = kwargs or {}
        if self._paused:
            return function(*args, **kwargs)
        if getattr(function, "__name__", "") == _ATTENTION:
            return self._attention(*args, **kwargs)
        result = function(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            return self._noted(function, args, kwargs, result)
        if isinstance(result, (tuple, list)) and any(isinstance(part, torch.Tensor) for part in result):
            self._note(function, args, kwargs, [part for part in result if isinstance(part, torch.Tensor)])
        elif function is torch.Tensor.__setitem__:
            self._note(function, args, kwargs, [args[0]])
        return result

    def _noted(self, function: Any, args: Any, kwargs: Any, result: Any) -> Any:
        name = name_of(function)
        if name in _SAME:
            source = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
            if source is not None:
                if source is not result:
                    self.name(result, self.number(source))
                return result
        elif any(arg is result for arg in args) and not is_in_place(function):
            return result
        (number,) = self._note(function, args, kwargs, [result])
        if self._on_softmax is not None and name == "softmax":
            replaced = self._on_softmax(result)
            self.name(replaced, number)
            if number in self.held:
                self.held[number] = replaced
            return replaced
        return result

    def _note(self, function: Any, args: Any, kwargs: Any, results: Sequence[Any]) -> list[int]:
        inputs: list[int] = []

        def referred(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                inputs.append(self.number(value))
                return Ref(inputs[-1])
            if type(value) in (tuple, list):
                return type(value)(referred(part) for part in value)
            return value

        arguments = tuple(referred(arg) for arg in args)
        settings = {name: referred(value) for name, value in kwargs.items()} if kwargs else {}
        first = len(self.shapes)
        outputs = tuple(range(first, first + len(results)))
        operation = Operation(name_of(function), function, tuple(inputs), outputs, arguments, settings)
        self.operations.append(operation)
        for number in inputs:
            self.consumers[number].append(operation)
        return [self._add(result, operation) for result in results]

    def _attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        **settings: Any,
    ) -> Any:
        """Computes attention in one function by its parts, so that what each token reads can be seen."""

        def seen(function: Any, *args: Any) -> Any:
            return self._noted(function, args, {}, function(*args))

        if dropout_p or enable_gqa or settings:
            settings |= {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
            settings["enable_gqa"] = enable_gqa
            function = torch.nn.functional.scaled_dot_product_attention
            result = function(query, key, value, **settings)
            return self._noted(function, (query, key, value), settings, result)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        products = seen(torch.matmul, seen(torch.mul, query, scale), seen(torch.transpose, key, -2, -1))
        if is_causal:
            attn_mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            products = seen(torch.masked_fill, products, torch.logical_not(attn_mask), -torch.inf)
        elif attn_mask is not None:
            products = seen(torch.add, products, attn_mask)
        return seen(torch.matmul, seen(torch.softmax, products, -1), value)


def name_of(function: Any) -> str:
    """Returns the name of a function of PyTorch without underscores; of a property its own."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", "")
    return name if name in _SAME else name.strip("_")


def is_in_place(function: Any) -> bool:
    """Tells whether a function changes the tensor that it is called on."""
    name = getattr(function, "__name__", "")
    inner = name[2:-2] if name.startswith("__") else ""
    return inner in _IN_PLACE or (name.endswith("_") and not inner)


_IN_PLACE = (
    *("setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "ilshift"),
    *("irshift", "idiv", "set"),
)
