"""README and the site's pages: every block of code in them runs, or is checked; their tables say all that there is."""

import configparser
import inspect
import re
import shlex
from functools import partial

import keras
import matplotlib
import numpy as np
import pytest
from fits import KERAS_WARNS
from paths import ROOT

from keras_cam_callbacks import METHODS, HeatmapLogger
from keras_cam_callbacks.cli import main

README = ROOT / "README.md"
# The gallery runs when the site is built, notebooks in tests of their own; what is made is made of docstrings.
PAGES = sorted(
    path
    for path in (ROOT / "docs").rglob("*.md")
    if path.name != "gallery.md" and not {"made", "_build"} & set(path.relative_to(ROOT).parts)
)
FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
# Of a page that can't be run here: what it needs.
ELSEWHERE = "# runs: elsewhere\n"


def blocks(path, *kinds):
    return [code for _, kind, code in FENCE.findall(path.read_text("utf-8")) if kind.strip() in kinds]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def with_python(paths):
    return [pytest.param(path, id=name_of(path)) for path in paths if blocks(path, "python")]


def stage(side):
    """What the pages take for granted: a model, images, labels, boxes."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).random((8, side, side, 3), np.float32)
    y = np.arange(8) % 2
    model = keras.Sequential(
        [
            keras.Input((side, side, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="block1"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="block2"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    names = {"x": x, "y": y, "x_val": x, "y_val": y, "model": model, "boxes": [(4, 4, 20, 20)] * 8}
    return names | {"images": x, "validation_data": (x, y)}


@pytest.mark.slow
@KERAS_WARNS
@pytest.mark.parametrize("path", with_python(PAGES))
def test_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    # Its trained weights would be downloaded.
    monkeypatch.setattr(keras.applications, "MobileNetV2", partial(keras.applications.MobileNetV2, weights=None))
    names = stage(224 if path.name == "index.md" else 32)
    for code in blocks(path, "python"):
        compiled = compile(code, name_of(path), "exec")
        if not code.startswith(ELSEWHERE):
            exec(compiled, names)


def test_readme_has_the_code_that_the_start_page_runs():
    assert blocks(README, "python") == blocks(ROOT / "docs" / "index.md", "python")[:1]


def extras():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    return set(setup["options.extras_require"])


TARGETS = set(re.findall(r"^([a-z][a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def check_command(line):
    """Raises AssertionError for a command that there is not."""
    program, *words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if program == "pip":
        assert words[0] in ("install", "uninstall"), line
        for extra in re.findall(r"\[([\w,]+)\]", line):
            assert set(extra.split(",")) <= extras(), line
    elif program == "make":
        assert words[0] in TARGETS, line
    elif program == "keras-cam":
        options = {option for parameter in main.commands[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
    elif program == "python":
        assert words[0].startswith("-") or (ROOT / words[0]).is_file(), line
    else:
        assert program in ("tensorboard", "export", "apt", "git", "pre-commit"), line


@pytest.mark.parametrize("path", [README, *PAGES], ids=name_of)
def test_commands_of_a_page_are_there(path):
    text = path.read_text("utf-8")
    commands = [line for code in blocks(path, "shell") for line in code.splitlines()]
    commands += re.findall(r"`((?:[A-Z_]+=\w+ )?(?:make|keras-cam|python) [^`<]+)`", text)
    for line in commands:
        if line.strip() and not line.startswith("#"):
            check_command(line)


@pytest.mark.parametrize("path", [README, *PAGES], ids=name_of)
def test_blocks_of_a_page_are_of_kinds_that_are_checked(path):
    kinds = {kind.strip() for _, kind, _ in FENCE.findall(path.read_text("utf-8"))}
    # Text is what a program prints, or the files of a folder; directives are Sphinx's, which the site's build checks.
    assert {kind for kind in kinds if not kind.startswith("{")} <= {"python", "shell", "text", "toml"}


def test_readme_is_short_and_its_links_lead_to_files():
    text = README.read_text("utf-8")
    assert len(text.split()) <= 1400
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_tables_name_every_method():
    for path in (README, ROOT / "docs" / "howto" / "layer_and_method.md"):
        rows = [line for line in path.read_text("utf-8").splitlines() if line.startswith("|")]
        assert {name for row in rows for name in re.findall(r'"(\w+)"', row)} >= set(METHODS)


def test_table_of_settings_names_every_argument():
    text = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    cells = [line.split("|")[1] for line in text.split("## What there is")[0].splitlines() if line.startswith("| `")]
    listed = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    # `fuse` stands beside `layer_name`.
    assert listed | {"fuse"} == set(inspect.signature(HeatmapLogger).parameters)
