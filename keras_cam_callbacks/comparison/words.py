"""What a comparison shows, in sentences: each is counted or measured, and says by what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics import mean, means_by_class
from .alignment import printable
from .compared import Compared, lasting

__all__ = ["sentences"]

Flags = npt.NDArray[np.bool_]

_AT = 1.5  # times what chance would give: from here a run looks at the object; up to 1 it does not
_THIRDS = (1 / 3, 2 / 3)
_PLACES = (
    ("the top left corner", "the top edge", "the top right corner"),
    ("the left edge", "the middle", "the right edge"),
    ("the bottom left corner", "the bottom edge", "the bottom right corner"),
)
_LISTED = 3  # samples that are named
_SETTLED = 0.1  # drift, below which heatmaps hardly move
_NOTABLE = 0.05  # 1 - agreement, from which on samples are named
_EXPLAINED = ("method", "layer", "target")  # settings by which a map means something else


def sentences(comparison: Compared, threshold: float = 0.5) -> list[str]:
    """Returns the sentences of `Comparison.summary`."""
    runs = [_run(comparison, run) for run in range(len(comparison.names))]
    lines = [_all(comparison), *runs, *_agreement(comparison, threshold), *_settings(comparison)]
    return list(map(printable, lines))


def _all(comparison: Compared) -> str:
    runs, samples = len(comparison.names), len(comparison.sample_keys)
    first, last = comparison.epochs[0], comparison.epochs[-1]
    line = f"{_count(runs, 'run')}, {_count(samples, 'sample')}, "
    line += f"{comparison.unit}s {first} to {last}." if first != last else f"{comparison.unit} {first}."
    line += _epoch_ends(comparison)
    for name, keys in comparison.left_out.items():
        line += f" Left out, as not all runs have them: {_count(len(keys), 'sample')} of {name}."
    return line


def _epoch_ends(comparison: Compared) -> str:
    """Says of which runs what was logged within epochs is not compared, as others count epochs."""
    if comparison.unit == "step":
        return ""
    names = [name for name, run in zip(comparison.names, comparison.runs, strict=True) if run.steps is not None]
    return f" Of {', '.join(names)}, epoch ends alone, as others count epochs." if names else ""


def _run(comparison: Compared, run: int) -> str:
    last = int(np.flatnonzero(comparison.held()[run])[-1])
    parts = [
        _object(comparison, run, last),
        _looks_away(comparison, run, last),
        _peak(comparison, run, last),
        _right(comparison, run, last),
        _settled(comparison, run),
    ]
    said = "; ".join(filter(None, parts)) or "nothing can be said of where it looks"
    return f"{comparison.names[run]}, {comparison.unit} {comparison.epochs[last]}: {said}."


def _object(comparison: Compared, run: int, last: int) -> str:
    """Says how much of the heat lies on the object, and since when it is so."""
    missing = np.full(comparison.predicted.shape, np.nan)
    energy = mean(comparison.values.get("energy_in_region", missing)[run], 1)
    ratio = mean(comparison.values.get("energy_ratio", missing)[run], 1)
    hits = comparison.values.get("pointing", missing)[run, last]
    hits = hits[np.isfinite(hits)]
    measured = []
    if np.isfinite(energy[last]):
        measured.append(f"{energy[last]:.0%} of its heat lies on it (energy_in_region)")
    if np.isfinite(ratio[last]):
        measured.append(f"{ratio[last]:.1f} times what chance would give (energy_ratio)")
    if len(hits):
        measured.append(f"its peak is on it in {int((hits > 0.5).sum())} of {_count(len(hits), 'sample')} (pointing)")
    if not np.isfinite(ratio[last]):
        return f"of the object: {', '.join(measured)}" if measured else ""
    with np.errstate(invalid="ignore"):
        kinds = {
            "looks at the object": ratio >= _AT,
            "hardly prefers the object": (ratio < _AT) & (ratio > 1),
            "does not look at the object": ratio <= 1,
        }
    looks, holds = next((text, holds) for text, holds in kinds.items() if holds[last])
    return f"{looks}{_since(comparison, holds, np.isfinite(ratio))}: {', '.join(measured)}"


def _looks_away(comparison: Compared, run: int, last: int) -> str:
    """Names the classes from whose object the run looks away, where the object of at least one other is known."""
    ratios = comparison.values.get("energy_ratio")
    if ratios is None:
        return ""
    classes = means_by_class({"ratio": ratios[run, last]}, comparison.labels)
    known = {one: means for one, means in classes.items() if np.isfinite(means["ratio"])}
    away = sorted((one for one in known if known[one]["ratio"] <= 1), key=lambda one: known[one]["ratio"])
    if len(known) < 2 or not away or len(away) == len(known):
        return ""
    texts = [
        f"{comparison.class_name(one)} ({_count(int(means['samples']), 'sample')}, {means['ratio']:.1f} times chance)"
        for one, means in ((one, known[one]) for one in away[:_LISTED])
    ]
    more = f" and {len(away) - _LISTED} more" if len(away) > _LISTED else ""
    return f"looks away from the object in {'class' if len(away) == 1 else 'classes'} {', '.join(texts)}{more}"


def _settled(comparison: Compared, run: int) -> str:
    since = int(comparison.settled(_SETTLED)[run])
    if since in (-1, comparison.epochs[-1]):  # One point tells of no rest.
        return ""
    return f"its heatmaps hardly move since {comparison.unit} {since} (drift below {_SETTLED:g})"


def _since(comparison: Compared, holds: Flags, known: Flags) -> str:
    row = int(lasting(holds[:, None], known[:, None])[0])
    first, last = np.flatnonzero(known)[[0, -1]].tolist()
    if row in (-1, last):
        return ""
    unit = comparison.unit
    return f" from its first {unit} on" if row == first else f" from {unit} {comparison.epochs[row]} on"


def _peak(comparison: Compared, run: int, last: int) -> str:
    """Says where in the image the maps are highest, where that is the same ninth in at least half of the samples."""
    peaks = comparison.peaks[run]
    if peaks.shape[-1] == 1:
        return ""
    cells = np.searchsorted(_THIRDS, peaks[..., 1]) * 3 + np.searchsorted(_THIRDS, peaks[..., 0])
    known = np.isfinite(peaks[..., 0])
    of_last = cells[last][known[last]]
    if len(of_last) < 2:
        return ""
    cell = int(np.bincount(of_last, minlength=9).argmax())
    counts, totals = ((cells == cell) & known).sum(axis=1), known.sum(axis=1)
    common = 2 * counts >= totals
    if not common[last]:
        return ""
    thing = "image" if peaks.shape[-1] == 2 else "slices"
    where = f"{'in' if cell == 4 else 'near'} {_PLACES[cell // 3][cell % 3]} of the {thing}"
    return f"its peak is {where} in {counts[last]} of {totals[last]} samples{_since(comparison, common, totals > 0)}"


def _right(comparison: Compared, run: int, last: int) -> str:
    right = comparison.correct()[run, last]
    known = np.isfinite(right)
    count = int(right[known].sum())
    if not known.any():
        return ""
    verb = "is" if count == 1 else "are"
    if comparison.right_name == "top_label":
        return f"the highest label is one of theirs in {count} of {_count(len(right[known]), 'sample')} (top_label)"
    return f"{count} of {_count(int(known.sum()), 'prediction')} {verb} right (accuracy)"


def _agreement(comparison: Compared, threshold: float) -> list[str]:
    """Says how far the runs look at the same place, and from which epoch they don't."""
    if not comparison.pairs:
        return []
    shared = np.isfinite(mean(comparison.agreement, (0, 2)))
    if not shared.any():
        lines = [
            "Whether they look at the same place can't be told: no two runs have comparable maps of the same epoch."
        ]
        return lines + _classes(comparison)
    # Of runs that never overlap all at once there is no average over time.
    lines = [_pair(comparison, None, threshold)] if np.isfinite(comparison.together()).any() else []
    if len(comparison.pairs) > 1:
        means = mean(comparison.agreement, (1, 2))
        order = [int(i) for i in np.argsort(means) if np.isfinite(means[i])]
        if len(order) > 1:
            lines.append(f"Furthest apart: {_pair(comparison, order[0], threshold)}")
            lines.append(f"Closest: {_pair(comparison, order[-1], threshold)}")
    differ = comparison.disagreement()
    most = [i for i in comparison.most_different(_LISTED) if differ[i] > _NOTABLE]
    if most and len(comparison.sample_keys) > 1:
        each = ", ".join(f"{comparison.sample_keys[i]!r} ({1 - differ[i]:.2f})" for i in most)
        lines.append(f"They differ most in these samples (mean agreement over the epochs): {each}.")
    return lines + _classes(comparison)


def _pair(comparison: Compared, pair: int | None, threshold: float) -> str:
    together = mean(comparison.together(pair), 1)
    rows = np.flatnonzero(np.isfinite(together))
    first, last = comparison.epochs[rows[0]], comparison.epochs[rows[-1]]
    every = "On average they" if len(comparison.pairs) > 1 else "They"
    who = every if pair is None else " and ".join(comparison.names[run] for run in comparison.pairs[pair])
    values = f"mean agreement {together[rows[-1]]:.2f} in {comparison.unit} {last}"
    epoch = comparison.parted_overall(threshold, pair)
    if epoch < 0:
        end = "in the end" if last == comparison.epochs[-1] else f"in the last {comparison.unit} that they share"
        return f"{who} look at the same place {end}: {values}."
    if epoch == first:
        unit = comparison.unit
        return f"{who} look at different places in all {unit}s that they share, from {unit} {first} on: {values}."
    before = together[comparison.epochs.index(epoch) - 1 :: -1]
    return (
        f"{who} look at different places from {comparison.unit} {epoch} on: mean agreement "
        f"{before[np.isfinite(before)][0]:.2f} before, below {threshold:g} since; {values}."
    )


def _classes(comparison: Compared) -> list[str]:
    """Says how many maps are of different classes, and so are not compared."""
    unlike = comparison.unlike()
    if not unlike.any():
        return []
    held = comparison.held()
    shared = np.array([held[one] & held[other] for one, other in comparison.pairs])
    pairs = int(shared.sum()) * unlike.shape[2]
    row = int(np.flatnonzero(shared.any(axis=0))[-1])
    last = int(unlike[:, row].any(axis=0).sum())
    return [
        f"Left out of the agreement, as the maps explain different classes: {int(unlike.sum())} of "
        f"{_count(pairs, 'pair')} of maps; in {comparison.unit} {comparison.epochs[row]} those of {last} of "
        f"{_count(unlike.shape[2], 'sample')}."
    ]


def _settings(comparison: Compared) -> list[str]:
    if len(comparison.names) < 2:
        return []
    if not comparison.differences:
        return ["Their records differ in no setting; what data they were trained on is not in them."]
    each = [f"{name} ({_values(values)})" for name, values in comparison.differences.items()]
    lines = [f"Their records differ in {', '.join(each)}."]
    explained = [name for name in _EXPLAINED if name in comparison.differences]
    if explained:
        lines.append(f"Part of the disagreement may come from the {' and '.join(explained)}, not from the training.")
    return lines


def _values(values: Sequence[Any]) -> str:
    texts = ["none" if value in (None, "", [], {}) else str(value) for value in values]
    return " / ".join(text if len(text) <= 40 else f"{text[:39]}…" for text in texts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
