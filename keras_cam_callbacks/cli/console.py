"""What the commands print: tables and JSON on stdout, all else on stderr; and one message for what goes wrong.

Names come out of files, and so may hold anything: none is printed before `plain` or `markup` has seen it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

_INSTALL = "pip install 'keras_cam_callbacks[{}]'"


def plain(text: object, keep: str = "") -> str:
    """Returns text of one line without control characters, which would steer the terminal, or turn the text around.

    Args:
        text: Anything; it is printed as `str` has it.
        keep: Control characters that may stay.
    """
    categories = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        c if c in keep or unicodedata.category(c) not in categories else " " if c.isspace() else "\ufffd"
        for c in str(text)
    )


def markup(text: object) -> str:
    """Returns `plain` text that rich prints as it is, brackets included."""
    from rich.markup import escape

    return escape(plain(text))


def say(text: object) -> None:
    """Prints a message on stderr."""
    click.echo(plain(text, keep="\n"), err=True)


def print_json(data: Any) -> None:
    """Prints JSON on stdout, and nothing but JSON: NaN and infinities become null."""
    click.echo(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(name): _finite(each) for name, each in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(each) for each in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", right: Sequence[str] = ()
) -> None:
    """Prints a table on stdout, as wide as the terminal; what does not fit is broken into lines.

    Args:
        headers: Of the columns.
        rows: For each row as many cells, each any text, or a list of texts, which stand below each other.
        title: Stands above.
        right: The headers of the columns that are aligned at the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=markup(title) or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for header in headers:
        table.add_column(markup(header), justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("\n".join(map(markup, cell)) if isinstance(cell, list) else markup(cell) for cell in row))
    Console().print(table)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on stderr, where that is a terminal; gives the function that takes what is done, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:  # A bar that is switched off prints an empty line in older versions of rich.
        yield lambda done, total: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(markup(title), total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield show


@contextmanager
def one_message() -> Iterator[None]:
    """Ends with one message and exit code 1, without a traceback, where an input is wrong or can't be read."""
    try:
        yield
    except RecursionError as error:
        raise click.ClickException("A record must not be nested without end. Received: one that is.") from error
    except MemoryError as error:
        raise click.ClickException(f"This needs more memory than there is. {plain(error)}".strip()) from error
    except (ValueError, OSError) as error:
        raise click.ClickException(plain(error, keep="\n")) from error


def need(*modules: str, extra: str = "cli") -> None:
    """Ends with one message if a package that the command needs is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(f"This needs {' and '.join(missing)}. Install it: {_INSTALL.format(extra)}")


def number(value: Any, digits: int = 3) -> str:
    """Returns a number for a table, "-" for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.3g}"
