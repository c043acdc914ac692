"""Figures that notebooks show: at the end of the cell that drew them, and wherever they are a cell's value.

Beside `overlay`, which draws on them. They belong to no pyplot, so that drawing works in threads and keeps no state;
pyplot's own figures are shown by it.
"""

from __future__ import annotations

import sys
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["MapAxes", "MapFigure", "new_figure", "show_later"]

_DPI = 100


class MapFigure(Figure):
    """A figure that a notebook shows once, whether it was drawn by `plot()` in this cell or is the cell's value."""

    def panels(self, n_rows: int, n_cols: int) -> list[list[Axes]]:
        """Return a figure's axes in rows and columns."""
        kind = {"axes_class": MapAxes}
        return [list(row) for row in self.subplots(n_rows, n_cols, squeeze=False, subplot_kw=kind)]

    def _repr_png_(self) -> bytes:
        from obeql.drawing.overlay import picture_bytes  # noqa: PLC0415 - which draws on these

        return picture_bytes(self, ".png", _DPI)

    def _ipython_display_(self) -> None:
        if _notebook() is None:
            raise NotImplementedError  # IPython then prints what it prints of other figures
        if self not in _PENDING:
            _display(self)


class MapAxes(Axes):
    """Axes that show their figure as the value of a notebook's cell."""

    name = "obeql_map"

    def _repr_png_(self) -> bytes:
        return self._root()._repr_png_()

    def _ipython_display_(self) -> None:
        self._root()._ipython_display_()

    def _root(self) -> MapFigure:
        figure = self.get_figure(root=True)
        assert isinstance(figure, MapFigure)
        return figure


def new_figure(size: tuple[float, float]) -> MapFigure:
    """Return an empty figure of (width, height) in inches, whose layout fits its labels."""
    figure = MapFigure(figsize=size)
    figure.set_layout_engine("constrained")
    return figure


#: Figures that were drawn in the cell that runs, which its end shows.
_PENDING: list[MapFigure] = []


def show_later(figure: Any) -> None:
    """Have a notebook show a figure at the end of its cell, as it does with those of pyplot; elsewhere do nothing."""
    shell = _notebook()
    if shell is None or not isinstance(figure, MapFigure):
        return
    if not _PENDING:
        shell.events.register("post_execute", _show_pending)
    _PENDING.append(figure)


def _show_pending() -> None:
    drawn = list(_PENDING)
    _PENDING.clear()
    _notebook().events.unregister("post_execute", _show_pending)
    for figure in drawn:
        _display(figure)


def _display(figure: MapFigure) -> None:
    from IPython.display import Image, display  # noqa: PLC0415 - there is one, or nobody would ask

    display(Image(figure._repr_png_(), format="png"))


def _notebook() -> Any:
    """Return the shell of the notebook this runs in; None in scripts and on terminals, which show no pictures."""
    if "IPython" not in sys.modules:
        return None
    shell = sys.modules["IPython"].get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None
