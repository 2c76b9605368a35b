"""Strategies, their evaluation and searches, on small clusters."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.documents.cluster import Measured
from grainline.hardware.shorthand import cluster_of
from grainline.models.catalogue import config_of
from grainline.plan.layouts import SEARCHES, Budget
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.partition import Room, partition
from grainline.plan.layouts.planned import to_plan, to_strategy
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.space import OPEN, Pins, strategies
from grainline.plan.layouts.step import evaluate
from grainline.plan.layouts.strategy import Strategy

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


@given(
    seconds=st.lists(st.lists(st.integers(1, 9), min_size=7, max_size=7), min_size=2, max_size=2),
    weights=st.lists(st.lists(st.integers(1, 9), min_size=7, max_size=7), min_size=3, max_size=3),
    room=st.lists(st.integers(9, 30), min_size=3, max_size=3),
)
@settings(deadline=None, max_examples=200)
def test_cuts_within_memory_are_the_best_there_are(
    seconds: list[list[int]], weights: list[list[int]], room: list[int]
) -> None:
    """Against every cut of seven cells into three stages, of two kinds, each with room for any one cell."""
    kinds = [0, 1, 0]
    bound = Room([list(accumulate(row, initial=0)) for row in weights], [float(r) for r in room])
    cuts = [(a, b - a, 7 - b) for a in range(1, 6) for b in range(a + 1, 7)]

    def spans(cut: tuple[int, ...]) -> list[range]:
        ends = list(accumulate(cut, initial=0))
        return [range(a, b) for a, b in pairwise(ends)]

    def fits(cut: tuple[int, ...]) -> bool:
        return all(sum(weights[s][c] for c in span) <= room[s] for s, span in enumerate(spans(cut)))

    def slowest(cut: tuple[int, ...]) -> int:
        return max(sum(seconds[kinds[s]][c] for c in span) for s, span in enumerate(spans(cut)))

    found = partition([[float(x) for x in row] for row in seconds], kinds, bound)
    best = min((slowest(cut) for cut in cuts if fits(cut)), default=None)
    if found is None:
        assert best is None
    else:
        assert fits(found)
        assert best is not None
        assert slowest(found) <= best * 1.002


def test_a_full_rank_gives_cells_to_those_with_room() -> None:
    """Half of the devices are faster, and as large: cut by time alone they would be too full."""
    shape = Shape.of(config_of("Ling-flash-2.0"))
    unlike = Problem(shape, Fleet.of(cluster_of("2x(8xH100)@NDR + 2x(8xA100-80)@HDR")), ENGINES["megatron"], 64, 4096)
    strategy = Strategy(
        tensor=2, context=2, data=2, pipeline=4, expert=8, sequences=1, schedule="1f1b", shard="optimizer"
    )
    found = evaluate(unlike, strategy)
    assert found.fits
    assert found.cut[0] >= found.cut[-1]


def test_cards_share_what_was_measured_between_their_nodes() -> None:
    """Each of four cards gets a quarter of the pair's rate, whichever node comes next in the cluster."""
    known = cluster_of("3x(4xA100-80)@HDR")
    names = tuple(name for name, _ in known.every_node())
    rates = ((0.0, 8e9, 2e9), (8e9, 0.0, 4e9), (2e9, 4e9, 0.0))
    flat = ((0.0,) * 3,) * 3
    measured = Measured(names=names, latency_seconds=flat, bytes_per_second=rates)
    fleet = Fleet.of(known.model_copy(update={"measured": measured}))
    for order, rate in (((0, 1, 2), 8e9), ((0, 2, 1), 2e9), ((1, 2, 0), 4e9)):
        moved = fleet.reordered([fleet.order[4 * node + card] for node in order for card in range(4)])
        assert moved.hop(4, 0, 4).across_bytes_per_second == pytest.approx(rate / 4)
        assert moved.ring(2, 4, 0, 8).across_bytes_per_second == pytest.approx(rate / 4)
        assert moved.ring(8, 1, 0, 8).across_bytes_per_second == pytest.approx(rate / 4)


def test_unlike_networks_meet_in_a_link_that_all_cards_share() -> None:
    """Four cards with a NIC each on one side, and one Ethernet card for four on the other."""
    fleet = Fleet.of(cluster_of("1x(4xA100-80)@NDR + 1x(4xA10G)@25GbE"))
    narrow = fleet.hop(4, 0, 4)
    alone = fleet.ways.between(fleet.order[0], fleet.order[4])[0]
    assert narrow.across_bytes_per_second == pytest.approx(alone / 4)
