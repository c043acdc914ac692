"""Freed memory is given back where a plan's memory is limited to little more than it needs, and only there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from obeql.executor.devices import allocator
from obeql.planner.physical.plan import Cost, DenseForward


class Library:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.settings: dict[int, int] = {}
        self.n_trims = 0

    def mallopt(self, number: int, value: int) -> int:
        self.settings[number] = value
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.n_trims += 1
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setattr(allocator, "_glibc", lambda: found)
    return found


def plan(needed: float, given: int, limited: bool = True) -> Any:
    return SimpleNamespace(engines=(DenseForward(1, Cost(0, 0, 0, needed)),), memory_bytes=given, limited=limited)


def test_a_tight_limit_gives_memory_back(library: Library) -> None:
    with allocator.memory_given_back(plan(50e6, 100_000_000)):
        assert set(library.settings.values()) == {128 << 10}
        before = library.n_trims
        allocator.give_back()
        assert library.n_trims == before + 1
        with pytest.raises(ZeroDivisionError), allocator.memory_given_back(plan(50e6, 100_000_000)):
            raise ZeroDivisionError
        assert set(library.settings.values()) == {128 << 10}  # the outer run is at work still
    assert sorted(library.settings.values()) == [32 << 20, 64 << 20]
    before = library.n_trims
    allocator.give_back()
    assert library.n_trims == before


@pytest.mark.parametrize("each", [plan(50e6, 1_000_000_000), plan(50e6, 100_000_000, limited=False)])
def test_otherwise_nothing_is_changed(library: Library, each: Any) -> None:
    with allocator.memory_given_back(each):
        allocator.give_back()
    assert library.settings == {} and library.n_trims == 0


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with allocator.memory_given_back(plan(50e6, 100_000_000)):
        allocator.give_back()
