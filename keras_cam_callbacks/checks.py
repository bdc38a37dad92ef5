"""Every check of an option, once. An error says what must hold, what was received, and what works."""

from __future__ import annotations

import difflib
import functools
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import ParamSpec, TypeGuard, TypeVar

__all__ = [
    "check",
    "check_choice",
    "check_positive",
    "check_whole",
    "close_names",
    "did_you_mean",
    "is_real",
    "is_seconds",
    "is_whole",
    "renamed",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def is_whole(value: object, least: int | None = None, most: int | None = None) -> TypeGuard[int]:
    """Tells whether a value is a whole number, of Python or of numpy, and from `least` to `most`; True is none."""
    value = _unwrapped(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return (least is None or int(value) >= least) and (most is None or int(value) <= most)


def is_real(value: object, least: float = -math.inf, most: float = math.inf) -> TypeGuard[float]:
    """Tells whether a value is a finite number, of Python or of numpy, and from `least` to `most`; True is none."""
    value = _unwrapped(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value) and least <= float(value) <= most
    except OverflowError:  # An int or a fraction that no float can hold.
        return False


def _unwrapped(value: object) -> object:
    """Returns the number that an array without axes holds, and anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def is_seconds(value: object) -> TypeGuard[float]:
    """Tells whether a value is a time that can be waited for: a positive number of seconds."""
    return is_real(value, most=threading.TIMEOUT_MAX) and value > 0


def check(name: str, value: object, valid: bool, must: str, works: str) -> None:
    """Raises where an option is not valid.

    Args:
        name: The option.
        value: Its value.
        valid: Whether it is what it must be.
        must: What the option must be, such as "a number in [0, 1]".
        works: A value that works, as it is written.

    Raises:
        ValueError: If it is not valid.
    """
    if not valid:
        raise ValueError(f"`{name}` must be {must}. Received: {name}={value!r}. {name}={works} works.")


def check_whole(name: str, value: object, least: int, works: int, most: int | None = None) -> None:
    """Checks that an option is a whole number of at least `least`, and of at most `most` where that is not None.

    Raises:
        ValueError: If it is not; `works` is named as a value that works.
    """
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    check(name, value, is_whole(value, least, most), f"a whole number {limits}", str(works))


def check_positive(name: str, value: object) -> None:
    """Checks that an option counts something: a whole number of at least 1.

    Raises:
        ValueError: If it does not.
    """
    if not is_whole(value, 1):
        raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}.")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Checks that an option is one of some values, and proposes those that are spelt like it.

    Args:
        name: The option.
        value: Its value.
        choices: What it may be.

    Raises:
        ValueError: If it is none of them.
    """
    choices = list(choices)
    if not any(_is_choice(value, choice) for choice in choices):
        texts = [choice for choice in choices if isinstance(choice, str)]
        listed = ", ".join(texts if len(texts) == len(choices) else map(repr, choices))
        raise ValueError(f"`{name}` must be one of {listed}. Received: {name}={value!r}.{did_you_mean(value, texts)}")


def _is_choice(value: object, choice: object) -> bool:
    """Tells whether a value is a choice: of numpy's kinds too, and of a user's enumeration of texts; True is no 1."""
    if any(isinstance(value, kind) is not isinstance(choice, kind) for kind in (bool, str)):
        return False
    try:
        return bool(value == choice)
    except ValueError:  # Arrays are compared number by number.
        return False


def close_names(value: object, choices: Iterable[str], most: int = 3) -> list[str]:
    """Returns those of some names that a misspelt one may stand for.

    Args:
        value: What was written.
        choices: The names that there are.
        most: How many to return at most.

    Returns:
        The names, the closest first; none where nothing is close. Upper and lower case count as the same.
    """
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
    return [by_lower[name] for name in difflib.get_close_matches(str(value).lower(), by_lower, most, cutoff=0.5)]


def did_you_mean(value: object, choices: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """Returns the end of an error's text that proposes close names, such as " Did you mean 'gradcam'?".

    Args:
        value: What was written.
        choices: The names that there are.
        shown: What is proposed for a name, by default the name itself.

    Returns:
        The text, with a space before it; "" where nothing is close.
    """
    proposed = dict.fromkeys(map(shown, close_names(value, choices)))
    return f" Did you mean {' or '.join(map(repr, proposed))}?" if proposed else ""


def renamed(instead: str = "", /, **new_names: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Keeps old names working, with a DeprecationWarning: of options, or of the function. They go with version 1.0.

    The signature names the new options alone.

    Args:
        instead: What to call instead, where the function itself is the old name; "" where it stays.
        **new_names: The new name of an option by its old one.

    Returns:
        The decorator.

    Example:
        >>> @renamed(layer_name="layer")
        ... def explain(model, *, layer=None): ...
        >>> explain(model, layer_name="conv5")  # as explain(model, layer="conv5"), with a warning
        >>> show_where = renamed("explain")(explain)  # the function's old name
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @functools.wraps(function)
        def with_new_names(*args: _P.args, **options: _P.kwargs) -> _T:
            if instead:
                warnings.warn(
                    f"This function is now called `{instead}`. The old name works until version 1.0.",
                    DeprecationWarning,
                    stacklevel=_levels_to_caller(),
                )
            for old, new in new_names.items():
                if old not in options:
                    continue
                if new in options:
                    raise TypeError(
                        f"`{new}` must be written once. Received: {new}={options[new]!r} and, by its old name, "
                        f"{old}={options[old]!r}. {new}={options[new]!r} alone works."
                    )
                options[new] = options.pop(old)
                warnings.warn(
                    f"`{old}` is now called `{new}`. The old name works until version 1.0.",
                    DeprecationWarning,
                    stacklevel=_levels_to_caller(),
                )
            return function(*args, **options)

        return with_new_names

    return decorate


def _levels_to_caller() -> int:
    """Returns the `stacklevel` at which a warning of the function that calls this points outside this package.

    Python shows a DeprecationWarning only for code that is run itself, and a logger calls its base class.
    """
    package, level = __name__.partition(".")[0], 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level
