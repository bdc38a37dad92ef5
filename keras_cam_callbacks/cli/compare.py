"""`keras-cam compare`: stored runs side by side. It loads no framework."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import need, number, one_message, plain, print_json, print_table, say
from .options import FORCE, JSON, MAX_EPOCHS, VIEW
from .pages import PACKAGES, check_page, write_page

if TYPE_CHECKING:
    from ..comparison import Comparison

_SAMPLES = 5  # how many of the most different samples are shown


@click.command(context_settings={"show_default": True}, short_help="Compare runs: where they look, and since when.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--name", "names", multiple=True, help="What a run is called; give it once for each run, in order.")
@VIEW
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a report too: report.html.")
@MAX_EPOCHS
@click.option("--csv", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers of all samples too.")
@JSON
@FORCE
def compare(
    runs: tuple[str, ...],
    names: tuple[str, ...],
    view: str,
    out: Path | None,
    max_epochs: int,
    csv: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Compares runs: where they look, from which epoch on they part, and what they differ in.

    Each RUN is a run's folder, or a folder with one run. All must have been logged on the same images; samples are
    matched by their keys, epochs by the runs' own counts. Agreement is the correlation of two runs' heatmaps: 1 where
    they look at the same place, 0 where these have nothing to do with each other. Runs part in the first epoch from
    which it stays below 0.5.
    """
    need("rich")
    if out is not None:
        need(*PACKAGES, extra="report")
    with one_message():
        from ..comparison import compare as compare_runs
        from ..store.whole import check_free

        if out is not None:
            check_page(out, force)
        if csv is not None:
            check_free(csv, folder=False, overwrite=force)
            if out is not None and csv.resolve() == out.resolve():
                raise ValueError(f"--csv and --out must be two files. Received: {csv} for both. --csv runs.csv works.")
        comparison = compare_runs(runs, names=names or None, view=view)
        if csv is not None:
            comparison.to_csv(csv)
        if out is not None:
            write_page(comparison, out, max_epochs)
        found = describe_comparison(comparison)
    if as_json:
        print_json(found)
    else:
        _print(comparison, found)
    for path in filter(None, (csv, out)):
        say(f"Written: {path}")


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """Returns what a comparison found, as plain data.

    Returns:
        runs: for each its name, path and the row of its last epoch; epochs: rows of all epochs; pairs: for each two
        runs the agreement in the last epoch that both have, its mean over all, and the step in which they part, or
        None; samples: from the most different one on; differences by setting; summary: sentences.
    """
    import numpy as np

    from ..metrics import mean

    rows = comparison.table("epoch")
    last = {row["run"]: row for row in rows}  # Epochs rise, so the last one stays.
    pairs = []
    for place, pair in enumerate(comparison.pairs):
        means = mean(comparison.agreement[place], 1)
        known = means[~np.isnan(means)].tolist()
        parted = comparison.parted_overall(pair=place)
        pairs.append(
            {
                "runs": [comparison.names[i] for i in pair],
                "agreement": known[-1] if known else None,
                "mean_agreement": float(mean(means)),
                "parted": None if parted < 0 else parted,
            }
        )
    disagreement, parted_samples = comparison.disagreement(), comparison.parted()
    ends = [int(np.flatnonzero(held)[-1]) for held in comparison.held()]
    samples = [
        {
            "sample": comparison.sample_keys[i],
            "label": comparison.class_name(comparison.labels[i]),
            "disagreement": float(disagreement[i]),
            "parted": None if parted_samples[i] < 0 else int(parted_samples[i]),
            "predicted": [comparison.class_name(int(comparison.predicted[r, e, i])) for r, e in enumerate(ends)],
        }
        for i in comparison.most_different()
    ]
    return {
        "runs": [
            {"name": name, "path": str(run.directory), "last": last[name]}
            for name, run in zip(comparison.names, comparison.runs, strict=True)
        ],
        "epochs": rows,
        "pairs": pairs,
        "samples": samples,
        "differences": {name: list(values) for name, values in comparison.differences.items()},
        "left_out": {name: list(keys) for name, keys in comparison.left_out.items() if keys},
        "summary": comparison.summary().splitlines(),
    }


def _print(comparison: Comparison, found: dict[str, Any]) -> None:
    last = [run["last"] for run in found["runs"]]
    measured = [name for name in last[0] if name not in ("run", "samples") and not name.startswith("agreement")]
    measured = [name for name in measured if any(row[name] is not None for row in last)]
    print_table(
        ["last epoch", *comparison.names],
        [(name, *(number(row[name]) for row in last)) for name in measured],
        title=f"{len(comparison.sample_keys)} samples",
        right=comparison.names,
    )
    if found["pairs"]:
        print_table(
            ["runs", "agreement, last", "mean", "part from epoch"],
            [
                (
                    " and ".join(pair["runs"]),
                    number(pair["agreement"], 2),
                    number(pair["mean_agreement"], 2),
                    "-" if pair["parted"] is None else pair["parted"],
                )
                for pair in found["pairs"]
            ],
            right=["agreement, last", "mean", "part from epoch"],
        )
        print_table(
            ["most different", "true", *(f"predicted by {name}" for name in comparison.names), "agreement"],
            [
                (
                    each["sample"],
                    *("-" if name is None else name for name in (each["label"], *each["predicted"])),
                    number(1 - each["disagreement"], 2),
                )
                for each in found["samples"][:_SAMPLES]
            ],
            right=["agreement"],
        )
    for sentence in found["summary"]:
        click.echo(plain(sentence))
