"""Multi-query planning over a script: what coming statements will ask of the very windows of the present one.

After the statement is bound, before it is planned. The logits of a window answer for every class, so that classes
which the next statements of the script ask of the same windows are computed with it and stored ahead; when their turn
comes, they find their cells. A guess that turns out wrong costs some space and no exactness: every statement is bound
anew in its turn and takes from the store only what fits.
"""

from __future__ import annotations

from collections.abc import Iterable

from obeql.errors import ObeqlError
from obeql.grammar import syntax
from obeql.planner.bind import BoundExplain, bind
from obeql.planner.catalog import Catalog
from obeql.planner.logical import ClassSelector, ScoreCells, find, grids_of
from obeql.planner.options import explain_options

__all__ = ["coming_classes"]


def coming_classes(
    bound: BoundExplain,
    statement: syntax.ExplainOcclude,
    ahead: Iterable[syntax.ExplainOcclude],
    catalog: Catalog,
    text: str,
) -> tuple[ClassSelector, ...]:
    """Return the classes that statements `ahead` ask of the images and windows of `bound`, where all are exact.

    A statement with parameters, or one that would fail as things are, is left to its own turn.
    """
    if "share_windows" in bound.disabled or bound.complete or not _is_plain(bound):
        return ()
    own = _selector(bound)
    found: dict[ClassSelector, None] = {}
    for other in ahead:
        try:
            if not _may_agree(statement, other, text):
                continue
            coming = bind(other, catalog, text)
        except ObeqlError:
            continue
        if _is_plain(coming) and _windows(coming) == _windows(bound) and _selector(coming) != own:
            found[_selector(coming)] = None
    return tuple(found)


def _may_agree(statement: syntax.ExplainOcclude, other: syntax.ExplainOcclude, text: str) -> bool:
    """Whether two statements read alike where it matters: most that do not agree need not be bound to be told apart."""
    if (other.source, other.model) != (statement.source, statement.model) or syntax.parameters_of(other):
        return False
    options = [explain_options(each.options, text, {}, {}) for each in (statement, other)]
    return all(options[0][name] == options[1][name] for name in ("patch", "stride", "fill", "border", "precision"))


def _is_plain(bound: BoundExplain) -> bool:
    return bound.reuse and not bound.estimates


def _windows(bound: BoundExplain) -> tuple[object, ...]:
    """What decides the logits of the windows, and which windows there are."""
    model = bound.model.model_hash, bound.model.preprocessing
    options = bound.options["fill"], bound.options["precision"], bound.device
    return *model, *options, bound.images, grids_of(bound.logical)


def _selector(bound: BoundExplain) -> ClassSelector:
    (score, *_) = find(bound.logical, ScoreCells)
    return score.classes
