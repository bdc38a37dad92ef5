"""The notebooks run from the first cell to the last, and are stored with small outputs of the code that they have."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

SPEC = importlib.util.spec_from_file_location("execute", Path(__file__).parents[1] / "notebooks" / "execute.py")
execute = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(execute)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"


def nothing_more(printed, folder):
    pass


def quickstart(printed, folder):
    assert re.findall(r"step (\d+), epoch (\d+)", printed) == [("0", "0"), ("1", "0")]
    assert len(list(folder.glob("logs/*/gradcam/manifest.json"))) == 3


def methods(printed, folder):
    rows = re.findall(r"^(\S+) +(0\.\d\d)  █*$", printed, re.MULTILINE)
    assert len(rows) == 22
    gaps = re.findall(r"^(\w+): largest completeness gap (\d+\.\d)%", printed, re.MULTILINE)
    assert [name for name, _ in gaps] == ["integrated_gradients", "fullgrad"]
    assert float(gaps[1][1]) == 0
    assert [float(value) for _, value in rows] == sorted((float(value) for _, value in rows), reverse=True)


def retina(printed, folder):
    numbers = dict(re.findall(r"^(\w+) +(-?\d+\.\d\d)", printed, re.MULTILINE))
    for augmentation in ("flip", "rotation", "brightness_contrast", "crop_and_resize", "cut_out", "sun_flare", "all"):
        assert -1 <= float(numbers[f"{augmentation}_correlation"]) <= 1
        assert 0 <= float(numbers[f"{augmentation}_unchanged"]) <= 1
    assert re.search(
        r"chosen: densenet121/relu \(20, 2, 2\)\nnamed:  densenet121/conv4_block24_concat \(20, 4, 4\)", printed
    )
    assert len(re.findall(r"heat on the disc \d\.\d\d, disc's area \d\.\d\d", printed)) == 2


def compare_runs(printed, folder):
    rows = re.findall(r"^ +(\d) +(\d\.\d\d) +(\d\.\d\d) +(\d\.\d\d) +(\d\.\d\d)$", printed, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "1"]
    assert {"honest", "shortcut"} <= set(re.findall(r"'run': '(\w+)'", printed))
    assert (folder / "logs" / "report.html").stat().st_size > 1e6


def transformer(printed, folder):
    chance = float(re.search(r"without any preference has (0\.\d\d)", printed)[1])
    last = re.findall(r"^epoch +\d+ +accuracy (\d\.\d\d) .* hirescam (\d\.\d\d), ", printed, re.MULTILINE)[-1]
    accuracy, energy = map(float, last)
    assert accuracy > 0.7
    assert energy > 4 * chance
    shares = dict(re.findall(r"^(\w+) +heat on the digit (\d\.\d\d) +peak", printed, re.MULTILINE))
    assert list(shares) == ["gradcam", "hirescam", "attention_rollout", "attention_relevance"]
    assert float(shares["hirescam"]) > 4 * chance
    assert float(shares["attention_relevance"]) > 3 * chance
    assert (folder / "logs").is_dir()


@dataclass
class Notebook:
    """How a notebook is tested.

    Attributes:
        parameters: Smaller values for what the cell tagged "parameters" sets.
        pictures: How many pictures it shows.
        said: A text that it prints.
        check: Looks further, at all that was printed and at the folder that it ran in.
    """

    parameters: dict[str, int | str]
    pictures: int
    said: str
    check: Callable[[str, Path], None] = nothing_more


NOTEBOOKS = {
    "quickstart": Notebook({"IMAGES": 200, "EPOCHS": 2}, 6, "explained layer: base/relu_4", quickstart),
    "methods": Notebook({"IMAGES": 200, "EPOCHS": 1, "COPIES": 3, "MEASURED": 2}, 7, "(no preference)", methods),
    "compare_runs": Notebook({"IMAGES": 200, "EPOCHS": 2}, 2, "stopped after 2 of 2 epochs", compare_runs),
    "retina": Notebook(
        {"CROPS": 10, "EPOCHS": 1, "BATCH": 5, "SIDE": 64, "OPTIMIZER": "sgd"},
        4,
        "explained layer: densenet121/relu",
        retina,
    ),
    # Trained for nearly as long as it stands there, or its heat would be nowhere.
    "transformer": Notebook({"EPOCHS": 10}, 3, "explained layer: norm_0", transformer),
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_stored_with_small_outputs_of_its_code(name):
    notebook = read(name)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    if not outputs:
        pytest.skip("`make notebooks` has stored no outputs yet")
    assert notebook.metadata["outputs_of"] == execute.digest(notebook), "`make notebooks` stores what the code puts out"
    assert len([output for output in outputs if "image/jpeg" in output.get("data", {})]) >= 2
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    assert len(text) < 300_000
    assert re.findall(r"/(?:home|tmp|root|work|Users)/\w+", text) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    expected, notebook = NOTEBOOKS[name], read(name)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    for parameter, value in expected.parameters.items():
        assert re.search(rf"\b{parameter}\b.* = ", cell.source)
        cell.source += f"\n{parameter} = {value!r}"
    execute.execute(notebook, tmp_path, timeout=240)

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if {"image/jpeg", "image/png"} & set(output.get("data", {}))]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert len(pictures) == expected.pictures
    assert expected.said in printed
    expected.check(printed, tmp_path)
