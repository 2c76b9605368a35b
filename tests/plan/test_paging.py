"""Paging: the simulation against the recursion and closed forms, and every byte accounted for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.plan.tiers.paging import (
    COMPUTE,
    IN,
    OUT,
    Operator,
    Paged,
    Port,
    largest_window,
    page,
    recursion,
    unlimited,
    worth_pinning,
)

PORT = Port(4.0, 2.0, 0.25, 0.125)
times = st.lists(st.integers(0, 12).map(lambda x: x / 4), min_size=1, max_size=12)


def streamed(compute: Sequence[float]) -> list[Operator]:
    """Operators that each use a tensor of their own, once."""
    return [Operator(f"op{i}", c, (f"t{i}",)) for i, c in enumerate(compute)]


@settings(max_examples=1000, deadline=None)
@given(data=st.data(), compute=times, lookahead=st.integers(0, 5), room=st.integers(0, 30))
def test_simulation_is_the_recursion(data: st.DataObject, compute: list[float], lookahead: int, room: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=len(compute), max_size=len(compute)))
    budget = max(sizes) + room
    named = {f"t{i}": float(size) for i, size in enumerate(sizes)}
    found = page(streamed(compute), named, PORT, budget_bytes=budget, lookahead=lookahead)
    expected = recursion(compute, sizes, PORT, budget_bytes=budget, lookahead=lookahead)
    assert found.compute_end == pytest.approx(expected)
    assert found.peak_bytes <= budget
    free = page(streamed(compute), named, PORT, lookahead=100)
    fetch = [0.25 + size / 4 for size in sizes]
    assert free.compute_end[-1] == pytest.approx(unlimited(compute, fetch))
    alone = page(streamed(compute), named, PORT, lookahead=0)
    assert alone.compute_end[-1] == pytest.approx(sum(compute) + sum(fetch))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), compute=times, lookahead=st.integers(0, 4))
def test_more_never_hurts(data: st.DataObject, compute: list[float], lookahead: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=len(compute), max_size=len(compute)))
    named = {f"t{i}": float(size) for i, size in enumerate(sizes)}
    budget = max(sizes) + data.draw(st.integers(0, 20))

    def ends(budget: float, lookahead: int, rate: float) -> float:
        port = Port(rate, 1.0, 0.1)
        return float(page(streamed(compute), named, port, budget_bytes=budget, lookahead=lookahead).compute_end[-1])

    base = ends(budget, lookahead, 3.0) + 1e-9
    assert ends(budget + 5, lookahead, 3.0) <= base
    assert ends(budget, lookahead + 1, 3.0) <= base
    assert ends(budget, lookahead, 4.0) <= base


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[Operator], dict[str, float]]:
    """Operators that share tensors and change some of them."""
    names = [f"t{i}" for i in range(draw(st.integers(1, 6)))]
    sizes = {name: float(draw(st.integers(1, 9))) for name in names}
    operators = []
    for i in range(draw(st.integers(1, 14))):
        uses = tuple(draw(st.lists(st.sampled_from(names), max_size=3, unique=True)))
        writes = {name: sizes[name] for name in uses if draw(st.booleans())}
        operators.append(Operator(f"op{i}", draw(st.integers(0, 8)) / 4, uses, writes))
    return operators, sizes


def resident_while(paged: Paged, sizes: dict[str, float], budget: float, lookahead: int) -> None:
    """Replays fetches and computes by time: what an operator uses has come since it last went."""
    timeline = paged.timeline
    computes = [i for i, s in enumerate(timeline.stream) if s == COMPUTE]
    fetches = [i for i, s in enumerate(timeline.stream) if s == IN]
    for number, task in enumerate(computes):
        mine = [f for f in fetches if timeline.actions[f].microbatch == number]
        assert all(timeline.end[f] <= timeline.start[task] + 1e-12 for f in mine)
        if mine and number > lookahead:
            assert min(timeline.start[f] for f in mine) >= timeline.end[computes[number - lookahead - 1]] - 1e-12
    for series in timeline.memory:
        assert series.bytes.max() <= budget * (1 + 1e-9)
        assert series.bytes.min() >= -1e-9


@settings(max_examples=300, deadline=None)
@given(order=orders(), lookahead=st.integers(0, 4), room=st.integers(0, 15))
def test_bytes_are_accounted_for(order: tuple[list[Operator], dict[str, float]], lookahead: int, room: int) -> None:
    operators, sizes = order
    least = max(sum(sizes[name] for name in one.uses) for one in operators)
    budget = least + room
    found = page(operators, sizes, PORT, budget_bytes=budget, lookahead=lookahead)
    resident_while(found, sizes, budget, lookahead)
    assert found.timeline.link_bytes["port in"] == pytest.approx(found.fetched_bytes.sum())
    assert found.timeline.link_bytes["port out"] == pytest.approx(found.written_bytes)
    assert found.written_bytes == pytest.approx(sum(sum(one.writes.values()) for one in operators))
    everything = sum(sizes[name] for name in {n for one in operators for n in one.uses})
    assert found.fetched_bytes.sum() >= everything - 1e-9  # each at least once
    roomy = page(operators, sizes, PORT, lookahead=lookahead)
    assert roomy.fetched_bytes.sum() == pytest.approx(everything)


def test_layers_that_come_round_again_keep_what_fits() -> None:
    """Recency would miss every time: of ten alike layers with room for six, five or so are fetched."""
    sizes = {f"w{i}": 1.0 for i in range(10)}
    operators = [Operator(f"{turn}.{i}", 1.0, (f"w{i}",)) for turn in range(6) for i in range(10)]
    found = page(operators, sizes, Port(1.0, 1.0), budget_bytes=6.0, lookahead=1)
    last = found.fetched_bytes[50:].sum()
    assert 4 <= last <= 6
    assert found.fetched_bytes[:10].sum() == 10


def test_dirty_tensors_go_back_before_their_room_is_used() -> None:
    sizes = {"a": 4.0, "b": 4.0}
    operators = [Operator("one", 1.0, ("a",), {"a": 2.0}), Operator("two", 1.0, ("b",))]
    found = page(operators, sizes, Port(4.0, 1.0), budget_bytes=4.0, lookahead=1)
    assert found.compute_end.tolist() == [2.0, 2.0 + 2.0 + 1.0 + 1.0]
    assert found.written_bytes == 2.0
    backs = [i for i, s in enumerate(found.timeline.stream) if s == OUT]
    assert len(backs) == 1


def test_experts_wait_for_their_router() -> None:
    sizes = {"dense": 4.0, "experts": 8.0}
    port = Port(4.0, 4.0)
    ahead = [Operator("router", 3.0, ("dense",)), Operator("experts", 1.0, ("experts",))]
    known = [ahead[0], Operator("experts", 1.0, ("experts",), known_after=0)]
    assert page(ahead, sizes, port).compute_end[-1] == pytest.approx(5.0)
    late = page(known, sizes, port)
    assert late.compute_end[-1] == pytest.approx(1 + 3 + 2 + 1)
    assert late.stall_seconds.tolist() == pytest.approx([1.0, 2.0])


def test_volatile_tensors_are_fetched_each_time() -> None:
    operators = [Operator(str(i), 1.0, ("x",) if i % 2 else ("y",)) for i in range(8)]
    sizes = {"x": 1.0, "y": 1.0}
    found = page(operators, sizes, PORT, lookahead=0, volatile=frozenset({"x"}))
    assert found.fetched_bytes.sum() == 1 + 4


def test_what_is_made_here_is_not_fetched() -> None:
    one = Operator("prefill", 1.0, ("cache", "w"), {"cache": 8.0}, makes=("cache",))
    found = page([one, Operator("again", 1.0, ("cache",))], {"cache": 8.0, "w": 4.0}, Port(4.0, 4.0), budget_bytes=12.0)
    assert found.fetched_bytes.tolist() == [4.0, 0.0]
    assert found.compute_end.tolist() == [2.0, 3.0]
    assert found.written_bytes == 8.0
    assert found.peak_bytes == 12.0


def test_what_is_pinned_and_what_a_window_needs() -> None:
    sizes = {"a": 4.0, "b": 4.0, "c": 10.0}
    assert worth_pinning({"a": 0.4, "b": 1.0, "c": 1.0}, sizes, 8.0) == {"b", "a"}
    operators = [Operator("one", 1.0, ("a",)), Operator("two", 1.0, ("c", "b")), Operator("three", 1.0, ("b",))]
    assert largest_window(operators, sizes, 0) == (14.0, "two")
    assert largest_window(operators, sizes, 1) == (18.0, "one")
    found = page(operators, sizes, PORT, budget_bytes=18.0, pinned=frozenset({"b"}))
    assert found.fetched_bytes.tolist() == [4.0, 10.0, 0.0]


@pytest.mark.parametrize(
    ("operators", "keys", "words"),
    [
        ([Operator("big", 1.0, ("a", "b"))], {"budget_bytes": 7.0}, "operator big needs 8 bytes at once, and .* is 7"),
        (
            [Operator("big", 1.0, ("a",))],
            {"budget_bytes": 5.0, "pinned": frozenset("b")},
            "needs 4 .* beside 4 that are",
        ),
        ([Operator("op", 1.0, ("z",))], {}, "operator op uses 'z', which was never placed"),
        ([Operator("op", 1.0)], {"lookahead": -1}, "lookahead -1: can't be negative"),
        ([Operator("op", 1.0, known_after=0)], {}, "known_after 0 isn't an operator before it"),
        ([Operator("op", 1.0, (), {"a": 1.0})], {}, "writes what it doesn't use"),
        ([Operator("op", 1.0)], {"budget_bytes": 1.0, "pinned": frozenset("a")}, "4 bytes are pinned, more than"),
    ],
)
def test_what_cant_be_is_refused(operators: list[Operator], keys: dict[str, object], words: str) -> None:
    with pytest.raises(GrainlineError, match=words):
        page(operators, {"a": 4.0, "b": 4.0}, PORT, **keys)  # type: ignore[arg-type]


def test_a_port_without_a_rate() -> None:
    with pytest.raises(GrainlineError, match="read_bytes_per_second 0: a tier without bandwidth"):
        Port(0, 1)


def test_pinned_bytes_are_held_from_the_beginning() -> None:
    found = page([Operator("op", 1.0, ("a",))], {"a": 4.0, "b": 3.0}, PORT, budget_bytes=9.0, pinned=frozenset("b"))
    assert found.peak_bytes == 7.0
    assert isinstance(found.timeline.memory[0].bytes, np.ndarray)
