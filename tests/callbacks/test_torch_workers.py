"""Two processes that train one model by DistributedDataParallel: rank 0 logs, and neither waits for the other."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from paths import ROOT, TESTS

from keras_cam_callbacks import read_run

pytestmark = pytest.mark.only_on("torch", reason="DistributedDataParallel is PyTorch's own")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder that both were given, and what happened in each."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}"}
    environment.pop("TF_CONFIG", None)
    script = [sys.executable, TESTS / "torch_workers.py", folder]
    with ExitStack() as running:
        processes = []
        for rank in range(2):
            log = running.enter_context(open(folder / f"{rank}.log", "w"))
            command = [*script, str(rank), f"file://{folder}/meeting"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            running.callback(process.wait)
            running.callback(process.kill)  # Neither is left to wait for one that has failed.
            processes.append(process)
        codes, patience = [None], time.monotonic() + 300
        while None in codes and not any(codes) and time.monotonic() < patience:
            time.sleep(0.1)
            codes = [process.poll() for process in processes]
    assert codes == [0, 0], [(folder / f"{rank}.log").read_text()[-3000:] for rank in range(2)]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_rank_0_logs_and_the_other_writes_nothing(two_ranks):
    folder, (first, other) = two_ranks
    assert [path.name for path in (folder / "logs").iterdir()] == ["gradcam"]
    assert [(epoch.step, epoch.epoch) for epoch in read_run(folder / "logs").epochs] == [(0, 0), (1, 1), (2, 2)]
    assert len(list((folder / "logs").rglob("events.out.tfevents*"))) == 1
    assert first["directory"] == str(folder / "logs" / "gradcam")
    assert first["same_maps"]
    numbers = {"lr", "gradcam_area", "activations_conv1_dead_share", "filters_activation"}
    assert all(numbers < set(names) for names in first["logged"])
    assert (other["directory"], other["read"], other["logged"]) == ("None", 0, [["lr"]] * 3)


def test_both_ranks_train_as_without_callbacks(two_ranks):
    _, ranks = two_ranks
    assert [rank["same_state"] for rank in ranks] == [True, True]
    assert ranks[0]["kernel"] == ranks[1]["kernel"]


def test_the_wrapped_model_is_refused_with_what_works(two_ranks):
    _, ranks = two_ranks
    for rank in ranks:
        assert "must be a Keras 3 model. Received: one inside a DistributedDataParallel." in rank["refused"]
        assert "Hand over what it wraps, its attribute `module`." in rank["refused"]
