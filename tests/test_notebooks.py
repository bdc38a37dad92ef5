"""The notebooks run from the first cell to the last, and are stored without outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.fixture
def quickstart():
    return nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)


def test_is_stored_without_outputs(quickstart):
    code = [cell for cell in quickstart.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_quickstart_runs(quickstart, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (parameters,) = (cell for cell in quickstart.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source, replaced = re.subn(r"= 4500, 10, ", "= 200, 2, ", parameters.source)
    assert replaced == 1
    NotebookClient(
        quickstart, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    outputs = [output for cell in quickstart.cells for output in cell.get("outputs", ())]
    images = [output for output in outputs if "image/jpeg" in output.get("data", {})]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert len(images) == 6
    assert "gradcam_drift" in printed
    assert "explained layer: base/relu_4" in printed
    assert re.findall(r"step (\d+), epoch (\d+)", printed) == [("0", "0"), ("1", "0")]
    assert len(list(tmp_path.glob("logs/*/gradcam/manifest.json"))) == 3
