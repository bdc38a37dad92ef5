"""Several processes that train one model: the chief alone logs."""

import json
import logging
import socket
from contextlib import ExitStack

import keras
import pytest
from backends import tf
from fits import X, Y, fit, state, tiny_model
from models import functional
from two_processes import two_processes

from keras_cam_callbacks import ActivationLogger, FilterLogger, GradCAMLogger, read_run
from keras_cam_callbacks.callbacks.workers import Worker, this_worker

pytestmark = pytest.mark.slow

of_tensorflow = pytest.mark.only_on("tensorflow", reason="strategies are its own")
TWO = {"worker": ["a:1", "b:1"]}
CHIEF = {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]}


def told(cluster, job=None, index=None):
    task = {key: value for key, value in (("type", job), ("index", index)) if value is not None}
    return json.dumps({"cluster": cluster, "task": task})


# ---- Which one is the chief ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "is_chief"),
    [
        (told(TWO, "worker", 0), "worker 0", True),
        (told(TWO, "worker", 1), "worker 1", False),
        (told(TWO, "worker", "1"), "worker 1", False),
        (told({"worker": {"0": "a:1", "4": "b:1"}}, "worker", 4), "worker 4", False),
        (told(CHIEF, "chief", 0), "chief 0", True),
        (told(CHIEF, "worker", 0), "worker 0", False),
        (told(CHIEF, "ps", 0), "ps 0", False),
        (told(CHIEF | {"evaluator": ["d:1"]}, "evaluator", 0), "evaluator 0", True),
        (told({"master": ["a:1"], "worker": ["b:1"]}, "master", 0), "master 0", True),
        (told({"master": ["a:1"], "worker": ["b:1"]}, "worker", 0), "worker 0", False),
        (told({"master": ["a:1"]}, "master", 0), "master 0", True),
        (told({"worker": ["a:1"]}, "worker", 0), "worker 0", True),
        (told({"worker": ["a:1"], "ps": ["b:1"]}, "worker", 0), "worker 0", True),
        (told({"worker": ["a:1"], "ps": ["b:1"]}, "ps", 0), "ps 0", False),
        (told(TWO), "", True),  # It is not said who this is.
        (json.dumps({"task": {"type": "worker", "index": 1}}), "worker 1", True),  # There is no cluster.
        ("{}", "", True),
        ("", "", True),
        ("{'cluster'", "", True),
        ("null", "", True),
        ("[1]", "", True),
        ('{"cluster": 3, "task": 4}', "", True),
        (told(TWO, "worker", "first"), "", True),
        (told({"worker": 2}, "worker", 1), "", True),
    ],
)
def test_who_is_the_chief_by_tf_config(monkeypatch, text, name, is_chief):
    monkeypatch.setenv("TF_CONFIG", text)
    assert this_worker(tiny_model()) == Worker(name, is_chief)


def resolver(cluster, task):
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), task_type=task[0], task_id=task[1]
    )


def unreachable(cluster, task):
    """As one that asks a service which does not answer."""

    def cluster_spec():
        raise ConnectionError("no answer")

    made = resolver(cluster, task)
    made.cluster_spec = cluster_spec
    return made


@of_tensorflow
@pytest.mark.parametrize(
    ("make", "cluster", "task", "expected"),
    [
        (resolver, TWO, ("worker", 0), Worker("worker 0", True, True)),
        (resolver, TWO, ("worker", 1), Worker("worker 1", False, True)),
        (resolver, CHIEF, ("worker", 0), Worker("worker 0", False, True)),
        (resolver, CHIEF, ("chief", 0), Worker("chief 0", True, True)),
        (resolver, TWO | {"coordinator": ["c:1"]}, ("coordinator", 0), Worker("coordinator 0")),
        (resolver, TWO, ("", 0), Worker("", True, True)),
        (resolver, {"worker": ["a:1"]}, ("worker", 0), Worker("worker 0")),
        (resolver, {}, ("worker", 0), Worker("chief 0")),
        (unreachable, TWO, ("worker", 1), Worker("chief 0")),
    ],
)
def test_who_is_the_chief_by_the_strategy(monkeypatch, make, cluster, task, expected):
    """TF_CONFIG counts only where the strategy does not know."""
    monkeypatch.setenv("TF_CONFIG", told(CHIEF, "chief", 0))

    class Strategy(tf.distribute.OneDeviceStrategy):
        cluster_resolver = make(cluster, task)

    with Strategy("CPU:0").scope():
        model = functional().model
    assert this_worker(model) == expected


# ---- What the others do --------------------------------------------------------------------------------------


def unreadable():
    raise AssertionError("The data is read.")
    yield


def test_other_workers_do_nothing(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("TF_CONFIG", told(TWO, "worker", 1))
    loggers = [
        GradCAMLogger(unreadable(), tracker="auto", log_dir=tmp_path / "logs", freq=2, on_error="raise"),
        ActivationLogger(unreadable(), log_dir=tmp_path / "logs", on_error="raise"),
        FilterLogger("conv2", log_dir=tmp_path / "logs", on_error="raise"),
    ]
    model = tiny_model()
    fit(model=model, epochs=3)
    expected = state(model)
    tiny_model()  # It is as it was.
    with caplog.at_level(logging.INFO, "keras_cam_callbacks"):
        history = fit(*loggers, model=model, epochs=3, verbose=2)
        assert sorted(history) == ["accuracy", "loss"]
        assert [logger.directory for logger in loggers] == [None] * 3
        # In a training loop of one's own.
        loggers[0].set_model(model)
        for epoch in range(2):
            logs = {}
            loggers[0].on_epoch_end(epoch, logs)
            assert logs == {}
        loggers[0].on_train_end()
    assert state(model) == expected
    assert list(tmp_path.rglob("logs")) == []
    said = "GradCAMLogger logs on the chief alone, and does nothing in this process, which is worker 1"
    assert capsys.readouterr().out.count(said) == 2
    assert [record.message for record in caplog.records].count(said) == 2

    # Told otherwise, the same one logs in its next fit.
    monkeypatch.delenv("TF_CONFIG")
    loggers[0].validation_data = X, Y
    fit(loggers[0], epochs=3)
    assert [epoch.epoch for epoch in read_run(loggers[0].directory).epochs] == [0, 2]


def test_early_stopping_where_there_are_no_numbers(monkeypatch):
    """Keras tells that they are missing, and trains on."""
    monkeypatch.setenv("TF_CONFIG", told(TWO, "worker", 1))
    stopping = keras.callbacks.EarlyStopping("gradcam_area", mode="min", patience=0)
    with pytest.warns(UserWarning, match="conditioned on metric `gradcam_area` which is not available"):
        history = fit(GradCAMLogger(X, tracker=None), stopping, epochs=3)
    assert len(history["loss"]) == 3


def test_prefixes_are_checked_by_every_worker(monkeypatch):
    """So that none waits for one that has given up."""
    monkeypatch.setenv("TF_CONFIG", told(TWO, "worker", 1))
    with pytest.raises(ValueError, match="prefixes that differ"):
        fit(GradCAMLogger(X, tracker=None), GradCAMLogger(X, tracker=None))


# ---- Two processes -------------------------------------------------------------------------------------------


def free_ports(count):
    with ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """The folder that both wrote into, and what each has found."""
    folder = tmp_path_factory.mktemp("workers")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return folder, two_processes("workers.py", folder, addresses)


@of_tensorflow
def test_chief_of_two_processes_logs(two_workers):
    folder, (chief, other) = two_workers
    assert chief["replicas"] == other["replicas"] == 2
    assert [path.name for path in (folder / "logs").iterdir()] == ["gradcam"]
    assert [(epoch.step, epoch.epoch) for epoch in read_run(folder / "logs").epochs] == [(0, 0), (1, 1), (2, 2)]
    assert len(list((folder / "logs").rglob("events.out.tfevents*"))) == 1
    assert chief["directory"] == str(folder / "logs" / "gradcam")
    assert chief["same_maps"]
    assert chief["read"] == 3
    numbers = {"lr", "gradcam_area", "smoothgrad_insertion", "activations_conv1_dead_share", "filters_activation"}
    assert all(numbers < set(names) for names in chief["logged"])
    assert (other["directory"], other["read"], other["logged"]) == ("None", 0, [["lr"]] * 3)


@of_tensorflow
def test_both_train_as_without_callbacks(two_workers):
    _, found = two_workers
    assert [each["same_state"] for each in found] == [True, True]
    assert found[0]["kernel"] == found[1]["kernel"]


@of_tensorflow
def test_both_refuse_a_model_without_variables(two_workers):
    """One that made them alone would wait for the other for ever."""
    _, found = two_workers
    for each in found:
        assert each["unbuilt"].startswith("A model that several workers train must be built before its callbacks begin")


@of_tensorflow
def test_keras_itself_has_no_fit_for_several_workers(two_workers):
    """Without any callback: keras-team/keras#20585. Once it has one, the chief is to be tested in `fit`."""
    _, found = two_workers
    for each in found:
        assert "PerReplica" in each["fit_fails"]
