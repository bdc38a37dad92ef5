"""Samples with several labels, or with none of them: what is right of a prediction."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from comparison_records import write_run

from keras_cam_callbacks import compare

MAPS = np.random.default_rng(0).random((1, 4, 5, 5), np.float32)


def written(folder, labels, predicted):
    return write_run(folder, MAPS, labels=labels, predicted=[predicted], class_names=("a", "b", "c"))


def test_a_sample_without_any_label_is_neither_right_nor_wrong(tmp_path):
    comparison = compare([written(tmp_path / "run", ((0, 2), (), (1,), ()), [2, 0, 0, 1])])
    np.testing.assert_array_equal(comparison.correct()[0, 0], [1, np.nan, 0, np.nan])
    assert [row["correct"] for row in comparison.table()] == [True, None, False, None]
    assert [row["label_name"] for row in comparison.table()] == ["a, c", "none", "b", "none"]
    (row,) = comparison.table("epoch")
    assert row["top_label"] == 0.5
    assert "accuracy" not in row
    assert "the highest label is one of theirs in 1 of 2 samples (top_label)" in comparison.summary()
    assert comparison.most_different()[0] == 2
    page = comparison.report(tmp_path / "report.html").path.read_text("utf-8")
    assert "images without any are not counted" in page
    comparison.to_csv(tmp_path / "run.csv")
    with open(tmp_path / "run.csv", newline="") as file:
        assert [row["correct"] for row in csv.DictReader(file)] == ["True", "", "False", ""]
    comparison.figure(metric="top_label")


def test_samples_of_which_none_has_a_label_have_no_such_number(tmp_path):
    comparison = compare([written(tmp_path / "run", ((),) * 4, [0, 1, 2, 0])])
    assert comparison.table("epoch")[0]["top_label"] is None
    assert "top_label" not in comparison.summary()
    with pytest.raises(ValueError, match="`metric` must be one of"):
        comparison.figure(metric="top_label")


def test_single_labels_and_lists_of_them_are_compared(tmp_path):
    """As of two loggers, of which one has seen samples with one label alone."""
    runs = [
        written(tmp_path / "one", (0, 1, 2, None), [0, 0, 2, 1]),
        written(tmp_path / "many", ((0,), (1,), (2,), (0, 1)), [0, 1, 2, 1]),
    ]
    for order in (runs, runs[::-1]):
        comparison = compare(order)
        assert comparison.labels == ((0,), (1,), (2,), (0, 1))
        assert sorted(row["top_label"] for row in comparison.table("epoch")) == [0.75, 1]
    assert compare(runs[:1]).table("epoch")[0]["accuracy"] == pytest.approx(2 / 3)
    written(tmp_path / "other", ((0,), (1, 2), (2,), ()), [0, 1, 2, 1])
    with pytest.raises(ValueError, match="must have the same label in all runs"):
        compare([*runs, tmp_path / "other"])
