"""Messages and figures of a placement against counting token by token."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents.routing_trace import RoutingTrace
from grainline.hardware.shorthand import cluster_of
from grainline.plan.placement import PLACEMENTS, Options, Placement, Problem, Statistics, judge, ranks_of
from grainline.plan.placement.judge import Sizes
from grainline.plan.placement.traffic import counted

sys.path.insert(0, str(Path(__file__).parent))
from placement_cases import chain, config, even, trace_of, two_nodes


def drawn(seed: int, tokens: int = 40, top_k: int = 2) -> RoutingTrace:
    """Any choices, some of them of nobody."""
    rng = np.random.default_rng(seed)
    expert_TLK = np.stack([[rng.permutation(4)[:top_k] for _ in range(3)] for _ in range(tokens)]).astype(np.int32)
    expert_TLK[rng.random(expert_TLK.shape) < 0.2] = -1
    sequence_T = np.repeat(np.arange(8), tokens // 8).astype(np.int32)
    return RoutingTrace(expert_TLK, sequence_T, (0, 1, 2), config(3, 4, top_k), "0" * 16)


def test_statistics_count_every_step_once() -> None:
    trace = drawn(0)
    found = Statistics.of(trace)
    load, flow = np.zeros((3, 4)), np.zeros((2, 4, 4))
    for token in trace.expert_TLK.tolist():
        for layer in range(3):
            for e in (e for e in token[layer] if e >= 0):
                load[layer, e] += 1
        for layer in range(2):
            pairs = [(a, b) for a in token[layer] for b in token[layer + 1] if a >= 0 and b >= 0]
            for a, b in pairs:
                flow[layer, a, b] += 1 / len(pairs)
    assert found.load_LE == pytest.approx(load / trace.tokens)
    assert found.flow_LEE == pytest.approx(flow / trace.tokens)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), copies=st.booleans())
def test_messages_equal_counting_by_token(seed: int, copies: bool) -> None:
    """Both ways to run experts, with copies and without."""
    trace, ranks = drawn(seed), two_nodes(4)
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4 if copies else 2, (3, 4))
    holders = tuple(tuple(tuple(sorted(rng.permutation(4)[:size].tolist())) for size in row) for row in sizes.tolist())
    found = counted(trace, Placement(holders, (0, 1, 2), 4), ranks)
    dispatch, coherent, merged = (np.zeros((3, 4, 4)) for _ in range(3))
    rows = np.zeros((3, 4))

    def nearest(expert: int, layer: int, at: int, token: int) -> int:
        held = holders[layer][expert]
        widest = max(map(len, holders[layer]))
        padded = [*held, *[held[0]] * (widest - len(held))]
        return min(enumerate(padded), key=lambda ir: (ranks.apart_GG[at, ir[1]], (ir[0] + token) % widest))[1]

    for token, choices in enumerate(trace.expert_TLK.tolist()):
        home = int(trace.sequence_T[token]) % 4
        at = home
        for layer in range(3):
            experts = [e for e in choices[layer] if e >= 0]
            to = [nearest(e, layer, home, token) for e in experts]
            for rank in to:
                rows[layer, rank] += 1
            for rank in set(to):
                dispatch[layer, home, rank] += 1
            on = [nearest(e, layer, at, token) for e in experts]
            for rank in set(on):
                coherent[layer, at, rank] += 1
            if choices[layer][0] >= 0:
                at = on[0]
            for rank in set(on):
                merged[layer, rank, at] += 1
    n = trace.tokens
    assert found.dispatch_LGG == pytest.approx(dispatch / n)
    assert found.rows_LG == pytest.approx(rows / n)
    assert found.coherent_LGG == pytest.approx(coherent / n)
    assert found.merged_LGG == pytest.approx(merged / n)


def test_volumes_follow_the_published_formulas() -> None:
    """Top-1: 2·L·q vectors of a plain dispatcher, L·q* of the coherent one (ExFlow, section IV)."""
    trace, ranks = trace_of(chain(4, 8, 0), 4000, 1), even(4)
    placement = PLACEMENTS["affinity"](Problem(Statistics.of(trace), ranks))
    found = judge(placement, trace, ranks)
    size = Sizes.of(trace.config, "bfloat16").vector_bytes
    rank_TL = np.stack([placement.rank_BE[layer][trace.expert_TLK[:, layer, 0]] for layer in range(4)], 1)
    home_T = trace.sequence_T % 4
    away = (rank_TL != home_T[:, None]).mean()
    moved = (np.diff(np.concatenate([home_T[:, None], rank_TL], 1)) != 0).mean()
    assert found.dispatch_bytes == pytest.approx(2 * 4 * away * size)
    assert found.coherent_bytes == pytest.approx(4 * moved * size)
    assert found.same_rank == pytest.approx((np.diff(rank_TL) == 0).mean())
    assert found.same_rank + found.same_node + found.other_node == pytest.approx(1)
    assert found.context_bytes == 3 * 4 * 2 * 2 * 8 * 2  # other ranks, layers, keys and values, heads, dims, bytes


@pytest.mark.parametrize("ranks", [4, 8])
def test_even_routing_moves_as_often_as_ranks_are_many(ranks: int) -> None:
    """31·(1 − 1/G) of 32 layers: 23.25 and 27.125."""
    even_flow = np.full((31, 8, 8), 1 / 64)
    statistics = Statistics(np.full((32, 8), 1 / 8), even_flow, tuple(range(32)), 10**6)
    placement = PLACEMENTS["affinity"](Problem(statistics, even(ranks), Options(restarts=1)))
    from grainline.plan.placement.affinity import crossing

    assert crossing(statistics, placement.rank_BE) == pytest.approx(31 * (1 - 1 / ranks))


def test_shared_wires_add_up() -> None:
    """Four pairs over one 25GbE NIC take four times as long as one; pairs by themselves don't know."""
    ranks = ranks_of(cluster_of("2x(4xA100-80)@25GbE"))
    one, four = np.zeros((8, 8)), np.zeros((8, 8))
    one[0, 4] = 1e9
    four[[0, 1, 2, 3], [4, 5, 6, 7]] = 1e9
    assert ranks.seconds(one) == pytest.approx(1e9 / 3.125e9, rel=1e-3)
    assert ranks.seconds(four) == pytest.approx(4e9 / 3.125e9, rel=1e-3)
    assert ranks.pair_seconds(four) == pytest.approx(1e9 / 3.125e9, rel=1e-3)
    assert ranks.apart_GG[0].tolist() == [0, 1, 1, 1, 2, 2, 2, 2]
    assert ranks.nodes == ((0, 1, 2, 3), (4, 5, 6, 7))


def test_naming_ranks_otherwise_changes_nothing() -> None:
    trace, ranks = trace_of(chain(3, 8, 0), 2000, 1), even(4)
    placement = PLACEMENTS["moetuner"](Problem(Statistics.of(trace), ranks))
    other = Placement(
        tuple(tuple(((r[0] + 1) % 4,) for r in row) for row in placement.holders), placement.banks, placement.ranks
    )
    first, second = judge(placement, trace, ranks), judge(other, trace, ranks)
    assert first.load_L == pytest.approx(second.load_L)
    assert first.same_rank == pytest.approx(second.same_rank)
    assert first.expert_seconds == pytest.approx(second.expert_seconds)
