"""Keras callbacks that show where a vision model looks while it trains.

Names are loaded when they are first used, so that importing the package costs nothing and loads no framework. Which
names there are, and where each lives, is written in `__init__.pyi` alone: type checkers and editors read it, and so
does this file.
"""

import ast
import importlib
import pkgutil
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    name.name: node.module
    for node in ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"").body  # also out of a zip
    if isinstance(node, ast.ImportFrom) and node.level
    for name in node.names
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Loads a public name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
