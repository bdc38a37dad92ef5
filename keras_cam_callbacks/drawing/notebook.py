"""A figure of matplotlib that notebooks show once. Nothing else loads matplotlib: import it to draw."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

__all__ = ["NotebookFigure"]


class NotebookFigure(Figure):
    """A figure that pyplot doesn't know: as the last value of a cell it is shown, and at the cell's end not once more.

    No backend is chosen for it, and there is nothing to close.
    """

    def _repr_png_(self) -> bytes:
        """Returns the picture for notebooks, where pyplot, which would tell them how, may never have been imported."""
        file = BytesIO()
        self.savefig(file, format="png", bbox_inches="tight")
        return file.getvalue()
