"""The rules of the optimizer and the choices of lowering: the one list of their names.

A new rule is a file of this folder, a row here, a golden plan. `SET obeql.disabled_rules = 'a, b'` turns off
any of them by name. Rules rewrite the logical plan; choices decide how it is carried out, by cost, and turning one
off leaves the plainest way that is still exact. Those of push-down, beside them in `planner.pushdown`, are for SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from obeql.errors import UnknownNameError, nearest
from obeql.planner.logical.plan import LogicalNode
from obeql.planner.logical.rules.drop_duplicate_classes import drop_duplicate_classes
from obeql.planner.logical.rules.drop_duplicate_patches import drop_duplicate_patches
from obeql.planner.logical.rules.reuse_stored_cells import reuse_stored_cells
from obeql.planner.logical.rules.share_materialisation import share_materialisation
from obeql.planner.proxies import PROXIES
from obeql.planner.pushdown.rules import PUSHDOWN_NAMES

__all__ = ["CHOICES", "RULES", "RULE_NAMES", "Choice", "Rule", "rule_names"]

Rule = Callable[[LogicalNode], LogicalNode]

#: Rules in the order they are tried.
RULES: tuple[Rule, ...] = (
    drop_duplicate_classes,
    drop_duplicate_patches,
    share_materialisation,
    reuse_stored_cells,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of lowering: made by `schedule`, `image_batching` or `refinement`, which are physical, or `multi_query`.

    `skip_unchanged` is made by the executor, which sees the pixels.
    """

    name: str
    does: str
    without: str


CHOICES: tuple[Choice, ...] = (
    Choice("choose_engine", "takes the operator of least estimated time", "DenseForward always"),
    Choice("choose_switch_layer", "finds the layer where boxes turn into whole maps", "boxes as far as they go"),
    Choice("bucket_windows", "groups windows by the size of their boxes", "one size for all windows"),
    Choice("choose_batch", "finds the batch size under the memory budget", "a fixed small batch"),
    Choice("choose_threads", "runs batches side by side or in turn, as measured", "boxes in lanes, whole maps in turn"),
    Choice("choose_layout", "lays whole maps out in memory as measured, on GPUs", "channels-last"),
    Choice("batch_images", "computes several images together where that fills batches", "one after the other"),
    Choice("share_windows", "computes classes that the next statements ask of the same windows", "each asks again"),
    Choice("skip_unchanged", "takes windows that show the fill anyway from the unoccluded pass", "computes them"),
    Choice("choose_refinement", "computes only the windows that APPROX, TOP .. CELLS or WITHIN need", "all windows"),
    Choice(
        "choose_proxy",
        "guesses maps, and what that leaves out to first order, where exact windows show that it tells enough",
        "no guesses",
    ),
    *(Choice(kind.method, kind.does, "no such guesses") for kind in PROXIES.values()),
    Choice(
        "choose_reduced_precision",
        "computes most of those windows in bfloat16 where the processor is faster in it",
        "the precision of the statement",
    ),
)

RULE_NAMES: tuple[str, ...] = (
    *(rule.__name__ for rule in RULES),
    *(choice.name for choice in CHOICES),
    *PUSHDOWN_NAMES,
)


def rule_names(names: Iterable[str]) -> frozenset[str]:
    """Return the names as a set. Raises UnknownNameError, without a place, for a rule that does not exist."""
    found = frozenset(name.strip().lower() for name in names if name.strip())
    for name in sorted(found - set(RULE_NAMES)):
        raise UnknownNameError(
            f"There is no rule {name!r}; rules are {', '.join(RULE_NAMES)}.{nearest(name, RULE_NAMES)}"
        )
    return found
