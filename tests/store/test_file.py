"""Opening, closing, sharing and recovering store files."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import duckdb
import numpy as np
import pytest

from obeql.errors import StoreError
from obeql.planner.catalog import ImageRecord, Preprocessing
from obeql.planner.cells import CellKey, MapCells
from obeql.planner.geometry import LayerSpec, Network
from obeql.store import SCHEMA_VERSION, STORAGE_VERSION, ImageMaps, RunRecord, Store, fresh, opening
from obeql.store.comments import COLUMNS, MACROS, TABLE_MACROS, VIEWS, comment_of
from obeql.store.driver import Database


def record(name: str | None = None) -> RunRecord:
    return RunRecord("EXPLAIN OCCLUDE a USING m", "m", "mh", "ph", "log_odds", name, {"border": "cover"})


def test_memory_store_answers_empty_views() -> None:
    with Store() as store:
        for view in ("runs", "heatmaps", "cells", "models", "images", "image_sets", "predictions", "failures"):
            assert store.connection.execute(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]
        assert store.runs() == [] and store.models() == [] and store.image_sets() == []


def test_close_is_idempotent_and_later_use_says_so() -> None:
    store = Store()
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.runs()
    with pytest.raises(StoreError, match="is closed"):
        _ = store.connection


def test_new_files_are_readable_by_duckdb_1_5(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    for _ in range(2):  # created, then reopened and written to
        with Store(file) as store:
            assert store.storage_version() == "v1.5.0+"
            store.finish_run(store.begin_run(record()), "done")


@pytest.mark.parametrize("name", ["obeql.duckdb", "main.duckdb", "cells.duckdb", "with space.duckdb"])
def test_a_file_may_be_called_anything(tmp_path: Path, name: str) -> None:
    with Store(tmp_path / name) as store:
        store.begin_run(record("r"))
        assert store.connection.execute("SELECT run_name FROM runs").fetchall() == [("r",)]
    with Store(tmp_path / name, read_only=True) as store:
        assert store.run("r") is not None


def test_the_one_name_a_file_may_not_have(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be named .obeql_store\.duckdb."):
        Store(tmp_path / "obeql_store.duckdb")


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.duckdb"
    junk.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="is not a DuckDB database file"):
        Store(junk)
    with pytest.raises(StoreError, match=r"the folder .* does not exist"):
        Store(tmp_path / "missing" / "heat.duckdb")
    with pytest.raises(StoreError, match="is a folder"):
        Store(tmp_path)
    with pytest.raises(StoreError, match=r"there is no database .*without read_only it would be created"):
        Store(tmp_path / "none.duckdb", read_only=True)
    with pytest.raises(StoreError, match="in memory starts empty"):
        Store(read_only=True)


def test_read_only_refuses_writes_and_files_without_a_store(tmp_path: Path) -> None:
    plain = tmp_path / "plain.duckdb"
    duckdb.connect(str(plain)).close()
    with pytest.raises(StoreError, match="is a DuckDB file without heat maps"):
        Store(plain, read_only=True)
    Store(plain).close()
    with Store(plain, read_only=True) as store, pytest.raises(StoreError, match="opened read-only"):
        store.begin_run(record())


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    with Store(file) as store:
        store.connection.execute("INSERT INTO obeql_store.schema_version VALUES (?, NULL)", [SCHEMA_VERSION + 1])
    with pytest.raises(StoreError, match=f"has schema version {SCHEMA_VERSION + 1}.*upgrade OBEQL"):
        Store(file)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TABLE images (a INT)", "table 'images'"),
        ("CREATE VIEW Cells AS SELECT 1", "view 'Cells'"),
        ("CREATE MACRO box_mean(a) AS a", "macro 'box_mean'"),
        ("CREATE SCHEMA obeql_store", "schema 'obeql_store'"),
    ],
)
def test_a_users_object_of_our_name_is_named_and_kept(tmp_path: Path, statement: str, named: str) -> None:
    file = tmp_path / "mine.duckdb"
    connection = duckdb.connect(str(file))
    connection.execute("CREATE TABLE other AS SELECT 7 AS a")
    connection.execute(statement)
    connection.close()
    with pytest.raises(StoreError, match=named):
        Store(file)
    connection = duckdb.connect(str(file))
    assert connection.execute("SELECT a FROM other").fetchall() == [(7,)]
    assert connection.execute("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'obeql_store'").fetchall() == [
        (0,)
    ]
    connection.close()


def test_the_store_joins_a_file_with_other_tables(tmp_path: Path) -> None:
    file = tmp_path / "mine.duckdb"
    connection = duckdb.connect(str(file))
    connection.execute("CREATE TABLE patients AS SELECT 7 AS a")
    connection.close()
    with Store(file) as store:
        assert store.connection.execute("SELECT a, (SELECT count(*) FROM runs) FROM patients").fetchall() == [(7, 0)]


def in_another_process(script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def test_a_file_held_by_another_process_names_it(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    Store(file).close()
    holder = in_another_process(
        """
        import sys, duckdb
        connection = duckdb.connect(sys.argv[1])
        print("held", flush=True)
        sys.stdin.readline()
        """,
        str(file),
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"in use by process {holder.pid} "):
            Store(file)
        holder.communicate("done\n")


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    victim = in_another_process(
        """
        import os, signal, sys
        from obeql.planner.catalog import ImageRecord
        from obeql.planner.cells import FailedImage
        from obeql.store import RunRecord, Store
        store = Store(sys.argv[1])
        (image,) = store.register_images([ImageRecord("a.jpg")])
        run_id = store.begin_run(RunRecord("q", "m", "mh", "ph", "log_odds", "half"))
        store.fail_image(run_id, FailedImage(image.image_id, "a.jpg", "truncated"))
        store._database.run("BEGIN")
        store._event(run_id, "done")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        str(file),
    )
    with victim:
        victim.communicate()
    assert victim.returncode == -9
    with Store(file) as store:
        (run,) = store.runs()
        assert (run.name, run.status, run.n_failed) == ("half", "interrupted", 1)
        assert [failure.error for failure in store.failures(run.run_id or 0)] == ["truncated"]


def test_a_second_store_of_this_process_leaves_running_runs_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "heat.duckdb") as first:
        run_id = first.begin_run(record())
        with Store(tmp_path / "heat.duckdb") as second:
            found = second.run(run_id)
            assert found is not None and found.status == "running"


def test_plain_duckdb_of_this_process_may_join(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    with Store(file) as store:
        store.begin_run(record("r"))
        other = duckdb.connect(str(file))
        assert other.execute("SELECT run_name FROM runs").fetchall() == [("r",)]
        other.close()


def test_row_groups_are_small_and_a_log_left_behind_does_not_change_that(tmp_path: Path) -> None:
    file = tmp_path / "it's here.duckdb"
    n_groups = "SELECT count(DISTINCT row_group_id) FROM pragma_storage_info('many')"
    Store(file).close()
    victim = in_another_process(
        """
        import os, signal, sys
        from obeql.store import Store
        store = Store(sys.argv[1])
        store.connection.execute("CREATE TABLE many AS FROM range(10000)")
        store.connection.execute("INSERT INTO many FROM range(100)")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        str(file),
    )
    with victim:
        victim.communicate()
    with Store(file) as store:
        assert store.connection.execute("SELECT count(*) FROM many").fetchall() == [(10100,)]
        store.checkpoint()
        assert store.connection.execute(n_groups).fetchall() == [(5,)]
        names = store.connection.execute("SELECT database_name FROM duckdb_databases() WHERE NOT internal").fetchall()
        assert names == [("it's here",)]
        cursor = store.connection.cursor()
        assert cursor.execute("SELECT count(*) FROM many").fetchall() == [(10100,)]


@pytest.mark.parametrize("into_file", [False, True])
def test_lanes_that_fail_say_why_and_put_settings_back(tmp_path: Path, into_file: bool) -> None:
    settings = "SELECT list(value ORDER BY name) FROM duckdb_settings() WHERE name SIMILAR TO '(memory|check|auto).*'"
    insert = "INSERT INTO obeql_store.fact_rows (entry_id, topic) SELECT range, ? FROM range(3000)"
    with Store(tmp_path / "heat.duckdb") as store:
        store.connection.execute("SET threads = 3; SET memory_limit = '1GiB'; SET checkpoint_threshold = '1GiB'")
        before = store.connection.execute(settings).fetchall()
        bad = insert.replace("range, ?", "range, error(?)")
        with pytest.raises(StoreError, match=r"^cannot write the database .*: it is damaged$"):
            store._database.insert_side_by_side(
                [[(insert, ["good"])], [(insert, ["bad"]), (bad, ["it is damaged"])]], 2**24, into_file
            )
        store._database.empty_cache()
        assert store.connection.execute(settings).fetchall() == before
        assert store._database.n_threads() == 3
        found = "SELECT topic, count(*) FROM obeql_store.fact_rows GROUP BY topic"
        assert store.connection.execute(found).fetchall() == [("good", 3000)]
        store._database.insert_side_by_side([[(insert, ["good"])]], 2**24, into_file)
        assert store.connection.execute(found).fetchall() == [("good", 6000)]


def test_lanes_have_little_memory_where_nobody_else_works_with_the_database(tmp_path: Path) -> None:
    insert = "INSERT INTO obeql_store.fact_rows (topic) SELECT current_setting('memory_limit')"
    with Store(tmp_path / "heat.duckdb") as store:
        store.connection.execute("SET memory_limit = '1GiB'")
        store._database.insert_side_by_side([[(insert, [])]], 2**26, into_file=False)
        with store.connection.cursor():
            store._database.insert_side_by_side([[(insert, [])]], 2**26, into_file=False)
        (lower,), same = store.connection.execute("SELECT topic FROM obeql_store.fact_rows").fetchall()
        assert lower.endswith("MiB") and same == ("1.0 GiB",)
        store._database.insert_side_by_side([[(insert, [])]], 0, into_file=False)  # finds too little, and goes again


def test_a_file_that_this_process_has_open_already_is_opened_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    Store(file).close()
    with duckdb.connect(str(file)) as plain:
        plain.execute("BEGIN; CREATE TABLE mine (a INT)")
        with Store(file) as store:
            assert store.runs() == []
        plain.execute("COMMIT")
        assert plain.execute("FROM mine").fetchall() == []


def test_store_statements_leave_the_users_connection_alone() -> None:
    with Store() as store:
        user = store.connection
        user.execute("CREATE SCHEMA elsewhere; USE elsewhere; CREATE TABLE images (a INT)")
        user.execute("SELECT range FROM range(100000)")
        assert user.fetchone() == (0,)
        store.register_images([ImageRecord("a.jpg")])
        store.begin_run(record())
        assert user.fetchone() == (1,)
        user.fetchall()
        assert user.execute("SELECT count(*) FROM images").fetchall() == [(0,)]


def test_a_transaction_of_the_user_is_noticed_and_survives() -> None:
    with Store() as store:
        user = store.connection
        assert not store.in_transaction()
        user.execute("CREATE TABLE mine (a INT)")
        user.execute("BEGIN")
        user.execute("INSERT INTO mine VALUES (1)")
        assert store.in_transaction()
        store.begin_run(record())
        user.execute("COMMIT")
        assert not store.in_transaction()
        assert user.execute("SELECT a FROM mine").fetchall() == [(1,)]


def test_an_aborted_write_leaves_the_store_as_it_was() -> None:
    with Store() as store:
        for failure in (StoreError("no"), KeyboardInterrupt()):
            with pytest.raises(type(failure)), store._database.transaction():
                store._database.append_row("run_rows", run_id=99, name="ghost")
                store._event(99, "running")
                raise failure
        assert store.run(99) is None and store.runs() == []
        store.begin_run(record())  # the connection is usable again


def test_no_duckdb_error_leaves_a_method() -> None:
    with Store() as store:
        store.connection.execute("DROP VIEW failures")
        store.connection.execute("DROP VIEW cells")
        store.connection.execute("DROP VIEW heatmaps")
        store.connection.execute("DROP VIEW runs")
        with pytest.raises(
            StoreError, match=r"cannot read the database ':memory:': Table with name runs does not exist"
        ):
            store.runs()


def test_facts_are_remembered_replaced_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    with Store(file) as store:
        store.remember("device", "cpu", {"flops": 1.5e9})
        store.remember("device", "cpu", {"flops": 2e9})
        store.remember("setting", "batch", 64)
        store.remember("setting", "gone", 1)
        store.remember("setting", "gone", None)
    with Store(file, read_only=True) as store:
        assert store.recalled("device") == {"cpu": {"flops": 2e9}}
        assert store.recalled("setting") == {"batch": 64}


def test_importing_the_store_does_not_import_torch() -> None:
    code = "import sys, obeql.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0


# ---- what a new database costs --------------------------------------------------------------------------------


def catalog(connection: duckdb.DuckDBPyConnection) -> list[list[tuple[object, ...]]]:
    """All that a database defines, with its comments."""
    return [
        connection.execute(f"SELECT {what} WHERE database_name = current_database() ORDER BY ALL").fetchall()
        for what in (
            "schema_name, table_name, sql FROM duckdb_tables()",
            "schema_name, view_name, length(sql), comment FROM duckdb_views()",  # names after EXCLUDE have no order
            "schema_name, table_name, column_name, data_type, comment FROM duckdb_columns()",
            "function_name, parameters, macro_definition, comment FROM duckdb_functions()",
            "sequence_name, sql FROM duckdb_sequences()",
        )
    ]


def defined(path: Path | str) -> list[list[tuple[object, ...]]]:
    with Store(path) as store:
        return catalog(store.connection)


def test_every_way_to_begin_gives_the_same_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_new_file", b"")
    first = defined(tmp_path / "made.duckdb")
    assert opening._new_file and defined(tmp_path / "copied.duckdb") == first
    duckdb.connect(str(tmp_path / "plain.duckdb")).close()
    assert defined(tmp_path / "plain.duckdb") == first
    assert defined(":memory:") == first
    macros = fresh.names() - set(VIEWS)
    assert {name for name, *_ in first[3]} == macros == {*MACROS, *TABLE_MACROS}
    assert {(name, comment) for name, *_, comment in first[3]} == {*MACROS.items(), *TABLE_MACROS.items()}


def test_copies_of_a_new_file_do_not_share_what_they_hold(tmp_path: Path) -> None:
    with Store(tmp_path / "a.duckdb") as a, Store(tmp_path / "b.duckdb") as b:
        a.finish_run(a.begin_run(record("only in a")), "done")
        assert b.runs() == [] and b.storage_version() == "v1.5.0+"
        b.finish_run(b.begin_run(record("only in b")), "done")
    with Store(tmp_path / "a.duckdb") as a, Store(tmp_path / "b.duckdb") as b:
        assert [run.name for run in (*a.runs(), *b.runs())] == ["only in a", "only in b"]


def test_a_file_that_cannot_be_copied_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError("this file system has no links")

    monkeypatch.setattr(opening.os, "link", no_links)
    for name in ("a.duckdb", "b.duckdb"):
        with Store(tmp_path / name) as store:
            assert store.runs() == []
    assert {file.name for file in tmp_path.iterdir()} == {"a.duckdb", "b.duckdb"}


def test_a_database_in_memory_gets_macros_when_sql_of_users_comes() -> None:
    with Store() as store:
        store.finish_run(store.begin_run(record("r")), "done")
        assert store.runs()[0].name == "r"
        macros = "SELECT count(*) FROM duckdb_functions() WHERE function_name = 'box_mean'"
        assert store._database.rows(macros) == [(0,)]
        assert store.on_connection(lambda user: user.execute("SELECT run_of('r')").fetchall()) == [(1,)]
        assert store._database.rows(macros) == [(1,)]


def test_a_file_that_is_up_to_date_is_opened_with_few_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path / "heat.duckdb").close()
    asked = []
    monkeypatch.setattr(
        Database,
        "rows",
        lambda self, sql, values=(), rows=Database.rows: (asked.append(sql), rows(self, sql, values))[1],
    )
    Store(tmp_path / "heat.duckdb").close()
    assert len(asked) == 3 and not any("duckdb_" in sql for sql in asked)  # DuckDB's lists of what there is are slow


# ---- upgrades, space, other readers ----------------------------------------------------------------------

OLD = Path(__file__).parents[1] / "golden" / "stores"


def file_of_version(version: int, file: Path) -> Path:
    """A file that a program of an earlier schema version has left."""
    with duckdb.connect(str(file), config={"storage_compatibility_version": STORAGE_VERSION}) as connection:
        connection.execute((OLD / f"version_{version}.sql").read_text("utf-8"))
    return file


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file that a program of schema version 1 has left, with a view of the user's."""
    file = file_of_version(1, tmp_path / "old.duckdb")
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE VIEW mine AS SELECT run_name, rows FROM heatmaps")
    return file


LATER_COLUMNS = (
    "name, score_kind, regions, channel, shape, patch_depth, stride_depth, fronts, depths, input_depth, source_front, "
    "source_depth"
)


def test_a_file_of_the_first_version_is_upgraded(old_file: Path) -> None:
    # versions 4, 6, 8 and 9 added these columns
    heatmaps = f"SELECT * EXCLUDE (quality, {LATER_COLUMNS}) FROM heatmaps ORDER BY map_id"
    with Store(old_file, read_only=True) as store:  # read with the views it has
        before = store.connection.execute("FROM heatmaps ORDER BY map_id").fetchall()
        assert [run.name for run in store.runs()] == ["first"] and len(store.load_maps(1)) == 2
    with Store(old_file) as store:
        assert store.connection.execute(heatmaps).fetchall() == before and len(before) == 2
        assert store.connection.execute("SELECT DISTINCT quality FROM heatmaps").fetchall() == [("{}",)]
        assert store.connection.execute("SELECT max(version) FROM obeql_store.schema_version").fetchall() == [
            (SCHEMA_VERSION,)
        ]
        assert store.connection.execute("SELECT DISTINCT shape, fronts FROM heatmaps").fetchall() == [([3, 4], None)]
        places = store.connection.execute("SELECT DISTINCT plane, front_px, depth_px FROM cells").fetchall()
        assert places == [(0, 0, 1)]
        assert store.connection.execute("FROM mine").fetchall() == [("first", 3)] * 2
        assert len(store.connection.execute("FROM box_cells(0, 0, 2, 2)").fetchall()) == 2
        assert len(store.connection.execute("FROM top_cells('first', 'scan_1', 5)").fetchall()) == 10
        run_id = store.begin_run(RunRecord("q", "tumour", "model", "preprocessing", "logit"))
        store.write_maps(run_id, 1, [found.cells for found in store.load_maps(1)], class_names={})
        store.finish_run(run_id, "done")
        assert store.connection.execute("SELECT count(*) FROM obeql_store.maps").fetchall() == [(3,)]
        store.drop_run(run_id)
    with Store(old_file) as store:
        assert store.connection.execute(heatmaps).fetchall() == before


def test_a_file_of_the_version_before_is_upgraded(tmp_path: Path) -> None:
    file = file_of_version(4, tmp_path / "old.duckdb")
    with Store(file, read_only=True) as store:  # read with the views and macros it has
        before = store.connection.execute("FROM heatmaps ORDER BY map_id").fetchall()
        assert len(store.load_maps(1)) == 2 and store.connection.execute("FROM maps_of(9, 9)").fetchall() == []
    with Store(file) as store:
        heatmaps = f"SELECT * EXCLUDE ({LATER_COLUMNS}) FROM heatmaps ORDER BY map_id"
        assert store.connection.execute(heatmaps).fetchall() == before and len(before) == 2
        named = store.connection.execute(
            "SELECT DISTINCT image, run, top_class_name FROM windows ORDER BY ALL"
        ).fetchall()
        assert named and {image for image, *_ in named} == {"scan_1"}
        assert store.connection.execute("FROM evaluations").fetchall() == []
        assert store.connection.execute("SELECT run_of('FIRST'), image_of('scan_1')").fetchall() == [(1, 1)]
        with pytest.raises(duckdb.Error, match="There is no run '9'"):
            store.connection.execute("FROM maps_of(9, 1)").fetchall()


def test_a_file_of_version_8_is_upgraded(tmp_path: Path) -> None:
    """The last one before volumes: an image, a listed window and a signal of two channels."""
    file = file_of_version(8, tmp_path / "old.duckdb")
    later = "shape, patch_depth, stride_depth, fronts, depths, input_depth, source_front, source_depth"
    heatmaps = f"SELECT * EXCLUDE ({later}) FROM heatmaps ORDER BY map_id"
    with Store(file, read_only=True) as store:  # read with the views it has
        before = store.connection.execute("FROM heatmaps ORDER BY map_id").fetchall()
        windows = store.connection.execute(
            "SELECT image, region, top_px, left_px, score FROM windows ORDER BY ALL"
        ).fetchall()
        assert [run.name for run in store.runs()] == ["first", "listed", "beats"] and len(before) == 4
    with Store(file) as store:
        ask = store.connection.execute
        assert ask("SELECT max(version) FROM obeql_store.schema_version").fetchall() == [(SCHEMA_VERSION,)]
        assert ask(heatmaps).fetchall() == before
        assert ask("SELECT image, region, top_px, left_px, score FROM windows ORDER BY ALL").fetchall() == windows
        shapes = ask("SELECT run_name, shape, fronts, input_depth FROM heatmaps ORDER BY map_id").fetchall()
        assert shapes == [
            ("first", [3, 3], None, None), ("first", [3, 3], None, None),
            ("listed", [1, 1], None, None), ("beats", [4], None, None),
        ]  # fmt: skip
        assert ask("SELECT DISTINCT plane, front_px, depth_px FROM windows").fetchall() == [(0, 0, 1)]
        ((least, most),) = ask(
            "SELECT (count_bounds(map, 0.0, 100.0)).least, (count_bounds(map, 0.0, 100.0)).most FROM coarse_maps "
            "WHERE run_name = 'first' AND class_name = 'yes'"
        ).fetchall()
        ((count,),) = ask(
            "SELECT count(*) FROM windows WHERE run = 'first' AND class_name = 'yes' AND importance >= 0"
        ).fetchall()
        assert least <= count <= most
        model = store.model("beat")
        assert model is not None and model.preprocessing.size == (16,)
        (beats,) = store.load_maps(3)
        assert beats.cells.logit.shape == (1, 4)


def test_one_output_of_an_old_file_is_two_classes(tmp_path: Path) -> None:
    file = file_of_version(4, tmp_path / "old.duckdb")
    network = Network(
        (LayerSpec("image", "image", "source", (), (3, 24, 48)), LayerSpec("fc", "linear", "global", (0,), (1,)))
    )
    with duckdb.connect(str(file)) as old:
        old.execute("DELETE FROM obeql_store.run_maps WHERE map_id <> 1")
        old.execute("UPDATE obeql_store.run_maps SET class_id = 0, class_name = '0'")
        old.execute("UPDATE obeql_store.maps SET class_id = 0, clean_top_class = 1 WHERE map_id = 1")
        old.execute(
            "INSERT INTO obeql_store.prediction_rows VALUES (90, 1, 'image', 'tumour', 'model', 'p', 0, '0', 0.9, 2, 1)"
        )
        old.execute(
            "INSERT INTO obeql_store.model_rows VALUES (91, true, 'tumour', 'model', 'p', 'm.onnx', '{}', ['tumour'], "
            "'sigmoid', ?, ?, 1, 24, 48, NULL)",
            [Preprocessing((24, 48)).to_json(), network.to_json()],
        )
    for read_only in (True, False):
        with Store(file, read_only=read_only) as store:
            (found,) = store.load_maps(1)
            assert (found.cells.class_id, found.class_name, found.cells.clean_top_class) == (1, "yes", 1)
            assert [cells.class_id for cells in store.cells_of([1]).values()] == [1]
            model = store.model("tumour")
            assert model is not None and model.yes_no and model.n_classes == 2
            assert model.classes == ("not tumour", "tumour")
    with Store(file) as store:
        rows = store.connection.execute("SELECT DISTINCT class_id, class_name FROM cells").fetchall()
        assert rows == [(1, "yes")]
        assert store.connection.execute("SELECT class_id, class_name FROM predictions").fetchall() == [(1, "yes")]
        assert store.connection.execute("SELECT n_classes, classes FROM models").fetchall() == [
            (2, ["not tumour", "tumour"])
        ]


def test_every_view_and_column_says_what_it_holds(old_file: Path) -> None:
    for file in (":memory:", old_file):
        with Store(file) as store:
            told = store.connection.execute(
                "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE schema_name = 'main' "
                "AND table_name <> 'mine' AND NOT internal"
            ).fetchall()
            views = store.connection.execute(
                "SELECT view_name, comment FROM duckdb_views() WHERE schema_name = 'main' AND view_name <> 'mine' "
                "AND NOT internal"
            ).fetchall()
        assert {view for view, _ in views} == set(VIEWS) == {view for view, *_ in told}
        assert all(comment for _, comment in views) and all(comment for *_, comment in told)
    assert {column for _, column, _ in told} == set(COLUMNS)
    assert {comment for view, column, comment in told if column == "score"} == {
        comment_of(view, "score") for view in ("runs", "heatmaps", "evaluations", "cells")
    }


def test_an_upgrade_knows_every_view_and_macro_as_its_own() -> None:
    with Store() as store:
        names = store.connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal "
            "UNION SELECT function_name FROM duckdb_functions() WHERE schema_name = 'main' AND NOT internal"
        ).fetchall()
    assert {name for (name,) in names} == fresh.names()


def test_a_users_name_that_an_upgrade_needs_is_named_and_kept(old_file: Path) -> None:
    with duckdb.connect(str(old_file)) as connection:
        connection.execute("CREATE MACRO box_cells(a) AS a")
    with pytest.raises(StoreError, match="already has the macro 'box_cells'"):
        Store(old_file)
    with duckdb.connect(str(old_file)) as connection:
        assert connection.execute("SELECT box_cells(7)").fetchall() == [(7,)]
        assert len(connection.execute("FROM heatmaps").fetchall()) == 2


def test_dropped_runs_give_their_space_back(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    rng = np.random.default_rng(0)

    def write(store: Store, name: str, n_maps: int = 60) -> None:
        run_id = store.begin_run(RunRecord("q", "net", "model", "preprocessing", "logit", name))
        (image,) = store.register_images([ImageRecord("scan.png")])
        starts, sizes = np.arange(53, dtype=np.int32), np.full(53, 16, np.int32)
        images = []
        for number in range(n_maps):
            plane = rng.random((53, 53)).astype(np.float32)
            key = CellKey(f"{name}{number}", "model", "preprocessing", (16, 16), "mean", "float32")
            top = np.zeros((53, 53), np.int32)
            cells = MapCells(key, 0, (starts, starts), (sizes, sizes), plane, plane, top, 1.0, 0.0, 0)
            images.append(ImageMaps(image.image_id or 0, [cells], {}))
        store.write_batch(run_id, images)
        store.finish_run(run_id, "done")

    with Store(file) as store:
        write(store, "kept", 20)
        write(store, "first")
        store.checkpoint()
        kept = store.connection.execute(
            "SELECT scores FROM heatmaps WHERE run_name = 'kept' ORDER BY map_id"
        ).fetchall()
        size = file.stat().st_size
        for turn in range(4):
            store.drop_run("first" if turn == 0 else f"run{turn - 1}")
            write(store, f"run{turn}")
            store.checkpoint()
        assert file.stat().st_size < 2.2 * size
        assert (
            store.connection.execute("SELECT scores FROM heatmaps WHERE run_name = 'kept' ORDER BY map_id").fetchall()
            == kept
        )
        compressed = store.connection.execute(
            "SELECT DISTINCT compression FROM pragma_storage_info('obeql_store.maps') "
            "WHERE column_name = 'logit' AND segment_type = 'FLOAT'"
        ).fetchall()
        assert compressed == [("Uncompressed",)]
    assert file.stat().st_size < 2.2 * size


def test_readers_share_the_file_and_a_copy_is_made_while_it_is_open(tmp_path: Path, old_file: Path) -> None:
    Store(old_file).close()
    with Store(old_file, read_only=True) as first, Store(old_file, read_only=True) as second:
        assert len(first.runs()) == len(second.runs()) == 1
        script = f"import duckdb; print(duckdb.connect({str(old_file)!r}, read_only=True).sql('FROM runs').fetchall())"
        shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        assert "first" in shown
    copy = tmp_path / "copy.duckdb"
    with Store(old_file) as writer:
        run_id = writer.begin_run(RunRecord("q", "net", "model", "preprocessing", "logit", "open"))
        writer.write_maps(run_id, 1, [found.cells for found in writer.load_maps(1)], class_names={})
        writer.connection.execute(f"ATTACH '{copy}' AS copy; COPY FROM DATABASE old TO copy; DETACH copy")
        writer.finish_run(run_id, "done")
    with Store(copy) as store:
        assert {run.name: run.status for run in store.runs()} == {"first": "done", "open": "interrupted"}
        assert len(store.connection.execute("FROM heatmaps").fetchall()) == 4
        store.connection.execute(f"ATTACH '{old_file}' AS other (READ_ONLY)")
        assert len(store.connection.execute("FROM other.heatmaps").fetchall()) == 4
        assert len(store.connection.execute("FROM other.cells").fetchall()) == 48
