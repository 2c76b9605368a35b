"""Strategies, their evaluation and searches, on small clusters."""

from __future__ import annotations

import pytest

from grainline.documents import GrainlineError
from grainline.hardware.shorthand import cluster_of
from grainline.plan.layouts import SEARCHES, Budget
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.planned import to_plan, to_strategy
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.space import OPEN, Pins, strategies
from grainline.plan.layouts.step import evaluate

GPT = Shape.gpt(24, 2048, 16, 51_200)


def problem(cluster: str = "2x(4xA100-80)@HDR", engine: str = "megatron") -> Problem:
    """A small GPT with 64 sequences a step."""
    return Problem(GPT, Fleet.of(cluster_of(cluster)), ENGINES[engine], 64, 2048)


def test_every_strategy_uses_the_fleet_and_the_batch_whole() -> None:
    """Sizes multiply to the devices, micro-batches to the batch, and each plan reads back as its strategy."""
    small = problem()
    found = list(strategies(small))
    assert len(found) == len(set(found)) > 100
    for strategy in found:
        assert strategy.ranks == 8 or strategy.pipeline not in (1, 2, 4, 8)
        assert strategy.microbatches(64) * strategy.sequences * strategy.data == 64
        assert to_strategy(to_plan(strategy, 64), 64) == strategy


def test_search_finds_the_least_of_all_that_fit() -> None:
    """Against a plain loop over the space."""
    small = problem()
    every = [evaluate(small, strategy) for strategy in strategies(small)]
    found = SEARCHES["exhaustive"](small, OPEN, Budget(keep=3))
    assert found.evaluated == len(every)
    least = sorted(e.step_seconds for e in every if e.fits)[:3]
    assert [r.seconds for r in found.best] == pytest.approx(least, rel=1e-5)


def test_pins_hold_and_unknown_ones_are_named() -> None:
    """A pinned size is the only one."""
    assert {s.tensor for s in strategies(problem(), Pins.of({"tensor": 4}))} == {4}
    with pytest.raises(GrainlineError, match="Did you mean 'tensor'"):
        Pins.of({"tensr": 4})


def test_what_fits_nowhere_says_what_is_short() -> None:
    """175 billion parameters on two small cards."""
    large = Problem(Shape.gpt(96, 12288, 96, 51_200), Fleet.of(cluster_of("2xA10G")), ENGINES["megatron"], 8, 2048)
    found = SEARCHES["exhaustive"](large, OPEN, Budget(keep=3))
    with pytest.raises(GrainlineError, match=r"The nearest, .* needs .* GB of 24\.0 GB on pipeline rank"):
        found.first()
