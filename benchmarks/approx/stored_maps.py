"""Exact maps and the same in bfloat16, computed once and kept in a file for `replay` and `curve`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.approx.setting import CLASSES, HEAD, images, session
from obeql.planner.grid import WindowGrid
from obeql.planner.scores import ScoreKind, score_of

Floats = npt.NDArray[np.float64]


def compute_maps(args: argparse.Namespace) -> None:
    """Every map, exact and in bfloat16, of all classes of a scan and the three likeliest of a photograph."""
    db = session()
    arrays: dict[str, Any] = {}
    if _planes(args.file).exists():
        with np.load(_planes(args.file)) as known:
            arrays |= known
    for kind in args.kinds:
        for name, image in images(kind).items():
            classes = CLASSES[kind]
            for precision in ("float32", "bfloat16"):
                started = time.perf_counter()
                query = HEAD.format(images="$image", model=kind, classes=classes, precision=precision)
                maps = db.execute(query, {"image": image})
                print(kind, name, precision, f"{time.perf_counter() - started:.1f} s", flush=True)
                for heat in maps:
                    arrays[f"{kind}|{name}|{heat.class_id}|{precision}"] = np.stack(
                        [heat.cells.logit, heat.cells.others]
                    )
                    arrays[f"{kind}|{name}|starts"] = np.stack([heat.cells.tops, heat.cells.lefts])
                classes = f"CLASSES ({', '.join(str(heat.class_id) for heat in maps)})"
        np.savez_compressed(_planes(args.file), **arrays)


def _planes(file: str) -> Path:
    return Path(file).with_suffix(".npz")


@dataclass(frozen=True)
class Stored:
    """One map as it was computed: `exact` and `reduced` hold logit and others, (2, rows, cols)."""

    kind: str
    image: str
    class_id: int
    exact: Floats
    reduced: Floats
    starts: npt.NDArray[np.int32]

    @cached_property
    def grid(self) -> Any:
        """What a refiner asks of a grid."""
        size = int(self.starts[0][-1]) + 16
        grid = WindowGrid.over((size, size), (16, 16), (4, 4))
        assert grid.shape == self.exact.shape[1:]
        return grid

    def scores(self, kind: ScoreKind) -> Floats:
        return score_of(kind, *self.exact)


def stored(file: str) -> Iterator[Stored]:
    with np.load(_planes(file)) as arrays:
        for key in arrays.files:
            kind, image, *rest = key.split("|")
            if rest[-1] == "float32":
                class_id = int(rest[0])
                exact = arrays[key].astype(float)
                reduced = arrays[f"{kind}|{image}|{class_id}|bfloat16"].astype(float)
                yield Stored(kind, image, class_id, exact, reduced, arrays[f"{kind}|{image}|starts"])
