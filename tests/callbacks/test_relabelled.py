"""Fits that go on with other labels, with labels that were missing before, or with another training."""

from __future__ import annotations

import keras
import pytest
from fits import X, Y, fit, new_model, tiny_model

from keras_cam_callbacks import GradCAMLogger, compare, read_run


def logger(log_dir, labels=Y, **settings):
    data = X if labels is None else (X, labels)
    return GradCAMLogger(data, tracker="disk", log_dir=log_dir, **settings)


def right(folder):
    """Of each run's first sample: label, predicted and whether that is right, epoch by epoch."""
    rows = compare([folder]).table()
    return [(row["label"], row["correct"]) for row in rows if row["sample"] == rows[0]["sample"]]


def test_relabelled_data_begin_a_record_of_their_own(tmp_path):
    other = (Y + 1) % 3
    fit(logger(tmp_path), model=tiny_model(), epochs=2)
    resumed = logger(tmp_path, other)
    with pytest.warns(RuntimeWarning, match="right before epoch 2 differs in labels, so that a new record begins"):
        fit(resumed, model=tiny_model(), epochs=4, initial_epoch=2)
    assert resumed.directory.name == "gradcam-2"
    for name, labels, epochs in (("gradcam", Y, 2), ("gradcam-2", other, 2)):
        run = read_run(tmp_path / name)
        rows = right(tmp_path / name)
        predicted = [int(epoch.arrays()["predicted"][0]) for epoch in run.epochs]
        assert len(rows) == epochs
        assert rows == [(int(labels[0]), int(labels[0]) == of_epoch) for of_epoch in predicted]
    with pytest.raises(ValueError, match=r"record differs in labels\."):
        fit(logger(tmp_path, other, run="gradcam"), model=tiny_model(), epochs=4, initial_epoch=2)


def test_one_logger_whose_class_names_are_swapped_begins_another_record(tmp_path):
    one, model = logger(tmp_path, class_names=["a", "b", "c"]), tiny_model()
    fit(one, model=model)
    one.class_names = ["b", "a", "c"]
    fit(one, model=model)
    assert one.directory.name == "gradcam-2"


def test_labels_that_come_later_are_told_once_and_counted(tmp_path, capsys):
    fit(logger(tmp_path, None), model=tiny_model(), epochs=2)
    capsys.readouterr()
    model = tiny_model()
    model.fit(X, Y, epochs=4, initial_epoch=2, verbose=2, callbacks=[logger(tmp_path, class_names=["a", "b", "c"])])
    assert capsys.readouterr().out.count("its record had no labels before") == 1
    run = read_run(tmp_path)
    assert [epoch.epoch for epoch in run.epochs] == [0, 1, 2, 3]
    assert run.labels == tuple(Y.tolist())
    assert run.class_names == ("a", "b", "c")
    assert compare([tmp_path]).table("epoch")[-1]["accuracy"] is not None


def test_the_training_of_a_second_phase_is_kept(tmp_path):
    """By a new logger, and by the same one."""
    model = new_model()
    for number, optimizer in enumerate([keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-5)]):
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        last = logger(tmp_path)
        fit(last, model=model, epochs=2 * number + 2, initial_epoch=2 * number)
    model.compile("rmsprop", "sparse_categorical_crossentropy", jit_compile=False)
    fit(last, model=model, epochs=1)
    run = read_run(tmp_path)
    assert [epoch.training["optimizer"] for epoch in run.epochs] == ["Adam"] * 2 + ["SGD"] * 2 + ["RMSprop"]
    assert [settings["learning_rate"] for settings in run.trainings] == [0.001, 1e-5, 0.001]
