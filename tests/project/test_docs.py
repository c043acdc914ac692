"""The pages of docs/: every block runs, generated parts are as the code has them, links and navigation are whole."""

from __future__ import annotations

import ast
import html
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pygments.token import Token

import obeql
from obeql.cli.main import main, parser
from obeql.cli.repl.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
#: Pages that go on from `make demo`.
AFTER_THE_DEMO = ["tutorial.md"]
#: Pages whose blocks run in a folder of their own; the language has its own test, and the others have no block to run.
RUN = [
    page
    for page in PAGES
    if page not in ("language.md", "index.md", *AFTER_THE_DEMO)
    and re.search(r"^```(sql|python|sh)", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
]


def loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def require_torchvision() -> Any:
    """Import torchvision as pages do, also one that was built for another torch."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from obeql.executor.models.zoo.import_torchvision import torchvision

    return torchvision("this test")


def write_squeezenet() -> None:
    models = require_torchvision().models
    import torch

    torch.save(models.squeezenet1_1().state_dict(), "squeezenet.pth")


def link_data(folder: str) -> None:
    """Have what scripts/fetch_assets.py fetched where pages look for it."""
    fetched = Path(os.environ.get("OBEQL_DATA", "")).absolute()
    if not (fetched / folder).is_dir():
        pytest.skip(f"run scripts/fetch_assets.py --{folder} and set OBEQL_DATA to its folder")
    Path("data").symlink_to(fetched)


@pytest.mark.parametrize("page", RUN)
def test_every_block_of_a_page_runs(page: str, workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    if "squeezenet.pth" in text:
        write_squeezenet()
    if "from torchvision" in text:
        require_torchvision()
    for library in re.findall(r"^import (nibabel|pydicom)$", text, re.MULTILINE):
        pytest.importorskip(library)
    if found := re.search(r"fetch_assets\.py\s--(\w+)", text):
        link_data(found[1])
    run_blocks(text, page, "heat.duckdb")


@pytest.mark.parametrize("page", AFTER_THE_DEMO)
def test_every_block_of_a_page_runs_after_the_demo(
    page: str, demo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_blocks((DOCS / page).read_text(encoding="utf-8"), page, "demo/heat.duckdb")


def run_blocks(text: str, page: str, database: str) -> None:
    names: dict[str, Any] = {}
    for kind, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if kind == "sql":
            with obeql.connect(database) as db:
                for outcome in db.run_script(code):
                    assert outcome is None or str(outcome)
        elif kind == "python":
            exec(compile(code, page, "exec"), names)
        elif kind == "sh":
            run_shell(code)


def run_shell(code: str) -> None:
    for line in code.splitlines():
        program, *arguments = shlex.split(line)
        if program == "obeql" and arguments == ["--version"]:
            continue  # leaves by SystemExit; has its own test
        if program == "obeql":
            if "--read-only" in arguments:
                assert Path("heat.duckdb").exists()
            assert main(arguments) == 0, line
        else:
            assert program in ("pip", "make", "python"), line


def test_generated_parts_are_as_the_code_has_them() -> None:
    write_docs = loaded(ROOT / "scripts" / "write_docs.py")
    for page in [ROOT / "CONTRIBUTING.md", *(DOCS / page for page in PAGES)]:
        text = page.read_text(encoding="utf-8")
        assert write_docs.written(text) == text, f"{page}: run scripts/write_docs.py"


def test_every_option_and_command_is_described() -> None:
    text = html.unescape((DOCS / "command-line.md").read_text(encoding="utf-8"))
    text = text.replace("<code>", "`").replace("</code>", "`")
    for action in parser()._actions:
        for written in action.option_strings or [action.dest]:
            assert f"`{written}" in text or f", {written}" in text, written
    for command in COMMANDS.values():
        assert f"`{command.usage}`" in text, command.usage


def test_every_page_is_in_the_navigation_and_links_lead_somewhere() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert f": {page}\n" in navigation, page
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text(encoding="utf-8")):
            found = (DOCS / page).parent.joinpath(target).resolve()
            assert found.exists() and found.is_relative_to(DOCS), f"{page}: {target} is not in the site"


def test_the_index_and_the_navigation_name_the_same_pages() -> None:
    in_navigation = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    linked = re.findall(r"\]\(([^)#]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8"))
    assert sorted(in_navigation) == sorted(["index.md", *linked])


#: Words of our own, and what the field calls them.
OWN_WORDS = {
    r"clean pass(es)?": "unoccluded pass",
    r"films?": "animation",
    r"sheets?": "figure grid",
    r"dear(er|est)?": "costly",
    r"carried out": "implemented, computed",
    r"anew": "again",
    r"likewise": "also",
    r"mended": "fixed; and history belongs in the changelog",
    r"in an earlier form": "nothing: history belongs in the changelog",
}
OWN_WORD = re.compile(r"(?<![\w/.#'\"=-])(" + "|".join(OWN_WORDS) + r")(?![\w/.-]\w)\b", re.IGNORECASE)


def texts_of_programs() -> list[tuple[str, str]]:
    """Return (place, text) of the strings of several words in our modules, without docstrings."""
    found = []
    for package in ("obeql", "grammar", "planner", "executor"):
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            docstrings = {
                id(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }
            found += [
                (f"{file.relative_to(ROOT)}:{node.lineno}", node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") > 1
                if id(node) not in docstrings
            ]
    return found


def test_the_words_are_those_of_the_field() -> None:
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(DOCS / page for page in PAGES)]
    texts = [(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")) for page in pages]
    used = [(place, word[0]) for place, text in (*texts, *texts_of_programs()) for word in OWN_WORD.finditer(text)]
    assert not used, f"say it in the field's words: {OWN_WORDS}"


def test_statements_of_the_docs_are_colored() -> None:
    (entry,) = importlib.metadata.entry_points(group="pygments.lexers", name="obeql")
    lexer = entry.load()()
    blocks = [
        text
        for page in PAGES
        for text in re.findall(r"^```sql\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.M | re.S)
    ]
    assert len(blocks) > 50
    for text in blocks:
        kinds = {kind for kind, _ in lexer.get_tokens(text)}
        assert any(kind in Token.Keyword for kind in kinds) and Token.Error not in kinds, text


def test_installation_names_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    table = (DOCS / "installation.md").read_text(encoding="utf-8").split("| extra | adds |")[1].split("\n\n")[0]
    assert set(extras) == set(re.findall(r"`([a-z]+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:])))


def test_what_is_described_from_docstrings_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"^::: ([\w.]+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE):
            assert pkgutil.resolve_name(name) is not None, f"{page}: {name}"
