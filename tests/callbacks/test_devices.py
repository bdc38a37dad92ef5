"""One process, two devices: `fit` under MirroredStrategy."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT, TESTS

from keras_cam_callbacks import METHODS

pytestmark = [pytest.mark.slow, pytest.mark.only_on("tensorflow", reason="strategies are its own")]

PREFIXES = ["heatmaps", "gradcam", "cam", "layercam", "activations", "filters"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `mirrored.py` has found: a fit with the first layers frozen, and one with all of them trained."""
    folder = tmp_path_factory.mktemp("mirrored")
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, TESTS / "mirrored.py", folder], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_each_epoch_is_logged_once(found, prefix):
    logged = found["logged"][prefix]
    assert logged["steps"] == logged["stored"] == [[0, 0], [1, 1], [2, 0], [3, 1]]
    assert logged["in_logs"] == [True, True]
    # Frozen, neither channels nor filters change.
    assert logged["pictures"] == (3 if prefix in ("activations", "filters") else 4)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_maps_and_numbers_are_those_of_one_device(found, prefix):
    """Bit by bit, by the same weights in a model without a strategy."""
    assert found["logged"][prefix]["differing"] == [[]] * 4


def test_every_method_is_among_them(found):
    logged = found["logged"]["heatmaps"]
    assert logged["views"] == sorted(name for name, method in METHODS.items() if "readout" not in method.needs)
    assert logged["dead"] == [[]] * 4


def test_training_is_left_as_it_is(found):
    """Bit by bit, on both devices."""
    assert found["replicas"] == [2, 2]
    assert found["replicas_differ"] == [0, 0]
    assert found["same_state"]
    assert found["same_losses"] == [True, True]


def test_variables_are_made_on_all_devices(found):
    """A model that has not run yet, in a training loop of one's own."""
    assert found["unbuilt"] == {"replicas": [2] * 6, "trained": [True] * 6}
