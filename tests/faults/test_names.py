"""Names of runs, samples and classes that could break out of their places, from a fit to all that is read back."""

from __future__ import annotations

import json

import pytest
from fits import X, Y, bare_weights, fit, tiny_model, weights
from tracker_logs import read_events
from wandb_log import finished_log, wandb_run

from keras_cam_callbacks import GradCAMLogger, WandbTracker, compare, read_run
from keras_cam_callbacks.store import find_runs

PREFIXES = ("../../up\n<b>🐱</b>", "..")
CLASSES = ["a/b\n<b>bold</b>", "🐱 ../..", '"><script>alert(1)</script>']
KEYS = (
    *("../../evil", "/etc/passwd", "..", "", "line\nbreak", "🐱", "<script>alert(2)</script>", 'C:\\x:*?"<>|'),
    *("-rf", "x" * 300, "a%2Fb", "plain"),
)


def test_hostile_names_stay_names(tmp_path):
    run, model, logs = wandb_run(), tiny_model(), tmp_path / "logs"
    loggers = [
        GradCAMLogger(
            (X, Y),
            tracker=["disk", "tensorboard", WandbTracker(table=True)],
            log_dir=logs,
            prefix=prefix,
            class_names=CLASSES,
            sample_keys=KEYS,
        )
        for prefix in PREFIXES
    ]
    history = fit(*loggers, model=model, epochs=2)
    log = finished_log(run)
    assert weights(model) == bare_weights(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "wandb-state"]
    assert sorted(logs.iterdir()) == find_runs(logs) == sorted(logger.directory for logger in loggers)

    for prefix, logger in zip(PREFIXES, loggers, strict=True):
        stored = read_run(logger.directory)
        assert (stored.sample_keys, stored.class_names) == (KEYS, tuple(CLASSES))
        assert stored.manifest["prefix"] == prefix
        assert [epoch.scalars["area"] for epoch in stored.epochs] == history[f"{prefix}_area"]
        pictures = [list(epoch.encoded()) for epoch in stored.epochs]
        for epoch in stored.epochs:
            assert len(epoch.overlays()) == len(KEYS)
            for caption, label in zip(epoch.captions, Y, strict=True):
                assert caption.startswith(f"true {CLASSES[label]}, predicted ")

        images, scalars = read_events(logger.directory)
        assert set(images) == {f"{prefix}/{key}" for key in KEYS}
        for i, key in enumerate(KEYS):
            assert images[f"{prefix}/{key}"] == [(step, each[i]) for step, each in enumerate(pictures)]
        assert [value for _, value in scalars[f"{prefix}/area"]] == pytest.approx(history[f"{prefix}_area"])

        rows = log.rows_with(f"{prefix}/overlays")
        assert [row[f"{prefix}/area"] for row in rows] == history[f"{prefix}_area"]
        assert [log.images(row[f"{prefix}/overlays"]) for row in rows] == pictures
        assert [tuple(row[f"{prefix}/overlays"]["captions"]) for row in rows] == [e.captions for e in stored.epochs]
        table = rows[0][prefix.replace("/", "_") + "_table"]
        data = json.loads((log.files / table["path"]).read_text("utf-8"))["data"]
        assert [row[1:3] for row in data] == [[key, CLASSES[label]] for key, label in zip(KEYS, Y, strict=True)]
        assert len(read_run(log.files / logger.directory.name).epochs) == 2
    outside = [path for path in log.files.parents[1].rglob("*") if not path.resolve().is_relative_to(tmp_path)]
    assert outside == []

    report = compare([logger.directory for logger in loggers], names=["<b>one</b>", "../two"])
    text = report.report(tmp_path / "report.html").path.read_text("utf-8")
    assert text.count("<script") == text.count("</script") == 3  # payload, ours, plotly
    assert "<b>bold" not in text
    assert "<b>one" not in text

    # The run is known again by its names.
    again = GradCAMLogger(
        (X, Y), tracker="disk", log_dir=logs, prefix=PREFIXES[0], class_names=CLASSES, sample_keys=KEYS
    )
    fit(again, epochs=3, initial_epoch=2)
    assert again.directory == loggers[0].directory
    assert [epoch.step for epoch in read_run(again.directory).epochs] == [0, 1, 2]


def test_a_star_in_a_prefix_is_told_before_the_first_batch(tmp_path):
    """W&B takes names with stars for patterns."""
    wandb_run()
    logger = GradCAMLogger(X, tracker="wandb", prefix="cam*", log_dir=tmp_path)
    with pytest.raises(ValueError, match=r"no \* for W&B\. Received: 'cam\*'.*prefix='cam'"):
        fit(logger)
