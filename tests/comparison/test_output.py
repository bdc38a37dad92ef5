"""What a comparison gives out: tables, files, sentences and figures."""

import base64
import csv
import html
import importlib.util
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from comparison_records import peak_at, write_run
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from paths import ROOT

from keras_cam_callbacks import Overlay, compare
from keras_cam_callbacks.records import Region

KEYS = ("sample_00", "sample_01", "sample_02", "sample_03")
BOX = Region(np.array([[0.5, 0.5, 1, 1]]))


@pytest.fixture
def pair(tmp_path):
    """A run that learns to look at the object, bottom right, and one that goes to the top left corner in epoch 2."""
    at, corner = peak_at(4, 4), peak_at(0, 0)
    honest = [[at] * 4] * 4
    shortcut = [[at] * 4, [at, at, at, corner], [corner] * 4, [corner] * 4]
    ratios = {"honest": (2.5, 3, 3, 3.2), "shortcut": (2, 1.6, 0.4, 0.2)}
    predicted = {"honest": [[0, 1, 0, 1]] * 4, "shortcut": [[0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]]}
    return [
        write_run(
            tmp_path / name / "gradcam", maps, labels=(0, 1, 0, 1), predicted=predicted[name],
            targets=[[0, 1, 0, 1]] * 4, target="true", regions=(BOX,) * 4,
            values={
                "energy_in_region": [[ratio / 4] * 4 for ratio in ratios[name]],
                "energy_ratio": [[ratio] * 4 for ratio in ratios[name]],
                "pointing": [[float(ratio > 1)] * 3 + [np.nan] for ratio in ratios[name]],
            },
            scalars={"degenerate": [0] * 4},
        )
        for name, maps in (("honest", honest), ("shortcut", shortcut))
    ]  # fmt: skip


# Tables and files


def test_a_row_for_each_run_epoch_and_sample(pair):
    found = compare(pair)
    rows = found.table()
    assert [(row["run"], row["epoch"], row["sample"]) for row in rows] == [
        (run, epoch, key) for run in ("honest", "shortcut") for epoch in range(4) for key in KEYS
    ]
    row = rows[16 + 12 + 1]  # shortcut, epoch 3, sample_01
    assert row == {
        "run": "shortcut",
        "epoch": 3,
        "sample": "sample_01",
        "label": 1,
        "label_name": "dog",
        "predicted": 0,
        "predicted_name": "cat",
        "explained": 1,
        "correct": False,
        "confidence": 0.5,
        "agreement": pytest.approx(found.agreement[0, 3, 1]),
        "energy_in_region": 0.05,
        "energy_ratio": 0.2,
        "pointing": 0,
    }
    assert rows[3]["pointing"] is None
    assert all(type(value) in (str, int, float, bool, type(None)) for row in rows for value in row.values())


def test_a_row_for_each_run_and_epoch(pair):
    rows = compare(pair).table("epoch")
    assert len(rows) == 8
    last = rows[-1]
    agreement = last.pop("agreement")
    assert last == {
        "run": "shortcut", "epoch": 3, "samples": 4, "accuracy": 0.5, "confidence": 0.5, "degenerate": 0,
        "energy_in_region": pytest.approx(0.05), "energy_ratio": pytest.approx(0.2), "pointing": 0,
    }  # fmt: skip
    assert agreement == pytest.approx(compare(pair).agreement[0, 3].mean())


def test_means_are_over_the_compared_samples(tmp_path):
    maps = np.random.default_rng(0).random((1, 2, 4, 4))
    more = write_run(tmp_path / "a", maps, keys=("x", "y"), values={"area": [[1, 3]]}, scalars={"area": [2], "z": [7]})
    less = write_run(tmp_path / "b", maps[:, :1], keys=("x",), values={"area": [[5]]}, scalars={"area": [5]})
    rows = compare([more, less]).table("epoch")
    assert [(row["area"], row["z"]) for row in rows] == [(1, 7), (5, None)]


def test_of_three_runs_each_agreement_has_a_column(tmp_path):
    maps = np.random.default_rng(0).random((3, 1, 1, 4, 4))
    found = compare([write_run(tmp_path / name, each) for name, each in zip("abc", maps, strict=True)])
    row = found.table()[1]
    ab, ac, bc = found.agreement[:, 0, 0].tolist()
    assert row["agreement"] == pytest.approx((ab + bc) / 2)
    assert row["agreement with a"] == ab
    assert row["agreement with b"] is None
    assert row["agreement with c"] == bc
    assert found.table()[0]["agreement with c"] == ac


@pytest.mark.parametrize("grain", ["sample", "epoch"])
def test_files_hold_the_table(pair, tmp_path, grain):
    found = compare(pair)
    rows = found.table(grain)
    found.to_json(tmp_path / "table.json", grain)
    assert json.loads((tmp_path / "table.json").read_text("utf-8"), parse_constant=pytest.fail) == rows
    found.to_csv(str(tmp_path / "table.csv"), grain)
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"table.csv", "table.json"}
    with pytest.raises(ValueError, match=r"`grain` must be one of sample, epoch, class, predicted\. Received: 'run'"):
        found.table("run")


def test_names_are_no_formulas_and_no_broken_text(tmp_path):
    names = ("=1+1", "\ud800,\"'\n-2")
    run = write_run(
        tmp_path / "gradcam", np.random.default_rng(0).random((1, 2, 4, 4)), keys=("@x", " +y"), class_names=names,
        labels=(0, 1), values={"-area": [[-1, 2]], "run": [[3, 4]]},
    )  # fmt: skip
    found = compare([run], names=["=cmd|' /C calc'!A0"])
    found.to_csv(tmp_path / "x.csv")
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        head, first, second = csv.reader(file)
    assert head[-1] == "'-area"  # The number "run" does not take the run's place.
    assert first[:5] == ["'=cmd|' /C calc'!A0", "0", "'@x", "0", "'=1+1"]
    assert first[-1] == "-1.0"
    assert second[2] == "' +y"
    assert second[4] == "\ufffd,\"'\ufffd-2"
    found.to_json(tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == found.table()
    assert "=cmd|" in found.summary()


@pytest.mark.parametrize("write", ["to_csv", "to_json"])
def test_files_are_written_whole_or_not_at_all(pair, tmp_path, write):
    found = compare(pair)
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "table"
    path.write_text("before", "utf-8")
    # A number that is none comes up in the second run, when rows have been written.
    values = np.full((2, 4, 4), 0, object)
    values[1, 2, 1] = {"no": "number"}
    with pytest.raises(TypeError):
        getattr(replace(found, values={"broken": values}), write)(path)
    with pytest.raises(ValueError, match="`grain`"):
        getattr(found, write)(path, "run")
    assert path.read_text("utf-8") == "before"
    (folder / "taken").mkdir()
    for place in (folder / "taken", path / "table"):
        with pytest.raises(ValueError, match=r"taken|is a file"):
            getattr(found, write)(place)
    assert sorted(each.name for each in folder.iterdir()) == ["table", "taken"]
    getattr(found, write)(path)
    assert "shortcut" in path.read_text("utf-8")
    assert len(list(folder.iterdir())) == 2


# Sentences


def test_the_summary_says_who_looks_where_and_since_when(pair):
    lines = compare(pair).summary().splitlines()
    assert lines[:3] == [
        "2 runs, 4 samples, epochs 0 to 3.",
        "honest, epoch 3: looks at the object from its first epoch on: 80% of its heat lies on it (energy_in_region), "
        "3.2 times what chance would give (energy_ratio), its peak is on it in 3 of 3 samples (pointing); its peak is "
        "near the bottom right corner of the image in 4 of 4 samples from its first epoch on; 4 of 4 predictions are "
        "right (accuracy).",
        "shortcut, epoch 3: does not look at the object from epoch 2 on: 5% of its heat lies on it (energy_in_region), "
        "0.2 times what chance would give (energy_ratio), its peak is on it in 0 of 3 samples (pointing); its peak is "
        "near the top left corner of the image in 4 of 4 samples from epoch 2 on; 2 of 4 predictions are right "
        "(accuracy).",
    ]
    found = compare(pair)
    before, after = found.agreement[0, 1].mean(), found.agreement[0, 3].mean()
    assert lines[3] == (
        f"They look at different places from epoch 2 on: mean agreement {before:.2f} before, below 0.5 since; "
        f"mean agreement {after:.2f} in epoch 3."
    )
    assert lines[4].startswith("They differ most in these samples (mean agreement over the epochs): 'sample_03' (")
    assert lines[5] == "Their records differ in no setting; what data they were trained on is not in them."


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(1.5, "looks at the object from"), (1.49, "hardly prefers the object from"), (1, "does not look at the object")],
)
def test_the_summary_draws_the_line_where_it_says(tmp_path, ratio, said):
    run = write_run(tmp_path / "a", [[peak_at(2, 2)]] * 2, values={"energy_ratio": [[ratio]] * 2})
    assert said in compare([run]).summary()


def test_the_summary_does_not_say_what_was_not_measured(tmp_path):
    nothing = write_run(tmp_path / "a" / "x", np.zeros((1, 2, 3, 3)), labels=(None, None))
    far = [[peak_at(0, 0), peak_at(5, 5)]]
    apart = write_run(tmp_path / "b" / "x", far, labels=(None, None), values={"pointing": [[1, 0]]}, steps=[1])
    assert compare([nothing, apart]).summary().splitlines() == [
        "2 runs, 2 samples, epochs 0 to 1.",
        "a, epoch 0: nothing can be said of where it looks.",
        # Half of two samples is one: the first corner.
        "b, epoch 1: of the object: its peak is on it in 1 of 2 samples (pointing); its peak is near the top left "
        "corner of the image in 1 of 2 samples.",
        "Whether they look at the same place can't be told: no two runs have comparable maps of the same epoch.",
        "Their records differ in no setting; what data they were trained on is not in them.",
    ]


def test_the_summary_of_three_runs_names_pairs(tmp_path):
    at, corner = [[peak_at(4, 4)]] * 3, [[peak_at(0, 0)]] * 3
    runs = [write_run(tmp_path / name, maps) for name, maps in (("a", at), ("b", at), ("c", [at[0], *corner[:2]]))]
    lines = compare(runs).summary().splitlines()
    assert lines[4].startswith("On average they look at different places from epoch 1 on")
    assert lines[5].startswith("Furthest apart: a and c look at different places from epoch 1 on: mean agreement 1.00")
    assert lines[6] == "Closest: a and b look at the same place in the end: mean agreement 1.00 in epoch 2."


# Figures


def texts(figure):
    """All text that a figure shows."""
    found = list(figure.texts)
    for axes in figure.axes:
        legend = axes.get_legend()
        found += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label, *(legend.get_texts() if legend else ())]
    return [text.get_text() for text in found if text.get_text()]


def tiles(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_the_figure_shows_samples_runs_and_epochs(pair):
    found = compare(pair)
    figure = found.figure(samples=["sample_03", "sample_00"], epochs=[0, 3])
    pictures = tiles(figure)
    assert len(pictures) == 2 + 2 * 2 * 2 + 1  # images, overlays, the key of the colours
    overlay = Overlay(colormap="inferno", alpha=0.6, threshold=0.15, caption=False, size=240)
    from keras_cam_callbacks.drawing.files import read_image

    image = read_image(found.runs[0].image_files[3])
    np.testing.assert_array_equal(pictures[-3], overlay.draw([image], found.heatmaps(1, 3)[3:])[0])
    shown = texts(figure)
    for text in (
        "honest",
        "shortcut",
        "epoch 0",
        "epoch 3",
        "sample_03",
        "sample_00",
        "dog\nright (0.50)",
        "cat\nright (0.50)",
    ):
        assert text in shown
    assert shown.count("dog\nWRONG (0.50)") == 1  # sample_00 of the shortcut run, epoch 3
    assert "apart from epoch 2 on" in shown
    assert "energy_in_region" in shown
    assert "epoch\nshare of the heat on the object" in shown
    assert "agreement" in shown
    assert "epoch\ncorrelation of two runs' heatmaps of one class: 1\nis the same place, 0 an unrelated one" in shown
    frames = [patch for axes in figure.axes for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(frames) == 2 * 8  # black and white
    assert frames[0].get_bbox().bounds == pytest.approx((119.5, 89.5, 120, 90))  # 240 x 180 px
    lines = figure.axes[-1].lines
    np.testing.assert_allclose(lines[0].get_ydata(), found.agreement[0].mean(axis=1))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_wrong_predictions_are_white_on_black_and_right_ones_black_on_white(pair):
    found = compare(pair)
    right = found.correct()
    figure = found.figure(samples=list(KEYS), epochs=[0, 1, 2, 3])
    captions = [axes for axes in figure.axes if axes.texts and axes.texts[0].get_text().endswith("(0.50)")]
    # By run, epoch and sample, in the order in which they are drawn.
    verdicts = [right[run, epoch, sample] for run in range(2) for epoch in range(4) for sample in range(4)]
    for axes, verdict in zip(captions, verdicts, strict=True):
        (text,) = axes.texts
        assert ("WRONG" in text.get_text()) == (verdict == 0)
        assert axes.get_facecolor()[:3] == ((1, 1, 1) if verdict else (0, 0, 0))
        assert text.get_color() == ("black" if verdict else "white")
    assert 0 < sum(verdicts) < len(verdicts)


def test_the_figure_chooses(pair):
    found = compare(pair)
    shown = texts(found.figure())
    assert [text for text in shown if text.startswith("sample_")] == [KEYS[i] for i in found.most_different(4)]
    assert found.most_different()[0] == 3
    assert [text for text in shown if text.startswith("epoch ")][:4] == ["epoch 0", "epoch 1", "epoch 2", "epoch 3"]
    for metric in ("accuracy", "pointing"):
        figure = found.figure(samples=1, metric=metric)
        assert metric in texts(figure)
        np.testing.assert_allclose(
            figure.axes[-2].lines[1].get_ydata(), [row[metric] for row in found.table("epoch")[4:]]
        )


def test_the_figure_of_what_is_missing(tmp_path):
    maps = np.random.default_rng(0).random((2, 2, 4, 4))
    maps[0, 0] = 0
    mask = np.zeros((24, 32), bool)
    mask[5:9, 6:20] = True
    regions = (Region(np.empty((0, 4)), mask), None)
    runs = [
        write_run(tmp_path / "a", maps, predicted=[[None, 0]] * 2, regions=regions),
        write_run(tmp_path / "b", maps[:1], labels=(None, None)),
        write_run(tmp_path / "c", maps[:1]),
        write_run(tmp_path / "d", maps[:1]),
    ]
    figure = compare(runs).figure(epochs=[0, 1])
    shown = texts(figure)
    assert shown.count("no such epoch") == 3 * 2
    assert shown.count("no heatmap") == 4
    assert len([text for text in shown if " and " in text and "others" not in text]) == 6
    figure.draw_without_rendering()
    alone = [write_run(tmp_path / str(i), maps[1:, 1:] + i) for i in range(5)]
    assert "0 and the others" in texts(compare(alone).figure())


def test_the_figure_draws_any_name(tmp_path):
    maps = np.random.default_rng(0).random((2, 2, 4, 4))
    runs = [write_run(tmp_path / name, maps, class_names=("$\\frac{", "y" * 400), labels=(0, 1)) for name in "ab"]
    figure = compare(runs, names=["$x^{$", "_" + "z" * 400]).figure()
    figure.draw_without_rendering()
    assert any(text.startswith("_zzz") and text.endswith("…") for text in texts(figure))
    assert "$\\frac{\nright (0.50)" in texts(figure)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "`samples` must say how many"),
        ({"samples": True}, "`samples` must say how many"),
        ({"samples": []}, "`samples` must say how many"),
        ({"samples": ["sample_09"]}, "samples=4 and samples=.'sample_00'. work"),
        ({"epochs": []}, r"`epochs` must list.*0 to 3"),
        ({"epochs": [0, 9]}, r"`epochs` must list.*Received: \[0, 9\]"),
        ({"metric": "drift"}, "`metric` must be one of.*energy_in_region.*Received: 'drift'"),
        ({"overlay": Overlay(layout="panel")}, "room for one picture"),
    ],
    ids=str,
)
def test_wrong_settings_of_the_figure(pair, settings, message):
    with pytest.raises(ValueError, match=message):
        compare(pair).figure(**settings)


def test_the_overlay_of_the_figure(pair):
    with pytest.raises(TypeError, match="`overlay` must be an Overlay"):
        compare(pair).figure(overlay="turbo")
    figure = compare(pair).figure(samples=1, epochs=[0], overlay=Overlay(layout="mask"))
    assert all(isinstance(image, AxesImage) for axes in figure.axes for image in axes.images)


# The benchmark


def test_the_benchmark_measures_what_it_says(capsys):
    path = ROOT / "benchmarks" / "comparing.py"
    spec = importlib.util.spec_from_file_location("comparing", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.main(["--runs", "2", "--epochs", "2", "--samples", "3"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "2 runs of 2 epochs of 3 samples"
    found = dict(line.split(": ") for line in lines)
    assert {name.split(",")[0] for name in found} == {"compare", "to_csv", "summary"}
    assert all(float(number) >= 0 for number in found.values())
    with pytest.raises(SystemExit):
        benchmark.main(["--runs", "0"])
    assert "must be at least 1" in capsys.readouterr().err


def test_the_report_is_written(pair, tmp_path):
    found = compare(pair)
    written = found.report(tmp_path / "report.html", max_epochs=2, title="Where they look")
    assert written.path.stat().st_size == written.size
    assert written.epochs == (0, 3)
    assert "<title>Where they look" in written.path.read_text("utf-8")
    with pytest.raises(ValueError, match="HTML file"):
        found.report(tmp_path / "report.txt")


# In a notebook


def test_a_notebook_shows_sentences_and_the_figure(tmp_path):
    maps = np.random.default_rng(0).random((2, 3, 5, 4), np.float32)
    comparison = compare([write_run(tmp_path / "<b>&" / "gradcam", maps)])
    shown = comparison._repr_html_()
    for line in comparison.summary().splitlines():
        assert f"<li>{html.escape(line)}</li>" in shown
    assert "<b>" not in shown
    picture = base64.b64decode(re.search('src="data:image/png;base64,([^"]*)"', shown)[1])
    height, width, _ = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape
    assert min(height, width) > 100
