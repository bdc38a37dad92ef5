"""The methods by name. Each is a function of what was captured, or of functions of the model.

To add one: a function in its family's file, or a frozen dataclass where it has options; a row here; a hand-worked and
a reference test; a row in docs/howto/layer_and_method.md and in docs/gallery.md. Methods of other packages are found by
name, too, see `plugins`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import plugins
from ..checks import did_you_mean
from ..records import Capture, Floats
from . import attention, cams, fullgrad, perturbation, saliency

_AXES = {1: ("t",), 2: ("h", "w"), 3: ("d", "h", "w")}


@dataclass(frozen=True)
class Method:
    """A method and what it is a function of.

    Attributes:
        name: Its name in tables, captions and records.
        function: Takes what `needs` names, in that order, and returns raw heatmaps (N, *space), or one map for each
            of the image's channels (N, *space, C), which its `channels` then makes one (see `saliency.one_map`). It may
            return a pair: these, and a dict of numbers (N,) by name, which are logged.
        needs: Names of `Capture`'s arrays ("activations", "gradients", "kernel", "images", "scores", and "attentions",
            "relevances", "readout" and "positions" of self-attention) and of functions
            of the model (see `probe.FUNCTIONS`).
        copies: Whether the function gets copies of the arrays, which it may write into; else they are read-only.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    copies: bool = False

    def __call__(
        self, capture: Capture, functions: Mapping[str, Callable[..., Any]] | None = None
    ) -> tuple[Floats, Floats | None, dict[str, Floats]]:
        """Explains one captured chunk.

        Args:
            capture: The chunk.
            functions: The functions of the model among `needs`, by name.

        Returns:
            The raw heatmaps (N, *space) float32; the maps of each channel (N, *space, C) where the method makes these;
            and the numbers that it tells of each sample, (N,) by name.

        Raises:
            ValueError: If a user's method returns other shapes.
        """
        functions = functions or {}
        needed = [functions[name] if name in functions else getattr(capture, name) for name in self.needs]
        if self.copies:
            needed = [each.copy() if isinstance(each, np.ndarray) else each for each in needed]
        found = self.function(*needed)
        told: Mapping[str, Any] = {}
        if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping):
            found, told = found
        maps: Floats = np.asarray(found, np.float32)
        numbers = {name: np.asarray(of_samples, np.float32) for name, of_samples in told.items()}
        attributions = None
        like = capture.activations if capture.images is None else capture.images
        axes = 2 if like is None else like.ndim - 2
        if maps.ndim == axes + 2 and hasattr(self.function, "channels"):
            attributions, maps = maps, saliency.one_map(maps, self.function.channels)
        at_layer = capture.activations is not None and {"activations", "gradients", "kernel"}.issuperset(self.needs)
        expected: tuple[Any, ...] = (len(capture.scores), *_AXES.get(axes, ("...",)))
        if at_layer:
            assert capture.activations is not None
            expected = capture.activations.shape[:-1]
        if maps.shape != expected and (at_layer or maps.ndim != axes + 1 or len(maps) != expected[0]):
            raise ValueError(
                "A method must return one heatmap for each sample, here "
                f"({', '.join(map(str, expected))}). Received: {maps.shape} from method {self.name!r}."
            )
        for name, of_samples in numbers.items():
            if not isinstance(name, str) or not name.strip() or "/" in name:
                raise ValueError(
                    "Names of a method's numbers must be text, not empty and without '/', which separates the parts of "
                    f"logged names. Received: {name!r} from method {self.name!r}. 'my_number' works."
                )
            if of_samples.shape != expected[:1]:
                raise ValueError(
                    f"A method's numbers must be one for each sample, here ({expected[0]},). "
                    f"Received: {name!r} of shape {of_samples.shape} from method {self.name!r}."
                )
        return maps, attributions, numbers

    def check_images(self, size: Sequence[int]) -> None:
        """Checks that its options fit images of a size, (H, W), as far as it can tell.

        Raises:
            ValueError: If they do not.
        """
        check = getattr(self.function, "check_images", None)
        if check is not None:
            check(size)

    @property
    def text(self) -> str:
        """The name, with the settings that are not the defaults: "smoothgrad(samples=100)"."""
        changed = []
        function: Any = self.function
        if dataclasses.is_dataclass(function):
            for field in dataclasses.fields(function):
                value = getattr(function, field.name)
                if isinstance(value, np.ndarray):
                    changed.append(f"{field.name}=array{value.shape}")
                elif value != field.default:
                    # Where an object lies in memory is no setting.
                    changed.append(f"{field.name}={re.sub(' at 0x[0-9a-fA-F]+', '', repr(value))}")
        return self.name + (f"({', '.join(changed)})" if changed else "")


_GRADIENT_METHODS = (
    cams.gradcam,
    cams.gradcam_plus_plus,
    cams.hirescam,
    cams.xgradcam,
    cams.layercam,
    cams.gradcam_elementwise,
    cams.eigen_gradcam,
)
_WITH_OPTIONS = (
    cams.RandomCAM(),
    saliency.Saliency(),
    saliency.InputXGradient(),
    saliency.SmoothGrad(),
    saliency.IntegratedGradients(),
    saliency.GuidedBackprop(),
    saliency.GuidedGradCAM(),
    saliency.MaxActivation(),
    fullgrad.FullGrad(),
    perturbation.ScoreCAM(),
    perturbation.AblationCAM(),
    perturbation.Occlusion(),
    perturbation.RISE(),
)
_OF_ATTENTION = (
    ("attention_rollout", attention.attention_rollout, "attentions"),
    ("attention_relevance", attention.attention_relevance, "relevances"),
)
METHODS: dict[str, Method] = {
    "cam": Method("cam", cams.cam, ("activations", "kernel")),
    **{f.__name__: Method(f.__name__, f, ("activations", "gradients")) for f in _GRADIENT_METHODS},
    "eigencam": Method("eigencam", cams.eigencam, ("activations",)),
    **{method.name: Method(method.name, method, method.needs) for method in _WITH_OPTIONS},
    **{name: Method(name, function, (needed, "readout", "positions")) for name, function, needed in _OF_ATTENTION},
}
"""All methods by the names that `method=` takes."""
AUTO = Method("auto", cams.gradcam, METHODS["gradcam"].needs)
"""Stands for Grad-CAM, or for HiResCAM where the layer holds tokens, until the layer is known."""


def resolve_methods(method: Any) -> dict[str, Method]:
    """Returns one method or several under their names.

    Args:
        method: As for `resolve_method`; or a list of these, or a dict by names of the user's.

    Returns:
        The methods by name; a single one has the name "".

    Raises:
        ValueError: As `resolve_method`, or if the list is empty or names two methods alike.
        TypeError: As `resolve_method`.
    """
    if not isinstance(method, (Mapping, list, tuple)):
        return {"": resolve_method(method)}
    if isinstance(method, Mapping):
        several = {name: resolve_method(each) for name, each in method.items()}
    else:
        found = [resolve_method(each) for each in method]
        names = [each.name for each in found]
        # Two settings of one method go by their texts.
        texts = [each.text if names.count(each.name) > 1 else each.name for each in found]
        several = dict(zip(texts, found, strict=True))
    if not several or len(several) < len(method) or not all(isinstance(name, str) and name for name in several):
        raise ValueError(
            "`method` as a list or dict must hold methods that differ, by names. "
            f"Received: {method!r}. ['gradcam', 'layercam'] works, and {{'ours': my_method}}."
        )
    return several


def resolve_method(method: str | Callable[..., Floats]) -> Method:
    """Returns the method of that name, or wraps a method with settings, or a user's function.

    Args:
        method: A name, also one that another package brings, or "auto"; an object with `name` and `needs`, such as
            `SmoothGrad(samples=50)`; or a function of (activations, gradients).

    Raises:
        ValueError: If there is no method of that name.
        TypeError: If it is neither a name nor callable.
        ImportError: If another package's method can't be imported or made.
    """
    if isinstance(method, type):
        raise TypeError(f"`method` must be an object, not its class. Received: {method!r}. {method.__name__}() works.")
    if callable(method):
        name = getattr(method, "name", None) or getattr(method, "__name__", type(method).__name__)
        return Method(str(name), method, getattr(method, "needs", ("activations", "gradients")), copies=True)
    if not isinstance(method, str):
        raise TypeError(
            "`method` must be a method's name, a method such as SmoothGrad(samples=50), or a function (activations, "
            "gradients) -> heatmaps. "
            f"Received: {method!r} of type {type(method).__name__}."
        )
    if method == AUTO.name:
        return AUTO
    return METHODS[method] if method in METHODS else _brought(method)


_WORKS = "A function (activations, gradients) -> heatmaps works."


def _brought(name: str) -> Method:
    """Returns a method of another package, under the name that it is brought by.

    Raises:
        ValueError: If no package brings that name.
        ImportError: If it can't be imported or made.
        TypeError: If it is no method.
    """
    others = plugins.plugin_names(plugins.METHODS)
    if name not in others:
        names = [*METHODS, *others]
        raise ValueError(f"`method` must be one of {', '.join(names)}. Received: {name!r}.{did_you_mean(name, names)}")
    brought = plugins.load_plugin(plugins.METHODS, name)
    if isinstance(brought, type):
        must = "be a function, an object, or a class that is called without arguments"
        brought = plugins.call_plugin(plugins.METHODS, name, brought, must, _WORKS)
    if not callable(brought):
        raise TypeError(
            f"What a package brings as the method {name!r} must be callable. Received: {brought!r}. {_WORKS}"
        )
    return dataclasses.replace(resolve_method(brought), name=name)
