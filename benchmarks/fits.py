"""What the callback costs a whole fit: time, memory and imports, by samples, epochs, image size and tracker.

Every fit runs in a fresh process, one at a time; what was measured is kept in a file until a run ends, so that one that
was interrupted goes on where it was.

    python benchmarks/fits.py --out benchmarks/fits.md --chart docs/cost.png
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from measuring import BARE, Seconds, import_time, machine, medians, pair, ratios, table, write

from keras_cam_callbacks.trackers import TRACKERS

WORKER = Path(__file__).with_name("fit_worker.py")
SAMPLES = (1, 16, 64, 256)
SIDES = (96, 160, 224, 320)
USUAL = 16  # samples, where something else is varied
FRAMEWORKS = {"keras", "tensorflow", "torch", "jax", "cv2", "wandb", "mlflow", "trackio"}
IMPORTS = {
    "`import keras_cam_callbacks`": "import keras_cam_callbacks",
    "`import keras`, as a training does": "import keras",
    "`import keras`, then `from keras_cam_callbacks import GradCAMLogger`": (
        "import keras; from keras_cam_callbacks import GradCAMLogger"
    ),
}
NONE = "none"
# What a tracker needs that is not installed with the package.
NEEDED = {"mlflow": "mlflow", "trackio": "trackio"}

Results = dict[str, Any]


def ask(kind: str, **arguments: Any) -> Results:
    """Runs one measurement in a fresh process; returns {"error": ...} with its last words where it fails."""
    command = [sys.executable, str(WORKER), kind, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"}
    found: Results = json.loads(done.stdout)
    return found


class Kept:
    """Measurements that are kept in a file, each under what was asked for.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: Results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def __call__(self, number: int, kind: str, **arguments: Any) -> Results:
        """Returns the measurement of a round, which runs unless it is there."""
        key = f"{kind} {json.dumps(arguments)} {number}"
        if key not in self._found:
            print(key, flush=True)
            self._found[key] = ask(kind, **arguments)
            self._path.write_text(json.dumps(self._found), encoding="utf-8")
        found: Results = self._found[key]
        return found


def steps(epochs: int) -> list[int]:
    """The numbers of epochs that are shown: 1, 10, 100, ... and the last."""
    return sorted({number for number in (1, 10, 100, 1000) if number < epochs} | {epochs})


def overhead(fits: Sequence[Results], without: Sequence[Results]) -> Seconds:
    """Returns by how much the callback made a fit longer, as a share, wall and CPU.

    Args:
        fits: One for each round.
        without: The same without the callback.
    """
    both = zip(fits, without, strict=True)
    wall, cpu = np.median([np.array(one["epochs"][-1]) / other["epochs"][-1] - 1 for one, other in both], axis=0)
    return float(wall), float(cpu)


def own_share(fits: Sequence[Results], epochs: int) -> Seconds:
    """Returns what the callback's own methods took of the first epochs of a fit, as a share of the rest of it."""
    found = []
    for one in fits:
        own = np.array(one["own"][epochs - 1])
        found.append(own / (one["epochs"][epochs - 1] - own))
    wall, cpu = np.median(found, axis=0)
    return float(wall), float(cpu)


def tracker_row(name: str, runs: Sequence[Results], without: Sequence[Results], epochs: int) -> list[str]:
    """The cost of one tracker in words."""
    failed = next((run["error"] for run in runs if "error" in run), None)
    if failed:
        return [f"`{name}`", f"passed over: {failed}", "", "", "", ""]
    start = medians([np.add(run["hooks"]["on_train_begin"], run["hooks"]["on_epoch_begin"]) for run in runs])
    each = medians([np.array(run["hooks"]["on_epoch_end"]) / epochs * 1000 for run in runs])
    end = medians([run["hooks"]["on_train_end"] for run in runs])
    memory = np.median([run["MiB"] for run in runs]) - np.median([run["MiB"] for run in without])
    kept = np.median([run["bytes"] for run in runs]) / epochs / 1024
    return [f"`{name}`", pair(start), pair(each, 1), pair(end), f"{memory:+.0f}", f"{kept:.0f}"]


def percent(spent: Seconds) -> str:
    return f"{100 * spent[0]:+.1f} / {100 * spent[1]:+.1f}"


def chart(path: Path, side: int, by_samples: Results, by_side: Results, by_epochs: dict[int, list[Seconds]]) -> None:
    """Draws how the cost grows with samples, image size and epochs.

    Args:
        path: File, .png or .jpg.
        side: Height and width of the images whose number is varied.
        by_samples: For each number of samples the CPU seconds of an epoch end and of a bare pass.
        by_side: The same for each size.
        by_epochs: For each number of samples the share of the callback's own methods after each epoch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Okabe and Ito's colours, which colour-blind people tell apart; the lines differ in marks and dashes, too.
    ours, bare = {"color": "#0072B2", "marker": "o"}, {"color": "#D55E00", "marker": "s", "linestyle": "--"}
    figure = Figure(figsize=(13, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    middle.sharey(left)
    for axes, found, title, label in (
        (left, by_samples, "by number of images", f"images of {side} x {side} px"),
        (middle, by_side, "by size of images", f"height and width of {USUAL} images, px"),
    ):
        numbers = list(found)
        axes.plot(
            numbers, [1000 * found[n][0] for n in numbers], label="epoch end, with the record", lw=3, ms=10, **ours
        )
        axes.plot(numbers, [1000 * found[n][1] for n in numbers], label="bare forward pass", lw=2.5, ms=7, **bare)
        axes.set(xscale="log", yscale="log", xlabel=label, title=f"An epoch end {title}")
        axes.set_xticks(numbers, [str(n) for n in numbers], minor=False)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    left.set_ylabel("CPU time of MobileNetV2, ms")
    middle.legend(fontsize=13, loc="upper left")
    looks = (("#009E73", "^", ":"), ("#0072B2", "o", "-"), ("#E69F00", "s", "--"), ("#CC79A7", "*", "-."))
    for (samples, shares), (colour, mark, dashes) in zip(by_epochs.items(), looks, strict=False):
        epochs = range(1, len(shares) + 1)
        places = [number - 1 for number in steps(len(shares))]
        cpu = [100 * share[1] for share in shares]
        label = f"{samples} image{'s' * (samples > 1)}"
        right.plot(epochs, cpu, dashes, color=colour, marker=mark, markevery=places, lw=3, ms=11, label=label)
    last = max(len(shares) for shares in by_epochs.values())
    right.set(
        xscale="log", xlabel="epochs trained", ylabel="added CPU time, % of the fit", title="A fit of a small network"
    )
    right.set_xticks(steps(last), [str(n) for n in steps(last)], minor=False)
    right.set_xticks([], minor=True)
    right.axhline(0, color="black", lw=1)
    right.set_ylim(top=1.5 * right.get_ylim()[1])  # Room above the lines.
    right.legend(fontsize=13, loc="upper right", ncols=2)
    for axes in (left, middle, right):
        axes.grid(alpha=0.35)
        axes.tick_params(labelsize=14)
        for words in (axes.xaxis.label, axes.yaxis.label, axes.title):
            words.set_size(15)
    figure.savefig(path)


def run(options: argparse.Namespace, kept: Kept) -> str:
    """Measures all that is not yet kept, draws the chart and returns the report."""
    rounds, images, epochs = options.rounds, options.images, options.epochs
    data = {"images": images, "held": max(USUAL, *options.samples)}
    shuffled = Random(0)
    fits: dict[int | None, list[Results]] = {samples: [] for samples in (None, *options.samples)}
    short = min(epochs, options.tracker_epochs)
    names = (NONE, *TRACKERS)
    logged: dict[str | None, list[Results]] = {name: [] for name in (None, *names)}
    for number in range(rounds):
        for samples in shuffled.sample(list(fits), len(fits)):
            tracker = None if samples is None else "disk"
            found = kept(number, "fit", samples=samples, tracker=tracker, epochs=epochs, **data)
            if "error" in found:
                raise RuntimeError(f"The fit with {samples} samples failed: {found['error']}")
            fits[samples].append(found)
        for name in shuffled.sample(list(logged), len(logged)):
            if name in NEEDED and importlib.util.find_spec(NEEDED[name]) is None:
                logged[name].append({"error": f"{NEEDED[name]} is not installed"})
                continue
            samples = None if name is None else USUAL
            tracker = name if name in TRACKERS else None
            logged[name].append(kept(number, "fit", samples=samples, tracker=tracker, epochs=short, **data))
    ends = {
        (samples, side): kept(0, "epoch_ends", samples=samples, side=side, rounds=options.end_rounds)
        for samples, side in dict.fromkeys(
            [(samples, options.side) for samples in options.samples] + [(USUAL, side) for side in options.sides]
        )
    }
    imports = {name: [import_time(sys.executable, text) for _ in range(4)][1:] for name, text in IMPORTS.items()}

    without = fits.pop(None)
    shown = steps(epochs)
    if options.chart is not None:
        cpu = {case: [medians(found["times"][name])[1] for name in ("epoch end", BARE)] for case, found in ends.items()}
        chart(
            options.chart,
            options.side,
            {samples: cpu[samples, options.side] for samples in options.samples},
            {side: cpu[USUAL, side] for side in options.sides},
            {n: [own_share(fits[n], e) for e in range(1, epochs + 1)] for n in options.samples},
        )
    cost_rows = [
        [
            str(samples),
            *(percent(own_share(runs, number)) for number in shown),
            percent(overhead(runs, without)),
            f"{np.median([run['MiB'] for run in runs]) - np.median([run['MiB'] for run in without]):+.0f}",
            str(max(run["traces"] for run in runs)),
        ]
        for samples, runs in fits.items()
    ]
    base = medians([run["epochs"][-1] for run in without])
    bare_rows = logged.pop(None)
    end_rows = [
        [f"{samples} of {side} x {side}", pair(np.median(ratios(found["times"], "epoch end"), axis=0))]
        + [f"{1000 * medians(found['times'][name])[1]:.0f}" for name in ("epoch end", BARE)]
        + [f"{found['MiB']:.0f}"]
        for (samples, side), found in ends.items()
    ]
    import_rows = [
        [name, pair(medians([spent for spent, _ in runs])), ", ".join(sorted(FRAMEWORKS & runs[0][1])) or "none"]
        for name, runs in imports.items()
    ]
    return "\n\n".join(
        [
            "# What the callback costs a fit",
            f"{machine()}. Written by `python benchmarks/fits.py --images {images} --epochs {epochs} --rounds {rounds}`"
            "; README.md says what is measured.",
            f"## By samples and epochs, % of the rest of the fit, wall / CPU, medians of {rounds} rounds",
            f"The demo's network on {images} images of 96 x 96. Without the callback {epochs} epochs take {base[0]:.1f}"
            f" s of wall and {base[1]:.1f} s of CPU time, and {np.median([run['MiB'] for run in without]):.0f} MiB.",
            table(
                [
                    "samples",
                    *(f"{number} epoch{'s' * (number > 1)}" for number in shown),
                    "difference of two fits",
                    "memory, MiB",
                    "traces",
                ],
                cost_rows,
            ),
            "## An epoch end of MobileNetV2 with the record on disk",
            table(
                ["images", "ratio to a bare pass, wall / CPU", "CPU ms", "CPU ms of the bare pass", "peak memory, MiB"],
                end_rows,
            ),
            f"## By tracker, {USUAL} samples, {short} epochs, wall / CPU",
            table(
                ["tracker", "start, s", "an epoch end, ms", "end of the fit, s", "memory, MiB", "KiB an epoch"],
                [tracker_row(name, runs, bare_rows, short) for name, runs in logged.items() if name is not None],
            ),
            "## Import in a fresh process, s wall / CPU",
            table(["", "s", "frameworks loaded"], import_rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", nargs="+", type=int, default=list(SAMPLES), help="how many are explained")
    parser.add_argument("--sides", nargs="+", type=int, default=list(SIDES), help="sizes of images at an epoch end")
    parser.add_argument("--side", type=int, default=224, help="size where samples are varied (224)")
    parser.add_argument("--images", type=int, default=512, help="images to train on (512)")
    parser.add_argument("--epochs", type=int, default=100, help="epochs of a fit (100)")
    parser.add_argument("--tracker-epochs", type=int, default=20, help="epochs of a fit for each tracker (20)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each fit runs (1)")
    parser.add_argument("--end-rounds", type=int, default=5, help="how often each epoch end runs (5)")
    parser.add_argument("--quick", action="store_true", help="10 epochs, 1 and 16 samples, two sizes")
    parser.add_argument("--kept", type=Path, help="file for what was measured so far (in the system's folder for such)")
    parser.add_argument("--anew", action="store_true", help="do not go on with an interrupted run")
    parser.add_argument("--chart", type=Path, help="file for the chart, such as docs/cost.png")
    parser.add_argument("--out", type=Path, help="file for the tables, such as benchmarks/fits.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs, options.samples, options.sides, options.end_rounds = 10, [1, USUAL], [96, 224], 3
        options.tracker_epochs = 5
    counts = ("images", "epochs", "tracker_epochs", "rounds", "end_rounds", "side")
    if min(*(getattr(options, name) for name in counts), *options.samples, *options.sides) < 1:
        parser.error("All numbers must be at least 1.")
    folder = hashlib.sha256(str(WORKER).encode()).hexdigest()[:8]
    path = options.kept or Path(tempfile.gettempdir()) / f"fits-{folder}.json"
    if options.anew:
        path.unlink(missing_ok=True)
    write(run(options, Kept(path)), options.out)
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
