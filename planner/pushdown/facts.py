"""What rules know of a statement inside SQL before it runs, and what they decide.

`query` says which conditions there are; the session knows the images, the classes and the windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from obeql.planner.grid import WindowGrid

__all__ = [
    "CLASS_COLUMNS",
    "IMAGE_COLUMNS",
    "JOINED_COLUMNS",
    "WINDOW_COLUMNS",
    "Condition",
    "Holds",
    "MapFacts",
    "PredictionJoin",
    "Restriction",
    "cross_product",
]

#: Columns of the view `windows` that are the same for all windows of an image, of a class, of a place.
IMAGE_COLUMNS = frozenset(("image", "label", "path", "image_id", "model"))
CLASS_COLUMNS = frozenset(("class_id", "class_name"))
WINDOW_COLUMNS = frozenset(("patch", "row", "col", "top_px", "left_px", "height_px", "width_px"))
#: Columns by which predictions are joined with the maps of the same image.
JOINED_COLUMNS = ("image_id", "path", "image")

#: Most rows of images with classes that are looked at one by one.
_MOST_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that every row of the answer meets: SQL, and the columns of the one table that it is about."""

    sql: str
    columns: frozenset[str]


@dataclass(frozen=True, slots=True)
class PredictionJoin:
    """Predictions joined with the maps: their table, the column that both have, the conditions on them alone."""

    table: str
    column: str
    conditions: tuple[Condition, ...]


#: Asks DuckDB which rows of these columns meet a condition; returns their places.
Holds = Callable[[Condition, Mapping[str, Sequence[Any]]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class MapFacts:
    """A statement before it runs.

    `images` are columns of its images, of which one that has several labels has a row for each; `places` says which
    image a row is of. `classes` are (id, name), None where the network chooses them image by image. `estimates` says
    that not all windows are computed: leaving some out would change the others. `timed` is WITHIN. `joined` are the
    values of a column that predictions have, by the join.
    """

    images: Mapping[str, Sequence[Any]]
    places: Sequence[int]
    classes: Sequence[tuple[int, str]] | None
    grids: Sequence[WindowGrid]
    estimates: bool = False
    timed: bool = False
    joined: Mapping[PredictionJoin, frozenset[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restriction:
    """What is left of a statement, None where all is: places of images, ids of classes, a box of pixels.

    `pushed` says what was pushed down, by which rule; `left` which conditions were not, and why.
    """

    images: frozenset[int] | None = None
    classes: tuple[int, ...] | None = None
    region: tuple[int, int, int, int] | None = None
    pushed: tuple[tuple[str, str], ...] = ()
    left: tuple[tuple[str, str], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether no window can be in the answer."""
        return self.images == frozenset() or self.classes == ()


def cross_product(facts: MapFacts) -> tuple[dict[str, Sequence[Any]], Sequence[int], Sequence[int]] | None:
    """Return the columns of every image with every class, with the place and the class of each row.

    None where there are too many, or the classes are not known.
    """
    if facts.classes is None or len(facts.places) * len(facts.classes) > _MOST_ROWS:
        return None
    n_classes = len(facts.classes)
    columns: dict[str, Sequence[Any]] = {
        name: [value for value in values for _ in range(n_classes)] for name, values in facts.images.items()
    }
    columns["class_id"] = [number for number, _ in facts.classes] * len(facts.places)
    columns["class_name"] = [name for _, name in facts.classes] * len(facts.places)
    places = [place for place in facts.places for _ in range(n_classes)]
    return columns, places, columns["class_id"]
