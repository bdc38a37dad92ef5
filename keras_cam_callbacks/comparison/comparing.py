"""`compare` reads stored runs; what it returns answers what people ask of runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..store import Run
from . import alignment, tables, words
from .columns import count_axes, read_column, stacked
from .compared import Compared
from .reading import Reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..drawing.overlay import Overlay
    from .report import ReportFile

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Compared):
    """Stored runs, aligned by sample and epoch: tables, sentences, figures and reports of them. `compare` makes it.

    Epochs go by their steps, the runs' own counts from 0: of one fit they are the epochs as Keras counts them. Where
    all runs were logged by training steps (`freq=Steps(...)`), these are what is called epochs here; where some were,
    their epoch ends are compared with the others' epochs.

    Attributes:
        names: R names of the runs.
        runs: The R stored runs.
        view: The view that is compared; "" for the runs' first one.
        sample_keys: The N keys that all runs have, in the first run's order.
        labels: N labels, None where no run knows one.
        class_names: Names by class index, of the first run that has them, or None.
        epochs: The E steps that any run has, rising.
        predicted: (R, E, N) int64, the predicted class; -1 where there is none or the run lacks the epoch.
        targets: (R, E, N) int64, the class that the heatmap explains; -1 likewise.
        confidences: (R, E, N) float32 in [0, 1], the probability of the explained class; NaN likewise.
        peaks: (R, E, N, axes) float32 in [0, 1], where each heatmap is highest, as shares of the axes from the last to
            the first: of images x and y; NaN where it is degenerate or missing.
        values: (R, E, N) float64 by name, the numbers of each sample; NaN where missing.
        scalars: (R, E) float64 by name, the numbers of each epoch; NaN where missing. Of several views, the numbers
            are those of the compared one, without its name.
        pairs: The P pairs of runs, by their places.
        agreement: (P, E, N) float64 in [-1, 1], how far two runs look at the same place: Pearson's correlation of the
            heatmaps' positive parts. 1 is the same place, near 0 an unrelated one. NaN where either run lacks the
            epoch or its map is degenerate, and where the two maps explain different classes (see `unlike`).
        differences: R values by the name of the setting, such as "layer" or "overlay.colormap", of all settings in
            which runs differ.
        left_out: By the names of runs, the sample keys that others lack.
    """

    def _repr_html_(self) -> str:
        from .inline import html_of

        return html_of(self)

    def table(self, grain: str = "sample") -> list[dict[str, Any]]:
        """Returns all numbers as rows of plain values, for a data frame or a file; None where one is missing.

        Args:
            grain: "sample" gives a row for each run, epoch and sample: run, epoch (and step, where runs count training
                steps), sample, label, predicted, both by
                name, explained (the class of the heatmap), correct, confidence, agreement (its mean with the other
                runs; of more than two runs also the one with each), and all `values`. "epoch" gives a row for each run
                and epoch: samples, accuracy (of samples with several labels "top_label", see `right_name`), and the
                means over the compared samples; where a number is not known of each sample, it is the run's own.
                "class" gives a row for each run, epoch and true class, "predicted" for each predicted one: the class
                and its name, samples (how many have it), accuracy, and the means over these.

        Returns:
            The rows, all with the same names, in the order of runs, epochs and samples. A run has no rows for epochs
            that it lacks.

        Raises:
            ValueError: If there is no such grain.
        """
        return list(tables.rows(self, grain))

    def to_csv(self, path: str | Path, grain: str = "sample") -> None:
        """Writes `table` as CSV (UTF-8). A file that is there is replaced, once all is written.

        Names that a spreadsheet would take for a formula, such as a class called "=1+1", get a "'" in front.

        Args:
            path: The file.
            grain: As for `table`.

        Raises:
            ValueError: If there is no such grain.
            OSError: If the file can't be written; what was there before then still is.
        """
        tables.write_csv(self, path, grain)

    def to_json(self, path: str | Path, grain: str = "sample") -> None:
        """Writes `table` as JSON, a list of objects, null where a number is missing; otherwise as `to_csv`."""
        tables.write_json(self, path, grain)

    def figure(
        self,
        *,
        samples: int | Sequence[str] = 4,
        epochs: Sequence[int] | None = None,
        metric: str | None = None,
        overlay: Overlay | None = None,
    ) -> Figure:
        """Draws the samples that differ most, side by side for all runs, and how far the runs agree over the epochs.

        Rows are samples, with each run's overlays in some epochs and the predictions under them. Below are curves over
        the epochs: the agreement of the runs (of two, with the middle half of the samples), and a number of each run.
        As the last value of a notebook's cell the figure is displayed; elsewhere, `figure().savefig("runs.png")`.

        Args:
            samples: How many of `most_different`, or some of `sample_keys`.
            epochs: Some of `epochs`; by default the first and the last one that all runs have, the one from which they
                part, and some between.
            metric: What is drawn beside the agreement: the name of a number, or "accuracy" (`right_name`); by default
                "energy_in_region" where that is known, else "accuracy", else "confidence".
            overlay: How heatmaps are drawn; by default in colours that rise in lightness.

        Returns:
            A `matplotlib.figure.Figure`, none of pyplot's.

        Raises:
            ImportError: If matplotlib is missing.
            ValueError: If there is no such sample, epoch or number, a file is damaged, or `overlay` draws panels.
            TypeError: If `overlay` is no Overlay.
            OSError: If a file is gone.
        """
        from .pictures import draw

        return draw(self, samples, epochs, metric, overlay)

    def report(
        self,
        path: str | Path,
        *,
        max_epochs: int | None = 200,
        image_side: int = 224,
        image_quality: int = 80,
        title: str = "",
    ) -> ReportFile:
        """Writes one HTML file that shows all of this in a browser, offline; see `comparison.report.write_report`.

        Args:
            path: The file, .html or .htm. One that is there is replaced, once all is written.
            max_epochs: Of how many epochs heatmaps and the numbers of each sample are kept; None keeps all.
            image_side: The longer side in px to which larger images are shrunk.
            image_quality: Of the images as JPEG, 1 to 100.
            title: The page's title; by default the names of the runs.

        Returns:
            What was written, how large it is, and what was left out.

        Raises:
            ImportError: If plotly is missing.
            ValueError: If an argument is not one of the above, or a file of a run is damaged.
            OSError: If a file of a run is gone, or the report can't be written.
        """
        from .report import write_report

        return write_report(
            self, path, max_epochs=max_epochs, image_side=image_side, image_quality=image_quality, title=title
        )

    def summary(self, threshold: float = 0.5) -> str:
        """Says in words what the runs look at, from which epoch on, and what they differ in.

        A run "looks at the object" where the mean `energy_ratio` of its last epoch is at least 1.5 times what chance
        would give, and "does not" where it is at most that; in between it "hardly prefers" it. "From epoch 3 on" means
        in every logged epoch from 3 to the last one. A corner or an edge is named where at least half of the samples
        have their peak in that ninth of the image. A class from whose object a run looks away, by the same measure, is
        named where others are known, and so is since when heatmaps hardly move (see `settled`). What was not measured
        is not said.

        Args:
            threshold: Of the mean agreement below which runs look at different places; see `parted`.

        Returns:
            Sentences, one a line.

        Raises:
            ValueError: If `threshold` is not in (-1, 1].
        """
        return "\n".join(words.sentences(self, threshold))


def compare(runs: Sequence[str | Path | Run], *, names: Sequence[str] | None = None, view: str = "") -> Comparison:
    """Compares stored runs: aligns them by sample and epoch, and measures where they look at the same place.

    The samples are those that all runs have, by their keys; the epochs those that any run has. No framework is loaded.
    Heatmaps are read one epoch at a time and not kept, so that memory does not grow with their size.

    Args:
        runs: Folders of runs, folders with one run in them, or what `read_run` returns. One alone is allowed: then
            there is no agreement, but all else.
        names: What the runs are called; by default as much of their paths as tells them apart.
        view: Which heatmaps to compare where runs have several, by the view's name; by default each run's first. Runs
            without views take part with their only heatmaps.

    Returns:
        The comparison.

    Raises:
        ValueError: If there is no run, a run is given twice, holds no epoch, no heatmaps, or lacks the view; if no
            sample is common to all, or one has other pixels or another label in another run, or a class another number;
            if a record is damaged or does not fit its manifest.
        TypeError: If an argument is of the wrong kind.
        OSError: If a file is gone.

    Example:
        >>> comparison = compare(["logs/small_rate", "logs/large_rate"])
        >>> print(comparison.summary())
        >>> comparison.to_csv("runs.csv")
    """
    opened = alignment.open_runs(runs)
    called = alignment.named(opened, names)
    alignment.check_view(opened, called, view)
    keys, labels, left_out = alignment.align_samples(opened, called)
    opened = alignment.counted_alike(opened)
    epochs = alignment.steps(opened)
    pairs = tuple(combinations(range(len(opened)), 2))
    readers = [Reader(run, keys, view) for run in opened]
    stored = [{epoch.step: epoch for epoch in run.epochs} for run in opened]
    shape = (len(keys), count_axes(opened, called))
    columns = [read_column(readers, [of.get(step) for of in stored], pairs, shape)[0] for step in epochs]
    return Comparison(
        names=called,
        runs=opened,
        view=view,
        sample_keys=keys,
        labels=labels,
        class_names=alignment.class_names(opened, called),
        epochs=epochs,
        pairs=pairs,
        **stacked(columns),
        differences=alignment.differences(opened, keys),
        left_out=left_out,
    )
