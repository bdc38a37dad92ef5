"""What is the same in all epochs of a run, as its manifest holds it; and the names of its files."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cam_callbacks.records import RunConfig, Space

from .regions import check_region, region_entry

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
LOG = "metrics.jsonl"
# Two records with these in common show the same thing, so that one can be the other's continuation.
IDENTITY = ("prefix", "model_name", "layer", "method", "target", "sample_keys", "fingerprints")
# What stands for these where both records have it: without the numbers of Keras, which count what was built before.
STABLE = {"model_name": "model_label", "layer": "layer_place", "architecture": "architecture", "rules": "rules"}
# What a later fit of the run may know, or do otherwise: the first line of a fit has it where it is news.
CHANGING = ("labels", "class_names", "training", "tracked")
# Fields that a record may lack.
_OPTIONAL = ("run_id", "architecture", "structure", "model_label", "layer_place", "rules", "tracked", "steps", "select")

_DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def file_stem(text: str) -> str:
    """Returns `text` itself where it is a safe file name on every system, else a readable name of its own.

    Args:
        text: A sample key or a prefix; may hold slashes, "..", or any other character.

    Returns:
        At most 80 of A-Z, a-z, 0-9, "_", "-" and "."; a changed name ends in a digest of `text`.
    """
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._-")[:64].rstrip(".")
    if _DEVICE_NAMES.match(slug):
        slug = f"_{slug}"
    return slug if slug and slug == text else _with_digest(slug, text)


def _with_digest(slug: str, text: str) -> str:
    return f"{slug}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}".lstrip("-")


def _stems(keys: tuple[str, ...]) -> dict[str, str]:
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        # "cat" and "Cat" are one file on macOS and Windows.
        stem = file_stem(key)
        stem = _with_digest(stem, key) if stem.lower() in taken else stem
        if key in stems:
            raise ValueError(f"Sample keys must differ from each other. Received: {key!r} twice.")
        stems[key] = stem
        taken.add(stem.lower())
    return stems


def check_file(path: Path) -> None:
    """Raises ValueError for what is there and no file: a pipe, a device or a socket would be waited for without end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"What a record holds must be a file. Received: {path}, which is none.")


def plain(value: Any) -> Any:
    """Returns `value` as JSON has it: NaN and infinities become null, what JSON doesn't know becomes text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def manifest_of(config: RunConfig) -> dict[str, Any]:
    """Returns the manifest of a run, as JSON has it."""
    settings = (
        "versions",
        "model_name",
        "method",
        "target",
        "prefix",
        "value_range",
        "overlay",
        "class_names",
        "views",
        "augmentations",
        "training",
        "freq",
    )
    samples = ("sample_keys", "fingerprints", "labels")
    files = _stems(config.sample_keys)
    regions = zip(config.sample_keys, config.regions, strict=True) if config.regions else ()
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": config.layer_name,
        **{name: plain(getattr(config, name)) for name in settings + samples},
        "space": None if config.space is None else _space(config.space),
        "files": files,
        "regions": [region_entry(region, f"regions/{files[key]}.png") for key, region in regions],
        **{name: plain(value) for name in _OPTIONAL if (value := getattr(config, name))},
        **({"inputs": _input_entries(config.displays)} if config.displays else {}),
    }


def _input_entries(displays: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what a manifest says of further images of the samples: for each its folder, and the views that lie on it.

    Args:
        displays: As in `RunConfig`.
    """
    views: dict[int, list[str]] = {}
    for view, shown in displays.items():
        views.setdefault(id(shown), []).append(view)
    return [{"folder": f"images-{i}", "views": names} for i, names in enumerate(views.values(), 1)]


def _inputs(manifest: Mapping[str, Any]) -> list[Any]:
    return [(entry["folder"], entry["views"]) for entry in manifest.get("inputs") or ()]


def input_of(manifest: Mapping[str, Any], view: str) -> Mapping[str, Any] | None:
    """Returns what a manifest says of the image that a view lies on; None for the first of several, or the only one."""
    return next((entry for entry in manifest.get("inputs") or () if view in entry["views"]), None)


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns in what two manifests differ that a run has in common with its continuation.

    Labels and class names count where both have them: what one of them does not know, it can learn from the other.
    """
    fields = {name: name for name in IDENTITY}
    if are_stable((one, other)):
        fields |= STABLE
    names = [name for name, field in fields.items() if one.get(field) != other.get(field)]
    if "architecture" in names and len(set(architectures((one, other)))) == 1:
        names.remove("architecture")
    if any(None not in pair and not same_label(*pair) for pair in zip(one["labels"], other["labels"], strict=False)):
        names.append("labels")
    if moved_class(one.get("class_names") or (), other.get("class_names") or ()) is not None:
        names.append("class_names")
    # Steps of epochs and of batches are no one curve.
    names += ["freq"] * (counts_steps(one) != counts_steps(other))
    # Numbers of other regions don't belong into one curve. A record of none has no such entry, or an empty one.
    names += ["regions"] * ((one.get("regions") or []) != (other.get("regions") or []))
    return names + ["inputs"] * (_inputs(one) != _inputs(other))


def counts_steps(manifest: Mapping[str, Any]) -> bool:
    """Tells whether the steps of a record are training steps; else they are epochs."""
    return manifest.get("steps") is not None


def same_label(one: Any, other: Any) -> bool:
    """Tells whether two labels are of the same classes: 3 is the same as a list of it alone, in any order."""
    return _classes(one) == _classes(other)


def _classes(label: Any) -> set[int]:
    return set(label) if isinstance(label, list | tuple) else {label}


def moved_class(one: Sequence[str], other: Sequence[str]) -> str | None:
    """Returns a name that stands for classes of two numbers, in one list of class names and in another; None for none.

    Names that are in one list alone don't count: classes are renamed.
    """
    first, second = ({name: i for i, name in reversed([*enumerate(names)])} for names in (one, other))
    return next((name for name in one if second.get(name, first[name]) != first[name]), None)


def architectures(manifests: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Returns the digests of models' architectures in a form that all manifests have.

    That of earlier versions tells few settings of layers. Today's manifests have it too, as "structure".
    """
    if len({bool(manifest.get("structure")) for manifest in manifests}) == 1:
        return [manifest.get("architecture") for manifest in manifests]
    return [manifest.get("structure") or manifest.get("architecture") for manifest in manifests]


def updated(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a record says once a fit has gone on with it.

    Args:
        manifest: What it said before.
        config: The manifest of the fit, of the same run.

    Returns:
        The manifest with what `CHANGING` names: labels that it lacked; the class names and the settings of the training
        that the fit has, where it has any; and the runs of trackers' libraries, those of the fit behind the others.
    """
    labels = zip(manifest["labels"], config["labels"], strict=True)
    tracked = [*(manifest.get("tracked") or ()), *(config.get("tracked") or ())]
    return {
        **manifest,
        "labels": [new if old is None else old for old, new in labels],
        "class_names": config.get("class_names") or manifest["class_names"],
        "training": config.get("training") or manifest.get("training") or {},
        "tracked": list(dict.fromkeys(tracked)),
    }


def are_stable(manifests: Iterable[Mapping[str, Any]]) -> bool:
    """Tells whether all manifests know models and layers without the numbers that Keras gave them."""
    return all(manifest.get("architecture") for manifest in manifests)


def label(manifest: Mapping[str, Any], name: str) -> Any:
    """Returns what people read for "model_name" or "layer": without the numbers of Keras, where the record knows."""
    return manifest.get(STABLE[name]) or manifest[name]


def read_manifest(directory: Path) -> dict[str, Any]:
    """Reads and checks a run's manifest; raises ValueError where it is missing, damaged or too new."""
    path = directory / MANIFEST
    try:
        check_file(path)
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"{version!r} is no schema_version")
        if version <= SCHEMA_VERSION:
            _check_manifest(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"A run's {MANIFEST} must be whole. Received: {path} ({error!r}). "
            "The run's heatmaps and overlays can still be opened one by one."
        ) from error
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"A record must have a schema_version of at most {SCHEMA_VERSION}. Received: {version!r} in {path}. "
            "Read it with the version of keras_cam_callbacks that wrote it, or a later one."
        )
    return manifest


def _space(space: Space) -> dict[str, Any]:
    """Returns a space as JSON has it; records of images, which need none, have no spacing."""
    stored = {name: plain(value) for name, value in vars(space).items()}
    if not space.spacing:
        del stored["spacing"]
    return stored


def space_of(manifest: Mapping[str, Any]) -> Space | None:
    """Returns what the axes of a record's heatmaps are; None where it is not said.

    Raises:
        KeyError: If the manifest lacks a part of it.
        TypeError: If a part is of the wrong type.
        ValueError: If a part is impossible.
    """
    stored = manifest.get("space")
    if stored is None:
        return None
    axes, sizes = tuple(stored["axes"]), tuple(stored["sizes"])
    texts = all(isinstance(text, str) for text in (*axes, stored["layout"]))
    if len(axes) != len(sizes) or not texts or not all(s is None or (type(s) is int and s > 0) for s in sizes):
        raise ValueError(f"{stored!r} is no space")
    spacing = tuple(map(float, stored.get("spacing") or ()))
    if spacing and (len(spacing) != len(axes) or not all(0 < step < math.inf for step in spacing)):
        raise ValueError(f"{stored!r} is no space")
    return Space(axes, sizes, stored["layout"], str(stored.get("tokens", "")), spacing)


def _is_label(label: Any) -> bool:
    if isinstance(label, list):
        return all(not isinstance(one, list) and _is_label(one) for one in label)
    return type(label) is int and abs(label) < 2**63


def check_changing(entry: Mapping[str, Any], samples: int) -> None:
    """Raises ValueError where a manifest or a line has labels, class names or the like that are none."""
    labels = entry.get("labels", [None] * samples)
    if len(labels) != samples or not all(label is None or _is_label(label) for label in labels):
        raise ValueError(f"labels must be {samples} whole numbers, lists of them, or null")
    _check_texts(entry, "class_names")
    _check_texts(entry, "tracked")


def _check_texts(entry: Mapping[str, Any], name: str) -> None:
    listed = entry.get(name)
    if listed is not None and not (isinstance(listed, list) and all(isinstance(text, str) for text in listed)):
        raise ValueError(f"{name} must be a list of texts")


def _check_displays(entries: Any, samples: int) -> None:
    """Raises ValueError, TypeError or LookupError where what is said of the samples' files is no such."""
    if entries is None:
        return
    if not isinstance(entries, list) or len(entries) != samples:
        raise ValueError(f"display must have {samples} entries")
    for entry in entries:
        if entry is not None:
            shape = entry["shape"]
            whole = isinstance(shape, list) and all(type(side) is int and 0 < side < 2**31 for side in shape)
            kinds = ("array", "slices") if len(shape) == 4 else ("array",)
            if entry["kind"] not in kinds or not whole:
                raise ValueError(f"{entry!r} is no display")


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    samples = {name: len(manifest[name]) for name in ("sample_keys", "fingerprints", "labels", "files")}
    if len(set(samples.values())) != 1:
        raise ValueError(f"numbers of samples differ: {samples}")
    for name in ("sample_keys", "fingerprints", "views"):
        _check_texts(manifest, name)
    if len(set(manifest["sample_keys"])) != len(manifest["sample_keys"]):
        raise ValueError("sample_keys must differ")
    check_changing(manifest, len(manifest["sample_keys"]))
    space_of(manifest)
    _check_displays(manifest.get("display"), len(manifest["sample_keys"]))
    for entry in manifest.get("inputs") or ():
        if not re.fullmatch(r"images-\d+", entry["folder"]) or not isinstance(entry["views"], list):
            raise ValueError(f"{entry!r} is no input")
        _check_texts(entry, "views")
        _check_displays(entry.get("display"), len(manifest["sample_keys"]))
    texts = ("prefix", "model_name", "layer", "method", "target", "run_id", "structure", *STABLE.values())
    for name in texts:
        if not isinstance(manifest.get(name, ""), str):
            raise ValueError(f"{name} must be a text")
    for name in ("freq", "steps"):
        freq = manifest.get(name, 1)
        if type(freq) is not int or freq < 1:
            raise ValueError(f"{name} must be a positive whole number")
    for key in manifest["sample_keys"]:
        if re.search(r"[/\\:]|^\.", manifest["files"][key]):
            raise ValueError(f"{manifest['files'][key]!r} is no file name")
    if len({manifest["files"][key].casefold() for key in manifest["sample_keys"]}) != len(manifest["sample_keys"]):
        raise ValueError("files must differ")
    regions = manifest.get("regions") or ()  # None in records without, and in those of earlier versions.
    if regions:
        if len(regions) != len(manifest["sample_keys"]):
            raise ValueError(f"{len(regions)} regions, {len(manifest['sample_keys'])} samples")
        space = space_of(manifest)
        for region in regions:
            if region is not None:
                check_region(region, 2 if space is None else len(space.axes))
    missing = {*IDENTITY, "class_names"} - manifest.keys()
    if missing:
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
