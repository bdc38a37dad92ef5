"""Models of Keras 2, which are named as such: as objects they look like models, and are none of Keras 3."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["WAY_OUT", "check_keras3", "is_keras2"]

WAY_OUT = (
    "Build it with Keras 3, or bring it over: there model.save('model.h5'), here "
    "keras.models.load_model('model.h5'), where its layers are Keras' own"
)
# Where PyTorch's wrappers keep the model: those of several processes, and of `torch.compile`.
_WRAPPED = ("module", "_orig_mod")
_HOMES = ("tf_keras", "keras.engine", "keras.src.engine", "tensorflow.python.keras")


def is_keras2(model: Any) -> bool:
    """Tells whether an object is a layer or a model of Keras 2: of `tf_keras`, or of TensorFlow's own older one."""
    homes = [kind.__module__ for kind in type(model).__mro__]
    return any(home == old or home.startswith(f"{old}.") for home in homes for old in _HOMES)


def check_keras3(model: Any, name: str = "model") -> None:
    """Raises TypeError for what is no model of Keras 3.

    Args:
        model: The model.
        name: The option that it was given as.
    """
    if isinstance(model, keras.Model):
        return
    if is_keras2(model):
        raise TypeError(
            f"`{name}` must be a Keras 3 model, `import keras`. Received: {getattr(model, 'name', 'one')!r}, a model "
            f"of Keras 2, as `tf_keras` and TF_USE_LEGACY_KERAS=1 give it. {WAY_OUT}."
        )
    for attribute in _WRAPPED:
        if isinstance(getattr(model, attribute, None), keras.Model):
            raise TypeError(
                f"`{name}` must be a Keras 3 model. Received: one inside a {type(model).__name__}. "
                f"Hand over what it wraps, its attribute `{attribute}`."
            )
    is_layer = isinstance(model, keras.layers.Layer)
    raise TypeError(
        f"`{name}` must be a Keras 3 model. Received: {model!r} of type {type(model).__name__}."
        + " keras.Model(inputs, layer(inputs)) with inputs=keras.Input(...) makes one of a layer." * is_layer
    )
