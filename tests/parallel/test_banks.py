"""Experts that several layers share, over two processes: copied and sharded, each learns what one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bank_ranks import learn

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two ranks found."""
    folder = tmp_path_factory.mktemp("banks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, str(Path(__file__).parent / "bank_ranks.py"), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["dp", "fsdp", "again"])
def test_two_ranks_learn_what_one_process_does(folder: Path, name: str) -> None:
    expected, found = learn("copied", False, 0, 4), torch.load(folder / f"{name}.pt")
    assert list(found) == list(expected)
    assert [n for n in found if "w13_E2FD" in n] == ["banks.1.w13_E2FD", "banks.4.w13_E2FD"]
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5, msg=key)
