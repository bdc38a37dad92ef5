"""What each method costs, as ratios to one bare forward pass of the same images.

Methods run in turn, round by round, next to the bare pass (see epoch_end.py); the median over the rounds is shown.

    python benchmarks/methods.py --rounds 3 --model MobileNetV2 --out benchmarks/methods.md
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# First, for it says how TensorFlow is to be loaded.
from epoch_end import BARE, MODELS, Times, bare_pass, cell, in_turn, milliseconds, photographs, settle, spread, table

from keras_cam_callbacks import METHODS
from keras_cam_callbacks.batches import make_batch
from keras_cam_callbacks.explainer import Explainer
from keras_cam_callbacks.probe import Probe

SAMPLES = 4
MANY = 200  # passes, from which on one image must do


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the copies of images that functions of the model are asked for, by function."""
    copies: Counter[str] = Counter()
    stream = Probe._stream

    def counting(self: Probe, name: str, start: int, targets: Any, given: Any, total: int) -> Any:
        copies[name] += total
        return stream(self, name, start, targets, given, total)

    Probe._stream = counting  # type: ignore[method-assign]
    try:
        yield copies
    finally:
        Probe._stream = stream  # type: ignore[method-assign]


def passes(copies: Counter[str]) -> str:
    """Says in words what a method runs for one image besides the pass that all take."""
    kinds = {"forward": 0, "forward and backward": 0, "behind the layer": 0}
    for name, count in copies.items():
        kind = "forward" if name == "score" else "behind the layer" if name == "layer_score" else "forward and backward"
        kinds[kind] += count
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "–"


def measure(model: Any, rounds: int) -> list[list[str]]:
    """Measures all methods that fit the model; returns the rows of the table.

    Args:
        model: A model of one image input.
        rounds: How often each method runs.
    """
    images = photographs(model.input_shape[1:])
    settle(model, images)
    rows, few, needed = [], {}, {}
    for name in METHODS:
        try:
            with counted() as copies:
                Explainer(model, make_batch(images[:1], model), method=name)()
        except ValueError as error:
            rows.append([f"`{name}`", "does not fit this model", str(error).split(". ")[0]])
            continue
        needed[name] = passes(copies)
        few[name] = sum(copies.values()) < MANY
    for samples in (SAMPLES, 1):
        names = [name for name in needed if few[name] == (samples == SAMPLES)]
        batch = make_batch(images[:samples], model)
        explainers = {name: Explainer(model, batch, method=name) for name in names}
        with contextlib.redirect_stdout(io.StringIO()):  # Bars of what takes long.
            times: Times = in_turn({BARE: bare_pass(model, images[:samples]), **explainers}, rounds)
        rows += [[f"`{name}`", needed[name], cell(times, name)] for name in names]
        rows.append(
            [f"bare pass of {samples}, {milliseconds(times, BARE)} ms", "1 forward", f"quartiles {spread(times)}"]
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=MODELS, default="MobileNetV2")
    parser.add_argument("--out", type=Path, help="file for the results, Markdown")
    options = parser.parse_args(arguments)
    model = MODELS[options.model]()
    rows = measure(model, options.rounds)
    text = "\n\n".join(
        [
            "# The cost of each method",
            f"{model.name}, input {model.input_shape[1:]}, {os.cpu_count()} CPU cores, medians of {options.rounds} "
            "rounds. The ratio is wall / CPU time of a whole explanation of a batch to that of one bare compiled "
            f"forward pass of the same batch: {SAMPLES} images, and one image for methods that need {MANY} passes or "
            "more.",
            table(["method", "runs for each image, besides one pass", "cost in forward passes"], rows),
        ]
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
