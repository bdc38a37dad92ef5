"""What was found: the heatmaps of a batch, in one view or several, with captions and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from .captions import with_outputs
from .metrics import degenerate
from .overlay import Overlay, grid
from .records import Floats, Image, Ints, Sample, ValidationBatch


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heatmaps of a batch, and what they explain.

    Attributes:
        heatmaps: (N, h, w) float32, raw: unscaled and signed, at the layer's size, or the image's.
        outputs: (N, K) float32, what the model put out; None where it has several outputs.
        scores: (N,) float32, the explained scores, before the final activation.
        targets: (N,) int64, the explained classes; None where a score is explained that is no class's.
        predicted: (N,) int64, the predicted classes, or None.
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

    def samples(self) -> tuple[Sample, ...]:
        """Returns what is known of each sample, with its caption."""
        return tuple(self._sample(i, bool(flag)) for i, flag in enumerate(degenerate(self.heatmaps)))

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

    def prediction(self, i: int) -> str:
        """Returns the true and the predicted class of one sample in words."""
        classes = {"true": self.batch.labels, "predicted": self.predicted}
        return ", ".join(f"{name} {self._name(int(index[i]))}" for name, index in classes.items() if index is not None)

    def title(self, i: int) -> str:
        """Returns the explained class of one sample and its probability, or its score, in words."""
        score, confidence = float(self.scores[i]), float(self.confidences[i])
        value = f"score {score:.3g}" if np.isnan(confidence) else f"{confidence:.2f}"
        return value if self.targets is None else f"{self._name(int(self.targets[i]))} {value}"

    def _sample(self, i: int, is_degenerate: bool) -> Sample:
        label = None if self.batch.labels is None else int(self.batch.labels[i])
        predicted = None if self.predicted is None else int(self.predicted[i])
        target = None if self.targets is None else int(self.targets[i])
        confidence = float(self.confidences[i])
        known = self.prediction(i)
        if predicted is None or target is None:
            caption = ", ".join(filter(None, (known, self.title(i))))
        elif target == predicted:
            caption = known.removesuffix(self._name(predicted)) + self.title(i)
        else:
            caption = f"{known}, explained {self.title(i)}"
        return Sample(
            key=self.batch.sample_keys[i],
            fingerprint=self.batch.fingerprints[i],
            label=label,
            predicted=predicted,
            target=target,
            score=float(self.scores[i]),
            confidence=None if np.isnan(confidence) else confidence,
            degenerate=is_degenerate,
            caption=caption + ", no heatmap" * is_degenerate,
        )

    def _name(self, index: int) -> str:
        names = self.class_names or ()
        return names[index] if 0 <= index < len(names) else str(index)


@dataclass(frozen=True, eq=False)
class Augmented:
    """What becomes of the heatmaps when the images are augmented.

    Attributes:
        explanation: The explanation of the augmented images, each explained by the same target: "predicted" is what the
            model predicts for the augmented image.
        restored: (N, H, W) float32, the heatmaps at the images' size in the frame of the original images; NaN where
            the augmented image doesn't show a pixel.
        correlation: (N,) float64 in [-1, 1], of the positive parts of `restored` and of the map without augmentation,
            over the pixels that both have; NaN where there is none.
        unchanged: (N,) bool, whether the predicted class is the same; None where none is predicted.
    """

    explanation: Explanation
    restored: Floats
    correlation: npt.NDArray[np.float64]
    unchanged: npt.NDArray[np.bool_] | None


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

    def __getitem__(self, name: str) -> Explanation:
        return self.views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

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


def pictures(views: Mapping[str, Explanation], overlay: Overlay) -> tuple[Image, ...]:
    """Draws one picture for each sample: all views side by side, and one row below for each augmentation.

    Args:
        views: Explanations of one batch by name; a single one may have the name "".
        overlay: How to draw.

    Returns:
        N pictures, uint8 RGB (H, W, 3).
    """
    first = next(iter(views.values()))
    if not first.augmented:
        return _row(views, overlay)
    shown = first.batch
    if not shown.beside:  # As many columns as the rows below have.
        shown = replace(shown, beside={"original": shown.display}, display_name="not augmented")
    rows = [_row({name: replace(view, batch=shown) for name, view in views.items()}, overlay, "not augmented")]
    for augmentation in first.augmented:
        augmented = {name: view.augmented[augmentation].explanation for name, view in views.items()}
        found = {name: view.augmented[augmentation].correlation for name, view in views.items()}
        rows.append(_row(augmented, overlay, augmentation, found))
    return tuple(grid(of_sample, columns=1) for of_sample in zip(*rows, strict=True))


def _row(
    views: Mapping[str, Explanation],
    overlay: Overlay,
    heading: str = "",
    correlations: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> tuple[Image, ...]:
    """Draws the views of each sample side by side; captions begin with a heading and end with correlations."""
    first = next(iter(views.values()))
    batch, correlations = first.batch, correlations or {}
    several = len({view.target for view in views.values()}) > 1
    known = [first.prediction(i) if several else sample.caption for i, sample in enumerate(first.samples())]
    captions = [": ".join(filter(None, (heading, text))) for text in known]
    if list(views) == [""]:
        captions = [text + _correlated(correlations.get(""), i) for i, text in enumerate(captions)]
    captions = with_outputs(captions, first.outputs if overlay.caption == "outputs" else None)
    if list(views) == [""]:
        return overlay.draw(batch.display, first.heatmaps, captions, beside=batch.beside, title=batch.display_name)
    titles = {
        name: [
            (f"{name}: {view.title(i)}" if several else name) + _correlated(correlations.get(name), i)
            for i in range(len(batch))
        ]
        for name, view in views.items()
    }
    maps = {name: view.heatmaps for name, view in views.items()}
    return overlay.draw_several(
        batch.display, maps, captions, titles=titles, beside=batch.beside, title=batch.display_name
    )


def _correlated(correlation: npt.NDArray[np.float64] | None, i: int) -> str:
    return "" if correlation is None or np.isnan(correlation[i]) else f", correlation {correlation[i]:.2f}"
