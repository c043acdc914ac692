"""A catalog without a database, networks without torch, and a chooser whose figures do not move with the cost model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from obeql.grammar import parse_statement
from obeql.planner import (
    AxisWindow,
    DenseForward,
    ExplainPlan,
    ImageRecord,
    ImageSet,
    IncrementalForward,
    LayerSpec,
    ModelRecord,
    Network,
    Preprocessing,
    Rates,
    WindowGrid,
    bind,
    plan_explain,
    setting_default,
    with_stored_cells,
)
from obeql.planner.binding.image_paths import with_page
from obeql.planner.catalog import StoredGrid, StoredMaps
from obeql.planner.physical.plan import Cost, RejectedAlternative


class NetworkBuilder:
    """Appends layers; each method returns the index of the layer it made."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.layers = [LayerSpec("image", "image", "source", (), (channels, height, width))]

    def add(
        self, name: str, kind: str, reach: str, inputs: tuple[int, ...], shape: tuple[int, ...], **rest: Any
    ) -> int:
        n_in = sum(_count(self.layers[i].shape) for i in inputs)
        work_bytes = 4 * (n_in + _count(shape))
        self.layers.append(LayerSpec(name, kind, reach, inputs, shape, work_bytes=work_bytes, **rest))  # type: ignore[arg-type]
        return len(self.layers) - 1

    def conv(self, name: str, source: int, channels: int, kernel: int = 3, stride: int = 1) -> int:
        c, h, w = self.layers[source].shape
        axis = AxisWindow(kernel, stride, 1, kernel // 2)
        out = (channels, -(-h // stride), -(-w // stride))
        macs = _count(out) * c * kernel * kernel
        return self.add(name, "conv", "local", (source,), out, macs=macs, window=(axis, axis))

    def pool(self, name: str, source: int) -> int:
        c, h, w = self.layers[source].shape
        axis = AxisWindow(2, 2, 1, 0)
        return self.add(name, "max_pool", "local", (source,), (c, h // 2, w // 2), window=(axis, axis))

    def relu(self, name: str, source: int) -> int:
        return self.add(name, "relu", "pointwise", (source,), self.layers[source].shape)

    def pointwise(self, name: str, kind: str, inputs: tuple[int, ...], channels: int) -> int:
        """Append what acts on every token alone; with weights where it is a convolution."""
        c, *places = self.layers[inputs[0]].shape
        macs = c * channels * _count(tuple(places)) if kind == "conv" else 0
        return self.add(name, kind, "pointwise", inputs, (channels, *places), macs=macs)

    def linear(self, name: str, source: int, n_out: int) -> int:
        macs = _count(self.layers[source].shape) * n_out
        return self.add(name, "linear", "global", (source,), (n_out,), macs=macs)

    def network(self, reason: str = "") -> Network:
        return Network(tuple(self.layers), reason)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def vgg_like() -> Network:
    """Four 3x3 convolutions in two blocks, two linear layers, 64x64 input, 4 classes."""
    build = NetworkBuilder(3, 64, 64)
    last = 0
    for block, channels in enumerate((32, 64), start=1):
        for position in (1, 2):
            last = build.relu(f"relu{block}_{position}", build.conv(f"conv{block}_{position}", last, channels))
        last = build.pool(f"pool{block}", last)
    build.linear("fc2", build.relu("relu_fc", build.linear("fc1", last, 128)), 4)
    return build.network()


def resnet_like() -> Network:
    """A strided stem, one residual block, mean over positions, linear; 48x64 input, 3 classes."""
    build = NetworkBuilder(3, 48, 64)
    stem = build.relu("stem_relu", build.conv("stem", 0, 32, kernel=7, stride=2))
    inner = build.conv("block_conv2", build.relu("block_relu", build.conv("block_conv1", stem, 32)), 32)
    joined = build.add("block_add", "add", "pointwise", (stem, inner), build.layers[stem].shape)
    mean = build.add("mean", "mean", "global", (joined,), (32,))
    build.linear("fc", mean, 3)
    return build.network()


def gated_like() -> Network:
    """A convolution whose map a gate multiplies, and another one behind; 64x64 input, 4 classes."""
    build = NetworkBuilder(3, 64, 64)
    stem = build.conv("stem", 0, 32)
    means = build.add("means", "global_mean", "sum", (stem,), (32, 1, 1))
    gate = build.pointwise("gate", "conv", (means,), 32)
    product = build.add("product", "combine", "global", (gate, stem), (32, 64, 64))
    build.linear("fc", build.conv("last", product, 16), 4)
    return build.network()


def transformer_like() -> Network:
    """Tokens of 4 pixels, two blocks of attention and products, a head that reads one token; 64x64 input, 4 classes."""
    build = NetworkBuilder(3, 64, 64)
    axis = AxisWindow(4, 4, 1, 0)
    patches = build.add("embed", "conv", "local", (0,), (192, 16, 16), macs=256 * 192 * 48, window=(axis, axis))
    last = build.add("tokens", "tokens", "global", (patches,), (192, 257, 1))
    for block in (1, 2):
        norm = build.pointwise(f"norm{block}_1", "channel_norm", (last,), 192)
        parts = tuple(build.pointwise(f"{part}{block}", "conv", (norm,), 192) for part in "qkv")
        macs = 2 * 257 * 257 * 192
        attended = build.add(f"attention{block}", "attention", "global", parts, (192, 257, 1), macs=macs)
        given = build.pointwise(f"out{block}", "conv", (attended,), 192)
        last = build.pointwise(f"add{block}_1", "combine", (last, given), 192)
        norm = build.pointwise(f"norm{block}_2", "channel_norm", (last,), 192)
        wide = build.pointwise(f"wide{block}", "conv", (norm,), 768)
        given = build.pointwise(f"narrow{block}", "conv", (wide,), 192)
        last = build.pointwise(f"add{block}_2", "combine", (last, given), 192)
    build.linear("head", build.add("token", "select_positions", "global", (last,), (192, 1, 1)), 4)
    return build.network()


def whole_network() -> Network:
    build = NetworkBuilder(3, 32, 32)
    build.add("module", "opaque", "global", (0,), (1,), macs=1_000_000)
    return build.network("the forward pass branches on its data")


def _model(name: str, network: Network, classes: tuple[str, ...]) -> ModelRecord:
    activation = "sigmoid" if network.n_classes == 1 else "softmax"
    return ModelRecord(name, f"hash of {name}", None, {}, classes, activation, Preprocessing(network.size), network)  # type: ignore[arg-type]


def _images(count: int, labels: Sequence[str | None]) -> tuple[ImageRecord, ...]:
    return tuple(
        ImageRecord(f"scans/scan{i}.png", i, labels[i % len(labels)] if labels else None) for i in range(count)
    )


@dataclass
class FakeCatalog:
    """Holds what tests look up; `settings` overrides defaults, `selected` records the SELECTs that were run."""

    models: dict[str, ModelRecord]
    sets: dict[str, ImageSet]
    singles: dict[str, tuple[ImageRecord, ...]]
    runs: set[str] = field(default_factory=lambda: {"monday"})
    settings: dict[str, Any] = field(default_factory=dict)
    selected: list[tuple[str, Any]] = field(default_factory=list)
    stored: list[StoredMaps] = field(default_factory=list)

    def model(self, name: str) -> ModelRecord | None:
        return next((m for known, m in self.models.items() if known.lower() == name.lower()), None)

    def model_names(self) -> Sequence[str]:
        return list(self.models)

    def image_set(self, name: str) -> ImageSet | None:
        return next((s for known, s in self.sets.items() if known.lower() == name.lower()), None)

    def image_named(self, name: str) -> Sequence[ImageRecord]:
        return self.singles.get(name.lower(), ())

    def image_names(self) -> Sequence[str]:
        return [*self.sets, *self.singles]

    def images_at(self, pattern: str, n_axes: int | None = None) -> Sequence[ImageRecord]:
        return self.singles["scan0"] if "scan" in pattern else ()

    def images_selected(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[ImageRecord]:
        self.selected.append((sql, parameters))
        return () if "false" in sql else self.sets["scans"].images

    def in_parts(self, images: Sequence[ImageRecord], parts: Any) -> Sequence[ImageRecord]:
        """Of files that have three pages each."""
        numbers = (1, 2, 3) if isinstance(parts, str) else parts
        return [replace(image, path=with_page(image.path or "", page)) for image in images for page in numbers]

    def run_exists(self, name: str) -> bool:
        return name.lower() in self.runs

    def stored_grids(
        self, images: Sequence[ImageRecord], model: ModelRecord, fill: str, precision: str
    ) -> Sequence[StoredMaps]:
        """What a test says is stored, of images filled with their mean."""
        known = [each for each in self.stored if max(each.images) < len(images)]
        return known if fill == "mean" else ()

    def setting(self, name: str) -> Any:
        return self.settings.get(name, setting_default(name))


def steady_chooser(
    network: Network,
    grid: WindowGrid,
    rates: Rates,
    memory_bytes: int | None,
    batch: int | None,
    disabled: frozenset[str],
    together: int,
) -> tuple[DenseForward | IncrementalForward, tuple[RejectedAlternative, ...]]:
    """Boxes up to the first global layer at an eighth of the work, unless the network is whole.

    Rates of a device called bfloat16 are five times as fast. A grid of fewer than 20 windows takes half the time where
    its batches are shared with other images.
    """
    faster = 5.0 if rates.device == "bfloat16" else 1.0
    faster *= 2.0 if together > 1 and grid.n_windows < 20 else 1.0
    macs = float(network.macs * grid.n_windows)
    dense = DenseForward(batch or 32, Cost(macs, macs / 10, macs / 1e9 / faster, 2e8))
    if network.whole:
        return dense, (RejectedAlternative("IncrementalForward", f"the network runs whole: {network.reason}"),)
    if "choose_engine" in disabled:
        return dense, (RejectedAlternative("IncrementalForward", "rule choose_engine is switched off"),)
    stop = next(i for i, layer in enumerate(network.layers) if layer.reach == "global")
    groups = 1 if "bucket_windows" in disabled else 4
    size = 4 if "choose_batch" in disabled else 64
    stop = len(network.layers) if "choose_switch_layer" in disabled else stop
    regions = tuple(i < stop and layer.reach != "global" for i, layer in enumerate(network.layers))
    cost = Cost(macs / 8, macs / 100, macs / 6e9 / faster, float(min(memory_bytes or 3e8, 3e8)))
    engine = IncrementalForward(regions, (groups, groups), batch or size, 2 * (batch or size), cost, macs / 10)
    return engine, (RejectedAlternative("DenseForward", "estimated slower", dense.cost),)


@pytest.fixture
def catalog() -> FakeCatalog:
    names = ("glioma", "meningioma", "notumor", "pituitary")
    scans = _images(3, ())
    return FakeCatalog(
        models={
            "vgg": _model("vgg", vgg_like(), names),
            "resnet": _model("resnet", resnet_like(), ("crane", "Crane", "ox")),
            "vit": _model("vit", transformer_like(), names),
            "gated": _model("gated", gated_like(), names),
            "opaque": _model("opaque", whole_network(), ()),
        },
        sets={
            "scans": ImageSet("scans", "scans/*.png", scans),
            "labelled": ImageSet("labelled", "labelled/*.png", _images(3, ("Glioma", None, "unheard of"))),
            "mislabelled": ImageSet("mislabelled", "m/*.png", _images(2, ("gliome",))),
            "nothing": ImageSet("nothing", "nothing/*.png", ()),
        },
        singles={"scan0": scans[:1], "twice": scans[:2]},
    )


@pytest.fixture
def stored(catalog: FakeCatalog) -> Callable[[], None]:
    """Let the catalog hold maps of class 0: patch 16 every 4 of the first two scans, patch 8 of a corner of one."""

    def fill() -> None:
        full = WindowGrid.over((64, 64), (16, 16), (4, 4))
        corner = WindowGrid.over((64, 64), (8, 8), (8, 8), region=(0, 0, 32, 32))
        for image, maps in enumerate(([(full, "monday")], [(full, "monday"), (full, "run 7")], [(corner, "run 7")])):
            grids = []
            for grid, run in maps:
                axes = tuple((axis.starts, axis.lengths) for axis in grid.axes)
                grids.append(StoredGrid(0, grid.patch, axes, clean_top_class=0, run=run))
            catalog.stored.append(StoredMaps([image], grids))

    return fill


PlanOf = Callable[..., ExplainPlan]


@pytest.fixture
def plan_of(catalog: FakeCatalog) -> PlanOf:
    """(text, **settings) -> plan, with figures that do not move with the cost model.

    `bfloat16=True`: on a device that is five times as fast in it.
    """

    def plan(text: str, bfloat16: Any = False, **settings: Any) -> ExplainPlan:
        catalog.settings.update(settings)
        reduced = ("bfloat16", Rates(device="bfloat16")) if bfloat16 else None
        bound = with_stored_cells(bind(parse_statement(text), catalog, text), catalog)  # type: ignore[arg-type]
        return plan_explain(bound, Rates(device="test device"), choose=steady_chooser, reduced=reduced)

    return plan
