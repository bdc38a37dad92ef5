"""What an epoch end costs on a GPU, for each backend that is installed, and whether maps are those of the CPU.

Each backend runs in processes of its own: one on the GPU, and one on the CPU with the same weights. All times are taken
when the results are there as numpy arrays, so that nothing is still under way on the GPU.

    python benchmarks/gpu.py --backends jax torch --out benchmarks/gpu.md
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import BARE, cell, in_turn, machine, milliseconds, seconds, spread, table, write

BACKENDS = "tensorflow", "jax", "torch"
MODELS = "VGG16", "ResNet50", "MobileNetV2"
GPU, CPU = "gpu", "cpu"
CASES = {"epoch end, numbers only": False, "epoch end, frozen base": True}
# JAX would take most of the memory at once, and TensorFlow all of it.
_ON = {
    GPU: {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"},
    CPU: {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"},
}


def peak() -> int | None:
    """Returns the most bytes of the GPU that were in use so far; None on a CPU."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return (
            tf.config.experimental.get_memory_info("GPU:0")["peak"] if tf.config.list_physical_devices("GPU") else None
        )
    if backend == "jax":
        import jax

        statistics = jax.devices()[0].memory_stats() if jax.default_backend() == GPU else None
        return None if statistics is None else statistics["peak_bytes_in_use"]
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def sees_gpu() -> bool:
    """Tells whether the backend that is in use runs on a GPU."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if backend == "jax":
        import jax

        return jax.default_backend() == GPU
    import torch

    return torch.cuda.is_available()


def in_float32() -> None:
    """Has the GPU compute in all bits of float32, as the CPU does; by default some multiply in TensorFloat-32."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    else:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def measure(name: str, weights: Path, rounds: int) -> dict[str, Any]:
    """Measures one model on the device that this process has.

    Args:
        name: Of the model in `keras.applications`.
        weights: Folder of the model's weights, which are written there where they aren't yet.
        rounds: How often each case runs; none has only the maps made.

    Returns:
        The Grad-CAM maps (N, h, w) as lists; and where there are rounds, cells of the table.
    """
    import keras
    from epoch_end import epoch_end
    from frozen import BASES, with_head
    from subjects import MODELS, SAMPLES, bare_pass, photographs, settle

    from keras_cam_callbacks import explain

    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    images = photographs(model.input_shape[1:])
    settle(model, images)
    path = weights / f"{name}.weights.h5"
    if path.exists():
        model.load_weights(path)
    else:
        model.save_weights(path)
    if not rounds:
        return {"maps": explain(model, images).heatmaps.tolist()}
    bare = bare_pass(model, images)
    bare()
    before = peak()
    maps = explain(model, images).heatmaps
    after = peak()
    first = seconds(lambda: model.predict(images, batch_size=SAMPLES, verbose=0))[0]
    targets = np.zeros(SAMPLES, np.int64)
    cells = {}
    with tempfile.TemporaryDirectory() as folder:
        for case, frozen in CASES.items():
            if frozen:
                model = with_head(BASES[name](), images)
                bare = bare_pass(model, images)
            _, end = epoch_end(model, (images, targets), None, Path(folder) / case)
            kernel = model.layers[-1].kernel

            def trained(end: Any = end, kernel: Any = kernel) -> None:
                kernel.assign_add(0.01 * keras.ops.sign(kernel))
                end()

            times = in_turn({BARE: bare, case: trained}, rounds)
            cells[case] = cell(times, case, 3)
            cells[f"{case}: bare pass"] = f"{milliseconds(times, BARE)} ms ({spread(times)})"
    cells["first `predict`, s"] = f"{first:.2f}"
    cells["memory to the forward pass'"] = f"{after / before:.2f}" if before and after else "-"
    return {"maps": maps.tolist(), "cells": cells, "machine": machine("keras", "numpy")}


def in_process(backend: str, device: str, name: str, weights: Path, rounds: int) -> dict[str, Any]:
    """Runs `measure` in a process of one backend, with a GPU or without."""
    environment = os.environ | _ON[device] | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    arguments = [name, "--worker", device, "--weights", str(weights), "--rounds", str(rounds)]
    done = subprocess.run(
        [sys.executable, __file__, "--models", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{backend} on the {device}: {name} was not measured; see above.")
    return json.loads(done.stdout.splitlines()[-1])


def worst(maps: Any, others: Any) -> float:
    """Returns the largest difference of two sets of maps, as a share of the largest value."""
    first, second = np.array(maps), np.array(others)
    return float(np.abs(first - second).max() / np.abs(second).max())


def report(backends: Sequence[str], models: Sequence[str], rounds: int, device: str) -> str:
    """Measures the models on all backends; returns the results as Markdown."""
    texts, described = [], ""
    for backend in backends:
        columns, rows = [], dict[str, list[str]]()
        for name in models:
            with tempfile.TemporaryDirectory() as folder:
                ours = in_process(backend, device, name, Path(folder), rounds)
                described = ours["machine"]
                theirs = in_process(backend, CPU, name, Path(folder), 0)
            columns.append(name)
            difference = worst(ours["maps"], theirs["maps"])
            for row, value in {**ours["cells"], "difference to the CPU's maps": f"{difference:.1e}"}.items():
                rows.setdefault(row, []).append(value)
            print(f"{backend}, {name}: {ours['cells']}, {difference:.1e}", file=sys.stderr)
        texts += [f"## {backend}", table(["", *columns], [[row, *cells] for row, cells in rows.items()])]
    head = [
        f"# An epoch end on a {device.upper()}",
        f"16 images at 224 x 224, {described}. Written by `python benchmarks/gpu.py`: ratios to one bare forward pass, "
        f"wall / CPU time, medians of {rounds} rounds; differences are shares of the largest value.",
    ]
    return "\n\n".join([*head, *texts])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    parser.add_argument("--backends", nargs="+", default=installed, choices=installed, help="which (all installed)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="which models (all)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each case runs (7)")
    parser.add_argument("--device", choices=(GPU, CPU), default=GPU, help="cpu to try the script where there is no GPU")
    parser.add_argument("--out", type=Path, help="file for the tables, such as benchmarks/gpu.md")
    parser.add_argument("--worker", choices=(GPU, CPU), help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        if options.worker == GPU and not sees_gpu():
            parser.error("The backend sees no GPU. Install it with its libraries for GPUs, or try --device cpu.")
        in_float32()
        print(json.dumps(measure(options.models[0], options.weights, options.rounds)))
        return
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1. Received: {options.rounds}.")
    write(report(options.backends, options.models, options.rounds, options.device), options.out)


if __name__ == "__main__":
    main()
