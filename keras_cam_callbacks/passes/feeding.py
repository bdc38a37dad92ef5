"""Whether `predict` computes what a call of the model does: a class may do more in it than Keras does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from ..data.sources import as_arrays, random_state_kept
from ..network.weights import values_of
from . import cluster

_KERAS = ("keras", "keras_hub", "keras_nlp")
_OWN = ("predict", "predict_step", "make_predict_function")
_HELD_BY_KERAS = ("_jax_state", "_jax_state_synced")
"""Where Keras has a model's weights on JAX while it predicts: it takes them out of the model meanwhile."""


def predict_note(model: Any, inputs: Any) -> str:
    """Returns what is to be said of a model whose `predict` differs from its call on the first sample; else "".

    Where class and instance have them from Keras they are the same, and nothing is run; else one sample is predicted,
    and the model left as it was. Several devices or workers would have to take part, and are not asked.

    Args:
        model: The built model.
        inputs: A batch of its inputs, as its call takes them.
    """
    set_on_it = [name for name in (*_OWN, "predict_function") if not _is_of_keras(vars(model).get(name))]
    own = [name for name in _OWN if name not in set_on_it and not _is_of_keras(getattr(type(model), name))]
    replicas = getattr(getattr(model, "distribute_strategy", None), "num_replicas_in_sync", 1)
    if not (own or set_on_it) or replicas > 1 or cluster(model) is not None:
        return ""
    sample = keras.tree.map_structure(lambda a: a[:1], inputs)
    # A task's `predict` would preprocess once more what is preprocessed.
    predict = keras.Model.predict if hasattr(model, "preprocess_samples") else type(model).predict
    if "predict" in set_on_it:
        predict = _without_self(model.predict)
    try:
        with _left(model, keeps_function="predict_function" in set_on_it), random_state_kept():
            predicted = keras.tree.flatten(as_arrays(predict(model, sample, verbose=0)))
            called = keras.tree.flatten(as_arrays(model(sample, training=False)))
    except Exception:  # It is the user's own, and may need what isn't there; nothing is claimed of it.
        return ""
    if len(predicted) == len(called) and all(map(_alike, predicted, called)):
        return ""
    where = [
        f"{place} has a {' and a '.join(f'`{name}`' for name in names)} of its own"
        for place, names in ((f"its class {type(model).__name__}", own), ("it", set_on_it))
        if names
    ]
    return (
        f"`predict` of model {model.name!r} returns something else than a call of the model for the first sample: "
        f"{', and '.join(where)}. What a call computes is explained. Give the images as the call takes them, or move "
        "what is done there into `call`."
    )


def _is_of_keras(function: Any) -> bool:
    """Tells whether a method is Keras' own; None stands for one that isn't set."""
    function = getattr(function, "python_function", function)  # of a `tf.function`
    module = getattr(function, "__module__", None) or type(function).__module__
    return function is None or module.split(".")[0] in _KERAS


def _without_self(predict: Any) -> Any:
    """Returns a `predict` that was set on a model as a function of the model, as a class has it."""
    return lambda _, *args, **settings: predict(*args, **settings)


@contextmanager
def _left(model: Any, keeps_function: bool = False) -> Iterator[None]:
    """Puts back what `predict` leaves in a model: its compiled function, and states such as those of seeds.

    On JAX these are the weights as well, which a model is without after a `predict` that failed.

    Args:
        model: The model.
        keeps_function: Whether the compiled function is the user's own, and is what runs.
    """
    function = getattr(model, "predict_function", None)
    variables = [*model.variables, *getattr(model, "metrics_variables", ())]
    takes = hasattr(model, "jax_state_sync")
    states = [(variable, values_of(variable).copy()) for variable in variables if takes or not variable.trainable]
    held = {name: vars(model).get(name) for name in _HELD_BY_KERAS if takes}
    if not keeps_function:
        model.predict_function = None
    try:
        yield
    finally:
        model.predict_function = function
        vars(model).update(held)
        for variable, value in states:
            if getattr(variable, "_value", value) is None or not np.array_equal(values_of(variable), value):
                variable.assign(value)


def _alike(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype.kind not in "biuf" or other.dtype.kind not in "biuf":
        return False
    spread = float(np.abs(other).max(initial=0))
    return bool(np.allclose(one, other, rtol=1e-2, atol=1e-3 * spread + 1e-6, equal_nan=True))
