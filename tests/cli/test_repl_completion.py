"""Completion: what the grammar allows, with the names of the database, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from obeql.cli.repl.commands import COMMANDS, command_words
from obeql.cli.repl.completion import StatementCompleter, suggest
from obeql.cli.repl.names import Names, gather
from obeql.grammar import parse_script
from obeql.planner.binding.clauses import METRICS
from obeql.planner.binding.option_tables import EXPLAIN_OPTIONS, MODEL_OPTIONS
from obeql.planner.binding.settings import SETTINGS

NAMES = Names(
    models=("tumour", "Net 2"),
    image_sets=("scans",),
    images=("scan_1",),
    runs=("first_look",),
    classes={"tumour": ("glioma", "notumor")},
    tables=("heatmaps", "cells"),
    columns=("importance", "class_name"),
    functions=("top_cells", "count"),
)


def words(text: str) -> list[str]:
    return [each.text for each in suggest(text, NAMES)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("", "EXPLAIN OCCLUDE"),
        ("expl", "EXPLAIN OCCLUDE"),
        ("EXPLAIN ", "OCCLUDE"),
        ("SELECT 1; EXPLAIN OCCLUDE ", "scans"),
        ("EXPLAIN OCCLUDE scans ", "USING"),
        ("EXPLAIN OCCLUDE scans USING ", "tumour"),
        ("EXPLAIN OCCLUDE scans USING tumour FOR CLASS ", "'glioma'"),
        ("EXPLAIN OCCLUDE scans USING tumour FOR CLASSES ('glioma', ", "'glioma'"),
        ("EXPLAIN OCCLUDE scans USING tumour FOR CLASS 'no", "notumor'"),
        ("EXPLAIN OCCLUDE scans USING tumour WITH ", "patch="),
        ("EXPLAIN OCCLUDE scans USING tumour WITH patch=8 st", "stride="),
        ("EXPLAIN OCCLUDE scans USING tumour WITH score=", "probability"),
        ("EXPLAIN OCCLUDE scans USING tumour WITH fill=bl", "black"),
        ("EXPLAIN OCCLUDE scans USING tumour APPROX 0.9 METRIC ", METRICS[0]),
        ("EXPLAIN OCCLUDE scans USING tumour ON c", "cpu"),
        ("-- a remark\nSHOW ", "DEVICES"),
        ("DROP MODEL ", "tumour"),
        ("DESCRIBE IMAGES ", "scans"),
        ("DROP RUN ", "first_look"),
        ("RENDER ", "first_look"),
        ("CREATE MODEL m FROM 't", "torchvision:"),
        ("SET ", "obeql.device"),
        ("SET obeql.dis", "obeql.disabled_rules"),
        ("SET obeql.progress = ", "true"),
        ("SELECT imp", "importance"),
        ("SELECT * FROM ", "heatmaps"),
        ("SEL", "SELECT"),
    ],
)
def test_the_first_suggestion(text: str, first: str) -> None:
    assert words(text)[0] == first


def test_options_are_those_of_the_table_and_not_given_twice() -> None:
    explain = words("EXPLAIN OCCLUDE scans USING tumour WITH ")
    assert explain == [f"{row.name}=" for row in EXPLAIN_OPTIONS]
    assert "patch=" not in words("EXPLAIN OCCLUDE scans USING tumour WITH patch=8 ")
    assert words("CREATE MODEL m FROM 'x.onnx' WITH ") == [f"{row.name}=" for row in MODEL_OPTIONS]
    assert {word for word in words("RESET ") if word.startswith("obeql.")} == {f"obeql.{row.name}" for row in SETTINGS}


def test_clauses_given_are_not_offered_again() -> None:
    after = words("EXPLAIN OCCLUDE scans USING tumour FOR ALL ")
    assert "WITH" in after and "FOR" not in after


def test_names_that_need_quotes_get_them() -> None:
    assert '"Net 2"' in words("EXPLAIN OCCLUDE scans USING ")


def test_nothing_is_offered_inside_comments_and_after_mistakes() -> None:
    assert words("/* EXPL") == []
    assert words("EXPLAIN OCCLUDE scans UNSING tumour WI") == []


def test_paths_are_completed_inside_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert words("EXPLAIN OCCLUDE 'p") == ["pictures/"]
    assert words("EXPLAIN OCCLUDE 'pictures/") == ["one.png"]
    assert words("EXPLAIN OCCLUDE '") == ["pictures/"]
    assert words("EXPLAIN OCCLUDE 'nowhere/") == []


def test_suggestions_lead_to_statements_that_parse() -> None:
    text = ""
    for typed in ("EXPL", " sc", " US", " tu", " WI", " sc", "log_o", " IN"):
        text += typed
        best = suggest(text, NAMES)[0]
        text = text[: len(text) - best.replaces] + best.text
    (statement,) = parse_script(text + " found")
    assert type(statement).__name__ == "ExplainOcclude"


def test_prompt_toolkit_is_given_what_replaces_the_word() -> None:
    completer = StatementCompleter(lambda: NAMES, lambda line: command_words(line, NAMES))
    found = list(completer.get_completions(Document("SHOW mod"), CompleteEvent(text_inserted=True)))
    assert [(each.text, each.start_position) for each in found] == [("MODELS", -3)]
    # While typing, no menu opens behind a blank; Tab opens one.
    assert list(completer.get_completions(Document("SHOW "), CompleteEvent(text_inserted=True))) == []
    assert list(completer.get_completions(Document("SHOW "), CompleteEvent(completion_requested=True)))
    (quit_,) = completer.get_completions(Document(".qu"), CompleteEvent(text_inserted=True))
    assert quit_.text == ".quit"


def test_dot_commands_complete_their_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.sql").write_text("", encoding="utf-8")

    def of(line: str) -> list[str]:
        return [each.text for each in command_words(line, NAMES)]

    assert of(".") == [f".{name}" for name in COMMANDS]
    assert of(".heat f") == ["first_look"]
    assert of(".mode j") == ["json", "jsonl"]
    assert of(".read s") == ["s.sql"]
    assert of(".schema c") == ["cells"]
    assert of(".timer o") == ["on", "off"]
    assert of(".nothing x") == []


def test_names_are_gathered_from_a_database(shared_db: object, folder: Path) -> None:
    import obeql

    with obeql.connect() as db:
        db.create_images("scans", str(folder / "*.png"))
        names = gather(db)
        assert names.image_sets == ("scans",) and names.images == ("scan1", "scan2", "scan3")
        assert "cells" in names.tables and "importance" in names.columns and "top_cells" in names.functions
    names = gather(shared_db)  # type: ignore[arg-type]
    assert names.models == ("net",) and names.classes == {"net": ("ant", "bee", "cat")}
