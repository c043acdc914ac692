"""The maps of one image: computed planes become `MapCells`, with the key that stored cells are found by.

Between `executor`, which has the planes computed, and the sink and the previews, which take maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.errors import ImageError
from obeql.executor.execution.preview import Preview
from obeql.executor.images.preprocess import from_model_space
from obeql.executor.operators.cached_cells import KnownCells
from obeql.executor.operators.grid_scan import GridScan, Planes
from obeql.executor.operators.logits import as_stored, logit_and_others, top_class
from obeql.planner.catalog import Activation
from obeql.planner.cells import CellKey, MapCells
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import ExplainPlan
from obeql.planner.regions import RegionGrid
from obeql.planner.scores import score_kind

__all__ = ["Clean", "cell_key", "clean_numbers", "maps_of", "overflow_hint", "preview_of"]

#: what one map says of the unoccluded image: logit and others of its class, and the arg-max class
Clean = tuple[float, float, int]


def preview_of(
    plan: ExplainPlan,
    run: GridScan,
    slot: int,
    classes: Sequence[int],
    clean: Tensor,
    image: Tensor,
    planes: Planes | None = None,
    known: KnownCells | None = None,
) -> Preview:
    """Return the map at work: `planes` as they stand after a level, or what the run has filled in so far.

    What is `known` of the map, because it was stored, is there from the beginning. `slot` says which of the images at
    work is shown, `clean` (1, K) are its logits and `image` (C, H, W) is itself.
    """
    z, rest = as_stored(*logit_and_others(clean, classes[:1], plan.model.activation))
    name = plan.model.class_name(classes[0])

    def cells() -> tuple[Tensor, Tensor] | None:
        found = run.partial(slot) if planes is None else planes
        if known is not None:
            found = Planes.empty(run.grid.n_windows, known.logit.shape[1]) if found is None else found
            found = found.cpu().over(known)
        return None if found is None else (found.logit, found.others)

    def picture() -> npt.NDArray[np.float32]:
        return from_model_space(image.float().cpu().numpy(), plan.model.preprocessing)

    return Preview(run.grid, name, score_kind(plan.score), (z[0, 0], rest[0, 0]), cells, picture)


def overflow_hint(plan: ExplainPlan) -> str:
    return "; float16 ends at 65504: try precision=bfloat16 or float32" if plan.precision == "float16" else ""


def cell_key(plan: ExplainPlan, image_hash: str, preprocessing_hash: str, grid: WindowGrid) -> CellKey:
    """Return what the cells of a grid over the image of that content are found by."""
    model_hash = plan.model.model_hash
    return CellKey(image_hash, model_hash, preprocessing_hash, grid.patch, plan.fill, plan.precision, grid.channels)


def clean_numbers(logits: Tensor, classes: Sequence[Sequence[int]], activation: Activation) -> list[dict[int, Clean]]:
    """Return what maps say of the unoccluded images with logits (n, K), for the classes of each of them."""
    found: list[dict[int, Clean]] = [{} for _ in classes]
    top = top_class(logits).tolist()
    slots_of: dict[int, list[int]] = {}
    for slot, ids in enumerate(classes):
        slots_of.setdefault(len(ids), []).append(slot)
    for slots in slots_of.values():  # images of which equally many classes are asked, at once
        asked = torch.tensor([list(classes[slot]) for slot in slots], dtype=torch.int64, device=logits.device)
        # rounded as the cells are: a window without effect has importance 0, not a rounding error
        z, others = as_stored(*logit_and_others(logits[slots], asked, activation))
        for slot, its_z, its_others in zip(slots, z.tolist(), others.tolist(), strict=True):
            numbers = zip(its_z, its_others, strict=True)
            found[slot] = {k: (*both, top[slot]) for k, both in zip(classes[slot], numbers, strict=True)}
    return found


def maps_of(
    plan: ExplainPlan,
    shown: str,
    key: CellKey,
    grid: WindowGrid,
    classes: Sequence[tuple[int, Clean]],
    n_stored: int,
    planes: Planes,
) -> list[MapCells]:
    """Return one map a class of the image `shown`. Raises ImageError where a computed value is not a number."""
    logit, others = planes.logit.numpy(), planes.others.numpy()
    bad = ~(np.isfinite(logit) & np.isfinite(others)).all(axis=1)
    if planes.exact is not None:
        bad &= planes.exact
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), grid.shape)
        names = plan.model.preprocessing.kind.grid
        place = ", ".join(f"{name} {each}" for name, each in zip(names, at[-len(names) :], strict=True))
        raise ImageError(
            f"{shown}: the model's output is not finite for {int(bad.sum())} of {grid.n_windows} windows, "
            f"first at {place} of the map{overflow_hint(plan)}"
        )
    quality: dict[str, Any] = {
        "approx": False,
        "n_exact": grid.n_windows,
        "n_audit": 0,
        "seed": plan.seed,
        "bound": 1.0,
    }
    quality |= plan.approx
    if plan.top_cells is not None:
        quality["k"] = min(plan.top_cells, grid.n_windows)
    if n_stored:
        quality["n_stored"] = n_stored
    if planes.exact is not None and not planes.quality and not bool(planes.exact.all()):  # not finished
        quality |= {"n_exact": int(planes.exact.sum()), "bound": None}
    starts = tuple(np.asarray(axis.starts, np.int32) for axis in grid.axes)
    lengths = tuple(np.asarray(axis.lengths, np.int32) for axis in grid.axes)
    # Copies: a map of one class that is kept must not keep the planes of all classes, and of other images.
    top = planes.top.numpy().reshape(grid.shape).copy()
    exact = None if planes.exact is None or bool(planes.exact.all()) else planes.exact.reshape(grid.shape)
    return [
        MapCells(
            key,
            class_id,
            starts,
            lengths,
            logit[:, k].reshape(grid.shape).copy(),
            others[:, k].reshape(grid.shape).copy(),
            top,
            clean_z,
            clean_others,
            clean_top,
            exact,
            quality | (planes.quality[k] if planes.quality else {}),
            grid.listed if isinstance(grid, RegionGrid) else None,
        )
        for k, (class_id, (clean_z, clean_others, clean_top)) in enumerate(classes)
    ]
