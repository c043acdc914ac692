"""Scripts whose statements are planned together: classes of the same windows are computed once."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HEAD = "EXPLAIN OCCLUDE '{folder}/*.png' USING net"


def run(db: Any, folder: Path, *statements: str) -> list[Any]:
    text = ";".join(HEAD.format(folder=folder) + " " + statement for statement in statements)
    return list(db.run_script(text))


def computed(db: Any) -> list[int]:
    rows = db.execute("SELECT (measured->>'cells_computed')::INTEGER FROM runs ORDER BY run_id").fetchall()
    return [n for (n,) in rows]


def n_loose(db: Any) -> int:
    sql = "SELECT count(*) FROM obeql_store.maps WHERE map_id NOT IN (SELECT map_id FROM obeql_store.run_maps)"
    return int(db.execute(sql).fetchall()[0][0])


PAIRS = [
    ("FOR CLASS 0 WITH patch=8", "FOR CLASS 1 WITH patch=8"),
    ("FOR CLASS 'ant' WITH patch=8 stride=2", "FOR CLASSES ('cat', 'bee') WITH patch=8x8, stride=2 score=logit"),
    ("WITH patch=[8, 12] stride=4", "FOR ALL WITH patch=[8, 12] stride=4"),
    ("FOR CLASS 2 WITH patch=8", "FOR TOP 2 WITH patch=8"),
    ("FOR TOP 1 WITH patch=8", "EXACT FOR PREDICTED WITH patch=8 border=cover"),
]


@pytest.mark.parametrize("statements", PAIRS)
def test_other_classes_of_the_same_windows_are_computed_once(
    net_db: Any, folder: Path, statements: tuple[str, str]
) -> None:
    alone = [run(net_db, folder, statement + " NO REUSE")[0] for statement in statements]
    together = run(net_db, folder, *statements)
    for expected, found in zip(alone, together, strict=True):
        assert [(heat.image, heat.class_id, heat.patch) for heat in found] == [
            (heat.image, heat.class_id, heat.patch) for heat in expected
        ]
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one.cells.logit, other.cells.logit)
            np.testing.assert_array_equal(one.cells.others, other.cells.others)
            np.testing.assert_array_equal(one.top_class, other.top_class)
            assert one.clean_score == other.clean_score


@pytest.mark.parametrize("statements", PAIRS)
def test_the_second_statement_computes_nothing(net_db: Any, folder: Path, statements: tuple[str, str]) -> None:
    run(net_db, folder, *statements)
    first, second = computed(net_db)
    assert first > 0
    assert second == 0
    assert n_loose(net_db) == 0  # what was stored ahead belongs to the second run now


@pytest.mark.parametrize(
    "second",
    [
        "FOR CLASS 1 WITH patch=12",
        "FOR CLASS 1 WITH patch=8 stride=8",
        "FOR CLASS 1 WITH patch=8 fill=black",
        "FOR CLASS 1 WITH patch=8 precision=float64",
        "FOR CLASS 1 WITH patch=8 NO REUSE",
        "FOR CLASS 1 WITH patch=8 APPROX 0.5",
        "FOR CLASS 1 REGION (0, 0, 16, 16) WITH patch=8",
    ],
)
def test_what_is_not_the_same_windows_is_left_to_its_turn(net_db: Any, folder: Path, second: str) -> None:
    outcomes = net_db.run_script(f"{HEAD} FOR CLASS 0 WITH patch=8; {HEAD} {second}".format(folder=folder))
    next(outcomes)
    assert n_loose(net_db) == 0
    assert len(next(outcomes)) == 3


def test_the_rule_can_be_switched_off(net_db: Any, folder: Path) -> None:
    net_db.execute("SET obeql.disabled_rules = 'share_windows'")
    run(net_db, folder, *PAIRS[0])
    first, second = computed(net_db)
    assert second == first > 0


def test_a_statement_that_would_fail_is_told_in_its_turn(net_db: Any, folder: Path) -> None:
    from obeql.errors import QueryTypeError, UnknownNameError

    net_db.execute("SET obeql.max_cells = 1000")
    for second, error in (("FOR ALL WITH patch=8", QueryTypeError), ("FOR CLASS 'dog' WITH patch=8", UnknownNameError)):
        outcomes = net_db.run_script(f"{HEAD} FOR CLASS 0 WITH patch=8 stride=4; {HEAD} {second}".format(folder=folder))
        assert len(next(outcomes)) == 3
        with pytest.raises(error):
            next(outcomes)
        assert n_loose(net_db) == 0


def test_what_was_stored_ahead_in_vain_goes_with_the_next_dropped_run(net_db: Any, folder: Path) -> None:
    outcomes = net_db.run_script(
        f"{HEAD} FOR CLASS 0 WITH patch=8; {HEAD} FOR CLASS 1 WITH patch=8".format(folder=folder)
    )
    result = next(outcomes)
    del outcomes  # as after Ctrl-C
    assert n_loose(net_db) == 3
    assert net_db.execute("SELECT count(*) FROM heatmaps").fetchall() == [(3,)]
    net_db.execute(f"DROP RUN {result.run_id}")
    assert net_db.execute("SELECT count(*) FROM obeql_store.maps").fetchall() == [(0,)]


def test_replacing_a_run_keeps_what_was_stored_ahead(net_db: Any, folder: Path, tiny_net: Any) -> None:
    run(net_db, folder, "FOR CLASS 0 WITH patch=8 INTO one")
    net_db.create_model("net", tiny_net(1), size=(32, 32), classes=["ant", "bee", "cat"], replace=True)
    run(net_db, folder, "FOR CLASS 0 WITH patch=8 INTO OR REPLACE one", "FOR CLASS 1 WITH patch=8 INTO two")
    assert computed(net_db)[-1] == 0
    assert n_loose(net_db) == 0


def test_a_script_is_bound_in_linear_time_and_reads_each_source_once(
    net_db: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obeql.session.catalog import SessionCatalog

    binding = import_module("obeql.planner.binding.bind")  # the package has a function of that name
    read: list[str] = []
    bound: list[Any] = []
    selected, bind_explain = SessionCatalog.images_selected, binding._bind_explain

    def reading(self: Any, sql: str, *rest: Any) -> Any:
        read.append(sql)
        return selected(self, sql, *rest)

    def binding_one(*arguments: Any) -> Any:
        bound.append(arguments[0])
        return bind_explain(*arguments)

    monkeypatch.setattr(SessionCatalog, "images_selected", reading)
    monkeypatch.setattr(binding, "_bind_explain", binding_one)
    source = f"(SELECT file FROM glob('{folder}/*.png') WHERE file LIKE '%{{}}.png')"
    alike = [f"EXPLAIN OCCLUDE {source.format('')} USING net FOR CLASS {k} WITH patch=16 stride=16" for k in (0, 1, 2)]
    apart = [f"EXPLAIN OCCLUDE {source.format(k)} USING net FOR CLASS 0 WITH patch=16 stride=16" for k in (1, 2, 3)]
    fails = f"EXPLAIN OCCLUDE {source.format('')} USING net FOR CLASS 7 WITH patch=16 stride=16"
    outcomes = net_db.run_script(";".join([*alike, *apart, fails]))
    for _ in (*alike, *apart):
        next(outcomes)
    assert len(read) == len(alike) + len(apart)
    # in its turn each, and ahead only what reads like the first one
    assert len(bound) == len(alike) + len(apart) + len(alike)
    assert computed(net_db) == [3 * 4, 0, 0, 0, 0, 0]


def test_what_stands_between_statements_ends_the_look_ahead(net_db: Any, folder: Path) -> None:
    """SQL may change what a source yields, so that what comes after it is not looked at."""
    head = HEAD.format(folder=folder)
    outcomes = net_db.run_script(f"{head} FOR CLASS 0 WITH patch=8; SELECT 1; {head} FOR CLASS 1 WITH patch=8")
    next(outcomes)
    assert n_loose(net_db) == 0


def test_statements_that_read_alike_share_windows_also_with_others_between(net_db: Any, folder: Path) -> None:
    run(net_db, folder, "FOR CLASS 0 WITH patch=8", "FOR CLASS 0 WITH patch=12", "FOR CLASS 1 WITH patch=8")
    first, second, third = computed(net_db)
    assert first > 0 and second > 0 and third == 0
