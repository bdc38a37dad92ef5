"""The documentation's page of the kinds of models, from the table; run as a module it writes the page."""

from __future__ import annotations

from paths import ROOT
from zoo import table
from zoo.glance import at_a_glance
from zoo.table import Row

HEAD = """# Kinds of model

Small models of each kind, explained without naming a layer. **Right** says that the layer is the one of this table,
that Grad-CAM of it equals an independent computation to 1e-5, by `explain` and in `fit` with the callback, and that
the model is left as it was. **Refused** names what works instead. `make zoo` tries all of them; one of each family is
tried by every `make test`.

"""
COLUMNS = "| model | explained by default | cells | |\n|---|---|---|---|\n"


def kinds_of_model() -> str:
    """Returns the page."""
    parts = [HEAD, at_a_glance()]
    for family, rows in table.FAMILIES.items():
        parts += [f"## {family}\n\n", COLUMNS, *(f"| {' | '.join(_cells(row))} |\n" for row in rows), "\n"]
    parts += ["## keras.applications\n\n", "Without weights, of the size at which the last map has 3 x 3 cells.\n\n"]
    parts += ["| model | explained by default | px | |\n|---|---|---|---|\n"]
    for name, (layer, _, size) in table.APPLICATIONS.items():
        parts.append(f"| {name} | `{layer}` | {size} | right |\n")
    return "".join(parts)


def _cells(row: Row) -> list[str]:
    wrong = f"**wrong today**: {row.wrong}" if row.wrong else ""
    if row.refused:
        names = row.refused.strip("`")
        return [row.name, "", "", wrong or f"refused: {names.removeprefix('give `')}".replace("|", "\\|")]
    layer = " or ".join(f"`{path}`" for path in row.layer.split("|"))
    if row.levels:
        layer = " and ".join(f"`{path}`" for path, _ in row.levels)
    if row.images:
        layer = " and ".join(dict.fromkeys(f"`{path}`" for _, path, *_ in row.images))
        sizes = dict.fromkeys(" x ".join(map(str, size)) for *_, size in row.images)
        return [row.name, f"{row.place}, {layer}", " and ".join(sizes), wrong or "right"]
    cells = " x ".join(map(str, row.cells))
    if row.special is not None:
        cells += " tokens" + (f", {row.special} special" if row.special else "")
    return [row.name, f"{row.place}, {layer}", cells, wrong or "right"]


if __name__ == "__main__":
    (ROOT / "docs" / "kinds.md").write_text(kinds_of_model(), "utf-8")
