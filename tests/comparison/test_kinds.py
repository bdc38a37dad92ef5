"""Runs on signals, volumes and clips, compared; and their report in a real browser."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_runs import pixels, soon
from sample_records import make_config, make_record
from scipy import ndimage
from unfolded import KINDS, SPACES, display, heatmaps

from keras_cam_callbacks.comparison import compare
from keras_cam_callbacks.comparison.displays import _signal_outlines, _slice_outlines
from keras_cam_callbacks.drawing.overlay import Overlay, colorize
from keras_cam_callbacks.metrics import correlation
from keras_cam_callbacks.records import Region
from keras_cam_callbacks.store import RunWriter

pytestmark = pytest.mark.slow

KEYS = ("one", "two", "three")


def write_run(folder, kind, run):
    shown = display(kind)
    writer = RunWriter(make_config(folder, keys=KEYS, display=shown, labels=(0, 1, 0), space=SPACES[kind]))
    for step in range(2):
        maps = heatmaps(kind, seed=10 * run + step)
        record = make_record(step, keys=KEYS, heatmaps=maps)
        samples = [
            replace(sample, predicted=0, degenerate=not maps[i].any()) for i, sample in enumerate(record.samples)
        ]
        writer.write(replace(record, samples=tuple(samples)))
    return folder


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: compare([write_run(folder / kind / f"run {run}", kind, run) for run in range(2)]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_agreement_and_peaks_are_those_of_all_axes(comparisons, kind):
    comparison = comparisons[kind]
    for step in range(2):
        one, other = (heatmaps(kind, seed=10 * run + step) for run in range(2))
        flat = [maps.reshape(3, 1, -1) for maps in (one, other)]
        np.testing.assert_allclose(comparison.agreement[0, step], correlation(*flat), atol=1e-6)
        for sample in range(2):
            place = np.unravel_index(one[sample].argmax(), one[sample].shape)
            shares = (np.array(place) + 0.5) / one[sample].shape
            np.testing.assert_allclose(comparison.peaks[0, step, sample], shares[::-1], atol=1e-6)
    assert np.isnan(comparison.peaks[:, :, 2]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overlay", [None, Overlay(layout="mask")], ids=["usual", "mask"])
def test_figures(comparisons, kind, overlay):
    assert len(comparisons[kind].figure(overlay=overlay)._repr_png_()) > 10_000


@pytest.fixture
def opened(browser, comparisons, tmp_path):
    complaints, pages = [], []

    def open_report(kind):
        report = comparisons[kind].report(tmp_path / f"{kind}.html")
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(Path(report.path).as_uri())
        page.wait_for_selector(":root.ready")
        return page

    yield open_report
    for page in pages:
        page.close()
    assert complaints == []


def see_heat(page):
    page.locator(".views label:has(input[value=heatmap])").click()
    page.locator("#regions").evaluate("box => { box.checked = false; box.dispatchEvent(new Event('input')); }")


def set_slice(page, place):
    script = "(slider, place) => { slider.value = place; slider.dispatchEvent(new Event('input')); }"
    page.locator("#bar input.slice").evaluate(script, place)


@pytest.mark.parametrize("kind", ["volume", "clip"])
def test_the_second_slider_moves_through_the_slices(opened, kind):
    page = opened(kind)
    see_heat(page)
    axis = {"volume": "depth", "clip": "frame"}[kind]
    depth = SPACES[kind].size[0]
    maps = heatmaps(kind, seed=1)[0]
    seen = []
    for at in (0, depth // 2, depth - 1):
        set_slice(page, at)
        assert page.locator("#bar label.slice").inner_text().split() == [axis, str(at)]
        canvas = page.locator('tr[data-key="one"] canvas').first
        canvas.scroll_into_view_if_needed()
        soon(page, lambda at=at, canvas=canvas: canvas.get_attribute("data-slice") == str(at))
        drawn = pixels(page, "one", 0)
        height, width = drawn.shape[:2]
        rows, columns = (
            (np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip((height, width), maps.shape[1:], strict=True)
        )
        place = np.full((height, width), (at + 0.5) * maps.shape[0] / depth - 0.5)
        grid = np.stack([place, *np.meshgrid(rows, columns, indexing="ij")])
        level = ndimage.map_coordinates(np.maximum(maps, 0) / maps.max(), grid, order=1, mode="nearest")
        expected = colorize(np.round(level * 255).astype(np.uint8), "viridis").astype(int)
        assert np.abs(drawn - expected).max() <= 8
        seen.append(drawn)
    assert all(np.abs(one - other).mean() > 3 for i, one in enumerate(seen) for other in seen[:i])


def test_the_bare_picture_is_that_of_the_slice(opened):
    page = opened("clip")
    page.locator(".views label:has(input[value=image])").click()
    for at in (1, 9):
        set_slice(page, at)
        canvas = page.locator('tr[data-key="two"] canvas').first
        canvas.scroll_into_view_if_needed()
        soon(page, lambda at=at, canvas=canvas: canvas.get_attribute("data-slice") == str(at))
        drawn = pixels(page, "two", 0).astype(float).mean(axis=2)
        frames = display("clip")[1].mean(axis=3)
        steps = [whole / part for whole, part in zip(drawn.shape, frames.shape[1:], strict=True)]
        centres = [
            ((np.arange(part) + 0.5) * step).astype(int) for part, step in zip(frames.shape[1:], steps, strict=True)
        ]
        seen = drawn[np.ix_(*centres)]
        follows = [np.corrcoef(seen.ravel(), frame.ravel())[0, 1] for frame in frames]
        assert int(np.argmax(follows)) == at
        assert max(follows) > 0.7


def test_a_signal_is_a_line_over_its_heat(opened):
    page = opened("signal")
    assert page.locator("input.slice").count() == 0
    see_heat(page)
    canvas = page.locator('tr[data-key="two"] canvas').first
    canvas.scroll_into_view_if_needed()
    soon(page, lambda: canvas.get_attribute("data-epoch") == "1")
    soon(page, lambda: pixels(page, "two", 0).shape[1] > 400)
    drawn = pixels(page, "two", 0)
    maps = heatmaps("signal", seed=1)[1]
    width = drawn.shape[1]
    level = np.interp((np.arange(width) + 0.5) * 10 / width - 0.5, np.arange(10), np.maximum(maps, 0) / maps.max())
    expected = colorize(np.round(level * 255).astype(np.uint8)[None], "viridis").astype(int)[0]
    ground = drawn[: round(0.8 * drawn.shape[0] * 0.9)]
    same = np.abs(ground - expected).max(axis=2) <= 8
    assert same.mean() > 0.6, "most of it is heat"
    assert same.any(axis=0).mean() > 0.95
    assert (ground.max(axis=2) < 40).mean() > 0.01, "the line is drawn over it"
    assert (drawn[-3:] > 240).mean() > 0.7, "below are the positions"
    page.locator("button.key").first.click()
    assert page.locator("#dialog-tiles canvas").count() == 2


def test_outlines_lie_where_the_regions_are():
    mask = np.zeros((4, 8, 8), bool)
    mask[2, 2:6, 1:7] = True
    volume = Region(np.array([[0.1, 0.2, 0.5, 0.6, 0.7, 0.75]]), mask)
    boxed, masked = _slice_outlines(volume, 0.6)
    assert boxed == [[0.1, 0.2], [0.6, 0.2], [0.6, 0.7], [0.1, 0.7]]
    xs, ys = np.array(masked).T
    np.testing.assert_allclose([xs.min(), xs.max(), ys.min(), ys.max()], np.array([1.5, 6.5, 2.5, 5.5]) / 8, atol=1e-4)
    assert _slice_outlines(volume, 0.3) == []
    spans = np.zeros(10, bool)
    spans[3:5] = spans[8:] = True
    outlines = _signal_outlines(Region(np.array([[0.0, 0.1]]), spans), [0.5, 0.0, 1.0, 0.8])
    assert [(shape[0], shape[2]) for shape in outlines] == [
        ([0.5, 0.0], [0.55, 0.8]),
        ([0.65, 0.0], [0.75, 0.8]),
        ([0.9, 0.0], [1.0, 0.8]),
    ]
