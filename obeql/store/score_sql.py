"""Write what views and macros say of scores and hidden channels into their scripts, as `obeql.planner` declares them.

Before it: a script of `obeql/store/sql` with places such as `{{ score kind | logit | log_odds }}`. After it: SQL that
plain DuckDB runs, which `fresh` gives to the database. A place holds a name of `_PLACES` and its arguments, SQL each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from obeql.planner.fills import CHANNELS_MARK
from obeql.planner.scores import OF_LOGIT, SCORES, Score, ScoreKind

__all__ = ["Places", "case_of", "with_scores"]

#: What writes a place, by its name: SQL from its arguments.
Places = Mapping[str, Callable[..., str]]

_PLACE = re.compile(r"\{\{ (\w+)((?: [^{}]+)?) \}\}")


def with_scores(script: str, further: Places | None = None) -> str:
    """Return a script with every place filled in, those of `further` too."""
    places = {**_PLACES, **(further or {})}
    return _PLACE.sub(lambda found: places[found[1]](*map(str.strip, found[2].split("|"))), script)


def _score(kind: str, logit: str, log_odds: str) -> str:
    """Score of a cell from its two numbers."""
    return case_of(kind, ((name, _value(score, _made_of(score, logit, log_odds))) for name, score in SCORES.items()))


def _value(score: Score, z: str) -> str:
    return _of(score.formula.sql, z) if score.formula else f"{z}::DOUBLE"


def _formula(kind: ScoreKind, z: str) -> str:
    """Score of one kind from what it is made of."""
    return _value(SCORES[kind], z)


def _rest(kind: str, logit: str, log_odds: str) -> str:
    """Return what a score lacks to 1, of those that know it; else NULL."""
    return case_of(
        kind,
        (
            (name, _of(score.short_of_one.sql, _made_of(score, logit, log_odds)))
            for name, score in SCORES.items()
            if score.short_of_one
        ),
    )


def _clean_rest(kind: str, logit: str, log_odds: str) -> str:
    """Return what the image's own score lacks to 1, where importance is made of it; else NULL."""
    return case_of(
        kind,
        (
            (name, f"CASE WHEN {z} > 0 THEN {_of(score.short_of_one.sql, z)} END")
            for name, score in SCORES.items()
            if score.short_of_one
            for z in [_made_of(score, logit, log_odds)]
        ),
    )


def _planes(kind: str) -> str:
    """Return the scores of a map, from its planes `logit` and `log_odds`."""
    return case_of(
        kind,
        (
            (
                name,
                _each_cell(score.made_of, f"({_of(score.formula.sql, 'z')})::FLOAT")
                if score.formula
                else score.made_of,
            )
            for name, score in SCORES.items()
        ),
    )


def _importance_planes(kind: str) -> str:
    """Return the importance of a map, from its planes and what is clean of it."""
    return _importances(
        kind,
        lambda score, written: _each_cell(score.made_of, written),
        "z",
        lambda score: f"clean_{score.made_of}_float",
    )


def _list(kind: str) -> str:
    """Return the scores of cells, from a list `z` of what they are made of."""
    return case_of(
        kind,
        (
            (name, f"list_transform(z, lambda _z: ({_of(score.formula.sql, '_z')})::FLOAT)" if score.formula else "z")
            for name, score in SCORES.items()
        ),
    )


def _importance_list(kind: str) -> str:
    """Return the importance of cells, from a list `z` of what their scores are made of."""
    return _importances(
        kind, lambda _, written: f"list_transform(z, lambda _z: {written})", "_z", lambda _: "clean_float"
    )


def _count_between(packed: str, z: str, low: str, high: str) -> str:
    """Return how many cells of a list `z` of a map in one value have an importance in [low, high)."""
    return _of_packed(
        packed, lambda written: f"len(list_filter({z}, lambda _z: {written} >= {low} AND {written} < {high}))"
    )


def _at_least(packed: str, z: str, low: str) -> str:
    """Return 1 for each cell of a list `z` of a map in one value whose importance reaches `low`, else 0."""
    return _of_packed(
        packed,
        lambda written: (
            f"list_transform({z}, lambda _z: CASE WHEN {written} >= {low} THEN 1.0::FLOAT ELSE 0.0::FLOAT END)"
        ),
    )


def _of_packed(packed: str, each: Callable[[str], str]) -> str:
    """Return what is asked of each importance of a map in one value, `flat_maps.map`.

    Lists of one element give names to its clean numbers: a lambda over cells that named the value itself would repeat
    it for every cell.
    """

    def with_clean(written: str) -> str:
        asked = each(written)
        for name in ("clean", "clean_score", "clean_rest"):
            if re.search(rf"\b_{name}\b", written):
                asked = f"list_transform([{packed}.{name}], lambda _{name}: {asked})[1]"
        return asked

    return _importances(
        f"{packed}.score",
        lambda _, written: with_clean(written),
        "_z",
        lambda _: "_clean",
        "_clean_score",
        "_clean_rest",
        f"{packed}.clean_rest",
    )


def _importances(
    kind: str,
    each: Callable[[Score, str], str],
    z: str,
    clean: Callable[[Score], str],
    clean_score: str = "clean_score",
    clean_rest: str = "clean_rest",
    rest_of_map: str = "clean_rest",
) -> str:
    """Return the importance by every score.

    What is clean was rounded as the cells are: where nothing changes, 0 is exact.

    `clean_score` and `clean_rest` are the names that the lambda of a cell captures; `rest_of_map` is read outside it.
    """
    cases: list[tuple[str, str]] = []
    for name, score in SCORES.items():
        if score.formula is None:
            cases.append((name, each(score, f"{clean(score)} - {z}")))
            continue
        written = each(score, f"({clean_score} - ({_of(score.formula.sql, z)}))::FLOAT")
        if score.short_of_one:
            near_one = each(score, f"({_of(score.short_of_one.sql, z)} - {clean_rest})::FLOAT")
            written = f"CASE WHEN {rest_of_map} IS NOT NULL THEN {near_one} ELSE {written} END"
        cases.append((name, written))
    return case_of(kind, cases)


def _unit(kind: str) -> str:
    """Return the unit of a score."""
    return case_of(kind, ((name, f"'{score.sql_unit}'") for name, score in SCORES.items()))


def _of_logit(*_: str) -> str:
    """Return the kinds that are made of the logit, for IN."""
    return ", ".join(f"'{kind}'" for kind in sorted(OF_LOGIT))


def _every_plane(planes: str, of_rows: str) -> str:
    """Return a list of one number a row again for each plane of a volume; the list itself where there are none."""
    again = f"flatten(list_transform({planes}, lambda _plane: {of_rows}))"
    return f"CASE WHEN {planes} IS NULL THEN {of_rows} ELSE {again} END"


def _every_row(rows: str, of_planes: str) -> str:
    """Return a list of one number a plane with each of them again for every row; NULL where there are no planes."""
    return f"flatten(list_transform({of_planes}, lambda _plane: list_transform({rows}, lambda _row: _plane)))"


def _channel(fill: str, names: str) -> str:
    """Return the channels that a fill hides, by the `names` of all, a list; NULL where it hides every channel."""
    numbers = f"string_split(split_part({fill}, '{CHANNELS_MARK}', 2), ',')"
    named = f"list_transform({numbers}, lambda _n: coalesce({names}[_n::INTEGER + 1], _n))"
    return f"CASE WHEN contains({fill}, '{CHANNELS_MARK}') THEN array_to_string({named}, ', ') END"


def case_of(kind: str, cases: Iterable[tuple[str, str]]) -> str:
    """Choose by the kind of score; NULL for a kind that is not among the cases."""
    chosen = " ".join(f"WHEN '{name}' THEN {written}" for name, written in cases)
    return f"CASE {kind} {chosen} END"


def _each_cell(plane: str, written: str) -> str:
    return f"list_transform({plane}, lambda cells_of_row: list_transform(cells_of_row, lambda z: {written}))"


def _made_of(score: Score, logit: str, log_odds: str) -> str:
    return logit if score.made_of == "logit" else log_odds


def _of(formula: str, z: str) -> str:
    return formula.format(z=z)


_PLACES: Places = {
    "score": _score,
    "formula": _formula,
    "rest": _rest,
    "clean_rest": _clean_rest,
    "planes": _planes,
    "importance_planes": _importance_planes,
    "list": _list,
    "importance_list": _importance_list,
    "count_between": _count_between,
    "at_least": _at_least,
    "unit": _unit,
    "of_logit": _of_logit,
    "every_plane": _every_plane,
    "every_row": _every_row,
    "channel": _channel,
}
