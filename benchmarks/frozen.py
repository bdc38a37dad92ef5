"""What an epoch end costs while the base is frozen and only the head is trained, next to a bare forward pass.

Between two epochs the head's weights move, as in training; nothing writes to the base, which is looked up each time.

    python benchmarks/frozen.py --rounds 15 --models VGG16 ResNet50 MobileNetV2 --out benchmarks/frozen.md
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from epoch_end import epoch_end
from measuring import BARE, Times, cell, in_turn, machine, milliseconds, spread, table, write
from subjects import MODELS, SAMPLES, bare_pass, photographs, settle

from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.explaining.explainer import Explainer

MAPS = "capture and Grad-CAM maps"
WHOLE = "capture and Grad-CAM maps, all run each time"
CHECK = "the look whether anything was written"
CASES = {None: "epoch end, numbers only", "disk": "epoch end, tracker: disk"}
BASES = {name: partial(build, include_top=False, input_shape=(224, 224, 3)) for name, build in MODELS.items()}


def with_head(base: Any, images: Any) -> Any:
    """A frozen base with global average pooling and a dense layer for ten classes."""
    settle(base, images)
    base.trainable = False
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, activation="softmax", name="classes")]
    return keras.Sequential([keras.Input(images.shape[1:]), base, *head], name="frozen")


def measure(base: Any, rounds: int, folder: Path) -> tuple[Times, list[str]]:
    """Measures all cases with one base.

    Returns:
        The times of the cases; and the layer, the MiB that are kept, and the number of the base's variables.
    """
    images = photographs(base.input_shape[1:])
    model = with_head(base, images)
    kernel = model.get_layer("classes").kernel
    batch = make_batch(images, model, max_samples=SAMPLES)
    keeping, whole = (Explainer(model, batch, keeps=keeps) for keeps in (True, False))
    cases: dict[str, Callable[[], object]] = {
        BARE: bare_pass(model, images),
        WHOLE: partial(whole.views, batch),
        MAPS: partial(keeping.views, batch),
        CHECK: keeping.capturer._pass.renew,
    }
    for tracker, name in CASES.items():
        _, end = epoch_end(model, (images, np.zeros(SAMPLES, np.int64)), tracker, folder / model.name)

        def trained(end: Callable[[], object] = end) -> None:
            kernel.assign_add(0.01 * np.sign(kernel))
            end()

        cases[name] = trained
    times = in_turn(cases, rounds)
    assert keeping.capturer.reuses >= rounds, "The base was run again."
    return times, [keeping.layer_name, f"{keeping.capturer.bytes_kept / 2**20:.1f}", str(len(base.variables))]


def report(rounds: int, cases: dict[str, Times], once: dict[str, list[str]]) -> str:
    """Writes the results as Markdown."""
    names = list(cases)
    rows = [[case, *(cell(cases[name], case, 3) for name in names)] for case in cases[names[0]] if case != BARE]
    rows.append(["bare pass, quartiles", *(spread(cases[name]) for name in names)])
    for case in (BARE, CASES[None], CHECK):
        rows.append([f"{case}, ms", *(milliseconds(cases[name], case) for name in names)])
    head = ["", "explained layer", "MiB kept", "variables of the base"]
    return "\n\n".join(
        [
            "# An epoch end with a frozen base",
            f"{SAMPLES} images at the base's size, {machine('keras', keras.backend.backend(), 'numpy')}. "
            "Written by `python benchmarks/frozen.py`; README.md says what is measured.",
            f"## Ratios to one bare forward pass, wall / CPU time, medians of {rounds} rounds",
            table(["", *names], rows),
            "## What is kept",
            table(head, [[name, *once[name]] for name in names]),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="how often each case runs (15)")
    parser.add_argument("--models", nargs="+", default=list(BASES), choices=BASES, help="which models (all)")
    parser.add_argument("--out", type=Path, help="file for the tables, such as benchmarks/frozen.md")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1. Received: {options.rounds}.")
    cases, once = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            cases[name], once[name] = measure(BASES[name](), options.rounds, Path(folder) / name)
    write(report(options.rounds, cases, once), options.out)


if __name__ == "__main__":
    main()
