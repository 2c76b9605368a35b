"""Searches against brute force, on clusters small enough for it."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations

import pytest

from grainline.documents import Cluster, GrainlineError
from grainline.documents.cluster import Measured
from grainline.hardware.shorthand import cluster_of
from grainline.plan.layouts import SEARCHES, Budget
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches.anneal import annealed, message_seconds, nodes_of
from grainline.plan.layouts.searches.frame import orders
from grainline.plan.layouts.searches.nic_aware import blocks, pure
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.space import OPEN, Pins, strategies
from grainline.plan.layouts.strategy import Strategy

GPT = Shape.gpt(24, 2048, 16, 51_200)


def problem(cluster: Cluster | str, batch: int = 64) -> Problem:
    """A small GPT on a cluster."""
    known = cluster_of(cluster) if isinstance(cluster, str) else cluster
    return Problem(GPT, Fleet.of(known), ENGINES["megatron"], batch, 2048)


def uneven(nodes: int, seed: int) -> Cluster:
    """Nodes of two cards whose pairs of links were measured, each at a rate of its own."""
    known, draw = cluster_of(f"{nodes}x(2xA100-80)@HDR"), random.Random(seed)
    names = tuple(name for name, _ in known.every_node())
    rates = tuple(tuple(0.0 if a == b else draw.uniform(2e9, 25e9) for b in names) for a in names)
    latencies = tuple(tuple(0.0 if a == b else 1e-5 for b in names) for a in names)
    return known.model_copy(
        update={"measured": Measured(names=names, latency_seconds=latencies, bytes_per_second=rates)}
    )


@pytest.mark.parametrize("seed", range(8))
def test_annealing_finds_the_best_order_of_nodes(seed: int) -> None:
    """Within 1 % of all permutations, and never below them."""
    of = problem(uneven(6, seed))
    strategy = Strategy(tensor=2, pipeline=3, data=2, sequences=2, schedule="1f1b")
    nodes = nodes_of(of.fleet, strategy.ranks)
    cost = message_seconds(of, strategy, of.fleet, nodes)
    least = min(cost(order) for order in permutations(range(6)))
    found = cost(annealed(cost, 6, random.Random(seed), Budget(seconds=20.0)))
    assert least <= found <= 1.01 * least


def test_equal_links_make_all_orders_equal() -> None:
    """Where nothing was measured, nodes of a kind are alike."""
    of = problem("4x(2xA100-80)@HDR")
    strategy = Strategy(tensor=2, pipeline=4, schedule="1f1b")
    cost = message_seconds(of, strategy, of.fleet, nodes_of(of.fleet, 8))
    assert len({round(cost(order), 12) for order in permutations(range(4))}) == 1


def test_annealing_is_never_worse_than_the_cluster_s_own_order() -> None:
    """Its best is at least as fast as the exhaustive search's."""
    of = problem(uneven(4, 3))
    own = SEARCHES["exhaustive"](of, OPEN, Budget(keep=3)).first()
    assert SEARCHES["anneal"](of, OPEN, Budget(seconds=4.0, keep=3)).first().seconds <= own.seconds


def test_nic_aware_stages_are_of_one_kind() -> None:
    """And its best is the best of all such strategies in all orders of the kinds."""
    of = problem("2x(4xA100-80)@HDR + 2x(4xA100-80)@25GbE")
    found = SEARCHES["nic-aware"](of, OPEN, Budget(keep=200))
    assert all(pure(r.fleet, r.estimate.strategy) for r in found.best)
    every = SEARCHES["exhaustive"](of, OPEN, Budget(keep=100_000))
    mine = [r.seconds for r in every.best if pure(r.fleet, r.estimate.strategy)]
    assert found.first().seconds == pytest.approx(min(mine))


def test_nic_aware_says_which_numbers_don_t_divide() -> None:
    """Three cards of each of two kinds can't make three pairs of one kind."""
    of = problem("3xA100-80@HDR + 3xA10G@25GbE", batch=8)
    assert [(name, len(ranks)) for name, ranks in blocks(of.fleet)] == [("A100-80", 3), ("A10G", 3)]
    with pytest.raises(GrainlineError, match="3 × A100-80, 3 × A10G"):
        SEARCHES["nic-aware"](of, Pins({"tensor": 2, "pipeline": 3}), Budget())


def test_rules_answer_with_few_evaluations() -> None:
    """Megatron's takeaways: tensor inside a node first, and no more than makes it fit."""
    large = replace(problem("4x(4xA100-80)@HDR"), shape=Shape.gpt(48, 6144, 64, 51_200))
    found = SEARCHES["rules"](large, OPEN, Budget())
    best = found.first().estimate.strategy
    assert found.evaluated < 0.2 * sum(1 for _ in strategies(large))
    assert best.tensor <= 4
    fitting = [r.estimate.strategy for r in SEARCHES["exhaustive"](large, OPEN, Budget(keep=100_000)).best]
    least = min(s.tensor * s.pipeline for s in fitting if s.shard != "full" and s.context == 1)
    assert best.tensor * best.pipeline == least


def test_orders_are_all_of_the_kinds() -> None:
    """Three kinds of nodes stand in six orders, each with every device once."""
    fleet = Fleet.of(cluster_of("2xA100-80@HDR + 2xA10G@25GbE + 2xL4@25GbE"))
    found = list(orders(fleet))
    assert len({f.order for f in found}) == len(found) == 6
    assert all(sorted(f.order) == sorted(fleet.order) for f in found)
