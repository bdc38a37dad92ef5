"""One run of a model that needs the values of its tensors, and so isn't traced.

Gradients are those of a further run, which JAX differentiates on its way. Of what runs beside layers, no more is seen
than what goes into JAX's own softmax and sigmoid, which Keras' activations call as well.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import keras

from ...network.layers import LayerCall, numbered, walk
from .. import stepping
from ..contract import Attention
from ..wrapped import exchanged
from .pulling import FLOAT16_SCALE, as_float32, with_way
from .state import left_as_found, tap

_ENDINGS = ("softmax", "log_softmax", "sigmoid")
_noted: ContextVar[dict[Hashable, tuple[str, Any, Any]] | None] = ContextVar("noted", default=None)


@dataclass(eq=False)
class EagerRun:
    """One run of the model; see `contract.DifferentiatedRun`. Ids are those of arrays, which are held."""

    outputs: Any = None
    calls: list[LayerCall] = field(default_factory=list)
    tensors: dict[Hashable, Any] = field(default_factory=dict)
    watched: list[tuple[LayerCall, Any]] = field(default_factory=list)
    scores: Sequence[Any] = ()
    results: Any = None
    again: Callable[[Sequence[tuple[LayerCall, Any]]], Sequence[Any]] | None = None
    ended: dict[Hashable, tuple[str, Any, Any]] = field(default_factory=dict)
    _slopes: dict[int, list[Any]] = field(default_factory=dict)

    def id_of(self, tensor: Any) -> Hashable:
        """Returns the id of a tensor; see `contract.Run`."""
        return id(tensor)

    @property
    def output_ids(self) -> set[Hashable]:
        """Ids of all outputs of the model."""
        return set(map(id, keras.tree.flatten(self.outputs)))

    @property
    def output_id(self) -> Hashable | None:
        """Id of the model's output; None where it has several."""
        leaves = keras.tree.flatten(self.outputs)
        return id(leaves[0]) if len(leaves) == 1 else None

    def find_logits(self, output: Any | None = None) -> tuple[Any | None, bool]:
        """Finds what went into the softmax or sigmoid that puts out an output; see `contract.Run`."""
        ended = self.ended.get(self.output_id if output is None else id(output))
        return (None, False) if ended is None else (ended[1], ended[0] != "log_softmax")

    def ending(self, output: Any) -> str | None:
        """Returns the name of the softmax or sigmoid that puts out an output; None where there is none."""
        ended = self.ended.get(id(output))
        return None if ended is None else ended[0]

    def before_relu(self, tensor_id: Hashable) -> Any | None:
        """Returns None: what came before isn't known."""
        return None

    def gradients(self, score: int) -> list[Any | None]:
        """Returns d score / d output for each watched output, float32, by one more run."""
        assert self.again is not None
        if not self._slopes:
            again, calls = self.again, [call for call, _ in self.watched]

            def function(*zeros: Any) -> tuple[Any, ...]:
                return tuple(again(list(zip(calls, zeros, strict=True))))

            scores, back = jax.vjp(function, *(jnp.zeros_like(output) for _, output in self.watched))
            scale = FLOAT16_SCALE if any(output.dtype == jnp.float16 for _, output in self.watched) else 1.0
            for i in range(len(scores)):
                ones = tuple(jnp.full_like(other, scale if i == j else 0) for j, other in enumerate(scores))
                self._slopes[i] = [as_float32(slope, scale) for slope in back(ones)]
        return list(self._slopes[score])

    def used(self, score: int) -> set[Hashable] | None:
        """Returns None: it isn't known."""
        return None

    def differentiable(self, score: int, tensor_ids: Sequence[Hashable]) -> set[Hashable] | None:
        """Returns None: it isn't known."""
        return None

    def score_inputs(self, score: int) -> set[int] | None:
        """Returns None: it isn't known."""
        return None

    def attention_gradients(self, score: int) -> list[Any | None]:
        """Returns nothing: no self-attention is seen."""
        return []

    def attentions(self, score: int) -> list[Attention]:
        """Returns nothing: none is seen."""
        return []

    def read_inputs(self, tensor_id: Hashable) -> set[int] | None:
        """Returns None: it isn't known."""
        return None

    def behind(self, tensor_id: Hashable) -> set[Hashable] | None:
        """Returns None: it isn't known."""
        return None

    def keeps_places(self, tensor_id: Hashable, leaf: int) -> bool:
        """Returns False: it isn't known."""
        return False

    def fronts(self, tensor_id: Hashable, leaf: int) -> list[tuple[Any, str]] | None:
        """Returns None: it isn't known."""
        return None


def eager_run(
    model: Any,
    inputs: Any,
    wanted: Callable[[LayerCall], bool] | None,
    behind: Callable[[Any], tuple[Sequence[Any], Any]],
    last_only: bool = True,
) -> EagerRun:
    """Runs the model and what lies behind it, operation by operation."""
    inputs = keras.tree.map_structure(lambda a: None if a is None else keras.ops.convert_to_tensor(a), inputs)

    def once(ways: Sequence[tuple[LayerCall, Any]] = ()) -> EagerRun:
        run, times = EagerRun(), Counter[int]()

        def on_call(path: str, layer: Any, received: Any, output: Any) -> Any:
            times[id(layer)] += 1
            is_one = isinstance(output, jax.Array)
            for call, zero in ways:
                if call.makes(layer, times[id(layer)]):
                    output = with_way(output, zero)
            before, after = (
                [t for t in keras.tree.flatten(part) if isinstance(t, jax.Array)] for part in (received, output)
            )
            run.tensors.update((id(tensor), tensor) for tensor in after)
            steps = stepping.current()
            call = LayerCall(
                numbered(path, times[id(layer)]),
                layer,
                (None, *(() if steps is None else (steps,)), *output.shape[1:]) if is_one and output.ndim else None,
                tuple(map(id, before)),
                tuple(map(id, after)),
                times[id(layer)],
                steps,
            )
            run.calls.append(call)
            if wanted is not None and wanted(call) and is_one:
                if last_only:
                    run.watched.clear()
                run.watched.append((call, output))
            return output

        with left_as_found(model), ExitStack() as taps:
            for path, layer in walk(model) if wanted is not None else ():
                taps.enter_context(tap(layer, functools.partial(on_call, path, layer)))
            taps.enter_context(_endings_noted(run.ended))
            run.outputs = model(inputs, training=False)
            run.scores, run.results = behind(run)
        return run

    run = once()
    run.again = lambda ways: once(ways).scores
    return run


@contextmanager
def _endings_noted(ended: dict[Hashable, tuple[str, Any, Any]]) -> Iterator[None]:
    """Fills a dict with name, input and output of each softmax and sigmoid that runs, by the output's id."""

    def noting(name: str) -> Callable[..., Any]:
        original = getattr(jax.nn, name)

        @functools.wraps(original)
        def ending(x: Any, *args: Any, **kwargs: Any) -> Any:
            output, noted = original(x, *args, **kwargs), _noted.get()
            if noted is not None:  # Else another thread's.
                noted[id(output)] = name, x, output
            return output

        return ending

    token = _noted.set(ended)
    try:
        with ExitStack() as exchanges:
            for name in _ENDINGS:
                exchanges.enter_context(exchanged(jax.nn, name, noting(name)))
            yield
    finally:
        _noted.reset(token)
