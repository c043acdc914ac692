"""One file of one map or of several: which suffix is what, and what options it takes.

Between `Heatmap.save`, `Result.save` and RENDER on one side, and the modules that draw on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from obeql.errors import QueryTypeError, nearest
from obeql.export.provenance import as_json, of_map, of_run
from obeql.results.heatmap import Heatmap, write_file

if TYPE_CHECKING:
    from obeql.results.result import Result

__all__ = ["FORMS", "Form", "form_of", "known_suffixes", "save_map", "save_result"]

_COLORS = ("limit", "alpha", "cmap", "sign")
_DRAWN = (*_COLORS, "colorbar", "smooth", "outline", "dpi")


# ---- what writes each kind ---------------------------------------------------------------------------------


def _picture(heat: Heatmap, path: Path, options: Mapping[str, Any], result: Result | None) -> None:
    from obeql.drawing.overlay import overlay, picture_bytes  # noqa: PLC0415 - matplotlib is slow to import

    drawn = {name: value for name, value in options.items() if name not in ("dpi", "columns", "shared")}
    figure = overlay(heat, None, **drawn).get_figure(root=True)
    told = as_json(of_map(heat, result))
    write_file(path, picture_bytes(figure, path.suffix.lower(), options.get("dpi", 150), told))


def _sheet(result: Result, path: Path, options: Mapping[str, Any]) -> None:
    from obeql.drawing.overlay import picture_bytes  # noqa: PLC0415 - matplotlib is slow to import
    from obeql.drawing.sheet import sheet  # noqa: PLC0415

    drawn = {name: value for name, value in options.items() if name != "dpi"}
    told = as_json(of_run(result))
    write_file(path, picture_bytes(sheet(result, **drawn), path.suffix.lower(), options.get("dpi", 120), told))


def _report_of_one(heat: Heatmap, path: Path, options: Mapping[str, Any], result: Result | None) -> None:
    from obeql.results.result import Result  # noqa: PLC0415 - which saves itself through this module

    Result((heat,), run_id=heat.run_id).report(path, **options)


def _report(result: Result, path: Path, options: Mapping[str, Any]) -> None:
    result.report(path, **options)


def _film(heat: Heatmap, path: Path, options: Mapping[str, Any], result: Result | None) -> None:
    heat.animate(path, **options)


def _plane(heat: Heatmap, path: Path, options: Mapping[str, Any], result: Result | None) -> None:
    buffer = BytesIO()
    np.save(buffer, heat.importance)
    write_file(path, buffer.getvalue())


def _arrays(heat: Heatmap, path: Path, options: Mapping[str, Any], result: Result | None) -> None:
    _write_arrays(path, _numbers(heat, result))


def _all_arrays(result: Result, path: Path, options: Mapping[str, Any]) -> None:
    numbers = [_numbers(heat, result) for heat in result]
    _write_arrays(
        path, {f"{place}/{name}": array for place, each in enumerate(numbers) for name, array in each.items()}
    )


def _numbers(heat: Heatmap, result: Result | None) -> dict[str, Any]:
    return heat.arrays() | {"provenance": np.asarray(as_json(of_map(heat, result)))}


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_file(path, buffer.getvalue())


# ---- the kinds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of file: `is_a` names it in messages, `write` writes one map, `takes` are its options.

    It is told which result a map is a part of, where that is known. `write_several` writes several maps into one file,
    with the options `takes_several`; without it they are written into as many files, `run_0.gif` on. `has_picture` says
    whether images are drawn.
    """

    is_a: str
    suffixes: tuple[str, ...]
    takes: tuple[str, ...]
    write: Callable[[Heatmap, Path, Mapping[str, Any], Result | None], None]
    write_several: Callable[[Result, Path, Mapping[str, Any]], None] | None = None
    takes_several: tuple[str, ...] = ()
    several_are: str = ""
    has_picture: bool = True


FORMS: tuple[Form, ...] = (
    Form(
        "a picture",
        (".png", ".jpg", ".jpeg", ".pdf", ".svg"),
        (*_DRAWN, "beside", "title", "view", "columns", "shared"),
        _picture,
        _sheet,
        (*_DRAWN, "columns", "shared"),
        "a figure grid of several maps",
    ),
    Form("a report", (".html", ".htm"), (*_COLORS, "shared"), _report_of_one, _report, (*_COLORS, "shared")),
    Form("an animation", (".gif", ".apng"), (*_COLORS, "seconds", "n_frames", "panel_px"), _film),
    Form("a numpy file", (".npz",), (), _arrays, _all_arrays, has_picture=False),
    Form("a numpy file", (".npy",), (), _plane, has_picture=False),
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


def save_map(heat: Heatmap, path: str | Path, options: Mapping[str, Any], result: Result | None = None) -> None:
    """Write one map as its suffix says; where it is a part of a result, the file says the statement.

    Raises QueryTypeError for another suffix or an option it does not take.
    """
    path, form = Path(path), form_of(path)
    _require_taken(path, form.is_a, form.takes, options)
    form.write(heat, path, options, result)


def save_result(result: Result, path: str | Path, options: Mapping[str, Any]) -> list[Path]:
    """Write the maps of a result into one file, or into numbered ones, which are returned. Raises as `save_map`."""
    path, form = Path(path), form_of(path)
    if len(result) == 1:
        if form.write_several is _report:  # whose title and facts are those of the run
            _require_taken(path, form.is_a, form.takes, options)
            _report(result, path, options)
        else:
            save_map(result[0], path, options, result)
    elif form.write_several is not None:
        _require_taken(path, form.several_are or form.is_a, form.takes_several, options)
        form.write_several(result, path, options)
    else:
        width = len(str(len(result) - 1))
        files = [path.with_stem(f"{path.stem}_{place:0{width}}") for place in range(len(result))]
        for heat, file in zip(result, files, strict=True):
            save_map(heat, file, options, result)
        return files
    return [path]


def _require_taken(path: Path, is_a: str, takes: tuple[str, ...], options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in takes:
            what = f"takes {', '.join(takes)}" if takes else "takes no options"
            raise QueryTypeError(f"'{path.name}' is {is_a}, which {what}, not {name}.{nearest(name, takes)}")
