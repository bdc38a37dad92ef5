"""A demo with a known answer: an honest run, one that learns a shortcut, and a transfer-learning run.

Real handwritten digits lie on real photographs, so that the place to look at is known, and each image has a
small sticker. In the honest collection its colour is random, in the shortcut collection it gives the digit
away. The shortcut run then has the better validation accuracy, and looks at the sticker.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..comparison import compare
from .data import SIDE
from .training import Progress, Result, Step, make_collections, run_collection, run_transfer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Progress", "Report", "Step", "draw_comparison", "run_demo"]

_SHOWN = ["3_own_sticker", "3_other_sticker", "7_own_sticker", "7_other_sticker"]


@dataclass(frozen=True)
class Report:
    """What the demo found out.

    Attributes:
        honest: The run on stickers of random colour.
        shortcut: The run on stickers that give the digit away.
        transfer: The transfer run after its head was fitted, and at its end.
        box_share: In [0, 1], mean share of the image that the digit's box covers: a heatmap without any
            preference would have this energy in the box.
        picture: The file that shows both runs side by side.
        page: The HTML file that compares both runs, epoch by epoch.
        summary: The comparison in words, one sentence a line.
    """

    honest: Result
    shortcut: Result
    transfer: tuple[Result, Result]
    box_share: float
    picture: Path
    page: Path
    summary: str


def run_demo(out: Path, *, epochs: int = 10, seed: int = 0, images: int = 3000, progress: Progress) -> Report:
    """Trains the three runs, measures and compares them. Takes about two minutes on two cores.

    Args:
        out: An empty folder, or one that is not there yet; the runs' records are in its subfolders "honest",
            "shortcut" and "transfer".
        epochs: Epochs of the honest and the shortcut run; the transfer run has about as many in all.
        seed: Same seed, same images, first weights and order.
        images: Images to train on, in each collection.
        progress: Called with each batch and each epoch of the three runs.

    Returns:
        The figures, and where the rest is.

    Raises:
        ModuleNotFoundError: If scikit-learn, scikit-image, matplotlib or plotly is missing.
        ValueError: If Keras runs on a backend that heatmaps can't be made on, or `out` can't be written to.
    """
    collections = make_collections(images, seed)
    honest, shortcut = (
        run_collection(name, collections, out / name, epochs=epochs, seed=seed, progress=progress)
        for name in ("honest", "shortcut")
    )
    transfer = run_transfer(collections, out / "transfer", epochs=epochs, seed=seed, progress=progress)
    picture = out / "honest_and_shortcut.jpg"
    draw_comparison(honest, shortcut).savefig(picture, dpi=90, pil_kwargs={"quality": 75})
    comparison = compare([honest.directory, shortcut.directory])
    page = out / "report.html"
    comparison.report(page)
    left, top, right, bottom = collections.shortcut_validation.boxes.T
    share = float(((right - left) * (bottom - top)).mean() / SIDE**2)
    return Report(honest, shortcut, transfer, share, picture, page, comparison.summary())


def draw_comparison(honest: Result, shortcut: Result) -> Figure:
    """Draws both runs side by side over the epochs, on two digits, each with its own sticker and with another's.

    Args:
        honest: How the honest run ended.
        shortcut: How the shortcut run ended.

    Returns:
        The figure of the compared runs.
    """
    names = [f"honest: random stickers, accuracy {honest.accuracy:.2f}"]
    names.append(f"shortcut: sticker = digit, accuracy {shortcut.accuracy:.2f}")
    return compare([honest.directory, shortcut.directory], names=names).figure(samples=_SHOWN)
