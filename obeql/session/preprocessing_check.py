"""PREDICT .. CHECK: the usual preprocessings, tried on some images, and what the network makes of each.

Beside `predict`: images go to the network as they do there, resized as the model says, with other numbers for their
pixels. A wrong choice of these is the commonest reason for maps that mean nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from obeql.errors import ImageError, ObeqlError, QueryTypeError, UnknownNameError
from obeql.planner import BoundPredict, ImageRecord
from obeql.planner.binding.labels import labelled_classes, labels_of
from obeql.planner.catalog import Preprocessing
from obeql.session.explain import failed_in_network
from obeql.session.image_registry import ImageRegistry

if TYPE_CHECKING:
    from obeql.executor.execution.progress import OnProgress
    from obeql.executor.network.graph import LayerGraph

__all__ = ["MOST_IMAGES", "Checked", "check_preprocessing", "check_table"]

#: Of more images, so many are looked at, evenly spread.
MOST_IMAGES = 100

#: From these differences on, to another preprocessing, the model's own is said to look wrong: of the share that is
#: right where there are labels, of the mean probability of the first class where there are none.
_RIGHT, _SURE = 0.1, 0.2
#: Networks are made for inputs that reach to about 1, or to about 255, where less than that makes them sure of nothing.
_LARGE = 50
#: So much more than its share has a first class of which a network is sure of something.
_CHANCE = 0.1
#: Fewer images than this say nothing by being of one class.
_FEW = 4

_COLOR: tuple[tuple[str, dict[str, Any]], ...] = (
    ("0..1", {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    ("ImageNet", {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
    ("-1..1", {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
    ("0..255", {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}),
    ("0..1 BGR", {"channels": "bgr", "mean": (0.0,) * 3, "std": (1.0,) * 3}),
    ("ImageNet BGR", {"channels": "bgr", "mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}),
    ("0..255 BGR", {"channels": "bgr", "mean": (0.0,) * 3, "std": (1 / 255,) * 3}),
    ("Caffe", {"channels": "bgr", "mean": tuple(m / 255 for m in (103.939, 116.779, 123.68)), "std": (1 / 255,) * 3}),
)
_GRAY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("0..1", {"mean": (0.0,), "std": (1.0,)}),
    ("ImageNet", {"mean": (0.449,), "std": (0.226,)}),
    ("-1..1", {"mean": (0.5,), "std": (0.5,)}),
    ("0..255", {"mean": (0.0,), "std": (1 / 255,)}),
    ("-1024..1024", {"mean": (0.5,), "std": (1 / 2048,)}),
)

_SCHEMA = pa.schema(
    [
        ("preprocessing", pa.string()),
        ("chosen", pa.bool_()),
        ("correct", pa.float64()),
        ("label_probability", pa.float64()),
        ("top_probability", pa.float64()),
        ("classes_seen", pa.int32()),
        ("images", pa.int32()),
        ("options", pa.string()),
        ("note", pa.string()),
    ]
)


@dataclass(slots=True)
class _Tried:
    """What the network makes of the images with one preprocessing: sums over `n_images`, `n_labelled` of them."""

    name: str
    how: Preprocessing
    chosen: bool
    n_images: int = 0
    n_labelled: int = 0
    n_right: int = 0
    label_probability: float = 0.0
    top_probability: float = 0.0
    n_classes: int = 0
    seen: frozenset[int] = frozenset()

    def add(self, probabilities: Sequence[float], labels: frozenset[int]) -> None:
        """Count one image, whose right classes, if any are known, are `labels`."""
        top = max(range(len(probabilities)), key=probabilities.__getitem__)
        self.n_images += 1
        self.n_classes = len(probabilities)
        self.top_probability += probabilities[top]
        self.seen |= {top}
        if labels:
            self.n_labelled += 1
            self.n_right += top in labels
            self.label_probability += max(probabilities[label] for label in labels)

    def mean(self, total: float, n: int) -> float | None:
        return total / n if n else None

    @property
    def right(self) -> float:
        return self.n_right / max(1, self.n_labelled)

    @property
    def probability(self) -> float:
        """Mean probability of the labels where there are any, else of the first class."""
        return self.label_probability / self.n_labelled if self.n_labelled else self.sure

    @property
    def is_large(self) -> bool:
        """Whether inputs reach to about 255."""
        return 1 / min(self.how.std) > _LARGE

    @property
    def is_same(self) -> bool:
        """Whether the first class is the same for all images."""
        return self.n_images >= _FEW and len(self.seen) == 1

    @property
    def is_idle(self) -> bool:
        """Whether the first class has hardly more than its share, or is the same for all images."""
        return self.is_same or self.sure < 1 / max(1, self.n_classes) + _CHANCE

    @property
    def sure(self) -> float:
        return self.top_probability / max(1, self.n_images)


@dataclass(frozen=True, slots=True)
class Checked:
    """The preprocessings that were tried, the likeliest first; `table` is theirs, a row each."""

    tried: tuple[_Tried, ...]

    def shown(self) -> pa.Table:
        """Return them as PREDICT .. CHECK shows them: columns that would be empty are missing."""
        table = self.table()
        return table.drop_columns([name for name in _SCHEMA.names if table[name].null_count == len(table)])

    def table(self) -> pa.Table:
        """Return them as SQL sees them, with all columns."""
        return check_table(self.tried)


def check_table(tried: Sequence[_Tried]) -> pa.Table:
    """Return what was tried as a table; its columns are the same whatever was."""
    note = _warning(tried)
    rows = [
        (
            each.name,
            each.chosen,
            each.mean(each.n_right, each.n_labelled),
            each.mean(each.label_probability, each.n_labelled),
            each.sure,
            len(each.seen),
            each.n_images,
            _options(each.how),
            note if each.chosen else None,
        )
        for each in tried
    ]
    columns = zip(*rows, strict=True) if rows else ((),) * len(_SCHEMA)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)]
    return pa.table(arrays, schema=_SCHEMA)


def check_preprocessing(
    bound: BoundPredict,
    graph: LayerGraph,
    image_registry: ImageRegistry,
    cancelled: Callable[[], bool],
    on_progress: OnProgress | None = None,
) -> Checked:
    """Return what the network makes of the images with each of the usual preprocessings, the likeliest first.

    With labels that name classes, that is the one which is right most often, then the one that gives the labels most
    probability; without, the one whose first classes have most, those behind that call every image the same. Nothing
    is stored. Images that cannot be read are left out. Raises ImageError when none can be read, KeyboardInterrupt after
    a cancel.
    """
    import torch  # noqa: PLC0415

    from obeql.executor.devices import arithmetic, resolve_device  # noqa: PLC0415

    tried = _candidates(bound.model.preprocessing)
    device = resolve_device(bound.device)
    graph = graph.to(device, torch.float32)
    errors: list[str] = []
    for image in _told(_some(bound.images), on_progress):
        if cancelled():
            raise KeyboardInterrupt("cancelled; the check is not finished")
        try:
            inputs = torch.from_numpy(_inputs(image_registry, image, [each.how for each in tried])).to(device)
            with arithmetic("float32", device):
                logits = graph.forward(inputs)
        except ImageError as error:
            errors.append(str(error))
            continue
        except ObeqlError:
            raise
        except Exception as error:
            raise failed_in_network(error, graph.reason) from error
        probabilities = torch.softmax(logits, 1) if graph.activation == "softmax" else torch.sigmoid(logits)
        labels = _labels(bound, image)
        for each, row in zip(tried, probabilities.nan_to_num(0.0).cpu().tolist(), strict=True):
            each.add(row, labels)
    if errors and not tried[0].n_images:
        raise ImageError(errors[0] + (f" ({len(errors) - 1} more images failed)" if len(errors) > 1 else ""))
    return Checked(_ranked(tried))


def _candidates(own: Preprocessing) -> list[_Tried]:
    """Return the usual preprocessings of a model's input, its own first where it is none of them."""
    usual = _GRAY if own.channels == "gray" else _COLOR
    tried = [_Tried(name, replace(own, **{"channels": own.channels if usual is _GRAY else "rgb", **how}), False)
             for name, how in usual]  # fmt: skip
    for each in tried:
        each.chosen = each.how.channels == own.channels and all(
            math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3 * max(own.std))
            for a, b in zip((*each.how.mean, *each.how.std), (*own.mean, *own.std), strict=True)
        )
    if any(each.chosen for each in tried):
        return tried
    return [_Tried("the model's", own, True), *tried]


def _inputs(image_registry: ImageRegistry, image: ImageRecord, hows: Sequence[Preprocessing]) -> Any:
    """Return an image as the network would read it with each preprocessing, (P, C, H, W)."""
    import numpy as np  # noqa: PLC0415

    from obeql.executor.images import preprocess  # noqa: PLC0415
    from obeql.executor.images.preprocess import to_model_space  # noqa: PLC0415

    pixels = preprocess(image_registry.load(image, 2), hows[0]).pixels
    unit = pixels[:, :, :1] if hows[0].channels == "gray" else pixels
    return np.stack([to_model_space(unit, how) for how in hows])


def _labels(bound: BoundPredict, image: ImageRecord) -> frozenset[int]:
    """Return the classes that are right for an image; none where its labels are not names of classes."""
    try:
        return frozenset(labelled_classes(bound.model, labels_of(image)))
    except (UnknownNameError, QueryTypeError):
        return frozenset()


def _ranked(tried: Sequence[_Tried]) -> tuple[_Tried, ...]:
    """Return what was tried, the likeliest first.

    With labels, what is right most often; without, what calls not all images the same; then by probability. Large
    inputs, which make any network sure, come behind small ones that are as good, unless those say no more than chance.
    """
    groups: dict[float, list[_Tried]] = {}
    for each in tried:
        groups.setdefault(-each.right if each.n_labelled else each.is_same, []).append(each)
    ranked: list[_Tried] = []
    for _, group in sorted(groups.items()):
        small_ones_do = any(not (each.is_large or each.is_idle) for each in group)
        ranked += sorted(group, key=lambda each: (each.is_large and small_ones_do, -each.probability))
    return tuple(ranked)


def _warning(tried: Sequence[_Tried]) -> str | None:
    """Return what to say of the model's own preprocessing where another does clearly better, else None."""
    own = next((each for each in tried if each.chosen), None)
    if own is None or own is tried[0]:
        return None
    best = tried[0]
    if own.n_labelled:
        if best.right - own.right < _RIGHT or best.n_right - own.n_right < 2:
            return None
        says = f"is right for {best.n_right} of {best.n_labelled} images, this for {own.n_right}"
    else:
        # Surer is not righter: only a network that answers nothing is told of.
        if best.is_idle or not own.is_idle or not (own.is_same or best.sure - own.sure >= _SURE):
            return None
        says = f"gives the first class {best.sure:.0%} on average, this {own.sure:.0%}"
        says += ", and the same class for all images" if own.is_same else ""
    return f"This looks wrong: {best.name} {says}. CREATE OR REPLACE MODEL .. WITH {_options(best.how)} if that is it."


def _options(how: Preprocessing) -> str:
    """Return the options of CREATE MODEL for the numbers of a preprocessing."""
    return f"channels={how.channels} mean={_numbers(how.mean)} std={_numbers(how.std)}"


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:.6g}" if len(set(values)) == 1 else "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _some(images: Sequence[ImageRecord]) -> Sequence[ImageRecord]:
    if len(images) <= MOST_IMAGES:
        return images
    return [images[len(images) * number // MOST_IMAGES] for number in range(MOST_IMAGES)]


def _told(images: Sequence[ImageRecord], on_progress: OnProgress | None) -> Iterator[ImageRecord]:
    """Yield the images, with progress told after each."""
    from obeql.executor.execution.progress import Progress  # noqa: PLC0415

    started, n_images = time.perf_counter(), len(images)
    for number, image in enumerate(images):
        yield image
        if on_progress is not None:
            seconds = time.perf_counter() - started
            on_progress(Progress(number + 1, n_images, number, n_images, image.shown, seconds, 0.0, unit="images"))
