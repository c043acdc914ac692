"""What the SQL around a statement leaves of it: DuckDB's tree read, DuckDB asked which rows meet a condition.

Between `embedded`, which runs the statement that is left, and `obeql.planner.pushdown`, which decides what may be left
out. Where anything here cannot be told, everything is left: DuckDB applies the conditions to the rows in any case.
"""

from __future__ import annotations

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
from obeql.planner.binding.settings import ALL_GPUS
from obeql.planner.grid import show_on
from obeql.planner.logical.plan import ScoreCells, find, grids_of
from obeql.planner.physical.refinement import TOP_CELLS_CONFIDENCE
from obeql.planner.pushdown.facts import Condition, MapFacts, PredictionJoin, Restriction
from obeql.planner.pushdown.query import Reading, Speaker, read_query
from obeql.planner.pushdown.rules import restricted
from obeql.planner.regions import RegionGrid
from obeql.session.call import Call
from obeql.session.derived_tables import DerivedTables, Rows, sql_beside
from obeql.session.query_trees import QueryTrees, marked_values
from obeql.store import Store

__all__ = ["AskedRows", "Left", "Pushdown", "left_of"]

#: Aggregates whose answer may depend on the order of the rows, or on chance.
_OF_ANY_ORDER = frozenset(
    "any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_min array_agg first "  # noqa: SIM905
    "group_concat last list listagg max_by min_by mode reservoir_quantile string_agg".split()
)
#: The images that are left of a statement's source.
_IMAGES_LEFT = syntax.Parameter("images", None)

#: How many numbers from the next one on a run may have, as others may begin runs meanwhile.
_RUNS_AHEAD = 1000

_RUN_IDS = """
SELECT run_id FROM obeql_store.live_runs WHERE status = 'interrupted'
UNION ALL SELECT unnest(range(next, next + {ahead})) FROM (
    SELECT coalesce(max(run_id), 0) + 1 AS next FROM obeql_store.run_rows
)
"""

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
    """What SQL, the `query`, asks of the rows of a statement, with the values of its parameters by DuckDB's names."""

    reading: Reading
    values: Mapping[str, Any]
    query: str = ""

    @property
    def says_something(self) -> bool:
        """Return whether there is anything to push down, or to say why not."""
        reading = self.reading
        return bool(reading.conditions or reading.joins or reading.top or reading.groups)

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
        self._trees = QueryTrees(store)

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
        trees = ((part == query, self._trees.tree(part)) for part in _selects_in(query))
        is_whole, tree = next((found for found in trees if found[1] is not None), (False, None))
        if tree is None:
            return {}
        predictions = frozenset(each.table for each in embedded if isinstance(each.statement, statements.Predict))
        functions = self._functions("scalar")
        aggregates = self._functions("aggregate") - _OF_ANY_ORDER
        speaker = Speaker(
            self._trees.text,
            lambda name: name.lower() in functions,
            lambda name: name.lower() in aggregates,
            lambda expression: self._trees.value(expression, values or {}),
        )
        found = {}
        for each, key in zip(embedded, written, strict=True):
            if not isinstance(each.statement, statements.ExplainOcclude):
                continue
            if written.count(key) > 1:
                reading = Reading(why_not="the same statement stands twice in the SQL")
            else:
                reading = read_query(tree, each.table, columns, predictions, speaker)
            if not is_whole and reading.groups is not None:
                reading = replace(reading, groups="rows that are stored keep no further column for the error")
            found[each.table] = AskedRows(reading, values or {}, query)
        return found

    def restriction(self, bound: BoundExplain, asked: AskedRows, tables: DerivedTables) -> Restriction:
        """Return what the SQL leaves of a statement; `tables` are the rows that are there, as of predictions."""
        reading, grids = asked.reading, grids_of(bound.logical)
        if any(isinstance(grid, RegionGrid) for grid in grids):
            return Restriction(left=(("", "windows that are listed one by one are taken as they are"),))
        named = {
            *(join.table for join in reading.joins),
            *(name for each in reading.conditions for name in each.tables),
        }
        predicted = {name: rows for name in named if (rows := tables.get(name)) is not None}
        asker = _Asker(self._store, self._views, reading, asked.values, predicted)
        joined = {join: asker.joined(join) for join in reading.joins if join.table in predicted}
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
            approx=bound.approx,
            n_classes=score.classes.n_maps(bound.model.n_classes),
            is_alone=not bound.workers and bound.cluster is None and bound.device != ALL_GPUS,
            search_confidence=TOP_CELLS_CONFIDENCE,
            top=reading.top,
            groups=reading.groups,
            unread=next((f"{sql}: {why}" if sql else why for sql, why in reading.left), ""),
            joined=joined,
            predicted=frozenset(predicted),
            run_ids=[run_id for (run_id,) in self._rows(_RUN_IDS.format(ahead=_RUNS_AHEAD), None)],
        )
        found = restricted(facts, reading.conditions, asker.holds, bound.disabled)
        return replace(found, left=(*found.left, *reading.left, *later))

    # ---- what is asked of DuckDB ---------------------------------------------------------------------------------

    def _columns(self, rows: Rows) -> frozenset[str]:
        """Return the names of the columns of rows."""
        found = self._store.on_connection(rows)
        names = found.column_names if isinstance(found, pa.Table) else found.columns
        return frozenset(name.lower() for name in names)

    def _functions(self, kind: str) -> frozenset[str]:
        """Return the functions of a kind that always give the same answer to the same question.

        Operators do, too, where DuckDB says so of one query only: + and - of times heed the time zone that is set.
        """
        rows = self._rows(
            "SELECT lower(function_name) FROM duckdb_functions() GROUP BY 1 "
            "HAVING bool_and(function_type = ? AND (coalesce(stability, 'CONSISTENT') = 'CONSISTENT' OR "
            "(stability = 'CONSISTENT_WITHIN_QUERY' AND NOT regexp_matches(function_name, '\\w'))))",
            [kind],
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

    def __init__(
        self, store: Store, views: str, reading: Reading, values: Mapping[str, Any], predicted: Mapping[str, Rows]
    ) -> None:
        self._predicted = predicted
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
        named = ", ".join(f'{_quoted(name)} AS (FROM "{of}")' for name, of in condition.named)
        sql = f'SELECT obeql_place FROM "#rows" AS {_quoted(self._reading.alias)} WHERE {condition.sql}'
        sql = f"WITH {named} {sql}" if named else sql
        try:
            return [row for (row,) in self._ask(sql, {"#rows": lambda _: table, **self._predicted})]
        except duckdb.Error:
            return range(n_rows)

    def joined(self, join: PredictionJoin) -> frozenset[Any]:
        """Return the values by which predictions that meet their conditions are joined."""
        alias = _quoted(dict(self._reading.aliases)[join.table])
        where = " AND ".join(condition.sql for condition in join.conditions) or "true"
        sql = f'SELECT DISTINCT {join.column} FROM (FROM "{join.table}") AS {alias} WHERE {where}'
        try:
            return frozenset(value for (value,) in self._ask(sql, self._predicted))
        except duckdb.Error:
            everything = f'SELECT DISTINCT {join.column} FROM "{join.table}"'
            return frozenset(value for (value,) in self._ask(everything, self._predicted))

    def _ask(self, sql: str, tables: Mapping[str, Rows]) -> list[tuple[Any, ...]]:
        values = marked_values(sql, self._values)
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
    if restriction.top_cells is not None:
        left = replace(left, accuracy=None, top_cells=syntax.TopCells(restriction.top_cells, span=statement.span))
        said.append(f"TOP {restriction.top_cells} CELLS")
    if restriction.aggregates is not None:
        said.append(restriction.aggregates.written)
    columns = "*"
    if restriction.region is not None:
        left = replace(left, region=syntax.Region(restriction.region, span=statement.span))
        said.append(f"REGION {restriction.region}")
        columns = _numbered_as_before(bound, restriction.region)
    note = f"what the SQL around it needs: {', '.join(said)}" if said else ""
    return Left(left, replace(call, given=given, note=note, aggregates=restriction.aggregates), columns)


def _numbered_as_before(bound: BoundExplain, region: tuple[int, int, int, int]) -> str:
    """Return the columns of `windows` with row and col counted as in the map that is not restricted."""
    top, left, _, _ = region
    rows, cols = [], []
    for grid in grids_of(bound.logical):
        patch = f"WHEN '{show_on(grid.size, grid.patch)}' THEN"
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
