"""Write what views and macros say of bounds into their scripts: places in a histogram, and rankings by bounds.

Before it: a script of `obeql/store/sql` with places such as `{{ edge packed | low | most }}`, and the edges and
regions of `obeql.store.histograms`. After it: SQL that plain DuckDB runs, as `score_sql` has it.

Lists of one element, `list_transform([..], lambda _name: ..)[1]`, give names to what is used more than once.
"""

from __future__ import annotations

import numpy as np

from obeql.planner.scores import OF_LOGIT, SCORES
from obeql.store.histograms import EDGES, REGION_CELLS, REGION_ROWS
from obeql.store.score_sql import Places, case_of

__all__ = ["BOUNDS"]

_EDGES = "[" + ", ".join(f"'{edge}'" for edge in EDGES) + "]::FLOAT[]"


def _edge(packed: str, low: str, side: str) -> str:
    """Return the place in the histogram of a map, `coarse_maps.map`, of an edge near an importance of `low`.

    Cells that reach `low` all reach the edge of side `most`, and those that reach the edge of side `least` all reach
    `low`. NULL for a score of which the histogram says nothing. Edges hold log-odds; of another score, the bound lies
    on the safe side of what rounding does.
    """
    sign, safe, compare, further = ("+", "-", "<=", "") if side == "most" else ("-", "+", "<", "1 + ")
    limits: list[tuple[str, str]] = []
    for name, score in SCORES.items():
        # Values have no other outputs beside them, so that their log-odds are the values.
        if score.formula is None and (score.made_of == "log_odds" or name == "value"):
            limits.append((name, f"{low}::FLOAT"))
        elif score.inverse is not None:
            number = f"{low}::DOUBLE"
            target = f"{packed}.clean_score - {number} {sign} (0.000001 * abs({number}) + 0.000000001)"
            away = f"{packed}.clean - list_transform([{target}], lambda _t: {score.inverse.format(z='_t')})[1]"
            further_off = f"_d {safe} 0.00001 * (1 + abs(_d) + abs({packed}.clean))"
            beyond = "_d" if side == "most" else "CASE WHEN _d > 0 THEN 'nan' ELSE _d END"  # no cell reaches it
            away = (
                f"list_transform([{away}], lambda _d: CASE WHEN isfinite(_d) THEN {further_off} ELSE {beyond} END)[1]"
            )
            assert score.formula is not None
            is_bounded = bool(np.isfinite(score.formula.python(np.array(-np.inf))))
            infinite = f"CASE WHEN {number} > 0 THEN 'nan' ELSE {number} END" if is_bounded else number
            limits.append((name, f"CASE WHEN isfinite({number}) THEN {away} ELSE {infinite} END"))
    limit = case_of(f"{packed}.score", limits)
    place = f"{further}len(list_filter({_EDGES}, lambda _edge: _edge {compare} _limit))"
    return f"list_transform([({limit})::FLOAT], lambda _limit: CASE WHEN _limit IS NOT NULL THEN {place} END)[1]"


def _region_height(packed: str) -> str:
    """Return the rows of a region of a histogram, as `histograms` cuts a map."""
    return f"least({packed}.n_rows, {REGION_ROWS})"


def _region_width(packed: str) -> str:
    """Return the columns of a region."""
    return f"({REGION_CELLS} // {_region_height(packed)})"


def _iou(least_a: str, most_a: str, least_b: str, most_b: str) -> str:
    """Return the bounds on an IoU by those on the cells of each region, lists of SMALLINT.

    In a region, both maps reach at most the smaller count, and at least what does not fit into it side by side.
    """
    return f"""list_transform([{{
        'least_both': list_sum(list_transform(list_zip({least_a}, {least_b}), lambda _g:
            greatest(_g[1] + _g[2] - {REGION_CELLS}, 0))),
        'most_both': list_sum(list_transform(list_zip({most_a}, {most_b}), lambda _g: least(_g[1], _g[2]))),
        'least_sum': list_sum({least_a}) + list_sum({least_b}), 'most_sum': list_sum({most_a}) + list_sum({most_b})
    }}], lambda _n: CASE
        WHEN _n.most_sum IS NULL THEN {{'least': 0.0::DOUBLE, 'most': 1.0::DOUBLE, 'is_sure': false}}
        WHEN _n.most_sum > 0 THEN {{
            'least': (_n.least_both / (_n.most_sum - _n.least_both))::DOUBLE,
            'most': CASE WHEN _n.least_sum > 2 * _n.most_both
                         THEN (_n.most_both / (_n.least_sum - _n.most_both))::DOUBLE ELSE 1 END,
            'is_sure': _n.least_sum > 0
        }} ELSE {{'least': NULL::DOUBLE, 'most': NULL::DOUBLE, 'is_sure': false}} END)[1]"""


def _reached(packed: str, low: str, side: str) -> str:
    """Return how many cells of each region reach `low`, at least or at most."""
    return f"{packed}.counts[{_edge(packed, low, side)}]::SMALLINT[]"


def _iou_bounds(packed_a: str, packed_b: str, low: str) -> str:
    """Return the bounds on the IoU of two maps, `coarse_maps.map`."""
    reached = [_reached(packed, low, side) for packed in (packed_a, packed_b) for side in ("least", "most")]
    named = f"{{'least_a': {reached[0]}, 'most_a': {reached[1]}, 'least_b': {reached[2]}, 'most_b': {reached[3]}}}"
    bounds = _iou("_r.least_a", "_r.most_a", "_r.least_b", "_r.most_b")
    same = f"{packed_a}.n_rows = {packed_b}.n_rows AND {packed_a}.n_cols = {packed_b}.n_cols"
    return f"CASE WHEN {same} THEN list_transform([{named}], lambda _r: {bounds})[1] END"


def _ranked_iou(sign: str) -> str:
    """Return the k pairs of maps of the smallest IoU, for sign +1, or the largest, for -1."""
    return _ranked(
        bounded=f"""
        WITH reached AS MATERIALIZED (
            SELECT run_id, image_id, class_id, map_id, patch_height, patch_width, channel, map.n_rows,
                   map.n_cols,
                   {_reached("map", "low", "least")} AS least, {_reached("map", "low", "most")} AS most
            FROM coarse_maps WHERE run_id IN (run_of(first_run), run_of(second_run))
        )
        SELECT image_id, class_id, map_id, other_id, bounds.least, bounds.most, bounds.is_sure
        FROM (
            SELECT a.image_id, a.class_id, a.map_id, b.map_id AS other_id,
                   {_iou("a.least", "a.most", "b.least", "b.most")} AS bounds
            FROM reached AS a JOIN reached AS b USING (image_id, class_id, patch_height, patch_width, n_rows, n_cols)
            WHERE a.run_id = run_of(first_run) AND b.run_id = run_of(second_run)
                  AND a.channel IS NOT DISTINCT FROM b.channel
        )""",
        runs="(SELECT unnest([run_of(first_run), run_of(second_run)]))",
        maps="SELECT map_id FROM few UNION ALL SELECT other_id FROM few",
        verified="""
        SELECT few.image_id, a.path, a.class_name, iou_at_least(a.map, b.map, low) AS iou, few.map_id, few.other_id
        FROM few JOIN opened AS a USING (map_id, image_id, class_id)
        JOIN opened AS b ON b.map_id = few.other_id AND b.image_id = few.image_id AND b.class_id = few.class_id
        WHERE a.run_id = run_of(first_run) AND b.run_id = run_of(second_run)""",
        ranked="iou",
        sign=sign,
    )


def _ranked_share(sign: str) -> str:
    """Return the k maps of the smallest share of a box, for sign +1, or the largest, for -1."""
    return _ranked(
        bounded="""
        SELECT image_id, class_id, run_id, map_id, top, "left", height, width, anywhere.least > 0 AS is_sure,
               least(inside.least / anywhere.most, 1) AS least,
               CASE WHEN inside.most < anywhere.least THEN inside.most / anywhere.least ELSE 1 END AS most
        FROM (
            SELECT coarse.image_id, coarse.class_id, coarse.run_id, coarse.map_id, box.top, box."left", box.height,
                   box.width, count_bounds(coarse.map, low, high) AS anywhere,
                   count_bounds(coarse.map, box.top, box."left", box.height, box.width, low, high) AS inside
            FROM coarse_maps AS coarse JOIN query_table(boxes) AS box USING (image_id)
            WHERE CASE WHEN run IS NULL THEN true ELSE coarse.run_id = run_of(run) END
        ) WHERE anywhere.most > 0""",
        runs="(SELECT run_id FROM few)",
        maps="SELECT map_id FROM few",
        verified="""
        SELECT opened.image_id, opened.path, opened.class_name, opened.run_name, opened.run_id,
               count_between(opened.map, top, "left", height, width, low, high)
               / nullif(count_between(opened.map, low, high), 0) AS share, opened.map_id
        FROM few JOIN opened USING (map_id, run_id, image_id, class_id)""",
        ranked="share",
        sign=sign,
    )


def _ranked(bounded: str, runs: str, maps: str, verified: str, ranked: str, sign: str) -> str:
    """Return what ranks by bounds, then by the planes of those that the bounds leave, ties by image.

    `best` and `worst` are what a row may rank as. What k rows surely have, `worst`, no other need be read for that is
    behind it even at its best. The planes are those of flat_maps, chosen before they are read.
    """
    best, worst = ("least", "most") if sign == "+1" else ("-most", "-least")
    return f"""
    WITH bounded AS MATERIALIZED ({bounded}
    ),
    kth AS (
        SELECT {worst} AS worst, image_id FROM bounded WHERE is_sure ORDER BY ALL LIMIT 1 OFFSET k - 1
    ),
    few AS MATERIALIZED (
        FROM bounded
        WHERE least IS NOT NULL AND coalesce(({best}, image_id) <= (SELECT (worst, image_id) FROM kth), true)
    ),
    planes AS MATERIALIZED (
        SELECT map_id, n_rows, n_cols, flatten(log_odds) AS log_odds, flatten(logit) AS logit
        FROM obeql_store.map_rows WHERE map_id IN ({maps})
    ),
    opened AS MATERIALIZED (
        SELECT coarse.* EXCLUDE (map), {{'z': CASE WHEN is_logit THEN logit ELSE log_odds END, 'score': score_kind,
               'clean': CASE WHEN is_logit THEN coarse.map.clean_logit ELSE coarse.map.clean END,
               'clean_score': clean_score, 'clean_rest': coarse.map.clean_rest, 'n_rows': n_rows, 'n_cols': n_cols}}
               AS map
        FROM planes JOIN (
            SELECT *, score_kind IN ({_of_logit()}) AS is_logit FROM coarse_maps WHERE run_id IN {runs}
        ) AS coarse USING (map_id)
    )
    FROM ({verified}
    )
    WHERE {ranked} IS NOT NULL
    ORDER BY {"" if sign == "+1" else "-"}{ranked}, image_id, map_id LIMIT k"""


def _of_logit() -> str:
    return ", ".join(f"'{kind}'" for kind in sorted(OF_LOGIT))


#: What writes the places of bounds, by their names.
BOUNDS: Places = {
    "edge": _edge,
    "iou_bounds": _iou_bounds,
    "ranked_iou": _ranked_iou,
    "ranked_share": _ranked_share,
    "region_height": _region_height,
    "region_width": _region_width,
}
