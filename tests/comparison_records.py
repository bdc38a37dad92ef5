"""Records of known maps, for tests of what is read from several of them."""

from __future__ import annotations

import numpy as np
from sample_records import make_config, make_record, sample_keys

from keras_cam_callbacks.records import Sample, View
from keras_cam_callbacks.store import RunWriter


def write_run(
    folder,
    maps,
    *,
    keys=None,
    steps=None,
    labels=None,
    predicted=None,
    targets=None,
    values=None,
    scalars=None,
    views=None,
    confidence=0.5,
    **config,
):
    """Writes a run of known maps and returns its folder.

    Args:
        folder: Its folder.
        maps: (E, N, h, w), the raw heatmaps of each epoch.
        keys: N sample keys.
        steps: E steps, by default from 0.
        labels: N labels, by default zeros.
        predicted: (E, N) classes, None for right ones.
        targets: (E, N) classes that the maps explain, by default the predicted ones.
        values: (E, N) numbers by name.
        scalars: E numbers by name.
        views: (E, N, h, w) maps by name, in place of `maps` where there are several.
        confidence: Of every sample; a further view has half of it.
        **config: Further settings of the run.
    """
    maps = np.asarray(maps if views is None else next(iter(views.values())), np.float32)
    epochs, count = maps.shape[:2]
    keys = keys or sample_keys(count)
    labels = (0,) * count if labels is None else tuple(labels)
    made = make_config(folder, keys=keys, labels=labels, views=tuple(views or ()), **config)
    writer = RunWriter(made)
    for e in range(epochs):
        classes = labels if predicted is None else [None if p is None else int(p) for p in predicted[e]]

        explained = classes if targets is None else targets[e]

        def samples(sure, classes=classes, explained=explained):
            rows = zip(keys, made.fingerprints, labels, classes, explained, strict=True)
            return tuple(Sample(k, f, label, p, t, 0.0, sure, False, "caption") for k, f, label, p, t in rows)

        several = {
            name: View(np.asarray(of_view[e], np.float32), samples(confidence / (i + 1)))
            for i, (name, of_view) in enumerate((views or {}).items())
        }
        record = make_record(
            e if steps is None else steps[e],
            keys=keys,
            size=(4, 4),
            heatmaps=maps[e],
            samples=samples(confidence),
            outputs=None,
            scalars={name: float(of_name[e]) for name, of_name in (scalars or {}).items()},
            values={name: np.asarray(of_name[e], np.float64) for name, of_name in (values or {}).items()},
            views=several,
        )
        writer.write(record)
    return folder


def peak_at(x, y, size=6):
    """(size, size) a map with one high pixel, and slightly rising elsewhere, so that it is nowhere constant."""
    found = np.arange(size * size, dtype=np.float32).reshape(size, size) / 1e3
    found[y, x] = 1
    return found
