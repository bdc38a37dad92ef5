"""The tab of TensorBoard: what it serves, by TensorBoard's own application; and in a real browser what it shows."""

from __future__ import annotations

import base64
import configparser
import gzip
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from interpreter import fresh
from paths import ROOT
from playwright.sync_api import expect
from report_runs import coloured, drawn, energy, heatmap, pixels, set_epoch, shown_keys, write_run
from sample_records import make_config, make_record
from tracker_logs import served
from unfolded import SPACES, display, heatmaps
from werkzeug.serving import make_server
from werkzeug.test import Client

from keras_cam_callbacks.comparison import compare
from keras_cam_callbacks.store import RunWriter, read_run

# Of TensorBoard's own copy of bleach.
pytestmark = pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
NAME = "keras_cam_callbacks"
BASE = f"/data/plugin/{NAME}"


def application(logdir, prefix="", **flags):
    """The plugin, and TensorBoard's own application around it."""
    from tensorboard.backend.application import TensorBoardWSGI
    from tensorboard.plugins.base_plugin import TBContext

    from keras_cam_callbacks.trackers.tensorboard.tab import HeatmapsPlugin

    plugin = HeatmapsPlugin(TBContext(flags=SimpleNamespace(logdir=str(logdir), logdir_spec="", **flags)))
    plugin._records.wait()
    return plugin, TensorBoardWSGI([plugin], prefix)


@pytest.fixture
def opened(tmp_path):
    """A folder with two runs, and a client of the tab that shows it."""
    write_run(tmp_path / "honest" / "gradcam", 0, range(3))
    write_run(tmp_path / "shortcut" / "gradcam", 1, range(2))
    return tmp_path, Client(application(tmp_path)[1])


def asked(client, route, **query):
    answer = client.get(f"{BASE}/{route}", query_string=query)
    assert answer.status_code == 200
    return answer.get_json()


def unpacked(array, *shape):
    data = gzip.decompress(base64.b64decode(array["data"]))
    return np.frombuffer(data, np.dtype(array["kind"]).newbyteorder("<")).reshape(shape)


def idents(plugin):
    return {record.name: ident for ident, record in plugin._records.wait().items()}


def again(plugin):
    """The records, searched for anew."""
    plugin._records._searched = float("-inf")
    return plugin._records.wait()


def test_it_starts_without_a_framework():
    code = f"""
import sys
from types import SimpleNamespace
from tensorboard.plugins import base_plugin
from keras_cam_callbacks.trackers.tensorboard.tab import HeatmapsPlugin
HeatmapsPlugin(base_plugin.TBContext(flags=SimpleNamespace(logdir={str(ROOT / "docs")!r}, logdir_spec="")))
print(sorted({{"tensorflow", "keras", "jax", "torch", "cv2", "scipy", "jinja2", "plotly"}} & set(sys.modules)))
"""
    assert fresh(code).strip() == "[]"


def test_active_where_a_record_is(tmp_path):
    plugin, _ = application(tmp_path)
    assert not plugin.is_active()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "a web page"}')
    assert not again(plugin)
    write_run(tmp_path / "a" / "deep" / "run", 0, range(1))
    again(plugin)
    assert plugin.is_active()
    bucket, _ = application("gs://bucket/logs")
    assert not bucket.is_active()


def test_named_log_folders(tmp_path):
    from keras_cam_callbacks.trackers.tensorboard.folders import log_folders

    spec = f"a:{tmp_path / 'x'},{tmp_path / 'y'},b:gs://bucket/z"
    folders = log_folders(SimpleNamespace(logdir="", logdir_spec=spec))
    assert folders == {"a": tmp_path / "x", str(tmp_path / "y"): tmp_path / "y"}


def test_numbers_and_maps_are_those_of_compare(opened):
    folder, client = opened
    comparison = compare([folder / "honest" / "gradcam", folder / "shortcut" / "gradcam"])
    news = asked(client, "data", since=0)
    assert (news["names"], news["epochs"], news["left"]) == (list(comparison.names), [0, 1, 2], 0)
    agreement = unpacked(news["agreement"], 1, 3, 6) / 65534 * 2 - 1
    np.testing.assert_allclose(agreement[:, :2], comparison.agreement[:, :2], atol=1e-4)
    assert (unpacked(news["agreement"], 1, 3, 6)[:, 2] == 65535).all()
    means = dict(zip([chart["name"] for chart in news["charts"]], unpacked(news["scalars"], -1, 2, 3), strict=True))
    np.testing.assert_allclose(means["energy_in_region"][0, 2], np.mean([energy(0, 2, i) for i in range(6)]))
    maps = asked(client, "maps", maps="0:2,1:2,7:0,x:y")
    assert (sorted(maps), maps["1:2"], maps["7:0"]) == (["0:2", "1:2", "7:0"], None, None)
    raw = np.maximum([heatmap(0, 2, i) for i in range(6)], 0)
    expected = raw / raw.max(axis=(1, 2), keepdims=True) * 255
    np.testing.assert_allclose(unpacked(maps["0:2"], 6, 5, 7), expected, atol=0.51)
    picture = client.get(f"{BASE}/{news['images'][3]['source']}")
    assert (picture.status_code, picture.content_type) == (200, "image/jpeg")
    assert client.get(f"{BASE}/picture/9/source").status_code == 404


def test_only_what_is_new_is_told(opened):
    folder, client = opened
    first = asked(client, "data", since=0)
    query = {"since": first["version"]}
    assert asked(client, "data", **query)["epochs"] == []
    # A line that is not whole is no epoch; a whole one brings its epoch, also where another run has had it.
    log = folder / "shortcut" / "gradcam" / "metrics.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"epoch": 2, "step": 2, "wall_t')
    assert asked(client, "data", **query)["epochs"] == []
    log.write_bytes(whole)
    write_run(folder / "shortcut" / "gradcam", 1, [2, 3])
    news = asked(client, "data", **query)
    assert (news["instance"], news["epochs"], news["has"]) == (first["instance"], [2, 3], [[True, False], [True, True]])
    assert "images" not in news
    assert asked(client, "data", since=news["version"])["epochs"] == []


def test_a_record_that_is_gone_or_another_is_said(opened):
    folder, client = opened
    first = asked(client, "data", since=0)
    write_run(folder / "shortcut" / "gradcam", 1, [2])
    shutil.rmtree(folder / "honest")
    news = asked(client, "data", since=first["version"])
    assert (news["instance"], news["epochs"]) == (first["instance"], [2])
    assert "honest can't be read any more; what was read of it stays" in news["problems"][0]
    assert asked(client, "maps", maps="0:0,1:0").keys() == {"0:0", "1:0"}
    write_run(folder / "honest" / "gradcam", 0, range(2), method="layercam")
    assert asked(client, "data", since=first["version"])["instance"] != first["instance"]


def test_a_damaged_epoch_is_left_out_and_said(opened):
    folder, client = opened
    files = [epoch.heatmap_file for epoch in read_run(folder / "honest" / "gradcam").epochs]
    files[1].write_bytes(b"damaged")
    news = asked(client, "data", since=0)
    names = news["names"]
    assert [has[1] for has in news["has"]] == [name != "honest" for name in names]
    assert news["problems"][0].startswith("Epoch 1 of honest is left out. ")
    for file in files:
        file.write_bytes(b"")
    client = Client(application(folder)[1])
    assert "No epoch of honest can be read." in asked(client, "data", since=0)["message"]
    assert "No epoch of honest can be read." in client.get(f"{BASE}/page").text


def test_only_records_below_the_folder_are_served(tmp_path):
    secret = write_run(tmp_path / "secret", 0, range(1))
    logs = tmp_path / "logs"
    write_run(logs / "mine", 0, range(1))
    (logs / "link").symlink_to(secret)
    (logs / "files").mkdir()
    for name in ("manifest.json", "metrics.jsonl"):
        (logs / "files" / name).symlink_to(secret / name)
    write_run(logs / "half", 0, range(1))
    shutil.rmtree(logs / "half" / "heatmaps")
    (logs / "half" / "heatmaps").symlink_to(secret / "heatmaps")
    plugin, app = application(logs)
    assert sorted(idents(plugin)) == ["half", "mine"]
    client = Client(app)
    half = idents(plugin)["half"]
    assert "leads out of the run's folder" in asked(client, "data", run=half)["message"]
    for run in ("../secret", str(secret), "link", "%2e%2e/secret", idents(application(tmp_path)[0])["secret"]):
        assert asked(client, "data", run=run)["message"] == "None of these runs is there any more."
    for path in ("picture/../../../../etc/passwd", "picture/0/../source", "page/../../secret/manifest.json"):
        assert client.get(f"{BASE}/{path}").status_code == 404


def test_hostile_names_are_text(tmp_path):
    bad = "<img src=x onerror=alert(1)>\"'&{{7*7}} ü"
    surrogate = os.fsdecode(b"\xff\xfe\n")
    for i, name in enumerate((bad, surrogate)):
        write_run(tmp_path / name / "gradcam", i, range(1), model_name=f"</script>{name}".replace("\udcff", ""))
    _, app = application(tmp_path)
    page = Client(app).get(f"{BASE}/page").text
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;{{7*7}} ü" in page
    assert page.count("<script") == 2
    assert json.dumps(asked(Client(app), "data", since=0)["names"])


def test_runs_without_common_samples_and_many_are_refused_in_words(tmp_path):
    write_run(tmp_path / "one", 0, range(1))
    write_run(tmp_path / "other", 1, range(1), keys=("x", "y"), count=2)
    for i in range(12):
        write_run(tmp_path / f"run {i}", 1, range(1))
    plugin, app = application(tmp_path)
    client, every = Client(app), idents(plugin)
    message = asked(client, "data", run=[every["one"], every["other"]])["message"]
    assert message.startswith("Runs must have samples in common")
    page = client.get(f"{BASE}/page", query_string={"run": [every["one"], every["other"]]}).text
    assert "Runs must have samples in common" in page
    assert page.count("checked") == 2
    assert "At most 12 runs" in asked(client, "data", run=list(every.values()))["message"]
    assert len(asked(client, "data")["names"]) == 4


@pytest.mark.parametrize(("kind", "parts"), [("signal", ["source", "ink"]), ("volume", ["source", "thumb"])])
def test_signals_and_volumes(tmp_path, kind, parts):
    config = make_config(tmp_path / "run", keys=("one", "two", "three"), display=display(kind), space=SPACES[kind])
    RunWriter(config).write(make_record(0, keys=config.sample_keys, heatmaps=heatmaps(kind, seed=1)))
    client = Client(application(tmp_path)[1])
    news = asked(client, "data")
    assert (news["kind"], news["slices"] is None) == (kind, kind == "signal")
    raw = heatmaps(kind, seed=1)
    levels = unpacked(asked(client, "maps", maps="0:0")["0:0"], 3, *news["shapes"][0])
    assert levels.ndim == raw.ndim
    assert levels[0].max() == 255
    assert [part for part in ("source", "thumb", "ink") if part in news["images"][0]] == parts
    for part in parts:
        assert client.get(f"{BASE}/{news['images'][0][part]}").content_type.startswith("image/")
    assert ('class="slice"' in client.get(f"{BASE}/page").text) == (kind == "volume")


def test_without_plotly_the_page_names_the_extra(opened, monkeypatch):
    from keras_cam_callbacks.trackers.tensorboard import tab

    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    tab._charts.cache_clear()
    _, client = opened
    page = client.get(f"{BASE}/page").text
    assert "pip install 'keras_cam_callbacks[report]'" in page
    assert "plotly.js" not in page
    assert client.get(f"{BASE}/plotly.js").status_code == 404
    tab._charts.cache_clear()


def complaints_of(page, origin):
    """What the page complains of, and whom else it asks for anything."""
    complaints = []
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith((f"{origin}/", "data:", "blob:")) or complaints.append(request.url),
    )
    return complaints


def test_new_epochs_come_in_by_themselves(browser, tmp_path):
    """With a path prefix, as behind a proxy."""
    for run, name in enumerate(("honest", "shortcut")):
        write_run(tmp_path / name / "gradcam", run, range(3 - run))
    server = make_server("127.0.0.1", 0, application(tmp_path, "/behind/a/proxy")[1], threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    origin = f"http://127.0.0.1:{server.port}"
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(30_000)
    try:
        complaints = complaints_of(page, origin)
        page.goto(f"{origin}/behind/a/proxy{BASE}/page")
        page.wait_for_selector(":root.ready")
        heads = [text.split("\n")[-1].strip("●■ ") for text in page.locator(".grid thead th").all_inner_texts()]
        honest, shortcut = heads.index("honest") - 1, heads.index("shortcut") - 1
        assert len(shown_keys(page)) == 6
        page.locator(".views label:has(input[value=heatmap])").click()
        page.get_by_text("Sort, filter, colours").click()
        page.locator("#regions").uncheck()
        page.evaluate("window.stays = true")
        set_epoch(page, 0)
        drawn(page, 0, shortcut)
        set_epoch(page, 2)
        drawn(page, 2, honest)
        found = pixels(page, "photo 0", honest)
        height, width = found.shape[:2]
        assert np.abs(found - coloured(heatmap(0, 2, 0), width, height).astype(int)).max() <= 8
        write_run(tmp_path / "shortcut" / "gradcam", 1, [2, 3])
        expect(page.locator("#bar .step")).to_have_text("3")
        drawn(page, 3, shortcut)
        found = pixels(page, "photo 0", shortcut)
        assert np.abs(found - coloured(heatmap(1, 3, 0), width, height).astype(int)).max() <= 8
        expect(page.locator("#summary tbody tr").first).to_contain_text("3")
        plot = page.locator("#charts .plot").first
        plot.scroll_into_view_if_needed()
        page.wait_for_function("() => document.querySelector('#charts .plot').data")
        assert page.evaluate("document.querySelector('#charts .plot').data[0].x") == [0, 1, 2, 3]
        shutil.rmtree(tmp_path / "honest")
        expect(page.locator("#problems")).to_contain_text("honest can't be read any more")
        assert page.evaluate("window.stays")
        assert complaints == []
    finally:
        page.close()
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_tensorboard_has_the_tab(browser, tmp_path):
    """TensorBoard's own program finds it by its entry point, and shows it in a frame."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    installed = tmp_path / "installed" / f"{NAME}-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(
        f"[tensorboard_plugins]\n{setup['options.entry_points']['tensorboard_plugins'].strip()}\n"
    )
    write_run(tmp_path / "logs" / "honest", 0, range(3))
    paths = os.pathsep.join([str(installed.parent), str(ROOT)])
    command = ["env", f"PYTHONPATH={paths}", Path(sys.executable).with_name("tensorboard"), "--host", "127.0.0.1"]
    command += ["--logdir", tmp_path / "logs", "--load_fast=false"]
    with served(command, tmp_path / "server.log", f"{BASE}/page") as (url, _):
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(60_000)
        asked_for = []
        page.on("request", lambda request: asked_for.append(request.url))
        page.goto(f"{url}/#{NAME}")
        frame = page.frame_locator("iframe")
        expect(frame.locator("#count")).to_have_text("6 of 6 samples")
        expect(frame.locator("tr.sample canvas").first).to_have_attribute("data-epoch", "2")
        assert [text for text in page.locator("[role=tab]").all_inner_texts() if text.lower() == "heatmaps"]
        ours = [request for request in asked_for if NAME in request]
        assert ours
        assert all(request.startswith((f"{url}/", "data:", "blob:")) for request in ours)
        page.close()
