"""Read DuckDB's tree of a query: which conditions every row of one table has to meet.

After `tree`, which says where the table stands; before the rules. What is not known here is not pushed down: a table
that stands in a place from which conditions may not be moved has none, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from obeql.planner.pushdown.aims import GroupAim, RowReader, TopAim, read_groups, read_top
from obeql.planner.pushdown.facts import JOINED_COLUMNS, Condition, PredictionJoin
from obeql.planner.pushdown.tree import Place, Tree, conjuncts, ctes, keeps, name_in_with, nodes, place_of, same_name

__all__ = ["Columns", "Reading", "Speaker", "read_query"]

#: The columns of each statement inside the SQL, by the name of its table.
Columns = Mapping[str, frozenset[str]]

#: Kinds of expressions of which a row alone decides, and those of a query over predictions beside them.
_PLAIN = frozenset(
    "CONJUNCTION COMPARISON OPERATOR BETWEEN CONSTANT COLUMN_REF FUNCTION CAST TYPE CASE PARAMETER COLLATE".split()  # noqa: SIM905
)
_IN_QUERY = _PLAIN | {"SUBQUERY", "STAR"}
_NOT_ALONE = "it is not about one window alone, or may answer differently each time"


@dataclass(frozen=True, slots=True)
class Speaker:
    """What DuckDB says of expressions: their text, and whether a function gives the same answer each time.

    `is_steady` is of functions of a row, `is_steady_aggregate` of those of many rows, whatever their order; `value`
    is that of an expression without columns.
    """

    text: Callable[[Tree], str]
    is_steady: Callable[[str], bool]
    is_steady_aggregate: Callable[[str], bool] = lambda name: False
    value: Callable[[Tree], object] = lambda expression: None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a query says of the rows of one table, which it knows as `alias`; `why_not` is why it says nothing.

    `left` are conditions that involve the table and cannot be moved, with the reason.
    """

    alias: str = ""
    conditions: tuple[Condition, ...] = ()
    joins: tuple[PredictionJoin, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    why_not: str = ""
    #: how the predictions of `joins` are known
    aliases: tuple[tuple[str, str], ...] = ()
    #: which rows the SELECT keeps, and what it makes of them; or why that cannot be used
    top: TopAim | str | None = None
    groups: GroupAim | str | None = None


@dataclass(slots=True)
class _Reader:
    """Reads one query for one table, whose place in it is known."""

    tree: Tree
    table: str
    place: Place
    columns: Columns
    speaker: Speaker
    #: how the tables that are joined are known: this one, and those of predictions
    aliases: dict[str, str]
    #: names of WITH that stand for a table of predictions
    named: dict[str, str]
    found: dict[str, list[Condition]] = field(default_factory=dict)
    left: list[tuple[str, str]] = field(default_factory=list)
    merged: frozenset[str] = frozenset()

    def take(self, expression: Tree | None, of: frozenset[str], reports: bool = True) -> None:
        """Note the conditions that AND joins in an expression, as far as they are about one of the tables `of`."""
        for part in conjuncts(expression):
            text = self.speaker.text(part)
            queries = [node for node in nodes(part) if node.get("class") == "SUBQUERY"]
            if queries:
                why_not = self._take_query(part, text, queries)
                if why_not:
                    self.left.append((text, why_not))
                continue
            owners = _owners(part, self.aliases, self.columns, self.merged)
            if owners is None or len(owners) > 1 or _unfit(part, self.speaker):
                if reports and (owners is None or self.table in owners):
                    self.left.append((text, _NOT_ALONE))
            elif owners and owners <= of:
                (owner,) = owners
                self.found.setdefault(owner, []).append(Condition(text, _columns_of(part)))

    def _take_query(self, part: Tree, text: str, queries: list[Tree]) -> str:
        """Note a condition with queries inside that read nothing but predictions; or return why it stays."""
        read: dict[str, str] = {}
        for node in (each for query in queries for each in nodes(query["subquery"])):
            if "from_table" in node and node.get("type") == "SELECT_NODE" and _is_cut_anyhow(node):
                return _NOT_ALONE
            if node.get("type") != "BASE_TABLE":
                continue
            name = str(node["table_name"])
            table = self.named.get(name.lower(), name)
            if table == self.table or table not in self.columns:
                return "its query reads other tables than predictions"
            read[name] = table
        outer = self._outer_columns(part, queries, frozenset(read.values()))
        if outer is None or not read or _unfit(part, self.speaker, _IN_QUERY):
            return _NOT_ALONE
        with_ = tuple((name, table) for name, table in read.items() if name != table)
        self.found.setdefault(self.table, []).append(Condition(text, outer, frozenset(read.values()), with_))
        return ""

    def _outer_columns(self, part: Tree, queries: list[Tree], read: frozenset[str]) -> frozenset[str] | None:
        """Return the columns of the table that a condition with queries inside is about; None where one is unknown.

        What is taken for the query's own, and is not, is a column that is missing when DuckDB is asked.
        """
        within = [node for query in queries for node in nodes(query["subquery"])]
        named = {str(node[key]).lower() for node in within for key in ("alias", "table_name") if node.get(key)}
        own = named.union(*(self.columns[each] for each in read))
        mine, alias = self.columns[self.table], self.place.alias.lower()
        inside = {id(node) for node in within}
        found = set()
        for node in (each for each in nodes(part) if each.get("class") == "COLUMN_REF"):
            names = [str(name).lower() for name in node["column_names"]]
            if id(node) in inside and names[0] in (own if len(names) == 1 else named):
                continue
            if len(names) > 2 or (len(names) == 2 and names[0] != alias) or names[-1] not in mine:
                return None
            if len(names) == 1 and (names[0] in self.merged or len(self._owners_of(names[0])) > 1):
                return None
            found.add(names[-1])
        return frozenset(found)

    def columns_of(self, expression: Tree) -> frozenset[str] | None:
        """Return the columns of an expression over the rows of the table alone; None of any other."""
        owners = _owners(expression, self.aliases, self.columns, self.merged)
        return (
            _columns_of(expression)
            if owners is not None and owners <= {self.table} and not _unfit(expression, self.speaker)
            else None
        )

    def _owners_of(self, column: str) -> list[str]:
        return [table for table in self.aliases if column in self.columns[table]]


def read_query(tree: Tree, table: str, columns: Columns, predictions: frozenset[str], speaker: Speaker) -> Reading:
    """Return what a query says of the rows of `table`; `predictions` are the tables among `columns` of PREDICT."""
    place = place_of(tree, table)
    if isinstance(place, str):
        return Reading(why_not=place)
    if place.select.get("sample"):
        return Reading(why_not="a sample is taken before the condition is asked")
    joined = {
        other: found
        for other in sorted(predictions - {table})
        if isinstance(found := place_of(tree, other), Place) and found.select is place.select
    }
    reader = _Reader(
        tree,
        table,
        place,
        {name: its for name, its in columns.items() if name == table or name in predictions},
        speaker,
        {table: place.alias, **{other: found.alias for other, found in joined.items()}},
        _named_predictions(tree, predictions),
    )
    reader.merged = _merged_columns(place.select.get("from_table"), reader.aliases)
    shared: dict[str, str] = {}
    for join, side in reversed(place.joins):  # the innermost first
        here = {
            other: column for other, found in joined.items() if (column := _shared_column(join, side, place, found))
        }
        shared |= here
        if _asks_before(join, side):
            reader.take(join.get("condition"), frozenset([table, *here]), reports=False)
        if not keeps(join, side):
            reader.left.append(("", "an outer join may keep rows that have no window"))
            break
    else:
        reader.take(place.select.get("where_clause"), frozenset(reader.aliases))
    joins = tuple(PredictionJoin(other, column, tuple(reader.found.get(other, ()))) for other, column in shared.items())
    names = tuple((join.table, reader.aliases[join.table]) for join in joins)
    rows = RowReader(speaker.text, reader.columns_of, speaker.value)
    return Reading(
        place.alias,
        tuple(reader.found.get(table, ())),
        joins,
        tuple(reader.left),
        aliases=names,
        top=read_top(place, rows),
        groups=read_groups(tree["statements"][0]["node"], place, rows),
    )


def _asks_before(join: Tree, side: str) -> bool:
    """Return whether a condition of ON that is about a row of this side alone leaves the row out where it fails."""
    kinds = {"left": ("INNER", "RIGHT", "SEMI"), "right": ("INNER", "LEFT", "SEMI", "ANTI")}
    return not join.get("sample") and join.get("ref_type") == "REGULAR" and join.get("join_type") in kinds[side]


def _shared_column(join: Tree, side: str, place: Place, other: Place) -> str | None:
    """Return the column by which a join demands that a row has a partner of the same image in another table."""
    if not any(second is join and second_side != side for second, second_side in other.joins):
        return None
    kinds = ("INNER", "SEMI") if side == "left" else ("INNER",)
    if join.get("join_type") not in kinds or join.get("ref_type") != "REGULAR":
        return None
    using = {str(name).lower() for name in join.get("using_columns") or ()}
    equal = {
        column
        for part in conjuncts(join.get("condition"))
        for column in JOINED_COLUMNS
        if _equates(part, (place.alias, column), (other.alias, column))
    }
    # With a third table on either side of USING, the column may be that one's.
    direct = len(place.joins) == 1 and len(other.joins) == 1
    shared = (using if direct else set()) | equal
    return next((column for column in JOINED_COLUMNS if column in shared), None)


def _equates(part: Tree, one: tuple[str, str], other: tuple[str, str]) -> bool:
    if part.get("type") != "COMPARE_EQUAL":
        return False
    sides = [tuple(str(name).lower() for name in part[side].get("column_names", ())) for side in ("left", "right")]
    wanted = [tuple(name.lower() for name in names) for names in (one, other)]
    return sorted(sides) == sorted(wanted)


# ---- expressions ----------------------------------------------------------------------------------------------------


def _merged_columns(tables: Tree | None, aliases: Mapping[str, str]) -> frozenset[str]:
    """Return the columns of USING where other tables are joined than those of statements: their types may differ."""
    known = {alias.lower() for alias in aliases.values()}
    joined = list(_joined(tables))
    if all(str(each.get("alias") or each.get("table_name", "")).lower() in known for each in joined):
        return frozenset()
    return frozenset(str(name).lower() for node in nodes(tables) for name in node.get("using_columns") or ())


def _joined(tables: Tree | None) -> Iterator[Tree]:
    """Yield what FROM joins."""
    if tables is not None and tables.get("type") == "JOIN":
        yield from _joined(tables["left"])
        yield from _joined(tables["right"])
    elif tables is not None:
        yield tables


def _owners(part: Tree, aliases: Mapping[str, str], columns: Columns, merged: frozenset[str]) -> set[str] | None:
    """Return the tables that an expression is about; None where a column is of none, or of one unknown."""
    found = set()
    for node in nodes(part):
        if node.get("class") != "COLUMN_REF":
            continue
        names = [str(name).lower() for name in node["column_names"]]
        if len(names) == 1:
            if names[0] in merged:
                return None
            of = [table for table in aliases if names[0] in columns[table]]
        else:
            of = [t for t, alias in aliases.items() if len(names) == 2 and same_name(alias, names[0])]
            of = [table for table in of if names[1] in columns[table]]
        if not of:
            return None
        # One that several tables have is that of USING, the same in all; DuckDB has refused others as ambiguous.
        found.add(of[0])
    return found


def _columns_of(part: Tree) -> frozenset[str]:
    found = [node for node in nodes(part) if node.get("class") == "COLUMN_REF"]
    return frozenset(str(node["column_names"][-1]).lower() for node in found)


def _unfit(part: Tree, speaker: Speaker, kinds: frozenset[str] = _PLAIN) -> bool:
    """Return whether an expression may not be asked beforehand: it is of another kind than these, or has chance."""
    for node in nodes(part):
        kind = node.get("class")
        if kind is not None and kind not in kinds:
            return True
        if kind != "FUNCTION":
            continue
        name = str(node["function_name"])
        steady = speaker.is_steady(name) or (kinds is _IN_QUERY and speaker.is_steady_aggregate(name))
        if node.get("schema") or not steady:
            return True
    return False


def _is_cut_anyhow(select: Tree) -> bool:
    """Return whether which rows a SELECT has may differ each time: a sample, a LIMIT without an order."""
    modifiers = {each.get("type") for each in select.get("modifiers") or ()}
    limits = any("LIMIT" in str(each) for each in modifiers)
    return bool(select.get("sample")) or (limits and "ORDER_MODIFIER" not in modifiers)


def _named_predictions(tree: Tree, predictions: frozenset[str]) -> dict[str, str]:
    """Return the names of WITH, in lower case, that stand for predictions as they are."""
    names = {name.lower(): table for table in predictions if (name := name_in_with(tree, table)) is not None}
    defined = [str(entry["key"]).lower() for node in nodes(tree) for entry in ctes(node)]
    return {name: table for name, table in names.items() if defined.count(name) == 1}
