"""An answer at once, by rules that people plan by: Megatron-LM's takeaways (arXiv 2104.04473, section 3).

Tensor parallelism inside a node, as little as makes the model fit; then the pipeline, as short as makes it fit; the
rest are replicas (takeaways 1 and 2); the micro-batch by trying the few there are (takeaway 3). Experts are spread over
as much of a node as they divide.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches.frame import Budget, Found, Ranked, Ranking
from grainline.plan.layouts.space import Pins, strategies
from grainline.plan.layouts.step import evaluate
from grainline.plan.layouts.strategy import Strategy


def rules(problem: Problem, pins: Pins, budget: Budget) -> Found:
    """The first sizes, in the order of the rules, of which one fits; ranked among themselves."""
    ranking = Ranking(budget.keep, budget.objective)
    for _, group in groupby(_in_order(problem, pins), key=_step_of):
        for strategy in group:
            ranking.add(Ranked(evaluate(problem, strategy), problem.fleet))
        if ranking.best is not None or budget.spent:
            break
    return ranking.found(complete=True)


def _step_of(s: Strategy) -> tuple[bool, int, int]:
    """How late in the order of the rules: shards of everything last, then fewest model-parallel ranks, tensor first."""
    return s.shard == "full", s.pipeline * s.tensor, s.pipeline


def _in_order(problem: Problem, pins: Pins) -> Iterator[Strategy]:
    """No context parallelism unless it is pinned; groups of tensors and experts inside a node."""
    fleet = problem.fleet
    node = sum(fleet.node_of(r) == fleet.node_of(0) for r in range(len(fleet)))
    few = Pins({"context": 1, "expert_tensor": 1, **pins.chosen})
    wanted = (s for s in strategies(problem, few) if s.tensor <= node or "tensor" in pins.chosen)
    inside = (s for s in wanted if s.expert <= node or "expert" in pins.chosen)
    return iter(sorted(inside, key=_step_of))
