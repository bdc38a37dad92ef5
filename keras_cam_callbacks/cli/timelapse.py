"""`keras-cam timelapse`: how attention moved, as a film. It loads no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .console import need, one_message, plain, print_json, progress
from .options import JSON


@click.command(context_settings={"show_default": True}, short_help="Make films of a run, epoch by epoch.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("timelapse"),
    help="Folder for a film of each sample, or a file for one with all of them: all.gif.",
)
@click.option("--samples", multiple=True, help="Key of a sample; give it once for each.  [default: all]")
@click.option("--format", "film_format", type=click.Choice(["gif", "webp", "mp4"]), help="[default: as --out, or gif]")
@click.option("--fps", type=click.FloatRange(0.1, 30), default=2.0, help="Epochs in a second.")
@JSON
@click.option("--force", is_flag=True, help="Replace the file --out where it is there already.")
def timelapse(
    run: Path, out: Path, samples: tuple[str, ...], film_format: Any, fps: float, as_json: bool, force: bool
) -> None:
    """Makes films of a run: where the model looked, epoch by epoch.

    RUN is a run's folder, or a folder with one run. Every frame has its epoch and its prediction burnt in. GIF shows
    everywhere; WebP is smaller and has all colours; MP4 (VP9) plays in browsers.
    """
    need("rich")
    with one_message(), progress("Drawing") as show:
        from ..timelapse import write_timelapse

        try:
            files = write_timelapse(
                run,
                out,
                samples=samples or None,
                film_format=film_format,
                fps=fps,
                overwrite=force,
                progress=show,
            )
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    if as_json:
        print_json({"films": list(map(str, files))})
        return
    for file in files:
        click.echo(plain(file))
