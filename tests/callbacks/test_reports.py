"""The report that a fit leaves behind: beside the record, and in the trackers' runs."""

import re

import keras
import mlflow
import pytest
from fits import X, Y, fit, tiny_model
from tracker_logs import mlflow_run
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks import ActivationLogger, GradCAMLogger, MemoryTracker


def epochs_of(report):
    """The epochs that a report's slider has."""
    return re.search(rb'"epochs":\[([\d,]*)\]', report.read_bytes())[1].decode()


def test_each_fit_replaces_it_and_trackers_get_it(tmp_path):
    class Bare:
        """A class of the user's that takes no files."""

        def start(self, config): ...
        def log(self, record): ...
        def finish(self): ...

    model, run = tiny_model(), wandb_run()
    mine = mlflow_run(tmp_path)
    logger = GradCAMLogger((X, Y), tracker=["disk", "wandb", "mlflow", MemoryTracker(), Bare()], log_dir=tmp_path)
    fit(logger, model=model, epochs=1)
    report = tmp_path / "gradcam" / "report.html"
    assert epochs_of(report) == "0"
    fit(logger, model=model, epochs=2)
    assert epochs_of(report) == "0,1,2"
    mlflow.end_run()
    sent = mlflow.artifacts.download_artifacts(
        run_id=mine.info.run_id, artifact_path="gradcam/report.html", dst_path=str(tmp_path / "sent")
    )
    log = finished_log(run)
    panel = log.rows_with("gradcam/report")[-1]["gradcam/report"]
    assert panel["_type"] == "html-file"
    for file in (sent, log.files / panel["path"], log.files / "gradcam" / "report.html"):
        with open(file, "rb") as lines:
            assert lines.read() == report.read_bytes()
    assert ("gradcam/report.html", "NOW") in log.saved
    # It takes no row away from the epochs.
    assert [row["gradcam/step"] for row in log.rows_with("gradcam/overlays")] == [0, 1, 2]


def test_none_after_an_interruption(tmp_path):
    """That of the fit before would lack what came since."""

    def interrupt(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    model, logger = tiny_model(), GradCAMLogger((X, Y), tracker="disk", log_dir=tmp_path)
    fit(logger, model=model, epochs=1)
    assert (tmp_path / "gradcam" / "report.html").exists()
    with pytest.raises(KeyboardInterrupt):
        fit(logger, keras.callbacks.LambdaCallback(on_epoch_end=interrupt), model=model, epochs=3)
    assert not (tmp_path / "gradcam" / "report.html").exists()
    fit(logger, model=model, epochs=1)
    assert epochs_of(tmp_path / "gradcam" / "report.html") == "0,1,2,3"


def test_none_where_there_is_no_record_or_it_is_not_wanted(tmp_path):
    loggers = [
        GradCAMLogger((X, Y), prefix="unwanted", tracker="disk", log_dir=tmp_path, report=False),
        GradCAMLogger((X, Y), prefix="memory", tracker="memory", log_dir=tmp_path),
        ActivationLogger((X, Y), tracker="disk", log_dir=tmp_path),  # It has no heatmaps.
    ]
    tiny_model().fit(X, Y, epochs=1, verbose=0, callbacks=loggers)
    assert not list(tmp_path.rglob("*.html"))


def test_what_fails_ends_no_training(tmp_path):
    memory = MemoryTracker()
    logger = GradCAMLogger((X, Y), tracker=["disk", memory], log_dir=tmp_path)

    def damage(epoch, logs):
        (tmp_path / "gradcam" / "manifest.json").write_text("{")

    with pytest.warns(RuntimeWarning, match="The report failed"):
        fit(logger, keras.callbacks.LambdaCallback(on_epoch_end=damage), epochs=1)
    assert len(memory.records) == 1
