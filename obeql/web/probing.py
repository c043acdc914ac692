"""The patch under the hand: the last few images that were probed are kept ready, each with its clean pass.

Between `worker`, in whose thread all of this runs, and the session's `Probe`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obeql.session.probe import ClassScore, Probe
    from obeql.session.session import Session

__all__ = ["Probes"]

_KEPT = 3
#: Classes that the page shows bars of.
_SHOWN = 8


class Probes:
    """Probes of a session by model, image and fill."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kept: OrderedDict[tuple[str, str | int, str], Probe] = OrderedDict()

    def clean(self, model: str, image: str | int, fill: str) -> dict[str, Any]:
        """Return what the model says of the image itself."""
        probe = self._probe(model, image, fill)
        clean, place = probe.clean, probe.placement
        return {
            "model": model,
            "size": probe.size,
            "source_size": place.source_size,
            "model_box": place.source_box(0, 0, *place.model_size),
            "classes": _facts(clean),
            "n_classes": len(clean),
        }

    def hidden(
        self, model: str, image: str | int, fill: str, box: tuple[int, int, int, int], asked: tuple[int, ...]
    ) -> dict[str, Any]:
        """Return what the model says with a box hidden: its highest classes, and those `asked` by number."""
        probe = self._probe(model, image, fill)
        started = time.perf_counter()
        said = probe.hide(*box)
        took_ms = 1000 * (time.perf_counter() - started)
        return {"box": box, "classes": _facts(said, asked), "top_class": said[0].class_name, "ms": round(took_ms, 1)}

    def forget(self) -> None:
        """Let go of all: a model may be another by now."""
        self._kept.clear()

    def _probe(self, model: str, image: str | int, fill: str) -> Probe:
        key = model.lower(), image, fill
        probe = self._kept.pop(key, None)
        if probe is None:
            while len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)
            probe = self._session.probe(image, model, fill=fill)
        self._kept[key] = probe
        return probe


def _facts(said: list[ClassScore], asked: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    shown = [*said[:_SHOWN], *(each for each in said[_SHOWN:] if each.class_id in asked)]
    return [
        {
            "class_id": each.class_id,
            "class_name": each.class_name,
            "probability": each.probability,
            "logit": each.logit,
            "log_odds": each.log_odds,
        }
        for each in shown
    ]
