"""`--target` as text: a class by its index or name, or what is explained beyond a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TARGETS", "read_target"]

TARGETS = (
    "predicted, top2 to top9, or a class or number by index or by name; contrast or contrast:CLASS,CLASS; value:INDEX "
    "or value:OUTPUT; present or present:COUNT; segment:CLASS, segment:CLASS:all or segment:CLASS:ROW,COLUMN (TIME of "
    "a signal, DEPTH,ROW,COLUMN of a volume); detection:CLASS or detection:CLASS:LEFT,TOP,RIGHT,BOTTOM in px."
)
"""What `--target` takes, in words."""


def read_target(text: str, names: Sequence[str] | None) -> Any:
    """Returns what `explain` takes as target.

    Args:
        text: Such as "predicted", "3", "cat", "contrast:cat,dog", "value:age", "present:2", "segment:1:all" or
            "detection:cat:40,60,120,200".
        names: The class names, or None.

    Raises:
        ValueError: If it is a kind of target that is known, with settings that it hasn't.
    """
    from ..network.detection import Detection
    from ..network.objectives import Contrast, Present, Segment, Value

    one_class = _class(text, names)
    if isinstance(one_class, int):
        return one_class
    kind, *settings = text.split(":")
    if (kind, settings) == ("contrast", []):
        return text
    readers: dict[str, tuple[range, Callable[..., Any]]] = {
        "contrast": (range(1, 2), lambda pair: Contrast(*(_class(one.strip(), names) for one in pair.split(",")))),
        "value": (range(1, 2), lambda which: Value(_class(which, None))),
        "present": (range(2), lambda count="3": Present(_class(count, None))),
        "segment": (range(1, 3), lambda label, where="predicted": Segment(_class(label, names), _where(where))),
        "detection": (range(1, 3), lambda label, box=None: Detection(_class(label, names), _box(box))),
    }
    if kind not in readers:
        return text
    counts, reader = readers[kind]
    try:
        if len(settings) not in counts:
            raise ValueError("it has other settings")
        return reader(*settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--target must be {TARGETS} Received: {text!r}: {error}") from error


def _class(text: str, names: Sequence[str] | None) -> Any:
    """Returns an index for a class by its name or number, and any other text as it is."""
    if names and text in names:
        return names.index(text)
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _where(text: str) -> Any:
    sides = text.split(",")
    return tuple(map(int, sides)) if len(sides) <= 3 and all(map(str.isdecimal, sides)) else text


def _box(text: str | None) -> list[float] | None:
    return None if text is None else [float(side) for side in text.split(",")]
