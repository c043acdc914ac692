"""Maps of which some cells are estimated, as they are handed on, with what is stated of each.

Used by `progressive_refine` after every level, and once before the first where a proxy guessed the cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from obeql.executor.adaptive.first_picture import guessed_planes
from obeql.executor.adaptive.sampler import Sampler
from obeql.executor.operators.grid_scan import Planes
from obeql.executor.operators.logits import as_stored
from obeql.planner.physical.plan import ProgressiveRefine, Refinement
from obeql.planner.scores import OF_LOGIT, ScoreKind

__all__ = ["first_picture", "refined_planes", "what_is_stated"]

Floats = npt.NDArray[np.float64]


def what_is_stated(refinement: Refinement, refiner: Sampler, guess: str | None, dropped: str) -> dict[str, Any]:
    """Return what is stated of all maps of a refinement alike.

    `guess` is the name of the proxy that guessed the cells, `dropped` why the guesses of those that were tried are not
    used.
    """
    cells = refiner.cells
    stated: dict[str, Any] = {
        "approx": not cells.exact.all(),
        "metric": refiner.goal.metric,
        "target": refiner.goal.target,
        "confidence": refinement.confidence,
        "n_exact": int(cells.exact.sum()),
        "n_audit": refiner.n_audit,
        "n_levels": len(refiner.history),
    }
    if refinement.reduced is not None and cells.reduced.any():
        stated["reduced_precision"] = refinement.reduced.precision
        stated["n_reduced"] = int((cells.reduced & ~cells.exact).sum())
    if guess is not None:
        stated["proxy"] = guess
    if dropped:
        stated["proxy_dropped"] = dropped
    if isinstance(refinement, ProgressiveRefine) and refinement.within_s is not None:
        stated["within_s"] = refinement.within_s
    return stated


def refined_planes(refiner: Sampler, planes: Planes, stated: Mapping[str, Any]) -> Planes:
    """Return computed cells as in `planes`, the others as estimated; of each map what is `stated`, and its bound."""
    of_maps = [{**stated, "bound": each.bound, **refiner.stated(k)} for k, each in enumerate(refiner.estimates)]
    return _estimated(refiner, planes, [(each.logit, each.others) for each in refiner.estimates], of_maps)


def first_picture(refiner: Sampler, planes: Planes, kind: ScoreKind, stated: Mapping[str, Any]) -> Planes:
    """Return computed cells as in `planes`, the others as a proxy guesses them, of which there is no bound."""
    cells = refiner.cells
    found = [guessed_planes(cells, k, kind in OF_LOGIT) for k in range(cells.n_classes)]
    return _estimated(refiner, planes, found, [{**stated, "bound": None, "is_guess": True}] * len(found))


def _estimated(
    refiner: Sampler, planes: Planes, found: Sequence[tuple[Floats, Floats]], stated: Sequence[dict[str, Any]]
) -> Planes:
    """Return the computed cells as in `planes`, and the others as `found` of each class: logits and others."""
    exact = refiner.cells.exact.reshape(-1)
    at = torch.from_numpy(exact)[:, None]
    logit, others = as_stored(
        *(torch.from_numpy(np.stack([each[which].reshape(-1) for each in found], axis=1)) for which in (0, 1))
    )
    return Planes(
        torch.where(at, planes.logit, logit),
        torch.where(at, planes.others, others),
        planes.top,
        exact.copy(),
        tuple(stated),
    )
