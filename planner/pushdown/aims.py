"""Read what a SELECT makes of the rows of a map: the most important ones, or aggregates of each map.

Beside `query`, which reads the conditions on the rows. What is not known here is left to DuckDB, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from obeql.planner.aggregates import Arithmetic, Column, Count, Expression, Mean, Number, Sum
from obeql.planner.pushdown.facts import CLASS_COLUMNS, IMAGE_COLUMNS, WINDOW_COLUMNS
from obeql.planner.pushdown.tree import Place, Tree, arguments_of, nodes, same_name

__all__ = ["AGGREGATES", "GroupAim", "RowReader", "TopAim", "aggregate_nodes", "read_groups", "read_top"]

#: Aggregates that a sample of the windows estimates with an error, and what they are made of.
AGGREGATES: dict[str, type[Sum | Mean | Count]] = {
    "sum": Sum,
    "avg": Mean,
    "mean": Mean,
    "count": Count,
    "count_star": Count,
    "count_if": Count,
}
#: Columns that are known of a window once it is computed.
_MEASURED = WINDOW_COLUMNS | {"importance", "score", "clean_score"}
_ORDERED = ("COMPARE_GREATERTHAN", "COMPARE_GREATERTHANOREQUALTO", "COMPARE_LESSTHAN", "COMPARE_LESSTHANOREQUALTO")


@dataclass(frozen=True, slots=True)
class TopAim:
    """The SELECT keeps the `k` windows of largest importance, of all that it reads, as `text` says."""

    k: int
    text: str


@dataclass(frozen=True, slots=True)
class GroupAim:
    """The SELECT makes of the windows, group by group, aggregates of `columns`; `groups` are the columns it groups by.

    `selected` are its items and what it orders by, `decisions` what HAVING compares with 0. `text` is HAVING, or the
    items.
    """

    columns: tuple[Column, ...]
    selected: tuple[tuple[str, Expression], ...]
    decisions: tuple[Expression, ...]
    groups: frozenset[str]
    text: str
    all_must_hold: bool = False


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads expressions over the rows of one table: their text, their columns, and constants.

    `columns_of` returns None for what may not be asked beforehand; `value` of an expression without columns its value.
    """

    text: Callable[[Tree], str]
    columns_of: Callable[[Tree], frozenset[str] | None]
    value: Callable[[Tree], object]


# ---- the most important rows ----------------------------------------------------------------------------------------


def read_top(place: Place, reader: RowReader) -> TopAim | str | None:
    """Return which windows a SELECT keeps, or why they are not the most important ones; None where it keeps all."""
    select = place.select
    modifiers = {str(each["type"]): each for each in select.get("modifiers") or ()}
    ordered, limit = modifiers.get("ORDER_MODIFIER"), modifiers.get("LIMIT_MODIFIER")
    if ordered is None or limit is None or next(aggregate_nodes(select), None) is not None:
        return None
    shown = ", ".join(_order_text(each, reader) for each in ordered["orders"])
    if len(ordered["orders"]) != 1:
        return f"ORDER BY {shown}: other columns decide among windows of the same importance"
    (order,) = ordered["orders"]
    column = _column_of(_item(select, order["expression"]))
    # The score falls where the importance rises, in each map by itself.
    if (column, order["type"]) not in (("importance", "DESCENDING"), ("score", "ASCENDING")):
        return f"ORDER BY {shown}: TOP .. CELLS finds the windows of largest importance"
    if place.joins:
        return f"ORDER BY {shown}: a join may repeat windows, or leave them out"
    if set(modifiers) - {"ORDER_MODIFIER", "LIMIT_MODIFIER"} or _groups(select) or select.get("qualify"):
        return f"ORDER BY {shown}: the SELECT does not keep its rows as they are"
    if any(node.get("class") in ("WINDOW", "SUBQUERY") for item in select["select_list"] for node in nodes(item)):
        return f"ORDER BY {shown}: the SELECT computes something of several rows"
    if any(
        node.get("class") == "FUNCTION" and reader.columns_of(node) is None
        for item in select["select_list"]
        for node in nodes(item)
    ):
        return f"ORDER BY {shown}: a function of the SELECT may need more rows"
    counts = [0 if limit.get(name) is None else reader.value(limit[name]) for name in ("limit", "offset")]
    if limit.get("limit_type", "ROW_COUNT") != "ROW_COUNT" or any(type(n) is not int for n in counts) or not counts[0]:
        return f"ORDER BY {shown}: LIMIT is no number of rows"
    k = sum(n for n in counts if isinstance(n, int))
    return TopAim(k, f"ORDER BY {shown} LIMIT {k}")


def _order_text(order: Tree, reader: RowReader) -> str:
    return reader.text(order["expression"]) + {"DESCENDING": " DESC", "ASCENDING": " ASC"}.get(str(order["type"]), "")


def _item(select: Tree, expression: Tree) -> Tree:
    """Return what an expression of ORDER BY or GROUP BY stands for: an item by number or by name, or itself."""
    items: list[Tree] = select["select_list"]
    if expression.get("class") == "CONSTANT":
        number = _whole_number(expression)
        if number is not None and 1 <= number <= len(items):
            return items[number - 1]
    names = list(expression.get("column_names") or ())
    if len(names) == 1:
        named = [item for item in items if item.get("alias") and same_name(item["alias"], str(names[0]))]
        return named[0] if named else expression
    return expression


def _whole_number(constant: Tree) -> int | None:
    written = str((constant.get("literal") or {}).get("text", (constant.get("value") or {}).get("value")))
    return int(written) if written.isdigit() else None


def _column_of(expression: Tree) -> str | None:
    names = expression.get("column_names") if expression.get("class") == "COLUMN_REF" else None
    return str(names[-1]).lower() if names else None


def _groups(select: Tree) -> bool:
    clauses = ("group_expressions", "having")
    return any(select.get(each) for each in clauses) or select.get("aggregate_handling") == "FORCE_AGGREGATES"


# ---- aggregates -----------------------------------------------------------------------------------------------------


class _Unknown(Exception):  # noqa: N818 - it says why something is left, and never leaves this module
    """Raised with the reason why an aggregate is not estimated from a sample."""


def aggregate_nodes(select: Tree) -> Iterator[Tree]:
    """Yield the aggregates of a SELECT, of its items, HAVING and ORDER BY, those inside others not."""
    parts = [select["select_list"], select.get("having"), select.get("qualify")]
    parts += [each.get("orders") for each in select.get("modifiers") or ()]
    for part in parts:
        yield from _aggregates_in(part)


def _aggregates_in(tree: object) -> Iterator[Tree]:
    if isinstance(tree, list):
        for each in tree:
            yield from _aggregates_in(each)
    elif isinstance(tree, dict):
        if tree.get("class") == "FUNCTION" and str(tree["function_name"]).lower() in AGGREGATES:
            yield tree
        elif tree.get("class") not in ("SUBQUERY", "WINDOW"):
            yield from _aggregates_in(list(tree.values()))


def read_groups(root: Tree, place: Place, reader: RowReader) -> GroupAim | str | None:
    """Return the aggregates that a SELECT makes, or why a sample does not tell them; None where it makes none."""
    select = place.select
    if next(aggregate_nodes(select), None) is None:
        return None
    try:
        if select is not root:
            _leave("aggregates of the outermost SELECT alone are estimated")
        if place.joins:
            _leave("a join may repeat windows, or leave them out")
        if select.get("qualify") or len(select.get("group_sets") or ()) > 1:
            _leave("aggregates of windows in one way at a time are estimated")
        return _GroupReader(select, reader).read()
    except _Unknown as why:
        return str(why)


def _leave(why: str) -> NoReturn:
    raise _Unknown(why)


@dataclass(slots=True)
class _GroupReader:
    """Reads the aggregates of one SELECT."""

    select: Tree
    reader: RowReader
    columns: list[Column] = field(default_factory=list)
    all_must_hold: bool = True

    def read(self) -> GroupAim:
        select, text = self.select, self.reader.text
        selected = []
        for item in select["select_list"]:
            if next(_aggregates_in(item), None) is not None:
                selected.append((str(item.get("alias") or text(item)), self.expression(item)))
            elif self._has_other_aggregate(item):
                _leave(f"{text(item)} has no error that a sample tells")
        for each in select.get("modifiers") or ():
            for order in each.get("orders") or ():
                if next(_aggregates_in(order), None) is not None:
                    selected.append(("", self.expression(order["expression"])))
        having = select.get("having")
        decisions = tuple(self.decisions(having)) if having else ()
        shown = f"HAVING {text(having)}" if having else ", ".join(name for name, _ in selected if name)
        return GroupAim(tuple(self.columns), tuple(selected), decisions, self.groups(), shown, self.all_must_hold)

    def groups(self) -> frozenset[str]:
        """Return the columns that the rows are grouped by. Raises _Unknown where it is more than columns."""
        select = self.select
        written = [_item(select, each) for each in select.get("group_expressions") or ()]
        if select.get("aggregate_handling") == "FORCE_AGGREGATES":
            written = [each for each in select["select_list"] if next(_aggregates_in(each), None) is None]
        found = [_column_of(each) for each in written]
        if None in found:
            _leave("groups are made of more than columns")
        return frozenset(each for each in found if each is not None)

    def decisions(self, having: Tree) -> Iterator[Expression]:
        """Yield what HAVING asks the signs of: each above 0 where the condition that it comes from holds."""
        kind = str(having.get("type"))
        if kind in ("CONJUNCTION_AND", "CONJUNCTION_OR", "OPERATOR_NOT"):
            self.all_must_hold = self.all_must_hold and kind == "CONJUNCTION_AND"
            for child in having["children"]:
                yield from self.decisions(child)
        elif kind in _ORDERED:
            sides = [having["left"], having["right"]]
            more, less = sides if "GREATER" in kind else reversed(sides)
            yield Arithmetic("-", self.expression(more), self.expression(less))
        elif having.get("class") == "BETWEEN":
            yield Arithmetic("-", self.expression(having["input"]), self.expression(having["lower"]))
            yield Arithmetic("-", self.expression(having["upper"]), self.expression(having["input"]))
        else:
            _leave(f"{self.reader.text(having)} compares no aggregate by size")

    def expression(self, node: Tree) -> Expression:
        """Return an expression over aggregates. Raises _Unknown where it is none that a sample tells."""
        if next(_aggregates_in(node), None) is None:
            value = None if any(True for _ in _columns_in(node)) else self.reader.value(node)
            if value is None or isinstance(value, str):
                _leave(f"{self.reader.text(node)} is neither an aggregate nor a number")
            return Number(float(value))  # type: ignore[arg-type]
        if node.get("class") == "CAST":
            return self.expression(node["child"])
        name = str(node.get("function_name", "")).lower()
        if name in AGGREGATES:
            return self.aggregate(node, name)
        parts = arguments_of(node)
        if name == "round" and parts:
            return self.expression(parts[0])
        if name in ("+", "-", "*", "/") and len(parts) == 2:
            return Arithmetic(name, self.expression(parts[0]), self.expression(parts[1]))
        if name == "-" and len(parts) == 1:
            return Arithmetic("*", Number(-1.0), self.expression(parts[0]))
        _leave(f"{self.reader.text(node)} is more than sums, means, counts and their quotients")

    def aggregate(self, node: Tree, name: str) -> Expression:
        """Return an aggregate, and note the column it is of."""
        parts = arguments_of(node)
        if node.get("distinct") or (node.get("order_bys") or {}).get("orders") or len(parts) > 1:
            _leave(f"{self.reader.text(node)} is no plain sum, mean or count")
        sql = self._column(parts[0]) if parts else "1"
        asked = [] if node.get("filter") is None else [self._column(node["filter"])]
        if name == "count_if":
            asked.append(sql)
            sql = "1"
        if asked:
            sql = f"CASE WHEN {' AND '.join(f'({each})' for each in asked)} THEN {sql} END"
        if Column(sql) not in self.columns:
            self.columns.append(Column(sql))
        return AGGREGATES[name](self.columns.index(Column(sql)))

    def _column(self, node: Tree) -> str:
        columns, text = self.reader.columns_of(node), self.reader.text(node)
        if columns is None:
            _leave(f"{text} is not about one window alone, or may answer differently each time")
        if columns - _MEASURED:
            of_map = columns & (IMAGE_COLUMNS | CLASS_COLUMNS)
            _leave(f"{text} is about {'its image or class' if of_map else 'more than its place and importance'}")
        return text

    def _has_other_aggregate(self, item: Tree) -> bool:
        """Return whether an item is made of anything but the columns of a group."""
        kinds = {node.get("class") for node in nodes(item)} - {None}
        functions = [node for node in nodes(item) if node.get("class") == "FUNCTION"]
        return (
            "WINDOW" in kinds or "SUBQUERY" in kinds or any(self.reader.columns_of(each) is None for each in functions)
        )


def _columns_in(tree: Tree) -> Iterator[Tree]:
    return (node for node in nodes(tree) if node.get("class") == "COLUMN_REF")
