"""Options and arguments that several commands take alike."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["FORCE", "JSON", "MAX_EPOCHS", "MODEL", "OUTPUT_KINDS", "UNSAFE", "VIEW"]

OUTPUT_KINDS = ("classes", "labels", "numbers", "embedding", "mask", "boxes")
"""As in `network.outputs`, which needs Keras."""

MODEL = click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="MODEL.keras")
UNSAFE = click.option("--unsafe", is_flag=True, help="Let Python code in the model file run. Only for files you trust.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
MAX_EPOCHS = click.option(
    "--max-epochs", type=click.IntRange(min=2), default=200, help="Most epochs in the report, evenly spaced."
)
FORCE = click.option("--force", is_flag=True, help="Replace files that are there already.")
VIEW = click.option(
    "--view", default="", show_default=False, help="Which heatmaps, where runs have several.  [default: the first]"
)
