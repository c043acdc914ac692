"""DuckDB's tree of a query: its nodes, and where in it a table stands.

Before `query` and `aims`, which read what the query says of the table. The tree is that of `json_serialize_sql`, of
which DuckDB 1.5 and 2.0 write a few parts differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Place",
    "Tree",
    "arguments_of",
    "conjuncts",
    "ctes",
    "keeps",
    "name_in_with",
    "nodes",
    "place_of",
    "same_name",
]

Tree = dict[str, Any]

#: Joins that keep the rows of one side as they are: a condition on them may be asked before.
_KEEPS = {"left": ("INNER", "LEFT", "SEMI", "ANTI"), "right": ("INNER", "RIGHT")}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a table stands: the SELECT around it, the joins on the way (outermost first, with the side), its alias."""

    select: Tree
    joins: tuple[tuple[Tree, str], ...]
    alias: str


# ---- where a table stands -------------------------------------------------------------------------------------------


def place_of(tree: Tree, table: str) -> Place | str:
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


def name_in_with(tree: Tree, table: str) -> str | None:
    """Return the name of the query of WITH that is a table as it is; None where there is none."""
    for path in (path for path in _paths(tree, ()) if path[-1][0].get("table_name") == table):
        inner = max(number for number, (node, _) in enumerate(path) if node.get("type") == "SELECT_NODE")
        above = _owner(path, inner)
        if above is None or above[1] != "cte" or _does_more(path[inner][0]):
            continue
        if not above[0]["value"].get("aliases"):
            return str(above[0]["key"])
    return None


def _does_more(select: Tree) -> bool:
    """Return whether a SELECT does more than read a table, as with a LIMIT behind the parentheses."""
    clauses = ("modifiers", "where_clause", "group_expressions", "having", "sample", "qualify")
    return any(select.get(clause) for clause in clauses)


def _cte_place(tree: Tree, name: str) -> Place | str:
    """Return where a query of WITH is read, once."""
    defined = [
        node for node in nodes(tree) if "cte_map" in node for entry in ctes(node) if same_name(entry["key"], name)
    ]
    read = [path for path in _paths(tree, ()) if same_name(path[-1][0].get("table_name", ""), name)]
    if len(defined) != 1 or len(read) != 1 or any(_is_query_of_with(node, name) for node in nodes(tree)):
        return "its rows are read in several places"
    if read[0][-1][0].get("schema_name") or read[0][-1][0].get("catalog_name"):
        return "its rows are not read"
    return _outer_place(read[0], read[0][-1][0], name)


def _is_query_of_with(node: Tree, name: str) -> bool:
    return any(same_name(entry["key"], name) and entry["value"].get("aliases") for entry in ctes(node))


def _outer_place(path: list[tuple[Tree, str]], reference: Tree, name: str = "") -> Place | str:
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
            return Place(parent, tuple(reversed(joins)), str(reference.get("alias") or name))
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


def keeps(join: Tree, side: str) -> bool:
    """Return whether a join leaves rows of this side as they are, or out: a condition may be asked of them before."""
    return (
        not join.get("sample")
        and join.get("ref_type") in ("REGULAR", "CROSS")
        and join.get("join_type") in _KEEPS[side]
    )


# ---- walking the tree -----------------------------------------------------------------------------------------------


def same_name(one: Any, other: str) -> bool:
    """Return whether SQL takes two names for the same."""
    return str(one).lower() == other.lower()


def ctes(node: Tree) -> list[Tree]:
    """Return the entries of WITH of a query."""
    return list((node.get("cte_map") or {}).get("map", ()))


def nodes(tree: Any) -> Iterator[Tree]:
    """Yield every node of a tree, itself first."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from nodes(value)


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


def conjuncts(expression: Tree | None) -> Iterator[Tree]:
    """Yield the conditions that AND joins."""
    if expression is None:
        return
    if expression.get("type") == "CONJUNCTION_AND":
        for child in expression["children"]:
            yield from conjuncts(child)
    else:
        yield expression


def arguments_of(function: Tree) -> list[Tree]:
    """Return the arguments of a function, of an operator written as one, too."""
    if "arguments" in function:
        return [each["expression"] for each in function["arguments"]]
    return list(function.get("children", ()))
