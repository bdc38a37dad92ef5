"""The traces of a model: made once for what is asked of it, and found again as long as the model is the same."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import keras
import numpy as np

from ..network.layers import Tap, walk
from ..network.targets import Target, loss_expects
from ..passes.capture import Capturer
from ..passes.probe import LAYER_FUNCTIONS, Probe
from ..passes.taps import make_variables

_MOST = 8
"""How many traces of one model are held for `explain`."""

# What training writes into a model, beside what every layer has from Keras, and no trace depends on.
_OF_TRAINING = {
    *("compiled", "history", "loss", "loss_weights", "optimizer", "stop_training", "stop_predicting"),
    *("train_function", "test_function", "predict_function", "steps_per_execution", "unrolled_steps_per_execution"),
    *("_run_eagerly", "_jit_compile", "_initial_epoch", "_compute_loss_has_training_arg", "_compile_loss"),
    *("_compile_metrics", "_loss_tracker", "_distribute_strategy", "_compiled_trainable_state", "_compile_config"),
    *("_eval_epoch_iterator", "_functional"),
}
_LARGE = 2**16
"""Bytes of an array from which on it is known by itself, and not by its content."""


# While a model is traced its layers are wrapped, which two threads must not do at once.
_lock = threading.RLock()


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
    ) -> None:
        """Traces the model, whose variables are made if it has not run yet; the arguments are those of `Capturer`."""
        with _lock:
            if not model.built:
                make_variables(model, keras.tree.map_structure(lambda a: a[:1], inputs))
            self.capturer = Capturer(
                model, inputs, layer_names, targets=targets, needs=needs, batch_size=batch_size, keeps=keeps
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
        # A class is handed to the function; a user's score is part of it.
        key = tuple(names), target if self.capturer.scores_by_rule[target] else None, tap and tap.path
        with _lock:
            if key not in self._probes:
                self._probes[key] = Probe(self.capturer, names, target, tap)
        return self._probes[key]


_held: weakref.WeakKeyDictionary[Any, list[tuple[Any, list[Any], Trace]]] = weakref.WeakKeyDictionary()


def traced(model: Any, inputs: Any, layer_names: Sequence[Any], **settings: Any) -> Trace:
    """Returns a trace as `Trace(...)` makes it, or the one from before where nothing has changed that it depends on.

    That is what is asked for, the shapes and dtypes of the inputs, and of the model: which layers and variables it has,
    and every number, text, flag and function that a layer holds. Values of variables don't count: a trace reads them
    anew. The model is held weakly, and its traces go with it.
    """
    rules = [target.rule for target in settings["targets"]]
    # One that holds others may hold the model, which then would never be let go of; and often it is made for one call.
    if getattr(model, "run_eagerly", False) or any(rule and not _is_plain(rule) for rule in rules):
        return Trace(model, inputs, layer_names, **settings)
    asked = (
        tuple(name if isinstance(name, str) else id(name) for name in layer_names),
        tuple((target.rule, target.rank, target.text == "true") for target in settings["targets"]),
        {name: value for name, value in settings.items() if name != "targets"},
        keras.config.image_data_format(),
        loss_expects(model),
        str(keras.tree.map_structure(lambda a: None, inputs)),
        tuple((a.shape[1:], a.dtype.str) for a in keras.tree.flatten(inputs)),
    )
    state = model_state(model) if model.built else []
    with _lock:
        traces = _held.setdefault(model, [])
        for i, (other, before, trace) in enumerate(traces):
            if other == asked and state and same_state(before, state):
                traces.append(traces.pop(i))  # The last ones used are kept.
                return trace
        trace = Trace(model, inputs, layer_names, **settings)
        traces.append((asked, model_state(model), trace))
        del traces[:-_MOST]
    return trace


def _is_plain(rule: Callable[..., Any]) -> bool:
    """Tells whether a rule holds no other objects."""
    return isinstance(rule, FunctionType) and rule.__closure__ is None and rule.__defaults__ is None


def model_state(model: Any) -> list[Any]:
    """Returns what a trace of a model depends on, for `same_state`: plain values, and weak references to all else."""
    passing = {*_of_every_layer(), *_OF_TRAINING}
    state: list[Any] = []
    for _, layer in (("", model), *walk(model)):
        state += [_content(layer), _content(type(layer).call)]
        if isinstance(layer, keras.layers.Layer):
            variables = (*layer._trainable_variables, *layer._non_trainable_variables)
            state += [layer.dtype_policy.name, layer.quantization_mode, _content(variables)]
        for name, value in vars(layer).items():
            if name not in passing and not name.startswith("_self_"):  # TensorFlow's notes for checkpoints.
                state += [name, _content(value)]
    return state


def same_state(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Tells whether two states of a model are the same, so that a trace made in one holds in the other."""
    return len(before) == len(after) and all(map(_is_same, before, after))


@cache
def _of_every_layer() -> frozenset[str]:
    return frozenset(vars(keras.layers.Layer()))


def _content(value: Any, depth: int = 4) -> Any:
    """Returns plain values as they are, and of all else a weak reference, which is one object as long as it lives."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        return value
    if isinstance(value, np.ndarray) and value.nbytes < _LARGE:
        return value.shape, value.dtype.str, value.tobytes()
    if depth and isinstance(value, Mapping):
        return tuple((_content(name, 0), _content(item, depth - 1)) for name, item in value.items())
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return tuple(_content(item, depth - 1) for item in value)
    try:
        return weakref.ref(value)
    except TypeError:
        return id(value)


def _is_same(before: Any, after: Any) -> bool:
    if before is after:
        return True
    if type(before) is not type(after) or isinstance(before, weakref.ref):
        return False
    if isinstance(before, tuple):
        return same_state(before, after)
    return bool(before == after)
