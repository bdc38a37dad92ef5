"""The traces of a model: made once for what is asked of it, and found again as long as the model is the same."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from ..network.layers import Tap
from ..network.outputs import Clues, clues_of
from ..network.targets import Target
from ..passes import wrapping
from ..passes.capture import Capturer, sample_text
from ..passes.probe import LAYER_FUNCTIONS, Probe
from ..passes.taps import make_variables
from .state import model_state, same_state

_MOST = 8
"""How many traces of one model are held for `explain`."""


class Trace:
    """What has been traced of one model, which is held weakly.

    Attributes:
        capturer: The tap on the model.
    """

    def __init__(
        self,
        model: Any,
        inputs: Any,
        layer_names: Sequence[Any],
        *,
        targets: Sequence[Target],
        needs: Iterable[tuple[str, ...]],
        batch_size: int,
        keeps: bool = False,
        clues: Clues | None = None,
        image_input: int | None = None,
        tokens: Any = None,
        beside: Sequence[Any] | None = None,
    ) -> None:
        """Traces the model, whose variables are made if it has not run yet; the arguments are those of `Capturer`."""
        with wrapping():
            if not model.built:
                make_variables(model, keras.tree.map_structure(lambda a: a[:1], inputs))
            self.capturer = Capturer(
                model,
                inputs,
                layer_names,
                targets=targets,
                needs=needs,
                batch_size=batch_size,
                keeps=keeps,
                clues=clues,
                image_input=image_input,
                tokens=tokens,
                beside=beside,
            )
        self._probes: dict[tuple[Any, ...], Probe] = {}

    def probe(self, names: Sequence[str], target: int, tap: Tap | None) -> Probe | None:
        """Returns functions of the model, which are traced again only where they differ.

        Args:
            names: Those of `passes.probe.FUNCTIONS` that are needed; for none there is no probe.
            target: Which of the capturer's targets is explained.
            tap: The layer that is explained, if any.

        Raises:
            ValueError: If the model has no such function.
        """
        if not names:
            return None
        tap = tap if set(names).intersection(LAYER_FUNCTIONS) else None
        # A class is handed to the function; a user's score is part of it, and what is explained beyond a class.
        key = tuple(names), target if self.capturer.is_own(target) else None, tap and tap.path
        with wrapping():
            if key not in self._probes:
                self._probes[key] = Probe(self.capturer, names, target, tap)
        return self._probes[key]


_held: weakref.WeakKeyDictionary[Any, list[tuple[Any, list[Any], Trace]]] = weakref.WeakKeyDictionary()


def traced(model: Any, inputs: Any, layer_names: Sequence[Any], **settings: Any) -> Trace:
    """Returns a trace as `Trace(...)` makes it, or the one from before where nothing has changed that it depends on.

    That is what is asked for, structure, shapes and dtypes of the inputs, and the model; see `state`. Values of
    variables don't count, which a trace reads anew. The model is held weakly, and its traces go with it. A user's rule
    as target can read anything, and makes a new trace each time; so does a model that runs eagerly.
    """
    targets: Sequence[Target] = settings["targets"]
    if settings["keeps"] or getattr(model, "run_eagerly", False) or any(target.rule for target in targets):
        return Trace(model, inputs, layer_names, **settings)
    settings.setdefault("clues", clues_of(model))
    with wrapping():
        asked = (
            tuple(name if isinstance(name, str) else id(name) for name in layer_names),
            tuple(target.asked for target in targets),
            [None if array is None else sample_text(array) for array in settings.get("beside") or ()],
            {name: value for name, value in settings.items() if name not in ("targets", "beside")},
            keras.config.image_data_format(),
            keras.tree.map_structure(sample_text, inputs),
        )
        traces = _held.setdefault(model, [])
        if model.built and traces:
            state = model_state(model)
            for i, (other, before, trace) in enumerate(traces):
                if other == asked and same_state(before, state):
                    traces.append(traces.pop(i))  # The last ones used are kept.
                    return trace
        trace = Trace(model, inputs, layer_names, **settings)
        traces.append((asked, model_state(model), trace))
        del traces[:-_MOST]
        return trace
