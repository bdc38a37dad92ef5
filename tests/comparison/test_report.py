"""The report: what it holds, and in a real browser what it shows and does."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from report_runs import (
    coloured,
    drawn,
    energy,
    heatmap,
    image,
    levels,
    pixels,
    predicted,
    set_epoch,
    shown_keys,
    soon,
    write_run,
)

from keras_cam_callbacks.comparison import compare
from keras_cam_callbacks.comparison.payload import make_payload, thinned
from keras_cam_callbacks.comparison.report import write_report
from keras_cam_callbacks.records import Region

LAST = 5
DEAD = (2, 1)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two runs, of which the second has fewer epochs and one degenerate map."""
    folder = tmp_path_factory.mktemp("runs")
    honest = write_run(folder / "honest", 0, range(LAST + 1))
    shortcut = write_run(folder / "shortcut", 1, range(4), dead=[DEAD], method="layercam")
    return compare([honest, shortcut])


@pytest.fixture(scope="module")
def report(comparison, tmp_path_factory):
    return write_report(comparison, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(browser):
    """Opens a report; fails the test if the page complains or asks anybody for anything."""
    contexts, complaints = [], []

    def open_report(path, width=1100, height=900, **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("data:", "blob:", Path(path).as_uri())) or complaints.append(request.url)
            ),
        )
        page.goto(Path(path).as_uri())
        page.wait_for_selector(":root.ready")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(opened, report):
    return opened(report.path)


def choose(page, name, value):
    page.locator(f"#{name}").select_option(value)


def see(page, view):
    page.locator(f".views label:has(input[value={view}])").click()


def test_opens_with_all_that_people_need_first(page, comparison):
    expect(page).to_have_title("Where honest and shortcut look")
    assert shown_keys(page) == [comparison.sample_keys[i] for i in comparison.most_different()]
    assert page.locator("#count").inner_text() == "6 of 6 samples"
    assert page.locator("#bar .step").inner_text() == str(LAST)
    first, *others = comparison.summary().split("\n")
    assert page.locator(".findings summary").inner_text() == f"In short: {first}"
    assert page.locator(".findings li").all_inner_texts() == others
    heads = page.locator(".grid thead th").all_inner_texts()
    assert [head.split("\n")[-1].strip("●■ ") for head in heads] == ["image", "honest", "shortcut"]
    assert "method" in page.locator("tr.differs").inner_text()
    assert "layercam" in page.locator("tr.differs").inner_text()


@pytest.mark.slow
def test_the_slider_moves_the_pictures_of_all_runs(page):
    see(page, "heatmap")
    page.locator("#regions").uncheck()
    seen = []
    for step in (0, 3):
        set_epoch(page, step)
        for run in range(2):
            drawn(page, step, run)
            found = pixels(page, "photo 0", run)
            height, width = found.shape[:2]
            assert (width, height) == (224, 168)
            expected = coloured(heatmap(run, step, 0), width, height).astype(int)
            # Levels are kept in 256 steps, and colours of neighbouring tones differ by a few units.
            assert np.abs(found - expected).max() <= 8
            assert np.abs(found - expected).mean() < 1
            seen.append(found)
    assert all(np.abs(one - other).mean() > 5 for i, one in enumerate(seen) for other in seen[:i])


def test_overlay_strength_colours_and_bare_image(page):
    page.locator("#regions").uncheck()
    choose(page, "colormap", "cividis")
    page.locator("#alpha").fill("30")
    set_epoch(page, 1)
    drawn(page, 1)
    page.wait_for_function("() => !!page.palettes")
    expected = 0.7 * image(0)[0, 0] + 0.3 * coloured(heatmap(0, 1, 0), 224, 168, colormap="cividis")
    soon(page, lambda: np.abs(pixels(page, "photo 0", 0) - expected).max() <= 8)
    see(page, "image")
    soon(page, lambda: np.abs(pixels(page, "photo 0", 0) - image(0)[0, 0].astype(int)).max() <= 4)


def test_a_shared_scale(page):
    see(page, "heatmap")
    page.locator("#regions").uncheck()
    choose(page, "scale", "sample")
    set_epoch(page, 0)
    drawn(page, 0)
    top = max(heatmap(run, step, 0).max() for run, steps in ((0, LAST + 1), (1, 4)) for step in range(steps))
    expected = coloured(heatmap(0, 0, 0), 224, 168, top).astype(int)
    soon(page, lambda: np.abs(pixels(page, "photo 0", 0) - expected).max() <= 8)
    assert levels(heatmap(0, 0, 0), 224, 168, top).max() < 0.9
    assert page.locator("#ramp-top").inner_text() == "most in this sample, all runs and epochs"


def test_outlines_of_the_object(page):
    see(page, "image")
    drawn(page, LAST)

    def inside():
        found = pixels(page, "photo 0", 0)
        return found[found.shape[0] * 2 // 5, found.shape[1] // 2]

    soon(page, lambda: np.abs(inside() - image(0)[0, 0].astype(int)).max() <= 4)
    found = pixels(page, "photo 0", 0)
    height, width = found.shape[:2]
    edge = found[height * 2 // 5, round(width * 0.25) - 3 : round(width * 0.25) + 3]
    assert np.abs(edge - image(0)[0, 0].astype(int)).max() > 60


def test_epochs_that_a_run_lacks_and_maps_that_explain_nothing(page):
    row = page.locator('tr[data-key="photo 1"]')
    shortcut = row.locator(".tile").nth(1)
    expect(shortcut.locator(".note")).to_have_text("as of epoch 3")
    expect(row.locator(".tile").nth(0).locator(".note")).to_have_text("")
    drawn(page, 3, run=1)
    set_epoch(page, DEAD[0])
    expect(shortcut.locator(".note")).to_have_text("no heatmap")
    page.locator("#regions").uncheck()  # The page scrolls to it.
    drawn(page, DEAD[0], run=1, key="photo 1")
    soon(page, lambda: np.abs(pixels(page, "photo 1", 1) - image(1)[0, 0].astype(int)).max() <= 4)
    assert "no heatmap" in shortcut.locator("canvas").get_attribute("aria-label")


def test_captions_say_right_and_wrong_in_words_and_signs(page):
    set_epoch(page, 1)
    names = ("cat", "dog", "owl")
    for sample in range(6):
        for run in range(2):
            found = predicted(run, 1, sample)
            said = "✓ right: " if found == sample % 3 else "✗ wrong: "
            percent = round(100 * (0.3 + sample / 10 + run / 100))
            mark = page.locator(f'tr[data-key="photo {sample}"] .mark').nth(run)
            expect(mark).to_have_text(f"{said}{names[found]} · {percent} %")


def test_arrow_keys_and_play(page):
    set_epoch(page, 0)
    page.locator("#bar input.epoch").focus()
    page.keyboard.press("ArrowRight")
    drawn(page, 1)
    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    drawn(page, 2)
    page.keyboard.press("ArrowLeft")
    drawn(page, 1)
    page.locator("#text").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#bar .step").inner_text() == "1"
    expect(page.locator("#said")).to_have_text("Epoch 1. 6 of 6 samples.")
    choose(page, "speed", "16")
    play = page.locator("#bar .play")
    play.click()
    assert play.get_attribute("aria-label") == "Pause"
    drawn(page, LAST)
    expect(play).to_have_attribute("aria-label", "Play the epochs")


def ranked(values):
    return [f"photo {i}" for i in np.argsort(-np.array(values), kind="stable")]


def test_orders(page, comparison):
    choose(page, "order", "now")
    set_epoch(page, 3)
    assert shown_keys(page) == ranked(1 - comparison.agreement[0, 3])
    set_epoch(page, 1)
    assert shown_keys(page) == ranked(1 - comparison.agreement[0, 1])
    choose(page, "order", "key")
    assert shown_keys(page) == [f"photo {i}" for i in range(6)]
    page.locator("#reverse").click()
    assert shown_keys(page) == [f"photo {i}" for i in range(5, -1, -1)]
    page.locator("#reverse").click()

    set_epoch(page, LAST)
    choose(page, "order", "loss")
    assert page.locator("#order-about").inner_text().startswith("By energy_in_region: how far it is below")
    lost = [
        max(max(energy(run, e, s) for e in range(last + 1)) - energy(run, last, s) for run, last in ((0, LAST), (1, 3)))
        for s in range(6)
    ]
    assert shown_keys(page) == ranked(lost)

    set_epoch(page, 1)
    choose(page, "order", "error")
    wrong = np.array([[predicted(run, 1, s) != s % 3 for s in range(6)] for run in range(2)])
    sure = 0.3 + np.arange(6) / 10 + np.array([[0], [0.01]])
    mean = np.where(wrong.any(0), (sure * wrong).sum(0) / np.maximum(1, wrong.sum(0)), 1 - sure.mean(0))
    assert shown_keys(page) == ranked(wrong.sum(0) + mean / 2)
    choose(
        page, "order", page.locator("#order option", has_text=re.compile("^energy_in_region$")).get_attribute("value")
    )
    assert shown_keys(page) == ranked([max(energy(run, 1, s) for run in range(2)) for s in range(6)])


def test_filters(page):
    choose(page, "order", "key")
    set_epoch(page, 1)
    right = np.array([[predicted(run, 1, s) == s % 3 for s in range(6)] for run in range(2)])
    found = np.array([[predicted(run, 1, s) for s in range(6)] for run in range(2)])
    for value, kept in {
        "any": ~right.all(0),
        "all": ~right.any(0),
        "right": right.all(0),
        "differ": found[0] != found[1],
        "": np.ones(6, bool),
    }.items():
        choose(page, "outcome", value)
        assert shown_keys(page) == [f"photo {s}" for s in np.flatnonzero(kept)]
        assert page.locator("#count").inner_text() == f"{kept.sum()} of 6 samples"
    choose(page, "outcome", "any")
    set_epoch(page, 0)  # All are wrong there.
    assert len(shown_keys(page)) == 6
    choose(page, "outcome", "")
    choose(page, "class", "1")
    assert shown_keys(page) == ["photo 1", "photo 4"]
    page.locator("#text").fill("PHOTO 4")
    assert shown_keys(page) == ["photo 4"]
    page.locator("#text").fill("nothing like it")
    assert shown_keys(page) == []
    page.locator("#reset").click()
    assert len(shown_keys(page)) == 6
    assert not page.locator("#none").is_visible()


def test_a_sample_opens_in_a_dialog(page):
    choose(page, "order", "key")
    key = page.locator('tr[data-key="photo 2"] .key')
    key.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    expect(dialog).to_be_visible()
    assert page.locator("#dialog-title").inner_text() == "photo 2"
    expect(dialog.locator(".main-svg").first).to_be_visible()
    titles = dialog.locator("h3").all_inner_texts()
    assert titles[:3] == ["agreement", "energy_in_region", "confidence"]
    traces = page.evaluate("document.querySelectorAll('#dialog-charts .plot')[1].data.map(each => [each.name, each.y])")
    assert [name for name, _ in traces] == ["honest", "shortcut"]
    np.testing.assert_allclose(traces[0][1], [energy(0, step, 2) for step in range(LAST + 1)], atol=1e-4)
    assert traces[1][1][4:] == [None, None]
    assert dialog.locator("canvas").count() == 2
    # Tab stays within; the arrows move the pictures.
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.locator("#next").click()
    assert page.locator("#dialog-title").inner_text() == "photo 3"
    page.keyboard.press("ArrowLeft")
    assert dialog.locator(".step").inner_text() == str(LAST - 1)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator('tr[data-key="photo 3"] .key')).to_be_focused()  # The browser first goes back to photo 2.
    page.locator('tr[data-key="photo 0"] canvas').first.click()
    expect(dialog).to_be_visible()
    page.locator("#close").click()
    expect(dialog).to_be_hidden()


def test_charts_of_all_numbers(page, comparison):
    page.locator("#charts .plot").last.scroll_into_view_if_needed()
    expect(page.locator("#charts .plot").last.locator(".main-svg").first).to_be_visible()
    titles = page.locator("#charts h3").all_inner_texts()
    assert titles == [
        "agreement", "accuracy", "energy_in_region", "confidence", "area", "degenerate",
    ]  # fmt: skip
    page.locator("#charts .plot").nth(2).scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelectorAll('#charts .plot')[2].data")
    traces = page.evaluate("""document.querySelectorAll('#charts .plot')[2].data.map(
      each => [each.y, each.line.color, each.line.dash, each.marker.symbol])""")
    np.testing.assert_allclose(traces[0][0], comparison.values["energy_in_region"][0].mean(1), rtol=1e-5)
    assert all(len({trace[i] for trace in traces}) == 2 for i in (1, 2, 3))
    assert "honest" in page.locator("#charts .plot").nth(2).get_attribute("aria-label")


def test_hostile_names_are_text(opened, tmp_path):
    bad = "<img src=x onerror=alert(1)><b>&lt;i&gt;</b></script><script>alert(2)</script>{{7*7}}\u2028"
    keys = (f'"><svg onload=alert(3)>{bad}', "<!--<script>", "]]>\u202egnp.exe")
    changes = {"keys": keys, "count": 3, "class_names": (bad, "<a href='https://example.com'>x</a>", "%{x}$x^2$")}
    runs = [write_run(tmp_path / str(run), run, range(2), **changes, model_name=bad + str(run)) for run in range(2)]
    names = [f"</script><script>alert(4)</script>{bad}", "<a href='javascript:alert(5)'>&amp;</a>"]
    written = write_report(
        compare(runs, names=names), tmp_path / "report.html", title="</title><script>alert(6)</script>"
    )
    page = opened(written.path)
    assert page.title() == "</title><script>alert(6)</script>"
    assert sorted(shown_keys(page)) == sorted(keys)
    page.locator("#charts .plot").first.scroll_into_view_if_needed()
    expect(page.locator("#charts .main-svg").first).to_be_visible()
    page.locator(".key").first.click()
    expect(page.locator("#dialog-charts .main-svg").first).to_be_visible()
    assert page.locator("script").count() == 3  # payload, ours, plotly
    assert page.locator("img:not(.thumb), b:not(.step), i, a[href^=http], a[href^=javascript]").count() == 0
    heads = page.locator(".grid thead th").all_text_contents()
    assert heads[2].endswith(names[1])
    # In a chart too, where plotly would make links and bold letters out of them.
    plot = page.locator("#dialog-charts .plot").nth(1)
    plot.scroll_into_view_if_needed()
    expect(plot.locator(".main-svg").first).to_be_visible()
    plot.locator(".point").first.hover(force=True)
    page.wait_for_selector("#dialog-charts .hoverlayer .legendtext, #dialog-charts .hoverlayer .hovertext")
    assert "href='javascript" in page.locator("#dialog-charts .hoverlayer").nth(1).text_content()
    assert page.locator("#dialog-charts .hoverlayer a").count() == 0


def test_no_other_script_runs_and_nothing_is_fetched(page, report):
    policy = re.search(r'Security-Policy" content="([^"]+)"', report.path.read_text("utf-8")).group(1)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe-inline'; script" in policy
    assert "unsafe-eval" not in policy
    assert page.evaluate("document.querySelectorAll('[src^=http], link[href^=http]').length") == 0


def test_an_injected_script_is_refused(browser, report):
    context = browser.new_context()
    page = context.new_page()
    refusals = []
    page.on("console", lambda message: refusals.append(message.text))
    page.goto(report.path.as_uri())
    page.wait_for_selector(":root.ready")
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.injected = 1";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.injected = 2'>");
      const image = new Image();
      image.src = "https://example.com/x.png";
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.injected") is None
    assert len(refusals) >= 2
    context.close()


def test_dark_and_light(opened, report):
    page = opened(report.path, color_scheme="dark")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 23, 27)"
    assert page.locator("#theme").inner_text() == "Light"
    page.locator("#theme").click()
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.locator("#theme").click()
    assert page.evaluate(background) == "rgb(20, 23, 27)"
    page.locator("#charts .plot").nth(1).scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelectorAll('#charts .plot')[1].data")
    colour = page.evaluate("document.querySelectorAll('#charts .plot')[1].data[0].line.color")
    assert colour == "#56B4E9"


def test_a_phone_scrolls_down_only(opened, report):
    page = opened(report.path, 360, 740, has_touch=True)
    for opened_first in (False, True):
        if opened_first:
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".key").first.click()
    expect(page.locator("#dialog-charts .main-svg").first).to_be_visible()
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth")
    first, second = (page.locator("#dialog-tiles canvas").nth(run).bounding_box() for run in range(2))
    assert first["y"] == second["y"]


def test_reduced_motion_plays_slowly(opened, report):
    page = opened(report.path, reduced_motion="reduce")
    assert page.locator("#speed").input_value() == "1"


def test_one_run(opened, tmp_path):
    run = write_run(tmp_path / "alone", 0, range(3), regions=False)
    written = write_report(compare([run], names=["alone"]), tmp_path / "report.html")
    page = opened(written.path)
    assert page.title() == "Where alone looks"
    assert page.locator("tr.sample").first.locator("canvas").count() == 1
    options = page.locator("#order option").all_inner_texts()
    assert not any("agreement" in text for text in options)
    assert not page.locator("#regions").is_visible()
    choose(page, "order", "loss")
    assert page.locator("#order-about").inner_text().startswith("By area: how much it has grown")
    assert page.locator("#outcome option").all_inner_texts() == ["all predictions", "wrong", "right"]
    assert page.locator(".agreement").first.inner_text() == ""


def test_three_runs_agree_each_with_the_others(opened, tmp_path):
    comparison = compare([write_run(tmp_path / f"run {run}", run, range(2)) for run in range(3)])
    page = opened(write_report(comparison, tmp_path / "report.html").path)
    set_epoch(page, 0)
    agreement = comparison.agreement[:, 0]
    for sample in range(6):
        row = page.locator(f'tr[data-key="photo {sample}"]')
        said = row.locator(".detail").all_inner_texts()
        for run in range(3):
            mean = agreement[[run in pair for pair in comparison.pairs], sample].mean()
            assert said[run] == f"energy_in_region {energy(run, 0, sample):.2f} · agreement {mean:.2f}"
        expect(row.locator(".agreement")).to_contain_text(f"agreement {agreement[:, sample].mean():.2f}")
    page.locator("#charts .plot").first.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelectorAll('#charts .plot')[0].data")
    lines = page.evaluate("document.querySelectorAll('#charts .plot')[0].data.map(each => [each.name, each.y])")
    assert [name for name, _ in lines] == list(comparison.names)
    of_last = [comparison.agreement[[2 in pair for pair in comparison.pairs], e].mean() for e in range(2)]
    np.testing.assert_allclose(lines[2][1], of_last, rtol=1e-4)


def test_outlines_of_masks_and_very_large_maps(tmp_path):
    mask = np.zeros((90, 120), bool)
    mask[30:60, 40:80] = True
    runs = [write_run(tmp_path / "run", 0, range(2), regions=(Region(np.zeros((0, 4)), mask), *[None] * 5))]
    file = compare(runs).runs[0].epochs[1].heatmap_file
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["heatmaps"] = np.full((6, 70, 70), 3e38, np.float32)
    arrays["heatmaps"][:, 0] = 0
    np.savez(file, **arrays)
    comparison = compare(runs)
    payload = make_payload(comparison, [0, 1], 224, 80)
    (outline,), *others = payload["regions"]
    assert others == [None] * 5
    np.testing.assert_allclose(np.min(outline, axis=0), [40.5 / 120, 30.5 / 90], atol=1e-3)
    np.testing.assert_allclose(np.max(outline, axis=0), [79.5 / 120, 59.5 / 90], atol=1e-3)
    tops = np.frombuffer(gzip.decompress(base64.b64decode(payload["maxima"]["data"])), "<f4").reshape(2, 6)
    assert np.isfinite(tops).all()
    assert (tops[1] > 2e38).all()


def test_fewer_epochs(opened, tmp_path):
    run = write_run(tmp_path / "run", 0, range(9))
    comparison = compare([run])
    written = write_report(comparison, tmp_path / "few.html", max_epochs=3)
    assert written.epochs == (0, 4, 8)
    assert written.left_out == (1, 2, 3, 5, 6, 7)
    assert written.size == written.path.stat().st_size
    assert written.notes[0].startswith("Heatmaps of 3 of 9 epochs")
    page = opened(written.path)
    about = page.locator("#about").inner_text()
    assert written.notes[0] in about
    assert f"{written.size / 1e6:.1f} MB" in about
    set_epoch(page, 1)
    drawn(page, 4)
    page.locator("#charts .plot").first.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelectorAll('#charts .plot')[0].data")
    assert len(page.evaluate("document.querySelectorAll('#charts .plot')[0].data[0].x")) == 9


@pytest.mark.parametrize(
    ("count", "most", "places"), [(5, None, [0, 1, 2, 3, 4]), (5, 2, [0, 4]), (9, 4, [0, 3, 5, 8])]
)
def test_thinned_epochs_are_even(count, most, places):
    assert thinned(np.ones((1, count), bool), most) == places


def test_thinned_epochs_hold_the_ends_of_each_run():
    held = np.zeros((2, 100), bool)
    held[0], held[1, 1:4] = True, True
    assert thinned(held, 10) == [0, 1, 3, 33, 44, 55, 66, 77, 88, 99]
    assert thinned(held, 2) == [0, 99]


def test_large_maps_and_images_are_made_smaller(tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    run = write_run(tmp_path / "run", 0, range(2), count=2, size=(64, 48), display=(large, large))
    written = write_report(compare([run]), tmp_path / "a.html", image_side=100, image_quality=50)
    assert any("48 × 64 values; 24 × 32" in note for note in written.notes)
    assert "Images are shown with at most 100 px a side." in written.notes
    payload = json.loads(re.search(r'id="payload"[^>]*>(.*?)</script>', written.path.read_text("utf-8")).group(1))
    assert payload["runs"][0]["shape"] == [32, 24]
    assert (payload["images"][0]["width"], payload["images"][0]["height"]) == (75, 100)
    larger = write_report(compare([run]), tmp_path / "b.html")
    assert larger.size > written.size


def test_same_runs_same_file(comparison, report, tmp_path):
    assert write_report(comparison, tmp_path / "again.html").path.read_bytes() == report.path.read_bytes()


def test_a_report_is_whole_or_not_there(tmp_path):
    run = write_run(tmp_path / "run", 0, range(2))
    comparison, path = compare([run]), tmp_path / "new" / "report.HTML"
    assert write_report(comparison, path).path == path
    before = path.read_bytes()
    comparison.runs[0].epochs[1].heatmap_file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="plain arrays"):
        write_report(comparison, path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["report.HTML"]


def test_a_folder_in_the_way_leaves_nothing_behind(comparison, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ValueError, match=r"where a folder is\. Received: .*report\.html"):
        write_report(comparison, tmp_path / "report.html")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": "report.txt"}, "`path` must be that of an HTML file. Received: 'report.txt'"),
        ({"max_epochs": 1}, "`max_epochs` must be a whole number of at least 2. Received: max_epochs=1"),
        ({"image_side": 8}, "`image_side` must be a whole number from 16 to 4096"),
        ({"image_quality": 101}, "`image_quality` must be a whole number from 1 to 100"),
        ({"image_quality": True}, "image_quality=True"),
    ],
)
def test_wrong_arguments(comparison, tmp_path, arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        write_report(comparison, **{"path": tmp_path / "report.html", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(tmp_path):
    run = write_run(tmp_path / "run", 0, range(1))
    code = f"""
import sys
sys.modules["plotly"] = None
from keras_cam_callbacks.comparison import compare
from keras_cam_callbacks.comparison.report import write_report
from keras_cam_callbacks.records import Region
try:
    write_report(compare([{str(run)!r}]), {str(tmp_path / "report.html")!r})
except ImportError as error:
    print(error, [name for name in ("keras", "tensorflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "Reports need plotly. Install it: pip install 'keras_cam_callbacks[report]' []\n"
