"""Trackers and methods of another package, which is installed as users install it, into a folder of its own."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys

import numpy as np
import pytest
from interpreter import fresh
from paths import ROOT

from keras_cam_callbacks import METHODS, HeatmapLogger, MemoryTracker, plugins
from keras_cam_callbacks.methods import resolve_method
from keras_cam_callbacks.trackers import resolve

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "2.5"
[tool.setuptools]
py-modules = ["{name}"]
[project.entry-points."keras_cam_callbacks.trackers"]
{trackers}
[project.entry-points."keras_cam_callbacks.methods"]
{methods}
"""
CODE = """
import numpy as np

class Counting:
    logged = []
    def start(self, config): pass
    def log(self, record): self.logged.append((record.epoch, record.heatmaps.shape))
    def finish(self): pass

class Fussy(Counting):
    def log(self, record): raise OSError("the server is gone")

def make_nothing(): return None
def needs_arguments(url): return Counting()

def largest(activations, gradients):
    return np.max(activations * gradients, axis=-1)

class Shifted:
    name, needs = "some name", ("activations",)
    def __call__(self, activations): return activations.sum(-1) + 1

class Choosy(Shifted):
    def __init__(self, how): pass

number = 3
"""


def install(folder, name, code, trackers=(), methods=()):
    """Installs a package of one module into `folder`/site by pip, without a network."""
    source = folder / name
    source.mkdir()
    (source / f"{name}.py").write_text(code, "utf-8")
    rows = [
        "\n".join(f'{key} = "{name}:{value}"' for key, value in dict(group).items()) for group in (trackers, methods)
    ]
    (source / "pyproject.toml").write_text(PROJECT.format(name=name, trackers=rows[0], methods=rows[1]), "utf-8")
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", folder / "site", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    trackers = {"nothing": "make_nothing", "arguments": "needs_arguments", "fussy": "Fussy"}
    methods = {"largest": "largest", "shifted": "Shifted", "gradcam": "Shifted", "choosy": "Choosy", "number": "number"}
    counting = dict.fromkeys(("counting", "disk", "shared"), "Counting")
    install(folder, "kcc_example", CODE, trackers | counting, methods)
    lines = {"broken": "Absent", "shared": "Absent"}
    install(folder, "kcc_broken", "import what_is_not_there", trackers=lines, methods={"broken": "absent"})
    return folder / "site"


@pytest.fixture(autouse=True)
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    plugins.load_plugin.cache_clear()
    yield
    for name in ("kcc_example", "kcc_broken"):
        sys.modules.pop(name, None)


def test_a_tracker_and_a_method_are_used_by_name_in_fit(tmp_path):
    from fits import SAMPLES, X, fit

    memory = MemoryTracker()
    logger = HeatmapLogger(X, method="largest", tracker=["counting", memory], log_dir=tmp_path)
    fit(logger, epochs=2)
    example = importlib.import_module("kcc_example")
    assert example.Counting.logged == [(epoch, (SAMPLES, 10, 14)) for epoch in range(2)]
    assert isinstance(logger.trackers[0], example.Counting)
    assert (memory.config.method, logger.prefix) == ("largest", "largest")


def test_methods_are_called_by_the_names_that_they_are_brought_by():
    function = importlib.import_module("kcc_example").largest
    assert resolve_method("largest").function is function
    shifted = resolve_method("shifted")
    assert (shifted.name, shifted.text, shifted.needs) == ("shifted", "shifted", ("activations",))
    assert resolve_method("largest") == resolve_method("largest")


def test_our_own_names_win():
    assert resolve_method("gradcam") is METHODS["gradcam"]
    assert [type(tracker).__name__ for tracker in resolve(["disk"])] == ["DiskTracker"]


def test_one_tracker_serves_all_fits():
    named = {}
    assert resolve("counting", named) == resolve(["counting", "memory"], named)[:1]


@pytest.mark.parametrize(("name", "close"), [("countng", "counting"), ("broke", "broken"), ("memry", "memory")])
def test_names_that_no_package_has(name, close):
    with pytest.raises(ValueError, match=r"'auto', 'disk', .*'broken', 'counting'.*Received: ") as caught:
        resolve(name)
    assert close in re.findall(r"'(\w+)'", str(caught.value).partition("Did you mean")[2])
    with pytest.raises(ValueError, match=r"gradcam, .*, largest, .*Received: 'largst'\. Did you mean 'largest'"):
        resolve_method("largst")
    assert not {"kcc_example", "kcc_broken"} & set(sys.modules)  # Nothing was imported for that.


BROKEN = r"Received: 'broken' of kcc[-_]broken 2\.5, which failed: ModuleNotFoundError: No module named 'what_is_not_"


def test_a_broken_package_is_named_before_the_first_batch():
    from fits import X

    for wrong in ({"tracker": "broken"}, {"method": "broken"}):
        with pytest.raises(ImportError, match=rf"A {next(iter(wrong))} must be importable\. {BROKEN}"):
            HeatmapLogger(X, **wrong)


@pytest.mark.parametrize(
    ("function", "name", "error", "message"),
    [
        (resolve, "nothing", TypeError, r"'nothing' must make an object with the methods start.*Received: None"),
        (
            resolve,
            "arguments",
            ImportError,
            r"'arguments' must make one when it is called.*TypeError: .*url",
        ),
        (resolve, "shared", ValueError, r"of one package\. Received: 'shared', which .*kcc[-_]broken 2.5"),
        (resolve_method, "choosy", ImportError, r"'choosy' must be a function.*TypeError: .*how"),
        (resolve_method, "number", TypeError, r"'number' must be callable\. Received: 3"),
    ],
)
def test_what_is_brought_and_is_none(function, name, error, message):
    with pytest.raises(error, match=message):
        function(name)


def test_a_tracker_that_fails_later_ends_no_training(tmp_path):
    from fits import X, bare_weights, fit, tiny_model, weights

    model, memory = tiny_model(), MemoryTracker()
    logger = HeatmapLogger(X, tracker=["fussy", memory], log_dir=tmp_path)
    with pytest.warns(RuntimeWarning, match=r"Fussy failed and is switched off.*OSError: the server is gone"):
        fit(logger, model=model)
    assert [record.step for record in memory.records] == [0, 1, 2]
    assert weights(model) == bare_weights(3)


def test_a_package_with_damaged_metadata_hides_none_of_our_names(tmp_path, monkeypatch, caplog):
    """In an environment of many packages one is always damaged."""
    damaged = tmp_path / "damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "METADATA").write_text("Name: damaged\nVersion: 1.0\n", "utf-8")
    (damaged / "entry_points.txt").write_bytes(b"[keras_cam_callbacks.trackers]\n\xff\xfe = \xff\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnicodeDecodeError):  # So it is without us.
        importlib.metadata.entry_points(group=plugins.TRACKERS)
    with pytest.raises(ValueError, match=r"tracker must be one of .*Received: 'dsk'.*'disk'"):
        resolve("dsk")
    assert "could not be looked for" in caplog.text
    assert len(resolve(["disk", "auto"])) == 2


def test_nothing_is_looked_for_while_names_are_ours():
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from keras_cam_callbacks.methods import METHODS, resolve_method
from keras_cam_callbacks.trackers import TRACKERS, resolve
import importlib.metadata
def never(**_): raise AssertionError
importlib.metadata.entry_points = never
resolve(['auto', *TRACKERS]), [resolve_method(name) for name in ('auto', *METHODS)]
print('kcc_example' in sys.modules)
"""
    assert fresh(code) == "False"


def test_maps_of_a_plugin_are_its_own():
    from models import functional, images

    from keras_cam_callbacks import explain

    model, x = functional().model, images(2)
    largest = explain(model, x, method="largest", target=0).heatmaps
    by_hand = explain(model, x, method=lambda a, g: (a * g).max(-1), target=0).heatmaps
    np.testing.assert_array_equal(largest, by_hand)
