"""Which statements a page may run: without `--allow-files`, those that touch the database and its own images alone.

Asked by `worker` before a statement runs, in its thread. Whoever has the page open can ask everything of the database,
start and stop runs and drop what is in it; the files of the machine are another matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb

from obeql.errors import UnsupportedError
from obeql.grammar import statements, syntax
from obeql.planner.binding.image_paths import bare_path
from obeql.web.reading_sql import ALLOW_FILES, require_reading

if TYPE_CHECKING:
    from obeql.session.session import Session

__all__ = ["Guard"]

#: Columns of a SELECT that name image files, as the session takes them.
_PATHS = ("path", "file", "filename")
#: Columns of windows that may name a file.
_MASKS = ("mask", "labels")
#: Settings that say where files or other machines are.
_OUTWARD = frozenset(("store", "store_folder", "ray_address", "engine"))
#: What a model may come from without naming a file.
_ZOOS = ("torchvision:", "timm:")


class Guard:
    """Refuses statements of a page that reach beyond the database. `connection` is one that only it uses."""

    def __init__(self, session: Session, connection: duckdb.DuckDBPyConnection, allow_files: bool) -> None:
        self._session = session
        self._connection = connection
        self.allow_files = allow_files

    def check(self, statement: statements.Statement) -> None:
        """Raise UnsupportedError where the page may not run the statement."""
        if isinstance(statement, statements.CreateModel):
            self._check_model(statement)
        if self.allow_files:
            return
        match statement:
            case (
                statements.PlanStatement(statement=planned)
                | statements.PlanSql(statement=planned)
                | statements.PlanPredict(statement=planned)
            ):
                self.check(planned)
            case statements.ExplainOcclude(source=source):
                self._check_source(source)
                self._check_windows(statement)
            case statements.Predict(source=source):
                self._check_source(source)
            case statements.CreateImages(source=source):
                self._check_source(source)
            case statements.Render() | statements.ExportRun():
                raise UnsupportedError(
                    f"The page writes no file where the database is: download it under Share, or use {ALLOW_FILES}."
                )
            case statements.SetSetting(name, _) | statements.ResetSetting(name) if name in _OUTWARD:
                raise UnsupportedError(
                    f"obeql.{name} says where files or machines are; setting it needs {ALLOW_FILES}."
                )
            case statements.SqlStatement(embedded=embedded):
                for each in embedded:
                    self.check(each.statement)
                require_reading(self._connection, statement.query, beside=[each.table for each in embedded])
            case _ if not statement.about.inside:
                raise UnsupportedError(f"The page runs no {statement.about.name}; that needs {ALLOW_FILES}.")

    def _check_model(self, statement: statements.CreateModel) -> None:
        """Refuse models that run code in any case, and those of files where files are."""
        uri = statement.uri.value if isinstance(statement.uri, syntax.Text) else ""
        options = {option.name: option.value for option in statement.options}
        trusts = isinstance(trust := options.get("trust"), syntax.Word) and trust.value.lower() == "true"
        if uri.lower().startswith("python:") or trusts:
            raise UnsupportedError(
                "The page loads no model that runs code of its own: create it in Python or a prompt."
            )
        if self.allow_files:
            return
        weights, classes = options.get("weights"), options.get("classes")
        named = isinstance(weights, syntax.Word) and weights.value.lower() == "random"
        listed = isinstance(classes, syntax.ListValue) or (
            isinstance(classes, syntax.Text | syntax.Word) and classes.value == "imagenet"
        )
        is_zoo = uri.lower().startswith(_ZOOS)
        if not is_zoo or not (weights is None or named) or not (classes is None or listed):
            raise UnsupportedError(
                f"The page creates models of torchvision: and timm: with random weights; files need {ALLOW_FILES}, and "
                "a model that is created elsewhere can be used here."
            )

    def _check_source(self, source: syntax.Source) -> None:
        match source:
            case syntax.PathSource(path):
                if not self._knows([path]):
                    raise UnsupportedError(
                        f"The database has no image {path!r}: drop the file on the page, or start it with "
                        f"{ALLOW_FILES}."
                    )
            case syntax.SelectSource(embedded=embedded) if embedded:
                raise UnsupportedError(
                    "The page takes no SELECT of images with a statement inside: it could name any file. CREATE IMAGES "
                    f"in a prompt, or use {ALLOW_FILES}."
                )
            case syntax.SelectSource(sql):
                require_reading(self._connection, sql, steady=True)
                columns, rows = self._answer(sql)
                place = next((columns.index(name) for name in _PATHS if name in columns), None)
                if place is None and len(columns) == 1 and columns != ["image_id"]:
                    place = 0
                if place is not None and not self._knows([row[place] for row in rows if isinstance(row[place], str)]):
                    raise UnsupportedError(
                        f"The SELECT names image files that the database does not have; that needs {ALLOW_FILES}."
                    )

    def _check_windows(self, statement: statements.ExplainOcclude) -> None:
        """Refuse masks and labels that are files: windows come from the database."""
        no_file = UnsupportedError(f"The page reads no mask and no labels from files; that needs {ALLOW_FILES}.")
        if any(option.name.lower() == "mask" for option in statement.options):
            raise no_file
        match statement.windows.source if statement.windows is not None else None:
            case syntax.SelectSource(embedded=embedded) if embedded:
                raise UnsupportedError(
                    "The page takes no windows from a SELECT with a statement inside: keep them in a table first, or "
                    f"use {ALLOW_FILES}."
                )
            case syntax.SelectSource(sql):
                require_reading(self._connection, sql, steady=True)
                columns, rows = self._answer(sql)
                places = [columns.index(name) for name in _MASKS if name in columns]
                if any(isinstance(row[place], str) for row in rows for place in places):
                    raise no_file

    def _answer(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return the columns of a SELECT, in lower case, and its rows."""
        found = self._connection.execute(sql)
        return [str(column[0]).lower() for column in found.description or ()], found.fetchall()

    def _knows(self, paths: list[str]) -> bool:
        """Return whether all paths are of images of the database, or what one of its image sets was made from."""
        wanted = sorted({bare_path(path) for path in paths} | set(paths))
        known = self._connection.execute(
            "SELECT path FROM images WHERE list_contains($wanted, path) UNION "
            "SELECT source FROM image_sets WHERE list_contains($wanted, source)",
            {"wanted": wanted},
        ).fetchall()
        held = {str(path) for (path,) in known}
        return all(path in held or bare_path(path) in held for path in paths)
