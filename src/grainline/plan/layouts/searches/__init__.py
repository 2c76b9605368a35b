"""Ways of looking for a layout, by name (the `LayoutSearch` seam)."""

from __future__ import annotations

from collections.abc import Mapping

from grainline.plan.layouts.searches.anneal import anneal
from grainline.plan.layouts.searches.exhaustive import exhaustive
from grainline.plan.layouts.searches.frame import Budget, Found, Ranked, Search
from grainline.plan.layouts.searches.nic_aware import nic_aware
from grainline.plan.layouts.searches.rules import rules

SEARCHES: Mapping[str, Search] = {
    "rules": rules,
    "exhaustive": exhaustive,
    "anneal": anneal,
    "nic-aware": nic_aware,
}

__all__ = ["SEARCHES", "Budget", "Found", "Ranked", "Search"]
