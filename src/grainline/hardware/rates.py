"""How fast matmuls and copies really are here, by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SECONDS = 0.1  # of repeating; the best repeat counts, because everything else that runs only ever slows one down
ONE_CALL = 1e-3  # seconds; a matmul as long as this hides the cost of starting it
LARGEST = 16_384


def matmul_rate(dtype: str, device: str = "cpu", threads: int | None = None) -> float | None:
    """FLOP/s (2·n³ per n×n matmul) of torch in `dtype`, e.g. "bfloat16"; None where the device has no such matmul."""
    import torch

    with _threads(threads if device == "cpu" else None):
        try:
            n = 256
            multiply = _matmul(n, getattr(torch, dtype), device)
            while (seconds := _best(multiply, device, seconds=0)) < ONE_CALL and n < LARGEST:
                n *= 2
                multiply = _matmul(n, getattr(torch, dtype), device)
            return 2 * n**3 / min(seconds, _best(multiply, device, SECONDS))
        except (RuntimeError, TypeError):  # torch's words for "not implemented for this dtype"
            return None


def copy_rate(device: str = "cpu", threads: int | None = None, size_bytes: int = 1 << 27) -> float:
    """Bytes per second moved by a large copy, reads and writes both counted (STREAM's convention)."""
    import torch

    with _threads(threads if device == "cpu" else None):
        source = torch.zeros(size_bytes, dtype=torch.uint8, device=device)
        target = torch.empty_like(source).fill_(1)  # touched, so that no page is first mapped under the clock
        return 2 * size_bytes / _best(lambda: target.copy_(source), device, SECONDS)


def _matmul(n: int, dtype: torch.dtype, device: str) -> Callable[[], object]:
    import torch

    # Random numbers, because a GPU multiplies constant ones with less power and so at a higher clock.
    x_NN, y_NN = (torch.randn((n, n), device=device).to(dtype) for _ in range(2))
    out_NN = torch.empty_like(x_NN)
    return lambda: torch.mm(x_NN, y_NN, out=out_NN)


def _best(work: Callable[[], object], device: str, seconds: float) -> float:
    """Seconds of the fastest repeat, after one to warm up."""
    import torch

    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.split(":")[0], lambda: None)

    def once() -> float:
        start = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - start

    once()
    best, end = once(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, once())
    return best


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads, and with as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
