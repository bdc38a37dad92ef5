"""The benchmark runs and reports all that it promises; how fast things are is not tested."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from models import functional, images, reference_gradcam
from tapes import gradient

from keras_cam_callbacks import METHODS
from keras_cam_callbacks.methods import cams

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TRACKERS = ("none", "memory", "disk", "tensorboard", "wandb")


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch):
    """The scripts import each other, as they can where they are run."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def benchmark():
    return loaded("epoch_end")


@pytest.fixture
def measuring():
    return loaded("measuring")


def tiny():
    keras.utils.set_random_seed(0)
    return functional().model


def tables(text):
    """The tables below each heading: {heading: {first cell: other cells}}, the line of names under ""."""
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        lines = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
        rows = [[part.strip() for part in line] for line in lines if "---" not in line[0]]
        found[section.splitlines()[0]] = {row[0]: row[1:] for row in rows}
    return found


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_all_rows_are_there(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(benchmark.MODELS, "Tiny", tiny)
    out = tmp_path / "results.md"
    benchmark.main(["--rounds", "1", "--models", "Tiny", "--out", str(out)])
    text = out.read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith(text)
    ratios, once, methods, logging = tables(text).values()

    assert set(ratios) - {"Tiny"} == {
        *(f"epoch end, tracker: {name}" for name in TRACKERS),
        benchmark.CAPTURE,
        benchmark.EXPLAIN,
        benchmark.LOOP,
        *([benchmark.NAIVE] if keras.backend.backend() == "tensorflow" else []),
        "bare pass, quartiles",
        "ms of the bare pass",
        "CPU s of the bare pass",
    }
    assert set(methods) - {"ratio"} == {n for n, m in METHODS.items() if m.function.__module__ == cams.__name__}
    for values in (*methods.values(), *(ratios[name] for name in set(ratios) - {"Tiny", "bare pass, quartiles"})):
        assert all(float(number) >= 0 for value in values for number in value.split(" / "))
    assert once["Tiny"][0] == "conv2"
    assert once["Tiny"][3] == "1"
    assert set(logging) - {"ms"} == {
        "draw the overlays",
        "encode them as JPEG",
        *(f"log to {name}" for name in ("disk", "tensorboard", "wandb")),
    }


def test_cases_run_in_turn_and_a_slow_one_less_often(measuring):
    ran = []
    names = (measuring.BARE, "a", "b", "slow")
    times = measuring.in_turn({name: lambda name=name: ran.append(name) for name in names}, 5, {"slow": 3})
    assert {name: len(runs) for name, runs in times.items()} == dict(zip(names, (15, 5, 5, 3), strict=True))
    assert len(ran) == 3 + 2 + 15 + 5 + 5 + 3
    first, last = ran[:5], ran[-5:]
    for order in (first, last):
        assert [name for name in order if name in "ab"] in (["a", "b"], ["b", "a"])
        assert order[0] == order[-1] == measuring.BARE


def test_a_ratio_is_taken_within_a_round(measuring):
    bare = [(1, 4), (1, 5), (4, 6), (10, 20), (20, 30), (30, 10)]  # means (2, 5) and (20, 20)
    times = {measuring.BARE: bare, "case": [(3, 10), (10, 60)], "slow": [(20, 5)]}
    np.testing.assert_allclose(measuring.ratios(times, "case"), [(1.5, 2), (0.5, 3)])
    np.testing.assert_allclose(measuring.ratios(times, "slow"), [(10, 1)])
    assert measuring.cell(times, "case") == "1.00 / 2.50"
    # Walls over their means: 0.5, 0.5, 2, 0.5, 1, 1.5; CPU: 0.8, 1, 1.2, 1, 1.5, 0.5.
    assert measuring.spread(times) == "0.50–1.38 / 0.85–1.15"


def test_bare_passes_compute_what_they_are_compared_for(benchmark):
    split = functional(units=1, activation=None)
    x = images()
    np.testing.assert_allclose(benchmark.bare_pass(split.model, x)(), split.model.predict(x, verbose=0), atol=1e-6)
    slopes = loaded("methods").bare_gradient(split.model, x)()
    expected = gradient(lambda inputs: split.model(inputs, training=False)[:, 0], x)
    np.testing.assert_allclose(slopes, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.only_on("tensorflow", reason="the usual loop is run under TensorFlow's tape")
def test_the_naive_loop_computes_what_it_is_compared_for(benchmark):
    split = functional(units=1, activation=None)
    x = images()
    maps = benchmark.naive_loop(split.model, x, split.layer)
    expected = reference_gradcam(split, x, lambda logits: logits[:, 0])
    np.testing.assert_allclose(maps, expected, atol=1e-5 * np.abs(expected).max())


def test_wrong_rounds(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--rounds", "0"])
    assert "--rounds must be at least 1. Received: 0." in capsys.readouterr().err


def test_methods_are_counted_and_compared_with_what_they_need(tmp_path, monkeypatch, capsys):
    methods = loaded("methods")
    names = ("gradcam", "smoothgrad", "integrated_gradients", "scorecam", "ablationcam", "occlusion", "rise")
    monkeypatch.setattr(methods, "METHODS", {name: METHODS[name] for name in names})
    monkeypatch.setitem(methods.MODELS, "Tiny", tiny)
    out = tmp_path / "methods.md"
    methods.main(["--rounds", "1", "--model", "Tiny", "--out", str(out)])
    assert capsys.readouterr().out.endswith(out.read_text(encoding="utf-8"))
    lines = [line for line in out.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:5]] for line in lines}
    assert {name: row[0] for name, row in rows.items()} == {
        "gradcam": "–",
        "smoothgrad": "25 forward and backward",
        "integrated_gradients": "1 forward, 32 forward and backward",
        "scorecam": "5 forward",  # as many as channels
        "ablationcam": "5 behind the layer",
        "occlusion": "3 forward",  # as many as windows
        "rise": "1000 forward",
    }
    for row in rows.values():
        assert all(float(number) > 0 for cell in row[1:] for number in cell.split(" / "))


def test_the_needed_passes_by_hand():
    methods = loaded("methods")
    times = {methods.BARE: [(1, 2)] * 3, methods.GRADIENT: [(3, 8)], "case": [(14, 60)]}
    # 1 + 3 forward passes and 2 gradients are 4 + 2 * 3 and 4 + 2 * 4 bare passes.
    counts = {"forward": 3, "forward and backward": 2, "behind the layer": 9}
    assert methods.to_definition(times, "case", counts) == "1.40 / 2.50"


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_the_table_of_frozen_bases(tmp_path, monkeypatch, capsys):
    benchmark = loaded("frozen")
    parts = tiny()
    base = keras.Model(parts.input, parts.get_layer("pool").output, name="base")
    monkeypatch.setitem(benchmark.BASES, "Tiny", lambda: base)
    out = tmp_path / "frozen.md"
    benchmark.main(["--rounds", "1", "--models", "Tiny", "--out", str(out)])
    text = out.read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith(text)
    ratios, kept = tables(text).values()
    names = (benchmark.WHOLE, benchmark.MAPS, benchmark.CHECK, *benchmark.CASES.values())
    assert all(float(number) >= 0 for name in names for number in ratios[name][0].split(" / "))
    assert kept["Tiny"][0] == "base/conv2"
    assert int(kept["Tiny"][2]) == len(base.variables) == 4


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras' own, in saving
@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_a_gpu_is_measured_and_its_maps_are_compared(tmp_path, monkeypatch, capsys):
    """Here on the CPU: the same weights, the same maps."""
    gpu, subjects, frozen = loaded("gpu"), importlib.import_module("subjects"), importlib.import_module("frozen")
    parts = tiny()
    base = keras.Model(parts.input, parts.get_layer("pool").output, name="base")
    monkeypatch.setitem(subjects.MODELS, "Tiny", tiny)
    monkeypatch.setitem(frozen.BASES, "Tiny", lambda: base)
    ours, theirs = gpu.measure("Tiny", tmp_path, 1), gpu.measure("Tiny", tmp_path, 0)
    assert (tmp_path / "Tiny.weights.h5").exists()
    assert gpu.worst(ours["maps"], theirs["maps"]) < 1e-6
    assert gpu.worst([1.0, 2.0], [1.0, 4.0]) == 0.5
    for case in gpu.CASES:
        assert all(float(number) > 0 for number in ours["cells"][case].split(" / "))
    if not gpu.sees_gpu():
        assert gpu.peak() is None
        with pytest.raises(SystemExit):
            gpu.main(["--worker", "gpu", "--weights", str(tmp_path)])
        assert "sees no GPU" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*heatmaps explain nothing")
def test_the_table_of_backends(tmp_path, monkeypatch):
    benchmark, subjects = loaded("backends"), importlib.import_module("subjects")
    parts = tiny()
    base = keras.Model(parts.input, parts.get_layer("pool").output, name="base")
    monkeypatch.setitem(subjects.MODELS, "Tiny", lambda classifier_activation: functional(activation=None).model)
    monkeypatch.setitem(importlib.import_module("frozen").BASES, "Tiny", lambda: base)
    monkeypatch.setattr(benchmark, "SHAPE", parts.input_shape[1:])
    result = benchmark.measured("Tiny", 1, tmp_path)
    assert result["layer"] == "conv2"
    for what in benchmark.FIRSTS:
        result[what] = benchmark.first("Tiny", what, tmp_path / what)
    backend = keras.backend.backend()
    (ratios,) = tables(benchmark.report(1, 1, {(backend, "Tiny"): result}, {backend: "a machine"})).values()
    assert f"Tiny, {backend}" in ratios
    for name in (benchmark.END, benchmark.FROZEN, "first epoch end to first `predict`"):
        assert all(float(number) > 0 for number in ratios[name][0].split(" / "))


def in_process(worker):
    """Stands in for the pipe to a process, which takes long to start: the same requests and answers, in this one."""

    class Worker:
        def __init__(self, python, peer):
            self.worker = worker.Worker(peer)

        def ask(self, action, **arguments):
            return json.loads(json.dumps(worker.answered(self.worker, {"do": action, **arguments})))

        def close(self):
            pass

    return Worker


def peer_data(folder):
    """Writes a model of logits, and images, as `prepare` does; returns what `load` takes."""
    split = functional(activation=None)
    split.model.save(folder / "Tiny.keras")
    np.save(folder / "Tiny_images.npy", images())
    return {"model": "Tiny", "folder": str(folder), "samples": 2, "layer": split.layer, "index": 1}


@pytest.mark.only_on("tensorflow", reason="the peers are libraries for TensorFlow, compared with us there")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras' own, in saving
def test_peers_are_measured_on_the_same_model_and_their_faults_are_told(tmp_path, monkeypatch, capsys):
    peers, worker = loaded("peers"), loaded("peer_worker")
    case = peer_data(tmp_path)
    monkeypatch.setattr(peers, "Worker", in_process(worker))
    monkeypatch.setattr(peers, "INDEX", 1)
    pythons = dict.fromkeys(("ours", "keras_io", "tf_explain"), "python")
    found = peers.measure(pythons, "Tiny", 2, 2, 4, tmp_path, case["layer"])
    assert found["tf_explain"]["error"] == "ModuleNotFoundError: No module named 'tf_explain'"
    for peer, later in (("ours", 4), ("keras_io", peers.SLOW_ROUNDS)):
        assert [len(found[peer][key]) for key in ("first", "later", "bare")] == [2, later, 2 * later]
        assert found[peer]["agreement"] == pytest.approx(1, abs=1e-5)
        assert found[peer]["versions"]["keras"] == keras.__version__
    assert np.shape([found["starts"][name] for name in ("explain", "epoch", "predict")]) == (3, 2, 2, 2)

    kept = {"Tiny, 2": {"model": "Tiny", "samples": 2, "found": found}}
    text = peers.report(kept, {"ours": [(1.0, 2.0)]}, 2, 4)
    assert "- tf-explain 0.3.1: ModuleNotFoundError: No module named 'tf_explain'" in text
    assert [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| tf-explain")] == [
        "fails"
    ] * 4
    assert text.count("| keras.io example |") == 4
    assert "| keras_cam_callbacks | 1.00 / 2.00 |" in text
    capsys.readouterr()  # the traceback of what failed


@pytest.mark.only_on("tensorflow", reason="the peers are libraries for TensorFlow, compared with us there")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras' own, in saving
def test_a_peer_answers_through_the_pipe_of_its_process(tmp_path):
    peers = loaded("peers")
    case = peer_data(tmp_path)
    worker = peers.Worker(sys.executable, "ours")
    try:
        assert worker.ask("fly")["error"] == "AttributeError: 'Worker' object has no attribute 'fly'"
        assert worker.ask("load", **case) == {}
        for action in ("first", "later", "forward", "predict"):
            wall, cpu = worker.ask(action)["seconds"]
            assert wall > 0
            assert cpu >= 0
        worker.ask("save", path=str(tmp_path / "maps.npy"))
        worker._process.kill()
        assert worker.ask("later")["error"].startswith("the process ended with ")
    finally:
        worker.close()
    split = functional(activation=None)
    split.model.load_weights(tmp_path / "Tiny.keras")
    expected = reference_gradcam(split, images()[:2], lambda logits: logits[:, 1])
    np.testing.assert_allclose(np.load(tmp_path / "maps.npy"), expected, atol=1e-5 * np.abs(expected).max())


def test_from_how_many_calls_on_ours_cost_less():
    peers = loaded("peers")

    def calls(mine, other):
        mine, other = ({"first": [(0, first)], "later": [(0, later)]} for first, later in (mine, other))
        return peers.calls_until_less(mine, other)

    assert calls((1, 1), (2, 2)) == "1"
    assert calls((1, 2), (2, 1)) == "1, not always"
    assert calls((2, 2), (1, 1)) == "never"
    assert calls((9, 1), (3, 3)) == "4"  # 9 + 3 * 1 and 3 + 3 * 3


def test_the_verdict_names_where_another_is_better():
    peers = loaded("peers")

    def case(ours, other):
        return {
            peer: {"first": [(9, first)], "later": [(9, later)], "bare": [(1, 1), (1, 1)]}
            for peer, (first, later) in {"ours": ours, "xplique": other}.items()
        }

    least = "Ours takes at most 1.05 times the CPU time of the best on each model"
    cases = {"A": case((1, 1.04), (2, 1)), "B": case((1, 1), (1, 3))}
    assert peers._verdict(cases, ("ours", "xplique")) == f"{least}, in the first call and in later ones."
    cases |= {"C": case((3, 1), (2, 1)), "D": case((1, 3), (1, 1.5))}
    worse = "the first call on C: 1.50 times Xplique 2.0.2; the later calls on D: 2.00 times Xplique 2.0.2"
    assert peers._verdict(cases, ("ours", "xplique")) == f"{least}, but for {worse}."
    cases = {"A": {**case((1, 1), (1, 1)), "xplique": {"error": "..."}}}
    assert peers._verdict(cases, ("ours", "xplique")) == f"{least}, in the first call and in later ones."


def test_maps_of_other_sizes_are_compared_by_what_is_positive():
    peers = loaded("peers")
    maps = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    assert peers.agreement(maps, np.maximum(maps, 0) * 5) == pytest.approx(1)
    larger = np.stack([cv2.resize(np.maximum(each, 0), (8, 6), interpolation=cv2.INTER_CUBIC) for each in maps])
    assert peers.agreement(maps, larger) == pytest.approx(1)
    assert peers.agreement(maps, -maps) < 0


def test_environments_pin_what_they_install_and_ours_needs_what_it_says():
    environments = loaded("environments")
    every = [environments.PINNED, *(line for lines in environments.ENVIRONMENTS.values() for line in lines)]
    assert all("==" in item or item == "--no-deps" for line in every for item in line)
    assert {line.partition(">")[0] for line in environments._own()} == {
        "filelock",
        "jinja2",
        "pillow",
        "tensorboard",
        "wandb",
    }


def test_whole_fits_are_measured_with_each_tracker(tmp_path, monkeypatch, capsys):
    fits, worker = loaded("fits"), loaded("fit_worker")
    subjects = importlib.import_module("subjects")
    monkeypatch.setitem(subjects.MODELS, "MobileNetV2", lambda input_shape: functional(shape=input_shape).model)
    monkeypatch.setattr(fits, "IMPORTS", {"package": "import keras_cam_callbacks"})
    monkeypatch.setattr(fits, "USUAL", 2)
    monkeypatch.setattr(fits, "TRACKERS", {name: fits.TRACKERS[name] for name in ("disk", "memory", "wandb")})
    monkeypatch.setattr(fits, "NEEDED", {"memory": "a_package_that_nobody_has"})
    asked = []

    def ask(kind, **arguments):
        asked.append((kind, arguments))
        return json.loads(json.dumps({"fit": worker.fit, "epoch_ends": worker.epoch_ends}[kind](**arguments)))

    monkeypatch.setattr(fits, "ask", ask)
    command = ["--images", "32", "--epochs", "2", "--tracker-epochs", "2", "--samples", "2", "--end-rounds", "1"]
    command += ["--sides", "16", "--side", "16", "--kept", str(tmp_path / "kept.json")]
    command += ["--out", str(tmp_path / "fits.md"), "--chart", str(tmp_path / "cost.png")]
    fits.main(command)
    text = (tmp_path / "fits.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith(text)
    by_samples, ends, by_tracker, imports = tables(text).values()
    assert list(by_samples) == ["samples", "2"]
    assert len(by_samples["2"]) == len(steps := [1, 2]) + 3
    assert all(len(cell.split(" / ")) == 2 for cell in by_samples["2"][: len(steps) + 1])
    assert by_samples["2"][-1] == "1"
    assert set(ends) == {"images", "2 of 16 x 16"}
    assert set(by_tracker) == {"tracker", "`none`", *(f"`{name}`" for name in fits.TRACKERS)}
    assert by_tracker["`memory`"][0] == "passed over: a_package_that_nobody_has is not installed"
    assert all(float(number) >= 0 for number in by_tracker["`disk`"][1].split(" / "))
    assert float(by_tracker["`disk`"][-1]) > 0 == float(by_tracker["`none`"][-1])
    assert imports["package"][1] == "none"
    assert cv2.imread(str(tmp_path / "cost.png")).shape[1] > 1000

    assert len(asked) == 5  # four fits, for those with the record on disk are one case in both tables; one epoch end
    assert not (tmp_path / "kept.json").exists()


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, capsys):
    fits = loaded("fits")
    asked = []
    monkeypatch.setattr(fits, "ask", lambda kind, **arguments: asked.append(arguments) or {"MiB": len(asked)})
    for _ in range(2):  # As by two processes.
        kept = fits.Kept(tmp_path / "kept.json")
        assert [kept(number, "fit", samples=samples) for number, samples in ((0, 1), (1, 1), (0, 2), (0, 1))] == [
            {"MiB": number} for number in (1, 2, 3, 1)
        ]
    assert len(asked) == 3
    capsys.readouterr()


def test_what_a_fit_costs_by_hand():
    fits = loaded("fits")
    without = [{"epochs": [(1.0, 2.0), (2.0, 4.0)]}, {"epochs": [(2.0, 2.0), (4.0, 4.0)]}]
    runs = [
        {"epochs": [(1.5, 3.0), (3.0, 5.0)], "own": [(0.5, 1.0), (0.75, 1.25)]},
        {"epochs": [(2.0, 2.0), (5.0, 6.0)], "own": [(0.0, 0.0), (1.0, 1.0)]},
    ]
    assert fits.overhead(runs, without) == (0.375, 0.375)
    assert fits.own_share(runs, 1) == (0.25, 0.25)
    assert fits.own_share(runs, 2) == ((1 / 3 + 1 / 4) / 2, (1 / 3 + 1 / 5) / 2)
    assert fits.steps(100) == [1, 10, 100]
    assert fits.steps(5) == [1, 5]


def test_a_fit_that_fails_is_told_by_its_last_words():
    assert loaded("fits").ask("fly") == {"error": "KeyError: 'fly'"}


@pytest.mark.filterwarnings("ignore:Grad-CAM averages")
def test_transformers_are_trained_and_timed(tmp_path, monkeypatch):
    tokens = loaded("tokens")
    small = tokens.transformer
    monkeypatch.setattr(
        tokens,
        "transformer",
        lambda side, patch, *rest, **more: small(side, patch if side == tokens.SIDE else 32, 16, 2, 2, 10, **more),
    )
    out = tmp_path / "tokens.md"
    tokens.main(["--rounds", "1", "--epochs", "1", "--scenes", "64", "--images", "2", "--out", str(out)])
    _, attention, *layers, cost = tables(out.read_text(encoding="utf-8")).values()
    assert len(layers) == len(tokens.LAYERS)
    # Behind the last norm the class token alone goes to the score.
    assert [layers[-1][f"`{name}`"][0] for name in tokens.OF_LAYERS] == ["– / – / 64"] * 3
    cells = [cell for table in (attention, *layers) for name, row in table.items() if name != "method" for cell in row]
    assert len(cells) == 2 * (len(tokens.OF_ATTENTION) + len(tokens.OF_LAYERS) * len(tokens.LAYERS))
    for energy, pointing, empty in (cell.split(" / ") for cell in cells if "–" not in cell):
        assert 0 <= float(energy) <= 1
        assert 0 <= float(pointing) <= 1
        assert 0 <= int(empty) <= 64
    for name in ("gradcam", *tokens.OF_ATTENTION):
        assert all(float(number) > 0 for number in cost[f"`{name}`"][0].split(" / "))
