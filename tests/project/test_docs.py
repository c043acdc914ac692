"""The pages of docs/: every block runs, generated parts are as the code has them, links and navigation are whole."""

from __future__ import annotations

import html
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import obeql
from obeql.cli.main import main, parser
from obeql.cli.repl.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
#: Pages whose blocks run here; the language has its own test, and the others have no block to run.
RUN = [
    page
    for page in PAGES
    if page not in ("language.md", "index.md")
    and re.search(r"^```(sql|python|sh)", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
]


def loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages describe it: a small network as ONNX, three scans, a photo, weights of a SqueezeNet."""
    monkeypatch.chdir(tmp_path)
    loaded(ROOT / "tests" / "project" / "test_readme.py").write_onnx(tmp_path / "vgg16.onnx")
    (tmp_path / "scans").mkdir()
    random = np.random.default_rng(0)
    for number in range(1, 4):
        pixels = random.integers(0, 256, (70, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"scan_{number}.jpg")
    Image.fromarray(random.integers(0, 256, (120, 160, 3), np.uint8)).save(tmp_path / "photo.jpg")
    return tmp_path


def write_squeezenet() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    import torch

    from obeql.executor.models.zoo.import_torchvision import torchvision

    torch.save(torchvision("this test").models.squeezenet1_1().state_dict(), "squeezenet.pth")


@pytest.mark.parametrize("page", RUN)
def test_every_block_of_a_page_runs(page: str, workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    if "squeezenet.pth" in text:
        write_squeezenet()
    names: dict[str, Any] = {}
    for kind, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if kind == "sql":
            with obeql.connect("heat.duckdb") as db:
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
            assert (DOCS / page).parent.joinpath(target).exists(), f"{page}: {target}"
