"""`keras-cam report`: one stored run as an HTML page. It loads no framework."""

from __future__ import annotations

from pathlib import Path

import click

from .console import need, one_message, plain, print_json
from .options import FORCE, JSON, MAX_EPOCHS, VIEW
from .pages import PACKAGES, check_page, write_page


@click.command(context_settings={"show_default": True}, short_help="Write one run as an HTML page.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"), help="The file.")
@MAX_EPOCHS
@VIEW
@JSON
@FORCE
def report(run: Path, out: Path, max_epochs: int, view: str, as_json: bool, force: bool) -> None:
    """Writes one run as an HTML page that needs no server and no network.

    RUN is a run's folder, or a folder with one run.
    """
    need(*PACKAGES, extra="report")
    with one_message():
        from ..comparison import compare as compare_runs

        check_page(out, force)
        written = write_page(compare_runs([run], view=view), out, max_epochs)
    if as_json:
        print_json({**vars(written), "path": str(written.path)})
    else:
        click.echo(plain(out))
