"""What the SQL around a statement leaves of it: DuckDB's tree read, DuckDB asked which rows meet a condition.

Between `embedded`, which runs the statement that is left, and `obeql.planner.pushdown`, which decides what may be left
out. Where anything here cannot be told, everything is left: DuckDB applies the conditions to the rows in any case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa

from obeql.grammar import statements, syntax
from obeql.grammar.scanner import scan
from obeql.planner import BoundExplain, ImageRecord, class_names
from obeql.planner.binding.image_paths import image_name
from obeql.planner.binding.labels import labels_of
from obeql.planner.logical.plan import ScoreCells, find, grids_of
from obeql.planner.pushdown.facts import Condition, MapFacts, PredictionJoin, Restriction
from obeql.planner.pushdown.query import Reading, Speaker, read_query
from obeql.planner.pushdown.rules import restricted
from obeql.planner.regions import RegionGrid
from obeql.session.call import Call
from obeql.session.derived_tables import DerivedTables, Rows, sql_beside
from obeql.store import Store

__all__ = ["AskedRows", "Left", "Pushdown", "left_of"]

#: The images that are left of a statement's source.
_IMAGES_LEFT = syntax.Parameter("images", None)

_STORED = """
SELECT given.place, known.image_id, known.label
FROM "#given" AS given JOIN (
    FROM obeql_store.image_rows QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY entry_id DESC) = 1
) AS known ON coalesce(known.path, chr(1) || known.key) = given.handle
"""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a statement: its tree, what it is run with, and which columns its rows have of `windows`."""

    statement: statements.ExplainOcclude
    call: Call
    columns: str = "*"


@dataclass(frozen=True, slots=True)
class AskedRows:
    """What SQL asks of the rows of a statement, with the values of its parameters by the names DuckDB knows."""

    reading: Reading
    values: Mapping[str, Any]

    @property
    def says_something(self) -> bool:
        """Return whether there is anything to push down, or to say why not."""
        return bool(self.reading.conditions or self.reading.joins)

    @property
    def unsaid(self) -> tuple[tuple[str, str], ...]:
        """Return what cannot be pushed down, and why."""
        whole = (("", self.reading.why_not),) if self.reading.why_not else ()
        return (*whole, *self.reading.left)


class Pushdown:
    """Reads SQL and asks DuckDB, on the connection of users' SQL."""

    def __init__(self, store: Store, views: str) -> None:
        self._store = store
        self._views = views

    def readings(
        self,
        query: str,
        values: Mapping[str, Any] | None,
        embedded: Sequence[syntax.Embedded],
        empty: Mapping[str, Rows],
    ) -> dict[str, AskedRows]:
        """Return what a query says of each EXPLAIN OCCLUDE inside it, by its table.

        `empty` are tables of the columns that their rows will have. Nothing is said where the query cannot be read.
        """
        written = [(each.statement, syntax.parameters_of(each.statement)) for each in embedded]
        columns = {name: self._columns(rows) for name, rows in empty.items()}
        tree = next((tree for part in _selects_in(query) if (tree := self._tree(part)) is not None), None)
        if tree is None:
            return {}
        predictions = frozenset(each.table for each in embedded if isinstance(each.statement, statements.Predict))
        functions = self._steady_functions()
        speaker = Speaker(self._text, lambda name: name.lower() in functions)
        found = {}
        for each, key in zip(embedded, written, strict=True):
            if not isinstance(each.statement, statements.ExplainOcclude):
                continue
            if written.count(key) > 1:
                reading = Reading(why_not="the same statement stands twice in the SQL")
            else:
                reading = read_query(tree, each.table, columns, predictions, speaker)
            found[each.table] = AskedRows(reading, values or {})
        return found

    def restriction(self, bound: BoundExplain, asked: AskedRows, tables: DerivedTables) -> Restriction:
        """Return what the SQL leaves of a statement; `tables` are the rows that are there, as of predictions."""
        reading, grids = asked.reading, grids_of(bound.logical)
        if any(isinstance(grid, RegionGrid) for grid in grids):
            return Restriction(left=(("", "windows that are listed one by one are taken as they are"),))
        asker = _Asker(self._store, self._views, reading, asked.values)
        predicted = {join.table: rows for join in reading.joins if (rows := tables.get(join.table)) is not None}
        joined = {join: asker.joined(join, predicted) for join in reading.joins if join.table in predicted}
        later = [
            (each.column, "the predictions are made when the SQL runs") for each in reading.joins if each not in joined
        ]
        (score, *_) = find(bound.logical, ScoreCells)
        known = score.classes.known(bound.model.n_classes)
        names = class_names(bound.model)
        columns, places = self._image_columns(bound)
        facts = MapFacts(
            images=columns,
            places=places,
            classes=None if known is None else [(number, names[number]) for number in known],
            grids=grids,
            estimates=bound.estimates,
            timed=bound.within_s is not None,
            joined=joined,
        )
        found = restricted(facts, reading.conditions, asker.holds, bound.disabled)
        return replace(found, left=(*found.left, *reading.left, *later))

    # ---- what is asked of DuckDB ---------------------------------------------------------------------------------

    def _columns(self, rows: Rows) -> frozenset[str]:
        """Return the names of the columns of rows."""
        found = self._store.on_connection(rows)
        names = found.column_names if isinstance(found, pa.Table) else found.columns
        return frozenset(name.lower() for name in names)

    def _tree(self, query: str) -> dict[str, Any] | None:
        rows = self._rows("SELECT json_serialize_sql(?)", [query])
        tree: dict[str, Any] = json.loads(rows[0][0])
        return None if tree["error"] else tree

    def _text(self, expression: dict[str, Any]) -> str:
        tree = self._tree("SELECT 1")
        assert tree is not None
        tree["statements"][0]["node"]["select_list"] = [expression]
        ((text,),) = self._rows("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)])
        return str(text).removeprefix("SELECT ")

    def _steady_functions(self) -> frozenset[str]:
        """Return the functions that always give the same answer to the same question."""
        rows = self._rows(
            "SELECT lower(function_name) FROM duckdb_functions() GROUP BY 1 "
            "HAVING bool_and(function_type = 'scalar' AND stability = 'CONSISTENT')",
            None,
        )
        return frozenset(name for (name,) in rows)

    def _rows(self, sql: str, values: Any) -> list[tuple[Any, ...]]:
        found = self._store.on_connection(lambda connection: connection.sql(sql, params=values).fetchall())
        return list(found)

    def _image_columns(self, bound: BoundExplain) -> tuple[dict[str, Sequence[Any]], list[int]]:
        """Return the columns of `windows` that the images decide, and which image each row is of."""
        images = bound.images
        handles = [image.path if image.path is not None else f"\1{image.key}" for image in images]
        given = pa.table({"place": pa.array(range(len(images)), pa.int64()), "handle": pa.array(handles, pa.string())})
        rows = self._store.on_connection(
            lambda connection: sql_beside(connection, _STORED, {"#given": lambda _: given}).fetchall()
        )
        stored = {place: (image_id, label) for place, image_id, label in rows}
        columns: dict[str, list[Any]] = {name: [] for name in ("image", "label", "path", "image_id", "model")}
        places = []
        for place, image in enumerate(images):
            known_id, known_label = stored.get(place, (None, None))
            for label in labels_of(image) or (known_label,):
                places.append(place)
                columns["image"].append(_name(image))
                columns["label"].append(label)
                columns["path"].append(image.path)
                columns["image_id"].append(known_id)
                columns["model"].append(bound.model.name)
        return dict(columns), places


class _Asker:
    """Asks which rows meet a condition, in DuckDB's own words."""

    def __init__(self, store: Store, views: str, reading: Reading, values: Mapping[str, Any]) -> None:
        self._store = store
        self._views = views
        self._reading = reading
        self._values = values

    def holds(self, condition: Condition, columns: Mapping[str, Sequence[Any]]) -> Sequence[int]:
        """Return the places of the rows that meet a condition; all where DuckDB cannot tell, as of a bad cast."""
        n_rows = len(next(iter(columns.values())))
        types = self._types()
        arrays = {name: pa.array(columns[name], types[name]) for name in sorted(condition.columns)}
        table = pa.table({"obeql_place": pa.array(range(n_rows), pa.int64()), **arrays})
        sql = f'SELECT obeql_place FROM "#rows" AS {_quoted(self._reading.alias)} WHERE {condition.sql}'
        try:
            return [row for (row,) in self._ask(sql, {"#rows": lambda _: table})]
        except duckdb.Error:
            return range(n_rows)

    def joined(self, join: PredictionJoin, predicted: Mapping[str, Rows]) -> frozenset[Any]:
        """Return the values by which predictions that meet their conditions are joined."""
        alias = _quoted(dict(self._reading.aliases)[join.table])
        where = " AND ".join(condition.sql for condition in join.conditions) or "true"
        sql = f'SELECT DISTINCT {join.column} FROM (FROM "{join.table}") AS {alias} WHERE {where}'
        try:
            return frozenset(value for (value,) in self._ask(sql, predicted))
        except duckdb.Error:
            everything = f'SELECT DISTINCT {join.column} FROM "{join.table}"'
            return frozenset(value for (value,) in self._ask(everything, predicted))

    def _ask(self, sql: str, tables: Mapping[str, Rows]) -> list[tuple[Any, ...]]:
        marks = {sql[token.start + 1 : token.end] for token in scan(sql) if token.kind == "parameter"}
        values = {name: value for name, value in self._values.items() if name in marks} or None
        found = self._store.on_connection(lambda connection: sql_beside(connection, sql, tables, values).fetchall())
        return list(found)

    def _types(self) -> dict[str, pa.DataType]:
        """Return the types of the columns of `windows`."""
        query = f"FROM {self._views}.windows LIMIT 0"
        schema = self._store.on_connection(lambda connection: connection.sql(query).to_arrow_table().schema)
        return dict(zip(schema.names, schema.types, strict=True))


def left_of(
    statement: statements.ExplainOcclude, bound: BoundExplain, restriction: Restriction, call: Call
) -> Left | None:
    """Return what a restriction leaves of a statement; None where it leaves nothing."""
    if restriction.is_empty:
        return None
    given: dict[syntax.Parameter, Any] = {}
    left = statement
    said = []
    if restriction.classes is not None:
        ids = tuple(syntax.Number(number, span=statement.span) for number in restriction.classes)
        left = replace(left, selector=syntax.ForClasses(ids, span=statement.span))
        said.append(f"classes {', '.join(map(str, restriction.classes))}")
    if restriction.images is not None and len(restriction.images) < len(bound.images):
        given[_IMAGES_LEFT] = [image for place, image in enumerate(bound.images) if place in restriction.images]
        left = replace(left, source=syntax.ParameterSource(_IMAGES_LEFT, span=statement.source.span))
        said.append(f"{len(restriction.images)} of {len(bound.images)} images")
    columns = "*"
    if restriction.region is not None:
        left = replace(left, region=syntax.Region(*restriction.region, span=statement.span))
        said.append(f"REGION {restriction.region}")
        columns = _numbered_as_before(bound, restriction.region)
    note = f"what the SQL around it needs: {', '.join(said)}" if said else ""
    return Left(left, replace(call, given=given, note=note), columns)


def _numbered_as_before(bound: BoundExplain, region: tuple[int, int, int, int]) -> str:
    """Return the columns of `windows` with row and col counted as in the map that is not restricted."""
    top, left, _, _ = region
    rows, cols = [], []
    for grid in grids_of(bound.logical):
        patch = f"WHEN '{grid.patch[0]}x{grid.patch[1]}' THEN"
        rows.append(f"{patch} {sum(start < top for start in grid.rows.starts)}")
        cols.append(f"{patch} {sum(start < left for start in grid.cols.starts)}")
    shifted = [
        f'("{name}" + CASE patch {" ".join(cases)} END)::BIGINT AS "{name}"'
        for name, cases in (("row", rows), ("col", cols))
    ]
    return f"* REPLACE ({', '.join(shifted)})"


def _name(image: ImageRecord) -> str | None:
    return image.key if image.path is None else image_name(image.path)


def _quoted(alias: str) -> str:
    return '"' + (alias or "obeql_rows").replace('"', '""') + '"'


def _selects_in(query: str) -> Iterator[str]:
    """Yield the query, then the SELECT of a statement that stores its rows, such as `CREATE TABLE .. AS`."""
    yield query
    opened = []
    for token in scan(query):
        shown = query[token.start : token.end].lower()
        if shown == "(":
            opened.append(token.end)
        elif shown == ")" and opened:
            opened.pop()
        elif token.kind == "word" and shown in ("select", "with", "from") and token.start:
            yield query[token.start : _end(query, token.start) if opened else len(query)]
            return


def _end(query: str, start: int) -> int:
    """Return where the parenthesis is closed inside of which a text starts."""
    depth = 0
    for token in scan(query, start):
        shown = query[token.start : token.end]
        depth += (shown == "(") - (shown == ")")
        if depth < 0:
            return token.start
    return len(query)
