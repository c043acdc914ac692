"""The optimizer: rules fire, can be switched off, and a faulty one is named."""

from __future__ import annotations

import doctest
import sys
from dataclasses import replace
from typing import Any

import pytest

from obeql.errors import InternalError
from obeql.grammar import parse_statement
from obeql.planner import (
    RULE_NAMES,
    RULES,
    DenseForward,
    IncrementalForward,
    Rates,
    bind,
    class_selector,
    optimize,
    plan_explain,
    with_stored_cells,
)
from obeql.planner.class_selector import ClassSelector
from obeql.planner.logical.plan import (
    BatchedQueries,
    LogicalNode,
    Occlude,
    ScanImages,
    ScoreCells,
    StoreRun,
    UnionMaps,
    find,
    rewrite,
)

#: A statement for each rule that makes it fire.
FIRING = {
    "drop_duplicate_classes": "EXPLAIN OCCLUDE scan0 USING vgg FOR CLASSES (1, 1)",
    "drop_duplicate_patches": "EXPLAIN OCCLUDE scan0 USING vgg WITH patch=[8, 8x8]",
    "share_materialisation": "EXPLAIN OCCLUDE scan0 USING vgg WITH patch=[8, 16]",
    "reuse_stored_cells": "EXPLAIN OCCLUDE scan0 USING vgg FOR CLASS 0 WITH fill=mean",
}


@pytest.fixture(autouse=True)
def _stored_for_one_rule(request: pytest.FixtureRequest, stored: Any) -> None:
    """Only the statement that is to reuse cells finds any."""
    if "reuse_stored_cells" in request.node.name:
        stored()


def _logical(text: str, catalog: Any) -> LogicalNode:
    return with_stored_cells(bind(parse_statement(text), catalog, text), catalog).logical  # type: ignore[arg-type]


def test_rules_are_named_by_their_functions_and_files() -> None:
    assert [rule.__name__ for rule in RULES] == list(FIRING)
    for rule in RULES:
        assert rule.__module__ == f"obeql.planner.logical.rules.{rule.__name__}"
        assert rule.__doc__
    assert len(set(RULE_NAMES)) == len(RULE_NAMES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_shows_an_example_that_holds(rule: Any) -> None:
    n_failed, n_tried = doctest.testmod(sys.modules[rule.__module__])
    assert n_tried and not n_failed


def test_the_selector_of_classes_shows_examples_that_hold() -> None:
    n_failed, n_tried = doctest.testmod(class_selector)
    assert n_tried and not n_failed


@pytest.mark.parametrize("name", FIRING)
def test_rule_fires_and_can_be_switched_off(name: str, catalog: Any) -> None:
    logical = _logical(FIRING[name], catalog)
    rewritten, fired = optimize(logical)
    assert fired == (name,)
    assert rewritten != logical
    assert optimize(logical, frozenset({name}))[1] in {(), ("share_materialisation",)} - {(name,)}
    assert optimize(logical, frozenset(FIRING)) == (logical, ())


@pytest.mark.parametrize("name", FIRING)
def test_a_plan_at_rest_is_left_alone(name: str, catalog: Any) -> None:
    rewritten, _ = optimize(_logical(FIRING[name], catalog))
    assert optimize(rewritten) == (rewritten, ())


def test_sharing_keeps_the_grids_in_order(catalog: Any) -> None:
    logical = _logical("EXPLAIN OCCLUDE scans USING vgg WITH patch=[32, 8, 16]", catalog)
    (batched,) = find(optimize(logical)[0], BatchedQueries)
    assert [grid.patch for grid in batched.grids] == [(32, 32), (8, 8), (16, 16)]
    assert batched.grids == tuple(node.grid for node in find(logical, Occlude))


def test_sharing_needs_branches_that_differ_in_their_windows_only(catalog: Any) -> None:
    logical = _logical("EXPLAIN OCCLUDE scans USING vgg WITH patch=[8, 16]", catalog)
    (union,) = find(logical, UnionMaps)
    first, second = union.inputs
    assert isinstance(logical, StoreRun) and isinstance(second, ScoreCells)
    mixed = replace(logical, input=UnionMaps((first, replace(second, score="logit"))))
    assert optimize(mixed) == (mixed, ())


# ---- physical choices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "field"),
    [("choose_switch_layer", "regions"), ("bucket_windows", "n_groups"), ("choose_batch", "batch")],
)
def test_choice_reaches_the_scheduler(name: str, field: str, plan_of: Any) -> None:
    text = "EXPLAIN OCCLUDE scan0 USING vgg"
    (chosen,), (plain,) = plan_of(text).engines, plan_of(text, disabled_rules=(name,)).engines
    assert getattr(chosen, field) != getattr(plain, field)


def test_without_choose_engine_everything_runs_dense(plan_of: Any) -> None:
    plan = plan_of("EXPLAIN OCCLUDE scan0 USING vgg WITH patch=[8, 16]", disabled_rules="choose_engine")
    assert [type(engine) for engine in plan.engines] == [DenseForward, DenseForward]
    assert plan.disabled == ("choose_engine",)


@pytest.mark.parametrize("name", ["", *RULE_NAMES])
@pytest.mark.parametrize("model", ["vgg", "resnet", "opaque"])
def test_real_scheduler_takes_every_choice(name: str, model: str, catalog: Any) -> None:
    catalog.settings["disabled_rules"] = name
    text = f"EXPLAIN OCCLUDE scan0 USING {model} WITH patch=[8, 16] memory='50MB'"
    plan = plan_explain(bind(parse_statement(text), catalog, text), Rates())  # type: ignore[arg-type]
    assert len(plan.engines) == len(plan.grids) == 2
    assert all(isinstance(engine, DenseForward | IncrementalForward) for engine in plan.engines)
    assert plan.memory_bytes == 50_000_000


# ---- checker ---------------------------------------------------------------------------------------------


def lose_an_image(plan: LogicalNode) -> LogicalNode:
    def change(node: LogicalNode) -> LogicalNode:
        return replace(node, images=node.images[:1]) if isinstance(node, ScanImages) else node

    return rewrite(plan, change)


def lose_the_root(plan: LogicalNode) -> LogicalNode:
    return plan.input if isinstance(plan, StoreRun) else plan


def skip_a_layer(plan: LogicalNode) -> LogicalNode:
    def change(node: LogicalNode) -> LogicalNode:
        return replace(node, input=node.input.input) if isinstance(node, ScoreCells) else node  # type: ignore[attr-defined]

    return rewrite(plan, change)


def ask_for_no_class(plan: LogicalNode) -> LogicalNode:
    def change(node: LogicalNode) -> LogicalNode:
        return replace(node, classes=ClassSelector("ids", ())) if isinstance(node, ScoreCells) else node

    return rewrite(plan, change)


@pytest.mark.parametrize("rule", [lose_an_image, lose_the_root, skip_a_layer, ask_for_no_class])
def test_checker_names_a_faulty_rule(rule: Any, catalog: Any) -> None:
    logical = _logical("EXPLAIN OCCLUDE scans USING vgg FOR CLASS 1", catalog)
    with pytest.raises(InternalError, match=rule.__name__):
        optimize(logical, rules=(rule,))


def test_rules_that_go_round_in_circles_are_stopped(catalog: Any) -> None:
    def turn_back(plan: LogicalNode) -> LogicalNode:
        def change(node: LogicalNode) -> LogicalNode:
            match node:
                case UnionMaps(inputs=(first, second)):
                    return UnionMaps((second, first, first))
                case UnionMaps(inputs=(first, second, _)):
                    return UnionMaps((second, second, first)[1:] if first == second else (first, second))
            return node

        return rewrite(plan, change)

    logical = _logical("EXPLAIN OCCLUDE scans USING vgg WITH patch=[8, 8x8]", catalog)
    with pytest.raises(InternalError, match=r"turn_back .* 16 passes"):
        optimize(logical, rules=(turn_back,))
