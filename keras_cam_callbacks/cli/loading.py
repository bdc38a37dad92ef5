"""Loads a model from a file that anyone may have made, and tells what input it takes."""

from __future__ import annotations

import json
import lzma
import os
import re
import signal
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from .console import say

# Keras stores weights as they are: parts that grow this much are no weights.
_LARGEST_GROWTH = 100
_LARGEST_CONFIG = 2**27

FREE_SIDE = 224
"""Height and width in px of images for models that take any."""

SCALES = {
    "0-255": "[0, 255]",
    "0-1": "[0, 1]",
    "-1-1": "[-1, 1]",
    "mean-subtracted": "mean-subtracted",
    "mean-std": "mean/std",
}
"""The names of the ranges that pixel values can be brought to, and what `display` calls them."""

# The preprocessing that keras.applications' networks without their own expect, by how their names begin.
_APPLICATIONS = {
    **dict.fromkeys(("vgg16", "vgg19", "resnet50", "resnet101", "resnet152"), "mean-subtracted"),
    **dict.fromkeys(("resnet50v2", "resnet101v2", "resnet152v2"), "-1-1"),
    **dict.fromkeys(("mobilenet", "inception", "xception", "nasnet"), "-1-1"),
    "densenet": "mean-std",
    **dict.fromkeys(("efficientnet", "mobilenetv3", "convnext"), "0-255"),
}


@dataclass(frozen=True)
class Input:
    """What images a model takes.

    Attributes:
        shape: Height, width and channels; None for what is free.
        channels_first: Whether the channels come before height and width.
        dtype: Its number type, "float32" for most.
    """

    shape: tuple[int | None, int | None, int | None]
    channels_first: bool
    dtype: str

    def __str__(self) -> str:
        return " x ".join("any" if side is None else str(side) for side in self.shape)


def load_keras() -> Any:
    """Imports Keras and its backend, quietly.

    Returns:
        The module.

    Raises:
        ValueError: If it can't be imported, or the backend is none of ours.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # What goes wrong is raised; the rest is about GPUs.
    try:
        with _notices_kept_back():
            import keras

            from ..passes import failures

            failures()  # Asks for the backend's engine.
    except ImportError as error:
        raise ValueError(f"Keras can't be loaded: {error}. KERAS_BACKEND=tensorflow works.") from error
    return keras


def load_model(path: Path, *, unsafe: bool = False) -> Any:
    """Loads a model in Keras' safe mode, which runs no code from the file.

    Args:
        path: The file.
        unsafe: Whether code in the file may run.

    Returns:
        The model, compiled where it was.

    Raises:
        ValueError: If the file is no model, is damaged, or needs code to run, Keras' own errors included.
        OSError: If it can't be read.
    """
    config = _checked_archive(path) if path.suffix == ".keras" else b""
    if not config and not unsafe:
        raise ValueError(
            f"A model must be a .keras file. Received: {path}. Other formats may run code when they are loaded, with "
            "every version of Keras: --unsafe loads them, for files from people whom you trust. "
            "model.save('model.keras') writes one."
        )
    if unsafe:
        say(
            f"Warning: --unsafe runs Python code that {path} may hold, with all your rights. Use it for files from "
            "people whom you trust, and no others."
        )
    keras = load_keras()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, failure = _loaded(keras, path, unsafe, compiled=True)
        if failure and b"compile_config" in config and not _is_refusal(failure):
            model, again = _loaded(keras, path, unsafe, compiled=False)
            if again is None:
                say(f"{path} is loaded without its loss and optimizer, which can't be restored here.")
                failure = None
    if failure:
        raise ValueError(_explained(path, failure)) from failure
    if not isinstance(model, keras.Model):
        raise ValueError(f"A model file must hold a model. Received: {path}, which holds a {type(model).__name__}.")
    for text in dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, UserWarning)):
        if "optimizer" not in text:  # Nothing is trained.
            say(f"Warning: {text}")
    return model


@contextmanager
def running(model: Any) -> Iterator[None]:
    """Has what fails while a model runs raised as ValueError: its file says what it does, and may say nonsense.

    Ctrl-C stays Ctrl-C: while TensorFlow traces a function it may take an interrupt for a fault of the function.
    """
    from ..passes import failures

    failing: tuple[type[Exception], ...] = (
        *failures(),
        *(TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    )
    interrupted = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupt) if main else None
    try:
        yield
    except ValueError as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    except failing as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise ValueError(
            f"A model must run on images of the size and type that it names. Received: model {model.name!r}, which "
            f"fails: {type(error).__name__}: {str(error)[:600]}"
        ) from error
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _notices_kept_back() -> Iterator[None]:
    """Keeps back what TensorFlow's C++ writes on stderr while it is imported, before it has read its log level."""
    try:
        stderr = os.dup(2)
    except OSError:  # It is closed.
        yield
        return
    try:
        with TemporaryFile() as notices:
            os.dup2(notices.fileno(), 2)
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _loaded(keras: Any, path: Path, unsafe: bool, compiled: bool) -> tuple[Any, Exception | None]:
    try:
        return keras.saving.load_model(path, compile=compiled, safe_mode=not unsafe), None
    # The file says which classes are made of what, so that anything at all may be raised.
    except Exception as error:
        return None, error


def _is_refusal(error: Exception) -> bool:
    """Tells whether Keras' safe mode has refused to run code."""
    return "safe_mode" in str(error) or "enable_unsafe_deserialization" in str(error)


def _explained(path: Path, error: Exception) -> str:
    """Returns in words why a model can't be loaded."""
    text = str(error).strip()
    if _is_refusal(error):
        return (
            f"A model must need no code from its file. Received: {path}, which has a Lambda layer: a Python function "
            "that is stored in the file and would run here, with all your rights. If you trust the people who made "
            "it, --unsafe loads it; a layer class of its own instead of the Lambda needs no such trust."
        )
    missing = re.search(r"Could not locate (?:class|function) '([^']+)'", text)
    if missing:
        return (
            f"A model must be made of Keras' own layers here. Received: {path}, which needs {missing[1]!r}, a class or "
            "function of someone's own. In Python, where that is imported, `explain(model, images)` explains it."
        )
    return f"A model must be whole. Received: {path}, which Keras can't load: {type(error).__name__}: {text[:600]}"


def _checked_archive(path: Path) -> bytes:
    """Returns the config in a .keras file, after a check of what it would unpack to."""
    if not path.is_file():
        raise ValueError(f"A model must be a .keras file. Received: {path}, which is no file.")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
            config = archive.getinfo("config.json")
            if size > _LARGEST_GROWTH * path.stat().st_size + 2**20 or config.file_size > _LARGEST_CONFIG:
                raise ValueError(
                    f"A model must not be far larger than its file. Received: {path}, which would unpack to "
                    f"{size / 2**20:,.0f} MiB."
                )
            text = archive.read(config)
            json.loads(text)
    except (
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
        *(KeyError, NotImplementedError, RuntimeError, UnicodeDecodeError),
    ) as error:
        raise ValueError(
            f"A model must be a whole .keras file. Received: {path}, which is none ({error or type(error).__name__})."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"A model must be a whole .keras file. Received: {path}, with a config of {error}.") from error
    return text


def model_input(model: Any) -> Input:
    """Tells what images the model takes.

    Raises:
        ValueError: If it takes several inputs, or one that is no image.
    """
    import keras

    from ..network.layers import input_tensors

    tensors = input_tensors(model)
    if not tensors:
        raise ValueError(
            f"A model must know its input. Received: model {model.name!r}, which does not; it was saved before it ran, "
            "or is of a class of its own. In Python, `explain(model, images)` explains it."
        )
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            "A model must take images (samples, height, width, channels) and nothing else. Received: model "
            f"{model.name!r} with inputs {', '.join(map(str, shapes))}. In Python, `explain(model, inputs)` takes any."
        )
    _, a, b, c = shapes[0]
    first = a in (1, 3) and c not in (1, 3)
    height, width, channels = (b, c, a) if first else (a, b, c)
    if channels not in (1, 3, None):
        raise ValueError(
            f"A model must take grey or RGB images. Received: model {model.name!r}, whose images have {channels} "
            "channels. In Python, `explain(model, images)` takes any."
        )
    return Input((height, width, channels), first, str(keras.backend.standardize_dtype(tensors[0].dtype)))


def likely_scale(model: Any) -> tuple[str, str]:
    """Guesses which range of pixel values a model was trained on.

    Returns:
        One of `SCALES`, and why.
    """
    import keras

    from ..data.feeding import preprocesses
    from ..network.layers import walk

    if preprocesses(model):
        return "0-255", "the model's own preprocessor scales"
    layers = list(walk(model))
    for path, layer in layers:
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            return "0-255", f"the model scales its input itself, in layer {path!r}"
    for name in (model.name, *(layer.name for _, layer in layers if isinstance(layer, keras.Model))):
        begins = [start for start in _APPLICATIONS if name.lower().startswith(start)]
        if begins:
            return _APPLICATIONS[max(begins, key=len)], f"as keras.applications trained {name!r}"
    return "0-1", "the model has no Rescaling layer"


def scaled(images: Any, scale: str, given: Input) -> Any:
    """Brings uint8 images to the range and layout that a model takes.

    Args:
        images: (N, H, W, C) uint8.
        scale: One of `SCALES`.
        given: What the model takes.

    Returns:
        (N, H, W, C) or (N, C, H, W), float32 for models of floating-point numbers.

    Raises:
        ValueError: If the model takes whole numbers and the range has none, or grey images and the range is of colours.
    """
    import numpy as np

    from ..data.layout import in_layout
    from ..data.ranges import limits

    if scale == "0-255":
        values = images.astype(np.float32)
    else:
        found = limits(SCALES[scale])
        assert found is not None
        black, white = (np.asarray(limit, np.float32) for limit in found)
        if black.size != 1 and images.shape[-1] != 3:
            raise ValueError(f"--scale {scale} is of RGB images. Received: a model of grey ones. --scale 0-1 works.")
        shown = images[..., ::-1] if scale == "mean-subtracted" else images  # Its channels are blue, green, red.
        values = shown.astype(np.float32) / 255 * (white - black) + black
    if not given.dtype.startswith(("float", "bfloat")):
        if scale != "0-255":
            raise ValueError(
                f"This model takes whole numbers ({given.dtype}). Received: --scale {scale}. --scale 0-255 works."
            )
        values = values.astype(given.dtype)
    return np.ascontiguousarray(in_layout(values, "channels_first" if given.channels_first else "channels_last"))
