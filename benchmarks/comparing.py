"""How long `compare` takes to read many long runs, and how much memory.

Records are written by `RunWriter` first, which takes longer than to read them; half of the runs have maps of 7 x 7,
half of 14 x 14. A fresh process then compares them.

    python benchmarks/comparing.py --runs 6 --epochs 200 --samples 64
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cam_callbacks.drawing.files import encode
from keras_cam_callbacks.records import EpochRecord, RunConfig, Sample
from keras_cam_callbacks.store import RunWriter

VALUES = 24  # numbers of each sample and epoch
MEASURE = """
import json, resource, sys, time

def peak():  # Linux counts KiB, macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)

from keras_cam_callbacks import compare
import cv2
found, before = {}, peak()

def measure(name, action):
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    found[f"{name}, s of wall time"] = time.perf_counter() - wall
    found[f"{name}, s of CPU time"] = time.process_time() - cpu
    found[f"{name}, MiB of memory at most so far"] = peak() - before
    return result

comparison = measure("compare", lambda: compare(sys.argv[2:]))
measure("to_csv", lambda: comparison.to_csv(sys.argv[1]))
measure("summary", comparison.summary)
print(json.dumps(found))
"""


def write_run(folder: Path, epochs: int, samples: int, side: int, seed: int) -> Path:
    """Writes a run of random maps with VALUES numbers of each sample; returns its folder."""
    random = np.random.default_rng(seed)
    keys = tuple(f"sample_{i:02d}" for i in range(samples))
    picture = np.zeros((8, 8, 3), np.uint8)
    config = RunConfig(
        directory=folder,
        prefix="gradcam",
        method="gradcam",
        layer_name=f"conv_{side}",
        target="predicted",
        model_name="model",
        class_names=None,
        sample_keys=keys,
        fingerprints=keys,
        labels=(0,) * samples,
        display=(picture,) * samples,
        value_range="[0, 1]",
    )
    writer, encoded = RunWriter(config), (encode(picture),) * samples
    for step in range(epochs):
        values = {f"value_{i:02d}": random.random(samples) for i in range(VALUES)}
        writer.write(
            EpochRecord(
                epoch=step,
                step=step,
                heatmaps=random.standard_normal((samples, side, side), np.float32),
                overlays=(picture,) * samples,
                encoded=encoded,
                image_format="jpg",
                scalars={name: float(value.mean()) for name, value in values.items()},
                samples=tuple(Sample(key, key, 0, step % 2, 0, 0.0, 0.5, False, key) for key in keys),
                values=values,
            )
        )
    return folder


def run(runs: int, epochs: int, samples: int) -> dict[str, float]:
    """Writes runs, compares them in a fresh process and returns what that took."""
    with tempfile.TemporaryDirectory() as name:
        sides = [7 if i % 2 == 0 else 14 for i in range(runs)]
        folders = [
            write_run(Path(name) / f"run_{i}" / "gradcam", epochs, samples, side, i) for i, side in enumerate(sides)
        ]
        command = [sys.executable, "-c", MEASURE, str(Path(name) / "table.csv"), *map(str, folders)]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, number in {"runs": 6, "epochs": 200, "samples": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=f"how many ({number})")
    options = parser.parse_args(arguments)
    if min(options.runs, options.epochs, options.samples) < 1:
        parser.error("--runs, --epochs and --samples must be at least 1.")
    print(f"{options.runs} runs of {options.epochs} epochs of {options.samples} samples")
    for name, number in run(options.runs, options.epochs, options.samples).items():
        print(f"{name}: {number:.2f}")


if __name__ == "__main__":
    main()
