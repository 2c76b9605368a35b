"""What every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grainline.cli import share_cores

# Before any test imports torch: waiting threads sleep soon, so that tests on busy cores don't crawl.
share_cores()

# Before any test imports triton: where there is no GPU, its kernels are interpreted.
if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` run where there is a CUDA GPU."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")
