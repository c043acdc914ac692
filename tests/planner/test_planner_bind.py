"""Binding: what a statement means, and where each wrong one is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from obeql.errors import QueryError, QueryTypeError, UnknownNameError, UnsupportedError
from obeql.grammar import parameters_of, parse_statement, statements, syntax
from obeql.planner import BoundPredict, bind, fill_numbers

HEAD = "EXPLAIN OCCLUDE scans USING vgg "

#: (statement, characters the caret stands under, part of the message)
WRONG = [
    # options, by themselves
    (HEAD + "WITH pach=16", "pach", "Did you mean 'patch'"),
    (HEAD + "WITH patch=16 patch=8", "patch=8", "given twice"),
    (HEAD + "WITH patch=0", "0", "at least 1 pixel"),
    (HEAD + "WITH patch=16x0", "16x0", "at least 1 pixel, not 16x0"),
    (HEAD + "WITH patch=-4", "-4", "at least 1 pixel"),
    (HEAD + "WITH patch=1.5", "1.5", "pixels such as 16"),
    (HEAD + "WITH patch=wide", "wide", "pixels such as 16"),
    (HEAD + "WITH patch=2GB", "2GB", "pixels such as 16"),
    (HEAD + "WITH patch=[8, 0, 16]", "0, 16]", "at least 1 pixel"),
    (HEAD + "WITH stride=0", "0", "at least 1 pixel"),
    (HEAD + "WITH stride=[2, 4]", "[2, 4]", "pixels such as 16"),
    (HEAD + "WITH fill=meen", "meen", "Did you mean 'mean'?"),
    (HEAD + "WITH fill=3", "3", "a color (r, g, b)"),
    (HEAD + "WITH fill=(0, 1)", "(0, 1)", "three numbers"),
    (HEAD + "WITH fill=(0, 255, 0)", "255", "divided by 255"),
    (HEAD + "WITH fill=(0, red, 0)", "(0, red", "takes a number"),
    (HEAD + "WITH score=logodds", "logodds", "Did you mean 'log_odds'"),
    (HEAD + "WITH border=clop", "clop", "cover, valid or clip"),
    (HEAD + "WITH workers=many", "many", "whole number of at least 0"),
    (HEAD + "WITH precision=float8", "float8", "Did you mean"),
    (HEAD + "WITH batch=0", "0", "at least 1"),
    (HEAD + "WITH memory='2 XB'", "'2 XB'", "a size such as '2GB'"),
    (HEAD + "WITH memory=0", "0", "at least 1 byte"),
    (HEAD + "WITH workers=1000", "1000", "workers is at most 512"),
    (HEAD + "WITH seed=-1", "-1", "at least 0"),
    # options come before names of the catalog
    ("EXPLAIN OCCLUDE nowhere USING nothing WITH patch=0", "0", "at least 1 pixel"),
    ("EXPLAIN OCCLUDE nowhere USING nothing WITH pach=1", "pach", "no option"),
    # options against the model
    (HEAD + "WITH patch=65", "65", "patch 65x65 is larger than the 64x64 input of model 'vgg'"),
    (HEAD + "WITH patch=[8, 8x65]", "8x65", "patch 8x65 is larger"),
    (HEAD + "WITH patch=8 stride=65", "65", "stride 65x65 is larger"),
    (HEAD + "WITH patch=8 stride=9 border=clip", "clip", "border=clip needs a stride within the patch"),
    # clauses
    (HEAD + "APPROX 0", "0", "above 0 and at most 1"),
    (HEAD + "APPROX 1.5", "1.5", "above 0 and at most 1"),
    (HEAD + "APPROX 0.9 METRIC sim", "sim", "Did you mean 'ssim'?"),
    (HEAD + "APPROX 0.9 CONFIDENCE 1", "1", "above 0 and below 1"),
    (HEAD + "WITHIN 0 SECONDS", "WITHIN", "more than 0 seconds"),
    (HEAD + "TOP 0 CELLS", "TOP", "at least 1 cell"),
    (HEAD + "ON gpu", "gpu", "auto, cpu, cuda"),
    (HEAD + "REGION (0, 0, 0, 9)", "REGION", "at least 1 pixel"),
    (HEAD + "REGION (0, 60, 32, 32)", "REGION", "reaches outside the 64x64 input"),
    (HEAD + "REGION (1, 1, 17, 17)", "REGION", "holds no window of patch 16x16 and stride 4x4"),
    (HEAD + "WITH patch=[4, 32] REGION (0, 0, 16, 16)", "REGION", "holds no window of patch 32x32"),
    (HEAD + "INTO Monday", "Monday", "INTO OR REPLACE Monday"),
    # classes
    (HEAD + "FOR CLASS 4", "4", "classes 0 to 3"),
    (HEAD + "FOR CLASS 'gliomma'", "'gliomma'", "Did you mean 'glioma'?"),
    (HEAD + "FOR CLASSES (0, 9)", "9", "Class 9 does not exist"),
    (HEAD + "FOR TOP 5", "FOR", "model 'vgg' has 4"),
    (HEAD + "FOR TOP 0", "FOR", "at least 1"),
    (HEAD + "FOR LABEL", "FOR", "none of the 3 images has one"),
    ("EXPLAIN OCCLUDE scan0 USING vgg FOR LABEL", "FOR", "the image has none"),
    ("EXPLAIN OCCLUDE mislabelled USING vgg FOR LABEL", "FOR", "Did you mean 'glioma'?"),
    ("EXPLAIN OCCLUDE scan0 USING resnet FOR CLASS 'CRANE'", "'CRANE'", "it names 0 and 1"),
    # names
    ("EXPLAIN OCCLUDE scans USING vg", "vg", "Did you mean 'vgg'?"),
    ("EXPLAIN OCCLUDE scnas USING vgg", "scnas", "Did you mean 'scans'"),
    ("EXPLAIN OCCLUDE twice USING vgg", "twice", "names 2 images"),
    ("EXPLAIN OCCLUDE nothing USING vgg", "nothing", "is empty"),
    ("EXPLAIN OCCLUDE 'x/*.png' USING vgg", "'x/*.png'", "No image file matches 'x/*.png'"),
    ("EXPLAIN OCCLUDE (SELECT path FROM t WHERE false) USING vgg", "(SELECT", "yields no images"),
    ("PREDICT scans USING vgh", "vgh", "Did you mean 'vgg'?"),
    ("PREDICT scans USING vgg FOR TOP 5", "FOR", "model 'vgg' has 4"),
]


def _bind(text: str, catalog: Any, **parameters: Any) -> Any:
    statement = parse_statement(text)
    given = {node: parameters[node.name or f"_{node.index}"] for node in parameters_of(statement)}
    return bind(statement, catalog, text, None, given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "place", "message"), WRONG)
def test_wrong_statement_says_what_and_where(text: str, place: str, message: str, catalog: Any) -> None:
    with pytest.raises(QueryError) as caught:
        _bind(text, catalog)
    error = caught.value
    assert message in error.message
    assert error.column is not None
    assert text[error.column - 1 :].startswith(place)
    line, caret = error.context.splitlines()
    assert line[caret.index("^") :].startswith(place[:20])


def test_place_counts_from_the_start_of_the_script(catalog: Any) -> None:
    script = "-- a comment\nEXPLAIN OCCLUDE scans USING vgg\n  WITH patch=8 stride=400"
    with pytest.raises(QueryTypeError) as caught:
        _bind(script, catalog)
    assert (caught.value.line, caught.value.column) == (3, 23)


@pytest.mark.parametrize(
    ("clause", "named"),
    [
        ("ON ray WITHIN 5 SECONDS", "ON ray"),
        ("WITH workers=2 WITHIN 5 SECONDS", "workers=2"),
        ("WITHIN 5 SECONDS ON cuda:*", "cuda:*"),
    ],
)
def test_what_is_not_carried_out_is_refused_by_name(clause: str, named: str, catalog: Any) -> None:
    with pytest.raises(UnsupportedError, match="not implemented") as caught:
        _bind(HEAD + clause, catalog)
    assert named in str(caught.value)


def test_ray_is_chosen_by_a_clause_or_a_setting(catalog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert _bind(HEAD, catalog).cluster is None
    bound = _bind(HEAD + "ON ray", catalog)
    assert (bound.cluster, bound.device) == ("local", "auto")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert _bind(HEAD + "ON ray", catalog).cluster == "10.0.0.1:6379"
    catalog.settings |= {"engine": "ray", "ray_address": "local"}
    bound = _bind(HEAD + "ON cuda", catalog)
    assert (bound.cluster, bound.device) == ("local", "cuda")
    with pytest.raises(UnsupportedError, match="Ray chooses the GPU of each worker"):
        _bind(HEAD + "ON cuda:1", catalog)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", "WITH patch=16"),
        ("WITH patch=16", "WITH patch=16x16"),
        ("WITH patch=16", "WITH patch=[16]"),
        ("WITH patch=16", "with PATCH=16, STRIDE=4"),
        ("WITH patch=8x16", "WITH patch=8x16 stride=2x4"),
        ("WITH patch=1", "WITH patch=1 stride=1"),
        ("WITH fill=gray", "WITH fill='GRAY'"),
        ("WITH fill=(1, 0, 0.5)", "WITH fill=(1.0, 0.0, 5e-1)"),
        ("WITH memory=2GB", "WITH memory='2 gb'"),
        ("WITH memory=1MiB", "WITH memory=1048576"),
        ("FOR PREDICTED", ""),
        ("FOR CLASS 'GLIOMA'", "FOR CLASSES (0)"),
        ("EXACT", ""),
        ("ON auto", ""),
        ("ON CPU WITH patch=8", "WITH patch=8 ON cpu"),
        ("APPROX 0.9", "APPROX 0.9 CONFIDENCE 0.95 METRIC ssim"),
    ],
)
def test_two_ways_to_say_one_plan(one: str, other: str, plan_of: Any) -> None:
    first, second = plan_of(HEAD + one), plan_of(HEAD + other)
    assert replace(first, statement="") == replace(second, statement="")


def test_duplicate_patch_is_the_plan_of_one(plan_of: Any) -> None:
    first, second = plan_of(HEAD + "WITH patch=[16, 16x16]"), plan_of(HEAD + "WITH patch=16")
    assert replace(first, statement="", fired=(), logical_text=("", "")) == replace(
        second, statement="", fired=(), logical_text=("", "")
    )


def test_defaults_are_all_in_the_options(catalog: Any, plan_of: Any) -> None:
    options = plan_of(HEAD).options
    assert options == {
        "patch": "16x16",
        "stride": "4x4",
        "fill": "mean",
        "score": "probability",
        "border": "cover",
        "workers": 0,
        "precision": "float32",
        "batch": "planned",
        "memory": "planned",
        "seed": 0,
    }


def test_caller_defaults_give_way_to_the_statement(catalog: Any) -> None:
    statement = parse_statement(HEAD + "WITH stride=8")
    bound = bind(statement, catalog, "", {"patch": 32, "stride": 4})  # type: ignore[arg-type]
    assert bound.options["patch"] == ((32, 32),)
    assert bound.options["stride"] == (8, 8)
    with pytest.raises(QueryTypeError, match="at least 1 pixel"):
        bind(statement, catalog, "", {"patch": 0})  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="'pacth'"):
        bind(statement, catalog, "", {"pacth": 1})  # type: ignore[arg-type]


def test_region_keeps_the_windows_of_the_full_map(plan_of: Any) -> None:
    (grid,) = plan_of(HEAD + "REGION (3, 0, 30, 64)").grids
    assert grid.rows.starts == (4, 8, 12, 16)
    assert len(grid.cols) == 13


def test_approx_is_refined_towards_its_target(plan_of: Any) -> None:
    plan = plan_of(HEAD + "WITH stride=2 APPROX 0.9 METRIC MaxErr")
    assert plan.approx == {"target": 0.9, "metric": "maxerr", "confidence": 0.95}
    (refinement,) = plan.refinements
    assert (refinement.metric, refinement.target, refinement.confidence) == ("maxerr", 0.9, 0.95)
    assert 0 < refinement.expected_share < 1
    assert plan_of(HEAD + "EXACT").approx == {} and not any(plan_of(HEAD + "EXACT").refinements)


def test_most_windows_of_an_approximate_map_are_computed_in_a_faster_precision(plan_of: Any) -> None:
    text = HEAD + "{} WITH stride=2"
    for clause in ("APPROX 0.9", "TOP 5 CELLS", "WITHIN 3 SECONDS"):
        statement = text.format("") + f" {clause}"
        plan = plan_of(statement, bfloat16=True)
        (refinement,) = plan.refinements
        assert refinement.reduced.precision == "bfloat16" and 0 < refinement.expected_share < 0.1, clause
        assert plan.seconds < plan_of(statement).seconds
        assert plan.seconds > plan.engines[0].cost.seconds
    assert not any(plan_of(text.format(""), bfloat16=True).refinements)


def test_selectors(plan_of: Any) -> None:
    assert plan_of(HEAD + "FOR TOP 3").classes == ("top", 3)
    assert plan_of(HEAD + "FOR ALL").classes == ("all", None)
    assert plan_of(HEAD + "FOR CLASSES (3, 'NoTumor')").classes == ("ids", (3, 2))
    assert plan_of("EXPLAIN OCCLUDE labelled USING vgg FOR LABEL").classes == ("label", None)
    assert plan_of("EXPLAIN OCCLUDE scan0 USING resnet FOR CLASS 'Crane'").classes == ("ids", (1,))
    assert plan_of("EXPLAIN OCCLUDE scan0 USING opaque FOR CLASS '0' WITH patch=8").classes == ("ids", (0,))


def test_run_name_and_replacement(plan_of: Any) -> None:
    plan = plan_of(HEAD + "INTO OR REPLACE monday")
    assert (plan.run_name, plan.replace_run) == ("monday", True)
    assert plan_of(HEAD + "INTO tuesday").run_name == "tuesday"


def test_memory_option_goes_before_setting_before_device(plan_of: Any) -> None:
    assert plan_of(HEAD).memory_bytes == 2_000_000_000
    assert plan_of(HEAD, memory=5_000_000).memory_bytes == 5_000_000
    assert plan_of(HEAD + "WITH memory=7MB").memory_bytes == 7_000_000


def test_device_setting_serves_statements_without_on(plan_of: Any) -> None:
    assert plan_of(HEAD, device="cuda:1").device == "cuda:1"
    assert plan_of(HEAD + "ON cpu").device == "cpu"


def test_too_many_cells(plan_of: Any) -> None:
    plan_of(HEAD + "FOR ALL", max_cells=3 * 4 * 169)
    with pytest.raises(QueryTypeError, match=r"2,028 cells, more than the 2,027 of obeql\.max_cells"):
        plan_of(HEAD + "FOR ALL", max_cells=3 * 4 * 169 - 1)
    with pytest.raises(QueryTypeError, match="about 0 MB; PLAN shows the time"):
        plan_of("PLAN ANALYZE " + HEAD + "FOR ALL", max_cells=1)
    assert plan_of("PLAN " + HEAD + "FOR ALL", max_cells=1).n_windows == 3 * 169
    plan_of(HEAD + "FOR ALL", max_cells=None)


@pytest.mark.parametrize(("fill", "color"), [("(1, 0, 0.5)", (1.0, 0.0, 0.5)), ("blur", None), ("grey", None)])
def test_fill_text_reads_back(fill: str, color: Any, plan_of: Any) -> None:
    assert fill_numbers(plan_of(HEAD + f"WITH fill={fill}").fill) == color


# ---- parameters ------------------------------------------------------------------------------------------


def test_parameters_stand_for_values_images_and_models(catalog: Any) -> None:
    text = "EXPLAIN OCCLUDE ? USING $model FOR CLASSES (0, $c) WITH patch=$p fill=$f"
    image = catalog.sets["scans"].images[1]
    values = {
        "_0": [image, Path("scan7.png"), image],
        "model": "VGG",
        "c": "notumor",
        "p": [8, (8, 16)],
        "f": (0, 0, 1),
    }
    bound = _bind(text, catalog, **values)
    assert len(bound.images) == 2, "each image once"
    assert bound.model.name == "vgg"
    assert bound.options["patch"] == ((8, 8), (8, 16))
    assert bound.options["fill"] == "(0,0,1)"


@pytest.mark.parametrize(("value", "message"), [(3, "not int"), ([], "is empty"), ("nope.png", "No image file")])
def test_parameter_that_is_no_image(value: Any, message: str, catalog: Any) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        _bind("EXPLAIN OCCLUDE $x USING vgg", catalog, x=value)
    assert caught.value.column == 17


def test_parameter_without_a_value(catalog: Any) -> None:
    text = "EXPLAIN OCCLUDE scans USING vgg WITH patch=$p"
    with pytest.raises(QueryTypeError, match=r"No value was given for parameter \$p") as caught:
        bind(parse_statement(text), catalog, text)  # type: ignore[arg-type]
    assert caught.value.column == text.index("$p") + 1


def test_select_is_handed_its_own_parameters_by_name(catalog: Any) -> None:
    _bind("EXPLAIN OCCLUDE (SELECT path FROM t) USING vgg", catalog)
    _bind("EXPLAIN OCCLUDE (SELECT path FROM t WHERE a = ? AND b = ?) USING ?", catalog, _0=1, _1=2, _2="vgg")
    _bind("EXPLAIN OCCLUDE (SELECT path FROM t WHERE a = $2) USING $1", catalog, _0="vgg", _1=5)
    _bind("EXPLAIN OCCLUDE (SELECT path FROM t WHERE a = $a) USING $m", catalog, a=1, m="vgg")
    assert [values for _, values in catalog.selected] == [None, {"1": 1, "2": 2}, {"2": 5}, {"a": 1}]


# ---- PLAN, PREDICT, trees built by hand --------------------------------------------------------------------


def test_plan_binds_the_statement_inside(catalog: Any) -> None:
    bound = _bind("PLAN ANALYZE EXPLAIN OCCLUDE scans USING vgg", catalog)
    assert bound.statement == "EXPLAIN OCCLUDE scans USING vgg"


def test_predict(catalog: Any) -> None:
    bound = _bind("PREDICT scans USING vgg FOR TOP 2", catalog)
    assert isinstance(bound, BoundPredict)
    assert (bound.k, len(bound.images), bound.model.name) == (2, 3, "vgg")
    assert _bind("PREDICT scans USING resnet", catalog).k == 3


def test_tree_built_by_hand_has_a_text_and_no_place(catalog: Any) -> None:
    tree = statements.ExplainOcclude(
        syntax.NameSource("scans"),
        syntax.Name("vgg"),
        options=(syntax.Option("patch", syntax.Number(8)),),
    )
    assert bind(tree, catalog).statement == "EXPLAIN OCCLUDE scans USING vgg WITH patch=8"
    wrong = replace(tree, options=(syntax.Option("patch", syntax.Number(0)),))
    with pytest.raises(QueryTypeError) as caught:
        bind(wrong, catalog)
    assert caught.value.line is None
