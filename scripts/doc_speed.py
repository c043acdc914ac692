"""The parts of the docs that show figures: the rows that benchmarks have written.

Used by `write_docs`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doc_markdown import table

ROOT = Path(__file__).resolve().parents[1]

#: Results of benchmarks.engine that the page on performance shows.
ENGINE_RESULTS = ("cpu2-vgg16-whole-grid", "cpu2-vgg16-448", "cpu2-vgg16-896", "cpu2-stratified", "cpu2-lite0")


def result(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    text = (ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def measured(name: str) -> list[dict[str, Any]]:
    """The rows that a benchmark wrote."""
    rows: list[dict[str, Any]] = result(name)["rows"]
    return rows


def engine_speed() -> str:
    return _engine_rows([row for name in ENGINE_RESULTS for row in measured(name)])


def few_windows_speed() -> str:
    return _engine_rows(measured("cpu2-16-windows"))


def _engine_rows(rows: list[dict[str, Any]]) -> str:
    head = ("network, pixels", "windows", "naive ms (batch)", "OBEQL ms", "ratio", "bound", "estimated ms")
    return table(
        head,
        [
            (
                f"{row['network']} {row['size']}",
                str(row["windows"]),
                f"{row['naive_ms']:.2f} ({row['naive_batch']})",
                *(f"{row[key]:.2f}" for key in ("ours_ms", "ratio", "bound", "estimated_ms")),
            )
            for row in rows
        ],
    )


def peers_speed() -> str:
    """Times that OBEQL is faster than Captum and MONAI, at two strides."""
    head = (
        "network",
        "Captum, default (1)",
        "best of three",
        "MONAI, default (16)",
        "best of two",
        "at stride 4, the same",
    )
    rows = []
    for row in measured("cpu2-peers"):
        told = [_peers(each["times_faster"]) for each in (row, row["at_fine_stride"])]
        rows.append((row["network"], *(f"{value:.1f}" for value in told[0]), " / ".join(f"{v:.1f}" for v in told[1])))
    return table(head, rows)


def _peers(times: dict[str, float]) -> list[float]:
    captum = [value for key, value in times.items() if key.startswith("captum")]
    monai = [value for key, value in times.items() if key.startswith("monai")]
    return [times["captum default (1)"], min(captum), times["monai default (16)"], min(monai)]


def drop_in_speed() -> str:
    """What changing the import does to a call of Captum's and of MONAI's class."""
    found = result("cpu2-drop-in")
    rows = []
    for row in found["rows"]:
        for call in ("first", "later"):
            one = row[call]
            what = (
                f"{row['network']}, {row['library'].replace('captum', 'Captum').replace('monai', 'MONAI')}, {call} call"
            )
            seconds = (f"{one['theirs_s']:.2f}", f"{one['ours_s']:.2f}")
            rows.append((what, str(one["windows"]), *seconds, f"{one['times_faster']:.2f}", f"{one['difference']:.0e}"))
    head = ("network, library", "windows", "theirs, seconds", "OBEQL, seconds", "ratio", "largest difference")
    return table(head, rows) + (f"\n\n{found['note']}" if found["note"] else "")


def axes_speed() -> str:
    """What maps of a long signal, a clip and a volume take."""
    networks = {"signal": "1-D ResNet, 12 channels", "clip": "`r3d_18`, 3 channels", "volume": "3-D ResNet, 1 channel"}
    rows = []
    for row in measured("cpu2-axes"):
        if row["case"] not in networks:
            continue
        peers = [f"{row[f'{peer}_ratio']:.1f}" if f"{peer}_ratio" in row else "" for peer in ("captum", "monai")]
        sizes = ["x".join(map(str, row[what])) for what in ("size", "patch", "stride")]
        ratios = (f"{row['naive_ratio']:.1f}", *peers, f"{row['bound']:.1f}")
        rows.append(
            (
                networks[row["case"]],
                sizes[0],
                ", ".join(sizes[1:]),
                f"{row['windows']:,}",
                f"{row['obeql_s']:.1f}",
                *ratios,
            )
        )
    head = (
        "network",
        "input",
        "window, stride",
        "windows",
        "seconds",
        "best batch",
        "Captum",
        "MONAI",
        "less arithmetic",
    )
    return table(head, rows)


def store_speed() -> str:
    return table(
        ("10,000 maps of 53 x 53 cells", "CPU seconds", "seconds"),
        [(row["what"], f"{row['cpu_s']:.3f}", f"{row['wall_s']:.3f}") for row in measured("cpu2-store")],
    )


def multi_query_speed() -> str:
    head = ("statements", "windows alone", "together", "seconds alone", "together", "ratio")
    return table(
        head,
        [
            (
                row["case"],
                *(str(row[key]) for key in ("alone_windows", "together_windows")),
                *(f"{row[key]:.2f}" for key in ("alone_s", "together_s", "ratio")),
            )
            for row in measured("cpu2-multi-query")
        ],
    )


def images_speed() -> str:
    head = ("network, pixels", "windows", "naive ms (batch)", "alone ms", "together ms (images)", "gain", "ratio")
    return table(
        head,
        [
            (
                f"{row['network']} {row['size']}",
                str(row["windows"]),
                f"{row['naive_ms']:.1f} ({row['naive_batch']})",
                f"{row['alone_ms']:.1f}",
                f"{row['together_ms']:.1f} ({row['images_together']})",
                f"{row['gain']:.2f}",
                f"{row['ratio']:.2f}",
            )
            for row in measured("cpu2-images")
        ],
    )


def small_sets_speed() -> str:
    return table(
        ("network, pixels", "windows", "naive ms (batch)", "OBEQL ms", "ratio", "ratio of CPU time"),
        [
            (
                f"{row['network']} layers, {row['size']}",
                str(row["windows"]),
                f"{row['naive_ms']:.1f} ({row['naive_batch']})",
                f"{row['ours_ms']:.1f}",
                f"{row['ratio']:.2f}",
                f"{row['cpu_ratio']:.2f}",
            )
            for row in measured("cpu2-small-sets")
        ],
    )


def workers_speed() -> str:
    head = ("workers", "seconds", "images per second, once at work", "this process's share of a core")
    rows = []
    for row in measured("cpu2-scale"):
        apart = row["engine"] == "apart"
        who = f"{row['workers']} programs that know nothing of each other" if apart else str(row["workers"])
        busy = "" if apart else f"{row['busy']:.1%}"
        rows.append((who, f"{row['seconds']:.1f}", f"{row['rate']:.1f}", busy))
    return table(head, rows)


def ray_speed() -> str:
    rows = []
    for found in map(result, ("cpu2-ray", "cpu2-ray-slow")):
        what = f"{found['images']} of {found['size']}x{found['size']}, {found['options']}"
        rows += [(what, row["engine"], f"{row['seconds']:.1f}", f"{row['rate']:.1f}") for row in found["rows"]]
    return table(("images", "engine", "seconds, start included", "images per second, once at work"), rows)


def ingest_speed() -> str:
    head = ("kept as", "images", "maps per second", "MB before", "between commits", "at most", "after listing")
    numbers = ("images", "maps_s", "before_mb", "most_mb", "peak_mb", "after_listing_mb", "bytes_a_map")
    rows = [(row["kept_as"], *(f"{row[name]:,.0f}" for name in numbers)) for row in measured("cpu2-ingest")]
    return table((*head, "bytes per map"), rows)


def page_speed() -> str:
    found = result("cpu2-page")
    rows = [("from the command to the page being served", found["start"])]
    for each in found["networks"]:
        name = each["network"]
        rows.append((f"{name}, the first cells of a coarse map, 49 windows", each["first_cells"]))
        rows.append((f"{name}, the whole coarse map", each["coarse"]))
        rows += [(f"{name}, a patch of {patch} px under the hand", times) for patch, times in each["hand"].items()]
    rows += [("50 of 10,000 runs", found["runs"]), ("200 maps of a figure grid by an expression", found["sheet"])]
    if found["scroll"] is not None:
        rows.append(("between frames of a figure grid of 200 maps that is scrolled", found["scroll"]))
    return table(
        ("milliseconds", "median", "90 %", "least"),
        [(what, *(f"{times[name]:.0f}" for name in ("median_ms", "p90_ms", "least_ms"))) for what, times in rows],
    )


def launches() -> str:
    head = (
        "network",
        "groups of rows and columns",
        "batches of the grid",
        "calls per batch",
        "calls, ms",
        "estimated, ms",
    )
    rows = [
        (
            row["network"],
            " x ".join(map(str, row["groups"])),
            str(row["batches_of_grid"]),
            str(row["calls_of_one_batch"]),
            f"{1e3 * row['launches_s']:.0f}",
            f"{1e3 * row['estimated_s']:.0f}",
        )
        for row in measured("cpu2-launches")
    ]
    return table(head, rows)


#: By their names, what `write_docs` writes.
PARTS: tuple[Callable[[], str], ...] = (
    engine_speed,
    few_windows_speed,
    peers_speed,
    axes_speed,
    drop_in_speed,
    store_speed,
    multi_query_speed,
    images_speed,
    small_sets_speed,
    workers_speed,
    ray_speed,
    ingest_speed,
    page_speed,
    launches,
)
