"""The methods by name. Each is a function of what was captured at the layer.

To add one: a function in its family's file, a row here, a hand-worked and a reference test, a README row.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..records import Capture, Floats
from . import cams


@dataclass(frozen=True)
class Method:
    """A method and what it is a function of.

    Attributes:
        name: Its name in tables, captions and records.
        function: Takes the arrays named by `needs`, in that order, and returns raw heatmaps (N, h, w).
        needs: Names of `Capture`'s arrays: "activations", "gradients", "kernel".
    """

    name: str
    function: Callable[..., Floats]
    needs: tuple[str, ...]

    def __call__(self, capture: Capture) -> Floats:
        """Returns the raw heatmaps (N, h, w) float32 of one captured chunk.

        Raises:
            ValueError: If a user's method returns another shape.
        """
        heatmaps = np.asarray(self.function(*(getattr(capture, name) for name in self.needs)), np.float32)
        if heatmaps.shape != capture.activations.shape[:3]:
            raise ValueError(
                "A method must return one heatmap (h, w) for each sample, here "
                f"{capture.activations.shape[:3]}. Received: {heatmaps.shape} from method {self.name!r}."
            )
        return heatmaps


_GRADIENT_METHODS = (
    cams.gradcam,
    cams.gradcam_plus_plus,
    cams.hirescam,
    cams.xgradcam,
    cams.layercam,
    cams.gradcam_elementwise,
    cams.eigen_gradcam,
)
METHODS: dict[str, Method] = {
    "cam": Method("cam", cams.cam, ("activations", "kernel")),
    **{f.__name__: Method(f.__name__, f, ("activations", "gradients")) for f in _GRADIENT_METHODS},
    "eigencam": Method("eigencam", cams.eigencam, ("activations",)),
}


def resolve_method(method: str | Callable[[Floats, Floats], Floats]) -> Method:
    """Returns the method of that name, or wraps a user's function of (activations, gradients).

    Raises:
        ValueError: If there is no method of that name.
        TypeError: If it is neither a name nor callable.
    """
    if callable(method):
        return Method(getattr(method, "__name__", type(method).__name__), method, ("activations", "gradients"))
    if not isinstance(method, str):
        raise TypeError(
            "`method` must be a method's name or a function (activations, gradients) -> heatmaps. "
            f"Received: {method!r} of type {type(method).__name__}."
        )
    if method not in METHODS:
        close = difflib.get_close_matches(method, METHODS, n=3, cutoff=0.4)
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}. Received: {method!r}."
            + (f" Did you mean {' or '.join(map(repr, close))}?" if close else "")
        )
    return METHODS[method]
