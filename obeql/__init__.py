"""OBEQL: a query engine for occlusion-based explanations of image classifiers.

    import obeql

    with obeql.connect("heat.duckdb") as db:
        db.execute("CREATE MODEL net FROM 'torchvision:resnet18'")
        result = db.execute("EXPLAIN OCCLUDE 'cat.jpg' USING net WITH patch=16 stride=4")
        result[0].save("heat.png")

Importing this package opens nothing and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from obeql.errors import ObeqlError

if TYPE_CHECKING:
    from obeql.progress_bar import ProgressBar
    from obeql.results.heatmap import Cell, Heatmap
    from obeql.results.messages import Message, Plan
    from obeql.results.result import Result
    from obeql.session.session import Session, connect

__all__ = [
    "Cell",
    "Heatmap",
    "Message",
    "ObeqlError",
    "Plan",
    "ProgressBar",
    "Result",
    "Session",
    "__version__",
    "connect",
]

try:
    __version__ = version("obeql")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

_HOMES = {
    "Cell": "obeql.results.heatmap",
    "Heatmap": "obeql.results.heatmap",
    "Message": "obeql.results.messages",
    "ProgressBar": "obeql.progress_bar",
    "load_ipython_extension": "obeql.notebook",
    "Plan": "obeql.results.messages",
    "Result": "obeql.results.result",
    "Session": "obeql.session.session",
    "connect": "obeql.session.session",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import obeql` stays fast."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'obeql' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
