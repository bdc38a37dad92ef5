"""`explain`: where a trained model looks in some images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

from ..data.batches import make_batch
from ..methods.fusion import Fusion
from ..passes import check_backend
from .explainer import Explainer
from .explanation import Explanation, Explanations
from .inputs import chooser

Several = Literal["both", "top2", "top3", "top4", "top5", "top6", "top7", "top8", "top9"]


@overload
def explain(
    model: Any,
    images: Any,
    layer_name: Any = ...,
    *,
    method: list[Any] | tuple[Any, ...] | Mapping[str, Any],
    target: Any = ...,
    fuse: Fusion | None = ...,
    augmentations: Any = ...,
    class_names: Sequence[str] | None = ...,
    output_kind: str | Mapping[str, str] | None = ...,
    max_samples: int | None = ...,
    display: Any = ...,
    value_range: Any = ...,
    regions: Any = ...,
    spacing: Sequence[float] | None = ...,
    batch_size: int = ...,
    input: Any = ...,
    tokens: Any = ...,
) -> Explanations: ...


@overload
def explain(
    model: Any,
    images: Any,
    layer_name: Any = ...,
    *,
    method: Any = ...,
    target: Several | Mapping[str, Any],
    fuse: Fusion | None = ...,
    augmentations: Any = ...,
    class_names: Sequence[str] | None = ...,
    output_kind: str | Mapping[str, str] | None = ...,
    max_samples: int | None = ...,
    display: Any = ...,
    value_range: Any = ...,
    regions: Any = ...,
    spacing: Sequence[float] | None = ...,
    batch_size: int = ...,
    input: Any = ...,
    tokens: Any = ...,
) -> Explanations: ...


@overload
def explain(
    model: Any,
    images: Any,
    layer_name: Any = ...,
    *,
    method: str | Callable[..., Any] = ...,
    target: Any = ...,
    fuse: Fusion | None = ...,
    augmentations: Any = ...,
    class_names: Sequence[str] | None = ...,
    output_kind: str | Mapping[str, str] | None = ...,
    max_samples: int | None = ...,
    display: Any = ...,
    value_range: Any = ...,
    regions: Any = ...,
    spacing: Sequence[float] | None = ...,
    batch_size: int = ...,
    input: Any = ...,
    tokens: Any = ...,
) -> Explanation: ...


def explain(
    model: Any,
    images: Any,
    layer_name: Any = None,
    *,
    method: Any = "auto",
    target: Any = "predicted",
    fuse: Fusion | None = None,
    augmentations: Any = None,
    class_names: Sequence[str] | None = None,
    output_kind: str | Mapping[str, str] | None = None,
    max_samples: int | None = None,
    display: Any = None,
    value_range: Any = None,
    regions: Any = None,
    spacing: Sequence[float] | None = None,
    batch_size: int = 32,
    input: Any = None,
    tokens: Any = None,
) -> Explanation | Explanations:
    """Explains images with a trained model.

    In a loop the model is traced once: as long as it is the same, and the images are of the same shapes, later calls
    cost one forward pass and the way back to the layer. Whether it is the same is looked up in its layers and in what
    their code names; a function as `target` makes a new trace each time. `Explainer` traces once and looks up nothing.

    Args:
        model: Any Keras 3 model; it is left as it is.
        images: Images as the model takes them, (N, H, W, C), or `(images, labels)`, or any data that `fit` takes.
        layer_name: The layer whose activations are explained: a name, a path such as "base/conv5" for a layer of a
            nested model, the layer itself, or None for the last feature map. The heatmaps of several layers in a list
            are fused into one.
        method: Name of a method (see `METHODS`), or "auto": Grad-CAM, and on layers of tokens HiResCAM, for Grad-CAM
            averages gradients over tokens that each have their own way to the score; a method with settings, as
            `SmoothGrad(samples=50)`, or a function (activations, gradients) -> heatmaps (N, h, w); or a list of these,
            or a dict by names of yours.
        target: "predicted", "true", a class index, one index for each sample, or a function of the model's outputs that
            returns (samples,) class indices (whole numbers) or scores (floating point). Several at once: "both" for
            predicted and true, "top2" to "top9" for the classes with the highest scores, or a dict by names of yours.
            Beyond classes: `Contrast` of two ("contrast": the predicted one rather than the runner-up), `Value`,
            `Present`, `Similarity`, `Segment` and `Detection`. By default it is the predicted class, the most probable
            label, the only number; of a mask, the most frequent predicted class of each image that is not 0; or, of an
            object detector, the class of the best box, which all levels of its pyramid explain, fused. Of multi-hot
            labels "true" explains the first three of each sample, as "true1", "true2" and "true3". Of several outputs
            name one, as Value(0, output="box") or in a dict by the outputs' names, {"label": "predicted"}; or give a
            function: one that picks a number of one of them (always the same one, or the largest), or takes the
            difference of two, gets the scores before the final softmax or sigmoid, and any other the outputs as they
            are.
        fuse: How layers are fused: "mean", the default, "maximum", or "product" (the geometric mean) of their scaled
            maps.
        augmentations: Names of built-in augmentations in a list (see `AUGMENTATIONS`), or a dict of augmentations by
            names of yours. Each costs one more explanation of the images; see `Explanation.augmented`.
        class_names: Names by class index, for captions; of numbers their names.
        output_kind: What the model's output is, where the loss, the labels and the model don't say it: "classes",
            "labels" (several at once), "numbers", "embedding", "mask" or "boxes"; or a dict by the names of several
            outputs. Of numbers `target` names one by its index.
        max_samples: How many samples to explain, the first ones; None for all, which an endless dataset has not.
        display: What people see where it differs from the model's input: images, a function of the images, or a
            mapping from names to these or None (the model's input): the columns of a panel, of which the last is drawn
            on.
        value_range: Which values of the images are black and white, for pictures and augmentations: two numbers such as
            (0, 4095), or "[0, 1]", "[0, 255]", "[-1, 1]", "mean-subtracted", "mean/std" or "min-max" (stretched). None
            to have it recognised by type, model and values; what was taken is said where it is not certain.
        regions: Where the objects are, a box in px, a mask, several or None for each image (see `Regions`), so that
            `Explanation.metrics` says how much of the heat is there.
        spacing: How far positions of the model's input are apart along each axis, in the array's order, such as
            (5.0, 0.7, 0.7) mm of a scan: distances go by it. None for 1 along all axes.
        batch_size: Largest number of samples that run at once.
        input: Which image of a model with several the heatmaps lie on, by name or index; or several in a list. By
            default each that the score depends on has a view of its own, named like the input: methods of the image
            explain every one, methods of a layer the last layer, or the layer's call, on each. `display` and `regions`
            concern the first; numbers of regions are NaN for the others. A layer that depends on several images has one
            map, on the largest of them, which is said.
        tokens: How a layer's tokens (N, T, C), as a vision transformer's, lie on the image: a grid such as (14, 14),
            `Tokens(grid=(14, 14), special=[0])`, or a function from tokens to a map. None to have it found.

    Returns:
        The explanation: `.heatmaps` (N, h, w) float32 raw, and `.overlays()` uint8. For several methods, targets or
        images `Explanations`, which has each by its name.

    Raises:
        ValueError: If a setting does not fit the model or the images. The message tells what would.
        TypeError: If a setting is of the wrong kind.

    Example:
        >>> explanation = explain(model, images, method="layercam")
        >>> pictures = explanation.overlays(Overlay(layout="panel"))
    """
    check_backend()
    batch = make_batch(
        images,
        model,
        max_samples=max_samples,
        display=display,
        regions=regions,
        spacing=spacing,
        value_range=value_range,
        image_input=input,
        choose_input=chooser(model, layer_name, method=method, target=target, batch_size=batch_size, tokens=tokens),
    )
    explainer = Explainer(
        model,
        batch,
        layer_name,
        method=method,
        target=target,
        fuse=fuse,
        augmentations=augmentations,
        class_names=class_names,
        output_kind=output_kind,
        batch_size=batch_size,
        tokens=tokens,
    )
    explainer.warn_of_range(batch)
    if explainer.guess:
        warnings.warn(f"explain {explainer.guess}", UserWarning, stacklevel=2)
    views = explainer.views(batch)
    return views[""] if list(views) == [""] else Explanations(views)
