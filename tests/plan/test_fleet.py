"""The fleet planner against exhaustion, the published form of the program, and an independent checker."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.plan.fleet.problem import Problem
from grainline.plan.fleet.solve import cheapest, greedy, lower_bound, rounded_up, single_types, wrong
from grainline.plan.program import Program

TOY = Problem(
    ("A10G", "A100"),
    (1.01, 3.67),
    tuple(16 * share for share in (0.25, 0.125, 0.375, 0.25)),
    ((5, 1, 10, 5), (20, 2, 50, 20)),
    ceiling=1.0,
)
"""The reference repository's example."""


@st.composite
def problems(draw, most_buckets=4, most_types=3, most_slices=4):
    buckets, types = draw(st.integers(1, most_buckets)), draw(st.integers(1, most_types))
    number = st.floats(0.2, 20, allow_nan=False)
    throughput = draw(
        st.lists(
            st.lists(st.one_of(st.just(0.0), number), min_size=buckets, max_size=buckets),
            min_size=types,
            max_size=types,
        )
    )
    assume(all(any(row[b] > 0 for row in throughput) for b in range(buckets)))
    return Problem(
        tuple(f"t{g}" for g in range(types)),
        tuple(draw(st.lists(st.floats(0.3, 8), min_size=types, max_size=types))),
        tuple(draw(st.lists(st.floats(0.1, 12), min_size=buckets, max_size=buckets))),
        tuple(map(tuple, throughput)),
        draw(st.integers(1, most_slices)),
        draw(st.sampled_from((0.7, 0.85, 1.0))),
    )


def exhausted(problem):
    """The least cost over all ways of sharing slices out."""
    types, buckets = range(len(problem.names)), range(len(problem.rates))
    ways = [
        [
            n
            for n in itertools.product(range(problem.slices + 1), repeat=len(types))
            if sum(n) == problem.slices and all(problem.throughput[g][b] > 0 or not n[g] for g in types)
        ]
        for b in buckets
    ]
    best = math.inf
    for choice in itertools.product(*ways):
        cost = 0.0
        for g in types:
            load = sum(
                n[g] * problem.rates[b] / problem.slices / problem.throughput[g][b]
                for b, n in enumerate(choice)
                if n[g]
            )
            count = rounded_up(load / problem.ceiling)
            if problem.stock and problem.stock[g] is not None and count > problem.stock[g]:
                cost = math.inf
                break
            cost += count * problem.prices[g]
        best = min(best, cost)
    return best


def published(problem):
    """The paper's own form: a binary for each slice and type."""
    program, counts = Program(), []
    for price in problem.prices:
        counts.append(program.integer("B")[0])
        program.minimise({counts[-1]: price})
    loads = [{} for _ in counts]
    for b, rate in enumerate(problem.rates):
        for _ in range(problem.slices):
            chosen = {}
            for g, row in enumerate(problem.throughput):
                if row[b] > 0:
                    column = program.binary("A")[0]
                    chosen[column] = 1.0
                    loads[g][column] = rate / problem.slices / row[b]
            program.equal(chosen, 1.0)
    for g, terms in enumerate(loads):
        if terms:
            program.at_most({**terms, counts[g]: -problem.ceiling}, 0.0)
    return program.solve().objective


@pytest.mark.parametrize("slices", [1, 2, 4, 8])
def test_the_repositorys_toy(slices) -> None:
    fleet = cheapest(replace(TOY, slices=slices))
    assert fleet.counts == (5, 0)
    assert fleet.cost == pytest.approx(5.05)
    alone = single_types(TOY)
    assert [one.counts for one in alone] == [(5,), (2,)]
    assert alone[1].cost == pytest.approx(7.34)
    if slices <= 2:
        assert exhausted(replace(TOY, slices=slices)) == pytest.approx(5.05)


@settings(max_examples=60, deadline=None)
@given(problems(most_buckets=3))
def test_the_choice_is_the_best_of_all(problem) -> None:
    fleet = cheapest(problem)
    assert wrong(fleet) == []
    assert fleet.cost == pytest.approx(exhausted(problem), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(problems())
def test_counting_slices_is_the_published_program(problem) -> None:
    assert cheapest(problem).cost == pytest.approx(published(problem), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_order_of_bound_choice_and_baselines(problem) -> None:
    cost = cheapest(problem).cost
    assert lower_bound(problem) <= cost * (1 + 1e-6)
    assert all(one is None or cost <= one.cost * (1 + 1e-6) for one in single_types(problem))
    coarse = greedy(problem)
    assert cost <= coarse.cost * (1 + 1e-6)
    assert wrong(coarse) == []
    assert cheapest(replace(problem, slices=problem.slices * 2)).cost <= cost * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(problems(), st.floats(1.05, 4))
def test_more_traffic_never_costs_less_and_more_choice_never_more(problem, factor) -> None:
    cost = cheapest(problem).cost
    more = replace(problem, rates=tuple(rate * factor for rate in problem.rates))
    assert cheapest(more).cost >= cost * (1 - 1e-6)
    wider = replace(
        problem,
        names=(*problem.names, "another"),
        prices=(*problem.prices, 2.0),
        throughput=(*problem.throughput, tuple(3.0 for _ in problem.rates)),
    )
    assert cheapest(wider).cost <= cost * (1 + 1e-6)


@settings(max_examples=25, deadline=None)
@given(problems(most_buckets=3), st.integers(0, 3))
def test_stock_is_kept_or_the_shortfall_told(problem, stock) -> None:
    limited = replace(problem, stock=(stock, *(None for _ in problem.names[1:])))
    best = exhausted(limited)
    if math.isinf(best):
        with pytest.raises(GrainlineError, match=r"the stock doesn't do: \d+ t0 more would"):
            cheapest(limited)
    else:
        fleet = cheapest(limited)
        assert fleet.counts[0] <= stock
        assert wrong(fleet) == []
        assert fleet.cost == pytest.approx(best, rel=1e-5)


def test_spares_are_bought_whatever_the_load() -> None:
    fleet = cheapest(replace(TOY, least=(0, 1)))
    assert fleet.counts[1] >= 1
    assert fleet.cost > 5.05


def test_a_ceiling_needs_more_devices() -> None:
    assert cheapest(replace(TOY, ceiling=0.5)).cost > cheapest(TOY).cost


def test_a_load_of_two_and_a_rounding_error_needs_two() -> None:
    assert rounded_up(2.0000000001) == 2
    assert rounded_up(2.01) == 3
    third = Problem(("a",), (1.0,), (0.1, 0.2, 1.7), ((1.0, 1.0, 1.0),), slices=3, ceiling=1.0)
    assert cheapest(third).counts == (2,)


def test_the_checker_finds_what_is_wrong() -> None:
    fleet = cheapest(TOY)
    assert "A10G: a load of" in wrong(replace(fleet, counts=(4, 0)))[0]
    assert "bucket 0 has" in wrong(replace(fleet, slices=((7, 0), *fleet.slices[1:])))[0]
    closed = replace(TOY, throughput=((0, 1, 10, 5), (20, 2, 50, 20)))
    assert any("can't serve it" in line for line in wrong(replace(fleet, problem=closed)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": 0}, "slices 0: a bucket is split into at least 1"),
        ({"ceiling": 0.0}, "a ceiling of 0"),
        ({"prices": (-1.0, 3.67)}, "type 'A10G': a price of -1"),
        ({"rates": (1.0, 0.0, 1.0, 1.0)}, "traffic without requests"),
        ({"throughput": ((5, 1, 10), (20, 2, 50, 20))}, "3 throughputs for 4 buckets"),
        ({"throughput": ((5, -1, 10, 5), (20, 2, 50, 20))}, "not negative"),
        ({"throughput": ((5, math.nan, 10, 5), (20, 2, 50, 20))}, "must be numbers"),
        ({"stock": (1, None), "least": (2, 0)}, "at least 2"),
    ],
)
def test_bad_input_is_named(change, message) -> None:
    with pytest.raises(GrainlineError, match=message):
        replace(TOY, **change)


def test_a_bucket_that_nobody_serves() -> None:
    with pytest.raises(GrainlineError, match="no type can serve bucket 1"):
        cheapest(replace(TOY, throughput=((5, 0, 10, 5), (20, 0, 50, 20))))
