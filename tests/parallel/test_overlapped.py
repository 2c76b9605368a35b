"""The layer run tile by tile equals the layer; rows that haven't come are NaN, so that no tile can cheat."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels import reference
from grainline.kernels.tiles import Peers
from grainline.parallel.overlapped import run_overlapped
from grainline.schedule.overlap import OVERLAPS, Options, TileShape, What, check, check_times

LATE = Peers(bytes_per_second=2e6, late_seconds=(0.0, 0.004, 0.0, 0.002))


def draw(tokens: int, counts: tuple[int, ...], sources: int, seed: int = 0) -> tuple[Tensor, ...]:
    """x, w13, w2, score, unit, counts, source."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n, E, D, F = sum(counts), len(counts), 12, 20
    unit_N = torch.randint(0, tokens, (n,), generator=generator)
    source_T = torch.randint(0, sources, (tokens,), generator=generator)
    return (normal(tokens, D), normal(E, 2, F, D), normal(E, D, F), normal(n), unit_N, torch.tensor(counts), source_T)


@pytest.mark.parametrize("name", OVERLAPS)
@settings(max_examples=12, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    sources=st.integers(1, 4),
    rank=st.integers(0, 3),
    seed=st.integers(0, 9),
    comm=st.integers(0, 1),
)
def test_any_plan_gives_what_the_layer_gives(
    name: str, counts: list[int], sources: int, rank: int, seed: int, comm: int
) -> None:
    inputs = draw(7, tuple(counts), sources, seed)
    chosen = Options(TileShape(3, 5), chunks=3, groups=2, comm_workers=comm)
    found = run_overlapped(*inputs, name, chosen, rank=rank, peers=LATE)
    truth = reference.expert_mixture(*inputs[:-1])
    torch.testing.assert_close(found.y_TD, truth, rtol=1e-12, atol=1e-12)
    check(found.plan)
    check_times(found.plan, found.start_seconds, found.end_seconds)


@pytest.mark.parametrize("name", OVERLAPS)
def test_delays_change_no_bit(name: str) -> None:
    inputs = draw(30, (11, 0, 23, 5), 4)
    outputs = []
    for late in ((), (0.0, 0.01), (0.0, 0.0, 0.01, 0.005)):
        peers = Peers(late_seconds=late)
        outputs.append(run_overlapped(*inputs, name, Options(TileShape(4, 7)), workers=3, peers=peers).y_TD)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_calls_one_after_another_read_nothing_stale() -> None:
    for seed in range(3):
        inputs = draw(30, (11, 0, 23, 5), 4, seed)
        found = run_overlapped(*inputs, "fused", Options(TileShape(4, 7)), peers=LATE)
        torch.testing.assert_close(found.y_TD, reference.expert_mixture(*inputs[:-1]), rtol=1e-12, atol=1e-12)


def test_own_rows_are_worked_on_before_late_ones_come() -> None:
    inputs = draw(60, (40, 40), 2)
    late = 0.15
    found = run_overlapped(*inputs, "tile", Options(TileShape(8, 10)), peers=Peers(late_seconds=(0.0, late)))
    ends = [(task.source, found.end_seconds[i]) for i, task in enumerate(found.plan.tasks) if task.what is What.UP]
    assert all((end < late) == (source == 0) for source, end in ends)
    assert {source for source, _ in ends} == {0, 1}


@settings(max_examples=12, deadline=None)
@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_account_of_tasks_comes_out_even(counts: list[int], seed: int) -> None:
    found = run_overlapped(*draw(6, tuple(counts), 3, seed), "fused", Options(TileShape(4, 6)), workers=3)
    account = found.account
    assert account.made == account.scheduled == account.done == account.bound
    assert account.finished


def test_a_peer_that_never_sends_is_named() -> None:
    inputs = draw(60, (40, 40), 3)
    peers = Peers(late_seconds=(0.0, math.inf))
    words = r"0.2 s: no rows of source 1 have come; tile \(expert 0, m \d+, n 0\) waits for them"
    with pytest.raises(GrainlineError, match=words):
        run_overlapped(*inputs, "tile", Options(TileShape(8, 10)), peers=peers, patience_seconds=0.2)
    with pytest.raises(GrainlineError, match=r"no rows of source 1 have come; tile \(expert 0, m 0, n 0\)"):
        run_overlapped(*inputs, "fused", Options(TileShape(8, 10)), peers=peers, patience_seconds=0.2)
    with pytest.raises(GrainlineError, match=r"no rows of source 1 have come; tile .expert 0, m 0, n 0"):
        run_overlapped(*inputs, "serial", Options(TileShape(8, 10)), peers=peers, patience_seconds=0.2)


def test_an_error_in_a_tile_comes_out_and_threads_are_as_before() -> None:
    x, w13, w2, score, unit, counts, source = draw(20, (9, 9), 2)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        run_overlapped(x, w13.float(), w2, score, unit, counts, source, "tile")
    assert torch.get_num_threads() == before


def test_bad_input_is_named() -> None:
    inputs = draw(5, (3,), 2)
    with pytest.raises(GrainlineError, match=r"no overlap 'tiles'\. Did you mean 'tile'"):
        run_overlapped(*inputs, "tiles")
    with pytest.raises(GrainlineError, match="4 tokens have a source, of 5"):
        run_overlapped(*inputs[:-1], inputs[-1][:4], "tile")
    with pytest.raises(GrainlineError, match="0 workers compute no tiles"):
        run_overlapped(*inputs, "tile", workers=0)


def test_a_run_is_drawn_like_a_simulation(tmp_path) -> None:
    from grainline.schedule.views.draw import draw as drawn

    found = run_overlapped(*draw(60, (40, 40), 2), "tile", Options(TileShape(8, 10)))
    assert found.timeline.how == "measured"
    svg = drawn(found.timeline, tmp_path / "run.svg")
    assert ">worker 1<" in svg
    assert ">link<" in svg
    assert "first product" in svg
