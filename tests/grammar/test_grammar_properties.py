"""`parse(print(t)) == t` over generated trees, and no text that raises anything but a QuerySyntaxError."""

import contextlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from obeql import grammar as g
from obeql.errors import QuerySyntaxError
from obeql.grammar.scanner import scan, split_script

FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NASTY = [
    "or",
    "using",
    "SELECT",
    "a b",
    'a"b',
    "16x24",
    "x'y",
    "--",
    "/*",
    ";",
    "é",
    "\x00",
    "\x02\x01",
    "$$",
    "?",
    " ",
]
words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
plain = st.text(max_size=12)
names = st.one_of(words, st.sampled_from(NASTY), st.text(min_size=1, max_size=12))
lower = words.map(str.lower)
ints = st.integers(-(10**20), 10**20)
reals = st.one_of(ints, st.floats(allow_nan=False, allow_infinity=False))
whole = st.builds(g.Number, ints)
parameters = st.one_of(st.builds(g.Parameter, words, st.none()), st.builds(g.Parameter, st.none(), st.integers(0, 5)))
name_nodes = st.builds(g.Name, names)
texts = st.builds(g.Text, plain)
scalars = st.one_of(
    st.builds(g.Number, reals),
    texts,
    st.builds(g.Word, names),
    st.builds(g.Sizes, st.lists(st.integers(0, 999), min_size=2, max_size=4).map(tuple)),
    st.builds(g.SizeValue, st.one_of(st.integers(0, 99), st.just(1.5)), st.sampled_from(sorted(g.SIZE_UNITS))),
    parameters,
)
several = st.lists(scalars, min_size=1, max_size=4).map(tuple)
calls = st.builds(g.CallValue, lower, st.just(()) | several)
nested = st.recursive(scalars, lambda item: st.builds(g.ListValue, st.lists(item, min_size=1, max_size=3).map(tuple)))
structs = st.builds(g.StructValue, st.lists(st.builds(g.Field, plain, nested), min_size=1, max_size=3).map(tuple))
values = st.one_of(scalars, st.builds(g.ListValue, several), st.builds(g.TupleValue, several), calls, structs)
options = st.lists(st.builds(g.Option, lower, values), max_size=4).map(tuple)
selects = st.builds(
    g.SelectSource,
    st.sampled_from(
        ["SELECT 1", " from t -- )\n", "SELECT ? , ')', $$($$", "(SELECT $2)", "/* ( */ WITH x AS (FROM t) FROM x"]
    ),
)
paths = st.builds(g.PathSource, plain)
parameter_sources = st.builds(g.ParameterSource, parameters)
sources = st.one_of(st.builds(g.NameSource, names), paths, selects, parameter_sources)
models = st.one_of(name_nodes, texts, parameters)
for_top = st.builds(g.ForTop, ints)
selectors = st.one_of(
    st.just(g.ForPredicted()),
    st.just(g.ForLabel()),
    st.just(g.ForAll()),
    for_top,
    st.builds(g.ForClasses, st.lists(st.one_of(whole, texts, parameters), min_size=1, max_size=3).map(tuple)),
)
approx = st.builds(g.Approx, reals, st.none() | lower, st.none() | reals)
devices = st.builds(g.Device, st.from_regex(r"[a-z]{1,5}(:([0-9]|\*))?", fullmatch=True))
explains = st.builds(
    g.ExplainOcclude,
    sources,
    models,
    st.none() | selectors,
    st.none() | st.builds(g.Region, st.tuples(ints, ints) | st.tuples(ints, ints, ints, ints)),
    st.none() | st.builds(g.Windows, selects | parameters),
    options,
    st.none() | st.builds(g.TopCells, ints),
    st.none() | st.just(g.Exact()) | approx,
    st.none() | st.builds(g.Within, reals),
    st.none() | devices,
    st.booleans(),
    st.none() | st.builds(g.Into, name_nodes, st.booleans()),
)
runs = st.one_of(name_nodes, whole, texts, parameters)
targets = st.one_of(st.tuples(st.sampled_from(["model", "images"]), name_nodes), st.tuples(st.just("run"), runs))
statements = st.one_of(
    explains,
    st.builds(g.PlanStatement, st.booleans(), explains),
    st.builds(g.Predict, sources, models, st.none() | for_top),
    st.builds(g.CreateModel, name_nodes, texts | parameters, options, st.booleans()),
    st.builds(g.CreateImages, name_nodes, st.one_of(paths, selects, parameter_sources), st.booleans()),
    targets.map(lambda target: g.Drop(*target)),
    targets.map(lambda target: g.Describe(*target)),
    st.builds(g.Show, st.sampled_from(["models", "images", "runs", "devices", "operators"])),
    st.builds(g.Render, runs, texts | parameters),
    st.builds(g.Evaluate, runs, options),
    st.builds(g.ExportRun, runs, texts | parameters, st.none() | st.builds(g.Word, names)),
    st.builds(g.SetSetting, lower, values),
    st.builds(g.ResetSetting, lower),
)

PIECES = """EXPLAIN OCCLUDE PLAN ANALYZE USING m WITH patch = 16 16x24 16foo ( ) [ ] , ; ' '' " $$ $a$ $x ? -- /* */
    SELECT FOR CLASS CLASSES TOP 5 CELLS APPROX 0.9 METRIC ssim ON cuda:* INTO OR REPLACE SET obeql.x"""
fragments = st.lists(st.sampled_from([*PIECES.split(), "\n"]) | st.text(max_size=3), max_size=14)


@FAST
@given(statements)
def test_print_then_parse(tree: g.Statement) -> None:
    text = g.print_statement(tree)
    again = g.parse_statement(text)
    assert again == tree
    assert repr(again) == repr(tree)  # equality alone does not tell 1 from 1.0
    assert g.print_statement(again) == text
    assert g.parse_script(f"SELECT 1;{text};;{text} -- end") == (g.SqlStatement("SELECT 1"), tree, tree)


@FAST
@given(st.one_of(st.text(), fragments.map(" ".join), fragments.map(lambda parts: "EXPLAIN OCCLUDE " + " ".join(parts))))
def test_any_text_parses_or_is_a_syntax_error(text: str) -> None:
    with contextlib.suppress(QuerySyntaxError):
        for tree in g.parse_script(text):
            assert g.parse_statement(g.print_statement(tree)) == tree
    g.accepts(text)
    g.is_complete(text)


@FAST
@given(st.one_of(st.text(), fragments.map("".join)))
def test_the_scanner_loses_nothing(text: str) -> None:
    assert "".join(text[token.start : token.end] for token in scan(text)) == text
    for raw in split_script(text):
        assert text[raw.start : raw.end] == raw.text and not raw.text[0].isspace()


def test_letters_that_grow_when_made_small() -> None:
    """İ in small letters is two characters, the second of which is no letter; found by scripts/fuzz_text.py."""
    for text in ("EXPLAIN OCCLUDE a USING m ON cudİa:0", "EXPLAIN OCCLUDE a USING m WITH İ=1", "SET obeql.İx = 1"):
        try:
            tree = g.parse_statement(text)
        except QuerySyntaxError:
            continue
        assert g.parse_statement(g.print_statement(tree)) == tree
