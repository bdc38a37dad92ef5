"""Numbers by class, and since when a run has settled."""

import numpy as np
import pytest
from comparison_records import peak_at, write_run

from keras_cam_callbacks import compare, read_run
from keras_cam_callbacks.metrics import magnitude, means_by_class, measured

NAN = np.nan
DRIFT = [NAN, 0.5, 0.05, 0.3, 0.08, 0.01]
LABELS = (0, 0, 1, 1)
# Of each epoch, then of each sample.
PREDICTED = [[0, 1, 1, 1]] * 6
RATIO = [[2.0, 2.2, 0.4, 0.6]] * 6


def run(folder, drift=DRIFT, **settings):
    maps = np.broadcast_to(peak_at(1, 1), (6, 4, 6, 6))
    values = {"energy_ratio": np.array(RATIO), "drift": np.repeat(np.array(drift)[:, None], 4, axis=1)}
    settings = {"labels": LABELS, "class_names": ("cat", "dog")} | settings
    return write_run(folder, maps, values=values, predicted=PREDICTED, scalars={"drift": drift}, **settings)


def test_a_run_has_settled_where_drift_stays_low(tmp_path):
    stored = read_run(run(tmp_path / "a"))
    assert [stored.settled(t) for t in (0.1, 0.4, 0.02, 0.005)] == [4, 2, 5, None]
    assert read_run(run(tmp_path / "b", drift=[NAN] * 6)).settled() is None
    both = compare([tmp_path / "a", tmp_path / "b"])
    assert both.settled().tolist() == [4, -1]
    assert both.settled(0.4).tolist() == [2, -1]
    assert "its heatmaps hardly move since epoch 4 (drift below 0.1)" in both.summary().splitlines()[1]
    assert "hardly move" not in both.summary().splitlines()[2]
    for settled in (stored.settled, both.settled):
        with pytest.raises(ValueError, match=r"`threshold` must be in \(0, 2\]"):
            settled(0)


def test_numbers_by_true_and_by_predicted_class(tmp_path):
    epoch = read_run(run(tmp_path / "a")).epochs[-1]
    assert epoch.by_class() == {
        0: {"samples": 2, "energy_ratio": pytest.approx(2.1), "drift": 0.01},
        1: {"samples": 2, "energy_ratio": pytest.approx(0.5), "drift": 0.01},
    }
    assert epoch.by_class("predicted")[1] == {
        "samples": 3, "energy_ratio": pytest.approx(3.2 / 3), "drift": pytest.approx(0.01),
    }  # fmt: skip
    with pytest.raises(ValueError, match="'true' or 'predicted'"):
        epoch.by_class("false")
    comparison = compare([tmp_path / "a"])
    rows = comparison.table("class")
    assert len(rows) == 6 * 2
    assert rows[-1] == {
        "run": comparison.names[0], "epoch": 5, "label": 1, "label_name": "dog", "samples": 2, "accuracy": 1.0,
        "confidence": 0.5, "energy_ratio": 0.5, "drift": 0.01,
    }  # fmt: skip
    assert [(row["predicted_name"], row["samples"]) for row in comparison.table("predicted")[-2:]] == [
        ("cat", 1), ("dog", 3),
    ]  # fmt: skip
    comparison.to_csv(tmp_path / "classes.csv", "class")
    assert (tmp_path / "classes.csv").read_text().count("\n") == 13
    line = comparison.summary().splitlines()[1]
    assert "looks away from the object in class dog (2 samples, 0.5 times chance)" in line


def test_several_labels_count_for_each_and_none_for_no_class():
    found = means_by_class({"area": [0.25, 0.75, 0.5, NAN]}, [(0, 2), (2,), None, (0,)])
    assert found == {0: {"samples": 2, "area": 0.25}, 2: {"samples": 2, "area": 0.5}}
    assert means_by_class({"area": [1.0]}, [-1]) == {}


def test_a_report_has_numbers_by_class(tmp_path):
    pytest.importorskip("plotly")
    compare([run(tmp_path / "a")]).report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "By class, last epoch" in page
    assert "accuracy: cat" in page
    assert "first epoch since which drift stays below 0.1" in page


def test_magnitude_is_of_the_raw_values():
    maps = np.array([[[1, -3], [0, 0]], np.zeros((2, 2)), [[np.inf, 0], [0, 0]], np.full((2, 2), 2e38)], "float32")
    np.testing.assert_allclose(magnitude(maps), [1, 0, NAN, 2e38], rtol=1e-6)
    np.testing.assert_allclose(measured(7 * maps[:2], ["magnitude"])["magnitude"], [7, 0])
