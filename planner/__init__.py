"""From a syntax tree to the best plan that is exact: the second stage, grammar -> planner -> executor.

    syntax tree
      -> bind         names, options and clauses checked; the logical plan              (binding/)
      -> FollowingStatements  what the next statements of the script ask of the same windows
      -> optimize     rules rewrite the logical plan, the checker guards them           (logical/)
      -> lower        operators chosen by cost for each grid of windows                 (physical/, boxes)
      -> ExplainPlan  plain data, run by `obeql.executor`, printed by `show`            (physical/plan, printing/)

`geometry` is a network as integers, `grid` where windows lie, `catalog` and `cells` the protocols of the session's
store, `scores` what a cell's numbers mean. Nothing here imports torch.
"""

from obeql.planner.binding.bind import bind, bind_alike
from obeql.planner.binding.bound import BoundExplain, BoundPredict
from obeql.planner.binding.classes import class_names, find_class
from obeql.planner.binding.multi_query import FollowingStatements
from obeql.planner.binding.option_tables import (
    EVALUATE_OPTIONS,
    EXPLAIN_OPTIONS,
    MODEL_OPTIONS,
    RENDER_OPTIONS,
    OptionInfo,
)
from obeql.planner.binding.options import evaluate_options, images_options, model_options, render_options
from obeql.planner.binding.reuse import with_stored_cells
from obeql.planner.binding.settings import SETTINGS, SettingInfo, bind_setting, check_setting, setting_default
from obeql.planner.catalog import Catalog, ImageRecord, ImageSet, ModelRecord, Preprocessing
from obeql.planner.fills import fill_numbers
from obeql.planner.geometry import AxisWindow, LayerSpec, Network
from obeql.planner.grid import WindowGrid
from obeql.planner.logical.optimize import optimize
from obeql.planner.logical.plan import print_tree
from obeql.planner.logical.rules import CHOICES, RULE_NAMES, RULES
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.lower import lower, plan_explain
from obeql.planner.physical.plan import OPERATORS, DenseForward, ExplainPlan, IncrementalForward
from obeql.planner.printing.plan import show

__all__ = [
    "CHOICES",
    "EVALUATE_OPTIONS",
    "EXPLAIN_OPTIONS",
    "MODEL_OPTIONS",
    "OPERATORS",
    "RENDER_OPTIONS",
    "RULES",
    "RULE_NAMES",
    "SETTINGS",
    "AxisWindow",
    "BoundExplain",
    "BoundPredict",
    "Catalog",
    "DenseForward",
    "ExplainPlan",
    "FollowingStatements",
    "ImageRecord",
    "ImageSet",
    "IncrementalForward",
    "LayerSpec",
    "ModelRecord",
    "Network",
    "OptionInfo",
    "Preprocessing",
    "Rates",
    "SettingInfo",
    "WindowGrid",
    "bind",
    "bind_alike",
    "bind_setting",
    "check_setting",
    "class_names",
    "evaluate_options",
    "fill_numbers",
    "find_class",
    "images_options",
    "lower",
    "model_options",
    "optimize",
    "plan_explain",
    "print_tree",
    "render_options",
    "setting_default",
    "show",
    "with_stored_cells",
]
