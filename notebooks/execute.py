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
WIDTHS = (900, 760, 640, 560, 480)  # px: the widest at which a notebook has at most
MOST = 280_000  # bytes.


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
    """Leaves of the outputs what people read: pictures as JPEG, and what is printed."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # When it ran.
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [(output, _picture(output.data)) for output in outputs if "data" in output]
    for width in WIDTHS:
        for output, picture in pictures:
            if picture is not None:
                output.data = {"image/jpeg": _encoded(picture, width), "text/plain": "<picture>"}
                output.metadata = {}
        if len(nbformat.writes(notebook)) <= MOST:
            break
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "outputs_of": digest(notebook),
    }


def _picture(data: dict[str, Any]) -> Image.Image | None:
    kind = next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
    return None if kind is None else Image.open(io.BytesIO(base64.b64decode(data[kind]))).convert("RGB")


def _encoded(picture: Image.Image, width: int) -> str:
    smaller, buffer = picture.copy(), io.BytesIO()
    smaller.thumbnail((width, 10 * width))
    smaller.save(buffer, "JPEG", quality=70, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


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
