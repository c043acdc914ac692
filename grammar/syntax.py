"""The syntax tree: what a statement says, before any name in it is looked up.

Before: `obeql.grammar.parser` builds these nodes; the CamelCase class `ForTop` is made by the rule `for_top`
of `obeql.lark`, its fields in the order of the rule. After: `obeql.grammar.statements` has the statements that are made
of them; `obeql.planner` binds them, `obeql.grammar.printer` turns them back into text.

Every node has a `span`, the characters of the script it was read from. It takes no part in equality, hashing
and repr, so a tree that was parsed equals one that was built by hand. An error that a later stage finds is
placed with `QueryError.locate(script, node.span.start)`.

Nothing here is checked for range or meaning: `APPROX 7` is a tree, and the planner refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from obeql.grammar.table_names import table_of, with_tables

if TYPE_CHECKING:
    from obeql.grammar.statements import ExplainOcclude, Predict


class Span(NamedTuple):
    """Character offsets into the whole script, `start` inclusive, `end` exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Node:
    """Base of all nodes."""

    span: Span = field(default=Span(0, 0), compare=False, repr=False, kw_only=True)


# ---- names and values ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Name(Node):
    """An identifier, its case kept; names match case-insensitively."""

    value: str


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """A value bound at execution: `$name`, or `?` and `$1` with a position counted from 0 in the statement.

    Exactly one of the two is set. The question marks of a parenthesised SELECT are counted too, see
    `SelectSource.parameters`.
    """

    name: str | None
    index: int | None


@dataclass(frozen=True, slots=True)
class Number(Node):
    """`16` is an int, `0.9` and `1e3` are floats."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Text(Node):
    """A string in single quotes, without them."""

    value: str


@dataclass(frozen=True, slots=True)
class Word(Node):
    """A bare word as a value, its case kept: `mean`, `DEFAULT`, `true`, `on`."""

    value: str


@dataclass(frozen=True, slots=True)
class Sizes(Node):
    """`16x24`, `4x16x16`: a number for each axis, the slowest first."""

    numbers: tuple[int, ...]


SIZE_UNITS: dict[str, int] = {
    "B": 1,
    **{f"{prefix}B": 1000 ** (i + 1) for i, prefix in enumerate("KMGT")},
    **{f"{prefix}iB": 1024 ** (i + 1) for i, prefix in enumerate("KMGT")},
}


@dataclass(frozen=True, slots=True)
class SizeValue(Node):
    """A size written without quotes, `2GB`; `unit` is a key of SIZE_UNITS. `'2GB'` is a Text."""

    amount: int | float
    unit: str

    @property
    def n_bytes(self) -> int:
        """Return the size in bytes: kB, MB, ... count by 1000, KiB, MiB, ... by 1024."""
        return int(self.amount * SIZE_UNITS[self.unit])


Scalar: TypeAlias = Number | Text | Word | Sizes | SizeValue | Parameter


@dataclass(frozen=True, slots=True)
class ListValue(Node):
    """`[8, 16, 32]`, never empty; lists in it only in the field of a struct."""

    items: tuple[Scalar | ListValue, ...]


@dataclass(frozen=True, slots=True)
class TupleValue(Node):
    """`(0.1, 0.2, 0.3)`, never empty."""

    items: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class CallValue(Node):
    """`slic(100)`: the name in lower case and what stands in the parentheses."""

    name: str
    items: tuple[Scalar, ...] = ()


@dataclass(frozen=True, slots=True)
class Field(Node):
    """`'age': 0.5` of a struct; a name may occur twice: the planner objects."""

    name: str
    value: Scalar | ListValue


@dataclass(frozen=True, slots=True)
class StructValue(Node):
    """`{'age': 0.5, 'site': [1, 0]}` as DuckDB writes it, never empty."""

    fields: tuple[Field, ...]


Value: TypeAlias = Scalar | ListValue | TupleValue | CallValue | StructValue


@dataclass(frozen=True, slots=True)
class Option(Node):
    """`name=value` of a WITH clause; the name in lower case. A name may occur twice: the planner objects."""

    name: str
    value: Value


# ---- sources ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NameSource(Node):
    """The name of an image set or of an image."""

    name: str


@dataclass(frozen=True, slots=True)
class PathSource(Node):
    """A string: a path or a glob."""

    path: str


@dataclass(frozen=True, slots=True)
class Embedded(Node):
    """EXPLAIN OCCLUDE or PREDICT in parentheses inside SQL; the span is what stands between the parentheses."""

    statement: ExplainOcclude | Predict

    @property
    def table(self) -> str:
        """Return the name by which DuckDB knows its rows."""
        return table_of(self.span.start)


@dataclass(frozen=True, slots=True)
class SelectSource(Node):
    """A parenthesised SELECT; `sql` is every character between the parentheses, untouched.

    `parameters` are those that occur in the SELECT itself, in order, to be handed to DuckDB with it; `embedded` are the
    statements in parentheses inside it. `query` is what DuckDB gets: tables in their places.
    """

    sql: str
    parameters: tuple[Parameter, ...] = field(default=(), compare=False, repr=False)
    embedded: tuple[Embedded, ...] = field(default=(), compare=False, repr=False)

    @property
    def query(self) -> str:
        return with_tables(self.sql, self.span.start + 1, (inner.span for inner in self.embedded))


@dataclass(frozen=True, slots=True)
class ParameterSource(Node):
    """An image, array, path, or list of them, bound at execution."""

    parameter: Parameter


Source: TypeAlias = NameSource | PathSource | SelectSource | ParameterSource
Model: TypeAlias = Name | Text | Parameter


# ---- clauses ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ForPredicted(Node):
    """FOR PREDICTED: the class the model predicts, image by image."""


@dataclass(frozen=True, slots=True)
class ForLabel(Node):
    """FOR LABEL: the class named by the image's label."""


@dataclass(frozen=True, slots=True)
class ForClasses(Node):
    """FOR CLASS x (one item) and FOR CLASSES (x, ..); a Number is always a whole one."""

    items: tuple[Number | Text | Parameter, ...]


@dataclass(frozen=True, slots=True)
class ForTop(Node):
    """FOR TOP k: the k classes the model ranks highest."""

    k: int


@dataclass(frozen=True, slots=True)
class ForAll(Node):
    """FOR ALL classes."""


Selector: TypeAlias = ForPredicted | ForLabel | ForClasses | ForTop | ForAll


@dataclass(frozen=True, slots=True)
class Region(Node):
    """REGION (top, left, height, width) in pixels of the model's input, or (start, extent) of signals."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Windows(Node):
    """WINDOWS (SELECT ..): the boxes and masks to hide, one a row, or a parameter that holds them."""

    source: SelectSource | Parameter


@dataclass(frozen=True, slots=True)
class TopCells(Node):
    """TOP k CELLS: the k cells of largest importance."""

    k: int


@dataclass(frozen=True, slots=True)
class Exact(Node):
    """EXACT: every cell is computed."""


@dataclass(frozen=True, slots=True)
class Approx(Node):
    """APPROX quality [METRIC metric] [CONFIDENCE confidence]; the metric in lower case.

    The extra spans place errors about one of the three; the node's own span starts at APPROX.
    """

    quality: int | float
    metric: str | None = None
    confidence: int | float | None = None
    quality_span: Span = field(default=Span(0, 0), compare=False, repr=False, kw_only=True)
    metric_span: Span = field(default=Span(0, 0), compare=False, repr=False, kw_only=True)
    confidence_span: Span = field(default=Span(0, 0), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Within(Node):
    """WITHIN n SECONDS."""

    seconds: int | float


@dataclass(frozen=True, slots=True)
class Device(Node):
    """ON device, in lower case: `cpu`, `cuda`, `cuda:0`, `cuda:*`, or any other word the planner may refuse."""

    name: str


@dataclass(frozen=True, slots=True)
class Into(Node):
    """INTO [OR REPLACE] run name."""

    name: Name
    replace: bool = False


#: a run is given by its name or by its id: a whole number, a string, or a parameter
Reference: TypeAlias = Name | Number | Text | Parameter


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and every node below it, parents first, in the order of the fields."""
    yield node
    for entry in fields(node):
        value = getattr(node, entry.name)
        for child in value if isinstance(value, tuple) else (value,):
            if isinstance(child, Node):
                yield from walk(child)


def parameters_of(statement: Node) -> tuple[Parameter, ...]:
    """Return every parameter of a statement in the order of the text, those of a SELECT source included.

    Of an `SqlStatement`, those of the statements inside it are reported: the others are DuckDB's affair.
    """
    found = [node for node in walk(statement) if isinstance(node, Parameter)]
    return tuple(sorted(found, key=lambda parameter: parameter.span))
