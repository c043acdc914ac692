"""Multi-query planning over a script: what coming statements will ask of the very windows of the present one.

After a statement is bound, before it is planned. The logits of a window answer for every class, so that classes which
the next statements of the script ask of the same windows are computed with it and stored ahead; when their turn comes,
they find their cells. A guess that turns out wrong costs some space and no exactness: every statement is bound anew in
its turn and takes from the store only what fits.

A script of any length is looked at once: statements that read alike wherever it matters are found by what they say, and
each of them is bound ahead once, to the images and the model of the first one. No source is read for that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from obeql.errors import ObeqlError
from obeql.grammar import statements, syntax
from obeql.planner.binding.bind import bind_alike
from obeql.planner.binding.bound import BoundExplain
from obeql.planner.binding.image_paths import Frames
from obeql.planner.binding.options import explain_options
from obeql.planner.catalog import Catalog
from obeql.planner.class_selector import ClassSelector
from obeql.planner.logical.plan import ScoreCells, find, grids_of

__all__ = ["FollowingStatements"]

_WINDOWS = ("patch", "stride", "fill", "channel", "border", "precision", "page", *Frames.names())


@dataclass(frozen=True, slots=True, eq=False)
class _Coming:
    """What is asked, by statements that read alike, of the windows of one of them, (place, classes) each."""

    windows: tuple[object, ...]
    asked: tuple[tuple[int, ClassSelector], ...]


class FollowingStatements:
    """The statements of a script that ask for the same windows, as far as they follow each other without any other.

    A statement with parameters, or one that would fail as things are, is left to its own turn.
    """

    def __init__(self, statements: Sequence[statements.Statement]) -> None:
        self._statements = statements
        #: the places of statements that read alike, by place
        self._alike: dict[int, list[int]] = {}
        self._known: dict[int, _Coming] = {}
        if len(statements) > 1:
            self._find_alike()

    def _find_alike(self) -> None:
        chunk = 0
        found: dict[Hashable, list[int]] = {}
        for place, statement in enumerate(self._statements):
            if not isinstance(statement, statements.ExplainOcclude):
                chunk += 1  # which may change what is known, or what sources yield
                continue
            key = _key(statement)
            if key is not None:
                self._alike[place] = found.setdefault((chunk, key), [])
                self._alike[place].append(place)

    def classes(self, place: int, bound: BoundExplain, catalog: Catalog) -> tuple[ClassSelector, ...]:
        """Return the classes that statements after `place` ask of the images and windows of the one there, bound."""
        alike = self._alike.get(place, ())
        if len(alike) < 2 or place == alike[-1]:
            return ()
        if "share_windows" in bound.disabled or bound.complete or not _is_plain(bound):
            return ()
        own, windows = _selector(bound), _windows(bound)
        known = self._known.get(alike[0])
        if known is None or known.windows != windows:
            following = [other for other in alike if other > place]
            known = self._known[alike[0]] = _Coming(windows, tuple(self._asked(following, bound, windows, catalog)))
        return tuple(dict.fromkeys(selector for other, selector in known.asked if other > place and selector != own))

    def _asked(
        self, places: Sequence[int], bound: BoundExplain, windows: tuple[object, ...], catalog: Catalog
    ) -> list[tuple[int, ClassSelector]]:
        found = []
        for place in places:
            statement = self._statements[place]
            assert isinstance(statement, statements.ExplainOcclude)
            try:
                coming = bind_alike(statement, bound, catalog)
            except ObeqlError:
                continue
            if _is_plain(coming) and _windows(coming) == windows:
                found.append((place, _selector(coming)))
        return found


def _key(statement: statements.ExplainOcclude) -> Hashable | None:
    """Return what statements have in common that may ask for the same windows; None where reading does not tell."""
    if syntax.parameters_of(statement) or statement.windows is not None:
        return None
    try:
        options = explain_options(statement.options, {}, {})
    except ObeqlError:
        return None
    if options["mask"] is not None or options["segments"] is not None:
        return None
    asked = (_one_number(options[name]) if name in ("patch", "stride") else options[name] for name in _WINDOWS)
    return statement.source, statement.model, statement.region, *asked


def _one_number(sizes: Any) -> Any:
    """Return sizes, or several, with 8x8 as 8, which says the same."""
    if not isinstance(sizes, tuple):
        return sizes
    if sizes and all(isinstance(each, tuple) for each in sizes):
        return tuple(map(_one_number, sizes))
    return sizes[:1] if len(set(sizes)) == 1 else sizes


def _is_plain(bound: BoundExplain) -> bool:
    return bound.reuse and not bound.estimates


def _windows(bound: BoundExplain) -> tuple[object, ...]:
    """Return what decides the logits of the windows, and which windows there are."""
    model = bound.model.model_hash, bound.model.preprocessing
    options = bound.options["fill"], bound.options["precision"], bound.device
    return *model, *options, bound.images, grids_of(bound.logical)


def _selector(bound: BoundExplain) -> ClassSelector:
    (score, *_) = find(bound.logical, ScoreCells)
    return score.classes
