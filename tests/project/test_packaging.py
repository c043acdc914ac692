"""What is installed: every folder, every data file, a fast import, and nothing of one person's machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version as metadata_version
from pathlib import Path
from typing import Any

import pytest

from obeql import errors

ROOT = Path(__file__).resolve().parents[2]
#: top-level folder -> package
FOLDERS = {"obeql": "obeql", "grammar": "obeql.grammar", "planner": "obeql.planner", "executor": "obeql.executor"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def package_of(folder: Path) -> str:
    top, *rest = folder.relative_to(ROOT).parts
    return ".".join([FOLDERS[top], *rest])


def folders_with_code() -> list[Path]:
    return [file.parent for top in FOLDERS for file in sorted((ROOT / top).rglob("__init__.py"))]


def test_every_package_is_listed(project: dict[str, Any]) -> None:
    found = {package_of(folder) for folder in folders_with_code()}
    listed = project["tool"]["setuptools"]["packages"]
    assert set(listed) == found
    assert len(listed) == len(set(listed))


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {file.parent for top in FOLDERS for file in (ROOT / top).rglob("*.py")}
    assert sorted(folders) == sorted(folders_with_code())


def test_every_data_file_is_packaged(project: dict[str, Any]) -> None:
    patterns = project["tool"]["setuptools"]["package-data"]
    missing = [
        str(file.relative_to(ROOT))
        for folder in folders_with_code()
        for file in folder.iterdir()
        if file.is_file()
        and file.suffix not in (".py", ".pyc")
        and not any(file.match(pattern) for pattern in patterns.get(package_of(folder), []))
    ]
    assert missing == []


def test_no_module_is_named_as_one_of_the_standard_library() -> None:
    names = {file.stem: file for top in FOLDERS for file in (ROOT / top).rglob("*.py")}
    # These are found by their full name alone, so they shadow nothing; a script run from the folder would be hit.
    risky = {"ast", "operator", "types", "token", "tokenize", "random", "queue", "signal", "logging", "select"}
    assert risky.isdisjoint(names)


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.alone
def test_importing_is_light_and_without_torch() -> None:
    code = (
        "import sys; before = set(sys.modules); import obeql; found = set(sys.modules) - before\n"
        "heavy = {'torch', 'numpy', 'duckdb', 'matplotlib', 'lark'} & found\n"
        "print(len(found), *sorted(heavy))"
    )
    n_modules, *heavy = in_fresh_python(code).split()
    assert heavy == []
    assert int(n_modules) < 120  # 77 of the standard library's and two of our own, in about 0.1 s


@pytest.mark.parametrize(
    "module",
    [
        "obeql.cli.main",
        "obeql.grammar",
        "obeql.planner",
        "obeql.cli.repl",
        "obeql.results.result",
        "obeql.session.session",
    ],
)
def test_torch_waits_until_a_network_is_used(module: str) -> None:
    assert in_fresh_python(f"import sys, {module}; print('torch' in sys.modules)") == "False"


def test_sql_alone_needs_no_torch() -> None:
    code = (
        "import sys, obeql\n"
        "with obeql.connect() as db:\n"
        "    assert db.execute('SELECT 42').fetchall() == [(42,)]\n"
        "print('torch' in sys.modules)"
    )
    assert in_fresh_python(code) == "False"


def test_every_name_of_the_package_can_be_imported() -> None:
    import obeql

    for name in obeql.__all__:
        assert getattr(obeql, name) is not None
    assert set(obeql.__all__) <= set(dir(obeql))
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = obeql.conect  # type: ignore[attr-defined]


# ---- the error tree ------------------------------------------------------------------------------------------


def error_classes() -> dict[str, type[Exception]]:
    return {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_the_drawn_error_tree_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^(?P<lead>[\s│├└─]*)(?P<name>[A-Z]\w+Error)\b", line)
        if found is None:
            continue
        depth = len(found["lead"])
        while path and path[-1][0] >= depth:
            path.pop()
        drawn[found["name"]] = path[-1][1] if path else "Exception"
        path.append((depth, found["name"]))
    assert drawn == {name: kind.__base__.__name__ for name, kind in error_classes().items() if kind.__base__}


def test_every_error_class_is_exported() -> None:
    assert set(errors.__all__) - {"install", "nearest"} == set(error_classes())


# ---- the files of the project --------------------------------------------------------------------------------


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


#: Addresses that name no machine: the licence's own, SVG's name space, and what a pointer of Git LFS begins with.
ALLOWED_HOSTS = {"www.apache.org", "www.w3.org", "localhost", "127.0.0.1", "git-lfs.github.com"}


def test_no_file_names_a_machine() -> None:
    home = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|opt)/\w|(?<!\w)[A-Z]:\\Users\\")
    address = re.compile(r"\b(?:https?|file|ssh|git)://(?P<host>[\w.-]+)")
    wrong = []
    for file in tracked_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if file == Path(__file__):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            hosts = {match["host"] for match in address.finditer(line)} - ALLOWED_HOSTS
            # `http://localhost` and example hosts of reserved names may stand in tests of URIs
            hosts = {host for host in hosts if not host.endswith(("example", "example.org", "example.com", "invalid"))}
            if home.search(line) or hosts:
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert wrong == []


def test_no_large_or_generated_file_is_kept() -> None:
    large = [str(f.relative_to(ROOT)) for f in tracked_files() if f.stat().st_size > 200_000]
    generated = [str(f.relative_to(ROOT)) for f in tracked_files() if f.suffix in (".duckdb", ".pyc", ".onnx")]
    with_output = [
        str(f.relative_to(ROOT))
        for f in tracked_files()
        if f.suffix == ".ipynb" and any(cell.get("outputs") for cell in json.loads(f.read_text("utf-8"))["cells"])
    ]
    assert large == generated == with_output == []


def test_the_licence_is_there() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0" in text


def test_the_version_is_written_once(project: dict[str, Any]) -> None:
    import obeql

    version = project["project"]["version"]
    assert obeql.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_pinned(project: dict[str, Any]) -> None:
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[<>=!~\[ ;]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names <= pins


@pytest.mark.slow
def test_a_wheel_holds_everything(tmp_path: Path) -> None:
    if int(metadata_version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools is too old to build without fetching another")
    # A copy, because setuptools leaves build/ and egg-info where it builds.
    source = tmp_path / "source"
    for file in tracked_files():
        name = file.relative_to(ROOT)
        if name.parts[0] in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run([*command, "-w", str(tmp_path), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("obeql-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    expected = {
        "/".join([*package_of(file.parent).split("."), file.name])
        for top in FOLDERS
        for file in (ROOT / top).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert held == expected
    assert {"obeql/grammar/obeql.lark", "obeql/py.typed", "obeql/store/sql/views.sql"} <= held
