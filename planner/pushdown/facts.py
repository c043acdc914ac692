"""What rules know of a statement inside SQL before it runs, and what they decide.

`query` says which conditions there are; the session knows the images, the classes and the windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from obeql.planner.aggregates import AggregateAim
from obeql.planner.grid import WindowGrid

if TYPE_CHECKING:
    from obeql.planner.pushdown.aims import GroupAim, TopAim

__all__ = [
    "CLASS_COLUMNS",
    "IMAGE_COLUMNS",
    "JOINED_COLUMNS",
    "RUN_COLUMNS",
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
#: Columns that are the same for all windows of a run, or of all that a run computes.
RUN_COLUMNS = frozenset(("run", "run_id", "exact"))
#: Columns by which predictions are joined with the maps of the same image.
JOINED_COLUMNS = ("image_id", "path", "image")

#: Most rows of images with classes that are looked at one by one.
_MOST_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that every row of the answer meets: SQL, and the columns of the one table that it is about.

    `tables` are those of predictions that a query inside it reads, `named` the names of WITH under which it does.
    """

    sql: str
    columns: frozenset[str]
    tables: frozenset[str] = frozenset()
    named: tuple[tuple[str, str], ...] = ()


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
    values of a column that predictions have, by the join; `predicted` the tables of predictions that are made by now.
    `run_ids` are numbers that the run may have, as far as anybody can tell.

    `approx` is the quality of APPROX, {} without it. `n_classes` is how many maps of classes an image has, None where
    that differs. `is_alone` says that one process computes the windows, `search_confidence` how sure TOP .. CELLS is.
    `top` and `groups` are what the SELECT makes of the rows, `unread` why some condition on them is not known here.
    """

    images: Mapping[str, Sequence[Any]]
    places: Sequence[int]
    classes: Sequence[tuple[int, str]] | None
    grids: Sequence[WindowGrid]
    estimates: bool = False
    timed: bool = False
    joined: Mapping[PredictionJoin, frozenset[Any]] = field(default_factory=dict)
    predicted: frozenset[str] = frozenset()
    run_ids: Sequence[int] = ()
    approx: Mapping[str, Any] = field(default_factory=dict)
    n_classes: int | None = None
    is_alone: bool = True
    search_confidence: float = 0.95
    top: TopAim | str | None = None
    groups: GroupAim | str | None = None
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Restriction:
    """What is left of a statement, None where all is: places of images, ids of classes, a box of pixels.

    Of APPROX, `top_cells` is the k of TOP k CELLS that answers as well, and `aggregates` what a sample of the windows
    has to tell in place of the map.

    `pushed` says what was pushed down, by which rule; `left` which conditions were not, and why.
    """

    images: frozenset[int] | None = None
    classes: tuple[int, ...] | None = None
    region: tuple[int, int, int, int] | None = None
    top_cells: int | None = None
    aggregates: AggregateAim | None = None
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
