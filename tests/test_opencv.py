"""OpenCV that can't be imported. What stands in for it is the broken installation, in a process of its own."""

import re

import pytest
from command import run_python
from paths import ROOT

GL = "libGL.so.1: cannot open shared object file: No such file or directory"
HEADLESS = "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
BROKEN = {
    "libGL": (f"raise ImportError({GL!r})", GL, "apt install libgl1 libglib2.0-0"),
    "glib": (
        "raise ImportError('libgthread-2.0.so.0: cannot open shared object file')",
        "libgthread-2.0.so.0: cannot",
        "apt install libgl1 libglib2.0-0",
    ),
    "numpy": (
        "raise ImportError('numpy.core.multiarray failed to import')",
        "numpy.core.multiarray failed to import",
        HEADLESS,
    ),
    # What is left of two wheels after one of them was removed.
    "emptied": ("", "a folder cv2 with nothing in it", HEADLESS),
    "missing": (
        "raise ModuleNotFoundError('No module named cv2', name='cv2')",
        "no module cv2",
        "`pip install opencv-python-headless` works",
    ),
}


@pytest.fixture
def broken(tmp_path, request):
    """A folder with a cv2 that is broken in the way of the parameter."""
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text(BROKEN[request.param][0], "utf-8")
    return f"{tmp_path}:{ROOT}", *BROKEN[request.param][1:]


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_it_is_said_what_to_install(broken):
    path, received, works = broken
    done = run_python("from keras_cam_callbacks import GradCAMLogger", PYTHONPATH=path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert received in last
    assert works in last


@pytest.mark.parametrize("broken", ["libGL"], indirect=True)
@pytest.mark.parametrize("module", ["metrics", "space", "timelapse", "drawing.overlay", "augmentations", "comparison"])
def test_whatever_is_imported_first(broken, module):
    path, _, works = broken
    done = run_python(f"import keras_cam_callbacks.{module}", PYTHONPATH=path)
    assert works in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("broken", ["libGL"], indirect=True)
def test_the_command_line_ends_with_one_message(broken):
    path, received, works = broken
    done = run_python("from keras_cam_callbacks.cli import main; main(['compare', 'a', 'b'])", PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: OpenCV needs a library")
    assert received in done.stderr
    assert works in done.stderr
    assert "Traceback" not in done.stderr


def test_opencv_is_imported_in_one_place():
    package = ROOT / "keras_cam_callbacks"
    imports = re.compile(r"^\s*(import cv2|from cv2)", re.MULTILINE)
    files = [path.relative_to(package) for path in package.rglob("*.py") if imports.search(path.read_text("utf-8"))]
    assert list(map(str, files)) == ["opencv.py"]
