"""What was found: the heatmaps of a batch, in one view or several, with captions and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..drawing.embedded import image_tag
from ..drawing.grids import grid, grid_placed
from ..drawing.overlay import Overlay
from ..drawing.places import Drawn
from ..drawing.text import with_outputs
from ..metrics import METRICS, degenerate, measured
from ..records import Floats, Image, Ints, Sample, ValidationBatch, brief, short_repr
from . import captions, films
from .by_image import by_image, in_columns, joined_images, slice_at
from .captions import display_title
from .objects import box_masks, object_masks, shares_of

_SHOWN = 16  # heatmaps in a notebook


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heatmaps of a batch, and what they explain.

    Attributes:
        heatmaps: (N, *space) float32, (N, h, w) of images, raw: unscaled and signed, at the layer's size, or the
            image's. Of a layer that sees but a part of the image, as behind a Cropping2D, they are laid over the whole
            image, 0 beside that part.
        outputs: (N, K) float32, what the model put out; None where it has several outputs.
        scores: (N,) float32, the explained scores, before the final activation.
        targets: (N,) int64, the explained classes, labels or numbers, -1 where a sample has fewer labels, or where the
            class would follow from outputs that are not finite; None where a score is explained that is none of these.
        predicted: (N,) int64, the predicted classes, -1 where the outputs are not finite; or None.
        confidences: (N,) float32 in [0, 1], probability of the explained class; NaN where there is none.
        layer_name: Path of the explained layer, "mean(block3, block5)" for fused ones; "" for a method that explains
            the image itself.
        method: Name of the method, with its settings where they are not the defaults.
        target: The target as text.
        batch: The explained batch.
        class_names: Names by class index, or None.
        attributions: (N, H, W, C) float32, signed, for each channel of the images, channels last; None for methods that
            make one map only, and where layers are fused.
        augmented: By the names of the augmentations, what they changed.
        values: By name, (N,) float32: numbers that the method tells of each sample, such as the "completeness_gap" of
            integrated gradients.
        kind: What the model's output is, see `output_kind` of `explain`.
        placed: Whether it is known where the heatmaps lie on the images.
        against: (N,) int64, the classes that the explained ones are contrasted with, -1 for none; None without one.
        segments: (N, H, W) bool, the explained pixels of a mask that the model puts out; None where none are explained.
        boxes: (N, 4) float32, a detector's boxes that are explained: left, top, right, bottom in px of the model's
            input, NaN where there is none; None where none are explained, or it isn't known how they are written.
        without_label: (N,) bool, True for samples that have nothing of what is explained, such as a further label; None
            where none has.
    """

    heatmaps: Floats
    outputs: Floats | None
    scores: Floats
    targets: Ints | None
    predicted: Ints | None
    confidences: Floats
    layer_name: str
    method: str
    target: str
    batch: ValidationBatch
    class_names: tuple[str, ...] | None = None
    attributions: Floats | None = None
    augmented: Mapping[str, Augmented] = field(default_factory=dict)
    values: Mapping[str, Floats] = field(default_factory=dict)
    kind: str = "classes"
    placed: bool = True
    against: Ints | None = None
    segments: npt.NDArray[np.bool_] | None = None
    boxes: Floats | None = None
    without_label: npt.NDArray[np.bool_] | None = None

    prediction = captions.prediction
    title = captions.title
    film = films.film

    def __repr__(self) -> str:
        names = (f"{name}={brief(getattr(self, name))}" for name in ("method", "layer_name", "target"))
        of_input = f" of {self.batch.input_name!r}," if self.batch.input_name else " of"
        return f"Explanation({', '.join(names)}; {len(self.heatmaps)} heatmaps{of_input} {self._extent()})"

    def _repr_html_(self) -> str:
        return _html({"": self}, repr(self))

    def _extent(self) -> str:
        """Returns the size and the range of the heatmaps in words."""
        sizes = " x ".join(map(str, self.heatmaps.shape[1:]))
        finite = self.heatmaps[np.isfinite(self.heatmaps)]
        values = f"{finite.min():.3g} to {finite.max():.3g}" if finite.size else "no finite values"
        return f"{sizes}, {values}"

    def samples(self) -> tuple[Sample, ...]:
        """Returns what is known of each sample, with its caption."""
        return tuple(self._sample(i, bool(flag)) for i, flag in enumerate(self.degenerate))

    @property
    def absent(self) -> npt.NDArray[np.bool_]:
        """(N,) bool, True for samples without what is explained, such as a further label; they count in no number."""
        return np.zeros(len(self.heatmaps), np.bool_) if self.without_label is None else self.without_label

    @property
    def degenerate(self) -> npt.NDArray[np.bool_]:
        """(N,) bool, True where there should be a heatmap, and it explains nothing."""
        return degenerate(self.heatmaps) & ~self.absent

    @property
    def outlines(self) -> npt.NDArray[np.bool_] | None:
        """(N, H, W) bool, what is outlined in pictures: the explained pixels, or boxes; None for neither."""
        if self.boxes is None or self.batch.image_size is None:
            return self.segments
        return box_masks(self.boxes, self.batch.image_size)

    @property
    def labels(self) -> tuple[int | tuple[int, ...] | None, ...]:
        """For each sample its class, or all of its labels; None where there is none, or the output is of numbers."""
        if self.kind not in ("classes", "labels"):
            return (None,) * len(self.batch)
        if self.batch.label_sets is not None:
            return self.batch.label_sets
        if self.batch.labels is None:
            return (None,) * len(self.batch)
        return tuple(self.batch.labels.tolist())

    def metrics(self) -> dict[str, npt.NDArray[np.float64]]:
        """Measures the heatmaps, each by itself and against where the object is, where `regions` were given.

        Returns:
            By name (N,) float64, NaN where there is nothing to measure: "confidence", "area", "entropy", "centre_x",
            "centre_y" (not of signals), "centre_z" (of volumes and clips), "blobs", "magnitude"; with regions
            "energy_in_region", "energy_ratio", "pointing", "region_iou", "peak_outside". See
            `keras_cam_callbacks.metrics` for what they are.

        Example:
            >>> explanation = explain(model, images, regions=boxes)
            >>> explanation.metrics()["energy_in_region"].mean()
        """
        found = measured(self.heatmaps, METRICS["map"] + METRICS["regions"], masks=self.masks())
        return {"confidence": self.confidences.astype(np.float64), **found}

    def masks(self) -> npt.NDArray[np.bool_] | None:
        """Returns where what is explained is, (N, H, W) bool; None where `regions` were not given.

        All are False where it isn't known where the heatmaps lie, so that numbers of regions are NaN.
        """
        masks = object_masks(self.batch, self.targets, self.class_names)
        return masks if masks is None or self.placed else np.zeros_like(masks)

    def overlays(self, overlay: Overlay | None = None) -> tuple[Image, ...]:
        """Draws the heatmaps on the display images.

        Args:
            overlay: How to draw; by default `Overlay()`.

        Returns:
            N pictures, uint8 RGB (H, W, 3).
        """
        return pictures({"": self}, overlay or Overlay())

    def grid(self, overlay: Overlay | None = None, columns: int | None = None) -> Image:
        """Draws all overlays in one picture.

        Args:
            overlay: How to draw; by default `Overlay()`.
            columns: How many overlays stand in a row; by default about as many as there are rows.

        Returns:
            uint8 RGB (H, W, 3).
        """
        return grid(self.overlays(overlay), columns)

    def _sample(self, i: int, is_degenerate: bool) -> Sample:
        confidence = float(self.confidences[i])
        return Sample(
            key=self.batch.sample_keys[i],
            fingerprint=self.batch.fingerprints[i],
            label=self.labels[i],
            predicted=_class(self.predicted, i),
            target=_class(self.targets, i),
            score=float(self.scores[i]),
            confidence=None if np.isnan(confidence) else confidence,
            degenerate=is_degenerate,
            caption=captions.caption(self, i) + ", no heatmap" * is_degenerate,
            against=None if self.against is None or self.absent[i] else int(self.against[i]),
            box=shares_of(None if self.boxes is None else self.boxes[i], self.batch.image_size),
        )


def _class(classes: Ints | None, i: int) -> int | None:
    """Returns the class of one sample; None where it has none."""
    return None if classes is None or classes[i] < 0 else int(classes[i])


@dataclass(frozen=True, eq=False)
class Augmented:
    """What becomes of the heatmaps when the images are augmented.

    Attributes:
        explanation: The explanation of the augmented images, each explained by the same target: "predicted" is what the
            model predicts for the augmented image.
        restored: (N, H, W) float32, the heatmaps at the images' size in the frame of the original images; NaN where
            the augmented image doesn't show a pixel.
        correlation: (N,) float64 in [-1, 1], of the positive parts of `restored` and of the map without augmentation,
            over the pixels that both have; NaN where there is none, or where the augmented image's map explains another
            class.
        unchanged: (N,) bool, whether the predicted class is the same; None where none is predicted.
        guessed: Whether the change depends on what is black and white, and that is not certain: there are no numbers
            then.
    """

    explanation: Explanation
    restored: Floats
    correlation: npt.NDArray[np.float64]
    unchanged: npt.NDArray[np.bool_] | None
    guessed: bool = False

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Explanations(Mapping[str, Explanation]):
    """Explanations of one batch by several methods, or of several targets, by their names.

    Attributes:
        views: The explanations by name: "layercam"; "true"; "layercam_true" for several of both.

    Example:
        >>> found = explain(model, images, method=["gradcam", "smoothgrad"])
        >>> found["smoothgrad"].heatmaps.shape
        >>> picture = found.grid()
    """

    views: Mapping[str, Explanation]

    film = films.film

    def __getitem__(self, name: str) -> Explanation:
        return self.views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def __repr__(self) -> str:
        texts = [f"{brief(name)}: {view._extent()}" for name, view in self.items()]
        texts[3:] = [f"{len(texts) - 3} more"] * (len(texts) > 3)
        return f"Explanations({len(next(iter(self.values())).batch)} heatmaps each of {'; '.join(texts)})"

    def _repr_html_(self) -> str:
        return _html(self.views, repr(self))

    def samples(self) -> tuple[Sample, ...]:
        """Returns what is known of each sample in the first view."""
        return next(iter(self.values())).samples()

    def overlays(self, overlay: Overlay | None = None) -> tuple[Image, ...]:
        """Draws for each sample the image and the heatmaps side by side, under their names.

        Args:
            overlay: How to draw; by default `Overlay()`.

        Returns:
            N pictures, uint8 RGB (H, W, 3).
        """
        return pictures(self.views, overlay or Overlay())

    def grid(self, overlay: Overlay | None = None, columns: int | None = 1) -> Image:
        """Draws all samples in one picture, uint8 RGB (H, W, 3), by default one below the other."""
        return grid(self.overlays(overlay), columns)


def pictures(
    views: Mapping[str, Explanation], overlay: Overlay, most: int | None = None, at: int | None = None
) -> tuple[Image, ...]:
    """Draws one picture for each sample: all views side by side, and one row below for each augmentation.

    Args:
        views: Explanations of one batch by name; a single one may have the name "".
        overlay: How to draw.
        most: How many samples are drawn at most, the first ones; None for all.
        at: Which slice of volumes or clips is drawn alone; None for those of `overlay.slices`.

    Returns:
        N pictures, uint8 RGB (H, W, 3).
    """
    return tuple(drawn.picture for drawn in placed(views, overlay, most, at))


def placed(
    views: Mapping[str, Explanation], overlay: Overlay, most: int | None = None, at: int | None = None
) -> tuple[Drawn, ...]:
    """Draws as `pictures`, and tells where the display images are, not those that were augmented."""
    first, *augmented = (_row(overlay, *row, most, at) for row in rows(views))
    if not augmented:
        return first
    bare = [[Drawn(drawn.picture) for drawn in row] for row in augmented]
    return tuple(grid_placed(of_sample, columns=1) for of_sample in zip(first, *bare, strict=True))


Correlations = Mapping[str, npt.NDArray[np.float64]]


def rows(views: Mapping[str, Explanation]) -> list[tuple[dict[str, Explanation], str, Correlations]]:
    """Returns what is shown in one row each: the views, then for each augmentation those of the augmented images.

    Args:
        views: Explanations of one batch by name; a single one may have the name "".

    Returns:
        For each row its views, a heading, "" where there are no augmentations, and for each view the correlations (N,)
        with the one that is not augmented.
    """
    first = next(iter(views.values()))
    if not first.augmented:
        return [(dict(views), "", {})]
    bare = {name: replace(view, batch=in_columns(view.batch), augmented={}) for name, view in views.items()}
    found: list[tuple[dict[str, Explanation], str, Correlations]] = [(bare, "not augmented", {})]
    for augmentation in first.augmented:
        of_views = {name: view.augmented[augmentation] for name, view in views.items()}
        explanations = {name: augmented.explanation for name, augmented in of_views.items()}
        found.append((explanations, augmentation, {name: each.correlation for name, each in of_views.items()}))
    return found


def texts(
    views: Mapping[str, Explanation], overlay: Overlay, heading: str = "", correlations: Correlations | None = None
) -> tuple[list[str], dict[str, list[str]]]:
    """Returns what is written under a row of `rows`.

    Args:
        views: The views.
        overlay: Says whether captions have the model's outputs.
        heading: What captions begin with.
        correlations: What titles end with; the captions where a single view has the name "".

    Returns:
        N captions; and N titles for each view, "" for a single one's.
    """
    first, correlations = next(iter(views.values())), correlations or {}
    several = len({view.target for view in views.values()}) > 1
    known = [first.prediction(i) if several else sample.caption for i, sample in enumerate(first.samples())]
    captions = [": ".join(filter(None, (heading, text))) for text in known]
    single = list(views) == [""]
    if single:
        captions = [text + _correlated(correlations.get(""), i) for i, text in enumerate(captions)]
    captions = with_outputs(captions, first.outputs if overlay.caption == "outputs" else None)
    titles = {
        name: [
            (f"{name}: {view.title(i)}" if several else name) + _correlated(correlations.get(name), i) * (not single)
            for i in range(len(first.batch))
        ]
        for name, view in views.items()
    }
    return captions, titles


def _row(
    overlay: Overlay,
    views: Mapping[str, Explanation],
    heading: str,
    correlations: Correlations,
    most: int | None,
    at: int | None,
) -> tuple[Drawn, ...]:
    """Draws the views of each sample side by side; captions begin with a heading and end with correlations."""
    captions, titles = texts(views, overlay, heading, correlations)
    groups = by_image(views)
    if len(groups) == 1:
        return _of_image(overlay, views, at, captions=captions, titles=titles, most=most)
    shown = [next(iter(of_image.values())).batch.display for of_image in groups]
    drawn = [
        _of_image(overlay, of_image, slice_at(at, shown, i), captions=None, titles=titles, most=most)
        for i, of_image in enumerate(groups)
    ]
    return joined_images(drawn, shown[0], captions[:most] if overlay.caption else None)


def _of_image(
    overlay: Overlay,
    views: Mapping[str, Explanation],
    at: int | None,
    *,
    captions: Sequence[str] | None,
    titles: Mapping[str, Sequence[str]],
    most: int | None,
) -> tuple[Drawn, ...]:
    """Draws views that lie on the same image of each sample side by side."""
    batch = next(iter(views.values())).batch
    images, title = batch.display[:most], display_title(batch)
    captions = None if captions is None else captions[:most]
    beside = {name: column[:most] for name, column in batch.beside.items()}
    maps = {name: view.heatmaps[:most] for name, view in views.items()}
    outlines = {name: of_view[:most] for name, view in views.items() if (of_view := view.outlines) is not None}
    settings: Any = {"beside": beside, "title": title, "space": batch.space, "at": at}
    if list(views) == [""]:
        return overlay.draw_placed(images, maps[""], captions, outlines=outlines.get(""), **settings)
    titles = {name: titles[name][:most] for name in views}
    return overlay.draw_placed(images, maps, captions, titles=titles, outlines=outlines, **settings)


def _html(views: Mapping[str, Explanation], text: str) -> str:
    """Returns what a notebook shows: some 16 heatmaps of the first samples, in less than 1 MB."""
    first = next(iter(views.values()))
    total, several = len(first.batch), list(views) != [""]
    most = max(1, _SHOWN // (len(views) * (1 + len(first.augmented))))
    display = [shown for of_image in by_image(views) for shown in next(iter(of_image.values())).batch.display[:most]]
    # Signals and slices have sizes of their own.
    size = 320 if display[0].ndim == 3 and max(max(image.shape) for image in display) > 320 else None
    picture = grid(pictures(views, Overlay(size=size), most), 1 if several else None)
    left_out = f"<p>The first {most} of {total} samples. <code>.grid()</code> draws all.</p>" * (most < total)
    return image_tag(picture, text) + left_out


def _correlated(correlation: npt.NDArray[np.float64] | None, i: int) -> str:
    return "" if correlation is None or np.isnan(correlation[i]) else f", correlation {correlation[i]:.2f}"
