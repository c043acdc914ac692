"""One file of one map or of several: which suffix is what, and what options it takes.

Between `Heatmap.save`, `Result.save` and RENDER on one side, and the modules that draw on the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from obeql.errors import QueryTypeError, nearest
from obeql.results.heatmap import Heatmap, write_file

if TYPE_CHECKING:
    from obeql.results.result import Result

__all__ = ["FORMS", "Form", "form_of", "known_suffixes", "save_map", "save_result"]

_COLORS = ("limit", "alpha", "cmap", "sign")
_DRAWN = (*_COLORS, "colorbar", "smooth", "outline", "dpi")


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of file: `is_a` names it in messages; `takes` are its options for one map, `takes_several` for more.

    Without `takes_several` such a file holds one map.
    """

    is_a: str
    suffixes: tuple[str, ...]
    takes: tuple[str, ...]
    takes_several: tuple[str, ...] | None = None


FORMS: tuple[Form, ...] = (
    Form(
        "a picture",
        (".png", ".jpg", ".jpeg", ".pdf", ".svg"),
        (*_DRAWN, "beside", "title", "columns", "shared"),
        (*_DRAWN, "columns", "shared"),
    ),
    Form("a report", (".html", ".htm"), (*_COLORS, "shared"), (*_COLORS, "shared")),
    Form("a film", (".gif", ".apng"), (*_COLORS, "seconds", "n_frames", "panel_px")),
    Form("a numpy file", (".npz", ".npy"), ()),
)


def known_suffixes() -> tuple[str, ...]:
    """Return every suffix that is written."""
    return tuple(suffix for form in FORMS for suffix in form.suffixes)


def form_of(path: str | Path) -> Form:
    """Return the kind of a file by its suffix. Raises QueryTypeError that lists those there are."""
    path = Path(path)
    suffix = path.suffix.lower()
    for form in FORMS:
        if suffix in form.suffixes:
            return form
    known = known_suffixes()
    raise QueryTypeError(f"'{path.name}' needs a suffix of {' '.join(known)}.{nearest(suffix, known)}")


def save_map(heat: Heatmap, path: str | Path, options: Mapping[str, Any]) -> None:
    """Write one map as its suffix says. Raises QueryTypeError for another suffix or an option it does not take."""
    path, form = Path(path), form_of(path)
    _require_taken(path, form.is_a, form.takes, options)
    suffix = path.suffix.lower()
    if form.is_a == "a film":
        heat.animate(path, **options)
    elif form.is_a == "a report":
        from obeql.results.result import Result  # noqa: PLC0415 - which saves itself through this module

        Result((heat,), run_id=heat.run_id).report(path, **options)
    elif suffix == ".npy":
        buffer = BytesIO()
        np.save(buffer, heat.importance)
        write_file(path, buffer.getvalue())
    elif suffix == ".npz":
        buffer = BytesIO()
        np.savez_compressed(buffer, **heat.arrays())
        write_file(path, buffer.getvalue())
    else:
        from obeql.drawing.overlay import overlay, picture_bytes  # noqa: PLC0415 - matplotlib is slow to import

        drawn = {name: value for name, value in options.items() if name not in ("dpi", "columns", "shared")}
        figure = overlay(heat, None, **drawn).get_figure(root=True)
        write_file(path, picture_bytes(figure, suffix, options.get("dpi", 150)))


def save_result(result: Result, path: str | Path, options: Mapping[str, Any]) -> None:
    """Write the maps of a result into one file. Raises as `save_map`, and where the file can only hold one map."""
    path, form = Path(path), form_of(path)
    if form.is_a == "a report":
        _require_taken(path, form.is_a, form.takes, options)
        result.report(path, **options)
    elif len(result) == 1:
        save_map(result[0], path, options)
    elif form.takes_several is None:
        raise QueryTypeError(
            f"'{path.name}' is {form.is_a}, which holds one heat map, and there are {len(result)}: save one, as "
            "result[0].save(..), or all of them with result.export(folder, 'npz' or 'png')"
        )
    else:
        from obeql.drawing.overlay import picture_bytes  # noqa: PLC0415 - matplotlib is slow to import
        from obeql.drawing.sheet import sheet  # noqa: PLC0415

        _require_taken(path, "a sheet of several maps", form.takes_several, options)
        drawn = {name: value for name, value in options.items() if name != "dpi"}
        write_file(path, picture_bytes(sheet(result, **drawn), path.suffix.lower(), options.get("dpi", 120)))


def _require_taken(path: Path, is_a: str, takes: tuple[str, ...], options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in takes:
            what = f"takes {', '.join(takes)}" if takes else "takes no options"
            raise QueryTypeError(f"'{path.name}' is {is_a}, which {what}, not {name}.{nearest(name, takes)}")
