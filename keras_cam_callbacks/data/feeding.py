"""What `fit` and `predict` feed a model with: the data, or what the model's own preprocessor makes of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from .sources import as_arrays, random_state_kept, sample_shape


def model_inputs(model: Any, x: Any) -> Any:
    """Returns samples, numpy arrays in any structure, as a model's call takes them: of its floats, with channels."""
    inputs = keras.tree.map_structure(_as_model_input, x)
    if isinstance(inputs, np.ndarray) and sample_shape(model) == (*inputs.shape[1:], 1):
        inputs = inputs[..., None]  # As `fit` does.
    return inputs


def _as_model_input(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Casts float64 as Keras does in `fit`; other types go to the model as they are."""
    return np.ascontiguousarray(array.astype(keras.config.floatx()) if array.dtype == np.float64 else array)


def preprocesses(model: Any) -> bool:
    """Tells whether `fit` and `predict` of a model preprocess what they are given, as those of KerasHub's tasks do."""
    if not callable(getattr(model, "preprocess_samples", None)):
        return False
    return getattr(model, "preprocessor", True) is not None


def preprocessed(model: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Returns samples and labels as the model's `fit` feeds them to its `call`, as numpy arrays.

    Args:
        model: A model of which `preprocesses` is true.
        x: The samples, in any structure that `fit` takes.
        y: Their labels, or None.

    Returns:
        x and y as the model's preprocessor returns them.

    Raises:
        ValueError: If the preprocessor fails on them; the message says so.
    """
    try:
        with random_state_kept():
            found = model.preprocess_samples(x) if y is None else model.preprocess_samples(x, y)
    except Exception as error:  # It is of anyone's making, and may raise anything.
        raise ValueError(
            f"The data must be what `fit` of model {model.name!r} takes, which hands it to the model's preprocessor. "
            f"Received: samples of shape {[leaf.shape for leaf in keras.tree.flatten(x)]}, on which that fails: "
            f"{type(error).__name__}: {error}. With model.preprocessor = None the model takes preprocessed images."
        ) from error
    x, y, _ = keras.utils.unpack_x_y_sample_weight(found)
    return as_arrays(x), None if y is None else as_arrays(y)
