"""Records and configs for tests of what becomes of them: every value can be told from its row and step."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from keras_cam_callbacks.drawing.files import encode
from keras_cam_callbacks.records import DrawnFrom, EpochRecord, RunConfig, Sample, View


def sample_keys(count: int) -> tuple[str, ...]:
    return tuple(f"sample_{row:02d}" for row in range(count))


def picture(seed: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """A ramp between two colours, which a JPEG keeps."""
    left, right = np.random.default_rng(seed).integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, size[1])[None, :, None]
    return np.repeat((left + ramp * (right - left)).astype(np.uint8), size[0], axis=0)


def make_config(directory: Path, count: int = 3, *, keys: tuple[str, ...] | None = None, **changes) -> RunConfig:
    keys = keys or sample_keys(count)
    settings = {
        "prefix": "gradcam",
        "method": "gradcam",
        "layer_name": "base/conv",
        "target": "predicted",
        "model_name": "tiny",
        "class_names": ("cat", "dog"),
        "sample_keys": keys,
        "fingerprints": tuple(f"{row:016x}" for row in range(len(keys))),
        "labels": (None, *(row % 2 for row in range(1, len(keys)))),
        "display": tuple(picture(1000 + row) for row in range(len(keys))),
        "value_range": "[0, 1]",
        "overlay": {"alpha": 0.4, "colormap": "turbo", "scale": "image"},
        "versions": {"numpy": np.__version__},
    }
    return RunConfig(directory=directory, **settings | changes)


def make_record(
    step: int,
    count: int = 3,
    *,
    epoch: int | None = None,
    keys: tuple[str, ...] | None = None,
    image_format: str = "jpg",
    size: tuple[int, int] = (24, 32),
    map_size: tuple[int, int] = (4, 5),
    **changes,
) -> EpochRecord:
    """A record whose first sample has nothing that may be missing."""
    keys = keys or sample_keys(count)
    overlays = tuple(picture(100 * step + row, size) for row in range(len(keys)))
    samples = tuple(
        Sample(
            key=key,
            fingerprint=f"{row:016x}",
            label=None if row == 0 else row % 2,
            predicted=None if row == 0 else (row + step) % 2,
            target=None if row == 0 else 1,
            score=step + row / 8,
            confidence=None if row == 0 else 1 / (row + 1),
            degenerate=row == 1,
            caption=f"step {step}, sample {row} – ✓",
        )
        for row, key in enumerate(keys)
    )
    rows = np.arange(len(keys), dtype=np.float32)
    settings = {
        "epoch": step if epoch is None else epoch,
        "step": step,
        "heatmaps": np.broadcast_to(rows[:, None, None] - step, (len(keys), *map_size)).astype(np.float32),
        "overlays": overlays,
        "encoded": tuple(encode(overlay, image_format) for overlay in overlays),
        "places": tuple(((0, 0, overlay.shape[1], overlay.shape[0]),) for overlay in overlays),
        "image_format": image_format,
        "scalars": {"drift": step / 4, "area": 0.5},
        "samples": samples,
        "outputs": np.stack([rows, rows - step], axis=1),
    }
    return EpochRecord(**settings | changes)


def drawn_record(step, config, overlay, views=(), caption="sample"):
    """A record whose pictures are drawn from its maps."""
    keys, rng = config.sample_keys, np.random.default_rng(step)
    maps = [rng.normal(size=(len(keys), 5, 7)).astype(np.float32) for _ in views or ("",)]
    captions = tuple(f"{caption} {row} of step {step}" for row in range(len(keys)))
    titles = {name: tuple(f"{name}: cat {row}" for row in range(len(keys))) for name in views}
    named = dict(zip(views, maps, strict=True)) if views else maps[0]
    placed = overlay.draw_placed(config.display, named, captions, titles=titles, title="photo")
    shown = tuple(one.picture for one in placed)
    record = make_record(step, keys=keys, heatmaps=maps[0])
    return replace(
        record,
        overlays=shown,
        encoded=tuple(encode(one, overlay.image_format) for one in shown),
        places=tuple(one.places for one in placed),
        image_format=overlay.image_format,
        views={name: View(of_view, record.samples) for name, of_view in zip(views, maps, strict=False)},
        drawn_from=DrawnFrom(shown, tuple(maps), config.display, captions, titles, "photo", asdict(overlay)),
    )
