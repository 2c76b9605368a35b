"""What holds of any planner: names don't matter, rates scale, slower links don't help, free devices don't hurt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import Cluster
from grainline.hardware.shorthand import cluster_of
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.pace import Reach
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.ring import Links
from grainline.plan.layouts.shape import Experts, Shape
from grainline.plan.layouts.space import strategies
from grainline.plan.layouts.step import evaluate

SHAPE = Shape.gpt(4, 1024, 8, 8192)
SPARSE = Shape(
    **{
        **{f: getattr(SHAPE, f) for f in SHAPE.__dataclass_fields__},
        "gated": True,
        "experts": Experts(8, 2, 512, choices=8),
        "sparse_layers": frozenset(range(4)),
    }
)
BARE = Reach(start_seconds=0.0)  # nothing but rates
WHOLE = Links(1.0, 1.0, 0.0)


def problem(cluster: Cluster, shape: Shape = SPARSE, batch: int = 8) -> Problem:
    """Rates alone count: kernels and collectives start at once."""
    return Problem(shape, Fleet.of(cluster, links=WHOLE), ENGINES["megatron"], batch, 256, reach=BARE)


def seconds(of: Problem) -> list[float]:
    """Of every strategy of the space."""
    return [evaluate(of, strategy).step_seconds for strategy in strategies(of)]


def joined(
    nodes: list[int], rate: float = 1e10, between: float = 1e9, latency: float = 0.0, flops: float = 1e13
) -> Cluster:
    """Nodes of so many devices, each on a port of its own; a line between all pairs of nodes."""
    names = [f"n{i}" for i in range(len(nodes))]
    links: list[dict[str, Any]] = [
        {"between": (name,), "bytes_per_second": rate, "latency_seconds": latency, "sharing": "port"} for name in names
    ]
    links += [
        {"between": (a, b), "bytes_per_second": between, "latency_seconds": latency}
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    device = {
        "name": "D",
        "kind": "gpu",
        "flops_per_second": {"bfloat16": flops},
        "memory": ({"name": "HBM", "capacity_bytes": 10**12, "bytes_per_second": flops / 100},),
    }
    return Cluster.model_validate(
        {
            "device_types": (device,),
            "nodes": [{"name": name, "devices": {"D": count}} for name, count in zip(names, nodes, strict=True)],
            "links": links,
        }
    )


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.permutations(["a", "b", "c"]))
def test_names_change_nothing(names: list[str]) -> None:
    """Devices are ordered by what they are."""
    text = joined([2, 2, 2]).model_dump_json()
    for old, new in zip(("n0", "n1", "n2"), names, strict=True):
        text = text.replace(f'"{old}"', f'"x{new}"')
    renamed = Cluster.model_validate_json(text)
    assert seconds(problem(renamed)) == pytest.approx(seconds(problem(joined([2, 2, 2]))))


def test_splitting_a_node_by_an_infinitely_fast_link_changes_nothing() -> None:
    """Each layout takes as long in one node of four as in two of two."""
    one, two = problem(joined([4])), problem(joined([2, 2], between=1e30))
    assert seconds(two) == pytest.approx(seconds(one), rel=1e-6)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.floats(0.1, 10))
def test_scaling_all_rates_scales_time(k: float) -> None:
    """Devices, memories and links k times as fast, latencies a k-th."""
    before = seconds(problem(joined([2, 2], latency=1e-5)))
    after = seconds(problem(joined([2, 2], 1e10 * k, 1e9 * k, 1e-5 / k, 1e13 * k)))
    assert after == pytest.approx([s / k for s in before], rel=1e-3)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.floats(1e7, 1e11), st.floats(1.0, 20))
def test_a_slower_link_never_helps(rate: float, slower: float) -> None:
    """No layout."""
    quick, slow = (problem(joined([2, 2], between=each), SHAPE) for each in (rate, rate / slower))
    for a, b in zip(seconds(quick), seconds(slow), strict=True):
        assert b >= a * (1 - 2e-3)  # a cut is to one in a thousand


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 2), st.floats(1e8, 1e10))
def test_one_more_free_device_never_hurts(each: int, further: int, rate: float) -> None:
    """The best layout of a space may leave devices unused."""
    for shape in (SHAPE, SPARSE):
        fewer = min(seconds(problem(joined([each, each], between=rate), shape)))
        more = min(seconds(problem(joined([each, each, further], between=rate), shape)))
        assert more <= fewer * (1 + 2e-3)


def test_known_cards_take_less_time_where_there_are_more() -> None:
    """On a catalogue's cluster, with starts and shares as they are."""
    best = [
        min(seconds(Problem(SHAPE, Fleet.of(cluster_of(text)), ENGINES["megatron"], 32, 1024)))
        for text in ("1xH100", "4xH100", "2x(4xH100)@NDR")
    ]
    assert best[0] > best[1] > best[2]
