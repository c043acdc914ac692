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
_FILMED = (*_COLORS, "seconds", "n_frames", "panel_px")
_DRAWN = (*_COLORS, "colorbar", "smooth", "outline", "dpi")


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of file: `is_a` names it in messages; `takes` are its options for one map, `takes_several` for more.

    Of suffixes that are `numbered` a file holds one map; several are written into as many files, `run_0.gif` on.
    """

    is_a: str
    suffixes: tuple[str, ...]
    takes: tuple[str, ...]
    takes_several: tuple[str, ...]
    numbered: tuple[str, ...] = ()


FORMS: tuple[Form, ...] = (
    Form(
        "a picture",
        (".png", ".jpg", ".jpeg", ".pdf", ".svg"),
        (*_DRAWN, "beside", "title", "columns", "shared"),
        (*_DRAWN, "columns", "shared"),
    ),
    Form("a report", (".html", ".htm"), (*_COLORS, "shared"), (*_COLORS, "shared")),
    Form("a film", (".gif", ".apng"), _FILMED, _FILMED, numbered=(".gif", ".apng")),
    Form("a numpy file", (".npz", ".npy"), (), (), numbered=(".npy",)),
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


def save_result(result: Result, path: str | Path, options: Mapping[str, Any]) -> list[Path]:
    """Write the maps of a result into one file, or into numbered ones, which are returned. Raises as `save_map`."""
    path, form = Path(path), form_of(path)
    if form.is_a == "a report":
        _require_taken(path, form.is_a, form.takes, options)
        result.report(path, **options)
    elif len(result) == 1:
        save_map(result[0], path, options)
    elif path.suffix.lower() in form.numbered:
        width = len(str(len(result) - 1))
        files = [path.with_stem(f"{path.stem}_{place:0{width}}") for place in range(len(result))]
        for heat, file in zip(result, files, strict=True):
            save_map(heat, file, options)
        return files
    elif form.is_a == "a numpy file":
        _require_taken(path, form.is_a, form.takes_several, options)
        numbers = [heat.arrays() for heat in result]
        arrays = {f"{place}/{name}": array for place, each in enumerate(numbers) for name, array in each.items()}
        buffer = BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_file(path, buffer.getvalue())
    else:
        from obeql.drawing.overlay import picture_bytes  # noqa: PLC0415 - matplotlib is slow to import
        from obeql.drawing.sheet import sheet  # noqa: PLC0415

        _require_taken(path, "a sheet of several maps", form.takes_several, options)
        drawn = {name: value for name, value in options.items() if name != "dpi"}
        write_file(path, picture_bytes(sheet(result, **drawn), path.suffix.lower(), options.get("dpi", 120)))
    return [path]


def _require_taken(path: Path, is_a: str, takes: tuple[str, ...], options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in takes:
            what = f"takes {', '.join(takes)}" if takes else "takes no options"
            raise QueryTypeError(f"'{path.name}' is {is_a}, which {what}, not {name}.{nearest(name, takes)}")
