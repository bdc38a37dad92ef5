"""What is logged: a run, its epochs and their samples, as all trackers get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .explained import Floats, Image, Label, Place, Region, Space, short_repr


@dataclass(frozen=True)
class Sample:
    """One sample in one epoch.

    Attributes:
        key: The sample's name, the same in every epoch and run.
        fingerprint: Digest of its pixels.
        label: The true class, all of them where there can be several, or None.
        predicted: The predicted class, or None where the outputs name no class.
        target: The explained class, label or number, or None where a callable gave the score.
        score: The explained score, before the final activation.
        confidence: Probability of the explained class in [0, 1], or None.
        degenerate: True where the heatmap is nowhere positive, constant or not finite, and so explains nothing.
        caption: What stands under the overlay.
        against: The class that the explained one is contrasted with, or None.
        box: A detector's box that is explained, left, top, right and bottom as shares of the image, as in
            `Region.boxes`; a box may reach beyond it. None where none is explained, or it isn't known where it lies.
    """

    key: str
    fingerprint: str
    label: Label | None
    predicted: int | None
    target: int | None
    score: float
    confidence: float | None
    degenerate: bool
    caption: str
    against: int | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class View:
    """One of several explanations of the same samples: by another method, or of another target.

    Attributes:
        heatmaps: (N, *space) float32, raw.
        samples: One `Sample` for each row.
    """

    heatmaps: Floats
    samples: tuple[Sample, ...]

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class DrawnFrom:
    """What pictures were drawn from besides heatmaps, so that they can be drawn again, equal in each pixel.

    Attributes:
        pictures: The N pictures that this is about: a record that holds others can't be drawn from it.
        heatmaps: The heatmaps that they show, one array for each view.
        images: The N display images that they show, as in `Look`.
        captions: N texts as they are drawn.
        titles: N titles by the names of the views; empty for one view without a name.
        title: What the display images are called.
        overlay: The settings of `Overlay`.
        space: What the axes of the samples are, as `Overlay.draw` takes it.
    """

    pictures: tuple[Image, ...]
    heatmaps: tuple[Floats, ...]
    images: tuple[Image, ...]
    captions: tuple[str, ...]
    titles: Mapping[str, tuple[str, ...]]
    title: str
    overlay: Mapping[str, Any]
    space: Space | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class Alert:
    """A number that crosses its line.

    Attributes:
        name: The number's name, without prefix.
        text: What is said of it, such as "energy_in_region is 0.41 in epoch 7, below 0.5".
        is_first: Whether it is the first time in the run: later ones are noted alone.
    """

    name: str
    text: str
    is_first: bool


@dataclass(frozen=True, eq=False)
class EpochRecord:
    """All that is logged of one epoch; every tracker gets this same object.

    Attributes:
        epoch: The epoch as Keras counts it, from 0 in every fit that does not say otherwise.
        step: Our own count, which goes on where a second fit starts at epoch 0 again: of epochs from 0, or where `freq`
            is `Steps` of the training steps that are done.
        heatmaps: (N, *space) float32, (N, h, w) of images, raw: unscaled, signed, at the layer's or the image's size;
            of several views those of the first. None where the pictures show something else.
        overlays: N pictures, uint8 RGB (H, W, 3).
        encoded: The same N pictures as the bytes of an image file.
        image_format: "jpg" or "png", the format of `encoded`.
        scalars: Numbers about the epoch by name, without prefix.
        samples: One `Sample` for each row.
        outputs: (N, K) float32, what the model put out, or None where it has several outputs.
        views: All views by name, where there are several.
        values: (N,) numbers of each sample by name, of which the scalars of these names are the means.
        places: For each picture where the display image is in it: alone, as a heatmap or under one, from left to right.
            Empty for pictures that show something else.
        drawn_from: What the pictures were drawn from; None where they show more than that.
        batch: How many batches of its epoch the model was trained on, where it was logged within one; None at an
            epoch's end.
        alerts: Which numbers cross their lines in this epoch.
    """

    epoch: int
    step: int
    heatmaps: Floats | None
    overlays: tuple[Image, ...]
    encoded: tuple[bytes, ...]
    image_format: str
    scalars: Mapping[str, float]
    samples: tuple[Sample, ...]
    outputs: Floats | None = None
    views: Mapping[str, View] = field(default_factory=dict)
    values: Mapping[str, npt.NDArray[np.floating[Any]]] = field(default_factory=dict)
    places: tuple[tuple[Place, ...], ...] = ()
    drawn_from: DrawnFrom | None = None
    batch: int | None = None
    alerts: tuple[Alert, ...] = ()

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class RunConfig:
    """What is the same for all epochs of a run; trackers get it at the start of each fit.

    Attributes:
        directory: The folder of this run: the disk record and TensorBoard's events live here.
        prefix: First part of every logged name, "gradcam" in "gradcam/drift".
        method: Name of the method, with its settings where they are not the defaults.
        layer_name: Path of the explained layer, "base/conv5" for a layer of a nested model; "" for a method that
            explains the image itself.
        target: The target as text: "predicted", "true", "3", "[0, 1]", or a callable's name.
        model_name: The model's name.
        class_names: Names by class index, or None.
        sample_keys: As in `ValidationBatch`.
        fingerprints: As in `Look`.
        labels: For each sample its class, all of its labels where there can be several, or None.
        display: As in `Look`.
        value_range: As in `Look`.
        overlay: Settings of the overlays.
        versions: Versions of this package, Python, Keras, its backend, numpy and OpenCV.
        views: Names of the views, where there are several.
        augmentations: Names of the augmentations.
        regions: As in `ValidationBatch`.
        training: How the model is trained in the run's first fit, as far as it says: "optimizer", "learning_rate",
            "loss", "epochs" and more.
        run_id: The run's own name, the same in all its fits, in whichever folder its record lies; hexadecimal digits.
        architecture: Digest of the explained model, the same each time that it is built; "" where it is not known, as
            in the four that follow.
        structure: The same without most settings of layers, as records of earlier versions have it.
        model_label: The model's name where a person gave it one, else its class.
        layer_place: `layer_name` without Keras' own numbers, such as "base/Conv2D 2" for the second one in `base`.
        rules: Digest of the user's own functions among the settings; "" for none.
        freq: Of how many epochs one is logged; the first and the last one of a fit always are.
        tracked: The runs of trackers' libraries that the first fit was sent to, such as "wandb:1a2b3c".
        space: What the axes of the heatmaps are; None where that is not said, or where there are none.
        steps: Of how many training steps one is logged, besides epoch ends; None where epochs alone are logged, and
            `EpochRecord.step` counts these.
        select: What the choice of samples rests on, in words, where it took a pass over the data; else "".
        displays: By the names of views that lie on another image than `display`, as of a model of several, what people
            see of that.
    """

    directory: Path
    prefix: str
    method: str
    layer_name: str
    target: str
    model_name: str
    class_names: tuple[str, ...] | None
    sample_keys: tuple[str, ...]
    fingerprints: tuple[str, ...]
    labels: tuple[Label | None, ...]
    display: tuple[Image, ...]
    value_range: str
    overlay: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    augmentations: tuple[str, ...] = ()
    regions: tuple[Region | None, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    architecture: str = ""
    structure: str = ""
    model_label: str = ""
    layer_place: str = ""
    rules: str = ""
    freq: int = 1
    tracked: tuple[str, ...] = ()
    space: Space | None = None
    displays: Mapping[str, tuple[Image, ...]] = field(default_factory=dict)
    steps: int | None = None
    select: str = ""

    __repr__ = short_repr


def class_name(names: Sequence[str] | None, index: Label) -> str:
    """Returns the name of a class, or of several labels; an index as text where it has none."""
    if isinstance(index, tuple):
        return ", ".join(class_name(names, one) for one in index) or "none"
    return names[index] if names and 0 <= index < len(names) else str(index)
