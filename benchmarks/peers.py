"""What Grad-CAM costs here and in other libraries, side by side in one run, each in an environment of its own.

The environments are made below --envs with pinned versions, which takes some minutes, and are used again. Every first
call runs in a fresh process; later calls run in turn, one case at a time, in processes that are kept alive. What was
measured is kept below --envs until a run ends, so that one that was interrupted goes on where it was.

    python benchmarks/peers.py --envs ~/.cache/peers --out benchmarks/peers.md
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from environments import OURS, environment
from measuring import Seconds, import_time, machine, medians, pair, table, write

WORKER = Path(__file__).with_name("peer_worker.py")
# By peer: its name in the tables, its environment, and what a user of it imports.
PEERS = {
    OURS: ("keras_cam_callbacks", OURS, "import tensorflow, keras; from keras_cam_callbacks import GradCAMLogger"),
    "keras_io": ("keras.io example", OURS, "import tensorflow, keras"),
    "tf_explain": ("tf-explain 0.3.1", "tf_explain", "from tf_explain.core.grad_cam import GradCAM"),
    "tf_keras_vis": ("tf-keras-vis 0.8.7", "tf_keras_vis", "from tf_keras_vis.gradcam import Gradcam"),
    "xplique": ("Xplique 2.0.2", "xplique", "from xplique.attributions import GradCAM"),
}
LAYERS = {"VGG16": "block5_conv3", "ResNet50": "conv5_block3_out", "MobileNetV2": "out_relu"}
STATE = "measured.json"  # what a run has measured so far
INDEX = 7  # the class that all explain
SIZES = (16, 1)  # images at once
EQUAL = 1.05  # a ratio of CPU times that is none: the same case differs as much between runs
AGREES = 0.99  # correlation; Xplique's maps are enlarged by another cubic kernel
SLOW = {"keras_io"}  # image by image: later calls run in the first rounds only
SLOW_ROUNDS = 3
Answer = dict[str, Any]


class Worker:
    """A process that runs one peer.

    Args:
        python: The environment's interpreter.
        peer: Name of one of the functions in `peer_worker.py`.
    """

    def __init__(self, python: str, peer: str) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(
            [python, str(WORKER), peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    def ask(self, action: str, **arguments: Any) -> Answer:
        """Returns the answer to one request; a peer that failed, or whose process ended, gives {"error": ...}."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": action, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = [text for text in self._errors.read().splitlines() if text.strip()][-1:]
            return {"error": f"the process ended with {self._process.wait()}: {''.join(last)}"}
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()


@contextmanager
def working(python: str, peer: str, case: Answer) -> Iterator[Worker]:
    """Starts a process and has it load the model."""
    worker = Worker(python, peer)
    try:
        worker.ask("load", **case)
        yield worker
    finally:
        worker.close()


def prepare(model: str, folder: Path) -> None:
    """Writes weights and images that all peers share. The model ends in logits, which all explain."""
    if (folder / f"{model}_images.npy").exists():
        return
    import keras
    from subjects import MODELS, photographs, settle

    keras.utils.set_random_seed(0)
    built = MODELS[model](classifier_activation=None)
    images = photographs(built.input_shape[1:])
    settle(built, images)
    np.savez(folder / f"{model}.npz", **{f"{i:04d}": each for i, each in enumerate(built.get_weights())})
    np.save(folder / f"{model}_images.npy", images)


def agreement(mine: Any, other: Any) -> float:
    """Correlation of maps (N, h, w) with those of another size, of what is positive in both."""
    import cv2

    mine = np.maximum(mine, 0)
    if mine.shape != other.shape:
        mine = np.stack([cv2.resize(each, other.shape[:0:-1], interpolation=cv2.INTER_CUBIC) for each in mine])
    mine, other = np.maximum(mine, 0), np.maximum(other, 0)  # Enlarging goes below 0, too.
    return float(np.corrcoef(mine.ravel(), other.ravel())[0, 1])


def measure(
    pythons: dict[str, str], model: str, samples: int, starts: int, rounds: int, folder: Path, layer: str | None = None
) -> Answer:
    """Measures all peers on one model.

    Args:
        pythons: For each peer the interpreter of its environment.
        model: Name of the model, whose weights and images are in the folder.
        samples: How many images run at once.
        starts: How many fresh processes measure each first call.
        rounds: How often the later calls run.
        folder: Where weights and images are.
        layer: What is explained; None for the model's in LAYERS.

    Returns:
        For each peer "first" and "later", seconds of every run, "bare", those of the bare passes around each later
        one, and "agreement"; or "error". Under "starts" the same of a fit's start and of the first `predict`, each in
        a fresh process of its own, and behind the other.
    """
    case = {"model": model, "folder": str(folder), "samples": samples, "layer": layer or LAYERS[model], "index": INDEX}
    found: Answer = {peer: {"first": [], "later": [], "bare": []} for peer in pythons}
    orders = {
        "explain": (OURS, ("first", "predict")),
        "epoch": ("our_epochs", ("first", "predict")),
        "predict": (OURS, ("predict", "first")),
    }
    found["starts"] = {name: [] for name in orders}
    shuffled = Random(0)
    for _ in range(starts):
        for name in shuffled.sample(list(orders), len(orders)):
            runs, actions = orders[name]
            with working(pythons[OURS], runs, case) as worker:
                found["starts"][name].append([worker.ask(action).get("seconds") for action in actions])
        for peer in shuffled.sample(list(pythons), len(pythons)):
            with working(pythons[peer], peer, case) as worker:
                _note(found[peer], "first", worker.ask("first"))
    with ExitStack() as alive:
        workers = {}
        for peer in pythons:
            if "error" not in found[peer]:
                workers[peer] = alive.enter_context(working(pythons[peer], peer, case))
                workers[peer].ask("first")
                workers[peer].ask("forward")
                workers[peer].ask("later")
        for number in range(rounds):
            for peer in shuffled.sample(list(workers), len(workers)):
                if peer in SLOW and number >= SLOW_ROUNDS:
                    continue
                before, later, after = (workers[peer].ask(action) for action in ("forward", "later", "forward"))
                for key, answer in (("bare", before), ("later", later), ("bare", after)):
                    _note(found[peer], key, answer)
        for peer, worker in workers.items():
            worker.ask("save", path=str(folder / f"maps_{peer}.npy"))
            maps, mine = (np.load(folder / f"maps_{name}.npy") for name in (peer, OURS))
            found[peer]["agreement"] = agreement(mine, maps)
            found[peer]["versions"] = worker.ask("versions")
    return found


def _note(found: Answer, key: str, answer: Answer) -> None:
    if "error" in answer:
        found["error"] = answer["error"]
    else:
        found[key].append(answer["seconds"])


def later_ratio(found: Answer) -> Seconds:
    """The median over the rounds of a later call, as a ratio to the bare passes before and behind it."""
    bare = np.array(found["bare"]).reshape(-1, 2, 2).mean(axis=1)
    wall, cpu = np.median(np.array(found["later"]) / bare, axis=0)
    return float(wall), float(cpu)


def calls_until_less(mine: Answer, other: Answer) -> str:
    """From how many calls on, the first included, ours cost less CPU time than another's do together."""
    first, later = (medians(mine[key])[1] - medians(other[key])[1] for key in ("first", "later"))
    if first <= 0:
        return "1" if later <= 0 else "1, not always"
    return "never" if later >= 0 else str(int(np.ceil(first / -later)) + 1)


def _rows(cases: dict[str, Answer], peers: Sequence[str], cell: Any) -> list[list[str]]:
    return [
        [PEERS[peer][0], *("fails" if "error" in case[peer] else cell(case, peer) for case in cases.values())]
        for peer in peers
    ]


def _verdict(cases: dict[str, Answer], peers: Sequence[str]) -> str:
    """Says where ours is not the best."""
    worse = []
    cpus = {
        "first call": lambda found: medians(found["first"])[1],
        "later calls": lambda found: later_ratio(found)[1],
    }
    for words, cpu in cpus.items():
        for model, case in cases.items():
            found = {peer: cpu(case[peer]) for peer in peers if "error" not in case[peer]}
            best = min(found, key=lambda peer: found[peer])
            if found[OURS] > EQUAL * found[best]:
                worse.append(f"the {words} on {model}: {found[OURS] / found[best]:.2f} times {PEERS[best][0]}")
    least = f"Ours takes at most {EQUAL} times the CPU time of the best on each model"
    return f"{least}, but for {'; '.join(worse)}." if worse else f"{least}, in the first call and in later ones."


def start_rows(cases: dict[str, Answer]) -> list[list[str]]:
    """The start of ours next to the first `predict`, by model."""
    rows = []
    for model, case in cases.items():
        starts = {name: np.array(runs, float) for name, runs in case["starts"].items()}  # (runs, 2 actions, 2 clocks)
        predict, explain, epoch = (np.median(starts[name][:, 0], axis=0) for name in ("predict", "explain", "epoch"))
        then_predict = np.median(starts["explain"][:, 1], axis=0)
        then_explain = np.median(starts["predict"][:, 1], axis=0)
        values = (predict, explain / predict, epoch / predict, then_predict / predict, then_explain / predict)
        rows.append([model, *map(pair, values)])
    return rows


def report(kept: Answer, imports: dict[str, list[Seconds]], starts: int, rounds: int) -> str:
    """Writes the results as Markdown."""
    parts = [
        "# What Grad-CAM costs, here and in other libraries",
        f"{machine()}. Written by `python benchmarks/peers.py --envs FOLDER --starts {starts} --rounds {rounds}`; "
        "README.md says what is measured.",
    ]
    every: dict[str, str] = {}
    versions: dict[str, Answer] = {}
    for samples in dict.fromkeys(case["samples"] for case in kept.values()):
        cases = {case["model"]: case["found"] for case in kept.values() if case["samples"] == samples}
        peers = [peer for peer in PEERS if peer in next(iter(cases.values()))]
        head = ["", *cases]
        for case in cases.values():
            every |= {peer: case[peer]["error"] for peer in peers if "error" in case[peer]}
            versions |= {peer: case[peer]["versions"] for peer in peers if "versions" in case[peer]}
        slow = f" ({SLOW_ROUNDS} of the keras.io example)" if SLOW.intersection(peers) and rounds > SLOW_ROUNDS else ""
        images = f"{samples} images" if samples > 1 else "one image"
        firsts = _rows(cases, peers, lambda case, peer: pair(medians(case[peer]["first"])))
        laters = _rows(cases, peers, lambda case, peer: pair(later_ratio(case[peer])))
        until = _rows(cases, peers[1:], lambda case, peer: calls_until_less(case[OURS], case[peer]))
        agree = _rows(cases, peers[1:], lambda case, peer: f"{case[peer]['agreement']:.4f}")
        for model, case in cases.items():
            low = [peer for peer in peers if case[peer].get("agreement", 1.0) < AGREES]
            for peer in low:
                every[peer] = f"its maps of {model} agree by {case[peer]['agreement']:.3f} only"
        parts += [
            f"## {images[0].upper()}{images[1:]}",
            _verdict(cases, peers),
            f"First call in a fresh process, s wall / CPU, medians of {starts}:",
            table(head, firsts),
            f"Later calls, as ratios to a bare forward pass in the same process, wall / CPU, medians of {rounds} rounds"
            f"{slow}:",
            table(head, laters),
            "From how many calls on, the first included, ours take less CPU time in sum:",
            table(head, until),
            "Correlation of the maps with ours:",
            table(head, agree),
            "A start next to the model's first `predict` of the same images, each in a fresh process, s and ratios, "
            "wall / CPU:",
            table(
                [
                    "",
                    "first `predict`, s",
                    "start and first maps",
                    "start and first epoch end",
                    "`predict` behind the maps",
                    "maps behind `predict`",
                ],
                start_rows(cases),
            ),
        ]
    rows = [[PEERS[peer][0], pair(medians(runs))] for peer, runs in imports.items()]
    parts += ["## Import, s wall / CPU, TensorFlow included", table(["", "s"], rows), "## Versions"]
    parts.append(
        "\n".join(
            f"- {PEERS[peer][0]}: {', '.join(f'{name} {number}' for name, number in found.items())}"
            for peer, found in versions.items()
        )
    )
    if every:
        parts += ["## What failed", "\n".join(f"- {PEERS[peer][0]}: {error}" for peer, error in every.items())]
    return "\n\n".join(parts)


def run(pythons: dict[str, str], models: Sequence[str], options: argparse.Namespace) -> str:
    """Measures all that is not yet kept; returns the report."""
    state = options.envs / STATE
    settings = [options.starts, options.rounds, sorted(pythons)]
    kept: Answer = {}
    if state.exists():
        found = json.loads(state.read_text(encoding="utf-8"))
        kept = found["kept"] if found["settings"] == settings and not options.anew else {}
    imports: dict[str, list[Seconds]] = {peer: [] for peer in pythons}
    for _ in range(options.starts + 1):
        for peer, python in pythons.items():
            imports[peer].append(import_time(python, PEERS[peer][2])[0])
    imports = {peer: runs[1:] for peer, runs in imports.items()}  # The first one reads the files from the disk.
    wanted = {f"{model}, {samples}": (model, samples) for model in models for samples in options.samples}
    for name, (model, samples) in wanted.items():
        if name in kept:
            print(f"{name}: measured before, at {kept[name]['at']}", flush=True)
            continue
        data = options.envs / "data"
        data.mkdir(exist_ok=True)
        prepare(model, data)
        found = measure(pythons, model, samples, options.starts, options.rounds, data)
        kept[name] = {"model": model, "samples": samples, "found": found, "at": time.strftime("%Y-%m-%d %H:%M")}
        state.write_text(json.dumps({"settings": settings, "kept": kept}), encoding="utf-8")
        told = {p: f"{medians(found[p]['first'])[1]:.2f}" for p in pythons if "error" not in found[p]}
        print(f"{name}: CPU s of the first call: {told}", flush=True)
    return report({name: kept[name] for name in wanted}, imports, options.starts, options.rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=Path, required=True, help="folder for the environments, some 11 GB")
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=LAYERS, help="which models (all)")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, help="which peers besides ours (all)")
    parser.add_argument("--samples", nargs="+", type=int, default=list(SIZES), help="images at once (16 1)")
    parser.add_argument("--starts", type=int, default=3, help="fresh processes for each first call (3)")
    parser.add_argument("--rounds", type=int, default=7, help="how often later calls run (7)")
    parser.add_argument("--quick", action="store_true", help="MobileNetV2 only, one start, three rounds")
    parser.add_argument("--anew", action="store_true", help="do not go on with an interrupted run")
    parser.add_argument("--out", type=Path, help="file for the tables, such as benchmarks/peers.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.starts, options.rounds = ["MobileNetV2"], 1, 3
    if min(options.starts, options.rounds, *options.samples) < 1 or max(options.samples) > 16:
        parser.error("--starts and --rounds must be at least 1, --samples from 1 to 16.")
    options.envs = options.envs.expanduser().absolute()
    options.envs.mkdir(parents=True, exist_ok=True)
    made = {name: environment(options.envs, name) for name in {PEERS[peer][1]: None for peer in (OURS, *options.peers)}}
    pythons = {peer: made[PEERS[peer][1]] for peer in dict.fromkeys((OURS, *options.peers))}
    write(run(pythons, options.models, options), options.out)
    (options.envs / STATE).unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
