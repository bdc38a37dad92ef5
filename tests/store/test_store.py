import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT, TESTS
from PIL import Image
from sample_records import make_config, make_record, picture

from keras_cam_callbacks.drawing.files import read_image
from keras_cam_callbacks.store import RunWriter, choose_directory, file_stem, find_runs, read_run


def write_run(config, steps, overlays=False, **changes):
    writer = RunWriter(config, overlays=overlays)
    for step in steps:
        writer.write(make_record(step, keys=config.sample_keys, **changes))
    return config.directory


def tree(directory):
    """The bytes of each file below."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def opened(path):
    with Image.open(path) as image:
        return image.format, np.asarray(image)


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_all_comes_back(tmp_path, image_format):
    config = make_config(tmp_path / "run")
    records = [make_record(step, epoch=step + 5, image_format=image_format) for step in range(3)]
    before = time.time()
    writer = RunWriter(config)
    for record in records:
        writer.write(record)

    run = read_run(config.directory)
    assert run.directory == config.directory
    assert run.sample_keys == config.sample_keys
    assert run.class_names == config.class_names
    names = ["versions", "model_name", "method", "target", "prefix", "value_range", "overlay"]
    assert {name: run.manifest[name] for name in names} == {name: getattr(config, name) for name in names}
    assert run.manifest["layer"] == "base/conv"
    assert run.manifest["fingerprints"] == list(config.fingerprints)
    assert run.manifest["labels"] == [None, 1, 0]
    for path, image in zip(run.image_files, config.display, strict=True):
        np.testing.assert_array_equal(opened(path)[1], image)
        np.testing.assert_array_equal(read_image(path), image)

    assert len(run.epochs) == 3
    for stored, record in zip(run.epochs, records, strict=True):
        assert (stored.epoch, stored.step, stored.scalars) == (record.epoch, record.step, record.scalars)
        assert stored.captions == tuple(sample.caption for sample in record.samples)
        assert before <= stored.wall_time <= time.time()
        assert list(stored.encoded()) == list(record.encoded)
        formats = {opened(io.BytesIO(data))[0] for data in stored.encoded()}
        assert formats == {{"jpg": "JPEG", "png": "PNG"}[image_format]}
        for read, overlay in zip(stored.overlays(), record.overlays, strict=True):
            # Swapped channels would differ by far more.
            assert np.abs(read.astype(int) - overlay).max() <= (12 if image_format == "jpg" else 0)
        arrays = stored.arrays()
        np.testing.assert_array_equal(stored.heatmaps(), record.heatmaps)
        np.testing.assert_array_equal(arrays["outputs"], record.outputs)
        np.testing.assert_array_equal(arrays["scores"], [sample.score for sample in record.samples])
        np.testing.assert_array_equal(arrays["confidences"], np.float32([np.nan, 1 / 2, 1 / 3]))
        np.testing.assert_array_equal(arrays["predicted"], [-1, (1 + record.step) % 2, record.step % 2])
        np.testing.assert_array_equal(arrays["targets"], [-1, 1, 1])
        np.testing.assert_array_equal(arrays["degenerate"], [False, True, False])
        dtypes = {name: str(array.dtype) for name, array in arrays.items()}
        assert dtypes == {
            "heatmaps": "float32",
            "scores": "float32",
            "confidences": "float32",
            "predicted": "int64",
            "targets": "int64",
            "degenerate": "bool",
            "outputs": "float32",
        }


def test_a_model_with_several_outputs_has_none(tmp_path):
    run = read_run(write_run(make_config(tmp_path), [0], outputs=None))
    assert "outputs" not in run.epochs[0].arrays()


def test_numbers_that_json_does_not_know(tmp_path):
    scalars = {"nan": np.nan, "inf": np.inf, "low": -np.inf, "numpy": np.float32(0.5), "whole": np.int64(3)}
    overlay = {"limit": np.inf, "size": (224, 224), "mask": np.arange(2), "font": Path("a")}
    run = read_run(write_run(make_config(tmp_path, overlay=overlay), [0], scalars=scalars))
    stored = strict((tmp_path / "metrics.jsonl").read_text("utf-8"))
    assert stored["scalars"] == {"nan": None, "inf": None, "low": None, "numpy": 0.5, "whole": 3}
    manifest = strict((tmp_path / "manifest.json").read_text("utf-8"))
    assert manifest["overlay"] == {"limit": None, "size": [224, 224], "mask": [0, 1], "font": "a"}
    assert run.epochs[0].scalars["numpy"] == 0.5
    assert all(np.isnan(run.epochs[0].scalars[name]) for name in ("nan", "inf", "low"))


UNSAFE = (
    "../../evil",
    "a/b",
    "a_b",
    "/etc/passwd",
    "..",
    "",
    "🐱",
    "🐶",
    "con",
    "nul.txt",
    "Cat",
    "cat",
    "C:\\x",
    "x" * 300,
    "line\nbreak",
    "\ud800",
    "-rf",
    ".hidden",
    "image.png",
)


def test_unsafe_sample_keys_get_safe_files(tmp_path):
    config = make_config(tmp_path / "logs" / "run", keys=UNSAFE)
    run = read_run(write_run(config, [0]))
    assert run.sample_keys == UNSAFE
    record = make_record(0, keys=UNSAFE)
    assert list(run.epochs[0].encoded()) == list(record.encoded)
    stems = [run.manifest["files"][key] for key in UNSAFE]
    assert len({stem.lower() for stem in stems}) == len(UNSAFE)
    for stem in stems:
        assert len(stem) <= 80
        assert set(stem) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
        assert stem[0] not in ".-"
        assert stem[-1] != "."
        assert stem.split(".")[0].lower() not in {"con", "nul"}
    assert run.manifest["files"]["image.png"] == "image.png"
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["run"]


@pytest.mark.parametrize("seed", range(20))
def test_file_stems_differ_where_texts_do(seed):
    letters = random.Random(seed)
    texts = {"".join(letters.choices("aA./_ é", k=4)) for _ in range(200)}
    stems = {file_stem(text) for text in texts}
    assert len(stems) == len(texts)


def test_equal_sample_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must differ.*'a' twice"):
        RunWriter(make_config(tmp_path / "run", keys=("a", "b", "a")))
    assert not (tmp_path / "run").exists()


def test_a_step_that_comes_again_wins_and_overwrites_nothing(tmp_path):
    config = make_config(tmp_path)
    writer = RunWriter(config)
    for step in range(3):
        writer.write(make_record(step))
    before = tree(tmp_path)
    for changed in (11, 12):
        writer.write(replace(make_record(changed), step=1, epoch=1))
    after = tree(tmp_path)
    assert all(after[path] == data for path, data in before.items() if path.name != "metrics.jsonl")
    run = read_run(tmp_path)
    assert [epoch.step for epoch in run.epochs] == [0, 1, 2]
    assert run.epochs[1].captions[0].startswith("step 12")
    np.testing.assert_array_equal(run.epochs[1].heatmaps(), make_record(12).heatmaps)
    assert list(run.epochs[1].encoded()) == list(make_record(12).encoded)
    lines = [strict(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert len({line["heatmaps"] for line in lines}) == len(lines) == 5


def test_a_killed_writer_leaves_whole_epochs_at_every_byte(tmp_path):
    log = write_run(make_config(tmp_path), range(3)) / "metrics.jsonl"
    whole = log.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        log.write_bytes(whole[:length])
        # A line of which only the line break is missing is whole.
        assert len(read_run(tmp_path).epochs) == sum(end - 1 <= length for end in ends)


def test_a_writer_starts_on_a_fresh_line_after_half_a_line(tmp_path):
    config = make_config(tmp_path)
    log = write_run(config, range(3)) / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-30])
    write_run(config, [2, 3])
    run = read_run(tmp_path)
    assert [epoch.step for epoch in run.epochs] == [0, 1, 2, 3]
    for epoch in run.epochs:
        np.testing.assert_array_equal(epoch.heatmaps(), make_record(epoch.step).heatmaps)
        assert list(epoch.encoded()) == list(make_record(epoch.step).encoded)


def test_memory_is_bounded_however_many_epochs_there_are(tmp_path):
    config = make_config(tmp_path, 64, display=(picture(0, (4, 4)),) * 64)
    write_run(config, range(40), map_size=(56, 56), size=(4, 4))
    one_epoch = 64 * 56 * 56 * 4
    tracemalloc.start()
    run = read_run(tmp_path)
    read, _ = tracemalloc.get_traced_memory()
    means = [float(epoch.heatmaps().mean()) for epoch in run.epochs]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert means == [31.5 - step for step in range(40)]
    assert read < 4 * one_epoch
    assert peak - read < 3 * one_epoch


def test_two_writers_do_not_mix(tmp_path):
    first, second = RunWriter(make_config(tmp_path)), RunWriter(make_config(tmp_path))
    first.write(make_record(0))
    with pytest.raises(RuntimeError, match=r"one writer.*another process"):
        second.write(make_record(0))
    first.write(make_record(1))
    assert [epoch.step for epoch in read_run(tmp_path).epochs] == [0, 1]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks up the open file as Linux shows it")
def test_a_process_forked_while_an_epoch_is_written_keeps_no_lock(tmp_path, monkeypatch):
    """It has the same open file, as a copy of the descriptor has."""
    put, copies = RunWriter._put_epoch, []

    def put_and_copy(self, record):
        lock = (tmp_path / "lock").resolve()
        mine = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.resolve() == lock]
        copies.extend(map(os.dup, mine))
        return put(self, record)

    monkeypatch.setattr(RunWriter, "_put_epoch", put_and_copy)
    writer = RunWriter(make_config(tmp_path))
    try:
        for step in range(3):
            writer.write(make_record(step))
    finally:
        for copy in copies:
            os.close(copy)
    assert copies
    assert len(read_run(tmp_path).epochs) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": ("sample_00", "sample_02", "sample_01")},
        {"count": 2},
        {"heatmaps": np.zeros((2, 4, 4), np.float32)},
        {"encoded": (b"",)},
    ],
)
def test_a_record_of_other_samples_is_refused(tmp_path, changes):
    writer = RunWriter(make_config(tmp_path))
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"one heatmap and one overlay.*Received"):
        writer.write(make_record(0, **changes))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "layercam"),
        ("layer_name", "other"),
        ("target", "true"),
        ("model_name", "other"),
        ("prefix", "other"),
        ("fingerprints", ("0", "1", "2")),
        ("sample_keys", ("a", "b", "c")),
    ],
)
def test_the_folder_of_another_run_is_left_alone(tmp_path, name, value):
    write_run(make_config(tmp_path), [0])
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=f"one run.*differs in {name.removesuffix('_name')}"):
        RunWriter(make_config(tmp_path, **{name: value}))
    assert tree(tmp_path) == before


def test_a_run_is_found_in_its_log_dir(tmp_path):
    with pytest.raises(ValueError, match="these runs: none"):
        read_run(tmp_path / "missing")
    with pytest.raises(ValueError, match="these runs: none"):
        read_run(tmp_path)
    write_run(make_config(tmp_path / "gradcam"), [0])
    assert read_run(str(tmp_path)).directory == tmp_path / "gradcam"
    write_run(make_config(tmp_path / "gradcam-2"), [0])
    assert find_runs(tmp_path) == [tmp_path / "gradcam", tmp_path / "gradcam-2"]
    with pytest.raises(ValueError, match=r"gradcam, .*gradcam-2\."):
        read_run(tmp_path)


def test_a_damaged_manifest_is_refused_at_every_byte(tmp_path):
    path = write_run(make_config(tmp_path), [0]) / "manifest.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"manifest\.json must be whole"):
            read_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"sample_keys": ["a"]},
        {"sample_keys": 3},
        {"fingerprints": None},
        {"labels": [1]},
        {"files": {"sample_00": "../x", "sample_01": "b", "sample_02": "c"}},
        {"files": {"sample_00": "/etc/passwd", "sample_01": "b", "sample_02": "c"}},
        {"files": {"sample_00": "C:x", "sample_01": "b", "sample_02": "c"}},
        {"files": {"sample_00": "..", "sample_01": "b", "sample_02": "c"}},
        {"files": ["a", "b", "c"]},
        {"files": {"sample_00": 3, "sample_01": "b", "sample_02": "c"}},
    ],
    ids=str,
)
def test_a_wrong_manifest_is_refused(tmp_path, change):
    path = write_run(make_config(tmp_path), [0]) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json must be whole"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["schema_version", "layer", "prefix", "class_names", "files", "sample_keys"])
def test_a_manifest_with_a_part_missing_is_refused(tmp_path, name):
    path = write_run(make_config(tmp_path), [0]) / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest[name]
    path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ValueError, match=rf"manifest\.json must be whole.*{name}"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "\xff"])
def test_a_manifest_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"manifest\.json must be whole"):
        read_run(tmp_path)


def test_a_later_schema_is_refused(tmp_path):
    path = write_run(make_config(tmp_path), [0]) / "manifest.json"
    path.write_text('{"schema_version": 99, "samples": "elsewhere"}', "utf-8")
    with pytest.raises(ValueError, match=r"schema_version of at most 2\. Received: 99 in .*manifest\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"heatmaps": "../secret.npz"},
        {"heatmaps": "/etc/passwd"},
        {"heatmaps": "heatmaps/../../secret.npz"},
        {"heatmaps": "link/secret.npz"},
        {"heatmaps": "..\\secret.npz"},
        {"heatmaps": "."},
        {"heatmaps": 3},
        {"overlays": ["overlays/000000/sample_00.jpg", "../x.jpg", "overlays/000000/sample_02.jpg"]},
        {"overlays": ["overlays/000000/sample_00.jpg"]},
        {"captions": ["one"]},
        {"scalars": [1]},
        {"scalars": {"a": "x"}},
        {"step": "one"},
        {"epoch": None},
    ],
    ids=str,
)
def test_a_line_that_leads_out_of_the_folder_or_is_wrong_is_refused(tmp_path, change):
    directory = tmp_path / "logs" / "run"
    log = write_run(make_config(directory), [0], overlays=True) / "metrics.jsonl"
    (directory / "link").symlink_to(tmp_path)
    np.savez(tmp_path / "secret.npz", heatmaps=np.ones(3))
    shutil.copy(tmp_path / "secret.npz", directory.parent)
    entry = json.loads(log.read_text("utf-8")) | change
    log.write_text(log.read_text("utf-8") + json.dumps(entry) + "\n", "utf-8")
    with pytest.raises(ValueError, match=r"metrics\.jsonl must describe one epoch.*Received in line 2"):
        read_run(directory)


def test_overlays_lead_where_their_whole_paths_do(tmp_path):
    """Their common folder is looked up once: through links and points, each must still be what the system has it be."""
    directory = tmp_path / "logs" / "run"
    log = write_run(make_config(directory), [0], overlays=True) / "metrics.jsonl"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.jpg").touch()
    (directory / "out").symlink_to(tmp_path / "outside")
    (directory / "in").symlink_to("overlays/000000")
    (directory / "overlays" / "file.jpg").symlink_to(tmp_path / "outside" / "x.jpg")
    (directory / "overlays" / "fine.jpg").symlink_to("000000/sample_00.jpg")
    (directory / "overlays" / "loop.jpg").symlink_to("loop.jpg")
    written = log.read_text("utf-8")
    root = os.path.realpath(directory)
    names = ["in/sample_00.jpg", "in/../../images/a.png", "overlays/fine.jpg", "overlays/loop.jpg", "in/.", "in/"]
    names += ["out/x.jpg", "out/../x", "overlays/file.jpg", "out/..", "..", ".", "", "overlays/000000/../../.."]
    names += ["overlays/" + "x" * 300, "missing/folder/x.jpg", "overlays/000000/sample_01.jpg/x", "a\0b", "out/a\0b"]
    refused = []
    for name in names:
        entry = json.loads(written) | {"overlays": ["overlays/000000/sample_00.jpg", name, name]}
        log.write_text(json.dumps(entry) + "\n", "utf-8")
        try:
            expected = os.path.realpath(os.path.join(root, name))
        except ValueError:
            expected = ""
        if expected.startswith(root + os.sep):
            assert [str(path) for path in read_run(directory).epochs[0].overlay_files[1:]] == [expected] * 2
        else:
            refused.append(name)
            with pytest.raises(ValueError, match="must describe one epoch"):
                read_run(directory)
    assert refused == ["out/x.jpg", "out/../x", "overlays/file.jpg", *names[9:14], "a\0b", "out/a\0b"]


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_arrays_are_refused_and_not_run(tmp_path):
    run = read_run(write_run(make_config(tmp_path), [0]))
    sprung = tmp_path / "sprung"
    path = run.epochs[0].heatmap_file
    for data in (pickle.dumps(Trap(sprung)), _npz(heatmaps=np.array([Trap(sprung)], object))):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"\.npz of plain arrays.*step 0"):
            run.epochs[0].arrays()
        assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists(), "the trap does work"


def _npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_damaged_files_are_named(tmp_path):
    epoch = read_run(write_run(make_config(tmp_path), [0], overlays=True)).epochs[0]
    whole = epoch.heatmap_file.read_bytes()
    single = io.BytesIO()
    np.save(single, np.ones(3))
    for data in (b"", whole[:100], whole[:-10], _npz(other=np.ones(3)), single.getvalue()):
        epoch.heatmap_file.write_bytes(data)
        with pytest.raises(ValueError, match=r"Received: .*000000\.npz"):
            epoch.heatmaps()
    epoch.heatmap_file.unlink()
    with pytest.raises(FileNotFoundError, match=r"000000\.npz"):
        epoch.heatmaps()
    for data in (b"", b"no picture"):
        epoch.overlay_files[1].write_bytes(data)
        with pytest.raises(ValueError, match=r"PNG or JPEG.*sample_01\.jpg"):
            epoch.overlays()


def test_a_fresh_fit_gets_a_fresh_folder(tmp_path):
    logs = tmp_path / "deep" / "logs"
    config = make_config(tmp_path / "unused")
    assert choose_directory(logs, config, 0)[:2] == (logs / "gradcam", None)
    write_run(make_config(logs / "gradcam"), range(3))
    before = tree(logs / "gradcam")
    assert choose_directory(str(logs), config, 0)[:2] == (logs / "gradcam-2", None)
    # Nothing is in it yet, but who has it may be about to write.
    assert choose_directory(logs, config, 0)[:2] == (logs / "gradcam-3", None)
    RunWriter(make_config(logs / "gradcam-3"))
    assert choose_directory(logs, config, 0)[:2] == (logs / "gradcam-4", None)
    assert tree(logs / "gradcam") == before
    assert not (tmp_path / "unused").exists()


CHOOSER = """
import sys
from pathlib import Path
from sample_records import make_config
from keras_cam_callbacks.store import choose_directory
log_dir = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    print(choose_directory(log_dir, make_config(log_dir), 0)[0].name)
"""


def test_processes_that_start_together_get_folders_of_their_own(tmp_path):
    environment = {"PYTHONPATH": f"{TESTS}:{ROOT}", "PATH": ""}
    command = [sys.executable, "-c", CHOOSER, tmp_path / "logs"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, env=environment, **pipes) as one,
        subprocess.Popen(command, env=environment, **pipes) as other,
    ):
        for process in (one, other):
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("\n")
            process.stdin.flush()
        names = [*one.communicate()[0].split(), *other.communicate()[0].split()]
    assert sorted(names) == sorted(["gradcam", *(f"gradcam-{number}" for number in range(2, 61))])


def test_a_resumed_fit_goes_on_in_its_folder(tmp_path):
    config = make_config(tmp_path)
    write_run(make_config(tmp_path / "gradcam"), range(4))
    assert choose_directory(tmp_path, config, 4)[:2] == (tmp_path / "gradcam", 3)
    # Epoch 3 was logged, but the backup is older: it comes again, and takes the place of the first.
    directory, last = choose_directory(tmp_path, config, 3)[:2]
    assert (directory, last) == (tmp_path / "gradcam", 2)
    write_run(make_config(directory), [last + 1], scalars={"drift": 77})
    run = read_run(directory)
    assert [(epoch.epoch, epoch.scalars["drift"]) for epoch in run.epochs] == [
        (0, 0),
        (1, 0.25),
        (2, 0.5),
        (3, 77),
    ]
    # A later run of the same identity is the one that is resumed.
    write_run(make_config(tmp_path / "gradcam-2"), range(2))
    assert choose_directory(tmp_path, config, 2)[:2] == (tmp_path / "gradcam-2", 1)
    # Also where the first folder has gone.
    shutil.rmtree(tmp_path / "gradcam")
    assert choose_directory(tmp_path, config, 2)[:2] == (tmp_path / "gradcam-2", 1)
    assert choose_directory(tmp_path, config, 0)[:2] == (tmp_path / "gradcam", None)


def test_steps_of_two_fits_go_on_when_resumed(tmp_path):
    config = make_config(tmp_path / "gradcam")
    writer = RunWriter(config)
    for step, epoch in enumerate([0, 1, 2, 0, 1]):
        writer.write(make_record(step, epoch=epoch))
    assert choose_directory(tmp_path, config, 2)[:2] == (tmp_path / "gradcam", 4)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "layercam"},
        {"layer_name": "other"},
        {"target": "true"},
        {"model_name": "other"},
        {"fingerprints": ("0", "1", "2")},
        {"sample_keys": ("a", "b", "c")},
    ],
    ids=str,
)
def test_another_run_is_not_resumed(tmp_path, change):
    write_run(make_config(tmp_path / "gradcam"), range(4))
    assert choose_directory(tmp_path, make_config(tmp_path, **change), 4)[:2] == (tmp_path / "gradcam-2", None)


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / "gradcam").write_text("a file", "utf-8")
    (tmp_path / "gradcam-2").mkdir()
    (tmp_path / "gradcam-2" / "events.out.tfevents.1.host").write_bytes(b"events of another run")
    (tmp_path / "gradcam-3").mkdir()
    (tmp_path / "gradcam-3" / "manifest.json").write_text("damaged", "utf-8")
    (tmp_path / "gradcam-4").symlink_to(tmp_path / "nowhere")
    config = make_config(tmp_path)
    assert choose_directory(tmp_path, config, 0)[:2] == (tmp_path / "gradcam-5", None)
    assert choose_directory(tmp_path, config, 3)[:2] == (tmp_path / "gradcam-6", None)


@pytest.mark.parametrize("prefix", ["a/b", "..", "../x", "", "🐱", "con", "a" * 300])
def test_unsafe_prefixes_stay_inside_log_dir(tmp_path, prefix):
    directory = choose_directory(tmp_path / "logs", make_config(tmp_path, prefix=prefix), 0).directory
    assert directory.parent == tmp_path / "logs"
    assert directory.is_dir()
    assert directory.resolve() == directory
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    run = read_run(write_run(make_config(directory, prefix=prefix), range(2)))
    assert run.manifest["prefix"] == prefix
    assert choose_directory(tmp_path / "logs", make_config(tmp_path, prefix=prefix), 2)[:2] == (directory, 1)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/keras_cam_callbacks", "/proc"])
def test_a_log_dir_that_cannot_be_written_to_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("in the way", "utf-8")
    log_dir = tmp_path / place
    with pytest.raises(ValueError, match=r"log_dir must be a folder that can be written to\. Received: .*Pass another"):
        choose_directory(log_dir, make_config(tmp_path), 0)


def test_the_store_loads_no_framework():
    code = (
        "import sys, keras_cam_callbacks.store, keras_cam_callbacks.trackers\n"
        "print({'cv2', 'tensorflow', 'keras', 'wandb', 'tensorboard'} & set(sys.modules))"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("heatmaps/000000.npz", "000000.npz, which is none."),
        ("metrics.jsonl", "metrics.jsonl, which is none."),
        ("manifest.json", "with these runs: none."),
    ],
)
def test_a_pipe_in_a_record_is_refused(tmp_path, name, message):
    """In a process of its own, for what opens it would wait without end."""
    config = make_config(tmp_path)
    write_run(config, range(2))
    (config.directory / name).unlink()
    os.mkfifo(config.directory / name)
    code = f"from keras_cam_callbacks import compare; compare([{str(config.directory)!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "ValueError" in done.stderr
    assert message in done.stderr
