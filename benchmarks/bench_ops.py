"""The CPU ops beside the experts: the compiled core against PyTorch's own and against the backends by hand.

All of a case take turns, round by round. Printed are the core's microseconds, what the others take of it (ratios, with
error bars), and the share of the memory's read bandwidth that the core reaches where a case is bound by it: caches of
1 GiB are then read in turns, so that none is found in a cache of the processor.

    python benchmarks/bench_ops.py [--rounds 7] [--only decode]
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grainline import kernels
from grainline.exhibits.harness import alternate, estimate, ratio
from grainline.hardware import processor
from grainline.kernels import native_decode
from grainline.kernels.paged import PagedKv
from grainline.kernels.pool import pool
from grainline.kernels.stream import Native

RESULT = Path(__file__).parent / "results" / "ops.json"
COLD_BYTES = 1 << 30
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What is called, by backend; `bytes`: what a call must read and write, if memory binds it."""

    name: str
    calls: dict[str, Call]
    bytes: int = 0


def by_backend(op: str, backends: tuple[str, ...], use: Callable[[Callable[..., Any]], Call]) -> dict[str, Call]:
    return {name: use(kernels.BACKENDS[op][name]) for name in backends}


def trained(inputs: list[Tensor], *rest: object) -> Callable[[Callable[..., Any]], Call]:
    """Forward and backward."""
    inputs = [x.requires_grad_() for x in inputs]

    def of(function: Callable[..., Any]) -> Call:
        def call() -> None:
            out = function(*inputs, *rest)
            torch.autograd.grad(out, inputs, torch.ones_like(out))

        return call

    return of


def routing() -> Iterator[Case]:
    for entries, experts in ((64, 64), (4096, 64), (32_768, 128)):
        expert_N = torch.randint(0, experts, (entries,))
        calls = by_backend("sort_by_expert", ("native", "reference"), lambda f: lambda: f(expert_N, experts))  # noqa: B023
        yield Case(f"sort_by_expert, {entries} entries, {experts} experts", calls)
    for tokens, experts, k in ((1, 128, 8), (16, 128, 8), (512, 64, 8), (4096, 128, 8), (4096, 512, 16)):
        score_TE = torch.randn(tokens, experts)
        calls = by_backend("route_topk", ("native", "topk"), lambda f: lambda: f(score_TE, k))  # noqa: B023
        yield Case(f"route_topk, {tokens} tokens, {k} of {experts}", calls)


def elementwise() -> Iterator[Case]:
    for word, dtype in FLOATS.items():
        for shape in ((1, 1024), (512, 256), (4096, 1024), (8, 512, 16, 64)):
            x, gain = torch.randn(shape).to(dtype), torch.randn(shape[-1]).to(dtype)
            backends = ("native", "by_hand", "reference")
            calls = by_backend("rms_norm", backends, lambda f: lambda: f(x, gain, 1e-6))  # noqa: B023
            yield Case(f"rms_norm {shape} {word}", calls)
            yield Case(f"rms_norm {shape} {word}, trained", by_backend("rms_norm", backends, trained([x, gain], 1e-6)))
        for shape, interleaved in (((1, 1, 16, 64), False), ((4, 512, 16, 64), False), ((4, 512, 16, 64), True)):
            x, angle = torch.randn(shape).to(dtype), torch.randn(shape[1], 1, shape[-1] // 2)
            rest = angle.cos().to(dtype), angle.sin().to(dtype), interleaved
            calls = by_backend("rotate", backends, lambda f: lambda: f(x, *rest))  # noqa: B023
            label = f"rotate {shape} {word}{', interleaved' if interleaved else ''}"
            yield Case(label, calls)
            yield Case(f"{label}, trained", by_backend("rotate", backends, trained([x], *rest)))


def loss() -> Iterator[Case]:
    for word, dtype in FLOATS.items():
        for rows, size, vocabulary in ((2048, 256, 4096), (1024, 512, 16_384)):
            x_ND, w_VD = torch.randn(rows, size).to(dtype), torch.randn(vocabulary, size) / 16
            label_N = torch.randint(0, vocabulary, (rows,))
            backends = ("native", "chunked", "reference") if dtype == torch.float32 else ("native", "chunked")
            calls = by_backend("linear_cross_entropy", backends, trained([x_ND, w_VD], label_N))
            yield Case(f"linear_cross_entropy, {rows} rows, {size} × {vocabulary}, {word}", calls)


def decode() -> Iterator[Case]:
    for word, dtype in (*FLOATS.items(), ("int8", torch.int8)):
        for batch, heads, groups, size, tokens in ((1, 32, 8, 128, 4096), (4, 32, 8, 128, 4096), (1, 16, 4, 64, 4096)):
            yield paged(word, dtype, batch, heads, groups, size, tokens)
    for word, dtype in FLOATS.items():
        for tokens in (128, 1024, 4096):
            q, k, v = (torch.randn(1, n, h, 64).to(dtype) for n, h in ((1, 8), (tokens, 2), (tokens, 2)))
            calls = {
                "native": lambda: native_decode.over_dense(q, k, v, 0.125),  # noqa: B023
                "reference": lambda: kernels.BACKENDS["attention"]["reference"](q, k, v, None, False, 0.125),  # noqa: B023
            }
            yield Case(f"decode over a dense cache of {tokens} tokens, 8 heads on 2 of 64, {word}", calls)


def paged(word: str, dtype: torch.dtype, batch: int, heads: int, groups: int, size: int, tokens: int) -> Case:
    """The peer has the same keys and values dense, and PyTorch's attention; of int8 it has float32."""
    element = torch.empty(0, dtype=dtype).element_size()
    needed = 2 * batch * tokens * groups * (size * element + (4 if dtype == torch.int8 else 0))
    sets, page_tokens = max(2, COLD_BYTES // needed), 64
    kv = PagedKv(1, sets * batch * tokens // page_tokens, page_tokens, groups, size, dtype=dtype)
    for codes in (kv.k_LPNGh, kv.v_LPNGv):
        codes.random_(-100, 100) if dtype == torch.int8 else codes.normal_()
    tables = []
    for _ in range(sets):
        sequences = [kv.begin() for _ in range(batch)]
        for sequence in sequences:
            kv.extend(sequence, tokens)
        tables.append(kv.table(sequences))
    query_dtype = torch.float32 if dtype == torch.int8 else dtype
    q_BHh, turn, other = torch.randn(batch, heads, size).to(query_dtype), cycle(tables), cycle(range(sets))
    calls: dict[str, Call] = {"native": lambda: kv.attend(0, q_BHh, *next(turn), 0.1)}
    if dtype != torch.int8:
        k_XBKGh, v_XBKGh = (x.view(sets, batch, tokens, groups, size) for x in (kv.k_LPNGh, kv.v_LPNGv))
        q_BSHh, attention = q_BHh.unsqueeze(1), kernels.BACKENDS["attention"]["reference"]

        def dense() -> None:
            i = next(other)
            attention(q_BSHh, k_XBKGh[i], v_XBKGh[i], None, False, 0.1)

        calls["reference"] = dense
    return Case(
        f"attention_decode, {batch} × {tokens} tokens, {heads} heads on {groups} of {size}, {word}", calls, needed
    )


CASES = {"routing": routing, "elementwise": elementwise, "loss": loss, "decode": decode}


def read_bandwidth(rounds: int) -> float:
    """Bytes per second of the compiled core's sum over memory that no cache holds."""
    team = pool()
    if team is None:
        raise SystemExit("needs the compiled core and two threads: see `grainline doctor`")
    x, native = np.ones(COLD_BYTES // 4, np.float32), Native(team)
    seconds = alternate({"sum": lambda: native.sum(x)}, rounds=rounds)["sum"]
    return COLD_BYTES / estimate(seconds).value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=CASES, help="one kind of op")
    arguments = parser.parse_args()
    rounds = max(5, arguments.rounds)
    torch.manual_seed(0)
    bandwidth = read_bandwidth(rounds)
    print(f"{processor.name()}, {torch.get_num_threads()} threads; memory is read at {bandwidth / 1e9:.1f} GB/s")
    found = []
    for kind in [arguments.only] if arguments.only else CASES:
        for case in CASES[kind]():
            seconds = alternate(case.calls, rounds=rounds, warmup=2)
            mine = estimate(seconds["native"]).value
            others = {name: ratio(seconds[name], seconds["native"]) for name in case.calls if name != "native"}
            share = case.bytes / mine / bandwidth if case.bytes else None
            told = ", ".join(
                f"{name} {times.value:.2f} × [{times.low:.2f}, {times.high:.2f}]" for name, times in others.items()
            )
            told += f"{'; ' if told else ''}{share:.2f} of the bandwidth" if share else ""
            print(f"{case.name:72} {mine * 1e6:10.1f} µs; {told}", flush=True)
            ratios = {name: [times.value, times.low, times.high] for name, times in others.items()}
            found.append({"case": case.name, "microseconds": mine * 1e6, "ratios": ratios, "share_of_bandwidth": share})
            gc.collect()
    if arguments.only:
        return
    machine = {"cpu": processor.name(), "threads": torch.get_num_threads(), "read_GB_per_s": bandwidth / 1e9}
    machine |= {"python": platform.python_version(), "torch": torch.__version__}
    RESULT.write_text(json.dumps({"machine": machine, "cases": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
