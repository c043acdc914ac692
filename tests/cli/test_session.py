"""The command line on a real session: the main job, bad input of every kind, interruption, pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image

from obeql.cli.main import INTERRUPTED, main

NETS = '''
import torch
from torch import nn


def small():
    """Three classes of 24 x 24 pictures."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(144, 3))


def broken():
    net = small()
    nn.init.constant_(net[0].weight, float("nan"))
    return net


def segmenter():
    return nn.Conv2d(3, 2, 3)


def slow():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 5, padding=2)] + [nn.Conv2d(16, 16, 5, padding=2) for _ in range(3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
'''
MODEL = "CREATE MODEL net FROM 'python:obeql_cli_nets:small' WITH size=24 classes=['ant', 'bee', 'cat']"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a module of networks and three pictures; the database is heat.duckdb."""
    (tmp_path / "obeql_cli_nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    random = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).save(tmp_path / "pictures" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("OBEQL_DEBUG", raising=False)
    yield tmp_path
    sys.modules.pop("obeql_cli_nets", None)


def run(*texts: str, options: tuple[str, ...] = ()) -> int:
    return main(["heat.duckdb", "--allow-python", *options, *(part for text in texts for part in ("-c", text))])


def test_the_main_job(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(MODEL, "CREATE IMAGES all_three FROM 'pictures/*.png'") == 0
    assert run("EXPLAIN OCCLUDE all_three USING net WITH patch=8 stride=4 INTO first") == 0
    out, err = capsys.readouterr()
    assert "model net created" in out and "3 heat maps, run first" in out
    assert out.count("importance") >= 3  # a table of cells for each map
    assert err == ""

    assert main(["heat.duckdb", "--read-only", "-c", "SELECT count(*) AS n FROM cells", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 3 * 25}]

    assert run("RENDER first TO 'first.png'") == 0
    assert (place / "first.png").read_bytes().startswith(b"\x89PNG")


def test_maps_as_json_are_their_best_cells(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(MODEL)
    capsys.readouterr()
    assert run("EXPLAIN OCCLUDE 'pictures/one.png' USING net FOR CLASS 'bee' WITH patch=8", options=("--json",)) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [cell["rank"] for cell in cells] == [1, 2, 3, 4, 5]
    assert {cell["class_name"] for cell in cells} == {"bee"}
    assert cells[0]["importance"] >= cells[1]["importance"]
    assert cells[0]["top_class"] in ("ant", "bee", "cat")


def test_python_models_need_permission(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", MODEL]) == 4
    assert "--allow-python" in capsys.readouterr().err


BAD = [
    ("EXPLAIN OCCLUDE 'gone.png' USING net", (2, 5), "gone.png"),
    ("EXPLAIN OCCLUDE 'not_an_image.png' USING net", (5,), "not_an_image.png"),
    ("EXPLAIN OCCLUDE 'truncated.png' USING net", (5,), "truncated.png"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING nett", (2,), "Did you mean 'net'?"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net WITH pach=8", (2,), "Did you mean 'patch'"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net FOR CLASS 'be'", (2,), "Did you mean 'bee'?"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net FOR CLASS 3", (2,), "0 to 2"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net FOR LABEL", (2,), "label"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net WHIT patch=8", (2,), "WITH"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net WITH patch=0", (2,), "patch"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net WITH patch=25", (2,), "24x24"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net WITH stride=0", (2,), "stride"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net WITH stride=25", (2,), "24x24"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net REGION (0, 0, 30, 30)", (2,), "REGION"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net ON mps", (6,), "no device 'mps'"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING net ON cuda:99", (6,), "cuda:99"),
    ("EXPLAIN OCCLUDE 'pictures/one.png' USING bad WITH patch=8", (5,), "not finite"),
    ("CREATE MODEL net2 FROM 'gone.onnx'", (4,), "gone.onnx"),
    ("CREATE MODEL net2 FROM 'pickled.pt'", (4,), "trust=true"),
    ("CREATE MODEL net2 FROM 'python:obeql_cli_nets:small' WITH size=99", (4,), "99"),
    ("CREATE MODEL net2 FROM 'python:obeql_cli_nets:segmenter' WITH size=24", (4,), "(N, classes)"),
    ("CREATE MODEL net2 FROM 'python:obeql_cli_nets:smal' WITH size=24", (4,), "Did you mean 'small'?"),
    ("CREATE MODEL net2 FROM 'python:obeql_cli_nets:small' WITH size=24 classes=['a', 'b']", (2, 4), "3"),
    ("CREATE IMAGES none FROM 'nothing/*.png'", (2, 5), "nothing/*.png"),
    ("RENDER gone TO 'x.png'", (2,), "gone"),
    ("SET obeql.devise = 'cpu'", (2,), "device"),
    ("SELECT * FROM cels", (2,), "cels"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with models and pictures, made once."""
    folder = tmp_path_factory.mktemp("prepared")
    return folder / "heat.duckdb"


@pytest.mark.parametrize(("statement", "codes", "said"), BAD, ids=[statement[:70] for statement, _, _ in BAD])
def test_bad_input_is_one_clear_error(
    statement: str, codes: tuple[int, ...], said: str, place: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = place / "heat.duckdb"
    write_bad_files(place)
    if not prepared.exists():
        bad = "CREATE MODEL bad FROM 'python:obeql_cli_nets:broken' WITH size=24"
        for text in (MODEL, bad, "EXPLAIN OCCLUDE 'pictures/one.png' USING net WITH patch=8"):
            run(text)
        prepared.write_bytes(database.read_bytes())
    database.write_bytes(prepared.read_bytes())
    capsys.readouterr()
    before = content(database)
    assert run(statement) in codes
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and said in err, err
    assert "Traceback" not in err and "bug" not in err
    assert content(database) == before


def write_bad_files(place: Path) -> None:
    (place / "not_an_image.png").write_text("hello", encoding="utf-8")
    whole = (place / "pictures" / "one.png").read_bytes()
    (place / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (place / "pickled.pt").write_bytes(b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06getcwd\x93)R.")


def content(database: Path) -> dict[str, Any]:
    """Return all rows of the store, except the measured rates: a plan may keep those."""
    with duckdb.connect(str(database), read_only=True) as connection:
        tables = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'obeql_store' AND table_name <> 'fact_rows'"
        ).fetchall()
        return {name: connection.execute(f"FROM obeql_store.{name}").fetchall() for (name,) in tables}


def test_a_bad_picture_in_a_set_does_not_end_the_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "pictures" / "bad.png").write_text("hello", encoding="utf-8")
    assert run(MODEL, "EXPLAIN OCCLUDE 'pictures/*.png' USING net WITH patch=8") == 0
    out = capsys.readouterr().out
    assert "3 heat maps" in out and "1 image failed" in out and "bad.png" in out


def test_a_file_that_is_no_database(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "heat.duckdb").write_text("hello", encoding="utf-8")
    assert run("SELECT 1") == 7
    assert "not a DuckDB database" in capsys.readouterr().err
    assert main(["gone.duckdb", "--read-only", "-c", "SELECT 1"]) == 7
    assert not (place / "gone.duckdb").exists()


# ---- a process of its own ------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "obeql", *arguments]


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(place)}


def test_a_pipe_that_closes_is_no_error(place: Path) -> None:
    query = "SELECT i, repeat('x', 100) AS filler FROM range(200000) AS t(i)"
    with subprocess.Popen(
        command("--csv", "-c", query), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(place)
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"i,filler\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_standard_input_and_exit_code_of_a_process(place: Path) -> None:
    done = subprocess.run(
        command("--csv"), input="SELECT 6 * 7 AS n; SELECT * FRM x;", text=True, capture_output=True,
        check=False, env=environment(place),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == "n\n42\n"
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_finished_images_and_the_statement_continues(place: Path) -> None:
    run("CREATE MODEL net FROM 'python:obeql_cli_nets:slow' WITH size=48", "CREATE IMAGES s FROM 'pictures/*.png'")
    one_by_one = "SET obeql.disabled_rules = 'batch_images'"
    explain = "EXPLAIN OCCLUDE s USING net WITH patch=8 stride=2 batch=16 INTO stopped"
    with subprocess.Popen(
        command("heat.duckdb", "--allow-python", "--progress", "-c", one_by_one, "-c", explain),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, env=environment(place),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        seen = ""
        deadline = time.monotonic() + 120
        while "image 2/3" not in seen and time.monotonic() < deadline:
            seen += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        seen += process.stderr.read()
    assert process.returncode == INTERRUPTED, seen
    assert "interrupted: " in seen and "Traceback" not in seen
    with duckdb.connect("heat.duckdb", read_only=True) as connection:
        runs = connection.execute("SELECT run_name, status, n_images FROM runs").fetchall()
    assert runs == [("stopped", "interrupted", 1)]

    assert run(explain) == 0
    with duckdb.connect("heat.duckdb", read_only=True) as connection:
        runs = connection.execute("SELECT run_name, status, n_images FROM runs").fetchall()
    assert runs == [("stopped", "done", 3)]
