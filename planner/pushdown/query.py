"""Read DuckDB's tree of a query: which conditions every row of one table has to meet.

Comes before the rules. The tree is that of `json_serialize_sql`, of which DuckDB 1.5 and 2.0 write a few parts
differently. What is not known here is not pushed down: a table that stands in a place from which conditions may not be
moved has none, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from obeql.planner.pushdown.facts import JOINED_COLUMNS, Condition, PredictionJoin

__all__ = ["Columns", "Reading", "Speaker", "read_query"]

Tree = dict[str, Any]
#: The columns of each statement inside the SQL, by the name of its table.
Columns = Mapping[str, frozenset[str]]

#: Kinds of expressions of which a row alone decides.
_PLAIN = frozenset(
    "CONJUNCTION COMPARISON OPERATOR BETWEEN CONSTANT COLUMN_REF FUNCTION CAST CASE PARAMETER COLLATE".split()  # noqa: SIM905
)
#: Joins that keep the rows of one side as they are: a condition on them may be asked before.
_KEEPS = {"left": ("INNER", "LEFT", "SEMI", "ANTI"), "right": ("INNER", "RIGHT")}


@dataclass(frozen=True, slots=True)
class Speaker:
    """What DuckDB says of expressions: their text, and whether a function gives the same answer each time."""

    text: Callable[[Tree], str]
    is_steady: Callable[[str], bool]


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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a table stands: the SELECT around it, the joins on the way (outermost first, with the side), its alias."""

    select: Tree
    joins: tuple[tuple[Tree, str], ...]
    alias: str


def read_query(tree: Tree, table: str, columns: Columns, predictions: frozenset[str], speaker: Speaker) -> Reading:
    """Return what a query says of the rows of `table`; `predictions` are the tables among `columns` of PREDICT."""
    place = _place(tree, table)
    if isinstance(place, str):
        return Reading(why_not=place)
    if any(not _keeps(join, side) for join, side in place.joins):
        return Reading(why_not="an outer join may keep rows that have no window")
    if place.select.get("sample"):
        return Reading(why_not="a sample is taken before the condition is asked")
    aliases = {table: place.alias}
    joined = []
    for other in sorted(predictions - {table}):
        found = _place(tree, other)
        if isinstance(found, _Place) and found.select is place.select:
            aliases[other] = found.alias
            joined.append((other, found))
    merged = _merged_columns(place.select.get("from_table"), aliases)
    conditions: dict[str, list[Condition]] = {name: [] for name in aliases}
    left = []
    for part in _conjuncts(place.select.get("where_clause")):
        text = speaker.text(part)
        owners = _owners(part, aliases, columns, merged)
        if owners is None or len(owners) > 1 or _unfit(part, speaker):
            if owners is None or table in owners:
                left.append((text, "it is not about one window alone, or may answer differently each time"))
        elif owners:
            (owner,) = owners
            conditions[owner].append(Condition(text, _columns_of(part)))
    joins = [
        PredictionJoin(other, column, tuple(conditions[other]))
        for other, found in joined
        if all(_keeps(join, side) for join, side in found.joins)
        and (column := _joined_by(place, found, aliases[table], aliases[other])) is not None
    ]
    names = tuple((join.table, aliases[join.table]) for join in joins)
    return Reading(place.alias, tuple(conditions[table]), tuple(joins), tuple(left), aliases=names)


# ---- where a table stands -------------------------------------------------------------------------------------------


def _place(tree: Tree, table: str) -> _Place | str:
    """Return where a table stands, or why conditions cannot be moved to it."""
    found = [path for path in _paths(tree, ()) if path[-1][0].get("table_name") == table]
    if len(found) != 1:
        return "its rows are read in several places"
    path = found[0]
    kinds = [node.get("type") for node, _ in path]
    if "RECURSIVE_CTE_NODE" in kinds:
        return "it stands in a recursive query"
    # The statement stands alone between its parentheses: SELECT * FROM "#n", without anything else.
    inner = max(number for number, (node, _) in enumerate(path) if node.get("type") == "SELECT_NODE")
    above = _owner(path, inner)
    if above is None or path[inner + 1][1] != "from_table" or len(path) != inner + 2:
        return "the SQL is no SELECT around it"
    if _does_more(path[inner][0]):
        return "what stands behind its parentheses comes before the conditions"
    owner, key = above
    if owner.get("type") == "SUBQUERY":
        end = next(number for number, (node, _) in enumerate(path) if node is owner)
        return _outer_place(path[: end + 1], owner)
    if key == "cte":
        return _cte_place(tree, str(owner["key"]))
    return "it is no table of FROM"


def _does_more(select: Tree) -> bool:
    """Return whether a SELECT does more than read a table, as with a LIMIT behind the parentheses."""
    clauses = ("modifiers", "where_clause", "group_expressions", "having", "sample", "qualify")
    return any(select.get(clause) for clause in clauses)


def _cte_place(tree: Tree, name: str) -> _Place | str:
    """Return where a query of WITH is read, once."""
    defined = [node for node in _nodes(tree) if "cte_map" in node for entry in _ctes(node) if _same(entry["key"], name)]
    read = [path for path in _paths(tree, ()) if _same(path[-1][0].get("table_name", ""), name)]
    if len(defined) != 1 or len(read) != 1 or any(_is_query_of_with(node, name) for node in _nodes(tree)):
        return "its rows are read in several places"
    if read[0][-1][0].get("schema_name") or read[0][-1][0].get("catalog_name"):
        return "its rows are not read"
    return _outer_place(read[0], read[0][-1][0], name)


def _is_query_of_with(node: Tree, name: str) -> bool:
    return any(_same(entry["key"], name) and entry["value"].get("aliases") for entry in _ctes(node))


def _outer_place(path: list[tuple[Tree, str]], reference: Tree, name: str = "") -> _Place | str:
    """Return the SELECT whose FROM holds a reference, which ends the path, and the joins between."""
    if reference.get("sample") or reference.get("column_name_alias"):
        return "its columns have other names, or a sample is taken of it"
    joins: list[tuple[Tree, str]] = []
    number = len(path) - 1
    while number > 0:
        key, parent = path[number][1], path[number - 1][0]
        if parent.get("type") == "JOIN" and key in ("left", "right"):
            joins.append((parent, key))
        elif parent.get("type") == "SELECT_NODE" and key == "from_table":
            return _Place(parent, tuple(reversed(joins)), str(reference.get("alias") or name))
        else:
            break
        number -= 1
    return "it is no table of FROM"


def _owner(path: list[tuple[Tree, str]], number: int) -> tuple[Tree, str] | None:
    """Return the reference or the entry of WITH whose query the node at a place of the path is."""
    for node, key in reversed(path[:number]):
        if node.get("type") == "SUBQUERY":
            return node, key
        if "key" in node and "value" in node:
            return node, "cte"
        if node.get("type") is not None:
            return None
    return None


def _keeps(join: Tree, side: str) -> bool:
    return (
        not join.get("sample")
        and join.get("ref_type") in ("REGULAR", "CROSS")
        and join.get("join_type") in _KEEPS[side]
    )


def _joined_by(place: _Place, other: _Place, alias: str, other_alias: str) -> str | None:
    """Return the column that a row of both sides of an inner join shares, where they are joined by one that says the
    image."""
    for join, side in place.joins:
        for second, second_side in other.joins:
            if second is join and side != second_side:
                if join.get("join_type") != "INNER" or join.get("ref_type") != "REGULAR":
                    return None
                using = {str(name).lower() for name in join.get("using_columns", ())}
                equal = {
                    column
                    for part in _conjuncts(join.get("condition"))
                    for column in JOINED_COLUMNS
                    if _equates(part, (alias, column), (other_alias, column))
                }
                # With a third table on either side of USING, the column may be that one's.
                direct = len(place.joins) == 1 and len(other.joins) == 1
                shared = (using if direct else set()) | equal
                return next((column for column in JOINED_COLUMNS if column in shared), None)
    return None


def _equates(part: Tree, one: tuple[str, str], other: tuple[str, str]) -> bool:
    if part.get("type") != "COMPARE_EQUAL":
        return False
    sides = [tuple(str(name).lower() for name in part[side].get("column_names", ())) for side in ("left", "right")]
    wanted = [tuple(name.lower() for name in names) for names in (one, other)]
    return sorted(sides) == sorted(wanted)


# ---- expressions ----------------------------------------------------------------------------------------------------


def _conjuncts(expression: Tree | None) -> Iterator[Tree]:
    if expression is None:
        return
    if expression.get("type") == "CONJUNCTION_AND":
        for child in expression["children"]:
            yield from _conjuncts(child)
    else:
        yield expression


def _merged_columns(tables: Tree | None, aliases: Mapping[str, str]) -> frozenset[str]:
    """Return the columns of USING where other tables are joined than those of statements: their types may differ."""
    known = {alias.lower() for alias in aliases.values()}
    joined = list(_joined(tables))
    if all(str(each.get("alias") or each.get("table_name", "")).lower() in known for each in joined):
        return frozenset()
    return frozenset(str(name).lower() for node in _nodes(tables) for name in node.get("using_columns") or ())


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
    for node in _nodes(part):
        if node.get("class") != "COLUMN_REF":
            continue
        names = [str(name).lower() for name in node["column_names"]]
        if len(names) == 1:
            if names[0] in merged:
                return None
            of = [table for table in aliases if names[0] in columns[table]]
        else:
            of = [t for t, alias in aliases.items() if len(names) == 2 and _same(alias, names[0])]
            of = [table for table in of if names[1] in columns[table]]
        if not of:
            return None
        # One that several tables have is that of USING, the same in all; DuckDB has refused others as ambiguous.
        found.add(of[0])
    return found


def _columns_of(part: Tree) -> frozenset[str]:
    nodes = [node for node in _nodes(part) if node.get("class") == "COLUMN_REF"]
    return frozenset(str(node["column_names"][-1]).lower() for node in nodes)


def _unfit(part: Tree, speaker: Speaker) -> bool:
    """Return whether an expression may not be asked beforehand: it has a query inside, or chance."""
    for node in _nodes(part):
        kind = node.get("class")
        if kind is not None and kind not in _PLAIN:
            return True
        if kind == "FUNCTION" and (node.get("schema") or not speaker.is_steady(str(node["function_name"]))):
            return True
    return False


# ---- walking the tree -----------------------------------------------------------------------------------------------


def _same(one: Any, other: str) -> bool:
    return str(one).lower() == other.lower()


def _ctes(node: Tree) -> list[Tree]:
    return list((node.get("cte_map") or {}).get("map", ()))


def _nodes(tree: Any) -> Iterator[Tree]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _paths(tree: Any, path: tuple[tuple[Tree, str], ...], key: str = "") -> Iterator[list[tuple[Tree, str]]]:
    """Yield the way to every table: each node of the tree with the key under which its parent has it."""
    if isinstance(tree, dict):
        here = (*path, (tree, key))
        if tree.get("type") == "BASE_TABLE":
            yield list(here)
        for name, value in tree.items():
            yield from _paths(value, here, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from _paths(value, path, key)
