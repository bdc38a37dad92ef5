"""`keras-cam runs`, `compare` and `timelapse` on stored runs, also on those that are damaged or made to do harm."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from command import ROOT, processor_seconds, run, run_python
from pngs import declared_png
from sample_records import make_config, make_record

from keras_cam_callbacks import compare, read_run
from keras_cam_callbacks.cli.console import markup, plain
from keras_cam_callbacks.drawing.files import read_image
from keras_cam_callbacks.store import Event, RunWriter

HOSTILE = "[red]cat[/red]\x1b[31m\x07\u202egpj.exe\nnext"


def one_error(result, code=1):
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return message


def write_run(directory, epochs=3, turn=0, count=3, **changes):
    """A run whose maps move with the epochs, and otherwise in every turn."""
    writer = RunWriter(make_config(directory, count, **changes), overlays=True)
    for step in range(epochs):
        maps = np.random.default_rng(step * (turn + 1)).random((count, 4, 5), np.float32)
        values = {"confidence": np.array([np.nan, *(0.5 + 0.1 * step for _ in range(count - 1))])}
        keys = changes.get("keys")
        writer.write(make_record(step, count, keys=keys, heatmaps=maps, values=values))
    return directory


@pytest.fixture
def logs(tmp_path):
    """A folder of runs, one of them two levels down, and of other programs' files."""
    logs = tmp_path / "logs"
    write_run(logs / "small/gradcam")
    write_run(logs / "deep/below/large", 5, 1, method="layercam", layer_name="")
    (logs / "page").mkdir()
    (logs / "page/manifest.json").write_text('{"name": "a web page", "icons": []}')
    return logs


def test_runs_are_listed_at_any_depth(logs):
    found = json.loads(run("runs", logs, "--json").stdout)
    assert [each["path"] for each in found] == [str(logs / "deep/below/large"), str(logs / "small/gradcam")]
    assert [each["epochs"] for each in found] == [[0, 1, 2, 3, 4], [0, 1, 2]]
    assert {each["error"] for each in found} == {None}
    small = found[1]
    assert (small["samples"], small["method"], small["layer"], small["model"]) == (3, "gradcam", "base/conv", "tiny")
    assert small["last"] == {"drift": 0.5, "area": 0.5}
    assert small["last_written"].endswith("Z")
    result = run("runs", logs)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = [line for line in result.stdout.splitlines() if "/" in line]
    assert lines[0].split()[:4] == ["deep/below/large", "5", "3", "layercam"]
    assert lines[1].split()[:5] == ["small/gradcam", "3", "3", "gradcam", "base/conv"]
    assert max(map(len, result.stdout.splitlines())) <= 80
    alone = json.loads(run("runs", logs / "small/gradcam", "--json").stdout)
    assert alone == [small]


def test_it_is_said_why_epochs_are_missing(tmp_path):
    writer = RunWriter(make_config(tmp_path / "logs/gradcam", freq=2))
    writer.write(make_record(0))
    writer.write(make_record(2))
    writer.note(Event(3, 3, 0.0, "WandbTracker", "CommError: \x1b[31mno net"))
    writer.note(Event(4, 4, 0.0, "The heatmaps", "ValueError: boom"))
    writer.write(make_record(6))
    lines = run("runs", tmp_path / "logs").stdout.splitlines()
    assert [line.removeprefix("gradcam: ") for line in lines if line.startswith("gradcam: ")] == [
        "epoch 5: not logged, for what had failed in epoch 4 was switched off until the next fit",
        "epoch 3: failed: WandbTracker: CommError: \ufffd[31mno net",
        "epoch 4: failed: The heatmaps: ValueError: boom",
        "1 epoch: passed over by freq=2",
    ]
    (found,) = json.loads(run("runs", tmp_path / "logs", "--json").stdout)
    assert [(each["first"], each["last"], each["freq"], each["failed"]) for each in found["missing"]] == [
        (1, 1, 2, False),
        (3, 3, None, True),
        (4, 4, None, True),
        (5, 5, None, False),
    ]
    assert [(each["epoch"], each["what"]) for each in found["failures"]] == [(3, "WandbTracker"), (4, "The heatmaps")]


def test_no_runs_is_no_error(tmp_path):
    result = run("runs", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"There is no run in {tmp_path}.\n"
    assert json.loads(run("runs", tmp_path, "--json").stdout) == []
    assert one_error(run("runs", tmp_path / "gone"), 2).endswith("does not exist.")


def change_manifest(directory, **changes):
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_log(directory, **changes):
    path = directory / "metrics.jsonl"
    lines = [json.dumps(json.loads(line) | changes) for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def damage(directory, kind):
    manifest = directory / "manifest.json"
    if kind == "half":
        manifest.write_bytes(manifest.read_bytes()[:100])
    elif kind == "later":
        change_manifest(directory, schema_version=99)
    elif kind == "nested":
        manifest.write_text("[" * 100_000)
    elif kind == "nested log":
        (directory / "metrics.jsonl").write_text("[" * 100_000)
    elif kind == "classes":
        change_manifest(directory, class_names=7)
    elif kind == "labels":
        change_manifest(directory, labels=["a", "b", "c"])
    elif kind == "method":
        change_manifest(directory, method={"a": 1})
    elif kind == "keys":
        change_manifest(directory, sample_keys=[1, 2, 3], files={"1": "a", "2": "b", "3": "c"})
    elif kind == "outside":
        change_log(directory, heatmaps="../../secret.npz")
    elif kind == "gone":
        shutil.rmtree(directory / "heatmaps")


KINDS = ["half", "later", "nested", "nested log", "classes", "labels", "method", "keys", "outside", "gone"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_run_is_said_and_not_fatal(logs, kind):
    broken = write_run(logs / "broken")
    damage(broken, kind)
    result = run("runs", logs)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("Damaged: ")]
    assert line.startswith(f"Damaged: {broken}: ")
    assert "small/gradcam" in result.stdout
    found = {each["path"]: each["error"] for each in json.loads(run("runs", logs, "--json").stdout)}
    assert found.pop(str(broken))
    assert set(found.values()) == {None}
    # By itself it is an error.
    for command in (["compare", broken, logs / "small"], ["timelapse", broken, "--out", logs / "film.gif"]):
        if kind != "gone" or command[0] == "compare":  # Films need no heatmaps.
            one_error(run(*command))
    assert kind == "gone" or not (logs / "film.gif").exists()


class Evil:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "array of objects", "bomb", "long header"])
def test_a_hostile_heatmap_file_is_an_error_and_runs_nothing(logs, tmp_path, kind):
    victim = tmp_path / "executed"
    file = read_run(logs / "small").epochs[1].heatmap_file
    with np.load(file) as stored:
        arrays = dict(stored)
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Evil(victim)))
    elif kind == "array of objects":
        np.savez(file, **arrays | {"scores": np.array([Evil(victim)] * 3, object)}, allow_pickle=True)
    elif kind == "bomb":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                archive.writestr(f"{name}.npy", npy(np.zeros(2**26, np.uint8) if name == "scores" else array))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                archive.writestr(f"{name}.npy", npy(array).replace(b"(3, 4, 5)", b"(9**9**9,)"))
    message = one_error(run("compare", logs / "small", logs / "deep/below/large", "--csv", tmp_path / "a.csv"))
    assert "A heatmap file must" in message
    with pytest.raises(ValueError, match=r"A heatmap file must be an \.npz of plain arrays"):
        read_run(logs / "small").epochs[1].arrays()
    assert not victim.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs"]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_pipes_in_a_record_are_not_waited_for(logs):
    small = read_run(logs / "small")
    (logs / "pipe").mkdir()
    os.mkfifo(logs / "pipe/manifest.json")
    small.epochs[2].heatmap_file.unlink()
    os.mkfifo(small.epochs[2].heatmap_file)
    with pytest.raises(ValueError, match="must be a file"):
        small.epochs[2].arrays()
    small.epochs[1].overlay_files[0].unlink()
    os.mkfifo(small.epochs[1].overlay_files[0])
    assert "which is no file" in one_error(run("timelapse", logs / "small", "--out", logs / "film.gif"))
    (logs / "deep/below/large/metrics.jsonl").unlink()
    os.mkfifo(logs / "deep/below/large/metrics.jsonl")
    found = json.loads(run("runs", logs, "--json").stdout)
    assert {each["path"]: each["error"] for each in found} == {
        str(logs / "deep/below/large"): (
            f"What a record holds must be a file. Received: {logs / 'deep/below/large/metrics.jsonl'}, which is none."
        ),
        str(logs / "small/gradcam"): "The files of steps [2] are gone.",
    }


def test_a_hostile_picture_in_a_record_is_an_error(logs):
    film = logs / "film.gif"
    small = read_run(logs / "small")
    small.epochs[1].overlay_files[0].write_bytes(declared_png(60000, 60000))
    assert "can't be decoded" in one_error(run("timelapse", logs / "small", "--out", film))
    small.epochs[1].overlay_files[0].unlink()
    small.epochs[1].overlay_files[0].symlink_to("/dev/zero")
    assert "leads out of the run's folder" in one_error(run("timelapse", logs / "small", "--out", film))
    assert not film.exists()


def test_hostile_names_neither_steer_the_terminal_nor_style_the_table(tmp_path):
    keys = (HOSTILE, "sample_01", "sample_02")
    classes = ("\x1b]0;title\x07cat", "[link=http://x]dog[/link]")
    settings = {"keys": keys, "class_names": classes, "method": HOSTILE, "model_name": "\x1b[2J"}
    for name in ("one", "[bold]two\x1b[0m"):
        write_run(tmp_path / "logs" / name, 2, len(name), **settings)
    shown = [
        run("runs", tmp_path / "logs"),
        run("compare", tmp_path / "logs/one", tmp_path / "logs/[bold]two\x1b[0m"),
        run("timelapse", tmp_path / "logs/one", "--samples", "\x1b[31m", "--out", tmp_path / "film.gif"),
    ]
    for result in shown:
        assert result.exit_code in (0, 1)
        for character in "\x1b\x07\u202e":
            assert character not in result.output
    assert "[red]cat[/red]" in "".join(shown[0].stdout.split())
    assert "[bold]two" in shown[1].stdout
    assert "Received: '\\x1b[31m'" in shown[2].stderr
    # JSON escapes them, and a reader gets them whole.
    found = json.loads(run("runs", tmp_path / "logs", "--json").stdout)
    assert found[0]["method"] == HOSTILE


def test_plain_text_keeps_letters_of_all_scripts():
    assert plain("Zürich 東京 – ✓ é") == "Zürich 東京 – ✓ é"
    assert plain("a\tb\nc\x1b[1m\u200b\ud800") == "a b c\ufffd[1m\ufffd\ufffd"
    assert plain("a\nb\x00", keep="\n") == "a\nb\ufffd"
    assert markup("[bold]\x1b") == "\\[bold]\ufffd"


def test_letters_that_a_terminal_lacks_are_written_as_numbers(tmp_path):
    write_run(tmp_path / "run", method="東京")
    done = python("runs", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\u6771" in done.stdout


def test_compare_says_what_comparison_finds(logs, tmp_path):
    pair = [logs / "small", logs / "deep/below"]
    expected = compare(pair)
    result = run("compare", *pair, "--csv", tmp_path / "numbers.csv")
    assert result.exit_code == 0, result.output
    for text in (*expected.names, "drift", "area", "confidence", "agreement", *expected.sample_keys):
        assert text in result.stdout
    assert expected.summary().splitlines()[0] in result.stdout
    assert max(map(len, result.stdout.split("3 samples, epochs")[0].splitlines())) <= 80
    with open(tmp_path / "numbers.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (3 + 5)
    assert {row["run"] for row in rows} == set(expected.names)

    found = json.loads(run("compare", *pair, "--json").stdout)
    assert [each["name"] for each in found["runs"]] == list(expected.names)
    assert [each["last"]["epoch"] for each in found["runs"]] == [2, 4]
    (only,) = found["pairs"]
    shared = expected.agreement[0, :3]
    assert only["agreement"] == pytest.approx(float(np.nanmean(shared[2])))
    assert only["mean_agreement"] == pytest.approx(float(np.mean([np.nanmean(each) for each in shared])))
    assert only["parted"] == (None if expected.parted_overall() < 0 else expected.parted_overall())
    order = [expected.sample_keys[i] for i in expected.most_different()]
    assert [each["sample"] for each in found["samples"]] == order
    assert found["differences"]["method"] == ["gradcam", "layercam"]
    assert found["epochs"] == json.loads(json.dumps(expected.table("epoch")))


def test_compare_takes_names_and_one_run_alone(logs):
    found = json.loads(
        run("compare", logs / "small", logs / "deep/below", "--name", "A", "--name", "B", "--json").stdout
    )
    assert [each["name"] for each in found["runs"]] == ["A", "B"]
    alone = run("compare", logs / "small")
    assert alone.exit_code == 0
    assert "agreement, last" not in alone.stdout
    assert json.loads(run("compare", logs / "small", "--json").stdout)["pairs"] == []


def test_compare_tells_what_does_not_fit(logs, tmp_path):
    assert run("compare").exit_code == 2
    other = write_run(tmp_path / "other", fingerprints=("x", "y", "z"))
    message = one_error(run("compare", logs / "small", other))
    assert "sample_00" in message
    assert "`view`" in one_error(run("compare", logs / "small", logs / "deep/below", "--view", "saliency"))
    (tmp_path / "mine.csv").write_text("mine")
    refused = run("compare", logs / "small", "--csv", tmp_path / "mine.csv")
    assert f"{tmp_path / 'mine-2.csv'} works" in one_error(refused)
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert run("compare", logs / "small", "--csv", tmp_path / "mine.csv", "--force").exit_code == 0
    assert (tmp_path / "mine.csv").read_text().startswith("run,epoch,sample")


def test_reports_are_written_whole_and_their_size_is_said(logs, tmp_path):
    page = tmp_path / "report.html"
    result = run("report", logs / "deep/below", "--out", page, "--max-epochs", "2")
    assert (result.exit_code, result.stdout) == (0, f"{page}\n")
    assert "MB and shows 2 epochs" in result.stderr
    assert page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    assert "report-2.html works" in one_error(run("report", logs / "small", "--out", page))
    both = run("compare", logs / "small", logs / "deep/below", "--out", page, "--force", "--json")
    assert both.exit_code == 0
    assert len(json.loads(both.stdout)["runs"]) == 2
    assert f"Written: {page}" in both.stderr
    assert "report.html works" in one_error(run("report", logs / "small", "--out", tmp_path / "report.txt"))
    # A picture that is damaged is found while the report is made.
    before = page.read_bytes()
    read_run(logs / "small").image_files[0].write_bytes(b"no picture")
    one_error(run("report", logs / "small", "--out", page, "--force"))
    one_error(run("report", logs / "small", "--out", tmp_path / "new/report.html"))
    assert page.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "report.html"]


def test_reports_and_films_as_json(logs, tmp_path):
    page, films = tmp_path / "report.html", tmp_path / "films"
    result = run("report", logs / "small", "--out", page, "--json")
    written = json.loads(result.stdout)
    assert (written["path"], written["size"], written["left_out"]) == (str(page), page.stat().st_size, [])
    assert written["epochs"] == [epoch.step for epoch in read_run(logs / "small").epochs]
    assert written["notes"] == [line for line in result.stderr.splitlines() if "MB and shows" not in line]
    result = run("timelapse", logs / "small", "--out", films, "--json")
    assert sorted(json.loads(result.stdout)["films"]) == sorted(map(str, films.iterdir()))
    refused = run("timelapse", logs / "small", "--out", tmp_path / "all.gif", "--samples", "none such", "--json")
    assert (refused.exit_code, refused.stdout) == (1, "")


def test_missing_packages_of_the_report_are_one_message(logs):
    code = f"""
import sys
sys.modules["plotly"] = None
from keras_cam_callbacks.cli import main
main(["report", {str(logs / "small")!r}])
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "Error: This needs plotly. Install it: pip install 'keras_cam_callbacks[report]'\n"


def test_timelapse_writes_films_and_names_them(logs, tmp_path):
    result = run("timelapse", logs / "small", "--out", tmp_path / "films", "--samples", "sample_01", "--format", "webp")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path / 'films/sample_01.webp'}\n"
    with PIL.Image.open(tmp_path / "films/sample_01.webp") as film:
        assert film.n_frames == 3
    assert run("timelapse", logs / "small", "--out", tmp_path / "all.gif", "--fps", "5").exit_code == 0
    with PIL.Image.open(tmp_path / "all.gif") as film:
        assert (film.n_frames, film.info["duration"]) == (3, 200)
    assert "all-2.gif works" in one_error(run("timelapse", logs / "small", "--out", tmp_path / "all.gif"))
    assert run("timelapse", logs / "small", "--out", tmp_path / "all.gif", "--force").exit_code == 0
    for wrong in (["--fps", "0"], ["--format", "avi"]):
        assert run("timelapse", logs / "small", *wrong).exit_code == 2


TELLING = """
import sys
from keras_cam_callbacks.cli import main
try:
    main(prog_name="keras-cam")
finally:
    sys.stderr.write(f"loaded: {sorted({'keras', 'tensorflow', 'cv2', 'wandb', 'PIL'} & set(sys.modules))}")
"""


def python(*arguments, **environment):
    """The command in a process of its own; at its end it tells what was loaded."""
    return run_python(TELLING, *arguments, **environment)


def test_listing_runs_starts_quickly(logs):
    """It may take three times as long as what it needs of other libraries: 0.2 s on an idle machine."""
    done = python("runs", logs)
    assert done.stderr.endswith("loaded: []")
    assert "small/gradcam" in done.stdout
    libraries = "import click, numpy, rich.console, rich.table"
    assert processor_seconds(TELLING, "runs", logs) < 3 * processor_seconds(libraries)


@pytest.mark.parametrize("command", ["compare", "timelapse"])
def test_stored_runs_need_no_framework(logs, tmp_path, command):
    out = ["--out", tmp_path / "a.gif"] if command == "timelapse" else ["--json"]
    done = python(command, logs / "small", *out)
    assert done.returncode == 0, done.stderr
    assert not {"keras", "tensorflow", "wandb"} & set(done.stderr.split("'"))


def test_missing_rich_is_one_message(logs):
    code = f"""
import sys
sys.modules["rich"] = None
from keras_cam_callbacks.cli import main
main(["runs", {str(logs)!r}])
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "Error: This needs rich. Install it: pip install 'keras_cam_callbacks[cli]'\n"


def test_csv_and_report_are_two_files(logs, tmp_path):
    runs = [write_run(tmp_path / name / "gradcam") for name in "ab"]
    result = run("compare", *runs, "--csv", tmp_path / "x.html", "--out", tmp_path / "x.html")
    assert "--csv and --out must be two files" in one_error(result)
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"regions": [{"boxes": [[0, 0, 10**400, 1]], "mask": None}, None, None]},
        {"regions": [7, None, None]},
        {"files": dict.fromkeys(("sample_00", "sample_01", "sample_02"), "same")},
    ],
    ids=("number", "region", "files"),
)
def test_one_damaged_run_is_one_line(tmp_path, change):
    manifest = write_run(tmp_path / "a" / "gradcam") / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text("utf-8")) | change), "utf-8")
    write_run(tmp_path / "b" / "gradcam")
    result = run("runs", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Damaged: " in result.output
    assert "b/gradcam" in result.output
    assert "must be whole" in one_error(run("report", tmp_path / "a", "--out", tmp_path / "x.html"))


def test_a_linked_image_stays_where_it_is(tmp_path):
    folder = write_run(tmp_path / "a" / "gradcam")
    (tmp_path / "secret.png").write_bytes((folder / "images/sample_00.png").read_bytes())
    (folder / "images/sample_00.png").unlink()
    (folder / "images/sample_00.png").symlink_to(tmp_path / "secret.png")
    assert "leads out of the run's folder" in one_error(run("report", folder, "--out", tmp_path / "x.html"))
    assert not (tmp_path / "x.html").exists()


def test_pictures_are_read_as_they_are_stored(tmp_path):
    upright = PIL.Image.new("RGB", (20, 10), (200, 30, 30))
    exif = upright.getexif()
    exif[0x0112] = 6  # To be shown turned by a quarter.
    upright.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (10, 20, 3)
