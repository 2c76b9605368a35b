"""A recipe or plan as a document, or as the path of one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from grainline.documents import Plan, Recipe, override


def read_recipe(recipe: Recipe | str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """`overrides` are ``a.b=value`` strings."""
    if isinstance(recipe, Recipe):
        return Recipe.parse(override(recipe.tables(), overrides), where="recipe")
    return Recipe.load(recipe, overrides)


def read_plan(plan: Plan | str | Path | None) -> Plan:
    """Without one, everything is left to be decided."""
    if plan is None:
        return Plan()
    return plan if isinstance(plan, Plan) else Plan.load(plan)
