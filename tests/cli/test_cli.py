"""The command line: quick to start, and one clear line for what goes wrong; and the wheel that brings it."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import ROOT, processor_seconds, run_python

import keras_cam_callbacks
from keras_cam_callbacks import cli
from keras_cam_callbacks.cli import main
from keras_cam_callbacks.engine import ENGINES


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["explain", "--help"], ["compare", "--help"]])
def test_starts_quickly_without_a_framework(arguments):
    """It may take three times as long as Click alone: 0.1 s on an idle machine."""
    code = f"""
import sys
from keras_cam_callbacks.cli import main
try:
    main({arguments!r}, prog_name="keras-cam")
finally:
    print("loaded:", {{"cv2", "keras", "numpy", "rich", "tensorflow", "wandb"}} & set(sys.modules))
"""
    done = run_python(code)
    assert "loaded: set()" in done.stdout
    assert arguments[0] != "--help" or "demo" in done.stdout
    assert processor_seconds(code) < 3 * processor_seconds("import click")


def test_version():
    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"keras_cam_callbacks {keras_cam_callbacks.__version__}\n"


def test_help_names_every_option_and_its_default():
    result = CliRunner().invoke(main, ["demo", "--help"])
    assert result.exit_code == 0
    for text in ("--out", "--epochs", "--images", "--seed", "default: demo", "default: 10", "default: 3000"):
        assert text in result.output


@pytest.mark.parametrize(
    ("module", "named"), [("sklearn", "scikit-learn"), ("skimage", "scikit-image"), ("rich", "rich")]
)
def test_missing_extras_are_one_line(module, named, tmp_path):
    code = f"""
import sys
sys.modules[{module!r}] = None
from keras_cam_callbacks.cli import main
main(["demo", "--out", {str(tmp_path / "out")!r}])
"""
    done = run_python(code)
    assert done.returncode == 1
    assert done.stderr == (f"Error: The demo needs {named}. Install it: pip install 'keras_cam_callbacks[demo]'\n")
    assert not (tmp_path / "out").exists()


def test_missing_click_is_one_line():
    done = run_python("import sys; sys.modules['click'] = None; import keras_cam_callbacks.cli")
    assert done.returncode == 1
    assert done.stderr == "keras-cam needs click. Install it: pip install 'keras_cam_callbacks[cli]'\n"


@pytest.mark.parametrize(
    ("before", "backend", "said"),
    [
        ("", "no_such_backend", "Error: Unable to import backend : no_such_backend"),
        ("import sys; sys.modules['tensorflow'] = None", "tensorflow", "Error: Keras can't be loaded: "),
        (
            "import keras; keras.backend.backend = lambda: 'openvino'",
            os.environ.get("KERAS_BACKEND", "tensorflow"),
            f"Error: Heatmaps need Keras on one of these backends: {', '.join(ENGINES)}. Received: 'openvino'",
        ),
    ],
)
def test_a_backend_that_does_not_work_is_one_line(before, backend, said, tmp_path):
    out = tmp_path / "out"
    code = f"{before}\nfrom keras_cam_callbacks.cli import main; main(['demo', '--out', {str(out)!r}])"
    done = run_python(code, KERAS_BACKEND=backend)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(said)


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    Path("demo/mine.txt").write_text("mine", encoding="utf-8")
    Path("demo-2").mkdir()
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert (
        'Received: demo, which holds files. --out demo-3 would work; with make: make demo ARGS="--out demo-3"\n'
    ) in result.output
    assert [str(path) for path in sorted(Path().rglob("*"))] == ["demo", "demo/mine.txt", "demo-2"]


def test_a_file_in_the_way_is_refused(tmp_path):
    file = tmp_path / "some file"
    file.write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(main, ["demo", "--out", str(file)])
    assert result.exit_code == 1
    assert "is no folder" in result.output
    assert f"--out '{file}-2' would work;" in result.output


@pytest.mark.parametrize(
    ("place", "command"),
    [(".venv/bin", ".venv/bin/tensorboard"), ("../an env/bin", "'{}/an env/bin/tensorboard'"), (None, "tensorboard")],
)
def test_tensorboard_is_called_where_it_is(tmp_path, monkeypatch, place, command):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    programs = (tmp_path / "here" / (place or "none")).resolve()
    programs.mkdir(parents=True)
    if place:
        (programs / "tensorboard").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    assert cli.demo._tensorboard() == command.format(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "file" / "out")])
    assert result.exit_code == 1
    assert result.output.startswith("Error: --out must be a folder that can be written to. Received: [Errno 20]")


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--images", "10"], ["--seed", "-1"], ["--epochs", "x"]])
def test_impossible_settings_are_refused_at_once(arguments):
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.output


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    """Built from a copy, with no network; what is in it is imported from it, not from the checkout."""
    source, package = tmp_path / "source", "keras_cam_callbacks"
    shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", tmp_path, source], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        programs = configparser.ConfigParser()
        programs.read_string(archive.read(entries).decode("utf-8"))
    files = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    assert dict(programs["console_scripts"]) == {"keras-cam": f"{package}.cli:main"}
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import {package}; print({package}.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(str(wheel)), done.stderr
