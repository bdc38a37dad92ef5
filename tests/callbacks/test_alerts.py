"""Numbers that cross a line: said once in a run, noted in the record, told to trackers."""

import warnings

import keras
import numpy as np
import pytest
from fits import X, Y, fit, tiny_model
from tracker_logs import trackio_run
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks import GradCAMLogger, MemoryTracker, read_run
from keras_cam_callbacks.callbacks.alerts import Alerts, checked_lines


def crossings(line, *values):
    """The epochs in which it is noted, and those in which it is said."""
    alerts = Alerts(checked_lines({"area": line}), "run")
    seen = [alerts.crossed({"area": value}, epoch) for epoch, value in enumerate(values)]
    noted = [epoch for epoch, one in enumerate(seen) if one]
    return noted, [epoch for epoch, one in enumerate(seen) if one and one[0].is_first]


def test_once_and_again_only_where_it_had_come_back_by_a_tenth():
    assert crossings("< 0.5", 0.6, 0.49, 0.3) == ([1], [1])
    assert crossings("< 0.5", 0.6, 0.49, 0.52, 0.48, 0.549, 0.4) == ([1], [1])
    assert crossings("< 0.5", 0.6, 0.49, 0.551, 0.48) == ([1, 3], [1])
    assert crossings(">0.5", 0.5, 0.51, 0.46, 0.6, 0.449, 0.6) == ([1, 5], [1])
    assert crossings("> -2e-1", -0.3, -0.1, -0.21, -0.19, -0.23, 0) == ([1, 5], [1])
    assert crossings("< 0.5", 0.4) == ([0], [0])


def test_what_is_not_finite_crosses_nothing():
    assert crossings("< 0.5", np.nan, -np.inf, 0.4, np.nan, 0.4) == ([2], [2])
    assert crossings("> 0.5", np.inf, 0.5) == ([], [])


@pytest.mark.parametrize(
    ("alerts", "error", "message"),
    [
        ({"drift": "0.5"}, ValueError, "must be '<' or '>' and a number. Received: '0.5' of 'drift'"),
        ({"drift": ">= 0.5"}, ValueError, "must be '<' or '>'"),
        ({"drift": "> nan"}, ValueError, "must be '<' or '>'"),
        ({"drift": 0.5}, TypeError, "must be a dict of lines"),
        ("drift > 0.5", TypeError, "must be a dict of lines"),
    ],
)
def test_lines_are_checked_at_once(alerts, error, message):
    with pytest.raises(error, match=message):
        GradCAMLogger(X, alerts=alerts)


def test_names_are_checked_before_the_first_batch():
    begun = []
    before = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: begun.append(batch))
    with pytest.raises(
        ValueError, match=r"must name numbers that are measured\. Received: 'drif'\. Did you mean 'drift'.*\?"
    ):
        fit(GradCAMLogger(X, tracker=None, alerts={"drif": "> 0.5"}), before)
    with pytest.raises(ValueError, match="Received: 'energy_in_region'"):
        fit(GradCAMLogger(X, tracker=None, alerts={"energy_in_region": "< 0.5"}), before)
    assert begun == []


def test_said_once_in_a_run_of_two_fits_and_in_the_process_that_goes_on(tmp_path):
    def logger(**more):
        return GradCAMLogger((X, Y), alerts={"area": "> 0", "drift": "> 2"}, log_dir=tmp_path, report=False, **more)

    memory, model = MemoryTracker(), tiny_model()
    first = logger(tracker=["disk", "trackio", "wandb", memory])
    trackio, run = trackio_run(tmp_path), wandb_run()
    with pytest.warns(RuntimeWarning, match=r"gradcam: area is \S+ in epoch 0, above 0$"):
        fit(first, model=model, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(first, model=model, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, Y, initial_epoch=4, epochs=5, verbose=0, callbacks=[logger(tracker="disk", run="gradcam")])

    stored = [epoch.alerts for epoch in read_run(tmp_path / "gradcam").epochs]
    assert [[alert.name for alert in alerts] for alerts in stored] == [["area"], [], [], [], []]
    assert [record.alerts for record in memory.records] == stored[:4]
    (alert,) = stored[0]
    assert finished_log(run).alerts == [("gradcam/area", alert.text)]

    from trackio.sqlite_storage import SQLiteStorage

    trackio.finish()
    (row,) = SQLiteStorage.get_alerts(trackio.project, trackio.name)
    assert (row["title"], row["text"], row["step"]) == ("gradcam/area", alert.text, 0)
