"""What runs have in common: their names, samples, labels and epochs, and the settings in which they differ."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, count
from pathlib import Path
from typing import Any

from ..records import Label
from ..store import STABLE, Run, StoredEpoch, architectures, are_stable, moved_class, read_run, same_label

__all__ = [
    "align_samples",
    "check_view",
    "class_names",
    "counted_alike",
    "differences",
    "named",
    "open_runs",
    "printable",
    "steps",
    "texts",
]

_LISTED = 8  # samples that an error names
# Of one run alone, or without a meaning for what maps show.
_OF_RECORDS = ("run_id", "tracked", "freq", "steps")
_OF_SAMPLES = ("sample_keys", "fingerprints", "labels", "files", "regions", "inputs", "schema_version", "select")
_LATEST = 2**53  # steps above are no count of epochs, and fit no JSON number


def open_runs(runs: Any) -> tuple[Run, ...]:
    """Reads the runs that are given by their folders, and checks that each is given once and holds epochs.

    Raises:
        TypeError: If `runs` is no sequence of paths and runs.
        ValueError: If there is none, one is given twice or holds no epoch, or as `read_run` does.
    """
    if isinstance(runs, (str, bytes, Path, Run)) or not isinstance(runs, Iterable):
        raise TypeError(
            f"`runs` must be a list of folders or stored runs. Received: {type(runs).__name__}. "
            'compare(["logs/a", "logs/b"]) works, and so does a list of one.'
        )
    opened = tuple(map(_opened, runs))
    if not opened:
        raise ValueError('There must be a run to look at. Received: none. compare(["logs/a", "logs/b"]) works.')
    places = [os.path.realpath(run.directory) for run in opened]
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise ValueError(f"Each run must be given once. Received twice: {', '.join(twice)}. Leave one of them out.")
    empty = [str(run.directory) for run in opened if not run.epochs]
    if empty:
        raise ValueError(
            f"A run must hold an epoch to be compared. Received: {', '.join(empty)}, without any. "
            "Wait for its first epoch's end, or leave it out."
        )
    return opened


def _opened(run: Any) -> Run:
    if isinstance(run, Run):
        return run
    if isinstance(run, (str, Path)):
        return read_run(run)
    raise TypeError(
        f"Each of `runs` must be a folder or what read_run() returns. Received: {type(run).__name__}. "
        'compare(["logs/a", read_run("logs/b")]) works.'
    )


def named(runs: Sequence[Run], names: Sequence[str] | None) -> tuple[str, ...]:
    """Returns a name for each run: the given one, or as much of its path as tells it from the others.

    "logs/honest/gradcam" and "logs/shortcut/gradcam" are "honest" and "shortcut". Characters that can't be printed
    become U+FFFD.

    Raises:
        ValueError: If there are not as many names as runs, or two of them are equal or one is empty.
        TypeError: If a name is no text.
    """
    if names is None:
        return _distinct([printable(name) for name in _ends([run.directory for run in runs])])
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f'`names` must be a list of texts. Received: {names!r}. names=["a", "b"] works.')
    if len(names) != len(runs) or len(set(names)) != len(names) or not all(map(str.strip, names)):
        raise ValueError(
            f"`names` must hold a name of its own for each of the {len(runs)} runs. Received: {list(names)}. "
            "Without `names` they are named after their folders."
        )
    return _distinct([printable(name) for name in names])


def _ends(folders: Sequence[Path]) -> list[str]:
    paths = [Path(os.path.abspath(folder)).parts for folder in folders]
    depth = next(depth for depth in count(1) if len({path[-depth:] for path in paths}) == len(paths))
    if len(paths) == 1:
        depth = 2  # The last part alone is most often the prefix.
    ends = [path[-depth:] for path in paths]
    # What all end in tells nothing: most often the prefix.
    while len(ends) > 1 and len({end[-1] for end in ends}) == 1 and min(map(len, ends)) > 1:
        ends = [end[:-1] for end in ends]
    return ["/".join(end) for end in ends]


def printable(text: str) -> str:
    """Returns the text with U+FFFD for each character that can't be printed, line breaks among them."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for name in names:
        options = (name if number == 1 else f"{name} ({number})" for number in count(1))
        kept.append(next(option for option in options if option not in kept))
    return tuple(kept)


def check_view(runs: Sequence[Run], names: Sequence[str], view: str) -> None:
    """Raises ValueError for what is no view of all runs that have several, TypeError for what is no text."""
    if not isinstance(view, str):
        raise TypeError(f'`view` must be a text. Received: {view!r}. view="" takes the first of each run.')
    views = {name: run.epochs[0].views for name, run in zip(names, runs, strict=True)}
    lacking = [name for name, held in views.items() if held and view not in held]
    if view and (lacking or not any(views.values())):
        held = "; ".join(f"{name}: {', '.join(each) or 'one without a name'}" for name, each in views.items())
        raise ValueError(
            f"`view` must be a view of all runs that have several. Received: view={view!r}; {held}. "
            'view="" takes the first of each run.'
        )


def texts(value: Any) -> tuple[str, ...] | None:
    """Returns a list of texts from a manifest; None where it is none."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        return None
    return tuple(map(printable, value))


def align_samples(
    runs: Sequence[Run], names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Label | None, ...], dict[str, tuple[str, ...]]]:
    """Finds the samples that all runs have, and checks that they are the same images with the same labels.

    Args:
        runs: R runs.
        names: R names, for errors.

    Returns:
        The N keys in the first run's order; N labels, None where no run knows one; and by the names of those runs that
        have further samples, the keys of these.

    Raises:
        ValueError: If no sample is common to all, or pixels or labels of one differ.
    """
    prints, labels = [], []
    for run in runs:
        keys = run.sample_keys
        prints.append(dict(zip(keys, run.manifest["fingerprints"], strict=True)))
        of_run = (tuple(sorted(label)) if isinstance(label, tuple) else label for label in run.labels)
        labels.append(dict(zip(keys, of_run, strict=True)))
    common = tuple(key for key in prints[0] if all(key in of_run for of_run in prints))
    if not common:
        held = "; ".join(f"{name}: {_listed(of_run)}" for name, of_run in zip(names, prints, strict=True))
        raise ValueError(
            f"Runs must have samples in common to be compared. Received: {held}. "
            "Give the same images the same `sample_keys=` in all loggers."
        )
    other = [key for key in common if len({repr(of_run[key]) for of_run in prints}) > 1]
    if other:
        raise ValueError(_other_pixels(runs, names, prints, other))
    told: dict[str, Label | None] = {}
    for key in common:
        # Where one run has single labels and another has lists of them, the list says more of what they are.
        labelled = sorted({of_run[key] for of_run in labels} - {None}, key=lambda label: isinstance(label, int))
        if any(not same_label(labelled[0], other) for other in labelled[1:]):
            each = ", ".join(f"{name}: {of_run[key]}" for name, of_run in zip(names, labels, strict=True))
            raise ValueError(
                f"A sample must have the same label in all runs. Received for {key!r}: {each}. "
                "Number the classes alike, else right and wrong can't be told side by side."
            )
        told[key] = next(iter(labelled), None)
    kept = set(common)
    left = {n: tuple(key for key in of_run if key not in kept) for n, of_run in zip(names, prints, strict=True)}
    return common, tuple(told.values()), {name: keys for name, keys in left.items() if keys}


def _listed(keys: Iterable[str]) -> str:
    every = list(keys)
    more = len(every) - _LISTED
    return ", ".join(map(repr, every[:_LISTED])) + (f" and {more} more" if more > 0 else "")


def _other_pixels(
    runs: Sequence[Run], names: Sequence[str], prints: Sequence[Mapping[str, Any]], other: Sequence[str]
) -> str:
    advice = "Give each image a name of its own by `sample_keys=`, the same one in all loggers."
    ranges = [str(run.manifest.get("value_range")) for run in runs]
    if len({frozenset(map(repr, of_run.values())) for of_run in prints}) == 1:
        advice = f"The images are the same in another order. {advice}"
    elif len(set(ranges)) > 1:
        each = ", ".join(f"{name}: {text}" for name, text in zip(names, ranges, strict=True))
        advice = f"Their values were taken for different ranges ({each}), so it may be the preprocessing. {advice}"
    return (
        "A sample key must stand for the same pixels in all runs. "
        f"Received different images in {', '.join(names)} for {_listed(other)}. {advice}"
    )


def counted_alike(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Returns runs that count alike.

    Where some count training steps and others epochs, those of steps are brought to epochs: their epoch ends, by the
    epochs in which they stand, those of a later fit behind the ones before. What lies within epochs is left out.

    Args:
        runs: R runs.

    Raises:
        ValueError: If there is no epoch's end among what is to be compared with epochs.
    """
    if len({run.steps is None for run in runs}) == 1:
        return tuple(runs)
    return tuple(run if run.steps is None else _by_epochs(run) for run in runs)


def _by_epochs(run: Run) -> Run:
    ends: list[StoredEpoch] = []
    offset = 0
    for end in (epoch for epoch in run.epochs if epoch.batch is None):
        if ends and offset + end.epoch <= ends[-1].step:  # Another fit has begun.
            offset = ends[-1].step + 1 - end.epoch
        ends.append(replace(end, step=offset + end.epoch))
    if not ends:
        raise ValueError(
            "A run that counts steps needs an epoch's end to be compared with one that counts epochs. Received: "
            f"{run.directory}, which was logged within its first epoch alone. Wait for its end, or leave it out."
        )
    return replace(run, epochs=tuple(ends))


def steps(runs: Sequence[Run]) -> tuple[int, ...]:
    """Returns the steps that any of the runs has, rising; raises ValueError for what is no count of epochs."""
    every = sorted({epoch.step for run in runs for epoch in run.epochs})
    if every[0] < 0 or every[-1] > _LATEST:
        raise ValueError(
            f"Steps of a record must count epochs from 0. Received: steps from {every[0]} to {every[-1]}. "
            "Delete such lines from metrics.jsonl to do without them."
        )
    return tuple(every)


def class_names(runs: Sequence[Run], names: Sequence[str]) -> tuple[str, ...] | None:
    """Returns the first class names that a run has.

    Args:
        runs: R runs.
        names: R names, for errors.

    Raises:
        ValueError: If two runs have a class of one name at different numbers: their predictions and heatmaps would be
            taken for those of other classes.
    """
    named_classes = [(name, texts(run.class_names)) for name, run in zip(names, runs, strict=True)]
    with_names = [(name, classes) for name, classes in named_classes if classes]
    for (one, first), (other, second) in combinations(with_names, 2):
        moved = moved_class(first, second)
        if moved is not None:
            raise ValueError(
                "A class must have the same number in all runs. "
                f"Received: {moved!r}, which is {first.index(moved)} in {one} and {second.index(moved)} in "
                f"{other}. Number the classes alike, or look at the runs one by one."
            )
    return with_names[0][1] if with_names else None


def differences(runs: Sequence[Run], common: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Finds the settings in which runs differ.

    Args:
        runs: R runs.
        common: The sample keys that all have.

    Returns:
        By name, such as "layer" or "overlay.colormap", R values as JSON has them; None where a run has no such setting.
        "samples" is how many samples a run has, and "regions" of how many it knows where the object is. A setting of
        the training that changed from one fit of a run to another is a list.
    """
    stable = are_stable(run.manifest for run in runs)
    flat = [_settings(run, stable) | {"samples": len(run.sample_keys), "regions": _regions(run)} for run in runs]
    if stable:
        digests = architectures([run.manifest for run in runs])
        flat = [settings | {"architecture": digest} for settings, digest in zip(flat, digests, strict=True)]
    if any(run.space is None for run in runs):  # Records of earlier versions don't say, which is no difference.
        flat = [{name: of for name, of in settings.items() if name.split(".")[0] != "space"} for settings in flat]
    every = {name: tuple(settings.get(name) for settings in flat) for settings in flat for name in settings}
    found = {name: values for name, values in every.items() if any(value != values[0] for value in values)}
    places = [_places(run, common) for run in runs]
    if any(place != places[0] for place in places) and "regions" not in found:
        kinds = [place for i, place in enumerate(places) if place not in places[:i]]
        found["regions"] = tuple(
            f"{number}, places {kinds.index(place) + 1}" for number, place in zip(every["regions"], places, strict=True)
        )
    return found


def _settings(run: Run, stable: bool) -> dict[str, Any]:
    """The settings of a manifest, with those of a mapping by names such as "overlay.alpha".

    Args:
        run: The run.
        stable: Whether all runs know their models and layers without the numbers that Keras gave them.
    """
    flat: dict[str, Any] = {}
    manifest = {name: value for name, value in run.latest.items() if name not in (*STABLE.values(), "structure")}
    manifest["training"] = _training(run)
    if stable:
        manifest |= {name: run.manifest.get(field) for name, field in STABLE.items()}
    for name, value in manifest.items():
        if name not in (*_OF_SAMPLES, *_OF_RECORDS):
            inner = value if isinstance(value, dict) else {"": value}
            flat |= {f"{name}.{part}" if part else name: of_part for part, of_part in inner.items()}
    return flat


def _training(run: Run) -> dict[str, Any]:
    """Returns by name how the run was trained: a list where that changed from one fit to another."""
    phases = run.trainings
    names = list(dict.fromkeys(name for settings in phases for name in settings))
    values = {name: [settings.get(name) for settings in phases] for name in names}
    values = {name: [one for i, one in enumerate(of) if i == 0 or one != of[i - 1]] for name, of in values.items()}
    return {name: of[0] if len(of) == 1 else of for name, of in values.items()}


def _regions(run: Run) -> int:
    return sum(region is not None for region in run.manifest.get("regions") or ())


def _places(run: Run, common: Sequence[str]) -> list[Any]:
    """Where the objects are in the common samples, by their boxes; of a mask only whether there is one."""
    stored = run.manifest.get("regions") or [None] * len(run.sample_keys)
    by_key = dict(zip(run.sample_keys, stored, strict=True))
    return [(region["boxes"], region["mask"] is not None) if (region := by_key[key]) else None for key in common]
