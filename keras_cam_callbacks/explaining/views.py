"""The views that are asked for: each method for each target, with the layers and functions that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..methods import Method
from ..methods.fusion import Fusion
from ..network.layers import Tap
from ..network.targets import Target
from ..passes.capture import Capturer, needs_layer
from ..passes.probe import FUNCTIONS, Probe
from .tracing import Trace


@dataclass(frozen=True, eq=False)
class View:
    """One of the explanations that are asked for.

    Attributes:
        method: The method.
        target: Which of the capturer's targets.
        taps: The layers that the method explains, None for a method without.
        probes: For each of `taps` the functions that the method needs.
        layer_name: The layers in words.
    """

    method: Method
    target: int
    taps: tuple[Tap | None, ...]
    probes: tuple[Probe | None, ...]
    layer_name: str


def make_views(
    trace: Trace, methods: Mapping[str, Method], targets: Mapping[str, Target], fuse: Fusion
) -> dict[str, View]:
    """Returns a view for each method and target, named by what there are several of.

    Args:
        trace: The model's trace.
        methods: The methods by name.
        targets: The targets by name, in the order in which they were traced.
        fuse: How several layers are fused.

    Raises:
        ValueError: If two views would have one name.
    """
    capturer = trace.capturer
    views = {}
    for method_name, method in methods.items():
        taps: tuple[Tap | None, ...] = (None,)
        if "kernel" in method.needs:
            taps = (capturer.head,)
        elif needs_layer(method.needs):
            taps = capturer.taps
        paths = ", ".join(tap.path for tap in taps if tap is not None)
        functions = [name for name in method.needs if name in FUNCTIONS]
        for t, target_name in enumerate(targets):
            name = "_".join(filter(None, (method_name, target_name)))
            if name in views:
                raise ValueError(
                    "Methods and targets must have names that can be told apart together. Received: methods "
                    f"{', '.join(methods)} and targets {', '.join(targets)}, two of which would be called {name}. "
                    "Name one of them otherwise."
                )
            views[name] = View(
                method,
                t,
                taps,
                tuple(trace.probe(functions, t, tap) for tap in taps),
                f"{fuse}({paths})" if len(taps) > 1 else paths,
            )
    return views


def is_of_class(view: View) -> bool:
    """Tells whether the maps depend on the explained class."""
    return not {"activations", "images"}.issuperset(view.method.needs)


def texts(named: Mapping[str, Method | Target]) -> str:
    """Returns methods or targets as one text; those with names of the user's by these."""
    texts = []
    for name, one in named.items():
        own = name and name not in (one.text, getattr(one, "name", ""))
        texts.append(f"{name}={one.text}" if own else one.text)
    return ", ".join(texts)


def checked_names(class_names: Sequence[str] | None, capturer: Capturer) -> tuple[str, ...] | None:
    """Returns the class names, after a check that there are enough."""
    if class_names is None:
        return None
    names, classes = tuple(map(str, class_names)), capturer.classes
    if isinstance(class_names, (str, Mapping)) or (classes is not None and len(names) != classes):
        what = "classes" if capturer.output.tells_classes else "outputs, which are numbers"
        raise ValueError(
            f"`class_names` must be a list of one name for each of the model's {classes} {what}. "
            f"Received: {class_names!r}."
        )
    return names
