"""Results that hold a few maps in memory and read the others from the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import obeql
from obeql.errors import StoreError
from obeql.results import lazy_maps

STATEMENT = "EXPLAIN OCCLUDE '{}/*.png' USING net FOR CLASSES (0, 1) WITH patch=8 stride=8 score=log_odds"
MAP_BYTES = 4 * 4 * 16


@pytest.fixture(params=["one map in memory", "none"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one map, or none, in memory."""
    monkeypatch.setattr(lazy_maps, "KEPT_BYTES", MAP_BYTES if request.param != "none" else 0)


def n_held(result: Any) -> int:
    return sum(not isinstance(entry, lazy_maps.LazyMap) for entry in result.maps._entries)


def test_all_maps_stay_in_memory_while_they_are_small(net_db: Any, folder: Path) -> None:
    result = net_db.execute(STATEMENT.format(folder))
    assert n_held(result) == 6
    assert n_held(net_db.run(result.run_id)) == 6
    net_db.close()
    assert result[5].scores.shape == (4, 4)


def test_maps_beyond_the_budget_are_those_that_were_computed(
    net_db: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = net_db.execute(STATEMENT.format(folder))
    monkeypatch.setattr(lazy_maps, "KEPT_BYTES", 2 * MAP_BYTES)
    monkeypatch.setattr(lazy_maps, "_READ_BYTES", 3 * MAP_BYTES)
    for result in (net_db.execute(STATEMENT.format(folder) + " NO REUSE"), net_db.run(whole.run_id)):
        assert n_held(result) == 2
        assert len(result) == 6
        for expected, heat, again in zip(whole, result, [result[i] for i in range(6)], strict=True):
            for found in (heat, again):
                for plane in ("scores", "importance", "top_class", "tops", "lefts", "heights", "widths"):
                    np.testing.assert_array_equal(getattr(found, plane), getattr(expected, plane))
                assert (found.image, found.class_name, found.clean_score) == (
                    expected.image,
                    expected.class_name,
                    expected.clean_score,
                )
                assert found.cells.quality.get("n_exact") == 16
                assert found.placement == expected.placement


@pytest.mark.usefixtures("small")
def test_slices_scores_texts_and_files(net_db: Any, folder: Path, tmp_path: Path) -> None:
    result = net_db.execute(STATEMENT.format(folder))
    assert n_held(result) < 2
    assert [heat.class_name for heat in result[1:4]] == ["bee", "ant", "bee"]
    assert result[-1].class_name == "bee"
    seen = result.as_score("probability")
    assert 0 < seen[3].scores.min() <= seen[3].scores.max() < 1
    np.testing.assert_array_equal(seen[3].scores, result[3].as_score("probability").scores)
    assert "6 heat maps" in repr(result)
    assert result.table(1).count("clean log_odds") == 6
    result.save(tmp_path / "sheet.png")
    with pytest.raises(IndexError, match="6 heat maps"):
        result[6]


@pytest.mark.usefixtures("small")
def test_a_map_that_is_gone_says_so(folder: Path, tiny_net: Any, tmp_path: Path) -> None:
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        db.create_model("net", tiny_net(), size=(32, 32), classes=["ant", "bee", "cat"])
        result = db.execute(STATEMENT.format(folder))
        db.execute(f"DROP RUN {result.run_id}")
        with pytest.raises(StoreError, match="no longer in the database: run 1 was dropped"):
            result[5]
        result = db.execute(STATEMENT.format(folder))
    with pytest.raises(StoreError, match="is closed"):
        list(result)


@pytest.mark.usefixtures("small")
def test_a_run_that_goes_on_holds_no_more(net_db: Any, folder: Path) -> None:
    """An interrupted run, whose maps are read back when it is continued."""
    statement = STATEMENT.format(folder)
    net_db.execute("SET obeql.disabled_rules = 'batch_images'")

    def stop(progress: Any) -> None:
        if progress.image == 2:
            net_db.cancel()

    with pytest.raises(KeyboardInterrupt, match="2 of 3 images"):
        net_db.execute(statement, on_progress=stop)
    result = net_db.execute(statement)
    assert len(result) == 6
    assert n_held(result) < 2
    assert [heat.class_id for heat in result] == [0, 1] * 3
