import json
import tracemalloc
import zipfile
from dataclasses import replace

import cv2
import keras
import numpy as np
import pytest
from comparison_records import write_run
from fits import SAMPLES, X, Y, fit, new_model
from interpreter import fresh
from sample_records import make_config, make_record, sample_keys

from keras_cam_callbacks import Comparison, GradCAMLogger, compare, metrics, read_run
from keras_cam_callbacks.comparison import reading
from keras_cam_callbacks.records import Region
from keras_cam_callbacks.store import RunWriter

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _seeded():
    """Gives each test the same numbers, alone or after others."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def random_maps(epochs=1, count=3, height=5, width=4):
    return RANDOM.standard_normal((epochs, count, height, width)).astype(np.float32)


def corrcoef(one, other):
    """Pearson's correlation of two maps' positive parts, by numpy."""
    return np.corrcoef(np.maximum(one, 0).astype(float).ravel(), np.maximum(other, 0).astype(float).ravel())[0, 1]


@pytest.fixture
def pair(tmp_path):
    """Two runs: in the first epoch the maps are the same, then they are not."""
    maps = random_maps(3)
    other = np.concatenate([maps[:1], random_maps(2)])
    return [write_run(tmp_path / name / "gradcam", each) for name, each in (("a", maps), ("b", other))]


# Agreement


def test_agreement_by_hand(tmp_path):
    corner = [[1, 0], [0, 0]]
    # Against the opposite corner: means 1/4, so (2 * 3/4 * -1/4 + 2 * 1/4 * 1/4) / (9/16 + 3/16) = -1/3. A map counts
    # as its positive part, and its scale not at all. One that is negative, constant or not finite explains nothing.
    others = [[[0, 0], [0, 1]], [[2, -7], [0, -1]], [[1, 1], [0, 0]], [[-1, -2], [-1, -1]], [[3, 3], [3, 3]]]
    others.append([[np.nan, 0], [0, 1]])
    a = write_run(tmp_path / "a", [[corner] * 6])
    b = write_run(tmp_path / "b", [others])
    found = compare([a, b])
    # Against two of four pixels: (3/4 * 1/2 - 1/4 * 1/2 + 2 * 1/4 * 1/2) / sqrt(3/4 * 1) = 1/2 / sqrt(3/4).
    np.testing.assert_allclose(found.agreement[0, 0], [-1 / 3, 1, 0.5 / np.sqrt(0.75), *[np.nan] * 3], atol=1e-12)
    assert found.pairs == ((0, 1),)
    np.testing.assert_allclose(found.disagreement()[:2], [4 / 3, 0], atol=1e-12)
    np.testing.assert_array_equal(found.peaks[0, 0, 0], [0.25, 0.25])
    np.testing.assert_array_equal(found.peaks[1, 0, :2], [[0.75, 0.75], [0.25, 0.25]])
    assert np.isnan(found.peaks[1, 0, 3:]).all()


def test_agreement_is_pearsons_correlation_of_the_metrics(tmp_path):
    maps = [random_maps(2, 4) for _ in range(3)]
    found = compare([write_run(tmp_path / str(i), each) for i, each in enumerate(maps)])
    assert found.pairs == ((0, 1), (0, 2), (1, 2))
    for p, (one, other) in enumerate(found.pairs):
        for e in range(2):
            expected = [corrcoef(*both) for both in zip(maps[one][e], maps[other][e], strict=True)]
            np.testing.assert_allclose(found.agreement[p, e], expected, atol=1e-12)
            again = metrics.correlation(maps[one][e], maps[other][e])
            np.testing.assert_allclose(found.agreement[p, e], again, atol=1e-12)


def test_maps_of_other_layers_are_resized_to_the_larger_size(tmp_path):
    maps = {"a": random_maps(1, 2, 3, 8), "b": random_maps(1, 2, 6, 4), "c": random_maps(1, 2, 3, 8)}
    runs = [write_run(tmp_path / name, each, layer_name=name) for name, each in maps.items()]
    found = compare(runs)

    def resized(each):
        return cv2.resize(np.maximum(each, 0), (8, 6), interpolation=cv2.INTER_LINEAR)

    both = [zip(maps[x][0], maps[y][0], strict=True) for x, y in ("ab", "ac", "bc")]
    expected = [[corrcoef(resized(one), resized(other)) for one, other in both[0]]]
    expected.append([corrcoef(one, other) for one, other in both[1]])  # of one size: as they are
    expected.append([corrcoef(resized(one), resized(other)) for one, other in both[2]])
    np.testing.assert_allclose(found.agreement[:, 0], expected, atol=1e-12)
    assert found.differences == {"layer": ("a", "b", "c")}


def test_chunks_of_samples_change_nothing(monkeypatch):
    maps = [random_maps(1, 7)[0] for _ in range(2)]
    whole = reading.agreements(maps, [(0, 1)])
    monkeypatch.setattr(reading, "_CHUNK", 2 * 8 * 20 * 2)  # two samples at once
    np.testing.assert_array_equal(reading.agreements(maps, [(0, 1)]), whole)


# Samples, epochs, names


def test_samples_are_aligned_by_key(tmp_path):
    maps = random_maps(2, 3)
    a = write_run(tmp_path / "a", maps, keys=("x", "y", "z"), fingerprints=("1", "2", "3"), labels=(0, None, 1))
    b = write_run(
        tmp_path / "b", maps[:, ::-1], keys=("z", "other", "x"), fingerprints=("3", "4", "1"), labels=(None, 1, 0),
        predicted=[[1, 0, 0]] * 2, values={"area": [[0.3, 0.2, 0.1]] * 2},
    )  # fmt: skip
    found = compare([a, b])
    assert found.sample_keys == ("x", "z")
    assert found.labels == (0, 1)
    assert found.left_out == {"a": ("y",), "b": ("other",)}
    np.testing.assert_allclose(found.agreement, 1, atol=1e-12)
    np.testing.assert_array_equal(found.predicted[1, 0], [0, 1])
    np.testing.assert_array_equal(found.values["area"][:, 0], [[np.nan] * 2, [0.1, 0.3]])
    np.testing.assert_array_equal(found.heatmaps(1, 0), maps[0, [0, 2]])
    assert "1 sample of a" in found.summary()


def test_runs_of_other_lengths(tmp_path):
    maps = random_maps(5)
    a = write_run(tmp_path / "a", maps[[0, 1, 2]], scalars={"drift": [0, 1, 2]})
    b = write_run(tmp_path / "b", maps[[0, 2, 4]], steps=(0, 2, 4), scalars={"area": [5, 6, 7]})
    found = compare([a, b])
    assert found.epochs == (0, 1, 2, 4)
    np.testing.assert_array_equal(found.held(), [[1, 1, 1, 0], [1, 0, 1, 1]])
    np.testing.assert_allclose(found.agreement[0], [[1] * 3, [np.nan] * 3, [1] * 3, [np.nan] * 3], atol=1e-12)
    np.testing.assert_array_equal(found.scalars["drift"], [[0, 1, 2, np.nan], [np.nan] * 4])
    np.testing.assert_array_equal(found.scalars["area"], [[np.nan] * 4, [5, np.nan, 6, 7]])
    np.testing.assert_array_equal(found.predicted[1, :, 0], [0, -1, 0, 0])
    np.testing.assert_array_equal(np.isnan(found.confidences[1, :, 0]), [False, True, False, False])
    assert found.heatmaps(1, 1) is None
    assert found.stored(1, 1) is None
    np.testing.assert_array_equal(found.heatmaps(1, 4), maps[4])
    assert [(row["run"], row["epoch"]) for row in found.table("epoch")] == [
        *(("a", epoch) for epoch in (0, 1, 2)),
        *(("b", epoch) for epoch in (0, 2, 4)),
    ]


def test_one_run_alone(tmp_path):
    found = compare([write_run(tmp_path / "gradcam", random_maps(2), predicted=[[0, 1, 0], [0, 1, 1]])])
    assert found.agreement.shape == (0, 2, 3)
    assert found.differences == {}
    assert np.isnan(found.disagreement()).all()
    assert found.parted().tolist() == [-1, -1, -1]
    assert found.parted_overall() == -1
    assert found.most_different() == (1, 2, 0)  # wrong most often first
    assert "agreement" not in found.table()[0]
    assert found.summary().startswith("1 run, 3 samples, epochs 0 to 1.")
    assert found.figure().axes


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["honest/gradcam", "shortcut/gradcam"], ("honest", "shortcut")),
        (["x/gradcam", "x/layercam"], ("gradcam", "layercam")),
        (["x/gradcam", "y/gradcam", "x/gradcam-2"], ("x/gradcam", "y/gradcam", "x/gradcam-2")),
        (["x/run/gradcam", "y/run/gradcam"], ("x", "y")),
        (["logs/gradcam"], ("logs/gradcam",)),
        (["a\nb/gradcam", "a\tb/gradcam"], ("a\ufffdb", "a\ufffdb (2)")),
    ],
)
def test_names_are_short_and_differ(tmp_path, folders, names):
    runs = [write_run(tmp_path / folder, random_maps()) for folder in folders]
    assert compare(runs).names == names


def test_paths_and_runs_are_taken(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compare(["a", pair[1].parent]).names == ("a", "b")  # relative, and a log_dir with one run
    found = compare([read_run(pair[0]), str(pair[1])], names=["first", "second"])
    assert isinstance(found, Comparison)
    assert repr(found) == "Comparison(first, second; 3 samples, epochs 0 to 2)"
    assert found.names == ("first", "second")
    assert [run.directory for run in found.runs] == pair


def test_differences_have_readable_names(tmp_path):
    a = write_run(
        tmp_path / "a", random_maps(1, 2), method="gradcam", versions={"keras": "3.1"},
        overlay={"alpha": 0.5, "size": [1]}, regions=(Region(np.array([[0, 0, 0.5, 0.5]])), None),
    )  # fmt: skip
    b = write_run(
        tmp_path / "b", random_maps(1, 2), method="layercam", versions={"keras": "3.2", "jax": "1"},
        overlay={"alpha": 0.5, "size": [2]}, regions=(Region(np.array([[0, 0, 0.5, 1]])), None),
        class_names=("tabby", "dog"),
    )  # fmt: skip
    found = compare([a, b])
    assert found.differences == {
        "method": ("gradcam", "layercam"),
        "versions.keras": ("3.1", "3.2"),
        "versions.jax": (None, "1"),
        "overlay.size": ([1], [2]),
        "class_names": (["cat", "dog"], ["tabby", "dog"]),
        "regions": ("1, places 1", "1, places 2"),
    }
    assert found.class_names == ("cat", "dog")
    assert "may come from the method, not from the training" in found.summary()
    assert compare([a]).differences == {}


# Views


def test_views_are_chosen_by_name(tmp_path):
    maps = {name: random_maps(1, 2) for name in ("top", "top_2")}
    values = {"top_area": [[1, 2]], "top_2_area": [[3, 4]], "top_2_drift": [[5, 6]], "other": [[7, 8]]}
    scalars = {"top_degenerate": [1], "top_2_degenerate": [2]}
    a = write_run(tmp_path / "a", None, views=maps, values=values, scalars=scalars)
    b = write_run(tmp_path / "b", maps["top_2"], values={"area": [[9, 10]]})
    found = compare([a, b], view="top_2")
    np.testing.assert_allclose(found.agreement[0, 0], 1, atol=1e-12)
    np.testing.assert_array_equal(found.heatmaps(0, 0), maps["top_2"][0])
    assert {name: of_name[0, 0].tolist() for name, of_name in found.values.items()} == {
        "area": [3, 4],
        "drift": [5, 6],
        "other": [7, 8],
    }
    assert found.values["area"][1, 0].tolist() == [9, 10]
    assert found.scalars["degenerate"][0, 0] == 2
    np.testing.assert_array_equal(found.confidences[:, 0, 0], [0.25, 0.5])

    first = compare([a, b])
    assert first.values["area"][0, 0].tolist() == [1, 2]
    np.testing.assert_array_equal(first.heatmaps(0, 0), maps["top"][0])
    with pytest.raises(ValueError, match=r"view of all runs.*view='top_3'; a: top, top_2; b: one without a name"):
        compare([a, b], view="top_3")
    with pytest.raises(ValueError, match="view of all runs"):
        compare([b], view="top")
    with pytest.raises(TypeError, match="`view` must be a text"):
        compare([a], view=1)


# When they part


def with_agreement(pair, agreement):
    """A comparison whose agreement is known: (P, E, N)."""
    agreement = np.array(agreement, float)
    found = compare(pair)
    count = agreement.shape[2]
    return replace(
        found,
        agreement=agreement,
        epochs=tuple(range(10, 10 + agreement.shape[1])),
        pairs=found.pairs * len(agreement),
        sample_keys=sample_keys(count),
    )


def test_parting_by_hand(pair):
    nan = np.nan
    columns = [
        [0.9, 0.8, 0.4, 0.3],  # from the third epoch on
        [0.9, 0.3, 0.6, 0.2],  # it is the last time that counts
        [0.1, 0.2, 0.3, 0.5],  # together again in the end: 0.5 is not below 0.5
        [0.1, 0.2, 0.3, 0.4],  # never together
        [0.9, nan, 0.1, nan],  # epochs in which nothing is known are passed over
        [nan, nan, nan, nan],
        [nan, 0.1, nan, 0.2],
    ]
    found = with_agreement(pair, [np.transpose(columns)])
    assert found.parted().tolist() == [12, 13, -1, 10, 12, -1, 11]
    assert found.parted(threshold=0.35).tolist() == [13, 13, -1, -1, 12, -1, 11]
    # Means of the rows: 0.58, 0.32, 0.34, 0.32.
    assert found.parted_overall() == 11
    assert found.parted_overall(0.3) == -1
    assert found.most_different() == (6, 3, 2, 1, 4, 0, 5)
    for threshold in (-1, 1.5, np.nan):
        with pytest.raises(ValueError, match="`threshold` must be in"):
            found.parted(threshold)
    with pytest.raises(ValueError, match="place of one of the 1 pairs"):
        found.parted(pair=1)


def test_of_several_pairs_the_mean_counts_unless_one_is_named(pair):
    found = with_agreement(pair, [[[1], [0.9], [0.9]], [[1], [0.3], [0.0]]])
    assert found.parted().tolist() == [12]  # means 1, 0.6, 0.45
    assert found.parted(pair=0).tolist() == [-1]
    assert found.parted(pair=1).tolist() == [11]
    assert found.parted_overall(pair=1) == 11


def test_a_run_that_ends_does_not_part_the_others(pair):
    nan = np.nan
    # The third run agrees more with both than they do with each other, and is there for two epochs only.
    for other in ([0.75, 0.75, nan, nan], [nan, nan, 0.75, 0.75]):
        found = with_agreement(pair, [[[each] for each in pair] for pair in ([0.33] * 4, other, other)])
        assert found.parted().tolist() == [-1]
        assert found.parted_overall() == -1
        assert found.parted_overall(pair=0) == 10


def test_runs_that_are_never_all_there_have_no_average(tmp_path):
    maps = random_maps(2)
    runs = [write_run(tmp_path / "a", maps), write_run(tmp_path / "b", maps[:1])]
    found = compare([*runs, write_run(tmp_path / "c", maps[1:], steps=[1])])
    assert np.isnan(found.together()).all()
    assert (found.parted_overall(), found.parted_overall(pair=0)) == (-1, -1)
    assert "On average" not in found.summary()
    assert "Closest: a and " in found.summary()


def test_numbers_go_to_the_view_that_has_them(tmp_path):
    maps = random_maps(1, 2)
    values = {"true_top_iou": [[0.1, 0.2]], "true_top_top_iou": [[0.3, 0.4]], "true_other": [[5, 6]]}
    run = write_run(tmp_path / "run", None, views={"true": maps, "true_top": maps}, values=values)
    assert {k: v.ravel().tolist() for k, v in compare([run]).values.items()} == {"top_iou": [0.1, 0.2], "other": [5, 6]}
    assert {k: v.ravel().tolist() for k, v in compare([run], view="true_top").values.items()} == {"top_iou": [0.3, 0.4]}


# What is refused


def test_what_is_no_list_of_runs(pair):
    for wrong in (str(pair[0]), pair[0], read_run(pair[0]), 3, None):
        with pytest.raises(TypeError, match="`runs` must be a list"):
            compare(wrong)
    with pytest.raises(TypeError, match="Each of `runs` must be a folder"):
        compare([pair[0], 3])
    with pytest.raises(ValueError, match=r"must be a run.*none"):
        compare([])
    with pytest.raises(ValueError, match=r"given once.*a/gradcam"):
        compare([pair[0], pair[1], pair[0].parent])
    with pytest.raises(ValueError, match=r"these runs: none"):
        compare([pair[0], pair[0] / "missing"])


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", " "]])
def test_wrong_names(pair, names):
    with pytest.raises(ValueError, match="name of its own for each of the 2 runs"):
        compare(pair, names=names)


def test_names_that_are_no_texts(pair):
    for names in ("ab", [1, 2]):
        with pytest.raises(TypeError, match="`names` must be a list of texts"):
            compare(pair, names=names)


def test_a_run_without_epochs(pair, tmp_path):
    RunWriter(make_config(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"must hold an epoch.*empty, without any"):
        compare([*pair, tmp_path / "empty"])


def test_a_run_without_heatmaps(pair, tmp_path):
    grids = RunWriter(make_config(tmp_path / "grids", method="activations", labels=(None,) * 3))
    grids.write(make_record(0, heatmaps=None))
    with pytest.raises(ValueError, match=r"must have heatmaps.*grids \(activations\).*GradCAMLogger"):
        compare([pair[0], tmp_path / "grids"])


def test_no_sample_in_common(tmp_path):
    a = write_run(tmp_path / "a", random_maps(1, 20), keys=tuple(f"a{i}" for i in range(20)))
    b = write_run(tmp_path / "b", random_maps(1, 1), keys=("b0",))
    with pytest.raises(ValueError, match=r"in common.*'a7' and 12 more; b: 'b0'.*`sample_keys=`"):
        compare([a, b])


def test_other_pixels(tmp_path):
    def run(name, prints, **config):
        return write_run(tmp_path / name, random_maps(), fingerprints=prints, **config)

    a, b = run("a", ("1", "2", "3")), run("b", ("1", "5", "6"))
    with pytest.raises(ValueError, match=r"same pixels.*in a, b for 'sample_01', 'sample_02'\. Give each image"):
        compare([a, b])
    with pytest.raises(ValueError, match=r"'sample_02'\. The images are the same in another order\."):
        compare([a, run("c", ("3", "2", "1"))])
    with pytest.raises(ValueError, match=r"different ranges \(a: \[0, 1\], d: min-max\)"):
        compare([a, run("d", ("7", "8", "9"), value_range="min-max")])


def test_other_labels(tmp_path):
    a = write_run(tmp_path / "a", random_maps(), labels=(0, 1, None))
    b = write_run(tmp_path / "b", random_maps(), labels=(0, 2, 1))
    with pytest.raises(ValueError, match=r"same label.*'sample_01': a: 1, b: 2"):
        compare([a, b])


def changed_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["a", 0, 0]},
        {"labels": [True, 0, 0]},
        {"labels": [10**30, 0, 0]},
        {"sample_keys": ["sample_00"] * 3},
        *({"class_names": names} for names in (7, [1, 2], "cat", {"a": 1})),
    ],
    ids=str,
)
def test_a_wrong_manifest(pair, changes):
    changed_manifest(pair[1], **changes)
    with pytest.raises(
        ValueError, match=r"must be whole\. Received: .*b/gradcam.*(labels|sample_keys|class_names) must"
    ):
        compare(pair)


@pytest.mark.parametrize("step", [-1, 2**60])
def test_steps_that_count_no_epochs(pair, step):
    log = pair[1] / "metrics.jsonl"
    line = json.loads(log.read_text("utf-8").splitlines()[0]) | {"step": step}
    log.write_text(json.dumps(line) + "\n", "utf-8")
    with pytest.raises(ValueError, match=r"must count epochs from 0"):
        compare(pair)


def changed_arrays(folder, compressed=False, **changes):
    path = folder / "heatmaps" / "000001.npz"
    with np.load(path) as file:
        arrays = dict(file) | changes
    save = np.savez_compressed if compressed else np.savez
    save(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heatmaps": np.zeros((2, 5, 4), np.float32)}, r"heatmaps of shape \(2, 5, 4\)"),
        ({"heatmaps": np.zeros((3, 5), np.float32)}, r"heatmaps of shape \(3, 5\)"),
        ({"heatmaps": np.zeros((3, 0, 4), np.float32)}, r"heatmaps of shape \(3, 0, 4\)"),
        ({"heatmaps": np.zeros((3, 5, 4), "U2")}, "type <U2"),
        ({"heatmaps": np.zeros((3, 5, 4), complex)}, "type complex"),
        ({"predicted": np.zeros(2, np.int64)}, r"shape \(2,\) and type int64 for 'predicted'"),
        ({"predicted": np.zeros(3)}, "type float64 for 'predicted'"),
        ({"confidences": None}, "no such array for 'confidences'"),
        ({"values": np.zeros((1, 3))}, r"values of shape \(1, 3\)"),
        ({"compressed": True}, "compressed or encrypted arrays"),
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_the_manifest(pair, changes, message):
    changed_arrays(pair[1], **changes)
    with pytest.raises(ValueError, match=rf"must fit its run's manifest.*000001\.npz with .*{message}.*step 1"):
        compare(pair)


def test_a_file_that_claims_more_than_it_holds(pair):
    path = pair[1] / "heatmaps" / "000001.npz"
    data = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        held = file.getinfo("heatmaps.npy").file_size.to_bytes(4, "little")
    path.write_bytes(data.replace(held, (2**31).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="arrays larger than the file"):
        compare(pair)
    header = b"(3, 5, 4), }"
    assert header in data
    path.write_bytes(data.replace(header, b"(3" + b"9" * 9 + b",), }"))
    with pytest.raises(ValueError, match=r"000001\.npz"):
        compare(pair)


def test_damaged_and_missing_files(pair):
    path = pair[1] / "heatmaps" / "000001.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"must be an \.npz of plain arrays.*000001\.npz"):
            compare(pair)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="000001"):
        compare(pair)


def test_a_view_that_an_epoch_lacks(tmp_path):
    a = write_run(tmp_path / "a", None, views={"x": random_maps(2), "y": random_maps(2)})
    log = a / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    lines[1]["views"] = ["x", "z"]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    with pytest.raises(ValueError, match=r"the views \['x', 'z'\], without 'y'"):
        compare([a], view="y")


def test_too_many_numbers(pair):
    log = pair[0] / "metrics.jsonl"
    line = json.loads(log.read_text("utf-8").splitlines()[0]) | {"scalars": {f"n{i}": 0 for i in range(1001)}}
    log.write_text(json.dumps(line) + "\n", "utf-8")
    with pytest.raises(ValueError, match="at most 1000 numbers"):
        compare(pair)


# Memory, imports, and the real thing


def test_heatmaps_are_not_kept(tmp_path):
    maps = RANDOM.random((1, 8, 64, 64), np.float32)
    runs = [write_run(tmp_path / name, np.repeat(maps, 12, axis=0), keys=sample_keys(8)) for name in "ab"]
    compare(runs)  # what is loaded once
    tracemalloc.start()
    found = compare(runs)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.agreement.shape == (1, 12, 8)
    # Of 24 times these maps; in float64, with copies, those of one epoch of both runs are some times as much.
    assert kept < 2 * maps.nbytes
    assert peak < 16 * maps.nbytes


def test_no_framework_is_loaded(pair, tmp_path):
    code = f"""
import sys
from keras_cam_callbacks import compare
loaded = lambda *names: [name for name in names if name in sys.modules]
print(loaded("keras", "tensorflow", "wandb", "matplotlib"))
found = compare({[str(run) for run in pair]})
found.summary(), found.to_csv({str(tmp_path / "x.csv")!r}), found.parted()
print(loaded("keras", "tensorflow", "wandb", "matplotlib"))
found.figure()
print(loaded("keras", "tensorflow", "wandb", "matplotlib.pyplot"))
"""
    assert fresh(code).splitlines() == ["[]", "[]", "[]"]


def test_two_real_fits(tmp_path):
    maps, histories = {}, {}
    for name, rate in (("small", 0.001), ("large", 0.5)):
        model = new_model()
        model.optimizer.learning_rate = rate
        names, folder = ["a", "b", "c"], tmp_path / name
        logger = GradCAMLogger((X, Y), target="true", log_dir=folder, tracker="disk", class_names=names)
        histories[name] = fit(logger, model=model, epochs=2)
        maps[name] = logger.explain(model).heatmaps
        predicted = model.predict(X, verbose=0).argmax(axis=1)
    keras.backend.clear_session()
    found = compare([tmp_path / "small", tmp_path / "large"])
    assert found.names == ("small", "large")
    assert found.epochs == (0, 1)
    assert found.class_names == ("a", "b", "c")
    assert found.labels == tuple(Y.tolist())
    np.testing.assert_array_equal(found.predicted[1, 1], predicted)
    np.testing.assert_allclose(found.heatmaps(0, 1), maps["small"], atol=1e-6)
    explained = ~(metrics.degenerate(maps["small"]) | metrics.degenerate(maps["large"]))
    for i in range(SAMPLES):
        agreement = found.agreement[0, 1, i]
        assert np.isfinite(agreement) == explained[i]
        if explained[i]:
            np.testing.assert_allclose(agreement, corrcoef(maps["small"][i], maps["large"][i]), atol=1e-4)
    assert explained.any()
    for run, name in enumerate(found.names):
        np.testing.assert_allclose(found.scalars["area"][run], histories[name]["gradcam_area"])
        rows = [row for row in found.table("epoch") if row["run"] == name]
        assert [row["epoch"] for row in rows] == [0, 1]
        assert rows[1]["area"] == pytest.approx(histories[name]["gradcam_area"][1])
    assert found.differences == {"training.learning_rate": (0.001, 0.5)}
