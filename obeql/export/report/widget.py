"""A run as a widget of a notebook: what a report shows, in the output of a cell.

Beside `report`, whose data and viewer it takes. anywidget carries them to the browser, in Jupyter, VS Code and Colab.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from obeql.errors import UnsupportedError, install

__all__ = ["report_widget"]

_RENDER = "export default { render: ({ model, el }) => { viewer(el, model.get('data')); } };"


def report_widget(data: dict[str, Any]) -> Any:
    """Return a widget that shows the data of a report. Raises UnsupportedError without anywidget."""
    try:
        import anywidget  # noqa: PLC0415
        import traitlets  # noqa: PLC0415
    except ImportError:
        raise UnsupportedError(f"A widget in a notebook needs anywidget; {install('notebook')}.") from None
    folder = files("obeql.export.report")
    viewer, style = ((folder / name).read_text(encoding="utf-8") for name in ("viewer.js", "viewer.css"))

    class Report(anywidget.AnyWidget):  # type: ignore[misc]
        """The maps of a run over their images, with the numbers of the window under the pointer."""

        _esm = f"{viewer}\n{_RENDER}"
        _css = style
        data = traitlets.Dict().tag(sync=True)

    return Report(data=data)
