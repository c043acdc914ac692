"""One rule for each ATen operator that becomes a layer, or that only changes how a value is looked at.

The modules of this package register their rules in `RULES` when they are imported, which happens here.
"""

from __future__ import annotations

from obeql.executor.network.lowering import attention, channels, convolution, elementwise, linear, norms, pools, views
from obeql.executor.network.lowering.registry import RULES, Rule

__all__ = ["RULES", "Rule", "attention", "channels", "convolution", "elementwise", "linear", "norms", "pools", "views"]
