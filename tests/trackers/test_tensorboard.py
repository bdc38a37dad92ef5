import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from interpreter import fresh
from paths import ROOT, TESTS
from sample_records import make_config, make_record, sample_keys
from tracker_fits import fit
from tracker_logs import get, opened, read_events, served

from keras_cam_callbacks.trackers import TensorBoardTracker
from keras_cam_callbacks.trackers.tensorboard.frames import framed

LOGS = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(ROOT)!r}]
from pathlib import Path
from sample_records import make_config, make_record
from keras_cam_callbacks.trackers import TensorBoardTracker
trackers = [TensorBoardTracker() for _ in range(5)]
for tracker in trackers:
    tracker.start(make_config(Path(sys.argv[1])))
for step in range(3):
    for tracker in trackers:
        tracker.log(make_record(step))
"""


def test_tensorboard_needs_no_framework(tmp_path):
    done = fresh(f"import sys; sys.argv = ['', {str(tmp_path)!r}]\n{LOGS}\nprint(sorted(sys.modules))")
    assert not {"tensorflow", "keras", "jax", "torch"} & set(re.findall(r"'(\w+)'", done))
    assert sorted(read_events(tmp_path)[1]) == ["gradcam/area", "gradcam/drift", "gradcam/epoch"]


@pytest.mark.parametrize("size", [0, 1, 3, 5, 255, 256, 257, 1023, 14_000, 2**20 + 300])
def test_records_are_those_of_tensorboards_own_writer(size):
    from tensorboard.summary.writer.record_writer import RecordWriter

    data, file = np.random.default_rng(size).bytes(size), io.BytesIO()
    RecordWriter(file).write(data)
    assert framed(data) == file.getvalue()


def test_writers_that_start_at_once_have_a_file_each(tmp_path):
    """In one process, and in several that begin in the same second."""
    with ThreadPoolExecutor(3) as pool:
        command = [sys.executable, "-c", LOGS, tmp_path]
        list(pool.map(lambda _: subprocess.run(command, check=True), range(3)))
    files = sorted(tmp_path.glob("events.out.tfevents*"))
    assert len(files) == 15
    for number, file in enumerate(files):
        (alone := tmp_path / "alone" / str(number)).mkdir(parents=True)
        file.rename(alone / file.name)
        assert [step for step, _ in read_events(alone)[1]["gradcam/epoch"]] == [0, 1, 2]


@pytest.mark.only_on("tensorflow", reason="Keras' own TensorBoard callback writes by TensorFlow")
# From Keras' own TensorBoard callback, with numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("update_freq", ["epoch", 3])
@pytest.mark.parametrize("ours_first", [True, False])
def test_tensorboard_beside_that_of_keras(tmp_path, ours_first, update_freq):
    import keras

    records = fit(
        TensorBoardTracker(),
        tmp_path / "run",
        lambda: [keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=update_freq)],
        ours_first=ours_first,
        fits=2,
    )
    images, scalars = read_events(tmp_path / "run")
    assert sorted(images) == [f"gradcam/{key}" for key in sample_keys(3)]
    for row, tag in enumerate(sorted(images)):
        assert images[tag] == [(step, record.encoded[row]) for step, record in enumerate(records)]
    assert scalars == {
        "gradcam/drift": [(step, step / 4) for step in range(6)],
        "gradcam/area": [(step, 0.5) for step in range(6)],
        "gradcam/epoch": [(step, step % 3) for step in range(6)],
    }
    assert len(list((tmp_path / "run").glob("events.out.tfevents*"))) == 1


def test_tensorboard_leaves_out_nan_and_writes_where_it_is_told(tmp_path):
    tracker = TensorBoardTracker(tmp_path / "own")
    tracker.start(make_config(tmp_path / "run", prefix="cam/α"))
    tracker.log(make_record(3, scalars={"drift": float("nan"), "area": np.float32(0.25)}))
    images, scalars = read_events(tmp_path / "own")
    assert scalars == {"cam/α/area": [(3, 0.25)], "cam/α/epoch": [(3, 3.0)]}
    assert sorted(images) == [f"cam/α/{key}" for key in sample_keys(3)]
    assert not (tmp_path / "run").exists()
    assert (tracker.uses_directory, TensorBoardTracker().uses_directory) == (False, True)


def test_tensorboard_draws_numbers_together_by_what_they_answer(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    tracker = TensorBoardTracker()
    tracker.start(make_config(tmp_path / "run", prefix="my.cam"))
    names = ["a_drift", "b_drift", "first_drift", "a_first_drift", "flare_correlation", "energy_in_region"]
    for step, count in enumerate((5, 5, 6)):
        tracker.log(make_record(step, scalars=dict.fromkeys(names[:count], 0.5)))
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0}).Reload()
    written = events.Tensors("custom_scalars__config__")
    # Again only where there are numbers that it lacks, such as a second fit's.
    assert [event.step for event in written] == [0, 2]
    page = Layout.FromString(written[-1].tensor_proto.string_val[0])
    tags = [*(f"my.cam/{name}" for name in names), "mycam/drift", "other/my.cam/drift"]
    found = {
        chart.title: [
            tag for tag in [*tags, "mycam/drift", "other/my.cam/drift"] if re.match(chart.multiline.tag[0], tag)
        ]
        for category in page.category
        for chart in category.chart
    }
    assert found == {
        "energy_in_region": ["my.cam/energy_in_region"],
        "drift": ["my.cam/a_drift", "my.cam/b_drift"],
        "first_drift": ["my.cam/first_drift", "my.cam/a_first_drift"],
    }
    assert page.category[0].title == "my.cam: does it look at the object?"
    tracker = TensorBoardTracker()
    tracker.start(make_config(tmp_path / "none"))
    tracker.log(make_record(0, scalars={"novelty": 1}))
    events = EventAccumulator(str(tmp_path / "none"), size_guidance={"tensors": 0}).Reload()
    assert sorted(events.Tags()["tensors"])[-1] == "gradcam/sample_02"


@pytest.mark.slow
def test_tensorboard_serves_images_and_charts(tmp_path):
    keys = ("sample_00", "cat/ü 🐱")
    tracker = TensorBoardTracker()
    tracker.start(make_config(tmp_path / "gradcam", keys=keys))
    records = [make_record(step, keys=keys, size=(30, 50)) for step in range(3)]
    for record in records:
        tracker.log(record)

    command = [Path(sys.executable).with_name("tensorboard"), "--logdir", tmp_path, "--load_fast=false"]
    command += ["--host", "127.0.0.1", "--reload_interval", "1"]
    with served(command, tmp_path / "server.log", "/data/plugin/images/tags") as (url, answer):
        plugin = f"{url}/data/plugin/images"
        tags = json.loads(answer)
        assert set(tags["gradcam"]) == {f"gradcam/{key}" for key in keys}
        for row, key in enumerate(keys):
            query = urlencode({"run": "gradcam", "tag": f"gradcam/{key}", "sample": 0})
            entries = json.loads(get(f"{plugin}/images?{query}"))
            assert [entry["step"] for entry in entries] == [0, 1, 2]
            for entry, record in zip(entries, records, strict=True):
                data = get(f"{plugin}/individualImage?{entry['query']}")
                assert data == record.encoded[row]
                assert np.abs(opened(data).astype(int) - record.overlays[row]).max() <= 12
        plugin = f"{url}/data/plugin/custom_scalars"
        charts = {
            chart["title"]: chart["multiline"]["tag"]
            for category in json.loads(get(f"{plugin}/layout"))["category"]
            for chart in category["chart"]
        }
        assert sorted(charts) == ["area", "drift"]
        query = urlencode({"run": "gradcam", "tag": charts["drift"][0]})
        drawn = json.loads(get(f"{plugin}/scalars?{query}"))["tag_to_events"]
        assert {tag: [value for *_, value in events] for tag, events in drawn.items()} == {
            "gradcam/drift": [0, 0.25, 0.5]
        }
