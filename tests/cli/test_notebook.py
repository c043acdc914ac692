"""`%load_ext obeql` in a real IPython shell."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from obeql.results.messages import Plan

pytest.importorskip("IPython")


@pytest.fixture
def shell(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell

    made = InteractiveShell.instance()
    made.run_line_magic("load_ext", "obeql")
    yield made
    found = made.user_ns.get("db")
    if found is not None:
        found.close()
    made.history_manager.end_session()
    InteractiveShell.clear_instance()


def test_cells_run_statements_with_variables(
    shell: Any, tiny_net: Callable[..., Any], pixels: Callable[..., Any]
) -> None:
    session = shell.run_line_magic("obeql", "")
    assert shell.user_ns["db"] is session
    session.create_model("net", tiny_net(), size=(32, 32))
    shell.user_ns["picture"] = pixels(1)
    result = shell.run_cell_magic("obeql", "--no-progress", "EXPLAIN OCCLUDE $picture USING net WITH patch=8")
    assert len(result) == 1
    assert shell.run_cell_magic("obeql", "--into found", "SELECT 7 AS seven") is None
    assert shell.user_ns["found"].fetchall() == [(7,)]


def test_cells_show_what_there_is_to_show(shell: Any) -> None:
    assert shell.run_cell_magic("obeql", "", "CREATE TABLE heads (top INT)") is None
    assert shell.run_cell_magic("obeql", "", "INSERT INTO heads VALUES (3)") is not None
    assert shell.run_cell_magic("obeql", "", "SELECT * FROM heads").fetchall() == [(3,)]
    plan = Plan("Logical plan\n  <scan>  a line that is longer than a cell is wide", None)
    assert "white-space: pre" in plan._repr_html_() and "&lt;scan&gt;" in plan._repr_html_()


def test_another_file_is_another_session(shell: Any, tmp_path: Any) -> None:
    first = shell.run_line_magic("obeql", "")
    second = shell.run_line_magic("obeql", str(tmp_path / "heat.duckdb"))
    assert first is not second and second.path.endswith("heat.duckdb")
    assert shell.run_line_magic("obeql", "") is second


def test_a_line_may_be_a_statement_or_a_command(
    shell: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    session = shell.run_line_magic("obeql", "")
    assert shell.run_line_magic("obeql", "SELECT 7 AS seven").fetchall() == [(7,)]
    for command in (".runs", ".mode csv", ".quit"):
        assert shell.run_line_magic("obeql", command) is None
    assert shell.run_cell_magic("obeql", "", ".tables\n") is None
    out = capsys.readouterr().out
    assert "run_name" in out and "mode csv" in out and "heatmaps" in out
    assert "Did you mean 'runs'" in failed(shell, "%obeql .runz", capsys)
    assert shell.run_line_magic("obeql", "") is session and list(tmp_path.glob("*.*")) == []
    assert shell.run_line_magic("obeql", "./.hidden.duckdb").path == "./.hidden.duckdb"
    assert shell.run_line_magic("obeql", '"two words.duckdb" --no-progress').path == "two words.duckdb"


def test_a_file_that_cannot_be_opened_leaves_the_session(shell: Any, tmp_path: Any, capsys: Any) -> None:
    session = shell.run_line_magic("obeql", "")
    assert "does not exist" in failed(shell, f"%obeql '{tmp_path / 'nowhere' / 'heat.duckdb'}'", capsys)
    assert shell.run_line_magic("obeql", "") is session
    assert shell.run_line_magic("obeql", "SELECT 7").fetchall() == [(7,)]


def failed(shell: Any, cell: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a cell that fails, as a notebook does; what is shown of it, without colors."""
    capsys.readouterr()
    assert not shell.run_cell(cell).success
    return re.sub(r"\x1b\[[\d;]*m", "", "".join(capsys.readouterr())).strip()


def test_errors_are_one_message(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    said = failed(shell, "%%obeql\nEXPLAIN OCCLUDE x\n  USING nothing", capsys)
    assert said.startswith("UnknownNameError: There is no model 'nothing'.")
    assert said.splitlines()[-2:] == ["    USING nothing", "          ^"]
    assert failed(shell, "%%obeql\nSELECT $missing", capsys).startswith(
        "UnknownNameError: $missing: there is no Python variable 'missing'."
    )


def test_a_stopped_cell_says_what_is_kept(
    shell: Any,
    tiny_net: Callable[..., Any],
    pixels: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    ctrl_c: None,
) -> None:
    from tqdm import tqdm

    session = shell.run_line_magic("obeql", "")
    session.create_model("net", tiny_net(), size=(32, 32))
    shell.user_ns["picture"] = pixels(1)

    class Stopped(tqdm):  # type: ignore[type-arg]
        """A bar at which the stop button is pressed once windows are counted."""

        def update(self, n: float | None = 1) -> bool | None:
            signal.raise_signal(signal.SIGINT)
            return super().update(n)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("obeql.notebook._kind_of_bar", lambda: Stopped)
        said = failed(shell, "%%obeql\nEXPLAIN OCCLUDE $picture USING net WITH patch=8", capsys)
    assert said.startswith("KeyboardInterrupt: cancelled")
    assert "Traceback" not in said
    assert shell.run_cell("%obeql SHOW RUNS").success


def test_a_notebook_without_widgets_gets_a_line_of_text(recwarn: pytest.WarningsRecorder) -> None:
    from tqdm import tqdm

    from obeql.notebook import _kind_of_bar

    assert issubclass(_kind_of_bar(), tqdm) and not recwarn.list


def shown(shell: Any, cell: str) -> tuple[int, str]:
    """Pictures that a cell shows, and the text of its value."""
    from IPython.utils.capture import capture_output

    with capture_output() as seen:
        shell.run_cell(cell)
    assert "Traceback" not in seen.stdout
    return sum("image/png" in output.data for output in seen.outputs), seen.stdout


@pytest.mark.parametrize(
    ("cell", "n_pictures"),
    [
        ("heat.plot()", 1),
        ("ax = heat.plot()", 1),
        ("for _ in range(3): heat.plot()", 3),
        ("result.plot()", 1),
        ("figure = result.plot()", 1),
        ("heat.compare(heat)", 1),
        ("heat.save(path)", 0),
        ("from matplotlib.figure import Figure; a = heat.plot(Figure().subplots())", 0),
    ],
)
def test_a_notebook_shows_what_is_drawn_once(
    shell: Any, cell: str, n_pictures: int, make_heatmap: Callable[..., Any], tmp_path: Any
) -> None:
    from obeql.results.result import Result

    heat = make_heatmap(1.0)
    shell.user_ns.update(heat=heat, result=Result((heat, heat)), path=tmp_path / "map.png")
    assert shown(shell, cell)[0] == 0, "a terminal shows no pictures"
    shell.kernel = object()
    try:
        found, text = shown(shell, cell)
        assert found == n_pictures and "Axes" not in text and "Figure" not in text
        if cell.startswith("figure"):
            assert shown(shell, "1")[0] == 0 and shown(shell, "figure")[0] == 1
    finally:
        del shell.kernel
