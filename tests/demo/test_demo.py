"""The demo: scenes whose answer is known, the three runs, the picture and what the program prints of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from paths import ROOT
from scipy.stats import chi2_contingency
from skimage import io
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_cam_callbacks import compare, read_run
from keras_cam_callbacks.cli.demo import _say_epoch
from keras_cam_callbacks.demo import draw_comparison
from keras_cam_callbacks.demo.data import COLOURS, SIDE, STICKER, make_scenes, with_stickers
from keras_cam_callbacks.demo.training import (
    Result,
    _Ticker,
    build_convnet,
    fixed_batch,
    make_collections,
    train_and_log,
)

pytestmark = pytest.mark.slow

# White ink on photographs darkened to 0.6: what is brighter than this is ink.
BRIGHT = 154


@pytest.fixture(scope="module")
def collections():
    return make_collections(2000, seed=3)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The program with settings that take seconds, when it has ended, and the folder that it wrote into."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "keras_cam_callbacks.cli", "demo", "--epochs", "3", "--images", "200"]
    done = subprocess.run(
        [*command, "--out", "the demo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done, folder


@pytest.fixture(scope="module")
def finished(ended):
    """The program's output, and the folder that it wrote into."""
    done, folder = ended
    return done.stdout, folder


def test_ink_lies_inside_its_box_and_fills_it():
    scenes, _ = make_scenes(300)
    assert scenes.images.shape == (300, SIDE, SIDE, 3)
    assert scenes.images.dtype == np.uint8
    for image, (left, top, right, bottom) in zip(scenes.images, scenes.boxes, strict=True):
        rows, columns = np.nonzero((image > BRIGHT).all(axis=-1))
        assert top <= rows.min()
        assert rows.max() < bottom
        assert left <= columns.min()
        assert columns.max() < right
        # Digits are eight of the box's ten units high; their faint ends may stay below BRIGHT.
        assert rows.max() - rows.min() >= 0.55 * (bottom - top)


def test_boxes_are_squares_of_the_stated_sides_off_the_sticker(collections):
    left, top, right, bottom = collections.honest.boxes.T
    assert np.array_equal(bottom - top, right - left)
    assert set(bottom - top) == set(range(32, 53))
    assert ((top >= 0) & (left >= 0) & (bottom <= SIDE) & (right <= SIDE)).all()
    assert ((top > STICKER[0].stop) | (left > STICKER[1].stop)).all()
    assert np.mean((bottom - top) ** 2) / SIDE**2 == pytest.approx(0.195, abs=0.01)


def test_digits_of_validation_scenes_are_in_no_training_scene():
    inks = np.pad(load_digits().images, ((0, 0), (1, 1), (1, 1))).reshape(-1, 100)
    inks = (inks - inks.mean(1, keepdims=True)) / inks.std(1, keepdims=True)

    def recognised(scenes):
        found = []
        for image, (left, top, right, bottom) in zip(scenes.images, scenes.boxes, strict=True):
            grey = image[top:bottom, left:right].min(axis=-1).astype(np.float32)
            found.append(cv2.resize(np.maximum(grey - 120, 0), (10, 10), interpolation=cv2.INTER_AREA).ravel())
        return set((np.array(found) @ inks.T).argmax(axis=1))

    train, validation = map(recognised, make_scenes(4500))
    assert len(train) > 1100  # Nearly all of the three quarters: scenes can be traced back to their digits.
    assert len(train & validation) < 0.2 * len(validation)


def test_scenes_depend_on_the_seed_only():
    one, same, other = (make_scenes(30, seed=seed)[0] for seed in (5, 5, 6))
    assert np.array_equal(one.images, same.images)
    assert np.array_equal(one.boxes, same.boxes)
    assert not np.array_equal(one.images, other.images)
    assert np.array_equal(np.bincount(one.labels), [3] * 10)


def test_honest_stickers_say_nothing_and_shortcut_stickers_say_all(collections):
    for scenes in (collections.honest, collections.honest_validation):
        table = np.histogram2d(scenes.labels, scenes.stickers, bins=10)[0]
        assert chi2_contingency(table).pvalue > 0.001
        assert table.sum(axis=0).min() > 0.05 * len(scenes)
    for scenes in (collections.shortcut, collections.shortcut_validation):
        assert np.array_equal(scenes.stickers, scenes.labels)
    for scenes in (collections.honest, collections.shortcut):
        painted = scenes.images[:, STICKER[0], STICKER[1]]
        assert (painted == COLOURS[scenes.stickers][:, None, None]).all()
    assert len({tuple(colour) for colour in COLOURS}) == 10


def test_collections_differ_in_their_stickers_only(collections):
    outside = np.ones((SIDE, SIDE), bool)
    outside[STICKER] = False
    assert np.array_equal(collections.honest.images[:, outside], collections.shortcut.images[:, outside])
    assert np.array_equal(collections.honest.labels, collections.shortcut.labels)


def test_with_stickers_leaves_the_given_scenes_alone():
    scenes, _ = make_scenes(10)
    before = scenes.images.copy()
    with_stickers(scenes, scenes.labels)
    assert np.array_equal(scenes.images, before)
    assert (scenes.stickers == -1).all()


def test_fixed_batch_is_the_same_for_both_runs_and_swaps_stickers_in_pairs(collections):
    scenes, keys = fixed_batch(collections.honest_validation)
    again, _ = fixed_batch(collections.shortcut_validation)
    assert np.array_equal(scenes.images, again.images)
    assert scenes.labels.tolist() == [digit for digit in range(8) for _ in range(2)]
    assert keys[6:8] == ("3_own_sticker", "3_other_sticker")
    assert np.array_equal(scenes.stickers[::2], scenes.labels[::2])
    assert scenes.stickers[1::2].tolist() == [5, 6, 7, 8, 9, 0, 1, 2]
    differs = (scenes.images[::2] != scenes.images[1::2]).any(axis=(0, 3))
    outside = np.ones((SIDE, SIDE), bool)
    outside[STICKER] = False
    assert differs.any()
    assert not differs[outside].any()


def test_digits_of_the_fixed_batch_lie_off_the_corner_of_the_sticker(collections):
    validation = collections.honest_validation
    scenes, _ = fixed_batch(validation)
    assert (scenes.boxes[:, :2].max(axis=1) >= 32).all()
    # Where no box does, the farthest of each digit.
    near = validation[validation.boxes[:, :2].max(axis=1) < 32]
    assert len(near)
    scenes, _ = fixed_batch(near)
    for digit in range(8):
        begins = near.boxes[near.labels == digit, :2].max(axis=1)
        assert scenes.boxes[2 * digit, :2].max() == begins.max()


def test_convnet_has_the_stated_shape():
    model = build_convnet(7)
    assert [model.get_layer(f"conv_{block}").filters for block in (1, 2, 3, 4)] == [16, 32, 64, 96]
    assert model.get_layer("relu_4").output.shape == (None, 12, 12, 96)
    assert model.output.shape == (None, 7)
    halved = build_convnet(7, halved=True)
    assert halved.input.shape == model.input.shape == (None, SIDE, SIDE, 3)
    assert halved.get_layer("halved").output.shape == (None, SIDE // 2, SIDE // 2, 3)
    assert halved.get_layer("relu_4").output.shape == (None, 12, 12, 96)


def test_each_epoch_is_a_line_where_there_is_no_terminal(ended):
    done, _ = ended
    lines = [line for line in done.stderr.splitlines() if ": epoch " in line]
    heads = [line.split(": validation accuracy ")[0] for line in lines]
    assert heads == [
        *(f"{run} run: epoch {epoch} of 3" for run in ("honest", "shortcut") for epoch in (1, 2, 3)),
        "transfer run, pretraining on 0-4: epoch 1 of 1",
        "transfer run, head, base frozen: epoch 1 of 1",
        "transfer run, all layers: epoch 1 of 1",
    ]
    explained = [line for line in lines if "pretraining" not in line]
    assert all(
        re.search(r": validation accuracy [01]\.\d\d, heat on the digit [01]\.\d\d$", line) for line in explained
    )
    assert ": epoch " not in done.stdout
    assert "━" * 20 not in done.stderr  # no bar


def test_epochs_are_said_as_they_end(capsys):
    steps = []

    def show(step):
        steps.append(step)
        _say_epoch(step)
        said.append(capsys.readouterr().err)

    said = []
    train, validation = make_scenes(40)
    ticker = _Ticker("honest", 4, show)
    train_and_log(build_convnet(halved=True), train, validation, epochs=2, callbacks=[ticker])
    assert [step.epoch for step in steps] == [None, None, 1, None, None, 2]
    assert [step.done for step in steps] == [1, 2, 2, 3, 4, 4]
    assert [bool(text) for text in said] == [False, False, True, False, False, True]
    accuracy = steps[-1].logs["val_accuracy"]
    assert said[-1] == f"honest run: epoch 2 of 2: validation accuracy {accuracy:.2f}\n"


def test_the_demo_writes_what_it_names(finished):
    printed, folder = finished
    named = [line.split("  ")[-1].strip() for line in printed.splitlines() if "  the demo/" in line]
    assert named == [
        "the demo/honest_and_shortcut.jpg",
        "the demo/report.html",
        "the demo/honest/gradcam",
        "the demo/shortcut/gradcam",
        "the demo/transfer/gradcam",
    ]
    assert all((folder / name).exists() for name in named)
    lines = [line for line in printed.splitlines() if "  the demo/" in line or "open this page" in line]
    assert lines[:3] == [
        "Open this picture first    the demo/honest_and_shortcut.jpg",
        "Every epoch of both runs   the demo/report.html",
        "and open this page         http://localhost:6006",
    ]
    # A shell that knows of no environment can run it.
    (command,) = re.findall(r"run this +(.+ --logdir 'the demo' --samples_per_plugin images=1000)\n", printed)
    done = subprocess.run(
        f"{command} --inspect", shell=True, cwd=folder, env={"PATH": ""}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "the demo/honest/gradcam" in done.stdout
    for name in named[2:]:
        events = EventAccumulator(str(folder / name), size_guidance={"tensors": 0}).Reload()
        steps = [event.step for event in events.Tensors("gradcam/confidence")]
        assert steps == [epoch.step for epoch in read_run(folder / name).epochs]
    rows = [line for line in printed.splitlines() if line.startswith(("│ honest", "│ shortcut", "│ anywhere"))]
    assert len(rows) == 3


def test_the_records_say_where_the_digits_are_and_how_much_heat_is_there(finished):
    _, folder = finished
    run = read_run(folder / "the demo" / "shortcut")
    boxes = np.array([region.boxes[0] for region in run.regions()])
    collections = make_collections(200, seed=0)
    scenes, _ = fixed_batch(collections.honest_validation)
    np.testing.assert_allclose(boxes * SIDE, scenes.boxes)
    for epoch in run.epochs:
        energy = []
        for heatmap, (left, top, right, bottom) in zip(epoch.heatmaps(), scenes.boxes, strict=True):
            level = cv2.resize(np.maximum(heatmap, 0), (SIDE, SIDE)).astype(np.float64)
            energy.append(level[top:bottom, left:right].sum() / level.sum() if level.any() else np.nan)
        np.testing.assert_allclose(epoch.values()["energy_in_region"], energy, atol=1e-6)
        assert epoch.scalars["energy_in_region"] == pytest.approx(np.nanmean(energy), abs=1e-6)


def test_the_page_compares_both_runs(finished):
    printed, folder = finished
    comparison = compare([folder / "the demo" / name for name in ("honest", "shortcut")])
    words = " ".join(printed.split())
    assert all(f"- {line} " in words for line in comparison.summary().splitlines())
    assert "energy_in_region" in comparison.scalars
    page = (folder / "the demo" / "report.html").read_text("utf-8")
    assert "honest" in page
    assert "3_other_sticker" in page


def test_both_runs_saw_the_same_pixels_from_the_same_first_weights(finished):
    _, folder = finished
    honest, shortcut = (read_run(folder / "the demo" / name) for name in ("honest", "shortcut"))
    assert honest.manifest["fingerprints"] == shortcut.manifest["fingerprints"]
    assert len(set(honest.manifest["fingerprints"])) == 16
    assert len(honest.epochs) == len(shortcut.epochs) == 3
    assert honest.manifest["layer"] == shortcut.manifest["layer"] == "relu_4"


def test_the_transfer_record_is_continuous(finished):
    _, folder = finished
    run = read_run(folder / "the demo" / "transfer")
    assert [epoch.step for epoch in run.epochs] == [0, 1]
    assert [epoch.epoch for epoch in run.epochs] == [0, 0]  # two fits, which both start at epoch 0
    assert run.manifest["layer"] == "base/relu_4"
    assert np.isfinite(run.epochs[1].scalars["target_kept"])


def test_the_picture_is_an_image_of_reasonable_size(finished):
    _, folder = finished
    file = folder / "the demo" / "honest_and_shortcut.jpg"
    drawn = io.imread(file)
    assert drawn.ndim == 3
    assert drawn.shape[1] > drawn.shape[0]
    assert file.stat().st_size < 300_000


def test_the_picture_shows_both_runs_on_digits_with_either_sticker(finished):
    _, folder = finished

    def result(name, accuracy):
        directory = read_run(folder / "the demo" / name).directory
        return Result(name, directory, accuracy, accuracy_random=0, energy=0, peak=0, seconds=0)

    figure = draw_comparison(result("honest", 0.5), result("shortcut", 0.875))
    shown = [text.get_text() for text in figure.texts]
    # Three epochs leave less room for headings than the demo's own.
    for heading in ("honest: random stickers, accuracy 0.50", "shortcut: sticker = digit, accuracy 0.88"):
        assert any(heading.startswith(text.rstrip("…")) for text in shown if len(text) > 25)
    keys = ["3_own_sticker", "3_other_sticker", "7_own_sticker", "7_other_sticker"]
    assert [text for text in shown if text.endswith("_sticker")] == keys
    columns = [text for text in shown if text.startswith("epoch ")]
    assert columns[: len(columns) // 2] == columns[len(columns) // 2 :] == ["epoch 0", "epoch 1", "epoch 2"]
    framed = [axes for axes in figure.axes if axes.patches and axes.images]
    assert len(framed) == len(keys) * len(columns)  # Where the digit is, in each picture.
    assert any(axes.get_ylabel() == "energy_in_region" for axes in figure.axes)
