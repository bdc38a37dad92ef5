"""Runs with known maps and numbers, and pages in a real browser, for tests of the report."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import expect
from sample_records import make_config, make_record

from keras_cam_callbacks.drawing.overlay import colorize
from keras_cam_callbacks.records import Region
from keras_cam_callbacks.store import RunWriter

expect.set_options(timeout=60_000)  # A busy machine takes its time to load plotly.

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
COLOURS = np.array(
    [(200, 40, 40), (40, 160, 60), (50, 80, 220), (180, 180, 60), (120, 60, 160), (90, 90, 90)], np.uint8
)


def find_browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise FileNotFoundError(
            f"Tests of the report need a browser. Looked for: {', '.join(BROWSERS)}. `make test` installs it."
        )
    return found


def image(sample: int) -> np.ndarray:
    """One colour, which a JPEG keeps; 90 high and 120 wide."""
    return np.full((90, 120, 3), COLOURS[sample % len(COLOURS)], np.uint8)


def heatmap(run: int, step: int, sample: int, size: tuple[int, int] = (5, 7)) -> np.ndarray:
    rng = np.random.default_rng((run, step, sample))
    return (rng.normal(size=size) * (1 + run + step / 4)).astype(np.float32)


def predicted(run: int, step: int, sample: int) -> int:
    """All wrong in the first epoch; then run 0 learns one sample after the other, later runs fewer."""
    right = step > 0 and sample < step * (3 - run)
    return sample % 3 if right else (sample + 1 + run) % 3


def energy(run: int, step: int, sample: int) -> float:
    return float(np.random.default_rng((7, run, step, sample)).uniform(0.1, 0.9))


def write_run(
    directory: Path, run: int, steps=range(4), count: int = 6, *, dead=(), regions=True, size=(5, 7), **changes
) -> Path:
    """Writes a run; `dead` holds (step, sample) of maps that are zero."""
    keys = tuple(f"photo {sample}" for sample in range(count))
    box = Region(np.array([[0.25, 0.2, 0.75, 0.6]]))
    config = {
        "keys": keys,
        "labels": tuple(sample % 3 for sample in range(count)),
        "class_names": ("cat", "dog", "owl"),
        "display": tuple(map(image, range(count))),
        "fingerprints": tuple(f"{sample:016x}" for sample in range(count)),
        "regions": ((box,) * count if regions is True else regions) or (),
    } | changes
    writer = RunWriter(make_config(directory, **config))
    for step in steps:
        maps = np.stack([heatmap(run, step, sample, size) * ((step, sample) not in dead) for sample in range(count)])
        record = make_record(step, keys=config["keys"], heatmaps=maps)
        samples = [
            replace(
                each,
                label=config["labels"][i],
                predicted=predicted(run, step, i),
                confidence=0.3 + i / 10 + run / 100,
                degenerate=(step, i) in dead,
            )
            for i, each in enumerate(record.samples)
        ]
        values = {"area": np.linspace(0.1, 0.2 + step / 10, count)}
        if regions:
            values["energy_in_region"] = np.array([energy(run, step, sample) for sample in range(count)])
        scalars = {name: float(np.mean(value)) for name, value in values.items()}
        writer.write(
            replace(record, samples=tuple(samples), values=values, scalars=scalars | {"degenerate": float(len(dead))})
        )
    return directory


def levels(raw: np.ndarray, width: int, height: int, top: float | None = None) -> np.ndarray:
    """The map's positive part, scaled and resized as overlays are."""
    positive = np.maximum(raw, 0)
    return cv2.resize(
        np.clip(positive / (top or positive.max()), 0, 1), (width, height), interpolation=cv2.INTER_LINEAR
    )


def coloured(
    raw: np.ndarray, width: int, height: int, top: float | None = None, colormap: str = "viridis"
) -> np.ndarray:
    return colorize(np.round(levels(raw, width, height, top) * 255).astype(np.uint8), colormap)


def pixels(page, key: str, run: int) -> np.ndarray:
    """What is drawn of a run on a sample, (H, W, 3) int."""
    script = """([key, run]) => {
      const canvas = document.querySelector(`tr[data-key="${key}"]`).querySelectorAll("canvas")[run];
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return [canvas.width, canvas.height, Array.from(data)];
    }"""
    width, height, data = page.evaluate(script, [key, run])
    return np.array(data).reshape(height, width, 4)[..., :3]


def drawn(page, step: int, run: int = 0, key: str = "photo 0") -> None:
    """Scrolls to a tile and waits until it shows the epoch `step`."""
    script = """([step, key, run]) => document.querySelector(`tr[data-key="${key}"]`)
      .querySelectorAll("canvas")[run].dataset.epoch === String(step)"""
    page.locator(f'tr[data-key="{key}"]').scroll_into_view_if_needed()
    page.wait_for_function(script, arg=[step, key, run])


def soon(page, holds) -> None:
    """Waits until it holds, for a busy browser draws when it finds the time."""
    for _ in range(100):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("It does not hold after 10 seconds.")


def shown_keys(page) -> list[str]:
    return page.eval_on_selector_all("#samples tr", "rows => rows.map(row => row.dataset.key)")


def set_epoch(page, place: int) -> None:
    """As a person who drags the slider and lets it go."""
    script = """(slider, place) => {
      slider.value = place;
      slider.dispatchEvent(new Event("input"));
      slider.dispatchEvent(new Event("change"));
    }"""
    page.locator("#bar input.epoch").evaluate(script, place)
