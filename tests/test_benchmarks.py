"""The benchmark runs and reports all that it promises; how fast things are is not tested."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from models import functional, images, reference_gradcam

from keras_cam_callbacks import METHODS
from keras_cam_callbacks.methods import cams

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
        benchmark.NAIVE,
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


def test_bare_pass_and_naive_loop_compute_what_they_are_compared_for(benchmark):
    split = functional(units=1, activation=None)
    x = images()
    np.testing.assert_allclose(benchmark.bare_pass(split.model, x)(), split.model.predict(x, verbose=0), atol=1e-6)
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
        "occlusion": "does not fit this model",  # which takes images smaller than the window
        "rise": "1000 forward",
    }
    for name, row in rows.items():
        if name != "occlusion":
            assert all(float(number) > 0 for cell in row[1:] for number in cell.split(" / "))


def test_the_needed_passes_by_hand():
    methods = loaded("methods")
    times = {methods.BARE: [(1, 2)] * 3, methods.GRADIENT: [(3, 8)], "case": [(14, 60)]}
    # 1 + 3 forward passes and 2 gradients are 4 + 2 * 3 and 4 + 2 * 4 bare passes.
    counts = {"forward": 3, "forward and backward": 2, "behind the layer": 9}
    assert methods.to_definition(times, "case", counts) == "1.40 / 2.50"
