"""The images that no worker has: in groups, as they go through the network together, and how many to give at once.

Between the plan, whose groups are those of one process so that the cells are the same bits, and the coordinator, which
hands them out.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable

__all__ = ["MOST_ATTEMPTS", "Group", "WorkQueue"]

#: Numbers of images, in the order of the statement.
Group = tuple[int, ...]

#: An image whose worker dies is given to another one, until so many have died of it alone.
MOST_ATTEMPTS = 3
#: A group of several images is taken apart when so many workers have died of it.
_MOST_DEATHS_TOGETHER = 2
#: What a worker is given at once takes about so long: it costs a call and an answer.
_SECONDS_AT_ONCE = 0.25
#: Never more at once than such a share of what each worker would get of the rest: all are to end together.
_SHARE_AT_ONCE = 0.25


class WorkQueue:
    """Groups in their order, those at which workers have died last."""

    def __init__(self, n_images: int, together: int) -> None:
        numbers = range(n_images)
        self._groups: deque[Group] = deque(
            tuple(numbers[first : first + together]) for first in range(0, n_images, together)
        )
        self._deaths: Counter[Group] = Counter()

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def has_quarantined(self) -> bool:
        """Return whether workers have died of the next group."""
        return bool(self._groups) and self.is_quarantined(self._groups[0])

    def is_quarantined(self, group: Group) -> bool:
        """Return whether workers have died of a group."""
        return self._deaths[group] > 0

    def take(self, n_workers: int, seconds: float | None) -> list[Group]:
        """Return the next groups for one of so many workers; `seconds` is what a group takes, None where nobody knows.

        A group of which workers have died goes alone.
        """
        if not self._groups:
            return []
        taken = [self._groups.popleft()]
        if seconds is not None and not self.is_quarantined(taken[0]):
            share = _SHARE_AT_ONCE * len(self._groups) / n_workers
            n_groups = min(math.ceil(_SECONDS_AT_ONCE / max(seconds, 1e-6)), int(share))
            while len(taken) < n_groups and self._groups and not self.has_quarantined:
                taken.append(self._groups.popleft())
        return taken

    def put_back(self, groups: Iterable[Group]) -> None:
        """Put groups that a worker had and did not come to first."""
        self._groups.extendleft(reversed([group for group in groups if group]))

    def record_crash(self, group: Group) -> int | None:
        """Note that a worker has died of a group, which goes last; returns an image that is to be given up."""
        self._deaths[group] += 1
        if len(group) == 1 and self._deaths[group] >= MOST_ATTEMPTS:
            return group[0]
        apart = len(group) > 1 and self._deaths[group] >= _MOST_DEATHS_TOGETHER
        self._groups.extend(((number,) for number in group) if apart else [group])
        return None
