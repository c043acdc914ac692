"""What each statement and clause becomes in the tree."""

import subprocess
import sys
from pathlib import Path

import pytest

from obeql.grammar import (
    Approx,
    CreateImages,
    CreateModel,
    Describe,
    Device,
    Drop,
    Evaluate,
    Exact,
    ExplainOcclude,
    ExportRun,
    ForAll,
    ForClasses,
    ForLabel,
    ForPredicted,
    ForTop,
    Into,
    ListValue,
    Name,
    NameSource,
    Number,
    Option,
    Parameter,
    ParameterSource,
    PathSource,
    PlanStatement,
    Predict,
    Region,
    Render,
    ResetSetting,
    SelectSource,
    SetSetting,
    Show,
    Sizes,
    SizeValue,
    Span,
    SqlStatement,
    Text,
    TopCells,
    TupleValue,
    Within,
    Word,
    accepts,
    parameters_of,
    parse_script,
    parse_statement,
    print_statement,
    walk,
)

IDENTITY = Path(__file__).parents[1] / "golden" / "identity.sql"
BASE = "EXPLAIN OCCLUDE a USING m "


def explain(clauses: str) -> ExplainOcclude:
    statement = parse_statement(BASE + clauses)
    assert isinstance(statement, ExplainOcclude)
    return statement


@pytest.mark.parametrize("line", [t for t in IDENTITY.read_text("utf-8").splitlines() if not t.startswith("--")])
def test_canonical_text_prints_back_to_itself(line: str) -> None:
    tree = parse_statement(line)
    assert print_statement(tree) == line
    assert parse_statement(line + " ; -- the end") == tree


def test_first_example() -> None:
    assert parse_statement("EXPLAIN OCCLUDE image USING model WITH patch=16 stride=4 APPROX 0.9") == ExplainOcclude(
        NameSource("image"),
        Name("model"),
        options=(Option("patch", Number(16)), Option("stride", Number(4))),
        accuracy=Approx(0.9),
    )


@pytest.mark.parametrize(
    ("clauses", "field", "expected"),
    [
        ("FOR predicted", "selector", ForPredicted()),
        ("for LABEL", "selector", ForLabel()),
        ("FOR CLASS 3", "selector", ForClasses((Number(3),))),
        ("FOR CLASSES (3)", "selector", ForClasses((Number(3),))),
        ("FOR CLASSES (3,'x',?)", "selector", ForClasses((Number(3), Text("x"), Parameter(None, 0)))),
        ("FOR TOP 3", "selector", ForTop(3)),
        ("FOR ALL", "selector", ForAll()),
        ("REGION(1,2,3,4)", "region", Region((1, 2, 3, 4))),
        ("TOP 9 CELLS", "top_cells", TopCells(9)),
        ("exact", "accuracy", Exact()),
        ("APPROX .9 CONFIDENCE 1 METRIC SSIM", "accuracy", Approx(0.9, "ssim", 1)),
        ("WITHIN 1 SECOND", "within", Within(1)),
        ("ON CUDA:*", "device", Device("cuda:*")),
        ("NO REUSE", "reuse", False),
        ("INTO r", "into", Into(Name("r"))),
        ("INTO Or/**/Replace R", "into", Into(Name("R"), True)),
        ("INTO replace", "into", Into(Name("replace"))),
    ],
)
def test_clause(clauses: str, field: str, expected: object) -> None:
    statement = explain(clauses)
    assert getattr(statement, field) == expected
    assert statement == ExplainOcclude(NameSource("a"), Name("m"), **{field: expected})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16", Number(16)),
        ("+16", Number(16)),
        ("-2", Number(-2)),
        ("1e3", Number(1000.0)),
        ("5.", Number(5.0)),
        ("'it''s'", Text("it's")),
        ("DEFAULT", Word("DEFAULT")),
        ("on", Word("on")),
        ("16X24", Sizes((16, 24))),
        ("4x16x8", Sizes((4, 16, 8))),
        ("2gb", SizeValue(2, "GB")),
        ("1.5gib", SizeValue(1.5, "GiB")),
        ("[8,16x2,32]", ListValue((Number(8), Sizes((16, 2)), Number(32)))),
        ("( 0.1 , 0 , ? )", TupleValue((Number(0.1), Number(0), Parameter(None, 0)))),
        ("$fill", Parameter("fill", None)),
    ],
)
def test_value(text: str, expected: object) -> None:
    for statement in (parse_statement(f"SET obeql.X={text}"), parse_statement(f"set OBEQL . x to {text}")):
        assert isinstance(statement, SetSetting)
        assert (statement.name, statement.value) == ("x", expected)
        assert repr(statement.value) == repr(expected)  # 16 and 16.0 differ
    assert explain(f"WITH Patch = {text}, other={text}").options[0].name == "patch"


def test_size_in_bytes() -> None:
    assert SizeValue(2, "GB").n_bytes == 2_000_000_000
    assert SizeValue(1.5, "KiB").n_bytes == 1536


def test_options_end_at_the_next_clause_in_any_order() -> None:
    clauses = ["FOR ALL", "REGION (1,2,3,4)", "WITH patch=8, fill=mean", "TOP 2 CELLS", "APPROX 0.5 METRIC maxerr"]
    clauses += ["WITHIN 2 SECONDS", "ON cpu", "NO REUSE", "INTO r"]
    whole = explain(" ".join(clauses))
    assert None not in (whole.selector, whole.region, whole.top_cells, whole.accuracy, whole.within, whole.into)
    for turn in range(len(clauses)):
        assert explain(" ".join(clauses[turn:] + clauses[:turn])) == whole
        assert explain(" ".join(reversed(clauses[turn:] + clauses[:turn]))) == whole


def test_keywords_are_names_where_names_stand() -> None:
    words = [
        "image",
        "model",
        "label",
        "class",
        "region",
        "top",
        "cells",
        "exact",
        "approx",
        "metric",
        "within",
        "on",
        "no",
        "into",
        "with",
        "for",
        "using",
    ]
    for word in words:
        assert parse_statement(f"EXPLAIN OCCLUDE {word} USING {word} INTO {word}") == ExplainOcclude(
            NameSource(word), Name(word), into=Into(Name(word))
        )
        assert explain(f"WITH {word}={word} {word} ={word}").options == (Option(word, Word(word)),) * 2


def test_other_statements() -> None:
    script = """
        plan explain occlude 'a' using m; predict ? using $m for top 2;
        create model m from ? with size=3; create or replace images i from (select 1 -- )
        ); drop images i; drop run 3; show RUNS; desc model m; describe run 'x'; render r to $p;
        evaluate r with steps=5; export run run to 'f'; export run 3 to $f format Npz; reset obeql.Foo; x;
        export database 'run'"""
    assert parse_script(script) == (
        PlanStatement(False, ExplainOcclude(PathSource("a"), Name("m"))),
        Predict(ParameterSource(Parameter(None, 0)), Parameter("m", None), ForTop(2)),
        CreateModel(Name("m"), Parameter(None, 0), (Option("size", Number(3)),)),
        CreateImages(Name("i"), SelectSource("select 1 -- )\n        "), replace=True),
        Drop("images", Name("i")),
        Drop("run", Number(3)),
        Show("runs"),
        Describe("model", Name("m")),
        Describe("run", Text("x")),
        Render(Name("r"), Parameter("p", None)),
        Evaluate(Name("r"), (Option("steps", Number(5)),)),
        ExportRun(Name("run"), Text("f")),
        ExportRun(Number(3), Parameter("f", None), Word("Npz")),
        ResetSetting("foo"),
        SqlStatement("x"),
        SqlStatement("export database 'run'"),
    )


def test_positional_parameters_are_counted_through_the_select() -> None:
    text = "EXPLAIN OCCLUDE (SELECT '?' /*?*/ WHERE a=? AND b=$x AND c=$1) USING ? WITH patch=? APPROX 1 FOR CLASS ?"
    statement = parse_statement(text)
    assert [(p.name, p.index) for p in parameters_of(statement)] == [
        (None, 0),
        ("x", None),
        (None, 0),
        (None, 1),
        (None, 2),
        (None, 3),
    ]
    assert isinstance(statement, ExplainOcclude) and isinstance(statement.source, SelectSource)
    assert len(statement.source.parameters) == 3
    for parameter in parameters_of(statement):
        assert text[slice(*parameter.span)][0] in "?$"


def test_spans_are_offsets_into_the_script() -> None:
    script = "SELECT 1;\n/* é */ EXPLAIN OCCLUDE (SELECT 2) USING mod WITH patch=16 APPROX 0.9 METRIC ssim ON cuda:0;"
    sql, statement = parse_script(script)
    assert script[slice(*sql.span)] == "SELECT 1"
    assert isinstance(statement, ExplainOcclude) and isinstance(statement.accuracy, Approx)
    texts = [script[slice(*node.span)] for node in walk(statement)]
    assert texts == [
        "EXPLAIN OCCLUDE (SELECT 2) USING mod WITH patch=16 APPROX 0.9 METRIC ssim ON cuda:0",
        "(SELECT 2)",
        "mod",
        "patch=16",
        "16",
        "APPROX 0.9 METRIC ssim",
        "ON cuda:0",
    ]
    assert script[slice(*statement.accuracy.metric_span)] == "ssim"
    assert script[slice(*statement.accuracy.quality_span)] == "0.9"
    assert statement.accuracy.confidence_span == Span(0, 0)


def test_words_that_may_come_next() -> None:
    assert {"EXPLAIN", "PLAN", "PREDICT", "SET"} <= accepts("")
    assert accepts("EXPLAIN OCCLUDE a") == {"USING"}
    assert accepts("SELECT 1; PLAN") == {"ANALYZE", "EXPLAIN", "PREDICT"}
    assert accepts("SHOW") == {"MODELS", "IMAGES", "RUNS", "DEVICES", "OPERATORS"}
    assert {"APPROX", "NO REUSE", "WITH"} <= accepts(BASE)
    assert accepts(BASE + "REGION (1,2,3,4) EXACT").isdisjoint({"REGION", "EXACT", "APPROX"})
    for text in ("SELECT", "EXPLAIN OCCLUDE 'a", "EXPLAIN OCCLUDE a b", BASE + "ON"):
        assert accepts(text) == frozenset()
    assert accepts(BASE + ";") == accepts("")


def test_import_loads_no_parser() -> None:
    code = "import sys, obeql.grammar; sys.exit('lark' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
