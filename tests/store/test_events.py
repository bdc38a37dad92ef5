"""Why an epoch is missing: the record says what failed, what `freq` passed over, and what it does not know."""

from __future__ import annotations

import json

import pytest
from fits import X, Y, after_epoch, before_epoch, fit, new_model, throw
from sample_records import make_config, make_record

from keras_cam_callbacks import FunctionTracker, GradCAMLogger, MemoryTracker, read_run
from keras_cam_callbacks.store import Event, RunWriter
from keras_cam_callbacks.store.events import missing_epochs


def event(epoch, step=None, what="The heatmaps"):
    return Event(epoch, epoch if step is None else step, 0.0, what, "ValueError: boom")


@pytest.mark.parametrize(
    ("logged", "events", "said"),
    [
        ([(0, 0, 1), (1, 1, 1)], [], []),
        ([], [], []),
        ([(0, 0, 4), (4, 4, 4), (8, 8, 4)], [], ["epochs 1 to 3: passed over by freq=4", "epochs 5 to 7: passed over"]),
        ([(0, 0, 4), (4, 4, 4), (6, 6, 4)], [], ["epochs 1 to 3: passed over", "epoch 5: passed over by freq=4"]),
        ([(0, 0, 4), (8, 8, 4)], [], ["epochs 1 to 7: not logged, and the record does not say why"]),
        ([(0, 0, 1), (3, 3, 1)], [], ["epochs 1 to 2: not logged, and the record does not say why"]),
        ([(0, 0, 1), (2, 2, 1)], [event(1)], ["epoch 1: failed: The heatmaps: ValueError: boom"]),
        (
            [(0, 0, 1), (5, 0, 1)],
            [event(1)],
            ["epoch 1: failed: The heatmaps", "epochs 2 to 4: not logged, for what had failed in epoch 1"],
        ),
        ([], [event(0)], ["epoch 0: failed"]),
        ([(0, 0, 1), (1, 1, 1)], [event(1, what="WandbTracker")], []),
        ([(0, 0, 1), (10**18, 10**18, 1)], [], ["epochs 1 to 999999999999999999: not logged"]),
        ([(3, 7, 5), (5, 9, 5)], [], ["epoch 8: passed over by freq=5"]),
    ],
)
def test_what_is_missing(logged, events, said):
    missing = missing_epochs(logged, events)
    assert len(missing) == len(said)
    for one, text in zip(missing, said, strict=True):
        assert str(one).startswith(text)


def test_events_stand_between_the_epochs(tmp_path):
    config = make_config(tmp_path)
    writer = RunWriter(config)
    writer.write(make_record(0))
    writer.note(event(1))
    writer.write(make_record(2))
    # A kind that later versions may write.
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps({"event": "paused", "hours": 3}) + "\n")
    RunWriter(config).write(make_record(3))
    run = read_run(tmp_path)
    assert [epoch.step for epoch in run.epochs] == [0, 2, 3]
    assert run.events == (event(1),)
    assert [str(one) for one in run.missing()] == ["epoch 1: failed: The heatmaps: ValueError: boom"]
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps({"event": "failed", "epoch": "x"}) + "\n")
    with pytest.raises(ValueError, match="Received in line 6"):
        read_run(tmp_path)


def test_a_note_of_another_writer_is_refused(tmp_path):
    one, other = RunWriter(make_config(tmp_path)), RunWriter(make_config(tmp_path))
    one.write(make_record(0))
    with pytest.raises(RuntimeError, match="one writer"):
        other.note(event(0))
    assert read_run(tmp_path).events == ()


class Duck:
    """A tracker of no class of ours, that has only what it must have."""

    def start(self, config): ...
    def log(self, record): ...
    def finish(self): ...


class Listener(MemoryTracker):
    """Hears of what fails, and fails at that."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def fail(self, event):
        self.heard.append(event)
        raise OSError("not even that")


@pytest.mark.filterwarnings("ignore:gradcam. .* failed and is switched off:RuntimeWarning")
def test_a_fit_writes_down_what_failed(tmp_path):
    listener, failing = (
        Listener(),
        FunctionTracker(lambda record: throw(OSError("no net")) if record.step == 1 else None),
    )
    logger = GradCAMLogger((X, Y), tracker=[Duck(), "disk", listener, failing], log_dir=tmp_path)
    model = new_model()

    def spoil():
        logger._source.views = lambda batch: throw(ValueError("no maps"))

    fit(logger, before_epoch(2, spoil), model=model, epochs=4)
    fit(logger, model=model, epochs=2)
    run = read_run(logger.directory)
    assert [(epoch.step, epoch.epoch) for epoch in run.epochs] == [(0, 0), (1, 1), (4, 0), (5, 1)]
    assert [str(one) for one in run.events] == [
        "epoch 1: failed: FunctionTracker: OSError: no net",
        "epoch 2: failed: The heatmaps: ValueError: no maps",
    ]
    assert listener.heard == list(run.events)
    assert [str(one) for one in run.missing()] == [
        "epoch 2: failed: The heatmaps: ValueError: no maps",
        "epoch 3: not logged, for what had failed in epoch 2 was switched off until the next fit",
    ]
    assert [record.step for record in listener.records] == [0, 1, 4, 5]


def test_what_is_raised_is_written_down_too(tmp_path):
    failing = FunctionTracker(lambda record: throw(OSError("no net")))
    logger = GradCAMLogger((X, Y), tracker=["disk", failing], log_dir=tmp_path, on_error="raise")
    with pytest.raises(OSError, match="no net"):
        fit(logger, epochs=1)
    assert [one.error for one in read_run(logger.directory).events] == ["OSError: no net"]


@pytest.mark.filterwarnings("ignore:gradcam. DiskTracker failed:RuntimeWarning")
def test_an_epoch_that_the_disk_refused(tmp_path):
    """A file stands where a folder must be: the log can still be written to."""
    logger = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path)
    fit(logger, after_epoch(0, lambda: _in_the_way(logger.directory)), epochs=3)
    run = read_run(logger.directory)
    assert [epoch.step for epoch in run.epochs] == [0]
    assert [(one.epoch, one.what) for one in run.events] == [(1, "DiskTracker")]


def _in_the_way(directory):
    for path in (directory / "heatmaps").iterdir():
        path.rename(directory / path.name)
    (directory / "heatmaps").rmdir()
    (directory / "heatmaps").touch()


def test_freq_stands_in_the_record(tmp_path):
    """Also where a second fit has another."""
    logger, model = GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path, freq=3), new_model()
    fit(logger, model=model, epochs=5)
    logger.freq = 2
    fit(logger, model=model, epochs=3)
    run = read_run(logger.directory)
    assert run.manifest["freq"] == 3
    assert [(epoch.step, epoch.epoch, epoch.freq) for epoch in run.epochs] == [
        (0, 0, 3),
        (3, 3, 3),
        (4, 4, 3),
        (5, 0, 2),
        (7, 2, 2),
    ]
    assert [str(one) for one in run.missing()] == [
        "epochs 1 to 2: passed over by freq=3",
        "epoch 1: passed over by freq=2",
    ]
