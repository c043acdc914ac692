"""What a model says of one image with a box of it hidden, asked again and again: the patch under a hand.

Comes after an image and a model are bound, as PREDICT binds them; `window_probe` of the executor computes. Nothing is
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from obeql.errors import ImageError, ObeqlError
from obeql.planner import BoundPredict, class_names
from obeql.planner.fills import SIGNAL_FILLS
from obeql.session.explain import failed_in_network
from obeql.session.image_registry import ImageRegistry

if TYPE_CHECKING:
    from torch import Tensor

    from obeql.executor.execution.window_probe import WindowProbe
    from obeql.executor.images.placement import Placement
    from obeql.executor.network.graph import LayerGraph

__all__ = ["ClassScore", "Probe", "open_probe"]

#: The numbers of a box, of an image and of a volume.
_BOX = ("top", "left", "height", "width")
_BOX_OF_VOLUME = ("front", "top", "left", "depth", "height", "width")


@dataclass(frozen=True, slots=True)
class ClassScore:
    """What the model says of one class: `probability` is None, and `logit` the value, where outputs are values."""

    class_id: int
    class_name: str
    probability: float | None
    logit: float
    #: None where outputs are values
    log_odds: float | None = None


class Probe:
    """An image before a model, any box of which can be hidden. `db.probe(image, model)` makes one.

    `size` is (height, width) of the model's input, in whose pixels boxes are given.
    """

    def __init__(
        self,
        window: WindowProbe,
        bound: BoundPredict,
        graph: LayerGraph,
        turn: Callable[[], AbstractContextManager[None]],
        placement: Placement,
    ) -> None:
        self._window = window
        self._names = tuple(class_names(bound.model))
        self._graph = graph
        self._turn = turn
        self.model = bound.model.name
        self.size = bound.model.preprocessing.map_size
        #: where the model's input lies in the picture
        self.placement = placement

    @property
    def clean(self) -> list[ClassScore]:
        """Return what the model says of the image itself, the highest class first."""
        return self._said(self._window.clean_logits)

    def hide(self, *box: int, **named: int) -> list[ClassScore]:
        """Return what the model says with a box of its input hidden, the highest class first.

        The box is (top, left, height, width), of volumes (front, top, left, depth, height, width), in this order or by
        these names.

        The numbers are those of PREDICT on the image with the box painted over. Waits for a statement that runs.
        Raises QueryTypeError for a box that does not lie in the input.
        """
        with self._turn():
            try:
                return self._said(self._window.logits(*_in_order(box, named)))
            except ObeqlError:
                raise
            except Exception as error:
                raise failed_in_network(error, self._graph.reason) from error

    def _said(self, logits: Tensor) -> list[ClassScore]:
        """Return all classes of logits (1, K), the highest first; values in their own order."""
        import torch  # noqa: PLC0415

        from obeql.executor.operators.logits import logit_and_others  # noqa: PLC0415

        activation, n_classes = self._graph.activation, logits.shape[1]
        is_value = activation == "none"
        ids = list(range(n_classes)) if is_value else logits[0].argsort(descending=True, stable=True).tolist()
        z, others = (numbers[0] for numbers in logit_and_others(logits.cpu(), ids, activation))
        if is_value:
            return [ClassScore(i, self._names[i], None, value) for i, value in zip(ids, z.tolist(), strict=True)]
        odds = z - others
        numbers = zip(ids, torch.sigmoid(odds).tolist(), z.tolist(), odds.tolist(), strict=True)
        return [ClassScore(i, self._names[i], chance, logit, log_odds) for i, chance, logit, log_odds in numbers]


def _in_order(box: tuple[int, ...], named: Mapping[str, int]) -> tuple[int, ...]:
    """Return the numbers of a box in their order, the first of them given without a name."""
    is_volume = len(box) > len(_BOX) or not named.keys() <= set(_BOX)
    names = _BOX_OF_VOLUME if is_volume else _BOX
    left = names[len(box) :]
    if named and named.keys() != set(left):
        raise TypeError(f"hide() takes {', '.join(names)}, each once, in this order or by name")
    return box + tuple(named[name] for name in left if named)


def open_probe(
    bound: BoundPredict,
    graph: LayerGraph,
    image_registry: ImageRegistry,
    fill: str,
    turn: Callable[[], AbstractContextManager[None]],
) -> Probe:
    """Return the probe of the one image of `bound`, after a clean pass through the network.

    Raises ImageError for an image that cannot be read or that the model has no numbers for, QueryTypeError for an
    unknown fill.
    """
    import torch  # noqa: PLC0415

    from obeql.executor.devices import resolve_device  # noqa: PLC0415
    from obeql.executor.execution.output_checks import fault_of  # noqa: PLC0415
    from obeql.executor.execution.window_probe import WindowProbe  # noqa: PLC0415
    from obeql.executor.images import fill_values, preprocess  # noqa: PLC0415
    from obeql.executor.operators.window_fill import FILLS_BY_WINDOW, Fill  # noqa: PLC0415

    (image,) = bound.images
    how = bound.model.preprocessing
    device = resolve_device(bound.device)
    graph = graph.to(device, torch.float32)
    given = preprocess(image_registry.load(image, len(how.size)), how)
    pixels = torch.from_numpy(given.values)[None].to(device)
    hidden: Fill
    if fill in SIGNAL_FILLS and how.kind.n_axes == 1:
        hidden = FILLS_BY_WINDOW[fill]
    else:
        values = torch.from_numpy(fill_values(fill, given, how))[None].to(device)
        hidden = values.view(*values.shape, *(1,) * (pixels.dim() - 2)) if values.dim() == 2 else values
    try:
        window = WindowProbe(graph, pixels, hidden, torch.get_num_threads())
    except ObeqlError:
        raise
    except Exception as error:
        raise failed_in_network(error, graph.reason) from error
    if (fault := fault_of(graph, pixels, window.clean_logits)) is not None:
        raise ImageError(f"{image.shown}: {fault}")
    return Probe(window, bound, graph, turn, given.placement)
