"""Turns lark's parse tree of one statement into the nodes of `obeql.grammar.syntax`.

Before: `obeql.grammar.parser` runs lark. After: the statement goes to the planner or the session.

A rule without a method here becomes the class of its name, its children in order; a part that is not written gives
its field the default. The methods are the rules whose children are not simply the fields: flags, clauses in any order,
parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from typing import Any

from lark import Token, Tree

from obeql.errors import QuerySyntaxError
from obeql.grammar import statements, syntax
from obeql.grammar.embedding import InnerText, find_embedded
from obeql.grammar.scanner import MaskedStatement
from obeql.grammar.syntax import Embedded, Node, Span


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


_NODES: dict[str, type[Node]] = {
    _snake_case(value.__name__): value
    for value in (*vars(syntax).values(), *statements.STATEMENTS)
    if isinstance(value, type) and issubclass(value, Node)
}


def _lower(word: str) -> str:
    """Return the word in small letters, of ASCII alone.

    Some others become two characters, which are no word any more.
    """
    return "".join(letter.lower() if letter.isascii() else letter for letter in word)


_UNITS = {unit.lower(): unit for unit in syntax.SIZE_UNITS}

#: the field of ExplainOcclude a clause fills, and what the clause is called in a message
_CLAUSES = {
    "for_predicted": ("selector", "FOR"),
    "for_label": ("selector", "FOR"),
    "for_classes": ("selector", "FOR"),
    "for_top": ("selector", "FOR"),
    "for_all": ("selector", "FOR"),
    "region": ("region", "REGION"),
    "windows": ("windows", "WINDOWS"),
    "options": ("options", "WITH"),
    "top_cells": ("top_cells", "TOP .. CELLS"),
    "exact": ("accuracy", "EXACT"),
    "approx": ("accuracy", "APPROX"),
    "within": ("within", "WITHIN"),
    "device": ("device", "ON"),
    "no_reuse": ("reuse", "NO REUSE"),
    "into": ("into", "INTO"),
}


class TreeBuilder:
    """Builds one statement of `script`, given to lark as `masked`; `embedded` builds those inside a SELECT."""

    def __init__(
        self, script: str, where: InnerText, masked: MaskedStatement, embedded: Callable[[str, InnerText], Embedded]
    ) -> None:
        self._script = script
        self._where = where
        self._base = where.start
        self._masked = masked
        self._embedded = embedded
        self._n_positional = where.n_positional

    def build(self, item: Any) -> Any:
        """Return the node of a tree or the Python value of a token; raises QuerySyntaxError."""
        if item is None:
            return None
        if isinstance(item, Token):
            return self._value(item)
        method = getattr(self, f"_build_{item.data}", None)
        if method is not None:
            return method(item)
        node = _NODES[item.data]
        # The span is no part of the text.
        parts = [each for each in fields(node) if not each.kw_only]
        children = zip(parts, map(self.build, item.children), strict=False)
        given = {each.name: value for each, value in children if value is not None or each.default is MISSING}
        return node(**given, span=self._span(item))

    # ---- places and tokens

    def _span(self, item: Tree[Token] | Token) -> Span:
        place = item if isinstance(item, Token) else item.meta
        start, end = place.start_pos, place.end_pos
        assert start is not None and end is not None
        return Span(self._base + start, self._base + end)

    def _error(self, message: str, item: Tree[Token] | Token) -> Exception:
        return QuerySyntaxError(message).locate(self._script, self._span(item).start)

    def _value(self, token: Token) -> Any:
        match token.type:
            case "INT":
                return self._int(token, token)
            case "FLOAT":
                value = float(token)
                if not math.isfinite(value):
                    raise self._error("this number is too large", token)
                return value
            case "QUOTED":
                return token[1:-1].replace('""', '"')
            case "STRING":
                return token[1:-1].replace("''", "'")
            case "DEVICE" | "OPTION" | "SHOWN" | "KIND" | "RUN":
                return _lower(token)
            case "CHECK":  # a word that is there or not
                return True
            case "SETTING":
                return _lower(token.partition(".")[2].strip())
        return str(token)

    def _int(self, digits: str, token: Token) -> int:
        try:
            return int(digits)
        except ValueError:  # Python converts a few thousand digits at most
            raise self._error("this number has too many digits", token) from None

    # ---- values

    def _build_sizes(self, tree: Tree[Token]) -> syntax.Sizes:
        token = tree.children[0]
        assert isinstance(token, Token)
        numbers = tuple(self._int(digits, token) for digits in token.lower().split("x"))
        return syntax.Sizes(numbers, span=self._span(tree))

    def _build_size_value(self, tree: Tree[Token]) -> syntax.SizeValue:
        token = tree.children[0]
        assert isinstance(token, Token)
        amount = token.rstrip("bBiIkKmMgGtT")
        unit = _UNITS[token[len(amount) :].lower()]
        value = float(amount) if "." in amount else self._int(amount, token)
        if not math.isfinite(value):
            raise self._error("this number is too large", token)
        return syntax.SizeValue(value, unit, span=self._span(tree))

    def _build_class_number(self, tree: Tree[Token]) -> syntax.Number:
        return syntax.Number(self.build(tree.children[0]), span=self._span(tree))

    def _build_list_value(self, tree: Tree[Token]) -> syntax.ListValue:
        return syntax.ListValue(self._all(tree), span=self._span(tree))

    def _build_tuple_value(self, tree: Tree[Token]) -> syntax.TupleValue:
        return syntax.TupleValue(self._all(tree), span=self._span(tree))

    def _build_struct_value(self, tree: Tree[Token]) -> syntax.StructValue:
        return syntax.StructValue(self._all(tree), span=self._span(tree))

    def _build_call_value(self, tree: Tree[Token]) -> syntax.CallValue:
        name, *items = self._all(tree)
        given = tuple(item for item in items if item is not None)
        return syntax.CallValue(_lower(name), given, span=self._span(tree))

    def _all(self, tree: Tree[Token]) -> tuple[Any, ...]:
        return tuple(map(self.build, tree.children))

    def _build_region(self, tree: Tree[Token]) -> syntax.Region:
        return syntax.Region(tuple(n for n in self._all(tree) if n is not None), span=self._span(tree))

    def _build_parameter(self, tree: Tree[Token]) -> syntax.Parameter:
        return self._parameter(str(tree.children[0]), self._span(tree))

    def _parameter(self, written: str, span: Span) -> syntax.Parameter:
        name: str | None = None
        index: int | None = None
        if written == "?":
            index = self._n_positional
            self._n_positional += 1
        elif re.fullmatch(r"\$[0-9]{1,9}", written):
            index = int(written[1:]) - 1
            if index < 0:
                raise QuerySyntaxError("parameters are counted from $1").locate(self._script, span.start)
        else:
            name = written[1:]
        return syntax.Parameter(name, index, span=span)

    # ---- sources and clauses

    def _build_select_source(self, tree: Tree[Token]) -> syntax.SelectSource:
        span = self._span(tree)
        start, end = span.start + 1, span.end - 1
        inner = [
            replace(each, n_positional=each.n_positional + self._n_positional)
            for each in find_embedded(self._script, start, end, source_of=self._where)
        ]
        parameters = [self._written(place) for place in self._masked.subqueries[span.start - self._base]]
        own = tuple(each for each in parameters if not any(i.start <= each.span.start < i.end for i in inner))
        embedded = tuple(self._embedded(self._script, each) for each in inner)
        return syntax.SelectSource(self._script[start:end], own, embedded, span=span)

    def _written(self, place: int) -> syntax.Parameter:
        """Return the parameter of a SELECT at a place of the statement."""
        start = self._base + place
        written = re.compile(r"\?|\$\w+").match(self._script, start)
        assert written is not None
        return self._parameter(written.group(), Span(start, written.end()))

    def _build_for_classes(self, tree: Tree[Token]) -> syntax.ForClasses:
        return syntax.ForClasses(self._all(tree), span=self._span(tree))

    def _build_options(self, tree: Tree[Token]) -> tuple[syntax.Option, ...]:
        return self._all(tree)

    def _build_no_reuse(self, tree: Tree[Token]) -> bool:
        return False

    def _build_approx(self, tree: Tree[Token]) -> syntax.Approx:
        quality, *rest = tree.children
        assert isinstance(quality, Token)
        given: dict[str, Any] = {}
        for item in rest:
            assert isinstance(item, Tree)
            (token,) = item.children
            assert isinstance(token, Token)
            if item.data in given:
                raise self._error(f"{item.data.upper()} is given twice", item)
            value = self.build(token)
            given[item.data] = _lower(value) if isinstance(value, str) else value
            given[f"{item.data}_span"] = self._span(token)
        return syntax.Approx(self.build(quality), quality_span=self._span(quality), span=self._span(tree), **given)

    def _build_set_setting(self, tree: Tree[Token]) -> statements.SetSetting:
        name, value = tree.children
        span = self._setting_span(name)
        return statements.SetSetting(self.build(name), self.build(value), name_span=span, span=self._span(tree))

    def _build_reset_setting(self, tree: Tree[Token]) -> statements.ResetSetting:
        (name,) = tree.children
        return statements.ResetSetting(self.build(name), name_span=self._setting_span(name), span=self._span(tree))

    def _setting_span(self, token: Any) -> Span:
        start, end = self._span(token)
        return Span(start + token.index(".") + 1, end)

    def _build_into(self, tree: Tree[Token]) -> syntax.Into:
        replace, name = tree.children
        return syntax.Into(self.build(name), replace is not None, span=self._span(tree))

    # ---- statements

    def _build_explain_occlude(self, tree: Tree[Token]) -> statements.ExplainOcclude:
        source, model, *clauses = tree.children
        fields: dict[str, Any] = {"source": self.build(source), "model": self.build(model)}
        given: dict[str, str] = {}
        for clause in clauses:
            assert isinstance(clause, Tree)
            slot, word = _CLAUSES[clause.data]
            earlier = given.setdefault(slot, word)
            if slot in fields:
                clash = f"{word} is given twice" if earlier == word else f"{earlier} and {word} exclude each other"
                raise self._error(f"{clash}; each clause may stand once", clause)
            fields[slot] = self.build(clause)
        return statements.ExplainOcclude(**fields, span=self._span(tree))

    def _build_plan_statement(self, tree: Tree[Token]) -> statements.PlanStatement:
        analyze, statement = tree.children
        return statements.PlanStatement(analyze is not None, self.build(statement), span=self._span(tree))

    def _build_plan_predict(self, tree: Tree[Token]) -> statements.PlanPredict:
        analyze, statement = tree.children
        return statements.PlanPredict(analyze is not None, self.build(statement), span=self._span(tree))

    def _build_create_model(self, tree: Tree[Token]) -> statements.CreateModel:
        replace, name, uri, options = tree.children
        return statements.CreateModel(
            self.build(name),
            self.build(uri),
            self.build(options) or (),
            replace is not None,
            span=self._span(tree),
        )

    def _build_export_run(self, tree: Tree[Token]) -> statements.ExportRun:
        _, run, path, form = tree.children
        return statements.ExportRun(self.build(run), self.build(path), self.build(form), span=self._span(tree))

    def _build_create_images(self, tree: Tree[Token]) -> statements.CreateImages:
        replace, name, source, options = tree.children
        return statements.CreateImages(
            self.build(name),
            self.build(source),
            replace is not None,
            self.build(options) or (),
            span=self._span(tree),
        )
