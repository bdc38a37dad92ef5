"""What a later fit of a run knows, or does otherwise: labels, class names, training and trackers' runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sample_records import make_config, make_record

from keras_cam_callbacks import compare, read_run
from keras_cam_callbacks.store import RunWriter, choose_directory

UNKNOWN = (None, None, None)


def write(folder, steps, **changes):
    """Writes some epochs as one fit."""
    writer = RunWriter(make_config(folder, **changes))
    for step in steps:
        writer.write(make_record(step, outputs=None))
    return folder


def place(log_dir, start, run=None, held=(), **changes):
    return choose_directory(log_dir, make_config(log_dir, **changes), start, run, held)


# ---- Labels and class names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"labels": (None, 0, 0)}, "labels"),
        ({"labels": (1, 1, 1)}, "labels"),
        ({"labels": ((0, 1), (1,), (1, 2))}, "labels"),
        ({"class_names": ("dog", "cat")}, "class_names"),
        ({"class_names": ("bird", "cat", "dog")}, "class_names"),
    ],
)
def test_what_was_labelled_otherwise_is_another_run(tmp_path, changes, name):
    write(tmp_path / "gradcam", range(3))
    chosen = place(tmp_path, 3, **changes)
    assert (chosen.directory.name, chosen.last_step, chosen.is_doubtful) == ("gradcam-2", None, True)
    assert f"what stopped right before epoch 3 differs in {name}, so that a new record begins" in chosen.said
    assert f"with its {name}, run='gradcam' goes on" in chosen.said
    with pytest.raises(ValueError, match=rf"differs in {name}\. Without `run`"):
        place(tmp_path, 3, "gradcam", **changes)
    with pytest.raises(ValueError, match=rf"differs in {name}\. Pass another log_dir"):
        write(tmp_path / "gradcam", [3], **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": (None, (1,), 0)},  # A list of one label is that label.
        {"class_names": ("cat", "puppy")},
        {"class_names": ("cat", "dog", "bird")},
    ],
)
def test_what_is_only_called_otherwise_goes_on(tmp_path, changes):
    write(tmp_path / "gradcam", range(3))
    assert place(tmp_path, 3, **changes).directory.name == "gradcam"


def test_labels_that_the_record_lacks_are_kept_from_the_fit_on_that_has_them(tmp_path):
    write(tmp_path / "gradcam", [0, 1], labels=UNKNOWN, class_names=None)
    later = {"labels": (0, 1, 1), "class_names": ("cat", "dog")}
    said = place(tmp_path, 2, **later).said
    assert "its record had no labels before, and has those of this fit from now on" in said
    assert "its record had no class names before" in said
    assert place(tmp_path, 2, "gradcam", **later).said == said
    write(tmp_path / "gradcam", [2, 3], **later)
    run = read_run(tmp_path)
    assert run.manifest["labels"] == [None] * 3
    assert [epoch.labels for epoch in run.epochs] == [UNKNOWN] * 2 + [(0, 1, 1)] * 2
    assert [epoch.class_names for epoch in run.epochs] == [None] * 2 + [("cat", "dog")] * 2
    assert (run.labels, run.class_names) == ((0, 1, 1), ("cat", "dog"))
    lines = [json.loads(line) for line in (tmp_path / "gradcam" / "metrics.jsonl").read_text().splitlines()]
    assert ["labels" in line for line in lines] == [False, False, True, False]
    # They are the run's now: a third fit can't have others, and one without them keeps them.
    assert place(tmp_path, 4, labels=(1, 0, 0)).directory.name == "gradcam-2"
    kept = place(tmp_path, 4, labels=UNKNOWN, class_names=None)
    assert kept.directory.name == "gradcam"
    assert "it keeps the labels of its record, as this fit has none" in kept.said
    write(tmp_path / "gradcam", [4], labels=UNKNOWN, class_names=None)
    assert read_run(tmp_path / "gradcam").epochs[-1].labels == (0, 1, 1)
    comparison = compare([tmp_path / "gradcam"])
    assert (comparison.labels, comparison.class_names) == ((0, 1, 1), ("cat", "dog"))
    assert comparison.table()[1]["correct"] is not None


def test_labels_of_some_samples_are_taken_from_either_side(tmp_path):
    write(tmp_path / "gradcam", [0], labels=(0, None, None))
    assert "with a label in its record or in this fit alone" in place(tmp_path, 1, labels=(None, 1, None)).said
    write(tmp_path / "gradcam", [1], labels=(None, 1, None))
    assert read_run(tmp_path).labels == (0, 1, None)


def test_a_fit_that_knows_the_same_says_nothing(tmp_path):
    write(tmp_path / "gradcam", [0, 1])
    assert place(tmp_path, 2).said == ""
    write(tmp_path / "gradcam", [2])
    assert (
        not {"labels", "class_names", "training", "tracked"}
        & json.loads((tmp_path / "gradcam" / "metrics.jsonl").read_text().splitlines()[-1]).keys()
    )


@pytest.mark.parametrize("labels", [[0], "abc", [0.5, 1, 1], [[[1]], 0, 0]])
def test_labels_of_a_damaged_line_are_refused(tmp_path, labels):
    write(tmp_path / "gradcam", [0])
    log = tmp_path / "gradcam" / "metrics.jsonl"
    log.write_text(json.dumps(json.loads(log.read_text()) | {"labels": labels}) + "\n")
    with pytest.raises(ValueError, match="Received in line 1"):
        read_run(tmp_path)


# ---- How many epochs were logged -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freqs", "epochs", "start", "goes_on"),
    [
        ((1, 5), ((0, 1, 2), (3, 5, 10)), 14, True),
        ((1, 5), ((0, 1, 2), (3, 5, 10)), 21, False),
        ((5, 1), ((0, 5), (8, 9)), 10, True),
        ((5, 1), ((0, 5), (8, 9)), 13, False),  # Epochs 10 to 12 would be there.
        ((None, 5), ((0, 1), (2, 5)), 9, True),  # A record of schema 1.
        ((None, 1), ((0, 5), (6, 7)), 10, False),
    ],
)
def test_how_many_epochs_the_last_fit_logged_counts(tmp_path, freqs, epochs, start, goes_on):
    folder = write(tmp_path / "gradcam", epochs[0], freq=freqs[0] or 1)
    if freqs[0] is None:
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["freq"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    write(folder, epochs[1], freq=freqs[1])
    # What the logger has now tells nothing of that.
    chosen = place(tmp_path, start, freq=5)
    assert (chosen.directory == folder) == goes_on
    assert chosen.is_doubtful == (not goes_on)


# ---- Training -------------------------------------------------------------------------------------------------

ADAM = {"optimizer": "Adam", "learning_rate": 0.001, "epochs": 2}
SGD = {"optimizer": "SGD", "learning_rate": 1e-5, "epochs": 4}


def test_each_fit_of_a_run_keeps_how_it_was_trained(tmp_path):
    run = tmp_path / "two phases" / "gradcam"
    write(run, [0, 1], training=ADAM)
    write(run, [2], training=SGD)
    write(run, [3], training=SGD)  # The process was killed, and went on.
    other = write(tmp_path / "one phase" / "gradcam", range(4), training=ADAM | {"epochs": 4})
    assert [epoch.training for epoch in read_run(run).epochs] == [ADAM, ADAM, SGD, SGD]
    assert read_run(run).trainings == (ADAM, SGD)
    assert compare([run, other]).differences == {
        "training.optimizer": (["Adam", "SGD"], "Adam"),
        "training.learning_rate": ([0.001, 1e-5], 0.001),
        "training.epochs": ([2, 4], 4),
    }
    assert "training.optimizer (['Adam', 'SGD'] / Adam)" in compare([run, other]).summary()


def test_two_runs_of_the_same_phases_differ_in_none(tmp_path):
    for name in ("one", "other"):
        write(tmp_path / name / "gradcam", [0, 1], training=ADAM)
        write(tmp_path / name / "gradcam", [2], training=SGD)
    assert compare([tmp_path / "one", tmp_path / "other"]).differences == {}


def test_an_epoch_that_is_logged_again_is_of_the_later_fit(tmp_path):
    write(tmp_path / "gradcam", [0, 1], training=ADAM)
    write(tmp_path / "gradcam", [1, 2], training=SGD)
    assert [epoch.training["optimizer"] for epoch in read_run(tmp_path).epochs] == ["Adam", "SGD", "SGD"]
    write(tmp_path / "gradcam", [3], training={})  # A loop of one's own says nothing.
    assert read_run(tmp_path).epochs[-1].training == SGD


# ---- Runs of trackers' libraries ------------------------------------------------------------------------------


def test_a_record_that_goes_on_under_another_run_of_a_library_says_so(tmp_path):
    write(tmp_path / "gradcam", [0, 1], tracked=("mlflow:a",), run_id="id")
    chosen = place(tmp_path, 2, held=("mlflow:b",))
    assert chosen.directory.name == "gradcam"
    assert "what was sent to mlflow:a goes on in mlflow:b" in chosen.said
    assert "another `log_dir` or `prefix` begins a record of its own" in chosen.said
    assert place(tmp_path, 2, held=("mlflow:a",)).said == place(tmp_path, 2).said == ""
    # Both are known from then on, also where the later one has no tags.
    write(tmp_path / "gradcam", [2], tracked=("mlflow:b",))
    assert read_run(tmp_path).latest["tracked"] == ["mlflow:a", "mlflow:b"]
    for name in ("a", "b"):
        assert place(tmp_path, 9, held=(f"mlflow:{name}",)).directory.name == "gradcam"
    np.testing.assert_equal(read_run(tmp_path).manifest["tracked"], ["mlflow:a"])
