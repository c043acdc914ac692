"""The statements: of each its node, how it is written, the words that it begins with, and what the prompt's help says.

Before: `obeql.grammar.parser` builds these nodes as it does those of `syntax`, by the rules of their names. After:
`scanner` knows by their words which texts are OBEQL's, `printer` writes them, the prompt completes and explains them;
`obeql.planner` binds what is planned, and `obeql.session.statements` has a handler for each.

A statement is a class here with its `about` and its `words`, a member of `Statement`, a rule in `obeql.lark` and a
handler.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, get_args

from obeql.grammar.syntax import (
    Approx,
    Device,
    Embedded,
    Exact,
    ForTop,
    Into,
    Model,
    Name,
    Node,
    Option,
    Parameter,
    ParameterSource,
    PathSource,
    Reference,
    Region,
    Selector,
    SelectSource,
    Source,
    Span,
    Text,
    TopCells,
    Value,
    Windows,
    Within,
    Word,
)
from obeql.grammar.table_names import with_tables

__all__ = [
    "STATEMENTS",
    "About",
    "CreateImages",
    "CreateModel",
    "Describe",
    "Drop",
    "Evaluate",
    "ExplainOcclude",
    "ExportRun",
    "Kind",
    "PlanPredict",
    "PlanSql",
    "PlanStatement",
    "Predict",
    "Render",
    "ResetSetting",
    "SetSetting",
    "Show",
    "SqlStatement",
    "Statement",
    "StatementNode",
]

#: what a statement is made of in order: words and nodes; None is left out
Words: TypeAlias = Iterable[Node | str | None]
#: the table of what may stand in WITH, or behind SET or FORMAT
Options: TypeAlias = Literal["", "explain", "images", "model", "predict", "evaluate", "render", "settings", "formats"]


@dataclass(frozen=True, slots=True)
class About:
    """A statement as people meet it: its first words, what it does, its form, its clauses and an example.

    `second` are the words of which one comes next; where a name of one word has none, that word alone makes the text
    OBEQL's, so that it must begin no statement of DuckDB.
    """

    name: str
    does: str
    form: str
    clauses: tuple[tuple[str, str], ...]
    example: str
    options: Options = ""
    second: tuple[str, ...] = ()

    @property
    def begins(self) -> tuple[str, tuple[str, ...]]:
        """Return the first word and those that may come next, in lower case."""
        first, *rest = self.name.lower().split()
        return first, self.second or tuple(rest)


@dataclass(frozen=True, slots=True)
class StatementNode(Node):
    """Base of all statements."""

    about: ClassVar[About]

    def words(self) -> Words:
        """Return what the statement is written as, in order."""
        raise NotImplementedError


def _with(options: tuple[Option, ...]) -> tuple[Node | str, ...]:
    return ("WITH", *options) if options else ()


def _create(replace: bool) -> str:
    return "CREATE OR REPLACE" if replace else "CREATE"


_SOURCE = ("source", "a name, 'path', 'glob', (SELECT ..) or parameter")


@dataclass(frozen=True, slots=True)
class ExplainOcclude(StatementNode):
    """EXPLAIN OCCLUDE source USING model and its clauses; None and () where a clause was not written."""

    source: Source
    model: Model
    selector: Selector | None = None
    region: Region | None = None
    windows: Windows | None = None
    options: tuple[Option, ...] = ()
    top_cells: TopCells | None = None
    accuracy: Exact | Approx | None = None
    within: Within | None = None
    device: Device | None = None
    reuse: bool = True
    into: Into | None = None

    about: ClassVar[About] = About(
        "EXPLAIN OCCLUDE",
        "computes heat maps and stores them as a run",
        "EXPLAIN OCCLUDE source USING model [clauses in any order];",
        (
            _SOURCE,
            ("FOR PREDICTED", "the class that the model ranks first; also without FOR"),
            ("FOR LABEL", "the class that the image's label names"),
            ("FOR CLASS c", "this class, a number or 'name'; FOR CLASSES (a, b)"),
            ("FOR TOP k", "the k classes ranked highest; FOR ALL every class"),
            ("REGION (t, l, h, w)", "windows inside this box of the model's input, pixels"),
            ("WINDOWS (SELECT ..)", "boxes: top, left, height, width, also name, mask, path"),
            ("EXACT | APPROX q", "every cell, or a bound q: METRIC m, CONFIDENCE c"),
            ("WITHIN n SECONDS", "the best map in that time"),
            ("TOP k CELLS", "the k most important cells"),
            ("ON device", "auto, cpu, cuda, cuda:1, cuda:* or ray"),
            ("NO REUSE", "computes what is stored anew"),
            ("INTO [OR REPLACE] run", "names the run"),
            ("FROM (EXPLAIN ..)", "inside SQL, in parentheses: its windows as a table"),
        ),
        "EXPLAIN OCCLUDE 'scan.png' USING tumour FOR TOP 2 WITH patch=16 INTO first;",
        "explain",
    )

    def words(self) -> Words:
        """Return what the statement is written as, clauses in one order."""
        return (
            "EXPLAIN OCCLUDE",
            self.source,
            "USING",
            self.model,
            self.selector,
            self.region,
            self.windows,
            *_with(self.options),
            self.top_cells,
            self.accuracy,
            self.within,
            self.device,
            None if self.reuse else "NO REUSE",
            self.into,
        )


@dataclass(frozen=True, slots=True)
class PlanStatement(StatementNode):
    """PLAN [ANALYZE] statement."""

    analyze: bool
    statement: ExplainOcclude

    about: ClassVar[About] = About(
        "PLAN",
        "shows how an EXPLAIN OCCLUDE would be carried out, and how long it takes",
        "PLAN [ANALYZE] EXPLAIN OCCLUDE ..;",
        (("ANALYZE", "runs it, and shows measured values beside the estimates"),),
        "PLAN EXPLAIN OCCLUDE scans USING tumour WITH patch=16;",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "PLAN", "ANALYZE" if self.analyze else None, self.statement


@dataclass(frozen=True, slots=True)
class PlanSql(StatementNode):
    """PLAN of SQL that has statements inside."""

    statement: SqlStatement

    about: ClassVar[About] = About(
        "PLAN SELECT",
        "shows how the statements inside SQL would be carried out",
        "PLAN any SQL with (EXPLAIN OCCLUDE ..) or (PREDICT ..) inside;",
        (),
        "PLAN SELECT max(importance) FROM (EXPLAIN OCCLUDE scans USING tumour) WHERE label = 'glioma';",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "PLAN", self.statement


@dataclass(frozen=True, slots=True)
class Predict(StatementNode):
    """PREDICT source USING model [FOR TOP k] [WITH options] [CHECK]."""

    source: Source
    model: Model
    top: ForTop | None = None
    options: tuple[Option, ...] = ()
    check: bool = False

    about: ClassVar[About] = About(
        "PREDICT",
        "shows the classes that a model ranks highest",
        "PREDICT source USING model [FOR TOP k] [WITH page=..] [CHECK];",
        (
            _SOURCE,
            ("FOR TOP k", "so many classes of each image"),
            ("CHECK", "tries the usual preprocessings: which makes the network right, or surest"),
            ("FROM (PREDICT ..)", "inside SQL, in parentheses: its rows as a table"),
        ),
        "PREDICT scans USING tumour FOR TOP 1;",
        "predict",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        check = "CHECK" if self.check else None
        return "PREDICT", self.source, "USING", self.model, self.top, *_with(self.options), check


@dataclass(frozen=True, slots=True)
class PlanPredict(StatementNode):
    """PLAN [ANALYZE] of PREDICT."""

    analyze: bool
    statement: Predict

    about: ClassVar[About] = About(
        "PLAN PREDICT",
        "shows how a PREDICT would be carried out",
        "PLAN [ANALYZE] PREDICT source USING model ..;",
        (("ANALYZE", "runs it, and shows how many images were computed from the one before"),),
        "PLAN ANALYZE PREDICT 'clip/*.png' USING tumour;",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "PLAN", "ANALYZE" if self.analyze else None, self.statement


@dataclass(frozen=True, slots=True)
class CreateModel(StatementNode):
    """CREATE [OR REPLACE] MODEL name FROM uri [WITH options]."""

    name: Name
    uri: Text | Parameter
    options: tuple[Option, ...] = ()
    replace: bool = False

    about: ClassVar[About] = About(
        "CREATE MODEL",
        "gives a network a name",
        "CREATE [OR REPLACE] MODEL name FROM 'uri' [WITH option=value ..];",
        (
            ("'file.onnx', 'file.pt2'", "an ONNX graph, an archive of torch.export"),
            ("'torchvision:name'", "an architecture of torchvision; 'timm:name' of timm"),
            ("'hf:folder or owner/name'", "an image classifier of transformers"),
            ("'python:module:function'", "what a function returns; needs --allow-python"),
            ("OR REPLACE", "lets the name stand for another network"),
        ),
        "CREATE MODEL tumour FROM 'vgg16.onnx' WITH classes=['glioma', 'notumor'];",
        "model",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return _create(self.replace), "MODEL", self.name, "FROM", self.uri, *_with(self.options)


@dataclass(frozen=True, slots=True)
class CreateImages(StatementNode):
    """CREATE [OR REPLACE] IMAGES name FROM glob, SELECT or parameter [WITH options]."""

    name: Name
    source: PathSource | SelectSource | ParameterSource
    replace: bool = False
    options: tuple[Option, ...] = ()

    about: ClassVar[About] = About(
        "CREATE IMAGES",
        "gives a list of images a name",
        "CREATE [OR REPLACE] IMAGES name FROM 'path or glob' | (SELECT ..) | parameter [WITH option=value ..];",
        (("(SELECT ..)", "names images by a column path or image_id; label becomes the label"),),
        "CREATE IMAGES scans FROM 'scans/*.jpg';",
        "images",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return _create(self.replace), "IMAGES", self.name, "FROM", self.source, *_with(self.options)


Kind: TypeAlias = Literal["model", "images", "run"]


@dataclass(frozen=True, slots=True)
class Drop(StatementNode):
    """DROP MODEL | IMAGES | RUN name; only a run's reference is ever anything but a Name."""

    kind: Kind
    name: Reference

    about: ClassVar[About] = About(
        "DROP",
        "forgets a model, a list of images, or a run with its maps",
        "DROP MODEL | IMAGES | RUN name;",
        (),
        "DROP RUN first;",
        second=get_args(Kind),
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "DROP", self.kind.upper(), self.name


Shown: TypeAlias = Literal["models", "images", "runs", "devices", "operators"]


@dataclass(frozen=True, slots=True)
class Show(StatementNode):
    """SHOW MODELS | IMAGES | RUNS | DEVICES | OPERATORS."""

    what: Shown

    about: ClassVar[About] = About(
        "SHOW",
        "lists what there is",
        "SHOW MODELS | IMAGES | RUNS | DEVICES | OPERATORS;",
        (),
        "SHOW RUNS;",
        second=get_args(Shown),
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "SHOW", self.what.upper()


@dataclass(frozen=True, slots=True)
class Describe(StatementNode):
    """DESCRIBE MODEL | IMAGES | RUN name; only a run's reference is ever anything but a Name."""

    kind: Kind
    name: Reference

    about: ClassVar[About] = About(
        "DESCRIBE",
        "shows the layers of a model, the files of images, the maps of a run",
        "DESCRIBE MODEL | IMAGES | RUN name;",
        (),
        "DESCRIBE MODEL tumour;",
        second=get_args(Kind),
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "DESCRIBE", self.kind.upper(), self.name


@dataclass(frozen=True, slots=True)
class Evaluate(StatementNode):
    """EVALUATE run [WITH options]: deletion and insertion curves of its maps."""

    run: Reference
    options: tuple[Option, ...] = ()

    about: ClassVar[About] = About(
        "EVALUATE",
        "deletion and insertion curves of the maps of a run",
        "EVALUATE run [WITH option=value ..];",
        (),
        "EVALUATE first WITH steps=20;",
        "evaluate",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "EVALUATE", self.run, *_with(self.options)


@dataclass(frozen=True, slots=True)
class Render(StatementNode):
    """RENDER run TO path [WITH options]."""

    run: Reference
    path: Text | Parameter
    options: tuple[Option, ...] = ()

    about: ClassVar[About] = About(
        "RENDER",
        "draws the maps of a run over their images",
        "RENDER run TO 'file' [WITH option=value ..];",
        (("'file'", "the suffix says what: .png .jpg .pdf .svg .html .gif .npz"),),
        "RENDER first TO 'first.png';",
        "render",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "RENDER", self.run, "TO", self.path, *_with(self.options)


@dataclass(frozen=True, slots=True)
class ExportRun(StatementNode):
    """EXPORT RUN run TO path [FORMAT format]; None where the path decides the format."""

    run: Reference
    path: Text | Parameter
    format: Word | None = None

    about: ClassVar[About] = About(
        "EXPORT RUN",
        "writes all maps of a run into a folder",
        "EXPORT RUN run TO 'folder or file' [FORMAT format];",
        (("'file'", "without FORMAT: a table of windows (.csv .json .parquet), or what RENDER draws"),),
        "EXPORT RUN first TO 'maps' FORMAT NPZ;",
        "formats",
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "EXPORT RUN", self.run, "TO", self.path, None if self.format is None else "FORMAT", self.format


@dataclass(frozen=True, slots=True)
class SetSetting(StatementNode):
    """SET obeql.name = value; the name in lower case, without `obeql.`, and where it stands."""

    name: str
    value: Value
    name_span: Span = field(default=Span(0, 0), compare=False, repr=False, kw_only=True)

    about: ClassVar[About] = About(
        "SET",
        "changes a setting for this session",
        "SET obeql.setting = value;",
        (),
        "SET obeql.device = 'cpu';",
        "settings",
        ("obeql",),
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return f"SET obeql.{self.name} =", self.value


@dataclass(frozen=True, slots=True)
class ResetSetting(StatementNode):
    """RESET obeql.name."""

    name: str
    name_span: Span = field(default=Span(0, 0), compare=False, repr=False, kw_only=True)

    about: ClassVar[About] = About(
        "RESET",
        "gives a setting its default again",
        "RESET obeql.setting;",
        (),
        "RESET obeql.device;",
        "settings",
        ("obeql",),
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return (f"RESET obeql.{self.name}",)


@dataclass(frozen=True, slots=True)
class SqlStatement(Node):
    """Any other statement, for DuckDB; `text` is untouched, without the `;` and the blanks around it.

    `embedded` are the statements in parentheses inside it; `query` is what DuckDB gets: tables in their places.
    """

    text: str
    embedded: tuple[Embedded, ...] = field(default=(), compare=False, repr=False)

    @property
    def query(self) -> str:
        return with_tables(self.text, self.span.start, (inner.span for inner in self.embedded))


Statement: TypeAlias = (
    ExplainOcclude
    | PlanStatement
    | PlanSql
    | PlanPredict
    | Predict
    | CreateModel
    | CreateImages
    | Drop
    | Show
    | Describe
    | Evaluate
    | Render
    | ExportRun
    | SetSetting
    | ResetSetting
    | SqlStatement
)
#: OBEQL's own, in the order in which help lists them
STATEMENTS: tuple[type[StatementNode], ...] = tuple(
    each for each in get_args(Statement) if issubclass(each, StatementNode)
)
