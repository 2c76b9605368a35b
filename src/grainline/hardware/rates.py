"""How fast matmuls and copies really are here, by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SECONDS = 0.15  # of repeating; the fastest repeat counts, because whatever else runs can only slow one down
LONG_ENOUGH = 1e-3  # seconds; a matmul as long as this hides the cost of starting it
LARGEST = 16_384
SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)  # of square matmuls whose rates are told one by one
LONGEST = 0.5  # seconds; larger matmuls are left out
ALONE = 0.9  # share of the CPU below which other programs have disturbed a figure


@dataclass(frozen=True)
class Rate:
    """What was measured, and the share of its threads' time in which it really had the CPU (1 for a GPU).

    A share well below 1 says that other programs ran on the same cores, and that the machine alone would be faster.
    """

    per_second: float
    share: float


def matmul_rate(dtype: str, device: str = "cpu", threads: int | None = None) -> Rate | None:
    """FLOP/s (2·n³ per n×n matmul) of torch in `dtype`, e.g. "bfloat16"; None where the device has no such matmul.

    n doubles from 256 until one matmul takes a millisecond.
    """
    import torch

    threads = 0 if device != "cpu" else threads or torch.get_num_threads()
    try:
        rate = _matmul_rate(getattr(torch, dtype), device, threads)
        if threads > 1 and rate.share < ALONE:
            # Threads that wait for one another suffer most from other programs: one alone may even be faster.
            alone = _matmul_rate(getattr(torch, dtype), device, threads=1)
            rate = Rate(max(rate.per_second, alone.per_second), rate.share)
    except (RuntimeError, TypeError):  # torch's words for "not implemented for this dtype"
        return None
    return rate


def matmul_by_size(
    dtype: str, device: str = "cpu", threads: int | None = None, seconds: float = SECONDS, most_seconds: float = 10.0
) -> dict[int, Rate]:
    """FLOP/s of n×n matmuls for the n in SIZES that take at most half a second each; `seconds` of repeating each.

    Empty where the device has no such matmul. After `most_seconds` no larger ones are begun.
    """
    import torch

    found: dict[int, Rate] = {}
    began = time.perf_counter()
    with _threads(0 if device != "cpu" else threads or 0):
        for n in SIZES:
            if time.perf_counter() - began > most_seconds:
                break
            if found and 2 * n**3 / max(rate.per_second for rate in found.values()) > LONGEST:
                break
            try:
                spent, share = _best(_matmul(n, getattr(torch, dtype), device), device, seconds)
            except (RuntimeError, TypeError):
                break
            found[n] = Rate(2 * n**3 / spent, share)
    return found


def _matmul_rate(dtype: torch.dtype, device: str, threads: int) -> Rate:
    with _threads(threads):
        n = 256
        multiply = _matmul(n, dtype, device)
        while _best(multiply, device, SECONDS / 20)[0] < LONG_ENOUGH and n < LARGEST:
            n *= 2
            multiply = _matmul(n, dtype, device)
        seconds, share = _best(multiply, device, SECONDS)
    return Rate(2 * n**3 / seconds, share)


def copy_rate(device: str = "cpu", threads: int | None = None, size_bytes: int = 1 << 27) -> Rate:
    """Bytes per second moved by a large copy, reads and writes both counted (STREAM's convention)."""
    import torch

    with _threads(threads or 0):
        # Both are written first: untouched pages would all be one page of zeros, and reading it costs nothing.
        source, target = (torch.ones(size_bytes, dtype=torch.uint8, device=device) for _ in range(2))
        seconds, share = _best(lambda: target.copy_(source), device, SECONDS)
    return Rate(2 * size_bytes / seconds, share)


def _matmul(n: int, dtype: torch.dtype, device: str) -> Callable[[], object]:
    import torch

    # Random numbers, because a GPU multiplies constant ones with less power and so at a higher clock.
    x_NN, y_NN = (torch.randn((n, n), device=device).to(dtype) for _ in range(2))
    out_NN = torch.empty_like(x_NN)
    return lambda: torch.mm(x_NN, y_NN, out=out_NN)


def _best(work: Callable[[], object], device: str, seconds: float) -> tuple[float, float]:
    """(seconds of the fastest of at least two repeats, share of the threads' time with the CPU), after a warm-up."""
    import torch

    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.split(":")[0], lambda: None)

    def once() -> float:
        start = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - start

    once()
    start, cpu_start = time.perf_counter(), time.process_time()
    best = min(once(), once())
    while (spent := time.perf_counter() - start) < seconds:
        best = min(best, once())
    on_cpu = time.process_time() - cpu_start
    return best, min(1.0, on_cpu / spent / torch.get_num_threads()) if device == "cpu" else 1.0


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads (0: as it is), and with as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
