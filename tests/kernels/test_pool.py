"""The threads that the compiled core shares with torch."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator

import pytest
import torch

from grainline import _compiled
from grainline.kernels.executor import blocks
from grainline.kernels.pool import Team, openmp, pool, usable_cores

pytestmark = pytest.mark.skipif(_compiled.library() is None, reason="needs the compiled core")
WORKERS = 3


@pytest.fixture(params=[True, False], ids=["borrowed", "own"])
def team(request: pytest.FixtureRequest) -> Iterator[Team]:
    with Team(WORKERS, borrowed=request.param) as made:
        yield made


def doubled(team: Team | None, n: int) -> torch.Tensor:
    """2 · [0, n) by STREAM's scale."""
    i32, i64, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    head = [pointer, i64, i32, i32, i32, pointer, pointer, ctypes.c_double, pointer, i64, i64]
    transform = _compiled.function("gl_transform", head)
    assert transform is not None
    x, out = torch.arange(n, dtype=torch.float64), torch.full((n,), -1.0, dtype=torch.float64)
    transform(None if team is None else team.handle, 0, 1, 1, 2, x.data_ptr(), None, 2.0, out.data_ptr(), n, 1)
    return out


@pytest.mark.parametrize("n", [0, 1, 2, 1000, 100_003])
def test_blocks_cover_the_range_once(team: Team, n: int) -> None:
    for _ in range(50):
        assert torch.equal(doubled(team, n), 2 * torch.arange(n, dtype=torch.float64))
    assert [(each.begin, each.end) for each in team.seen()] == blocks(n, WORKERS)


def test_several_threads_may_use_it_at_once(team: Team) -> None:
    wrong = []

    def work() -> None:
        expected = 2 * torch.arange(5000, dtype=torch.float64)
        wrong.extend(1 for _ in range(200) if not torch.equal(doubled(team, 5000), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_torchs_threads_are_borrowed_where_they_are_openmps() -> None:
    borrowed = openmp() is not None
    assert borrowed == ("GNU" in torch.__config__.parallel_info() or Team(2).borrowed)
    assert not Team(2, borrowed=False).borrowed


def test_the_pool_follows_torchs_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert pool() is None
        torch.set_num_threads(before + usable_cores())  # more threads than cores
        found = pool()
        assert (1 if found is None else found.workers) == usable_cores()
        assert pool() is found
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork") or usable_cores() < 2, reason="needs fork and two cores")
def test_a_forked_process_gets_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        mine = pool()
        assert mine is not None
        doubled(mine, 1000)
        child = os.fork()
        if child == 0:  # no exception may escape into the test run
            try:
                own = pool()
                right = own is not None and not own.borrowed and own is not mine
                right = right and bool((doubled(own, 1000)[1:] == 2 * torch.arange(1, 1000)).all())
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)
