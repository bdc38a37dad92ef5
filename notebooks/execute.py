"""Executes the notebooks and stores them with small outputs: pictures as JPEG, nothing of the machine.

`make notebooks` calls it. What is stored says of which code it is, so that a test can tell outputs of other code.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
WIDEST = 900  # px: as wide as a page shows it.


def digest(notebook: Any) -> str:
    """Returns what stands for the code of a notebook: the same for the same cells, whatever they have put out."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def execute(notebook: Any, folder: Path, timeout: int | None = None) -> None:
    """Executes all cells in a folder.

    Args:
        notebook: As `nbformat` reads it; gets the outputs.
        folder: What the notebook writes goes there.
        timeout: Of a single cell, in seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources).execute()


def make_small(notebook: Any) -> None:
    """Leaves of the outputs what people read: pictures as JPEG of at most 900 px across, and what is printed."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # When it ran.
        if cell.cell_type == "code":
            cell.outputs = [_small(output) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "outputs_of": digest(notebook),
    }


def _small(output: Any) -> Any:
    data = output.get("data", {})
    kind = next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
    if kind is not None:
        picture = Image.open(io.BytesIO(base64.b64decode(data.pop(kind)))).convert("RGB")
        picture.thumbnail((WIDEST, 10 * WIDEST))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80, optimize=True)
        data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode()
        data["text/plain"] = "<picture>"
        output["metadata"] = {}
    return output


def main() -> None:
    """Executes the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", default=names, help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where they are stored; by default where they are")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        make_small(notebook)
        target = arguments.out / f"{name}.ipynb"
        nbformat.write(notebook, target)
        print(f"{target}: {target.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
