"""A pass whose frozen part runs once: what it puts out is kept, and handed out for as long as nothing is written.

Which operations those are is found with one sample; see `following`. While the rest runs, the functions of PyTorch are
called by the same code in the same order. Those of the frozen part hand out what is kept, or a tensor without values
that only others of them take. That each call is the one that it was before, and that whatever comes from outside has
the bits that it had, is checked; where it isn't so, the whole runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import torch

from ...network.layers import walk
from .arrays import address, as_arrays, as_tensor, same_bits
from .asked import Memory
from .following import Follower, Span, Step, called_by
from .proofs import Attributes, Proofs
from .replaying import Diverged, Kept, Replay
from .shortcuts import Shortcuts


def _twice(tensor: Any) -> Any:
    return torch.cat([tensor, tensor]) if isinstance(tensor, torch.Tensor) else np.concatenate([tensor, tensor])


def _has_frozen_layers(model: Any) -> bool:
    """Tells whether a layer has variables of its own, none of which is trained: else nothing is worth a look."""
    layers = [layer for layer in (model, *(layer for _, layer in walk(model))) if isinstance(layer, keras.layers.Layer)]
    variables = ([*layer._trainable_variables, *layer._non_trainable_variables] for layer in layers)
    return any(own and not any(variable.trainable for variable in own) for own in variables)


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
        self._shortcuts = Shortcuts()
        self._attributes = Attributes(())
        self._whole_only = not most or not _has_frozen_layers(model)
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
        if not self._attributes.are_same():
            self._plan = None
            self._proven.clear()
            self._changed()
        elif self._proofs.are_same():
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
        while self._memory.calls < 2:  # They tell what the next ones are asked for.
            self._memory.call(functools.partial(self._function, *arguments))
        followers: list[Follower] = []

        def followed() -> Any:
            followers.append(Follower(keras.tree.flatten(arguments), self._variables, self._trained))
            with called_by(followers[-1]):
                return self._function(*arguments)

        results = self._memory.call(followed)
        plan: list[Step] | None = followers[-1].plan(keras.tree.flatten(results))
        self._spans, self._shortcuts = followers[-1].spans, followers[-1].shortcuts
        self._attributes = Attributes(followers[-1].layers())
        return plan

    def _replayed(self, kept: Kept, arguments: Any, again: bool) -> Any:
        assert self._plan is not None
        plan = self._plan

        def run() -> Any:
            replay = Replay(
                plan, self._spans, self._shortcuts, keras.tree.flatten(arguments), kept, self._proofs, again
            )
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
        self._proofs, self._attributes, self._shortcuts = Proofs(0), Attributes(()), Shortcuts()
