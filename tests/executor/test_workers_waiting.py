"""Which groups of images go to whom, and in which order, whoever dies."""

from __future__ import annotations

from obeql.executor.workers.work_queue import MOST_ATTEMPTS, WorkQueue
from obeql.planner.cells import ImageHashes


def test_groups_are_those_of_one_process() -> None:
    waiting = WorkQueue(7, together=3)
    assert [waiting.take(2, None) for _ in range(4)] == [[(0, 1, 2)], [(3, 4, 5)], [(6,)], []]


def test_fast_groups_go_several_at_a_time_but_never_more_than_a_share() -> None:
    waiting = WorkQueue(1000, together=1)
    assert len(waiting.take(2, 0.05)) == 5  # a quarter of a second
    assert len(waiting.take(2, 1.0)) == 1
    assert len(waiting.take(2, 0.0)) == 124  # a quarter of what each of two would get of 993
    while waiting:
        n_left = len(waiting)
        assert len(waiting.take(2, 1e-5)) <= max(1, n_left // 8)


def test_what_was_not_begun_comes_next_in_its_order() -> None:
    waiting = WorkQueue(6, together=2)
    first, second = waiting.take(2, None), waiting.take(2, None)
    waiting.put_back([*first, (), *second])
    assert [waiting.take(2, None) for _ in range(3)] == [[(0, 1)], [(2, 3)], [(4, 5)]]


def test_a_suspect_goes_last_and_alone_and_is_given_up() -> None:
    waiting = WorkQueue(3, together=1)
    for _ in range(MOST_ATTEMPTS - 1):
        assert waiting.record_crash((9,)) is None
    assert waiting.take(1, 1e-5) == [(0,)] and not waiting.has_quarantined
    waiting.take(1, 1e-5)
    waiting.take(1, 1e-5)
    assert waiting.has_quarantined and waiting.take(1, 1e-5) == [(9,)]
    assert waiting.record_crash((9,)) == 9


def test_a_group_is_tried_together_again_and_then_taken_apart() -> None:
    waiting = WorkQueue(2, together=2)
    (group,) = waiting.take(1, None)
    assert waiting.record_crash(group) is None and waiting.take(1, None) == [group]
    assert waiting.record_crash(group) is None
    assert [waiting.take(1, None), waiting.take(1, None)] == [[(0,)], [(1,)]]


def test_hashes_of_images_are_found_again() -> None:
    hashes = [f"{number:064x}"[::-1] for number in range(1, 200)]
    known = ImageHashes(hashes[::2])
    assert [each in known for each in hashes] == [number % 2 == 0 for number in range(len(hashes))]
    known.add(hashes[1])
    assert hashes[1] in known and hashes[3] not in known and "" not in ImageHashes()
