"""One process among its peers, and plans that it can't run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grainline.documents import GrainlineError, Plan
from grainline.parallel import Ranks, join_ranks, refuse_unsupported
from grainline.parallel.ranks import pick_device

CPU = torch.device("cpu")


@given(count=st.integers(0, 200), world=st.integers(1, 9))
def test_shares_are_contiguous_equal_and_whole(count: int, world: int) -> None:
    shares = [Ranks(CPU, rank, world).share(count) for rank in range(world)]
    assert [i for share in shares for i in share] == list(range(count))
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1


def test_alone_collectives_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join_ranks("cpu")
    assert (alone.rank, alone.world, alone.is_first) == (0, 1, True)
    tensor = torch.ones(3)
    assert alone.sum_(tensor) is tensor
    assert torch.equal(tensor, torch.ones(3))
    assert alone.on_first(lambda: {"a": 1}) == {"a": 1}
    alone.barrier()
    assert not torch.distributed.is_initialized()


def test_each_rank_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto", 1) == pick_device("cuda", 1) == torch.device("cuda", 1)
    with pytest.raises(GrainlineError, match=r"Rank 2 of this node has no GPU: 2 found"):
        pick_device("auto", 2)
    assert pick_device("cpu", 3) == CPU


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GrainlineError, match=r"device 'cuda': .* there is cpu"):
        pick_device("cuda", 0)


def test_plans_are_refused_by_the_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {"layout": {"data_parallel": 2, "shard": "full"}, "execution": {"recompute": "block", "compile": "on"}}
    refuse_unsupported(Plan.parse(everything), Ranks(CPU, 0, 2))
    with pytest.raises(GrainlineError, match=r"data_parallel is 2, but 1 process was started.*torchrun"):
        refuse_unsupported(Plan.parse(everything), Ranks(CPU))
    refuse_unsupported(Plan(), Ranks(CPU, 0, 2))  # a plan that doesn't say takes the ranks there are
    with pytest.raises(GrainlineError, match="FSDP, which needs CPUs or CUDA GPUs"):
        refuse_unsupported(Plan.parse({"layout": {"shard": "full"}}), Ranks(torch.device("mps")))
    later = Plan.parse(everything)
    monkeypatch.setattr(Plan, "features", ("FSDP", "expert parallelism"))
    with pytest.raises(GrainlineError, match=r"asks for expert parallelism, which this release"):
        refuse_unsupported(later, Ranks(CPU, 0, 2))


@pytest.mark.multiprocess
def test_ranks_wait_for_the_first_one_but_not_for_one_that_hangs() -> None:
    """The first rank may pack text for hours, while a collective that a rank never joins is given up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    worker = [sys.executable, str(Path(__file__).parent / "patience.py")]
    started = [
        subprocess.Popen(
            worker,
            env=os.environ | address | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120) for process in started]
    first, other = (out.splitlines() for out, _ in said)
    assert first[0] == "made", said
    assert other == ["made", "timed out", "all ended"], said
    assert first[-1] == "all ended", said
