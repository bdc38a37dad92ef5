"""The command line, `keras-cam`. It starts without a framework; commands load what they need."""

from __future__ import annotations

import sys
from typing import Any

try:
    import click
except ModuleNotFoundError:
    # This package is the `keras-cam` program and nothing else: a traceback would help nobody.
    raise SystemExit("keras-cam needs click. Install it: pip install 'keras_cam_callbacks[cli]'") from None

from .. import __version__
from . import compare, demo, explain, layers, report, runs, timelapse


class _Commands(click.Group):
    """Ends with one message where OpenCV can't be imported, which any command may be the first to do."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ImportError as error:
            if error.name != "cv2":
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="keras_cam_callbacks %(version)s")
def main() -> None:
    """Shows where a vision model looks while it trains."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # A terminal that lacks a letter gets its number, not a traceback.
            stream.reconfigure(errors="backslashreplace")


for command in (
    *(layers.layers, explain.explain),
    *(runs.runs, timelapse.timelapse),
    *(compare.compare, report.report),
    demo.demo,
):
    main.add_command(command)
