"""`keras-cam demo`: catch a model that is right for the wrong reason."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say
from .loading import load_keras

if TYPE_CHECKING:
    from rich.table import Table

    from ..demo import Report, Step


@click.command(context_settings={"show_default": True})
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo"), help="New or empty folder for the results."
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, help="Epochs of each of the two runs.")
@click.option("--images", type=click.IntRange(min=100), default=3000, help="Images to train on, in each run.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Same seed, same images and first weights.")
def demo(out: Path, epochs: int, images: int, seed: int) -> None:
    """Catch a model that is right for the wrong reason.

    Trains the same small network twice on handwritten digits on photographs, each with a small coloured
    sticker. In the honest run the sticker's colour is random; in the shortcut run it gives the digit away.
    GradCAMLogger logs both, on the same images, to TensorBoard and to disk, and is told where the digits are.
    Then a network pretrained on the digits 0 to 4 is fine-tuned on 5 to 9, first its head alone, as one
    continuous record.

    Takes about two minutes on two cores and downloads nothing. Shows on stderr how far it is, where that is no
    terminal by a line for each epoch. Prints what the runs look at, and writes a picture and a page that compare
    the honest and the shortcut run. An --out that holds something is refused, so nothing is overwritten and the
    paths are where they are said to be.
    """
    _need("rich", "scikit-learn", "scikit-image", "matplotlib", "plotly")
    _make_folder(out)
    from rich.console import Console

    say("Loading Keras ...")
    try:
        load_keras()
        from ..demo import run_demo
    except ValueError as error:
        raise click.ClickException(str(error)) from error

    say("Training three runs: honest, shortcut and transfer ...")
    with _progress() as show:
        report = run_demo(out, epochs=epochs, seed=seed, images=images, progress=show)
    # The tables are wider than the 80 columns that rich takes where there is no terminal.
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(_comparison(report), _transfer(report))
    click.echo(_where(report, out))


@contextmanager
def _progress() -> Iterator[Callable[[Step], None]]:
    """Gives the function that shows on stderr how far the runs are: bars on a terminal, else a line for each epoch."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _say_epoch
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bars:
        tasks = {name: bars.add_task(f"{name} run", start=False) for name in ("honest", "shortcut", "transfer")}

        def show(step: Step) -> None:
            bars.start_task(tasks[step.run])
            bars.update(tasks[step.run], completed=step.done, total=step.total)

        yield show


def _say_epoch(step: Step) -> None:
    """Says what an epoch has come to, and nothing within one."""
    if step.epoch is None:
        return
    numbers = {
        "validation accuracy": step.logs.get("val_accuracy"),
        "heat on the digit": step.logs.get("gradcam_energy_in_region"),
    }
    text = ", ".join(f"{name} {value:.2f}" for name, value in numbers.items() if value is not None)
    say(f"{step.run} run{step.fit and f', {step.fit}'}: epoch {step.epoch} of {step.epochs}: {text}")


def _need(*distributions: str) -> None:
    """Ends with one line if a package of the demo is missing."""
    modules = {"scikit-learn": "sklearn", "scikit-image": "skimage"}
    missing = [name for name in distributions if importlib.util.find_spec(modules.get(name, name)) is None]
    if missing:
        raise click.ClickException(
            f"The demo needs {' and '.join(missing)}. Install it: pip install 'keras_cam_callbacks[demo]'"
        )


def _make_folder(out: Path) -> None:
    """Ends with one line if `out` is a file, holds anything, or can't be made."""
    try:
        if not os.path.lexists(out):
            out.mkdir(parents=True)
        if out.is_dir() and not any(out.iterdir()):
            return
    except OSError as error:
        raise click.ClickException(f"--out must be a folder that can be written to. Received: {error}.") from error
    folder = out.resolve()
    names = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    free = next(path for path in names if not os.path.lexists(path))
    suggestion = f"--out {shlex.quote(free.name if out.parent == Path() else str(out.parent / free.name))}"
    raise click.ClickException(
        f"--out must be an empty folder, or one that is not there yet: nothing is overwritten. Received: {out}, which "
        f"{'holds files' if out.is_dir() else 'is no folder'}. {suggestion} would work; with make: "
        f'make demo ARGS="{suggestion}"'
    )


def _comparison(report: Report) -> Table:
    rows = [
        (
            result.name,
            stickers,
            *(f"{x:.2f}" for x in (result.accuracy, result.accuracy_random, result.energy, result.peak)),
        )
        for result, stickers in ((report.honest, "random"), (report.shortcut, "= the digit"))
    ]
    chance = ["anywhere", "-", "0.10", "0.10", *[f"{report.box_share:.2f}"] * 2]
    return _table(
        "Right for the right reason?",
        ["run", "sticker", "accuracy", "with random stickers", "energy_in_region", "pointing"],
        [*rows, chance],
    )


def _transfer(report: Report) -> Table:
    names = "head, base frozen", "all layers"
    rows = [
        (name, *(f"{x:.2f}" for x in (result.accuracy, result.energy, result.peak)))
        for name, result in zip(names, report.transfer, strict=True)
    ]
    return _table(
        "Transfer from the digits 0-4 to 5-9",
        ["fit", "accuracy", "energy_in_region", "pointing"],
        rows,
    )


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(title=f"\n{title}", title_justify="left", title_style="bold")
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if rows[0][i][0].isalpha() else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _where(report: Report, out: Path) -> str:
    serve = f"{_tensorboard()} --logdir {shlex.quote(str(out))} --samples_per_plugin images=1000"
    lines = [
        "",
        "accuracy          on the run's own validation images, whose digits were not trained on",
        "energy_in_region  share of Grad-CAM's heat that lies in the digit's box, and",
        "pointing          share of the heatmaps whose peak is in it, on up to 200 validation images with",
        "                  their digits' stickers, the same for both runs; anywhere: a map without preference",
        "",
        "What the 16 logged images show:",
        *(
            textwrap.fill(line, 100, initial_indent="- ", subsequent_indent="  ")
            for line in report.summary.splitlines()
        ),
        "",
        f"Open this picture first    {report.picture}",
        f"Every epoch of both runs   {report.page}",
        f"TensorBoard: run this      {serve}",
        "and open this page         http://localhost:6006",
        f"Records on disk            {report.honest.directory}",
        f"                           {report.shortcut.directory}",
        f"                           {report.transfer[0].directory}",
    ]
    return "\n".join(lines)


def _tensorboard() -> str:
    """Returns how TensorBoard is called from here, also where its environment is not activated."""
    program = Path(shutil.which("tensorboard", path=Path(sys.executable).parent) or "tensorboard")
    return shlex.quote(str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program))
