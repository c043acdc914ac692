"""RENDER and EXPORT RUN: which maps of a run go into which file or folder, and what is said of it.

Between `statements`, which has read the statement, and `export.registry` and `export.runs`, which write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from obeql.errors import QueryTypeError, UnknownNameError, nearest
from obeql.export.folders import folder_format
from obeql.export.registry import Form, form_of
from obeql.export.runs import TABLES, is_one_file
from obeql.planner.binding.option_tables import RENDER_OPTIONS
from obeql.results.result import Result

__all__ = ["export_run", "render_run", "takes"]

#: Options of RENDER that drawing calls otherwise, and those that say which maps are drawn.
_CALLED = {"opacity": "alpha"}
_CHOOSES = ("map", "class")


def render_run(result: Result, path: str, options: Mapping[str, Any]) -> str:
    """Write a run, or the maps of it that `map` and `class` choose, into one file or a file each; return what was done.

    `options` are those of RENDER that were given. Raises QueryTypeError for a suffix or an option that does not fit.
    """
    form = form_of(path)
    chosen = _chosen(result, options.get("map"), options.get("class"))
    several = len(chosen) > 1
    known = takes(form, several)
    for name in options:
        if name not in known:
            raise QueryTypeError(
                f"'{Path(path).name}' is {form.is_a}, which does not take {name}; it takes {', '.join(known)}."
            )
    drawn = {_CALLED.get(name, name): value for name, value in options.items() if name not in _CHOOSES}
    files = chosen.save(path, **drawn)
    shown = path if len(files) == 1 else f"{files[0]} .. {files[-1].name}"
    return f"{_maps(len(chosen))} {'drawn' if form.has_picture else 'written'} to {shown}"


def takes(form: Form, several: bool = False) -> list[str]:
    """Return the options of RENDER that a kind of file takes, of one map or of several."""
    python = form.takes_several if several and form.write_several is not None else form.takes
    called = {_CALLED.get(row.name, row.name): row.name for row in RENDER_OPTIONS}
    return [*_CHOOSES, *(word for name, word in called.items() if name in python)]


def export_run(result: Result, path: str, form: str | None, write_cells: Callable[[str], int]) -> str:
    """Write a run into a folder, or into one file where the path names one; return what was done.

    `write_cells` writes the windows of the run into a table and returns their number.
    """
    if form is None and is_one_file(path):
        if Path(path).suffix.lower() in TABLES:
            n_rows = write_cells(path)
            return f"{_maps(len(result))} exported to {path}: {n_rows:,} rows, one a window"
        return render_run(result, path, {})
    name = folder_format(form).name
    files = result.export(path, name)
    return f"{_maps(len(result))} exported to {path} as {name}, {len(files)} file{'s' if len(files) != 1 else ''}"


def _chosen(result: Result, number: int | None, classes: tuple[str | int, ...] | None) -> Result:
    if number is not None and classes is not None:
        raise QueryTypeError("map and class both choose maps; give one of them.")
    if number is not None:
        if number >= len(result):
            raise QueryTypeError(f"the run has {_maps(len(result))}, counted from 0; there is none of number {number}")
        return result[number : number + 1]
    if classes is None:
        return result
    known = {heat.class_name: heat.class_id for heat in result}
    for wanted in classes:
        if not any(_is_of(wanted, name, class_id) for name, class_id in known.items()):
            raise UnknownNameError(
                f"The run has no map of class {wanted!r}; it has {', '.join(known)}.{nearest(str(wanted), list(known))}"
            )
    maps = [heat for heat in result if any(_is_of(wanted, heat.class_name, heat.class_id) for wanted in classes)]
    return replace(result, maps=tuple(maps))


def _is_of(wanted: str | int, name: str, class_id: int) -> bool:
    return wanted == class_id if isinstance(wanted, int) else wanted.lower() == name.lower()


def _maps(count: int) -> str:
    return f"{count} heat map{'s' if count != 1 else ''}"
