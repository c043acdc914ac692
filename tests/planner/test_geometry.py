"""Region arithmetic against brute force over positions: spans, boxes on graphs, groups of windows, grids."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obeql.planner.boxes import axis_spans, group_windows, region_layers
from obeql.planner.geometry import AxisWindow, LayerSpec, Network, changed_span, read_span
from obeql.planner.grid import AxisGrid, WindowGrid, axis_grid
from obeql.planner.regions import Region, RegionGrid

# ---- one sliding window -------------------------------------------------------------------------------------


@st.composite
def axis_windows(draw: st.DrawFn, least_pad: int = -3, most_pad: int = 6) -> AxisWindow:
    return AxisWindow(
        kernel=draw(st.integers(1, 7)),
        stride=draw(st.integers(1, 9)),
        dilation=draw(st.integers(1, 4)),
        pad=draw(st.integers(least_pad, most_pad)),
    )


def taps(window: AxisWindow, position: int) -> set[int]:
    """Input positions that an output position reads."""
    start = position * window.stride - window.pad
    return {start + k * window.dilation for k in range(window.kernel)}


def hull(window: AxisWindow, position: int) -> set[int]:
    """The same with the gaps between dilated taps filled."""
    return set(range(min(taps(window, position)), max(taps(window, position)) + 1))


@settings(deadline=None, max_examples=300)
@given(axis_windows(), st.integers(1, 30), st.integers(0, 40), st.integers(1, 20))
def test_changed_span_is_the_positions_whose_window_meets_the_change(
    window: AxisWindow, out_size: int, start: int, length: int
) -> None:
    changed = set(range(start, start + length))
    first, end = changed_span(start, start + length, window, out_size)
    assert 0 <= first <= end <= out_size
    expected = [i for i in range(out_size) if hull(window, i) & changed]
    assert list(range(first, end)) == expected
    if window.dilation <= length or window.kernel == 1:
        assert expected == [i for i in range(out_size) if taps(window, i) & changed], "no change falls through a gap"


@settings(deadline=None, max_examples=200)
@given(axis_windows(), st.integers(0, 20), st.integers(1, 10))
def test_read_span_is_the_hull_of_all_taps(window: AxisWindow, first: int, n: int) -> None:
    read = set().union(*(taps(window, i) for i in range(first, first + n)))
    assert read_span(first, first + n, window) == (min(read), max(read) + 1)


@settings(deadline=None, max_examples=200)
@given(axis_windows(), st.integers(1, 30), st.integers(0, 40), st.integers(1, 20))
def test_what_is_changed_reads_the_change(window: AxisWindow, out_size: int, start: int, length: int) -> None:
    first, end = changed_span(start, start + length, window, out_size)
    for position in range(first, end):
        a, b = read_span(position, position + 1, window)
        assert a < start + length and b > start


# ---- graphs -------------------------------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A random graph of local and pointwise layers; where sizes of two branches agree they may be joined."""
    layers = [LayerSpec("image", "image", "source", (), (3, draw(st.integers(8, 30)), draw(st.integers(8, 30))))]
    for i in range(draw(st.integers(1, 7))):
        source = draw(st.integers(max(0, len(layers) - 3), len(layers) - 1))
        _, *size = layers[source].shape
        if draw(st.integers(0, 2)) == 0:
            twins = [j for j, layer in enumerate(layers) if layer.shape == layers[source].shape]
            inputs = (source, draw(st.sampled_from(twins)))
            layers.append(LayerSpec(f"join{i}", "combine", "pointwise", inputs, layers[source].shape))
            continue
        window = tuple(draw(axis_windows(-1, 3)) for _ in "hw")
        out = tuple((n + 2 * w.pad - w.extent) // w.stride + 1 for n, w in zip(size, window, strict=True))
        if min(out) < 1:
            continue
        macs = draw(st.integers(0, 1000)) * out[0] * out[1]
        layers.append(LayerSpec(f"conv{i}", "conv", "local", (source,), (3, *out), macs, window=(window[0], window[1])))
    return Network(tuple(layers))


def true_sets(network: Network, axis: int, start: int, length: int) -> list[set[int]]:
    """The positions of each layer whose value depends on the change, by pushing sets."""
    sets = [set(range(start, start + length))]
    for layer in network.layers[1:]:
        changed = set().union(*(sets[j] for j in layer.inputs))
        if layer.window is not None:
            n = layer.shape[1 + axis]
            changed = {i for i in range(n) if taps(layer.window[axis], i) & changed}
        sets.append(changed)
    return sets


@settings(deadline=None, max_examples=150)
@given(networks(), st.integers(0, 1), st.data())
def test_spans_and_groups_cover_what_changes(network: Network, axis: int, data: st.DataObject) -> None:
    size = network.size[axis]
    patch = data.draw(st.integers(1, size))
    border = data.draw(st.sampled_from(("cover", "valid", "clip")))
    stride = data.draw(st.integers(1, patch if border == "clip" else size))
    grid = axis_grid(size, patch, stride, border)
    n_layers = len(network.layers)
    regions = region_layers(network, n_layers)
    assert all(regions)
    spans = axis_spans(network, axis, grid, regions)
    truth = [true_sets(network, axis, s, n) for s, n in zip(grid.starts, grid.lengths, strict=True)]
    undilated = all(w.dilation == 1 for layer in network.layers if layer.window for w in layer.window)
    chain = all(len(layer.inputs) < 2 for layer in network.layers)
    for w in range(len(grid)):
        seen = True
        for i in range(n_layers):
            first, end = int(spans.first[i, w]), int(spans.end[i, w])
            assert 0 <= first < end <= network.layers[i].shape[1 + axis]
            assert truth[w][i] <= set(range(first, end))
            seen = seen and bool(truth[w][i])
            if undilated and chain and all(truth[w][:i]) and truth[w][i]:
                before = truth[w][network.layers[i].inputs[0]] if i else truth[w][0]
                if max(before) - min(before) + 1 == len(before):
                    assert (first, end) == (min(truth[w][i]), max(truth[w][i]) + 1), "no position too many"
    weights = np.array(data.draw(st.lists(st.floats(0, 100), min_size=n_layers, max_size=n_layers)))
    n_groups = data.draw(st.integers(1, 12))
    plan = group_windows(network, axis, spans, weights, n_groups)
    assert 1 <= len(plan.groups) <= n_groups
    assert sorted(np.concatenate([g.windows for g in plan.groups]).tolist()) == list(range(len(grid)))
    positions = np.zeros(n_layers, int)
    for group in plan.groups:
        assert group.starts.shape == (n_layers, len(group.windows))
        positions += len(group.windows) * group.sizes
        for k, w in enumerate(group.windows):
            for i, layer in enumerate(network.layers):
                start, stop = int(group.starts[i, k]), int(group.starts[i, k] + group.sizes[i])
                assert start >= 0 and stop <= layer.shape[1 + axis], "the box lies inside the map"
                assert start <= spans.first[i, w] and spans.end[i, w] <= stop, "the box covers the span"
    assert np.array_equal(plan.positions, positions)
    alone = group_windows(network, axis, spans, weights, len(grid))
    assert (weights * alone.positions).sum() <= (weights * plan.positions).sum() * (1 + 1e-12)
    assert np.array_equal(alone.positions, spans.sizes.sum(axis=1)), "unmerged groups compute nothing twice over"


def test_layers_behind_a_global_one_or_the_switch_run_on_whole_maps() -> None:
    shape = (2, 8, 8)
    network = Network(
        (
            LayerSpec("image", "image", "source", (), shape),
            LayerSpec("a", "relu", "pointwise", (0,), shape),
            LayerSpec("gate", "global_mean", "global", (1,), (2, 1, 1)),
            LayerSpec("gated", "combine", "global", (1, 2), shape),
            LayerSpec("side", "relu", "pointwise", (1,), shape),
            LayerSpec("join", "combine", "pointwise", (3, 4), shape),
            LayerSpec("fc", "linear", "global", (5,), (4,)),
        )
    )
    assert region_layers(network, 7) == (True, True, False, False, True, False, False)
    assert region_layers(network, 4) == (True, True, False, False, False, False, False)
    assert region_layers(network, 1) == (True, *[False] * 6)


# ---- grids --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 60), st.data())
def test_grid_rules(size: int, data: st.DataObject) -> None:
    patch = data.draw(st.integers(1, size))
    stride = data.draw(st.integers(1, size + 3))
    valid, cover = axis_grid(size, patch, stride, "valid"), axis_grid(size, patch, stride, "cover")
    if stride > patch:
        with pytest.raises(ValueError, match="larger than patch"):
            axis_grid(size, patch, stride, "clip")
    clip = axis_grid(size, patch, min(patch, stride), "clip")
    for grid in (valid, cover, clip):
        assert len(grid.starts) == len(grid.lengths) == len(set(grid.starts))
        assert list(grid.starts) == sorted(grid.starts)
        assert all(s >= 0 and s + n <= size and 1 <= n <= patch for s, n in zip(grid.starts, grid.lengths, strict=True))
    assert valid.starts == tuple(s for s in range(0, size, stride) if s + patch <= size)
    assert set(valid.lengths) == set(cover.lengths) == {patch}
    n_covering = -(-(size - patch) // stride) + 1
    assert len(cover) == n_covering and cover.starts[-1] == size - patch
    assert cover.starts[: len(valid)] == valid.starts
    if stride <= patch:
        for grid in (cover, clip):
            covered = set().union(*(range(s, s + n) for s, n in zip(grid.starts, grid.lengths, strict=True)))
            assert covered == set(range(size)), "every pixel is hidden by some window"
        assert len(clip) == n_covering
        assert clip.starts == tuple(i * stride for i in range(n_covering))
        assert clip.lengths[:-1] == (patch,) * (n_covering - 1)
    if (size - patch) % stride == 0:
        assert valid == cover
        assert stride > patch or valid == clip


@settings(deadline=None, max_examples=150)
@given(st.integers(4, 40), st.integers(4, 40), st.data())
def test_a_region_keeps_the_full_maps_windows_that_lie_inside(height: int, width: int, data: st.DataObject) -> None:
    patch = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    stride = (data.draw(st.integers(1, patch[0])), data.draw(st.integers(1, patch[1])))
    border = data.draw(st.sampled_from(("cover", "valid", "clip")))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = (top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    full = WindowGrid.over((height, width), patch, stride, border)
    part = WindowGrid.over((height, width), patch, stride, border, box)
    for axis, start, length in ((0, box[0], box[2]), (1, box[1], box[3])):
        whole, kept = ((full.rows, part.rows), (full.cols, part.cols))[axis]
        inside = [
            (s, n) for s, n in zip(whole.starts, whole.lengths, strict=True) if s >= start and s + n <= start + length
        ]
        assert list(zip(kept.starts, kept.lengths, strict=True)) == inside
    assert part.n_windows == part.shape[0] * part.shape[1]


def test_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="patch 9 does not fit an axis of 8 pixels"):
        axis_grid(8, 9, 1, "cover")
    with pytest.raises(ValueError, match="stride 0"):
        axis_grid(8, 4, 0, "cover")
    assert len(AxisGrid(8, (0, 4), (4, 4)).within(1, 6)) == 0


def test_how_many_windows_there_are_is_known_of_every_grid() -> None:
    grid = WindowGrid.over((32, 24), (8, 8), (8, 4), "valid")
    assert (grid.shape, grid.n_windows, grid.n_over(["a", "b"])) == ((4, 5), 20, 40)
    part = replace(grid, axes=(grid.rows.within(0, 16), grid.cols))
    assert (part.shape, part.n_windows) == ((2, 5), 10)
    assert pickle.loads(pickle.dumps(part)) == part and pickle.loads(pickle.dumps(part)).n_windows == 10
    regions = [Region(name, 0, left, 4, 4) for left, name in enumerate("xyz")]
    listed = RegionGrid.of(regions, (32, 24), {"a": (0, 2)})
    assert (listed.shape, listed.n_windows, listed.n_over(["a", "b"])) == ((1, 3), 3, 2)
    assert (listed.only([0, 2]).shape, listed.only([0, 2]).n_windows) == ((1, 2), 2)
