"""Modern C++ (HPX.Compute, arXiv 2206.06302): one parallel source, several targets, data placed, at native speed.

The paper's body couldn't be read, only its abstract and the reference implementation's STREAM: "at least as good" as
native STREAM on all compared targets, without figures. The bound of 0.95 is this project's.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from grainline.exhibits.figure import MARKERS, MUTED, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, NotRun, Scale
from grainline.exhibits.harness import alternate, estimate, ratio
from grainline.exhibits.stream_race import DOUBLE, SIDES, both_stores, race, race_figure
from grainline.kernels.stream import BYTES_OF, KERNELS, Native, Stream, Tensors
from grainline.kernels.stream.native import Policy, Store
from grainline.kernels.targets import Target

ROUNDS = (0, 1, 2, 3, 4, 5)
"""Each with memory and processes of its own; the seed is the round's number, and says who touches the memory first."""
REPETITIONS, QUICK_REPETITIONS = 10, 2
QUICK_ELEMENTS = 1 << 23
SHARE_OF_MEMORY = 0.85  # of what is free
S = 3.0
BLOCK = 16_384
LINK_OVER_MEMORY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # L / W

POLICIES: Mapping[Policy, str] = {
    "par_simd": "packs on all cores",
    "par": "one element after another on all cores",
    "simd": "packs on one core",
    "seq": "one element after another on one core",
}


def _native_claim(policy: Policy, words: str) -> Claim:
    kind = "all cores, " if policy.startswith("par") else "one thread, "
    kind += "vectorised" if policy.endswith("simd") else "not vectorised"
    return Claim(
        name=f"modern-cpp.{policy.replace('_', '-')}",
        text=(
            "One generic source reaches the native STREAM of each target: 'at least as good' (abstract, no figures). "
            f"Here the policy {policy}: {words}."
        ),
        quantity="rate of the generic source / native STREAM, median over kernels of the best of ten, of each round",
        expected=1.0,
        margin=0.05,
        better="higher",
        baseline=(
            f"STREAM in C with OpenMP, {kind}; its own process, in turns, over the same memory, with "
            "stores of the same kind"
        ),
        seeds=ROUNDS,
        how="real",
    )


NATIVE: dict[Claim, Policy] = {_native_claim(policy, words): policy for policy, words in POLICIES.items()}
NUMPY = Claim(
    name="modern-cpp.numpy",
    text=(
        "What the abstraction buys: NumPy's a[:] = b + s * c moves at least five arrays where triad moves three, so it "
        "has at most 0.60 of triad's rate by counting."
    ),
    quantity="rate of NumPy's expression / of the generic source on all cores, on the same arrays",
    expected=0.60,
    margin=0.0,
    better="lower",
    baseline="the generic triad; NumPy's two passes with out=, its blocks and torch.add are kept beside them",
    seeds=(0,),
    how="real",
)
PLACEMENT = Claim(
    name="modern-cpp.placement",
    text=(
        "Data placed by first touch are read from memory next to the cores: with two domains of W bytes per second and "
        "a link of L each way, N/(2W) instead of max(N/W, N/(2L)): twice as fast while L ≥ W/2, and W/L times below."
    ),
    quantity="largest deviation of the simulated ratio from the closed one, relative, over L/W from 0.1 to 1",
    expected=0.0,
    margin=1e-9,
    better="lower",
    baseline="all pages on one domain, as memory touched by one thread lies",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
GPU = Claim(
    name="modern-cpp.gpu",
    text="The same on a GPU: one Triton kernel that is generic over its body reaches torch's own fused kernels.",
    quantity="rate of Triton / torch, median over kernels, of each round",
    expected=1.0,
    margin=0.05,
    better="higher",
    baseline="torch's copy_, mul, add, and add with alpha, which is one fused kernel, in turns on the same arrays",
    seeds=ROUNDS,
    how="one-gpu",
)


def elements_needed(scale: Scale, arrays: int) -> int:
    """Of each array, so that none lies in a cache; NotRun where so many arrays don't fit. A quick run takes few."""
    if scale.quick:
        return QUICK_ELEMENTS
    from grainline.hardware import look
    from grainline.hardware.caches import caches, last_level_bytes, memory_bytes_needed

    needed = memory_bytes_needed(last_level_bytes(caches()))
    free = look(measure=False).memory_available_bytes
    if arrays * needed > SHARE_OF_MEMORY * free:
        raise NotRun(
            f"{arrays} arrays of {needed / 1e9:.1f} GB, four times this machine's last-level cache, need more than the "
            f"{free / 1e9:.1f} GB of memory that are free."
        )
    return needed // DOUBLE


def here() -> Target:
    """The CPU with the threads that this process may use."""
    from grainline.hardware import look
    from grainline.kernels.targets import cpu_targets

    return cpu_targets(look(measure=False).threads)[0]


def measure_native(scale: Scale, policy: Policy) -> Measurement:
    """Rounds of turns, and the ratio of each."""
    stores: tuple[Store, ...] = both_stores(policy) if policy == "par_simd" else ("ordinary",)
    target, elements = here(), elements_needed(scale, arrays=3)
    races = []
    for seed in scale.seeds:
        repetitions = scale.pick(full=REPETITIONS, quick=QUICK_REPETITIONS)
        races.append(race(policy, stores, target, elements, repetitions, seed, scale.folder))
        scale.tell(f"round {seed}: {races[-1].ratio:.3f}")
    found = estimate([one.ratio for one in races])
    details = {
        "elements": elements,
        "threads": races[0].threads,
        "ratios": [{"/".join(lap): value for lap, value in one.ratios.items()} for one in races],
        "bytes_per_second": {
            who: [{"/".join(lap): value for lap, value in one.bytes_per_second(who).items()} for one in races]
            for who in SIDES
        },
    }
    return Measurement(found.value, found.error_bar, race_figure(policy, races), details)


def measure_numpy(scale: Scale) -> Measurement:
    """Triad in the ways that people write it."""
    import torch

    from grainline.kernels.executor import Executor

    target, n = here(), elements_needed(scale, arrays=5)  # NumPy makes up to two more
    threads = torch.get_num_threads()
    with Executor(target) as executor:
        native = Native(executor)
        a, b, c = (native.empty(n, "float64") for _ in range(3))
        for array, value in ((a, 0.0), (b, 2.0), (c, 0.5)):
            native.transform("fill", out=array, s=value)
        torch.set_num_threads(executor.workers)
        a_N, b_N, c_N = (torch.from_numpy(array) for array in (a, b, c))

        def expression() -> None:
            a[:] = b + S * c

        def two_passes() -> None:
            np.multiply(c, S, out=a)
            np.add(a, b, out=a)

        def in_blocks() -> None:
            for i in range(0, n, BLOCK):
                part = a[i : i + BLOCK]
                np.multiply(c[i : i + BLOCK], S, out=part)
                np.add(part, b[i : i + BLOCK], out=part)

        ways = {
            "generic source": lambda: native.transform("triad", b, c, out=a, s=S),
            "NumPy, a[:] = b + s * c": expression,
            "NumPy, two passes with out=": two_passes,
            f"NumPy, two passes in blocks of {BLOCK}": in_blocks,
            "torch.add(b, c, alpha=s, out=a)": lambda: torch.add(b_N, c_N, alpha=S, out=a_N),
        }
        rounds = scale.pick(full=REPETITIONS, quick=QUICK_REPETITIONS)
        try:
            seconds = alternate(ways, rounds=rounds)
        finally:
            torch.set_num_threads(threads)
    ours, numpys, *_ = seconds.values()
    found = ratio(ours, numpys)
    rates = {name: [BYTES_OF["triad"] * DOUBLE * n / each for each in spent] for name, spent in seconds.items()}
    details = {"elements": n, "threads": len(target.cores), "bytes_per_second": rates}
    return Measurement(found.value, found.error_bar, _ways_figure(rates), details)


def measure_placement(scale: Scale) -> Measurement:
    """The event simulator against the closed form."""
    found = {share: scattered_seconds(1.0, share, 0) / scattered_seconds(1.0, share, 1) for share in LINK_OVER_MEMORY}
    closed = {share: max(2.0, 1.0 / share) for share in LINK_OVER_MEMORY}
    off = max(abs(found[share] / closed[share] - 1) for share in LINK_OVER_MEMORY)
    with drawing(height=2.8) as (figure, (axes,)):
        shares = np.linspace(LINK_OVER_MEMORY[0], 1, 200)
        axes.plot(shares, np.maximum(2, 1 / shares), color=MUTED[0], lw=1, label="max(2, W/L)")
        axes.plot(list(found), list(found.values()), color=colour(0), marker=MARKERS[0], ls="", label="simulated")
        axes.set(xlabel="L / W", ylabel="unplaced / placed, time", title="Two domains of W, a link of L between them")
        axes.set_ylim(bottom=0)
        axes.legend()
        picture = svg(figure, PLACEMENT.name, f"Gain of placing data by first touch. {PLACEMENT.quantity}.")
    return Measurement(off, (off, off), picture, {"ratio": {str(k): v for k, v in found.items()}})


def scattered_seconds(memory: float, link: float, home_of_second: int) -> float:
    """Seconds in which the cores of two domains read half a byte each, the first from domain 0.

    `home_of_second`: the domain on which the half lies that the second domain's cores read. Rates in bytes per second.
    """
    from grainline.schedule import Action, Kind, TaskGraph, simulate
    from grainline.schedule.simulator.graph import Link, Memory, Ragged

    links = (Link("memory 0", memory), Link("memory 1", memory), Link("0 to 1", link))
    crosses = [[0], [1] if home_of_second == 1 else [0, 2]]
    needs: list[list[int]] = [[], []]
    order = np.arange(2, dtype=np.int32)
    graph = TaskGraph(
        streams=("cores 0", "cores 1"),
        links=links,
        tiers=(),
        base_bytes=np.zeros(0),
        stream=order,
        seconds=np.zeros(2),
        bytes=np.full(2, 0.5),
        crosses=Ragged.of(crosses),
        needs=Ragged.of(needs),
        memory=Memory.none(),
        actions=(Action(Kind.F), Action(Kind.F)),
        rank=order,
    )
    return simulate(graph).makespan


def measure_gpu(scale: Scale) -> Measurement:
    """Turns on the first CUDA GPU."""
    import torch

    from grainline.hardware.caches import memory_bytes_needed
    from grainline.kernels.stream.triton import Triton, why_not

    if not torch.cuda.is_available():
        raise NotRun("needs a CUDA GPU.")
    if why_not("cuda:0"):
        raise NotRun(f"{why_not('cuda:0')}.")
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    n = scale.pick(full=memory_bytes_needed(cache) // DOUBLE, quick=QUICK_ELEMENTS)
    torchs, tritons = Tensors("cuda:0"), Triton("cuda:0")
    ratios = []
    for seed in scale.seeds:
        stream, best = Stream(torchs, n), ({}, {})  # type: ignore[var-annotated]
        for repetition in range(1 + scale.pick(full=REPETITIONS, quick=QUICK_REPETITIONS) // 2):
            for who in (0, 1) if (repetition + seed) % 2 else (1, 0):
                stream.backend = (torchs, tritons)[who]
                for kernel, seconds in stream.repetition().items():
                    if repetition:
                        best[who][kernel] = min(seconds, best[who].get(kernel, seconds))
        stream.check()
        ratios.append({kernel: best[0][kernel] / best[1][kernel] for kernel in KERNELS})
    found = estimate([statistics.median(one.values()) for one in ratios])
    details = {"elements": n, "gpu": torch.cuda.get_device_name(0), "ratios": ratios}
    return Measurement(found.value, found.error_bar, None, details)


def _ways_figure(rates: Mapping[str, Sequence[float]]) -> str:
    """A bar of the best rate for each way to write triad."""
    with drawing(height=2.4) as (figure, (axes,)):
        names = list(rates)[::-1]
        axes.barh(names, [max(rates[name]) / 1e9 for name in names], color=[colour(0)] * (len(names) - 1) + [colour(1)])
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="GB/s, three arrays counted", title="Triad, a = b + s · c: best rate of each way to write it")
        return svg(figure, NUMPY.name, f"Rates of triad by ways to write it. {NUMPY.quantity}.")


MEASURES: dict[Claim, Measure] = {
    **{claim: partial(measure_native, policy=policy) for claim, policy in NATIVE.items()},
    NUMPY: measure_numpy,
    PLACEMENT: measure_placement,
    GPU: measure_gpu,
}
