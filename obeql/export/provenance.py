"""Where a map comes from, in a form that every kind of file can carry: the statement, what it names, hashes, versions.

Read by the writers of this package, which put it where their format keeps such words.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import obeql

if TYPE_CHECKING:
    from obeql.results.heatmap import Heatmap
    from obeql.results.result import Result

__all__ = ["as_json", "of_map", "of_run"]


def of_run(result: Result | None) -> dict[str, Any]:
    """Return what is the same for all maps of a result, as plain values for JSON; the versions where there is none."""
    named = {} if result is None else {"statement": result.query, "run_id": result.run_id, "run": result.run_name}
    return named | {
        "versions": {"obeql": obeql.__version__, **{name: _version(name) for name in ("torch", "duckdb", "numpy")}},
    }


def of_map(heat: Heatmap, result: Result | None) -> dict[str, Any]:
    """Return where one map comes from, as plain values for JSON; `result` is the one that it is a part of, if known."""
    key = heat.cells.key
    return of_run(result) | {
        "image": heat.path or heat.image,
        "class": heat.class_name,
        "class_id": heat.class_id,
        "score": heat.score_kind,
        "clean_score": heat.clean_score,
        "model": heat.model,
        "patch": heat.patch_text,
        "stride": list(heat.stride),
        "fill": key.fill,
        **({"channel": heat.channel} if heat.channel else {}),
        "precision": key.precision,
        "quality": heat.quality,
        "bound": heat.bound,
        "image_hash": key.image_hash,
        "model_hash": key.model_hash,
        "preprocessing_hash": key.preprocessing_hash,
    }


def as_json(told: dict[str, Any]) -> str:
    """Return what is told of a map or a run as the text that files carry: JSON in ASCII."""
    return json.dumps(told, ensure_ascii=True)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
