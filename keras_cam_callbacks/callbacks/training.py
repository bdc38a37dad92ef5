"""How a model is trained, as far as it says: what tells two runs apart when they are compared."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

__all__ = ["training_settings"]


def training_settings(model: Any, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the settings of a fit as plain values.

    Args:
        model: The model; an uncompiled one, as in a training loop of one's own, says little.
        params: What Keras tells callbacks of the fit.

    Returns:
        "optimizer" and its settings by Keras' names, such as "learning_rate" as it is when the fit begins, a schedule
        as text; "loss"; "epochs" and "steps" of the fit; "trainable_parameters", their number. What is not known is
        left out.
    """
    found: dict[str, Any] = {"trainable_parameters": sum(math.prod(weight.shape) for weight in model.trainable_weights)}
    found |= {name: params[name] for name in ("epochs", "steps") if params and params.get(name) is not None}
    if getattr(model, "loss", None) is not None:
        found["loss"] = _text(model.loss)
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # In mixed precision, behind the one that scales.
    if optimizer is not None:
        settings = {name: _text(value) for name, value in _config(optimizer).items() if name != "name"}
        found |= {"optimizer": type(optimizer).__name__, **{n: v for n, v in settings.items() if v is not None}}
    return found


def _config(optimizer: Any) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            # Keras' own, of its variables' conversion under NumPy 2.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            config: Mapping[str, Any] = optimizer.get_config()
    # A user's own, or its schedule, that can't be saved can still train.
    except (NotImplementedError, AttributeError, TypeError, ValueError):
        return {}
    return config


def _text(value: Any) -> Any:
    """Returns a number as it is, and all else as text: a loss by its name, a saved schedule as it would be called."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}")  # 0.004 is no float32.
    if isinstance(value, Mapping) and "class_name" in value:
        config = value.get("config")
        settings = config if isinstance(config, Mapping) else {}
        inner = ", ".join(f"{k}={_text(v)}" for k, v in settings.items() if v is not None and k != "name")
        return f"{value['class_name']}({inner})"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(_text(each)) for each in value)
    return str(getattr(value, "name", None) or getattr(value, "__name__", None) or type(value).__name__)
