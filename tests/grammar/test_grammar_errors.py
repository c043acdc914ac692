"""Every complaint: what it says and where it points."""

import pytest

from obeql.errors import QuerySyntaxError
from obeql.grammar import parse_script, parse_statement

BASE = "EXPLAIN OCCLUDE a USING m "

# The place is marked with ^ in the text; the words must occur in the message.
CASES = [
    ("EXPLAIN ^OCLUDE x USING m", ["expected OCCLUDE, found 'OCLUDE'", "Did you mean 'OCCLUDE'?"]),
    ("^EXPLIAN OCCLUDE x USING m", ["Did you mean 'EXPLAIN'"]),
    ("^EXPLAN x USING m", ["Did you mean 'EXPLAIN'"]),
    ("EXPLAIN ^scans USING m", ["expected OCCLUDE, found 'scans'"]),
    ("^OCCLUDE x USING m", ["expected", "EXPLAIN"]),
    ("^PREDCIT x USING m", ["Did you mean 'PREDICT'?"]),
    ("^RENDR x TO 'a'", ["Did you mean 'RENDER'?"]),
    ("^CRAETE MODEL m FROM 'x'", ["Did you mean 'CREATE'?"]),
    ("^PALN EXPLAIN OCCLUDE x USING m", ["'PLAN'"]),
    ("EXPLAIN OCCLUDE x ^UISNG m", ["expected USING", "Did you mean 'USING'?"]),
    ("EXPLAIN OCCLUDE x ^", ["expected USING, found the end of the statement"]),
    ("EXPLAIN OCCLUDE^", ["a name", "a SELECT in parentheses", "a parameter"]),
    ("EXPLAIN OCCLUDE USING ^m", ["What stands before USING is missing"]),
    ("EXPLAIN ^ANALYZE OCCLUDE x USING m", ["PLAN ANALYZE EXPLAIN OCCLUDE"]),
    ("PLAN ^SELECT 1", ["EXPLAIN SELECT"]),
    ("PLAN ^PREDCIT a USING m", ["expected ANALYZE, EXPLAIN or PREDICT", "Did you mean 'PREDICT'?"]),
    ("EXPLAIN OCCLUDE a^.jpg USING m", ["double quotes"]),
    ("EXPLAIN OCCLUDE a USING resnet^-18", ["double quotes"]),
    (BASE + "^APROX 0.9", ["Did you mean 'APPROX'?"]),
    (BASE + "WITH patch=16 stride=4 ^APROX 0.9", ["Did you mean 'APPROX'?"]),
    (BASE + "^, n", ["found ','", "or the end of the statement"]),
    (BASE + "REGION (1, 2, 3^)", ["expected a comma, found ')'"]),
    (BASE + "REGION (1, ^2.5, 3, 4)", ["expected a whole number", "'2.5'"]),
    (BASE + "WITH ^", ["an option such as patch=16"]),
    (BASE + "WITH ^patch 16", ["An option is written patch=value"]),
    (BASE + "WITH patch=^16foo", ["A number may not touch a letter"]),
    (BASE + "WITH patch=^16x24x", ["A number may not touch a letter"]),
    (BASE + "WITH patch=^1.2.3", ["found '1.2.3'"]),
    (BASE + "WITH patch=[^]", ["found ']'"]),
    (BASE + "WITH patch=[1, ^[2]]", ["found '['"]),
    (BASE + "WITH patch=16, ^APPROX 0.9", ["expected an option such as patch=16"]),
    (BASE + "TOP 5 ^CELS", ["Did you mean 'CELLS'?"]),
    (BASE + "TOP ^x CELLS", ["expected a whole number"]),
    (BASE + "FOR ^PREDICTD", ["Did you mean 'PREDICTED'?"]),
    (BASE + "FOR CLASS ^cat", ["Text is written in single quotes: 'cat'"]),
    (BASE + "WITHIN 5 ^MINUTES", ["expected SECONDS"]),
    (BASE + "NO ^", ["expected REUSE"]),
    (BASE + "ON ^'cuda'", ["a device such as cpu or cuda:0"]),
    (BASE + "FOR ALL WITH a=1 ^FOR LABEL", ["FOR is given twice"]),
    (BASE + "REGION (1,2,3,4) ^REGION (1,2,3,4)", ["REGION is given twice"]),
    (BASE + "WITH a=1 EXACT ^WITH b=2", ["WITH is given twice"]),
    (BASE + "TOP 1 CELLS ^TOP 2 CELLS", ["TOP .. CELLS is given twice"]),
    (BASE + "APPROX 1 ^APPROX 1", ["APPROX is given twice"]),
    (BASE + "EXACT ^APPROX 1", ["EXACT and APPROX exclude each other"]),
    (BASE + "WITHIN 1 SECONDS ^WITHIN 1 SECONDS", ["WITHIN is given twice"]),
    (BASE + "ON cpu ^ON cuda", ["ON is given twice"]),
    (BASE + "NO REUSE ^NO REUSE", ["NO REUSE is given twice"]),
    (BASE + "INTO a ^INTO b", ["INTO is given twice"]),
    (BASE + "APPROX 1 METRIC ssim ^METRIC ssim", ["METRIC is given twice"]),
    (BASE + "WITH a=^1e999", ["too large"]),
    (BASE + "WITH a=^" + "9" * 5000, ["too many digits"]),
    (BASE + "WITH a=^" + "9" * 5000 + "x1", ["too many digits"]),
    (BASE + "WITH a=^$0", ["counted from $1"]),
    ("EXPLAIN OCCLUDE (^) USING m", ["a source in parentheses is a query"]),
    ("EXPLAIN OCCLUDE (^'a.png') USING m", ["a source in parentheses is a query"]),
    ("EXPLAIN OCCLUDE ^(SELECT (1) USING m", ["this parenthesis is not closed"]),
    ("EXPLAIN OCCLUDE ^(SELECT 1; SELECT 2) USING m", ["this parenthesis is not closed"]),
    ("EXPLAIN OCCLUDE (SELECT 1) ^(SELECT 2) USING m", ["expected USING"]),
    ("EXPLAIN OCCLUDE ^'a USING m", ["this string is not closed"]),
    ("EXPLAIN OCCLUDE ^'a'' USING m", ["this string is not closed"]),
    ('EXPLAIN OCCLUDE ^"a USING m', ["this quoted name is not closed"]),
    ("EXPLAIN OCCLUDE a USING m ^/* /* */", ["this comment is not closed"]),
    ("EXPLAIN OCCLUDE (SELECT ^$x$ ) USING m", ["this dollar quote is not closed"]),
    ('EXPLAIN OCCLUDE ^"" USING m', ["expected"]),
    ("EXPLAIN OCCLUDE ^\x00 USING m", ["\\x00"]),
    ("EXPLAIN OCCLUDE ^\x02\x01\x01 USING m", ["\\x02"]),
    ("EXPLAIN OCCLUDE ^$$a$$ USING m", ["found '$'"]),
    ("CREATE ^MODLE m FROM 'x'", ["Did you mean 'MODEL'"]),
    ("CREATE OR REPLACE ^IMAGE m FROM 'x'", ["Did you mean 'IMAGES'"]),
    ("CREATE MODEL m FROM ^torchvision:resnet18", ["single quotes: 'torchvision'"]),
    ("DROP ^MODELS m", ["Did you mean 'MODEL'"]),
    ("DROP MODEL ^3", ["expected a name"]),
    ("SHOW MODELS ^x", ["expected the end of the statement"]),
    ('RENDER x TO ^"a"', ["double quotes are for names"]),
    ("SET ^obeql.=3", ["a setting such as"]),
    ("SET obeql.x ^3", ["expected TO or ="]),
    ("RESET obeql.x ^y", ["expected the end of the statement"]),
    ("SELECT 1;\n-- ;\nSELECT ';';\tEXPLAIN OCCLUDE a ^b", ["expected USING"]),
    (BASE + "-- more\n WITH^ /* nothing */ -- at all\n", ["found the end of the statement"]),
]


@pytest.mark.parametrize(("marked", "words"), CASES)
def test_complaint(marked: str, words: list[str]) -> None:
    offset = marked.index("^")
    text = marked.replace("^", "", 1)
    with pytest.raises(QuerySyntaxError) as caught:
        parse_script(text)
    error = caught.value
    for word in words:
        assert word in error.message
    if text.endswith(" ") and offset == len(text):
        offset = len(text.rstrip())
    assert error.line == text.count("\n", 0, offset) + 1
    assert error.column == offset - text.rfind("\n", 0, offset)
    assert error.context.splitlines()[-1].endswith("^")
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)


def test_a_single_statement_is_one() -> None:
    for text, words in (("", "found nothing"), (" ; -- x\n", "found nothing"), ("SHOW RUNS; SHOW RUNS", "another")):
        with pytest.raises(QuerySyntaxError, match=words):
            parse_statement(text)
    assert parse_script(" ; /* ; */ ;; -- x") == ()


@pytest.mark.parametrize(
    "text",
    [
        BASE + "WITH a=" + "[" * 100_000,
        BASE + "WITH a=" + "(" * 100_000 + ")" * 100_000,
        "EXPLAIN OCCLUDE " + "(" * 200_000 + " USING m",
        "EXPLAIN OCCLUDE " + "(SELECT " * 100_000 + ")" * 100_000 + " USING m",
        "EXPLAIN OCCLUDE " + "/*" * 200_000,
        "EXPLAIN OCCLUDE " + "'" * 300_001,
        "EXPLAIN OCCLUDE " + '"' * 300_001,
        "EXPLAIN OCCLUDE " + "$a$" * 100_001,
        "EXPLAIN OCCLUDE " + "$a " * 100_001,
        "EXPLAIN OCCLUDE " + "x" * 1_000_000,
        "EXPLAIN OCCLUDE " + "x " * 100_000,
        BASE + "WITH " + "x" * 500_000 + " " * 500_000,
        BASE + "WITH a=" + "9" * 1_000_000,
        BASE + "EXACT " * 50_000,
        BASE + "\N{ZERO WIDTH SPACE}\ud800",
        "EXPLAIN " + "O" * 500_000,
        "E'" + "\\'" * 300_000,
        "\0",
    ],
    ids=range(18),
)
def test_absurd_texts_end_in_an_error_or_a_result(text: str, scanned: list[int]) -> None:
    try:
        parse_script(text)
    except QuerySyntaxError as error:
        assert len(str(error)) < 2000
    assert 0 < sum(scanned) <= 4 * len(text)  # a bounded number of readings, however the parentheses are nested


@pytest.mark.parametrize("statement", ["EXPLAIN OCCLUDE {} USING m", "PREDICT {} USING m"])
@pytest.mark.parametrize("whole", ["EXPLAIN OCCLUDE {} USING m", "SELECT * FROM {}"])
def test_statements_nest_to_a_limit(statement: str, whole: str) -> None:
    def nested(depth: int) -> str:
        text = "x" if whole.startswith("EXPLAIN") and not depth else "(SELECT image FROM x)"
        for _ in range(depth):
            text = f"(SELECT image FROM ({statement.format(text)}))"
        return whole.format(text)

    parse_statement(nested(20))
    for depth in (50, 1000):
        with pytest.raises(QuerySyntaxError, match="inside one another at most 32 deep"):
            parse_statement(nested(depth))


def test_a_call_of_predict_is_read_once() -> None:
    text = "SELECT * FROM " + "(predict (" * 20_000 + "1" + "))" * 20_000
    (statement,) = parse_script(text)
    assert statement.text == text  # type: ignore[union-attr]


def test_a_long_list_parses() -> None:
    statement = parse_statement(BASE + "WITH a=[" + "1," * 20_000 + "1] FOR CLASSES (" + "'x'," * 1000 + "?)")
    assert len(statement.options[0].value.items) == 20_001  # type: ignore[union-attr]
