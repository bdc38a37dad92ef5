"""Fixtures for all tests."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version

# What older versions warn of, which is no fault of the package: before which version, and the filter.
OLD_WARNINGS = {
    # Matplotlib uses names that pyparsing has given up.
    "matplotlib": ("3.11", r"ignore:'\w+' deprecated - use '\w+':DeprecationWarning:matplotlib"),
    # What TensorBoard brings along is written for an older Python.
    "tensorboard": ("2.21", r"ignore:invalid escape sequence"),
    # W&B leaves the connection to its own process open.
    "wandb": ("0.24", "ignore:unclosed <socket.socket:ResourceWarning"),
}

# Where MLflow and Trackio log to, which the one takes seconds to make and the other looks up when it is imported; runs
# and projects are new in each test. Neither they nor what they use may look for a network.
_STORES = tempfile.mkdtemp()
atexit.register(shutil.rmtree, _STORES, ignore_errors=True)
os.environ |= {
    "MLFLOW_TRACKING_URI": f"sqlite:///{_STORES}/mlflow.db",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TRACKIO_DIR": f"{_STORES}/trackio",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}

# Tests compile the same small programs again and again, which JAX can keep: also for the interpreters that tests start.
# A folder for each process, as JAX doesn't lock it.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / ".pytest_cache" / "jax" / _WORKER),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

SEED = int(os.environ.get("TEST_SEED", "0"))


def pytest_configure(config):
    for package, (mended, ignored) in OLD_WARNINGS.items():
        if Version(version(package)) < Version(mended):
            config.addinivalue_line("filterwarnings", ignored)


def pytest_collection_finish():
    """What is imported isn't looked through at each collection, which Keras asks for once for each layer it changes."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    for marker in item.iter_markers("only_on"):
        import keras

        if keras.backend.backend() not in marker.args:
            pytest.skip(f"only on {' and '.join(marker.args)}: {marker.kwargs['reason']}")


def _seed():
    """Seeds whatever is random without a generator of its own, such as the first weights of a model."""
    if "keras" in sys.modules:
        from seeds import set_seeds

        set_seeds(SEED)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup():
    _seed()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Whatever ran before, alone or in another order, a test finds the same random numbers."""
    _seed()
    return (yield)


@pytest.fixture(autouse=True)
def offline_trackers(tmp_path, monkeypatch):
    """Keeps W&B off the network and inside the test's folder, and ends the runs that the test left active."""
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        folder = tmp_path / "wandb-state" / name.lower()
        monkeypatch.setenv(f"WANDB_{name}", str(folder))
    settings = {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield
    if sys.modules.get("mlflow"):
        while sys.modules["mlflow"].active_run():
            sys.modules["mlflow"].end_run()
    if sys.modules.get("trackio") and sys.modules["trackio"].context_vars.current_run.get():
        sys.modules["trackio"].finish()
    # Imported by few tests only; starting its process takes longer than most of the others.
    if "wandb" in sys.modules:
        if sys.modules["wandb"].run is not None:  # A disabled run outlives its `with` block, and teardown.
            sys.modules["wandb"].run.finish()
        sys.modules["wandb"].teardown()


@pytest.fixture(scope="session")
def reference():
    """Maps of a small net, computed by pytorch-grad-cam and captum."""
    with np.load(Path(__file__).parent / "data" / "conv_net.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def net(reference):
    """The net, with the weights of the reference."""
    import keras
    from keras import layers

    def conv(filters, padding="valid", name=None):
        return layers.Conv2D(filters, 3, padding=padding, name=name)

    model = keras.Sequential(
        [
            keras.Input((48, 64, 3)),
            conv(8, "same", name="conv1"),
            layers.ReLU(name="relu1"),
            layers.MaxPooling2D(2),
            conv(16, name="conv2"),
            layers.ReLU(name="relu2"),
            conv(24, name="conv3"),
            layers.ReLU(name="relu3"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12, activation="relu", name="fc1"),
            layers.Dense(5, name="fc2"),
        ]
    )
    for name in ("conv1", "conv2", "conv3", "fc1", "fc2"):
        model.get_layer(name).set_weights([reference[f"w/{name}/kernel"], reference[f"w/{name}/bias"]])
    return model


@pytest.fixture(scope="module")
def browser():
    """A real browser, for pages that are made."""
    from playwright.sync_api import sync_playwright
    from report_runs import QUIET, find_browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(QUIET))
        yield browser
        browser.close()
