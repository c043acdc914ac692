"""Query text nobody would write: a megabyte, deep nesting, NULs, look-alike letters, SQL in names and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import obeql
from obeql.errors import ImageError, ObeqlError, QueryError, QuerySyntaxError, UnknownNameError
from obeql.grammar import parse_script

#: 256 kB where the suite runs every time; the time a text may take grows with its length, not with its square.
LONG = 2**18
OCCLUDE = "EXPLAIN OCCLUDE scans USING net "


def filled(part: str) -> str:
    return part * (LONG // len(part))


LONG_TEXTS = {
    "parentheses": filled("("),
    "open select": f"EXPLAIN OCCLUDE {filled('(')} USING net",
    "closed select": f"EXPLAIN OCCLUDE ({'(' * 99_999}SELECT 1{')' * 99_999}) USING net",
    "brackets": f"{OCCLUDE}WITH patch={filled('[')}",
    "open string": f"EXPLAIN OCCLUDE '{filled('a')}",
    "quotes": f"EXPLAIN OCCLUDE {filled(chr(39))}",
    "open comments": filled("/*"),
    "comments": f"EXPLAIN {filled('/* */')}",
    "dashes": filled("-"),
    "options": f"{OCCLUDE}WITH {filled('patch=8 ')}",
    "list": f"{OCCLUDE}WITH patch=[{filled('8,')}8]",
    "name": f"EXPLAIN OCCLUDE {filled('a')} USING net",
    "option name": f"{OCCLUDE}WITH {filled('a')}=1",
    "digits": f"{OCCLUDE}WITH patch={filled('9')}",
    "exponent": f"{OCCLUDE}APPROX 1e{filled('9')}",
    "dollar quotes": f"SELECT {filled('$a$b')}",
    "NULs": filled("\0"),
    "PLAN": filled("PLAN "),
    "sums": f"SELECT {filled('1+')}1",
    "path": f"EXPLAIN OCCLUDE '{filled('a/')}' USING net",
    "pattern": f"EXPLAIN OCCLUDE '{filled('*')}' USING net",
    "uri": f"CREATE MODEL m FROM '{filled('x')}.onnx'",
    "blanks": filled(" \n"),
}

SHORT_TEXTS = {
    "NUL in a name": 'EXPLAIN OCCLUDE "a\0b" USING net',
    "NUL in a path": "EXPLAIN OCCLUDE 'a\0b' USING net",
    "NUL in SQL": "SELECT \0 1",
    "half a pair": 'EXPLAIN OCCLUDE "\ud800" USING net',
    "half a pair in SQL": "SELECT '\ud800'",
    "Cyrillic E": "ЕXPLAIN OCCLUDE scans USING net",
    "Cyrillic a": f"{OCCLUDE}WITH pаtch=8",
    "wide letters": "ＥＸＰＬＡＩＮ OCCLUDE scans USING net",
    "wide digits": f"{OCCLUDE}WITH patch=１６",
    "Arabic digits": f"{OCCLUDE}WITH patch=١٦",
    "no width": "EXPLAIN\u200b OCCLUDE scans USING net",
    "right to left": "EXPLAIN OCCLUDE \u202escans USING net",
    "curly quotes": "EXPLAIN OCCLUDE ‘a’ USING net",
    "Kelvin": f"{OCCLUDE}WITH border=\u212aover",
    "huge patch": f"{OCCLUDE}WITH patch={10**30}",
    "huge region": f"{OCCLUDE}REGION (0, 0, {10**30}, 5)",
    "huge seed": f"{OCCLUDE}WITH seed=-{10**30}",
    "huge top": f"{OCCLUDE}FOR TOP {10**30}",
    "huge device": f"{OCCLUDE}ON cuda:{10**12}",
    "huge run": f"DESCRIBE RUN {10**30}",
    "no such user": "EXPLAIN OCCLUDE '~nobody-here/a.png' USING net",
}


@pytest.fixture(scope="module")
def net_db(shared_db: Any) -> Any:
    shared_db.create_images("scans", [np.zeros((32, 32, 3), np.uint8)])
    return shared_db


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_long_texts_end_in_an_error_or_a_result(net_db: Any, name: str, scanned: list[int]) -> None:
    try:
        net_db.execute(LONG_TEXTS[name])
    except ObeqlError as error:
        assert len(str(error)) < 4000 and "Traceback" not in str(error)
    assert 0 < sum(scanned) <= 4 * len(LONG_TEXTS[name])  # a bounded number of readings
    assert net_db.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize("name", SHORT_TEXTS)
def test_odd_texts_are_refused_in_words(net_db: Any, dump: Any, name: str) -> None:
    before = dump(net_db)
    with pytest.raises(ObeqlError) as caught:
        net_db.execute(SHORT_TEXTS[name])
    said = str(caught.value)
    assert said and not {"\0", "\ud800", "\u202e", "\x1b"} & set(said)
    said.encode()
    assert dump(net_db) == before


def test_look_alikes_are_shown_and_named(net_db: Any) -> None:
    with pytest.raises(QuerySyntaxError, match="Did you mean 'EXPLAIN'"):
        net_db.execute(SHORT_TEXTS["Cyrillic E"])


def test_many_statements() -> None:
    assert len(parse_script("SHOW MODELS;" * 5000)) == 5000


# ---- injection -------------------------------------------------------------------------------------------------

EVIL = "x'; DROP TABLE kept; SELECT '"
EVIL_NAME = 'x"; DROP TABLE kept; --'


@pytest.fixture
def kept(net_db: Any) -> Any:
    net_db.execute("CREATE OR REPLACE TABLE kept AS SELECT 42 AS a")
    yield net_db
    assert net_db.execute("SELECT a FROM kept").fetchall() == [(42,)]


def test_names_are_quoted(kept: Any, tiny_net: Any, tmp_path: Path) -> None:
    for name in (EVIL, EVIL_NAME, "'; --", "$1", "?", "%s", "a\nb"):
        quoted = '"' + name.replace('"', '""') + '"'
        kept.create_model(name, tiny_net(), size=(32, 32), classes=[name, "b", "c"], replace=True)
        kept.create_images(name, [np.zeros((32, 32, 3), np.uint8)], replace=True)
        result = kept.execute(
            f"EXPLAIN OCCLUDE {quoted} USING {quoted} FOR CLASS ? WITH patch=16 INTO {quoted}", [name]
        )
        assert result[0].class_name == name and len(kept.run(name)) == 1
        kept.execute(f"DESCRIBE MODEL {quoted}")
        kept.execute(f"DESCRIBE IMAGES {quoted}")
        kept.execute(f"DESCRIBE RUN {quoted}")
        assert kept.execute("SELECT count(*) FROM heatmaps WHERE run_name = ?", [name]).fetchall() == [(1,)]
        kept.execute("DROP RUN ?", [name])
        kept.execute(f"DROP IMAGES {quoted}")
        kept.execute(f"DROP MODEL {quoted}")


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("EXPLAIN OCCLUDE ? USING net", (ImageError, UnknownNameError)),
        ("EXPLAIN OCCLUDE scans USING net FOR CLASS ?", UnknownNameError),
        ("EXPLAIN OCCLUDE scans USING net WITH fill=?", QueryError),
        ("DESCRIBE RUN ?", UnknownNameError),
        ("DROP RUN ?", UnknownNameError),
        ("RENDER ? TO 'a.png'", UnknownNameError),
        ("SET obeql.device = ?", QueryError),
        ("CREATE MODEL m FROM ?", ObeqlError),
    ],
)
@pytest.mark.parametrize("value", [EVIL, EVIL_NAME, "\0", "' OR 1=1 --"])
def test_values_are_bound(kept: Any, statement: str, kind: Any, value: str) -> None:
    with pytest.raises(kind):
        kept.execute(statement, [value])


def test_names_from_a_select_are_values(kept: Any, tmp_path: Path) -> None:
    with pytest.raises(ObeqlError):
        kept.execute("EXPLAIN OCCLUDE (SELECT ? AS path, ? AS label) USING net FOR LABEL", [EVIL, EVIL])


# ---- messages --------------------------------------------------------------------------------------------------


def test_messages_are_cut_and_do_not_reach_into_the_terminal() -> None:
    error = obeql.ObeqlError("a" * 10**6 + "\x1b[2J\x07\u202e" + "b" * 10)
    assert len(str(error)) < 2100 and str(error).endswith("b") and " .. " in str(error)
    assert not {"\x1b", "\x07", "\u202e"} & set(str(error))
    assert str(obeql.ObeqlError("two\n\tlines")) == "two\n\tlines"
    placed = QueryError("bad").locate("SELECT \x1b[31m 1", 7)
    assert "\x1b" not in str(placed) and placed.column == 8


def test_names_do_not_become_parts_of_a_report(kept: Any, tiny_net: Any, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    kept.create_model(evil, tiny_net(), size=(32, 32), classes=[evil, "b", "c"])
    result = kept.execute(f'EXPLAIN OCCLUDE scans USING "{evil}" FOR CLASS 0 WITH patch=16')
    result.report(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert page.count("</script>") == 2  # the data and the program
