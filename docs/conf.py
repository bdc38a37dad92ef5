"""The site: what Sphinx is told, and the pages that are made from the code, so that they say what it says."""

from __future__ import annotations

import ast
import configparser
import inspect
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import keras_cam_callbacks  # noqa: E402  # From this checkout, for which the path comes first.
from keras_cam_callbacks.metrics.registry import METRICS, QUESTIONS, REGISTRY  # noqa: E402

# Where the project is: the one place of the site that says so, read from that of the package.
_SETUP = configparser.ConfigParser()
_SETUP.read(ROOT / "setup.cfg", "utf-8")
_URLS = dict(line.split(" = ", 1) for line in _SETUP.get("metadata", "project_urls", fallback="").split("\n") if line)
ADDRESS = _URLS.get("Source", "https://github.com/OWNER/keras_cam_callbacks").rstrip("/")
_PATH = ADDRESS.removeprefix("https://github.com/")

project = "keras_cam_callbacks"
author = "The authors of keras_cam_callbacks"
copyright = author
release = version = keras_cam_callbacks.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "made/parts", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "repo": ADDRESS + "/blob/main/{{path}}",
    "colab": f"https://colab.research.google.com/github/{_PATH}/blob/main/" + "{{path}}",
    "kaggle": f"https://kaggle.com/kernels/welcome?src={ADDRESS}/blob/main/" + "{{path}}",
}
# The project has no public address yet.
linkcheck_ignore = [f".*{re.escape(_PATH)}.*", r"https://keras-cam-callbacks\.invalid.*"]
linkcheck_anchors = False

# The gallery is made when the site is built. The notebooks take a quarter of an hour: `make notebooks` stores what they
# put out, and a test tells where that is of other code.
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "cells")
nb_execution_excludepatterns = ["made/notebooks/*"]
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"
python_maximum_signature_line_length = 88

MADE = Path(__file__).parent / "made"

# Which public names stand on which page, by the room that they live in.
_PAGES = {
    "Callbacks": ("callbacks",),
    "Explaining a trained model": ("explaining",),
    "Methods": ("methods", "augmentations"),
    "Targets, layers and regions": ("network", "data"),
    "Runs, comparison and films": ("comparison", "store", "timelapse"),
    "Trackers and what they get": ("trackers", "records"),
    "Pictures": ("drawing",),
}


def _write(name: str, text: str) -> None:
    path = MADE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text("utf-8") != text:  # An unchanged page is not read again.
        path.write_text(text, "utf-8")


def _reference() -> None:
    """A page for each group of public names, which `__init__.pyi` lists."""
    tree = ast.parse((ROOT / project / "__init__.pyi").read_text("utf-8"))
    homes = {
        name.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.level and node.module
        for name in node.names
    }
    rooms = {room: page for page, rooms in _PAGES.items() for room in rooms}
    pages: dict[str, list[str]] = {page: [] for page in _PAGES}
    for name, home in homes.items():
        pages.setdefault(rooms.get(home.split(".")[0], "Further names"), []).append(name)
    for page, names in pages.items():
        parts = [f"# {page}\n\n"]
        for name in names:
            value = getattr(keras_cam_callbacks, name)
            kind = "class" if inspect.isclass(value) else "function" if inspect.isfunction(value) else "data"
            path = f"{project}.{homes[name]}.{name}" if kind == "data" else f"{project}.{name}"
            options = "   :no-value:\n" if kind == "data" else ""
            parts.append(f"## {name}\n\n```{{eval-rst}}\n.. auto{kind}:: {path}\n{options}```\n\n")
        _write(f"reference/{page.split(',')[0].split()[0].lower()}.md", "".join(parts))


def _numbers() -> None:
    """The table of all numbers, and their functions with what their docstrings say."""
    needs = {"regions": ", with `regions`", "faithfulness": ", every `faithfulness_freq` epochs"}
    lines = ["| name | what it says | range | good |", "|---|---|---|---|"]
    for group, question in QUESTIONS.items():
        lines.append(f"| | **{question[0].upper()}{question[1:]}**{needs.get(group, '')} | | |")
        rows = [REGISTRY[name] for name in METRICS[group]]
        if group == "first":
            names = ", ".join(f"`{row.name}`" for row in rows)
            lines.append(f"| {names} | the same six, since the first logged epoch | | |")
            continue
        lines += [f"| `{row.name}` | {row.about} | {row.range} | {row.good} |" for row in rows]
    _write("parts/numbers.md", "\n".join(lines) + "\n")
    metrics = import_module(f"{project}.metrics")
    functions = dict.fromkeys(name for group in METRICS if group != "first" for name in METRICS[group])
    names = ["centre", *(name for name in functions if inspect.isfunction(getattr(metrics, name, None)))]
    _write(
        "parts/formulas.md",
        "```{eval-rst}\n" + "\n".join(f".. autofunction:: {project}.metrics.{name}" for name in names) + "\n```\n",
    )


def _included() -> None:
    """Pages of the files beside README, and the notebooks: Sphinx takes what lies below `docs` alone."""
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        _write(f"notebooks/{path.name}", path.read_text("utf-8"))
    for file in ("CHANGELOG", "CONTRIBUTING"):
        if (ROOT / f"{file}.md").exists():
            _write(f"{file.lower()}.md", f"```{{include}} ../../{file}.md\n:relative-docs: docs/\n```\n")


_reference()
_numbers()
_included()


def _escape(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: a bar, a star or a line below is itself, and no markup."""
    for i, line in enumerate(lines):
        field = re.match(r"\s*(:[^:]+:|(\.\.|>>>|\.\.\.) .*)|", line)[0]
        parts = line[len(field) :].split("`")
        parts[::2] = [re.sub(r"(?<!\\)[|*]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
        lines[i] = field + "`".join(parts)


def _to_copies(app: object, docname: str, source: list[str]) -> None:
    """Links to the notebooks where they are, which a code host follows, lead to their copies on the site."""
    up = "../" * docname.count("/")
    source[0] = source[0].replace(f"]({up}../notebooks/", f"]({up}made/notebooks/")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _to_copies)
    app.connect("autodoc-process-docstring", _escape)
