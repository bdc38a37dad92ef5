"""Records and configs for tests of what becomes of them: every value can be told from its row and step."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from keras_cam_callbacks.drawing.files import encode
from keras_cam_callbacks.records import DrawnFrom, View
from keras_cam_callbacks.testing.records import make_config, make_record, picture, sample_keys

__all__ = ["drawn_record", "make_config", "make_record", "picture", "sample_keys"]


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
