"""What the page lists and shows of the database: models, image sets, images, runs, maps and pictures.

Beside `worker`: these only read, on a connection of their own, and go on while a statement runs. Every list is one
query of one page of rows, whatever the database holds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from io import BytesIO
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from obeql.errors import UnknownNameError
from obeql.results.heatmap import Heatmap
from obeql.web.outcomes import as_json

if TYPE_CHECKING:
    import duckdb

    from obeql.cli.repl.names import Names
    from obeql.results.result import Result
    from obeql.session.session import Session

__all__ = ["MapKey", "Reader"]

#: (map_id, image_id): one map may belong to several images of a run, copies of each other
MapKey = tuple[int, int]

#: Runs whose maps are held open.
_RUNS_KEPT = 8

_MODELS = "SELECT name, classes, n_classes, input_height, input_width, activation, uri FROM models ORDER BY lower(name)"
_SETS = "SELECT name, any_value(n_images), any_value(source) FROM image_sets GROUP BY name ORDER BY lower(name)"
# An image that is all of a set goes by the set's name, which people have given; its file may be called after a hash.
_IMAGES = """
SELECT *, count(*) OVER () AS total
FROM (
    SELECT image_id, coalesce((
               SELECT any_value(own.name) FROM image_sets AS own
               WHERE own.image_id = images.image_id AND own.n_images = 1
           ), name) AS name, path, label, height, width
    FROM images
)
WHERE ($set IS NULL OR image_id IN (SELECT image_id FROM image_sets WHERE lower(name) = lower($set)))
  AND ($words IS NULL OR contains(lower(name || ' ' || coalesce(label, '')), lower($words)))
ORDER BY image_id DESC LIMIT $most OFFSET $start
"""
_RUNS = """
WITH page AS (
    SELECT *, count(*) OVER () AS total FROM obeql_store.live_runs
    WHERE $words IS NULL OR contains(lower(coalesce(run_name, '') || ' ' || model || ' ' || query), lower($words))
    ORDER BY run_id DESC LIMIT $most OFFSET $start
), held AS (
    SELECT run_id, count(*) AS n_maps, count(DISTINCT image_id) AS n_images, min(bound) FILTER (approx) AS bound,
           any_value(metric) AS metric, arg_min(map_id, entry_id) AS map_id, arg_min(image_id, entry_id) AS image_id
    FROM obeql_store.run_maps WHERE run_id IN (SELECT run_id FROM page) GROUP BY run_id
)
SELECT page.run_id, run_name, status, model, score, query, started_at, measured->>'seconds' AS seconds,
       coalesce(n_maps, 0) AS n_maps, coalesce(n_images, 0) AS n_images, bound, metric, map_id, held.image_id,
       coalesce(own.name, images.name) AS image, total
FROM page LEFT JOIN held USING (run_id) LEFT JOIN images ON images.image_id = held.image_id
LEFT JOIN (
    SELECT image_id, min(name) AS name FROM image_sets WHERE n_images = 1 GROUP BY image_id
) AS own ON own.image_id = held.image_id
ORDER BY page.run_id DESC
"""


class Reader:
    """Reads for the page from several threads; `connection` is one that only it uses."""

    def __init__(self, session: Session, connection: duckdb.DuckDBPyConnection) -> None:
        self._session = session
        self._connection = connection
        self._lock = threading.Lock()
        #: by run: how many maps it had and the last of them, its maps, and their places
        self._results: OrderedDict[int, tuple[tuple[Any, ...], Result, dict[MapKey, int]]] = OrderedDict()
        self._names: tuple[int, Names] | None = None

    def rows(self, sql: str, values: Any = None) -> list[dict[str, Any]]:
        """Return the rows of a query, as JSON has them."""
        with self._lock:
            found = self._connection.execute(sql, values)
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, map(as_json, row), strict=True)) for row in found.fetchall()]

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a further connection, for a query that may take long."""
        with self._lock:
            return self._connection.cursor()

    # ---- lists ------------------------------------------------------------------------------------------------

    def models(self) -> list[dict[str, Any]]:
        """Return the models, by name."""
        return self.rows(_MODELS)

    def image_sets(self) -> list[dict[str, Any]]:
        """Return the image sets, by name."""
        with self._lock:
            found = self._connection.execute(_SETS).fetchall()
        return [{"name": name, "n_images": n_images, "source": source} for name, n_images, source in found]

    def images(self, image_set: str | None, words: str | None, start: int, most: int) -> dict[str, Any]:
        """Return some of the images, newest first, and how many there are."""
        return self._page(_IMAGES, {"set": image_set, "words": words, "start": start, "most": most}, "images")

    def runs(self, words: str | None, start: int, most: int) -> dict[str, Any]:
        """Return some of the runs, newest first, each with its first map, and how many there are."""
        return self._page(_RUNS, {"words": words, "start": start, "most": most}, "runs")

    def _page(self, sql: str, values: dict[str, Any], name: str) -> dict[str, Any]:
        rows = self.rows(sql, values)
        total = rows[0]["total"] if rows else 0
        for row in rows:
            del row["total"]
        return {name: rows, "total": total, "start": values["start"]}

    def names(self, version: int) -> Names:
        """Return what can be completed, asked anew when `version` is another than the last time."""
        from obeql.cli.repl.names import gather_from  # noqa: PLC0415 - loaded behind the page

        with self._lock:
            if self._names is None or self._names[0] != version:
                self._names = version, gather_from(self._connection)
            return self._names[1]

    # ---- maps and pictures ------------------------------------------------------------------------------------

    def maps_of(self, run_id: int) -> tuple[Result, dict[MapKey, int]]:
        """Return the maps of a run, and the place of each by its key. Raises UnknownNameError."""
        with self._lock:
            known = self._results.get(run_id)
            (held,) = self._connection.execute(
                "SELECT count(*), max(entry_id) FROM obeql_store.run_maps WHERE run_id = ?", [run_id]
            ).fetchall()
        if known is not None and known[0] == held:
            return known[1:]
        result = self._session.run(run_id)
        keys = self.rows(
            "SELECT map_id, image_id FROM obeql_store.run_maps WHERE run_id = ? ORDER BY entry_id", [run_id]
        )
        places: dict[MapKey, int] = {}
        for place, key in enumerate(keys[: len(result)]):
            places.setdefault((key["map_id"], key["image_id"]), place)
        with self._lock:
            self._results[run_id] = held, result, places
            while len(self._results) > _RUNS_KEPT:
                self._results.popitem(last=False)
        return result, places

    def heat(self, run_id: int, key: MapKey | None) -> Heatmap:
        """Return a map of a run by its key, the first without one. Raises UnknownNameError."""
        result, places = self.maps_of(run_id)
        place = 0 if key is None else places.get(key)
        if place is None or place >= len(result):
            raise UnknownNameError(f"Run {run_id} has no such map.")
        return result[place]

    def keys_of(self, run_id: int) -> list[dict[str, Any]]:
        """Return of each map of a run its key, image, class and patch, in order; at most 500."""
        result, places = self.maps_of(run_id)
        names = {
            row["image_id"]: row["name"]
            for row in self.rows(
                "SELECT image_id, min(name) AS name FROM image_sets WHERE n_images = 1 AND image_id IN "
                "(SELECT image_id FROM obeql_store.run_maps WHERE run_id = ?) GROUP BY image_id",
                [run_id],
            )
        }
        listed = []
        for (map_id, image_id), place in sorted(places.items(), key=lambda each: each[1])[:500]:
            heat = result[place]
            listed.append(
                {
                    "key": f"{map_id}-{image_id}",
                    "image": heat.image,
                    "name": names.get(image_id, PurePath(heat.image).stem),
                    "image_id": image_id,
                    "class_name": heat.class_name,
                    "class_id": heat.class_id,
                    "patch": heat.patch,
                }
            )
        return listed

    def picture(self, image_id: int, longest_px: int) -> tuple[bytes, str]:
        """Return the picture of an image, no side longer than `longest_px`, and its media type. Raises ImageError."""
        return picture_bytes(self._session.picture(image_id).unit_pixels(), longest_px)


def picture_bytes(pixels: Sequence[Any] | Any, longest_px: int) -> tuple[bytes, str]:
    """Return RGB pixels (H, W, 3) in 0..1 as a file: PNG for small ones, whose pixels count, JPEG otherwise."""
    image = Image.fromarray(np.uint8(np.rint(np.asarray(pixels) * 255)))
    image.thumbnail((longest_px, longest_px))
    buffer = BytesIO()
    if max(image.size) <= 256:
        image.save(buffer, format="PNG")
        return buffer.getvalue(), "image/png"
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue(), "image/jpeg"
