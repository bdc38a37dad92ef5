"""What each method costs, as ratios to one bare forward pass of the same images, and to what its definition needs.

Methods run in turn, round by round, next to bare passes (see epoch_end.py); the median over the rounds is shown.

    python benchmarks/methods.py --rounds 3 --model MobileNetV2 --out benchmarks/methods.md
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

import argparse
import contextlib
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from measuring import BARE, Case, Times, cell, in_turn, machine, milliseconds, pair, ratios, spread, table, write
from subjects import MODELS, bare_pass, photographs, settle

from keras_cam_callbacks import METHODS
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.explaining.explainer import Explainer
from keras_cam_callbacks.passes.probe import Probe

SAMPLES = 4
MANY = 200  # passes, from which on one image must do
GRADIENT = "bare forward and backward pass to the image"


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


def bare_gradient(model: Any, images: Any) -> Case:
    """What gradient methods are compared with: the gradient of the highest class; compiled, but eager on PyTorch."""
    inputs = keras.ops.convert_to_tensor(images)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, *images.shape[1:]), tf.float32)])
        def gradient(x: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                highest = tf.reduce_max(model(x, training=False), axis=1)
            return tape.gradient(highest, x)

        return lambda: gradient(inputs).numpy()
    if backend == "jax":
        import jax

        def total(x: Any, *state: Any) -> Any:
            return model.stateless_call(*state, x, training=False)[0].max(axis=1).sum()

        of_input = jax.jit(jax.grad(total))

        def of_weights() -> Any:
            states = ([v.value for v in part] for part in (model.trainable_variables, model.non_trainable_variables))
            return np.asarray(of_input(inputs, *states))

        return of_weights
    import torch

    def recorded() -> Any:
        x = inputs.detach().requires_grad_()
        return torch.autograd.grad(model(x, training=False).amax(dim=1).sum(), x)[0].cpu().numpy()

    return recorded


def kinds(copies: Counter[str]) -> dict[str, int]:
    """Returns by kind what a method runs for one image besides the pass that all take."""
    counts = {"forward": 0, "forward and backward": 0, "behind the layer": 0}
    for name, count in copies.items():
        kind = "forward" if name == "score" else "behind the layer" if name == "layer_score" else "forward and backward"
        counts[kind] += count
    return counts


def to_definition(times: Times, name: str, counts: dict[str, int]) -> str:
    """The cost as a share of the bare passes that the definition needs; passes behind a layer count as nothing."""
    gradients = ratios(times, GRADIENT) * counts["forward and backward"]
    return pair(np.median(ratios(times, name) / (1 + counts["forward"] + gradients), axis=0))


def measure(model: Any, rounds: int) -> list[list[str]]:
    """Measures all methods that fit the model; returns the rows of the table.

    Args:
        model: A model of one image input.
        rounds: How often each method runs.
    """
    images = photographs(model.input_shape[1:])
    settle(model, images)
    rows, needed = [], {}
    for name in METHODS:
        try:
            with counted() as copies:
                Explainer(model, images[:1], method=name)(images[:1])
        except ValueError as error:
            rows.append([f"`{name}`", "does not fit this model", str(error).split(". ")[0], ""])
            continue
        needed[name] = kinds(copies)
    for samples in (SAMPLES, 1):
        names = [name for name, counts in needed.items() if (sum(counts.values()) < MANY) == (samples == SAMPLES)]
        batch = make_batch(images[:samples], model)
        explainers = {name: partial(Explainer(model, batch, method=name).views, batch) for name in names}
        bare: dict[str, Case] = {
            BARE: bare_pass(model, images[:samples]),
            GRADIENT: bare_gradient(model, images[:samples]),
        }
        with contextlib.redirect_stdout(io.StringIO()):  # Bars of what takes long.
            times: Times = in_turn({**bare, **explainers}, rounds)
        for name in names:
            words = ", ".join(f"{count} {kind}" for kind, count in needed[name].items() if count)
            rows.append([f"`{name}`", words or "–", cell(times, name), to_definition(times, name, needed[name])])
        quartiles = f"quartiles {spread(times)}"
        rows.append([f"bare pass of {samples}, {milliseconds(times, BARE)} ms", "1 forward", quartiles, ""])
        rows.append([f"{GRADIENT}, of {samples}", "1 forward and backward", cell(times, GRADIENT), ""])
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
            f"{model.name}, input {model.input_shape[1:]}, {machine('keras', keras.backend.backend())}, "
            f"medians of {options.rounds} "
            "rounds. The cost is wall / CPU time of a whole explanation of a batch, as a ratio to one bare "
            f"compiled forward pass of the same batch: {SAMPLES} images, and one image for methods that need {MANY} "
            "passes or more. The last column is the same as a ratio to all bare passes that the definition needs, "
            "forward and backward ones measured as such; passes behind the layer count as nothing there.",
            table(["method", "runs for each image, besides one pass", "cost in forward passes", "to the needed"], rows),
        ]
    )
    write(text, options.out)


if __name__ == "__main__":
    main()
