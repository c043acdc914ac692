"""Images that go through the network together: the maps of one after the other, whatever happens to some of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def assert_close(got: Any, want: Any) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got.cells.logit, want.cells.logit, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.cells.others, want.cells.others, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.top_class, want.top_class)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the planner take so many images together."""

    def force(count: int) -> None:
        monkeypatch.setattr(sys.modules["obeql.planner.physical.lower"], "images_per_batch", lambda *_: count)

    return force


@pytest.fixture
def scans(net_db: Any, tmp_path: Path, pixels: Callable[..., Any]) -> list[Path]:
    """Seven images on disk, the set `scans` of `net_db`."""
    paths = []
    for number in range(7):
        paths.append(tmp_path / f"scan{number}.png")
        Image.fromarray(np.asarray(pixels(number))).save(paths[-1])
    net_db.create_images("scans", [str(path) for path in paths])
    return paths


def same(db: Any, statement: str, together: Callable[[int], None]) -> Any:
    """Check a statement's maps against those of one image after the other, and themselves; return the former."""
    together(1)
    alone = db.execute(f"{statement} NO REUSE")
    together(3)
    found = db.execute(f"{statement} NO REUSE")
    again = db.execute(f"{statement} NO REUSE")
    assert [heat.image for heat in found] == [heat.image for heat in alone]
    for got, repeated, want in zip(found, again, alone, strict=True):
        assert got.class_id == want.class_id
        assert_close(got, want)
        np.testing.assert_array_equal(got.cells.logit, repeated.cells.logit)
        assert (got.cells.clean_logit, got.cells.clean_top_class) == pytest.approx(
            (want.cells.clean_logit, want.cells.clean_top_class), abs=1e-5
        )
    return found


@pytest.mark.parametrize(
    "tail",
    [
        "FOR CLASS 1 WITH patch=8 stride=8",
        "FOR TOP 2 WITH patch=[8, 12] stride=8",
        "WITH patch=8 stride=8 fill=blur",
        "FOR ALL WITH patch=8 stride=7 border=clip score=log_odds",
    ],
)
@pytest.mark.parametrize("off", ["", "choose_engine", "share_materialisation"])
def test_maps_are_those_of_images_alone(
    net_db: Any, scans: list[Path], together: Callable[[int], None], tail: str, off: str
) -> None:
    net_db.execute("SET obeql.disabled_rules = ?", [off])
    same(net_db, f"EXPLAIN OCCLUDE scans USING net {tail}", together)


def test_what_fails_leaves_the_others_alone(net_db: Any, scans: list[Path], together: Callable[[int], None]) -> None:
    statement = "EXPLAIN OCCLUDE scans USING net FOR CLASS 1 WITH patch=8 stride=8"
    want = same(net_db, statement, together)
    scans[1].write_bytes(b"no image")
    scans[5].unlink()
    found = net_db.execute(f"{statement} NO REUSE")
    assert [failed.shown for failed in found.failures] == [str(scans[1]), str(scans[5])]
    for heat, expected in zip(found, [want[i] for i in (0, 2, 3, 4, 6)], strict=True):
        assert_close(heat, expected)


def test_images_may_lack_different_windows(
    net_db: Any,
    scans: list[Path],
    together: Callable[[int], None],
    computed: Any,
) -> None:
    statement = "EXPLAIN OCCLUDE scans USING net FOR CLASS 1 WITH patch=8 stride=4"
    want = same(net_db, statement, together)
    for (run_id,) in net_db.execute("SELECT run_id FROM runs").fetchall():
        net_db.execute(f"DROP RUN {run_id}")
    net_db.execute(f"EXPLAIN OCCLUDE '{scans[0]}' USING net FOR CLASS 1 WITH patch=8 stride=4")
    net_db.execute(f"EXPLAIN OCCLUDE '{scans[2]}' USING net FOR CLASS 1 WITH patch=8 stride=8")
    net_db.execute(f"EXPLAIN OCCLUDE '{scans[4]}' USING net FOR CLASS 1 REGION (4, 8, 16, 12) WITH patch=8 stride=4")
    computed.take()
    found = net_db.execute(statement)
    assert computed.take() == (4 * 49 + (49 - 16) + (49 - 6), 6)
    for heat, expected in zip(found, want, strict=True):
        assert_close(heat, expected)
    net_db.execute(statement)
    assert computed.take() == (0, 0)


def test_coming_statements_find_their_classes(
    net_db: Any,
    scans: list[Path],
    together: Callable[[int], None],
    computed: Any,
) -> None:
    """Predicted classes differ from image to image, and so do the classes that are left for the next statement."""
    windows = "WITH patch=8 stride=8"
    texts = [f"EXPLAIN OCCLUDE scans USING net {classes} {windows}" for classes in ("FOR PREDICTED", "FOR CLASS 1")]
    want = [same(net_db, text, together) for text in texts]
    for (run_id,) in net_db.execute("SELECT run_id FROM runs").fetchall():
        net_db.execute(f"DROP RUN {run_id}")
    computed.take()
    found = list(net_db.run_script(";".join(texts)))
    assert computed.take() == (7 * 16, 7)
    for result, expected in zip(found, want, strict=True):
        for heat, other in zip(result, expected, strict=True):
            assert_close(heat, other)


def test_ctrl_c_keeps_the_groups_that_are_done(net_db: Any, scans: list[Path], together: Callable[[int], None]) -> None:
    statement = "EXPLAIN OCCLUDE scans USING net FOR CLASS 1 WITH patch=8 stride=8"
    want = same(net_db, statement, together)
    for (run_id,) in net_db.execute("SELECT run_id FROM runs").fetchall():
        net_db.execute(f"DROP RUN {run_id}")

    def stop(progress: Any) -> None:
        if progress.image == 3:
            net_db.cancel()

    with pytest.raises(KeyboardInterrupt, match="after 3 of 7 images"):
        net_db.execute(statement, on_progress=stop)
    for heat, expected in zip(net_db.execute(statement), want, strict=True):
        assert_close(heat, expected)


def test_the_plan_says_so(net_db: Any, scans: list[Path], together: Callable[[int], None]) -> None:
    together(3)
    statement = "PLAN EXPLAIN OCCLUDE scans USING net FOR CLASS 1 WITH patch=8 stride=8"
    assert "BatchedImages  3 images at a time share batches" in str(net_db.execute(statement))
    assert "BatchedImages" not in str(
        net_db.execute(f"{statement} APPROX 0.9 METRIC maxerr".replace("stride=8", "stride=1"))
    )


@pytest.mark.usefixtures("quick_workers")
def test_workers_give_the_bits_of_one_process(
    net_db: Any, scans: list[Path], together: Callable[[int], None], tmp_path: Path
) -> None:
    together(3)
    scans[4].write_bytes(b"no image")  # leaves its group smaller
    net_db.execute("SET obeql.threads = 1")
    statement = "EXPLAIN OCCLUDE scans USING net FOR TOP 2 WITH patch=8 stride=8"
    alone, one, two = (net_db.execute(f"{statement} {tail} NO REUSE") for tail in ("", "workers=1", "workers=2"))
    for shared in (one, two):
        assert shared.plan.together == 3 and "BatchedImages" in str(shared.plan)
        assert [heat.image for heat in shared] == [heat.image for heat in alone] and len(shared.failures) == 1
        for got, want in zip(shared, alone, strict=True):
            np.testing.assert_array_equal(got.cells.logit, want.cells.logit)
            np.testing.assert_array_equal(got.cells.others, want.cells.others)
