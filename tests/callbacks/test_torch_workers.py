"""Two processes that train one model by DistributedDataParallel: rank 0 logs, and neither waits for the other."""

import pytest
from two_processes import two_processes

from keras_cam_callbacks import read_run

pytestmark = pytest.mark.only_on("torch", reason="DistributedDataParallel is PyTorch's own")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder that both were given, and what happened in each."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, two_processes("torch_workers.py", folder, [f"file://{folder}/meeting"])


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
