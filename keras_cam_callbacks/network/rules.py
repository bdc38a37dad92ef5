"""Which functions of the user's a run explains by, or a layer computes with: two lambdas are no one rule."""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from types import CodeType
from typing import Any

__all__ = ["rules_digest"]


def rules_digest(*settings: Any) -> str:
    """Returns a digest of the functions among settings: the same in another process, and with another Python.

    Of each function count its name, the names and constants in it, and numbers and texts that it takes from around it
    and does not set itself; the order of what it does with them does not.

    Args:
        *settings: Functions, lists and dicts of them, or anything else, which does not count.

    Returns:
        16 hexadecimal digits; "" where there are no functions.
    """
    rules = [sorted(set(_described(function))) for function in _functions(settings)]
    return hashlib.sha256(repr(rules).encode("utf-8", "surrogatepass")).hexdigest()[:16] if rules else ""


def _functions(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _functions(item)
    elif isinstance(value, partial) or hasattr(value, "__code__"):
        yield value


def _described(value: Any, depth: int = 3) -> Iterator[str]:
    """Yields what tells a function, or a value that it uses, from another."""
    if isinstance(value, (bool, int, float, str, tuple)):
        yield repr(value)
    elif isinstance(value, partial):
        for part in (value.func, *value.args, *value.keywords.items()):
            yield from _described(part, depth)
    elif depth and isinstance(code := getattr(value, "__code__", None), CodeType):
        yield code.co_name
        yield from _written(code)
        for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield from _described(default, depth - 1)
        changed = {step.argval for step in dis.get_instructions(code) if step.opname.startswith("STORE_")}
        around = {name: value.__globals__[name] for name in code.co_names if name in value.__globals__}
        around |= dict(zip(code.co_freevars, map(_content, value.__closure__ or ()), strict=True))
        for name, used in around.items():
            if name not in changed and not isinstance(used, tuple):
                yield from (f"{name}: {text}" for text in _described(used, depth - 1))


def _written(code: CodeType) -> Iterator[str]:
    """Yields names and constants of code; also of code in it, which later versions of Python have in its place."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _written(constant)
        elif isinstance(constant, (bool, int, float, str, tuple)) and "<locals>" not in str(constant):
            yield repr(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # It is not set yet, as of a function that calls itself.
        return None
