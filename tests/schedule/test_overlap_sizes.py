"""Communicating workers against brute force, slots against a plain loop, and heaps of the paper's models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.schedule.overlap.capacity import cell_rows, heap_bytes, kept_rows, slots
from grainline.schedule.overlap.comm_workers import Balance
from grainline.schedule.overlap.layer import ExpertLayer, TileDevice, TileShape
from grainline.schedule.overlap.lower import simulate_tiles
from grainline.schedule.overlap.options import Options
from grainline.schedule.overlap.tile_order import tile_order


def test_taking_workers_may_cost_a_wave() -> None:
    balance = Balance(512, 132, 167e-6, 29e6, 5e9, 160e9)
    assert [balance.waves(n) for n in (0, 4, 5, 8)] == [4, 4, 5, 5]


@settings(max_examples=200, deadline=None)
@given(
    tiles=st.integers(1, 3000),
    workers=st.integers(2, 140),
    wave=st.floats(1e-6, 1e-3),
    size=st.floats(1e3, 1e9),
    push=st.floats(1e8, 1e11),
)
def test_the_closed_form_balances_and_the_best_is_the_best(
    tiles: int, workers: int, wave: float, size: float, push: float
) -> None:
    balance = Balance(tiles, workers, wave, size, push, 2e11)
    n = balance.balanced
    assert 0 < n <= 2e11 / push
    compute = tiles / workers * wave * workers / (workers - n)
    sent = size / (n * push)
    if n < 2e11 / push:
        assert compute == pytest.approx(sent, rel=1e-9)
    else:
        assert compute <= sent * (1 + 1e-9)
    assert balance.seconds(balance.best) == min(balance.seconds(k) for k in range(1, workers))
    assert all(balance.seconds(k) > balance.seconds(balance.best) for k in range(1, balance.best))


def test_the_simulated_layer_is_fastest_near_the_best_number() -> None:
    layer = ExpertLayer(((64,),) * 8, 512, 512)
    shape = TileShape(32, 32)
    device = TileDevice(24, 1e12, 4e9, push_bytes_per_second=5e8)
    wave = 2 * 32 * 32 * 512 * 24 / 1e12
    balance = Balance(16 * 16, 24, wave, layer.exchange_bytes, 5e8, 4e9)

    def seconds(n: int) -> float:
        return simulate_tiles(tile_order(layer, Options(shape, groups=16, comm_workers=n)), device).makespan

    found = {n: seconds(n) for n in range(1, 20)}
    assert found[balance.best] <= 1.05 * min(found.values())
    assert found[1] > found[balance.best] < found[19]


def test_nobody_left_to_compute_is_refused() -> None:
    with pytest.raises(GrainlineError, match="2 or more"):
        Balance(4, 1, 1.0, 1.0, 1.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(
    entries=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.5, 0.5, 0.9])), max_size=30),
    capacity=st.integers(0, 6),
    seed=st.integers(0, 9),
)
def test_slots_go_to_the_highest_scores_and_then_to_the_first_tokens(
    entries: list[tuple[int, float]], capacity: int, seed: int
) -> None:
    expert = np.array([e for e, _ in entries], np.int64)
    score = np.array([s for _, s in entries])
    token = np.arange(len(entries))
    found = slots(expert, score, token, capacity)
    for i, (e, s) in enumerate(entries):
        before = sum(f == e and (t > s or (t == s and j < i)) for j, (f, t) in enumerate(entries))
        assert found[i] == (before if before < capacity else -1)
    mixed = np.random.default_rng(seed).permutation(len(entries))  # whatever the order in which they come
    assert (slots(expert[mixed], score[mixed], token[mixed], capacity) == found[mixed]).all()


def test_a_capacity_below_zero_is_refused() -> None:
    with pytest.raises(GrainlineError, match="capacity of -1"):
        slots(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64), -1)


def test_cells_are_whole_tiles_and_heaps_have_four_of_each() -> None:
    assert cell_rows(8192, 64) == 128
    assert cell_rows(40960, 128) == 384
    assert cell_rows(100, 3, tile_rows=16, factor=1.5, top_k=2) == 112
    assert heap_bytes(128, 64, 2048, 4) == 4 * 128 * 64 * 2048 * 4
    assert kept_rows([3, 9, 0], 4) == 7
    assert math.isclose(kept_rows(np.array([5, 5]), 5), 10)
