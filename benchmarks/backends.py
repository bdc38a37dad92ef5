"""What an epoch end of GradCAMLogger costs on Keras' backends, as ratios to one bare forward pass of the same images.

Each model is measured in a process of its own, on one backend after the other; what a first call costs, in processes
that do nothing else. A backend may have an interpreter of its own, without the other frameworks.

    python benchmarks/backends.py --backends jax torch --python torch=.torch/bin/python --out benchmarks/backends.md
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is loaded.

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import BARE, Case, Times, cell, in_turn, machine, medians, pair, seconds, spread, table, write

NAMES = ("VGG16", "ResNet50", "MobileNetV2")
SHAPE = (224, 224, 3)
END = "epoch end, tracker: none"
FROZEN = "epoch end with a frozen base, tracker: none"
PEER = "pytorch-grad-cam"
FIRSTS = ("predict", "epoch end")


def logits_model(name: str, images: Any) -> Any:
    import keras
    from subjects import MODELS, settle

    model = MODELS[name](classifier_activation=None)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))  # Which tells what outputs are.
    settle(model, images)
    return model


def without_torchvision() -> None:
    """Puts empty modules where torchvision doesn't load, of which pytorch-grad-cam needs none for its maps.

    PyTorch's builds for CPUs alone have often no torchvision that was built for them.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        names = {"": [], ".transforms": ["Compose", "Normalize", "ToTensor"], ".transforms.functional": ["resize"]}
        for name, functions in names.items():
            module = sys.modules["torchvision" + name] = types.ModuleType("torchvision" + name)
            vars(module).update(dict.fromkeys(functions))


def peer(model: Any, images: Any, layer_name: str) -> Case:
    """Maps by pytorch-grad-cam of the very same layers, which it enlarges to the size of the images."""
    import torch

    without_torchvision()
    from pytorch_grad_cam import GradCAM

    class ChannelsFirst(torch.nn.Module):  # type: ignore[misc]  # PyTorch's types are passed over
        """The model, for images as PyTorch's own models take them."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            return self.inner(x.permute(0, 2, 3, 1), training=False)

    layers = [model.get_layer(layer_name)]
    cam = GradCAM(ChannelsFirst(), layers, reshape_transform=lambda values: values.permute(0, 3, 1, 2))
    inputs = torch.as_tensor(images.transpose(0, 3, 1, 2).copy())
    return lambda: cam(inputs, targets=None)


def measured(name: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Measures one model on the backend that is active.

    Returns:
        "all trained" and "frozen base": the times of the cases of each; "layer": which one is explained; "alike": the
        correlation with the maps of pytorch-grad-cam, by image the median, where that is installed.
    """
    import keras
    from epoch_end import epoch_end
    from frozen import BASES, with_head
    from subjects import SAMPLES, bare_pass, photographs

    from keras_cam_callbacks import explain

    images = photographs(SHAPE)
    data = images, np.zeros(SAMPLES, np.int64)
    model = logits_model(name, images)
    logger, end = epoch_end(model, data, None, folder / "trained")
    cases: dict[str, Case] = {BARE: bare_pass(model, images), END: end}
    end()
    layer_name = logger._source.capturer.taps[0].path
    result: dict[str, Any] = {"layer": layer_name}
    if keras.backend.backend() == "torch" and importlib.util.find_spec("pytorch_grad_cam"):
        cases[PEER] = peer(model, images, layer_name)
        result["alike"] = correlation(cases[PEER](), explain(model, images, layer_name))
    result["all trained"] = in_turn(cases, rounds)
    del cases, logger, end, model

    whole = with_head(BASES[name](), images)
    kernel = whole.get_layer("classes").kernel
    logger, end = epoch_end(whole, data, None, folder / "frozen")

    def trained() -> None:
        kernel.assign_add(0.01 * keras.ops.sign(kernel.value))
        end()

    result["frozen base"] = in_turn({BARE: bare_pass(whole, images), FROZEN: trained}, rounds)
    assert logger._source.capturer.reuses >= rounds, "The base was run again."
    return result


def correlation(theirs: Any, ours: Any) -> float:
    """Returns by how much maps are alike, which are enlarged here as pytorch-grad-cam does."""
    import cv2

    positive = np.maximum(ours.heatmaps, 0)
    enlarged = [cv2.resize(one, theirs.shape[2:0:-1]) for one in positive]
    pairs = zip(theirs, enlarged, strict=True)
    return float(np.median([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs if a.any() and b.any()]))


def first(name: str, what: str, folder: Path) -> Any:
    """Returns wall and CPU seconds of the first `predict`, or of the first epoch end with all that comes before it."""
    from epoch_end import epoch_end
    from subjects import SAMPLES, photographs

    images = photographs(SHAPE)
    model = logits_model(name, images)

    def first_epoch_end() -> None:
        epoch_end(model, (images, np.zeros(SAMPLES, np.int64)), None, folder)[1]()

    cases: dict[str, Callable[[], object]] = {
        "predict": lambda: model.predict(images, batch_size=SAMPLES, verbose=0),
        "epoch end": first_epoch_end,
    }
    return seconds(cases[what])


def work(do: str, name: str, rounds: int) -> None:
    """Measures in this process, and prints what was measured as the last line."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        result: Any = measured(name, rounds, Path(folder)) if do == "cases" else first(name, do, Path(folder))
    backend = keras.backend.backend()
    print(json.dumps([machine("keras", backend, "numpy"), result]), flush=True)


def ask(python: str, backend: str, *arguments: str) -> Any:
    """Has a process of its own measure; returns what it is run on, and what it printed."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [python, __file__, "--worker", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def report(rounds: int, starts: int, results: dict[tuple[str, str], dict[str, Any]], machines: dict[str, str]) -> str:
    """Writes the results as Markdown; they are by backend and model."""
    head = ["", *(f"{name}, {backend}" for backend, name in results)]
    trained: list[Times] = [one["all trained"] for one in results.values()]
    frozen: list[Times] = [one["frozen base"] for one in results.values()]
    ratios: Any = [np.divide(one["epoch end"], one["predict"]) for one in results.values()]
    rows = [
        [END, *(cell(times, END) for times in trained)],
        [PEER, *(cell(times, PEER) if PEER in times else "" for times in trained)],
        ["bare pass, quartiles", *map(spread, trained)],
        [FROZEN, *(cell(times, FROZEN, 3) for times in frozen)],
        ["bare pass with a frozen base, quartiles", *map(spread, frozen)],
        ["first epoch end to first `predict`", *(pair(ratio) for ratio in ratios)],
        ["first `predict`, s", *(pair(one["predict"]) for one in results.values())],
        ["CPU s of the bare pass", *(f"{medians(times[BARE])[1]:.2f}" for times in trained)],
    ]
    alike = [f"{name}: {one['alike']:.4f}" for (_, name), one in results.items() if "alike" in one]
    sentences = [f"With {backend}: {words}." for backend, words in machines.items()]
    if alike:
        sentences.append(f"Correlation of our maps with those of pytorch-grad-cam: {', '.join(alike)}.")
    return "\n\n".join(
        [
            "# The cost on each backend",
            "16 images at 224 x 224. Written by `python benchmarks/backends.py`; README.md says what is measured. "
            + " ".join(sentences),
            f"## Ratios to one bare forward pass, wall / CPU time, medians of {rounds} rounds, first calls of {starts}",
            table(head, rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=["jax", "torch"], choices=["tensorflow", "jax", "torch"])
    parser.add_argument("--python", action="append", default=[], help="BACKEND=INTERPRETER, where it is another one")
    parser.add_argument("--rounds", type=int, default=7, help="how often each case runs (7)")
    parser.add_argument("--starts", type=int, default=3, help="in how many processes a first call is measured (3)")
    parser.add_argument("--models", nargs="+", default=list(NAMES), choices=NAMES, help="which models (all)")
    parser.add_argument("--out", type=Path, help="file for the table, such as benchmarks/backends.md")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.starts < 1:
        parser.error(f"--rounds and --starts must be at least 1. Received: {options.rounds} and {options.starts}.")
    if options.worker:
        work(*options.worker[:2], int(options.worker[2]))
        return
    pythons = dict(line.split("=", 1) for line in options.python)
    results: dict[tuple[str, str], dict[str, Any]] = {}
    machines = {}
    for backend in options.backends:
        python = pythons.get(backend, sys.executable)
        for name in options.models:
            machines[backend], result = ask(python, backend, "cases", name, str(options.rounds))
            starts = [[ask(python, backend, do, name, "1")[1] for do in FIRSTS] for _ in range(options.starts)]
            for i, do in enumerate(FIRSTS):
                result[do] = medians([start[i] for start in starts])
            results[backend, name] = result
            print(backend, name, json.dumps({do: result[do] for do in FIRSTS}), flush=True)
    write(report(options.rounds, options.starts, results, machines), options.out)


if __name__ == "__main__":
    main()
