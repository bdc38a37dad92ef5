"""Figures for notebooks, on matplotlib: what was found, and one image by many methods. The pixels are `Overlay`'s."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import is_whole
from ..data.arrays import on_host
from ..data.batches import make_batch
from ..drawing.colours import colorize
from ..drawing.overlay import Overlay
from ..drawing.unfolding import as_pictures
from ..methods import METHODS
from ..metrics import degenerate
from ..network.layers import input_tensors
from ..passes.capture import needs_layer
from ..records import Image, ValidationBatch
from .by_image import by_image
from .captions import display_title
from .explainer import Explainer
from .explanation import Explanation, Explanations, rows, texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_methods", "show"]

_PANEL, _ROW = 2.2, 6.6  # inches, width of a panel; of a signal's, or of slices side by side
_ACROSS = 6  # panels in a row, unless the user wants others
_TITLE, _LINE, _KEY = 0.36, 0.2, 0.8  # inches: room for a title, for a further line of text, for the colours' key
_CHARACTERS = 26  # of a line below or above a panel, at the size of the text
# Sizes are ours, for the room that is left depends on them; and class names are no formulas.
_TEXT: dict[str, Any] = {"fontsize": 11, "parse_math": False, "usetex": False}


@dataclass(frozen=True, eq=False)
class _Panel:
    """A picture with its title above and a caption below."""

    picture: Image
    title: str
    caption: str = ""


def show(
    explanation: Explanation | Explanations, overlay: Overlay | None = None, *, columns: int | None = None
) -> Figure:
    """Shows what was found: each image beside its heatmaps, under their names, and what the colours mean.

    As the last value of a notebook's cell the figure is displayed; elsewhere, `show(...).savefig("heatmaps.png")`. It
    is none of pyplot's figures, so that nothing needs closing. Panels hold the pixels that `Overlay.draw` makes.

    Args:
        explanation: What `explain` returned. Augmented images stand in rows of their own.
        overlay: How to draw; by default `Overlay()`. layout="panel" has a panel for the heatmap and one for the
            overlay, and the further images of `display`.
        columns: How many panels stand in a row; by default about six. Where there is room, several samples share one.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is missing.
        TypeError: If `explanation` is none, or `overlay` no `Overlay`.
        ValueError: If `columns` is not a positive whole number.

    Example:
        >>> show(explain(model, images, method=["gradcam", "smoothgrad"]))
    """
    if not isinstance(explanation, (Explanation, Explanations)):
        raise TypeError(
            "`explanation` must be what explain() returns. "
            f"Received: {type(explanation).__name__}. show(explain(model, images)) works."
        )
    _check(overlay, columns)
    return _figure(explanation, overlay or Overlay(), columns)


def plot_methods(
    model: Any,
    image: Any,
    methods: Any = None,
    *,
    layer_name: Any = None,
    target: Any = "predicted",
    class_names: Sequence[str] | None = None,
    output_kind: str | Mapping[str, str] | None = None,
    overlay: Overlay | None = None,
    columns: int | None = None,
    batch_size: int = 32,
) -> Figure:
    """Explains one image by several methods and shows their maps side by side, each under its name.

    Args:
        model: Any Keras 3 model; it is left as it is.
        image: One image as the model takes it, (H, W, C) or (1, H, W, C).
        methods: Names of methods (see `METHODS`), or methods with settings, in a list, or in a dict by names of yours.
            None takes all that fit the model, but those that run it on hundreds of changed images, such as "rise";
            below the figure it says which were left out and why.
        layer_name: The explained layer for methods of a layer, as for `explain`.
        target: What is explained, as for `explain`.
        class_names: Names by class index, for captions.
        output_kind: What the model's output is, as for `explain`.
        overlay: How to draw; by default `Overlay()`.
        columns: How many panels stand in a row; by default about six.
        batch_size: Largest number of images that run at once.

    Returns:
        A `matplotlib.figure.Figure`, as from `show`.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the image is not one image, a method that was named doesn't fit the model, or none does.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> plot_methods(model, x_val[0])
        >>> plot_methods(model, x_val[0], ["gradcam", SmoothGrad(samples=100)], layer_name="conv4")
    """
    _check(overlay, columns)
    _load_figure()
    batch = make_batch(_one_image(model, image), model)
    settings = {
        "target": target,
        "class_names": class_names,
        "output_kind": output_kind,
        "batch_size": batch_size,
    }
    left_out: dict[str, list[str]] = {}
    if methods is None:
        explainer, left_out = _all_that_fit(model, batch, layer_name, settings)
    else:
        explainer = Explainer(model, batch, layer_name, method=methods, **settings)
    views = explainer.views(batch)
    found = views[""] if list(views) == [""] else Explanations(views)
    notes = [f"Left out: {', '.join(names)}. {reason}" for reason, names in left_out.items()]
    return _figure(found, overlay or Overlay(), columns, notes)


def _check(overlay: Any, columns: Any) -> None:
    if overlay is not None and not isinstance(overlay, Overlay):
        raise TypeError(f"`overlay` must be an Overlay or None. Received: {overlay!r}. Overlay(alpha=0.4) works.")
    if columns is not None and not is_whole(columns, 1):
        raise ValueError(
            f"`columns` must be a positive whole number or None. Received: columns={columns!r}. None chooses."
        )


def _load_figure() -> type[Figure]:
    """Returns the class of figures, before anything costly runs."""
    try:
        from ..drawing.notebook import NotebookFigure
    except ImportError as error:
        raise ImportError("Figures need matplotlib. Install it: pip install 'keras_cam_callbacks[plot]'") from error
    return NotebookFigure


def _one_image(model: Any, image: Any) -> Any:
    """Returns the one image as a batch of one."""
    inputs = input_tensors(model)
    rank = len(inputs[0].shape) if len(inputs) == 1 else 4
    shape = getattr(image, "shape", None)
    if len(inputs) < 2 and shape is not None:
        if len(shape) == rank - 1:
            return on_host(image)[None]
        if len(shape) == rank and shape[0] == 1:
            return on_host(image)
    raise ValueError(
        "`image` must be one image (height, width, channels), or (1, height, width, channels), as an array. "
        f"Received: {type(image).__name__ if shape is None else f'shape {tuple(shape)}'}"
        + (f" for a model with {len(inputs)} inputs. " if len(inputs) > 1 else ". ")
        + "For several images or inputs: show(explain(model, images, method=['gradcam', 'saliency']))."
    )


def _all_that_fit(
    model: Any, batch: ValidationBatch, layer_name: Any, settings: Mapping[str, Any]
) -> tuple[Explainer, dict[str, list[str]]]:
    """Returns an explainer by the methods that fit the model, and by reason the names of those that are left out."""
    slow = [name for name, method in METHODS.items() if _is_slow(method.needs)]
    of_attention = [name for name, method in METHODS.items() if "readout" in method.needs]
    fitting = [name for name in METHODS if name not in (*slow, *of_attention)]
    left_out: dict[str, list[str]] = {}
    try:
        explainer = Explainer(model, batch, layer_name, method=fitting, **settings)
    except ValueError as error:
        # What a method needs of the model decides whether it fits, so one of each kind is tried.
        kinds: dict[tuple[str, ...], list[str]] = {}
        for name in fitting:
            kinds.setdefault(METHODS[name].needs, []).append(name)
        for needs, names in kinds.items():
            layer = layer_name if needs_layer(needs) else None
            try:
                Explainer(model, batch, layer, method=names, **settings)
            except ValueError as reason:
                if layer is not None and needs == ("activations", "gradients"):
                    raise  # It is the layer that fits no method of layers.
                left_out.setdefault(str(reason).split(" Received: ")[0], []).extend(names)
        missing = {name for names in left_out.values() for name in names}
        fitting = [name for name in fitting if name not in missing]
        if not missing or not fitting:
            raise error
        if layer_name is not None and not any(needs_layer(METHODS[name].needs) for name in fitting):
            raise error
        explainer = Explainer(model, batch, layer_name, method=fitting, **settings)
    if explainer.capturer.ground.mixed:
        try:
            explainer = Explainer(model, batch, layer_name, method=[*fitting, *of_attention], **settings)
        except ValueError as reason:
            left_out[str(reason).split(" Received: ")[0]] = of_attention
    left_out["They run the model on hundreds of changed images; name them in `methods` to see them."] = slow
    return explainer, left_out


def _is_slow(needs: Sequence[str]) -> bool:
    """Tells whether a method knows the model by its scores of changed images alone."""
    return not {"score", "layer_score"}.isdisjoint(needs) and not any("gradient" in need for need in needs)


def _figure(
    explanation: Explanation | Explanations, overlay: Overlay, columns: int | None, notes: Sequence[str] = ()
) -> Figure:
    """Draws one block of panels for each sample, or for each sample and augmentation, and the key below."""
    figure_class = _load_figure()
    views = {"": explanation} if isinstance(explanation, Explanation) else dict(explanation)
    drawn = [_blocks(overlay, *row) for row in rows(views)]
    blocks = [block for of_sample in zip(*drawn, strict=True) for block in of_sample]
    size = max(map(len, blocks))
    # Signals and slices side by side are wide, and stand one below the other.
    is_row = next(iter(views.values())).batch.display[0].ndim != 3
    panel_width, most = (_ROW, 1) if is_row else (_PANEL, _ACROSS)
    deep = math.ceil(size / (columns or (most if is_row else max(most, size * (size <= most + 1)))))
    wide = math.ceil(size / deep) if columns is None else min(columns, size)
    # Augmentations of one sample are read downwards, so samples don't stand side by side then.
    beside = 1 if len(drawn) > 1 or deep > 1 else max(1, min((columns or most) // size, len(blocks)))
    if columns is None:
        beside = math.ceil(len(blocks) / math.ceil(len(blocks) / beside))  # Rows of one length.

    letters = round(panel_width / _PANEL) * _CHARACTERS
    lines = max(len(_wrapped(panel.title, letters)) for block in blocks for panel in block)
    below = max(len(_wrapped(panel.caption, letters)) for block in blocks for panel in block)
    aspect = max(panel.picture.shape[0] / panel.picture.shape[1] for block in blocks for panel in block)
    high = panel_width * aspect + _TITLE + _LINE * (lines - 1 + below)
    down, across = deep * math.ceil(len(blocks) / beside), wide * beside
    whole = max(1 if is_row else 2, across) * panel_width
    notes = [line for note in notes for line in textwrap.wrap(note, round(whole / _PANEL) * _CHARACTERS)]
    foot = _KEY + _LINE * len(notes)

    figure = figure_class(figsize=(whole, down * high + foot), layout="constrained")
    cells = figure.add_gridspec(down + 1, across, height_ratios=[high] * down + [0.15])
    for i, block in enumerate(blocks):
        top, left = i // beside * deep, i % beside * wide
        for j, panel in enumerate(block):
            axes = figure.add_subplot(cells[top + j // wide, left + j % wide])
            axes.imshow(panel.picture, origin="upper", aspect="equal")
            _bare(axes)
            axes.set_title("\n".join(_wrapped(panel.title, letters)), **_TEXT)
            axes.set_xlabel("\n".join(_wrapped(panel.caption, letters)), **_TEXT)
    _draw_key(figure.add_subplot(cells[-1, :]), overlay, notes)
    return figure


def _blocks(
    overlay: Overlay, views: Mapping[str, Explanation], heading: str, correlations: Mapping[str, Any]
) -> list[list[_Panel]]:
    """Returns for each sample its panels: the image, then what is drawn of each view."""
    captions, titles = texts(views, overlay, heading, correlations)
    blocks: list[list[_Panel]] = [[] for _ in captions]
    for i, of_image in enumerate(by_image(views)):
        panels = _of_image(overlay, of_image, captions if i == 0 else [""] * len(captions), titles)
        for block, further in zip(blocks, panels, strict=True):
            block += further
    return blocks


def _of_image(
    overlay: Overlay, views: Mapping[str, Explanation], captions: Sequence[str], titles: Mapping[str, Sequence[str]]
) -> list[list[_Panel]]:
    """Returns for each sample the panels of views that lie on the same image of it."""
    batch = next(iter(views.values())).batch
    maps = {name: as_pictures(batch.display, view.heatmaps) for name, view in views.items()}
    shown = overlay.unfolded(batch.display, list(maps.values()), batch.space)
    blocks: list[list[_Panel]] = [[] for _ in shown]
    for i, (block, one) in enumerate(zip(blocks, shown, strict=True)):
        if overlay.layout == "panel":
            block += [_Panel(one.again(pictures[i]), name) for name, pictures in batch.beside.items()]
        block.append(_Panel(one.shown, display_title(batch), captions[i] if overlay.caption else ""))
    for name, view in views.items():
        drawn = zip(overlay.drawn_on(shown, maps[name], view.outlines), degenerate(view.heatmaps), strict=True)
        for i, (block, (pictures, dead)) in enumerate(zip(blocks, drawn, strict=True)):
            title = (titles[name][i] if name else view.method) + ": no heatmap" * bool(dead)
            endings = (", heatmap", ", overlay") if overlay.layout == "panel" else ("",)
            block += [_Panel(picture, title + ending) for picture, ending in zip(pictures, endings, strict=True)]
    return blocks


def _wrapped(text: str, letters: int) -> list[str]:
    """The text's lines, broken at spaces, else within words; none where there is no text."""
    return [line for part in text.split("\n") for line in textwrap.wrap(part, letters)]


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _draw_key(axes: Axes, overlay: Overlay, notes: Sequence[str]) -> None:
    """Draws what the colours mean, and writes notes below."""
    tones = np.arange(256, dtype=np.uint8)[None]
    mask = overlay.layout == "mask"
    colours = np.dstack([tones] * 3) if mask else colorize(tones, overlay.colormap)
    colours[tones / 255 < overlay.threshold] = 0 if mask else 255
    axes.imshow(colours, origin="upper", aspect="auto", extent=(0, 1, 0, 1))
    _bare(axes)
    low, top = "0 or less", "each heatmap's maximum"
    if overlay.clip is not None:
        low, top = (f"percentile {percent:g}" for percent in overlay.clip)
    if overlay.scale == "batch":
        top = "the largest of all images"
    elif not isinstance(overlay.scale, str):
        top = f"{overlay.scale:g} or more"
    axes.set_xticks([0, 1], [low, top], **_TEXT)
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    meaning = "brightness" if mask else "colour"
    bare = f"; {'black' if mask else 'the bare image'} below {overlay.threshold:g} of it" * (overlay.threshold > 0)
    lines = [f"{meaning}: how much a place counts{bare}", *notes]
    axes.set_xlabel("\n".join(lines), **_TEXT)
