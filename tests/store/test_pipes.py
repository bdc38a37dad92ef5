"""What is no file is refused wherever a record is read or written, and nothing waits for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest
from dying import config_of
from paths import ROOT, TESTS
from sample_records import drawn_record, make_record

from keras_cam_callbacks import Overlay
from keras_cam_callbacks.store import RunWriter

# What opens a pipe waits without end: so each is done in a process that can be ended.
CODE = """
import os, socket, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sample_records import drawn_record, make_record
from keras_cam_callbacks import compare, read_run, write_timelapse
from keras_cam_callbacks.store import Event, RunWriter
from keras_cam_callbacks.trackers.wandb.record import RecordFiles
from dying import config_of

folder, names = Path(sys.argv[2]), sys.argv[3:]

class WandbRun:
    dir = str(folder / "wandb")
    def save(self, *args, **settings): pass

def upload():
    files = RecordFiles(folder / "run", WandbRun())
    files._read = -1  # As if the log had grown since.
    files.save()

def write():
    writer = RunWriter(config_of(folder / "run"))
    writer.note(Event(5, 5, 0.0, "what", "why"))
    writer.write(make_record(5))

ACTIONS = {
    "read": lambda: [(e.arrays(), e.overlays(), e.encoded()) for e in read_run(folder / "run").epochs],
    "regions": lambda: read_run(folder / "run").regions(),
    "compare": lambda: compare([folder / "run"]),
    "report": lambda: compare([folder / "run"]).report(folder / "report.html"),
    "timelapse": lambda: write_timelapse(folder / "run", folder / "film.gif"),
    "write": write,
    "upload": upload,
}
for name in names:
    try:
        ACTIONS[name]()
    except (ValueError, OSError, RuntimeError) as error:
        print(name, type(error).__name__, str(error).replace("\\n", " "))
    else:
        print(name, "done")
"""


def make_odd(path, kind):
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        here = os.getcwd()
        os.chdir(path.parent)  # Its whole name may be too long.
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)


# What of a record is no file, and what refuses it.
PLACES = {
    "manifest.json": ("read", "compare", "report", "timelapse", "write", "upload"),
    "metrics.jsonl": ("read", "compare", "report", "timelapse", "write", "upload"),
    "heatmaps/000000.npz": ("read", "compare", "report", "timelapse", "upload"),
    "pictures/000001.zip": ("read", "timelapse", "upload"),
    "images/sample_01.png": ("read", "report", "timelapse", "upload"),
    "regions/sample_01.png": ("regions", "report", "upload"),
    "lock": ("write",),
}


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_refused_quickly(tmp_path, place, kind):
    config = config_of(tmp_path / "run")
    writer = RunWriter(config)
    writer.write(drawn_record(0, config, Overlay()))
    writer.write(make_record(1))
    make_odd(config.directory / place, kind)
    (tmp_path / "wandb").mkdir()
    command = [sys.executable, "-c", CODE, TESTS, tmp_path, *PLACES[place]]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(said) == list(PLACES[place])
    for action, text in said.items():
        assert text.startswith(("ValueError", "OSError", "IsADirectoryError")), (action, text)
    assert not (tmp_path / "film.gif").exists()
    assert not [
        path for path in (tmp_path / "wandb").rglob("*") if path.exists() and not (path.is_file() or path.is_dir())
    ]


def test_a_record_of_files_goes_through_all_of_it(tmp_path):
    config = config_of(tmp_path / "run")
    RunWriter(config).write(drawn_record(0, config, Overlay()))
    (tmp_path / "wandb").mkdir()
    actions = sorted({action for actions in PLACES.values() for action in actions})
    command = [sys.executable, "-c", CODE, TESTS, tmp_path, *actions]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}"}
    )
    assert done.stdout.splitlines() == [f"{action} done" for action in actions], done.stderr


@pytest.mark.parametrize("place", ["heatmaps/.new.npz", "sheets/.new.jpg", "sheets/000001.jpg", "pictures/000001.zip"])
def test_a_pipe_where_a_file_is_to_be_written_is_not_waited_for(tmp_path, place):
    """One under a name that is ours for the moment goes, one that has the name of an epoch stays."""
    config = config_of(tmp_path / "run")
    RunWriter(config).write(make_record(0))
    shutil.rmtree(config.directory / place.split("/")[0], ignore_errors=True)
    make_odd(config.directory / place, "pipe")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from sample_records import make_record; from keras_cam_callbacks.store import RunWriter, read_run\n"
        "from dying import config_of\n"
        "RunWriter(config_of(Path(sys.argv[2]))).write(make_record(1))\n"
        "print(len(read_run(sys.argv[2]).epochs[1].overlays()))"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}"}
    command = [sys.executable, "-c", code, TESTS, config.directory]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert (done.stdout.strip(), done.returncode) == ("3", 0), done.stderr
