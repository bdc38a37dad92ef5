"""Records whose steps are training steps: what stands in them, who goes on with them, and what is missing."""

import json

import numpy as np
import pytest
from sample_records import make_config, make_record

from keras_cam_callbacks import compare, read_run
from keras_cam_callbacks.store import Event, RunWriter, choose_directory


def write(folder, places, events=(), **config):
    """Writes (step, epoch, batch) of each point."""
    writer = RunWriter(made := make_config(folder, **config))
    for step, epoch, batch in places:
        writer.write(make_record(step, epoch=epoch, batch=batch))
    for event in events:
        writer.note(event)
    return made


# Two fits of a run: of two epochs of 782 steps, and of one.
PLACES = [
    *((500, 0, 500), (782, 0, None), (1000, 1, 218), (1500, 1, 718), (1564, 1, None)),
    *((2000, 0, 436), (2346, 0, None)),
]


def test_a_record_says_where_within_its_epochs_it_was_logged(tmp_path):
    write(tmp_path / "run", PLACES, steps=500)
    run = read_run(tmp_path / "run")
    assert run.steps == 500
    assert [(epoch.step, epoch.epoch, epoch.batch) for epoch in run.epochs] == PLACES
    assert run.missing() == ()
    assert (tmp_path / "run" / "sheets" / "000500.jpg").is_file()
    # Records of epochs are written as before.
    write(tmp_path / "epochs", [(0, 0, None)])
    assert "steps" not in json.loads((tmp_path / "epochs" / "manifest.json").read_text())
    assert "batch" not in json.loads((tmp_path / "epochs" / "metrics.jsonl").read_text())
    assert read_run(tmp_path / "epochs").steps is None


@pytest.mark.parametrize(("line", "wrong"), [("batch", 0), ("batch", "2"), ("steps", 0), ("steps", 2.5)])
def test_wrong_counts_are_refused(tmp_path, line, wrong):
    write(tmp_path, PLACES[:1], steps=500)
    path = tmp_path / ("metrics.jsonl" if line == "batch" else "manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {line: wrong}) + "\n")
    with pytest.raises(ValueError, match=r"batches|must be whole"):
        read_run(tmp_path)


def test_what_is_missing_are_epochs(tmp_path):
    failed = Event(2, 1700, 0.0, "The heatmaps", "ValueError: no")
    write(tmp_path, [(782, 0, None), (1564, 1, None), (5000, 5, 90)], [failed], steps=500)
    assert [str(missing) for missing in read_run(tmp_path).missing()] == [
        "epoch 2: failed: The heatmaps: ValueError: no",
        "epochs 3 to 4: not logged, for what had failed in epoch 2 was switched off until the next fit",
    ]


@pytest.mark.parametrize(
    ("start", "last", "offset"),
    # The third epoch was not finished: it runs again, and so does what was logged in it.
    [(2, 1564, 1564), (1, 782, 782)],
)
def test_a_fit_goes_on_after_the_last_epoch_that_ended(tmp_path, start, last, offset):
    config = write(tmp_path / "gradcam", [*PLACES[:5], (2000, 2, 436)], steps=500)
    place = choose_directory(tmp_path, config, start, "gradcam")
    assert (place.directory.name, place.last_step, place.offset) == ("gradcam", last, offset)
    if start == 2:  # It is found without its name, too.
        assert choose_directory(tmp_path, config, start).directory.name == "gradcam"
    other = make_config(tmp_path / "gradcam")
    with pytest.raises(ValueError, match="differs in freq"):
        choose_directory(tmp_path, other, start, "gradcam")
    assert choose_directory(tmp_path, other, start).directory.name == "gradcam-2"


def test_runs_of_steps_stand_beside_runs_of_epochs_by_their_epochs(tmp_path):
    write(tmp_path / "steps", PLACES, steps=500)
    write(tmp_path / "epochs", [(0, 0, None), (1, 1, None), (2, 0, None)])
    both = compare([tmp_path / "steps", tmp_path / "epochs"])
    assert (both.epochs, both.unit) == ((0, 1, 2), "epoch")
    assert both.held().all()
    np.testing.assert_array_equal(both.heatmaps(0, 1), read_run(tmp_path / "steps").epochs[4].heatmaps())
    assert "Of steps, epoch ends alone, as others count epochs." in both.summary()
    alone = compare([tmp_path / "steps"])
    assert (alone.epochs, alone.unit) == (tuple(step for step, *_ in PLACES), "step")
    assert [row["epoch"] for row in alone.table("epoch")] == [epoch for _, epoch, _ in PLACES]
    write(tmp_path / "begun", PLACES[:1], steps=500)
    with pytest.raises(ValueError, match="needs an epoch's end"):
        compare([tmp_path / "begun", tmp_path / "epochs"])
