"""What an epoch end of GradCAMLogger costs, as ratios to one bare forward pass of the same images.

All cases of a model run in turn, round by round, in another order each time, and the bare pass three times a round; a
ratio is taken within a round, and the median over the rounds is shown. So a load that comes and goes on the machine
falls on all cases alike.

    python benchmarks/epoch_end.py --rounds 7 --models VGG16 ResNet50 MobileNetV2 --out benchmarks/results.md
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
from measuring import (
    BARE,
    Case,
    Times,
    cell,
    in_turn,
    machine,
    milliseconds,
    offline_wandb,
    seconds,
    spread,
    table,
    write,
)
from subjects import MODELS, SAMPLES, bare_pass, photographs, settle

from keras_cam_callbacks import METHODS, GradCAMLogger, MemoryTracker, Overlay, explain
from keras_cam_callbacks.data.batches import make_batch
from keras_cam_callbacks.drawing.files import encode
from keras_cam_callbacks.explaining.explainer import Explainer
from keras_cam_callbacks.trackers import TRACKERS

LOGGED = ("disk", "tensorboard", "wandb")
CAM_FAMILY = {"activations", "gradients", "kernel"}  # what one pass gives; other methods need many
NAIVE_ROUNDS = 3  # of the loop that takes most of the time
NAIVE = "naive loop, image by image"
CAPTURE = "capture: outputs, activations, gradients"
EXPLAIN = "capture and Grad-CAM maps"
LOOP = "`explain` in a loop"


def naive_loop(model: Any, images: Any, layer_name: str) -> Any:
    """Grad-CAM as the write-ups do it: for each image a second model, run eagerly under TensorFlow's tape."""
    import tensorflow as tf

    maps = []
    for image in images:
        second = keras.Model(model.input, [model.get_layer(layer_name).output, model.output])
        with tf.GradientTape() as tape:
            activations, outputs = second(image[None], training=False)
            score = outputs[:, int(tf.argmax(outputs[0]))]
        weights = tf.reduce_mean(tape.gradient(score, activations), (0, 1, 2))
        maps.append(tf.reduce_sum(activations[0] * weights, -1).numpy())
    return np.stack(maps)


def epoch_end(model: Any, data: Any, tracker: Any, folder: Path) -> tuple[Any, Case]:
    """Returns a logger in the middle of a fit, and the function that ends its next epoch."""
    logger = GradCAMLogger(data, tracker=tracker, log_dir=folder, max_samples=SAMPLES, on_error="raise")
    logger.set_model(model)
    logger.on_train_begin({})
    logger.on_epoch_begin(0)
    epochs = count()
    return logger, lambda: logger.on_epoch_end(next(epochs), {"loss": 0.0})


def measure_model(model: Any, rounds: int, folder: Path) -> tuple[Times, list[str]]:
    """Measures all cases of one model, and what happens once a fit.

    Args:
        model: A model of one image input, with its head.
        rounds: How often each case runs.
        folder: Where the trackers write.

    Returns:
        The times of the cases, and the cells of the model's row in the table of what happens once.
    """
    images = photographs(model.input_shape[1:])
    settle(model, images)
    predict = seconds(lambda: model.predict(images, batch_size=SAMPLES, verbose=0))
    batch = make_batch(images, model, max_samples=SAMPLES)
    explainer = Explainer(model, batch)
    capturer, layer_name = explainer.capturer, explainer.layer_name
    explain(model, images)  # which traces the model once more
    cases: dict[str, Case] = {
        BARE: bare_pass(model, images),
        CAPTURE: lambda: list(capturer(batch.inputs, capturer.predicted(SAMPLES))),
        EXPLAIN: partial(explainer.views, batch),
        LOOP: partial(explain, model, images),
    }
    data, memory, begins = (images, np.zeros(SAMPLES, np.int64)), MemoryTracker(), []
    for name, tracker in {"none": None, "memory": memory, **{name: name for name in LOGGED}}.items():
        began = time.perf_counter()
        logger, end_of_epoch = epoch_end(model, data, tracker, folder / model.name / name)
        begins.append(time.perf_counter() - began)
        cases[f"epoch end, tracker: {name}"] = end_of_epoch
    if keras.backend.backend() == "tensorflow":
        naive_loop(model, images[:1], layer_name)  # what only the first eager call pays
        cases[NAIVE] = partial(naive_loop, model, images, layer_name)
    times = in_turn(cases, rounds, {NAIVE: NAIVE_ROUNDS})
    once = [
        layer_name,
        f"{predict[0]:.2f}",
        f"{median(begins):.2f}",
        str(logger._source.capturer.traces),
        f"{memory.records[-1].scalars['degenerate']:.0f} of {SAMPLES}",
    ]
    return times, once


def measure_methods(model: Any, rounds: int) -> Times:
    """Measures capture and map of every method that fits the model's layer and head."""
    images = photographs(model.input_shape[1:])
    settle(model, images)
    batch = make_batch(images, model, max_samples=SAMPLES)
    family = [name for name, method in METHODS.items() if set(method.needs) <= CAM_FAMILY]
    explainers = {name: partial(Explainer(model, batch, method=name).views, batch) for name in family}
    return in_turn({BARE: bare_pass(model, images), **explainers}, rounds)


def measure_logging(model: Any, rounds: int, folder: Path) -> Times:
    """Measures by themselves what comes after the maps: draw, encode, and each tracker."""
    images = photographs(model.input_shape[1:])
    settle(model, images)
    memory = MemoryTracker()
    logger, end_of_epoch = epoch_end(model, (images, np.zeros(SAMPLES, np.int64)), memory, folder)
    end_of_epoch()
    explanation, overlay = logger.explain(), Overlay()
    record, config = memory.records[0], memory.config
    cases: dict[str, Case] = {
        "draw the overlays": lambda: explanation.overlays(overlay),
        "encode them as JPEG": lambda: [encode(picture) for picture in record.overlays],
    }
    steps = count()
    for name in LOGGED:
        tracker = TRACKERS[name]()
        tracker.start(dataclasses.replace(config, directory=folder / "logging" / name))

        def log(tracker: Any = tracker) -> None:
            step = next(steps)
            tracker.log(dataclasses.replace(record, step=step, epoch=step))

        cases[f"log to {name}"] = log
    return in_turn(cases, rounds)


def report(
    rounds: int, cases: dict[str, Times], firsts: dict[str, list[str]], methods: tuple[str, Times], logging: Times
) -> str:
    """Writes the results as Markdown."""
    names = list(cases)
    rows = [[case, *(cell(cases[name], case) for name in names)] for case in cases[names[0]] if case != BARE]
    cpus = ["CPU s of the bare pass", *(f"{median(cpu for _, cpu in cases[name][BARE]):.2f}" for name in names)]
    noise = ["bare pass, quartiles", *(spread(cases[name]) for name in names)]
    walls = ["ms of the bare pass", *(milliseconds(cases[name], BARE) for name in names)]
    return "\n\n".join(
        [
            "# The cost of an epoch end",
            f"{SAMPLES} images at the model's size, {machine('keras', keras.backend.backend(), 'numpy')}. "
            "Written by `python benchmarks/epoch_end.py`; README.md says what is measured.",
            f"## Ratios to one bare forward pass, wall / CPU time, medians of {rounds} rounds",
            f"The naive loop ran {min(rounds, NAIVE_ROUNDS)} rounds.",
            table(["", *names], [*rows, noise, walls, cpus]),
            "## Once a fit",
            table(
                [
                    "",
                    "explained layer",
                    "first `predict`, s",
                    "start of a fit, s",
                    "traces",
                    "degenerate maps",
                ],
                [[name, *firsts[name]] for name in names],
            ),
            f"## Capture and map by method, {methods[0]}, ratios wall / CPU",
            table(["", "ratio"], [[name, cell(methods[1], name)] for name in methods[1] if name != BARE]),
            f"## Logging {SAMPLES} overlays, ms",
            table(["", "ms"], [[name, milliseconds(logging, name)] for name in logging]),
        ]
    )


def run(names: Sequence[str], rounds: int) -> str:
    """Measures the named models; methods and logging with the last one."""
    cases, firsts = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with offline_wandb(folder):
            for model_name in names:
                model = MODELS[model_name]()
                cases[model_name], firsts[model_name] = measure_model(model, rounds, folder)
                print(f"{model_name}: " + "; ".join(f"{c}: {cell(cases[model_name], c)}" for c in cases[model_name]))
            methods = measure_methods(model, rounds)
            logging = measure_logging(model, 3 * rounds, folder)
    return report(rounds, cases, firsts, (names[-1], methods), logging)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="how often each case runs (7)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="which models (all)")
    parser.add_argument("--out", type=Path, help="file for the tables, such as benchmarks/results.md")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1. Received: {options.rounds}.")
    write(run(options.models, options.rounds), options.out)


if __name__ == "__main__":
    main()
