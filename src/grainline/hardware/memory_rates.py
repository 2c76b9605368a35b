"""How fast memory and caches are: STREAM on each target, and one core's and all cores' rate by working set."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from grainline.documents import GrainlineError
from grainline.hardware.caches import check_is_memory
from grainline.kernels.executor import Executor
from grainline.kernels.stream import KERNELS, Backend, Blocked, Native, Stream, Tensors, instruction_sets
from grainline.kernels.stream.benchmark import Kernel
from grainline.kernels.stream.native import Policy
from grainline.kernels.stream.triton import Triton, why_not
from grainline.kernels.targets import Target

DOUBLE = 8
SMALLEST_SET = 1 << 14
SECONDS = 0.01  # of a call over a working set, so that launching it is nothing
TRIES = 5


@dataclass(frozen=True)
class StreamRates:
    """Bytes per second of each kernel, the best of the repetitions but the first. Counted as the source moves them."""

    target: str
    how: str  # the backend's name
    threads: int  # 0 for an accelerator
    array_bytes: int
    bytes_per_second: Mapping[Kernel, float]
    worst_bytes_per_second: Mapping[Kernel, float]  # of the same repetitions
    share: float  # of the threads' time in which they had the CPU
    is_memory: bool  # the arrays are so large that this is no cache's rate


@dataclass(frozen=True)
class SetRate:
    """Bytes per second of reading (a sum) and of triad over a working set, by so many threads."""

    threads: int
    set_bytes: int
    read: float
    triad: float


class CpuStream:
    """STREAM's arrays on a CPU target, touched first by its own executor, and the ways to run over them.

    A context: at its end the threads end, and the arrays are let go.
    """

    def __init__(self, target: Target, elements: int, last_level_bytes: int) -> None:
        """Three arrays of doubles. Without the compiled core there is one way: NumPy in blocks."""
        self.target, self.last_level_bytes = target, last_level_bytes
        self._stack = ExitStack()
        self.executor = self._stack.enter_context(Executor(target)) if instruction_sets() else None
        self.stream = Stream(Blocked() if self.executor is None else Native(self.executor), elements)

    def __enter__(self) -> CpuStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def ways(self) -> list[Backend]:
        """All cores with either kind of store, and one core."""
        if self.executor is None:
            return [Blocked()]
        streaming = [Native(self.executor, "par_simd", "streaming")] if instruction_sets()[-1].can_stream else []
        return [Native(self.executor), *streaming, Native(self.executor, "simd")]

    def rates(self, repetitions: int, seconds: float) -> list[StreamRates]:
        """Of each way; the ways alternate, so that whatever else the machine does meets all of them.

        Fewer repetitions than asked for, but at least one, where `seconds` don't suffice.
        """
        found = _alternating(self.stream, self.ways(), repetitions, seconds, self.target.name, self.last_level_bytes)
        self.stream.check()
        return found

    def by_working_set(self, most_bytes: int, seconds: float) -> list[SetRate]:
        """From 16 KiB, doubling, up to `most_bytes` or the whole of the arrays; by one core and by all. Not by NumPy.

        The working set of triad is three arrays, so each is a third of it. After `seconds` no more are begun.
        """
        found, start = [], time.perf_counter()
        if self.executor is not None:
            policies: tuple[Policy, ...] = ("simd", "par_simd") if self.executor.workers > 1 else ("simd",)
            size = SMALLEST_SET
            while size <= min(most_bytes, self.stream.n * DOUBLE) and time.perf_counter() - start < seconds:
                found += [self._set_rate(policy, size) for policy in policies]
                size *= 2
        return found

    def _set_rate(self, policy: Policy, size: int) -> SetRate:
        executor = self.executor
        assert executor is not None
        a, b, c = self.stream.a, self.stream.b, self.stream.c
        n, third = size // DOUBLE, size // DOUBLE // 3

        def rate(run: Callable[[Native], object], repeats: int = 1) -> float:
            native = Native(executor, policy, repeats=repeats)
            run(native)
            spent = min(_seconds(lambda: run(native)) for _ in range(TRIES))
            if spent < SECONDS and repeats < 1 << 20:
                return rate(run, max(2 * repeats, int(1.2 * repeats * SECONDS / max(spent, 1e-7))))
            return size * repeats / spent

        return SetRate(
            threads=executor.workers if policy == "par_simd" else 1,
            set_bytes=size,
            read=rate(lambda native: native.sum(a[:n])),
            triad=rate(lambda native: native.transform("triad", b[:third], c[:third], out=a[:third], s=0.5)),
        )


def accelerator_rates(
    target: Target, elements: int, cache_bytes: int, repetitions: int, seconds: float
) -> list[StreamRates]:
    """STREAM by torch's own kernels and, where it is there, by Triton."""
    dtype = "float32" if target.kind == "mps" else "float64"
    ways: list[Backend] = [Tensors(target.name)]
    if not why_not(target.name):
        ways.append(Triton(target.name))
    stream = Stream(ways[0], elements, dtype)
    found = _alternating(stream, ways, repetitions, seconds, target.name, cache_bytes)
    stream.check()
    return found


def accelerator_cache_bytes(target: Target) -> int:
    """Of an accelerator's last-level cache; 0 where torch doesn't tell."""
    import torch

    return int(torch.cuda.get_device_properties(target.name).L2_cache_size) if target.kind == "cuda" else 0


def of_memory(rates: Sequence[StreamRates]) -> StreamRates | None:
    """What tells a device's memory: ordinary stores by the whole target. None if none is memory's rate.

    Most kernels store ordinarily, so this is what they reach; where several backends were tried, the faster triad.
    """
    ordinary = [r for r in rates if r.is_memory and "streaming" not in r.how]
    whole = [r for r in ordinary if r.threads != 1] or ordinary
    return max(whole, key=lambda r: r.bytes_per_second["triad"], default=None)


def _alternating(
    stream: Stream, ways: list[Backend], repetitions: int, seconds: float, target: str, cache_bytes: int
) -> list[StreamRates]:
    array_bytes = stream.n * (4 if stream.dtype == "float32" else DOUBLE)
    times: list[list[dict[Kernel, float]]] = [[] for _ in ways]
    spent, on_cpu, began = [0.0 for _ in ways], [0.0 for _ in ways], time.perf_counter()
    for repetition in range(1 + repetitions):
        if repetition > 1 and time.perf_counter() - began > seconds:
            break
        for i, way in enumerate(ways):
            stream.backend = way
            start, cpu_start = time.perf_counter(), time.process_time()
            once = stream.repetition()
            if repetition:
                times[i].append(once)
                spent[i] += (time.perf_counter() - start) * way.threads
                on_cpu[i] += time.process_time() - cpu_start
    try:
        check_is_memory(array_bytes, cache_bytes)
        is_memory = True
    except GrainlineError:
        is_memory = False
    return [
        StreamRates(
            target=target,
            how=way.name,
            threads=way.threads,
            array_bytes=array_bytes,
            bytes_per_second=stream.bytes_per_second({k: min(s[k] for s in times[i]) for k in KERNELS}),
            worst_bytes_per_second=stream.bytes_per_second({k: max(s[k] for s in times[i]) for k in KERNELS}),
            share=min(1.0, on_cpu[i] / spent[i]) if way.threads else 1.0,
            is_memory=is_memory,
        )
        for i, way in enumerate(ways)
    ]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
