"""Sanity checks: does a heatmap change when the model forgets what it learned? If not, it doesn't explain the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import check_whole
from ..data.batches import make_batch
from ..drawing.grids import grid
from ..drawing.overlay import Overlay
from ..methods import resolve_method
from ..metrics import degenerate, mean, spearman
from ..network.targets import resolve_targets
from ..network.weights import LayerWeights, fresh_values, kept, weights_from_top
from ..passes import check_backend
from ..passes.capture import needs_layer
from ..passes.taps import layer_calls
from ..records import Floats, Image, ValidationBatch, short_repr
from .explainer import Explainer
from .explanation import Explanation
from .inputs import chooser

__all__ = ["MOST", "SanityCheck", "sanity_check"]

MOST = 0.5
"""A method passes if its mean correlation with all weights randomised is below."""


@dataclass(frozen=True, eq=False)
class SanityCheck:
    """Heatmaps of a model that forgets layer by layer, from its output down to its input.

    Step 0 is the untouched model; T steps follow, and at the last one all layers are randomised.

    Attributes:
        originals: The explanation of the untouched model by each method, by the method's text.
        heatmaps: For each method (1 + T, N, h, w) float32, raw.
        correlations: For each method (1 + T, N) float64 in [-1, 1]: Spearman's rank correlation of each sample's map
            with its map at step 0 (see `metrics.spearman`); NaN where either is degenerate.
        layers: 1 + T paths: the lowest layer that is randomised at each step; "" at step 0.
        randomized: 1 + T numbers of layers that are randomised at each step.
        seed: Where the random weights came from.
    """

    originals: Mapping[str, Explanation]
    heatmaps: Mapping[str, Floats]
    correlations: Mapping[str, npt.NDArray[np.float64]]
    layers: tuple[str, ...]
    randomized: tuple[int, ...]
    seed: int

    __repr__ = short_repr

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table as plain dicts, one for each method and step, as `pandas.DataFrame` takes them.

        "method"; "step", the number of randomised layers; "layer", the lowest of them; "correlation", the mean over the
        samples that have one, or NaN; "correlations", one for each sample; "degenerate", how many maps explain nothing
        at this step (see `metrics.degenerate`), and have no correlation.
        """
        return [
            {
                "method": method,
                "step": count,
                "layer": layer,
                "correlation": float(mean(correlations)),
                "correlations": correlations.tolist(),
                "degenerate": int(degenerate(maps).sum()),
            }
            for method in self.heatmaps
            for count, layer, correlations, maps in zip(
                self.randomized, self.layers, self.correlations[method], self.heatmaps[method], strict=True
            )
        ]

    @property
    def passed(self) -> dict[str, bool]:
        """By method: whether the mean correlation with all weights randomised is below `MOST`, 0.5.

        A method none of whose maps can be compared at that step has not passed: nothing is known of it.
        """
        return {method: bool(mean(correlations[-1]) < MOST) for method, correlations in self.correlations.items()}

    def __str__(self) -> str:
        count = len(next(iter(self.originals.values())).batch)
        lines = [
            f"Rank correlation with the original heatmaps, mean of {count} samples (number of degenerate heatmaps)"
        ]
        columns = [["randomised down to", "the original", *self.layers[1:]]]
        rows, steps = self.rows, len(self.layers)
        for i, method in enumerate(self.heatmaps):
            column = [method]
            for row in rows[i * steps :][:steps]:
                value = "-" if np.isnan(row["correlation"]) else f"{row['correlation']:.2f}"
                column.append(f"{value} ({row['degenerate']})" if row["degenerate"] else value)
            columns.append(column)
        widths = [max(map(len, column)) for column in columns]
        for line in zip(*columns, strict=True):
            lines.append("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
        return "\n".join([*lines, *(f"{method}: {self._verdict(method)}" for method in self.heatmaps)])

    def picture(
        self, overlay: Overlay | None = None, *, columns: int = 5, samples: int | Sequence[int] | None = None
    ) -> Image:
        """Draws how the heatmaps change, a row for each sample and method.

        A row begins with the image and whether the method passed; then comes the heatmap of the untouched model, and
        those with more and more of the weights randomised, each with its correlation for this sample.

        Args:
            overlay: How to draw; by default `Overlay()`.
            columns: How many heatmaps stand in a row, at least 2: the original, some evenly between, and the last.
            samples: How many samples, the first ones, or a list of their rows; by default at most 3 for one method, 1
                for several.

        Returns:
            uint8 RGB (H, W, 3).

        Raises:
            ValueError: If there are no such samples, or `columns` is too small.
        """
        check_whole("columns", columns, 2, 5)
        overlay = overlay or Overlay()
        steps = sorted({int(step) for step in np.linspace(0, len(self.layers) - 1, columns).round()})
        pictures: list[Image] = []
        for sample in self._rows(samples):
            for method, original in self.originals.items():
                maps = self.heatmaps[method][steps, sample]
                captions = [f"{method} {self._verdict(method).partition(',')[0]}; {original.samples()[sample].caption}"]
                for step, dead in zip(steps, degenerate(maps), strict=True):
                    value = self.correlations[method][step, sample]
                    end = step == len(self.layers) - 1
                    what = "all weights randomised" if end else f"randomised down to {self.layers[step]}"
                    text = "no heatmap" if dead else "no original" if np.isnan(value) else f"correlation {value:.2f}"
                    captions.append(f"{what}: {text}" if step else "original" + (", no heatmap" if dead else ""))
                # A map of zeros leaves the image bare.
                maps = np.concatenate([np.zeros_like(maps[:1]), maps])
                images = [original.batch.display[sample]] * len(maps)
                pictures += overlay.draw(images, maps, captions, space=original.batch.space)
        return grid(pictures, len(steps) + 1)

    def _rows(self, samples: int | Sequence[int] | None) -> list[int]:
        """Returns the rows of the samples to draw."""
        count = len(next(iter(self.originals.values())).batch)
        if samples is None:
            samples = min(count, 3 if len(self.originals) == 1 else 1)
        rows = list(range(samples)) if isinstance(samples, (int, np.integer)) else [int(row) for row in samples]
        if not rows or min(rows) < 0 or max(rows) >= count:
            raise ValueError(
                f"`samples` must be a number of samples or a list of rows, of the {count} there are. "
                f"Received: samples={samples!r}."
            )
        return rows

    def _verdict(self, method: str) -> str:
        value = float(mean(self.correlations[method][-1]))
        if degenerate(self.originals[method].heatmaps).all():
            return "not known, for all original heatmaps are degenerate"
        if np.isnan(value):
            return (
                "not known, for no heatmaps were left to compare once all weights were randomised; more samples or "
                "another seed may tell"
            )
        if value < MOST:
            return f"passed, for {value:.2f} is below {MOST}"
        return f"failed, for {value:.2f} is not below {MOST}: its heatmaps hardly depend on what the model learned"


def sanity_check(
    model: Any,
    images: Any,
    method: str | Callable[..., Any] | Sequence[str | Callable[..., Any]] = "gradcam",
    layer_name: Any = None,
    *,
    target: Any = "predicted",
    steps: int | None = 10,
    max_samples: int | None = 8,
    seed: int = 0,
    display: Any = None,
    output_kind: str | Mapping[str, str] | None = None,
    batch_size: int = 32,
) -> SanityCheck:
    """Randomises a model's weights from the top down, and measures how the heatmaps change.

    This is the cascading randomisation of the model parameter randomisation test. A method whose maps stay the same
    shows something in the image, such as edges, and nothing that the model has learned. All methods see the same
    random weights, and explain at each step the classes that were explained for the untouched model.

    Layers, frozen ones too, are randomised in the reverse of the order in which the model calls them. Kernels are drawn
    from the layer's own initializer; biases and the scales and offsets of normalisations become what a new layer has;
    what else there is becomes normal, or shuffled, with the mean and deviation that it has (see `weights`). As in the
    paper, what is not trained stays: the moving statistics of batch normalisation, without which deep networks fall
    silent, and of `Normalization`. The weights are put back bit for bit, also after an error or Ctrl-C; no random
    state is touched; meanwhile a copy of the weights is held in memory.

    To pass is necessary and not sufficient: maps of random numbers, which explain nothing, pass with a correlation near
    0. Nor do the numbers rank methods: maps that share a blank margin of the images, or are smooth, stay correlated
    (Binder et al.). Pearson's correlation, as measured on small nets, lies within 0.1 of the rank correlation for the
    most part, and is left out; so is SSIM, which changes with its window and with the scaling of the maps.

    Args:
        model: Any Keras 3 model; it is left as it is.
        images: Images as the model takes them, (N, H, W, C), or `(images, labels)`, or any data that `fit` takes.
        method: Name of a method (see `METHODS`), a method with settings, a function (activations, gradients) ->
            heatmaps (N, h, w), or a list of these.
        layer_name: The explained layer, as for `explain`; methods that explain the image itself have none.
        target: What is explained, as for `explain`. Classes are fixed as those of the untouched model; a function that
            gives scores is asked at each step.
        steps: In how many steps the layers are randomised, as evenly as their number allows; None for one each.
        max_samples: How many samples to explain, the first ones; None for all.
        seed: Same seed, same random weights.
        display: What people see where it differs from the model's input, for the picture.
        output_kind: What the model's output is, as for `explain`.
        batch_size: Largest number of samples that run at once.

    Returns:
        The check: print it, or see `.rows`, `.passed` and `.picture()`.

    Raises:
        ValueError: If a setting does not fit the model or the images, the model is quantized or has no weights, or its
            scores do not depend on its weights. The message tells what would.
        TypeError: If a setting is of the wrong kind.

    Reference:
        Adebayo et al., Sanity Checks for Saliency Maps, arXiv 1810.03292; its limits: Binder et al., Shortcomings of
        Top-Down Randomization-Based Sanity Checks, arXiv 2211.12486.

    Example:
        >>> check = sanity_check(model, images, ["gradcam", "guided_backprop"])
        >>> print(check)
        >>> check.passed
        {'gradcam': True, 'guided_backprop': False}
    """
    check_backend()
    if steps is not None:
        check_whole("steps", steps, 1, 10)
    check_whole("seed", seed, 0, 0)
    methods = _methods(method)
    methods_of = list(methods.values())
    choose = chooser(model, layer_name, method=methods_of, target=target, batch_size=batch_size, one=True)
    batch = make_batch(images, model, max_samples=max_samples, display=display, choose_input=choose)
    settings: dict[str, Any] = {"output_kind": output_kind, "batch_size": batch_size}
    views = Explainer(model, batch, method=_NoMaps(), target=target, **settings).views(batch)
    if "" not in views:
        raise ValueError(
            "A sanity check explains one class of each sample. "
            f"Received: target={target!r}, which is {len(views)} targets. target='predicted' works, and so does 0."
        )
    untouched = views[""]
    (resolved,) = resolve_targets(target).values()
    beyond = resolved.objective is not None
    dense = untouched.segments is not None or untouched.kind == "boxes"
    moves = dense and resolved.indices is None if not beyond else not resolved.is_fixed
    if moves:
        raise ValueError(
            "A sanity check explains the same with each of the changed models. "
            f"Received: target={resolved.text}, which is what the changed model predicts. Named classes and pixels "
            "work, such as Contrast(1, 0) or Segment(1, where='all')."
        )
    fixed = target if beyond or untouched.targets is None else untouched.targets
    without = any(needs_layer(resolve_method(one).needs) for one in methods.values())
    explainers = {
        text: Explainer(
            model,
            batch,
            None if without and not needs_layer(resolve_method(one).needs) else layer_name,
            method=one,
            target=fixed,
            **settings,
        )
        for text, one in methods.items()
    }
    every = weights_from_top(model, layer_calls(model, batch.inputs))
    groups = np.array_split(np.arange(len(every)), min(steps or len(every), len(every)))
    explained = _explained(explainers, batch, [[every[i] for i in group] for group in groups], seed)
    last = next(iter(explained.values()))[-1]
    if np.array_equal(last.scores, untouched.scores, equal_nan=True):
        raise ValueError(
            "The explained scores must depend on the model's weights. "
            f"Received: model {model.name!r}, whose scores stay the same to the last bit when all are randomised. "
            "Its layers must read their variables when they are called, and not keep what was in them."
        )
    heatmaps = {text: np.stack([one.heatmaps for one in each]) for text, each in explained.items()}
    return SanityCheck(
        originals={text: each[0] for text, each in explained.items()},
        heatmaps=heatmaps,
        correlations={text: np.stack([spearman(m, maps[0]) for m in maps]) for text, maps in heatmaps.items()},
        layers=("", *(every[group[-1]].path for group in groups)),
        randomized=(0, *(int(group[-1]) + 1 for group in groups)),
        seed=int(seed),
    )


class _NoMaps:
    """Explains nothing: finds the explained classes and their scores."""

    name = "none"
    needs = ("scores",)

    def __call__(self, scores: Floats) -> Floats:
        return scores[:, None, None]


def _methods(method: Any) -> dict[str, Any]:
    """Returns the methods by their text, which must all differ."""
    given = list(method) if isinstance(method, (list, tuple)) else [method]
    texts = [resolve_method(one).text for one in given]
    if not given or len(set(texts)) != len(texts):
        raise ValueError(
            "`method` must be a method, or a list of methods that differ in name or settings. "
            f"Received: {texts}. ['gradcam', 'saliency'] works."
        )
    return dict(zip(texts, given, strict=True))


def _explained(
    explainers: Mapping[str, Explainer],
    batch: ValidationBatch,
    groups: Sequence[Sequence[LayerWeights]],
    seed: int,
) -> dict[str, list[Explanation]]:
    """Explains with the weights as they are, and again after each group of layers is randomised."""
    rng = np.random.default_rng(seed)
    found = {text: [explainer.views(batch)[""]] for text, explainer in explainers.items()}
    with kept(variable for group in groups for one in group for variable in one.variables):
        for group in groups:
            for one in group:
                for variable in one.variables:
                    variable.assign(fresh_values(one.layer, variable, rng))
            for text, explainer in explainers.items():
                found[text].append(explainer.views(batch)[""])
    return found
