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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from .console import say
from .scales import range_of, scale_text, whites

# Keras stores weights as they are: parts that grow this much are no weights.
_LARGEST_GROWTH = 100
_LARGEST_CONFIG = 2**27
_LARGEST_METADATA = 2**16

FREE_SIDE = 224
"""Height and width in px of images for models that take any."""

FREE_SIDES = {
    "signal": (256,),
    "image": (FREE_SIDE, FREE_SIDE),
    "volume": (32, 32, 32),
    "clip": (16, FREE_SIDE // 2, FREE_SIDE // 2),
}
"""Positions along each axis for models that take any number."""


@dataclass(frozen=True)
class Input:
    """What images a model takes, or what else.

    Attributes:
        shape: Height, width and channels, of other kinds the positions along each axis and channels; None for what is
            free.
        channels_first: Whether the channels come before height and width.
        dtype: Its number type, "float32" for most.
        kind: "image", "signal", "volume" or "clip".
    """

    shape: tuple[int | None, ...]
    channels_first: bool
    dtype: str
    kind: str = "image"

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
        raise ValueError(
            f"Keras can't be loaded: {error}. KERAS_BACKEND=tensorflow, jax or torch, whichever is installed, works."
        ) from error
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
    version = _saved_by(path)
    if version.startswith(("1.", "2.")):
        return (
            f"A model must be saved by Keras 3. Received: {path}, which Keras {version} saved, in a form that Keras 3 "
            "can't load. With that Keras, model.save('model.h5'); with Keras 3, keras.models.load_model('model.h5') "
            "and model.save('model.keras')."
        )
    missing = re.search(r"Could not locate (?:class|function) '([^']+)'", text)
    if missing:
        return (
            f"A model must be made of Keras' own layers here. Received: {path}, which needs {missing[1]!r}, a class or "
            "function of someone's own. In Python, where that is imported, `explain(model, images)` explains it."
        )
    return f"A model must be whole. Received: {path}, which Keras can't load: {type(error).__name__}: {text[:600]}"


def _saved_by(path: Path) -> str:
    """Returns the version of Keras that wrote a .keras file; "" where it doesn't say."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.getinfo("metadata.json")
            return str(json.loads(archive.read(part))["keras_version"]) if part.file_size <= _LARGEST_METADATA else ""
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return ""


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
    """Tells what images, signals, volumes or clips the model takes.

    Raises:
        ValueError: If it takes several inputs, or one that is none of these.
    """
    import keras
    import numpy as np

    from ..data.spaces import input_space, kind_of
    from ..network.layers import input_tensors

    tensors = input_tensors(model)
    if not tensors:
        raise ValueError(
            f"A model must know its input. Received: model {model.name!r}, which does not; it was saved before it ran, "
            "or is of a class of its own. In Python, `explain(model, images)` explains it."
        )
    shapes = [tuple(tensor.shape) for tensor in tensors]
    dtype = str(keras.backend.standardize_dtype(tensors[0].dtype))
    if len(shapes) == 1 and len(shapes[0]) in (3, 5):
        one = np.broadcast_to(np.float32(0), [1, *(side or 8 for side in shapes[0][1:])])
        space = input_space(model, one)
        if space is not None and kind_of(space) != "image":
            first = space.layout == "channels_first"
            _, *sides = shapes[0]
            return Input((*sides[1:], sides[0]) if first else tuple(sides), first, dtype, kind_of(space))
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            "A model must take images (samples, height, width, channels), signals, volumes or clips, and nothing else. "
            "Received: model "
            f"{model.name!r} with inputs {', '.join(map(str, shapes))}. In Python, `explain(model, inputs)` takes any."
        )
    _, a, b, c = shapes[0]
    first = a in (1, 3) and c not in (1, 3) and a != b
    height, width, channels = (b, c, a) if first else (a, b, c)
    if channels not in (1, 3, None):
        raise ValueError(
            f"A model must take grey or RGB images. Received: model {model.name!r}, whose images have {channels} "
            "channels. In Python, `explain(model, images)` takes any."
        )
    return Input((height, width, channels), first, dtype)


def likely_scale(model: Any, images: Sequence[Any] = (), white: float | None = None) -> tuple[str, str]:
    """Guesses which range of pixel values a model was trained on.

    Args:
        model: The model.
        images: Those that it will see, uint8 or uint16, as read from files. Where the model says but the mean and the
            deviation of its images, that range is taken in which these fit best.
        white: Which value is white in the files, or None.

    Returns:
        The range, one of `SCALES` or two numbers such as "0,4095", and why.
    """
    from ..data.feeding import preprocesses
    from ..network.preprocessing import expected_range

    if preprocesses(model):
        return "0-255", "the model's own preprocessor scales"
    expected = expected_range(model)
    if expected is None:
        return "0-1", "the model has no Rescaling layer"
    if expected.fitting:
        names = expected.fitting if len(images) else (expected.name or "",)
        scale = min(map(scale_text, names), key=lambda text: _misfit(expected, text, images, model_input(model), white))
        return scale, f"{expected.words}, which these images have best in {range_of(scale)}"
    if expected.sure:
        return scale_text(expected.name or "[0, 255]"), f"the model scales its input itself, in {expected.why}"
    assert expected.name is not None
    return scale_text(expected.name), expected.why


def _misfit(expected: Any, scale: str, images: Sequence[Any], given: Input, white: float | None) -> float:
    """Returns how far the mean and the deviation of images, brought to a range, are from those that a model says."""
    import numpy as np

    if not len(images):
        return 0.0
    some = images[:: max(1, len(images) // 32)]
    values = scaled(some, scale, given, whites(some, scale, False, white)).astype(np.float64)
    mean, deviation = np.mean(expected.mean), np.mean(expected.deviation)
    spread = max(float(values.std()), 1e-6 * float(deviation))
    return float(abs(values.mean() - mean) / deviation + abs(np.log(spread / deviation)))


def scaled(images: Any, scale: str, given: Input, tops: Sequence[float | None] | None = None) -> Any:
    """Brings images from files to the range and layout that a model takes.

    Args:
        images: (N, H, W, C) uint8 or uint16, or a list of these.
        scale: One of `SCALES`, or two numbers such as "0,4095".
        given: What the model takes.
        tops: As from `scales.whites`; by default 255 is white.

    Returns:
        (N, H, W, C) or (N, C, H, W), float32 for models of floating-point numbers.

    Raises:
        ValueError: If the model takes whole numbers and the range has none, or grey images and the range is of colours.
    """
    import numpy as np

    from ..data.layout import in_layout
    from ..data.range_names import limits

    ends = limits(range_of(scale))
    assert ends is not None
    black, white = (np.asarray(limit, np.float32) for limit in ends)
    if black.size != 1 and images[0].shape[-1] != 3:
        raise ValueError(f"--scale {scale} is of RGB images. Received: a model of grey ones. --scale 0-1 works.")
    whole = not given.dtype.startswith(("float", "bfloat"))
    if whole and (black.size != 1 or not (float(black).is_integer() and float(white) >= 2)):
        raise ValueError(
            f"This model takes whole numbers ({given.dtype}). Received: --scale {scale}. --scale 0-255 works."
        )
    rows = []
    for image, top in zip(images, [255.0] * len(images) if tops is None else tops, strict=True):
        shown = image[..., ::-1] if scale == "mean-subtracted" else image  # Its channels are blue, green, red.
        values = shown.astype(np.float32)
        if top is not None and not (top == 255 and scale == "0-255"):
            values = values / np.float32(top) * (white - black) + black
        rows.append(np.rint(values) if whole else values)
    stacked = np.stack(rows)
    if whole:
        least, most = np.iinfo(given.dtype).min, np.iinfo(given.dtype).max
        if stacked.min() < least or stacked.max() > most:
            raise ValueError(
                f"This model takes whole numbers from {least} to {most} ({given.dtype}). Received: values of "
                f"{stacked.min():g} to {stacked.max():g} for --scale {scale}. --white {stacked.max():g} works."
            )
        stacked = stacked.astype(given.dtype)
    return np.ascontiguousarray(in_layout(stacked, "channels_first" if given.channels_first else "channels_last"))
