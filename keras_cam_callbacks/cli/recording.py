"""What `keras-cam explain` found, as the record that the callbacks write, and as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.spaces import kind_of
from ..drawing.files import encode
from ..drawing.grids import grid
from ..drawing.overlay import Overlay
from ..explaining.explainer import Explainer
from ..explaining.explanation import Explanation
from ..explaining.recorded import epoch_record
from ..metrics import mean
from ..network.architecture import digests, layer_place, model_label
from ..records import RunConfig, class_name
from ..store import RunWriter, new_run_id
from ..versions import versions


def write_record(
    folder: Path, model: Any, explainer: Explainer, views: Mapping[str, Explanation], overlay: Overlay
) -> None:
    """Writes what was explained as the record of a run with one epoch, and all its pictures in one.

    Args:
        folder: An empty folder.
        model: The model.
        explainer: What has explained.
        views: What it found, by name.
        overlay: How pictures are drawn.
    """
    first = next(iter(views.values()))
    batch = first.batch
    digest, structure = digests(model)
    assert batch.space is not None
    # Records of images say nothing of their axes unless there is something to say.
    tells = kind_of(batch.space) != "image" or batch.space.spacing
    config = RunConfig(
        directory=folder,
        prefix=explainer.method if "" in views else "heatmaps",
        method=explainer.method,
        layer_name=explainer.layer_name,
        target=explainer.target,
        model_name=str(model.name),
        class_names=first.class_names,
        sample_keys=batch.sample_keys,
        fingerprints=batch.fingerprints,
        labels=(None,) * len(batch),
        display=batch.display,
        value_range=batch.value_range,
        overlay=dataclasses.asdict(overlay),
        versions=versions(),
        views=() if "" in views else tuple(views),
        run_id=new_run_id(),
        architecture=digest,
        structure=structure,
        model_label=model_label(model),
        layer_place=layer_place(model, explainer.layer_name),
        space=dataclasses.replace(explainer.space, spacing=batch.space.spacing) if tells else None,
    )
    values: dict[str, Any] = {}
    scalars: dict[str, float] = {}
    for name, view in views.items():
        lead = f"{name}_" if name else ""
        found = view.metrics()
        values |= {lead + metric: of_samples for metric, of_samples in found.items()}
        means = {metric: float(mean(of_samples)) for metric, of_samples in found.items()}
        scalars |= {lead + metric: value for metric, value in means.items() if not math.isnan(value)}
        scalars[lead + "degenerate"] = float(view.degenerate.sum())
    record = epoch_record(views, overlay, epoch=0, step=0, scalars=scalars, values=values)
    RunWriter(config, overlays=True).write(record)
    sheet = grid(record.overlays, None if "" in views else 1)
    if max(sheet.shape) < 2**16:  # JPEG has no larger ones.
        (folder / "grid.jpg").write_bytes(encode(sheet))


def predictions(views: Mapping[str, Explanation], files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Returns what was predicted and explained for each image, as plain data."""
    rows = []
    for name, view in views.items():
        for i, sample in enumerate(view.samples()):
            outputs = None if view.outputs is None else [float(x) for x in view.outputs[i]]
            rows.append(
                {
                    "image": str(files[sample.key]),
                    "sample": sample.key,
                    "view": name,
                    "predicted": _class(sample.predicted, view.class_names),
                    "explained": _class(sample.target, view.class_names),
                    "confidence": sample.confidence,
                    "score": sample.score,
                    "degenerate": sample.degenerate,
                    "outputs": outputs,
                }
            )
    return rows


def _class(index: int | None, names: tuple[str, ...] | None) -> str | int | None:
    return index if index is None or not names else class_name(names, index)
