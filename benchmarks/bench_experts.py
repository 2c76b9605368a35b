"""Experts on a CPU: the compiled core against a dense MLP, memory's rate, and other expert implementations.

Many tokens: forward and backward against a dense SwiGLU MLP of width K · F by oneDNN (`mm` into buffers that are there
before), and against PyTorch's and transformers' experts. Few tokens: forward against the bound
max(bytes / read bandwidth, FLOPs / matmul rate), both measured in this run, on weights that are read in turns so that
none is found in a cache. All of a case take turns, round by round; medians and ratios.

    python benchmarks/bench_experts.py [--shapes wide] [--dtypes float32] [--tokens 512,4096] [--peers] [--save]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline import kernels
from grainline.exhibits.harness import alternate, ratio
from grainline.hardware import processor
from grainline.kernels import native_experts
from grainline.kernels.coded import CodedWeights, quantize_experts

RESULT = Path(__file__).parent / "results" / "experts.json"
SHAPES = {"wide": (1024, 128, 8, 256), "narrow": (512, 64, 8, 256)}  # model, experts, top-k, hidden
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COLD_BYTES = 2 << 30
"""That are read before some are read again: at least four times the last-level cache."""
TRANSFORMERS = "eager", "grouped_mm", "batched_mm"
FEW = 16
Call = Callable[[], object]


def draw(shape: str, tokens: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs of the op, with a uniform routing."""
    model, experts, top_k, hidden = SHAPES[shape]
    expert_N = torch.rand(tokens, experts).topk(top_k, -1).indices.flatten()
    order_N = expert_N.argsort(stable=True)
    return {
        "x": torch.randn(tokens, model).to(dtype),
        "w13": (torch.randn(experts, 2, hidden, model) / model**0.5).to(dtype),
        "w2": (torch.randn(experts, model, hidden) / hidden**0.5).to(dtype),
        "score": torch.rand(tokens * top_k),
        "unit": order_N // top_k,
        "counts": torch.bincount(expert_N, minlength=experts),
    }


def dense(shape: str, tokens: int, dtype: torch.dtype) -> tuple[Call, Call]:
    """Forward and backward of a SwiGLU MLP of width K · F, into buffers that are there before."""
    model, _, top_k, hidden = SHAPES[shape]
    width = top_k * hidden
    x, d_out = torch.randn(tokens, model).to(dtype), torch.randn(tokens, model).to(dtype)
    w13, w2 = (torch.randn(2 * width, model) / 32).to(dtype), (torch.randn(model, width) / 32).to(dtype)
    h, act, out = x.new_empty(tokens, 2 * width), x.new_empty(tokens, width), torch.empty_like(x)
    d_h, d_act, d_x = torch.empty_like(h), torch.empty_like(act), torch.empty_like(x)
    d_w13, d_w2 = torch.empty_like(w13), torch.empty_like(w2)

    def forward() -> None:
        torch.mm(x, w13.t(), out=h)
        gate, up = h.chunk(2, -1)
        torch.mul(F.silu(gate), up, out=act)
        torch.mm(act, w2.t(), out=out)

    def backward() -> None:
        torch.mm(d_out, w2, out=d_act)
        (gate, up), (d_gate, d_up) = h.chunk(2, -1), d_h.chunk(2, -1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        torch.mul(d_act, silu, out=d_up)
        torch.mul(d_act * up, sigmoid + silu * (1 - sigmoid), out=d_gate)
        torch.mul(silu, up, out=act)
        torch.mm(d_out.t(), act, out=d_w2)
        torch.mm(d_h, w13, out=d_x)
        torch.mm(d_h.t(), x, out=d_w13)

    forward()
    return forward, backward


def ours(inputs: dict[str, Tensor]) -> tuple[Call, Call]:
    """Forward (keeping what the backward needs) and backward of the core, into buffers that are there before."""
    x, hidden, entries = inputs["x"], inputs["w2"].shape[-1], len(inputs["unit"])
    dtype = native_experts.DTYPES[x.dtype]
    buffers = {"h": x.new_empty(entries, 2 * hidden), "act": x.new_empty(entries, hidden), "out": torch.empty_like(x)}
    buffers |= {"d_out": torch.randn_like(x), "d_h": x.new_empty(entries, 2 * hidden), "d_x": torch.empty_like(x)}
    buffers |= {"d_score": torch.empty(-(-hidden // native_experts.HIDDEN_CHUNK), entries)}
    buffers |= {f"d_{name}": torch.empty_like(inputs[name]) for name in ("w13", "w2")}

    def run(*phases: int) -> None:
        for phase in phases:
            native_experts.call(phase, dtype, hidden, 0, inputs | buffers)

    forward: Call = lambda: run(native_experts.FORWARD)  # noqa: E731
    forward()
    return forward, lambda: run(native_experts.BACKWARD_INPUTS, native_experts.BACKWARD_WEIGHTS)


def of_autograd(op: Callable[..., Tensor], inputs: dict[str, Tensor]) -> tuple[Call, Call]:
    """Forward without gradients, and forward with backward, as a person calls them."""
    lists = inputs["unit"], inputs["counts"]
    leaves = [inputs[name].clone().requires_grad_() for name in ("x", "w13", "w2", "score")]

    def forward() -> None:
        with torch.no_grad():
            op(*leaves, *lists)

    def both() -> None:
        out = op(*leaves, *lists)
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    return forward, both


def transformers_experts(implementation: str, shape: str) -> Callable[..., Tensor]:
    """transformers' Qwen3-MoE experts with our lists and weights."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    model, experts, top_k, hidden = SHAPES[shape]
    config = Qwen3MoeConfig(
        hidden_size=model, moe_intermediate_size=hidden, num_experts=experts, num_experts_per_tok=top_k
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        module = Qwen3MoeExperts(config)

    def op(x: Tensor, w13: Tensor, w2: Tensor, score: Tensor, unit: Tensor, counts: Tensor) -> Tensor:
        weights = {"gate_up_proj": w13.flatten(1, 2), "down_proj": w2}
        expert = torch.arange(experts).repeat_interleave(counts)
        order = unit.argsort(stable=True)
        chosen, scores = expert[order].view(-1, top_k), score[order].view(-1, top_k).to(x.dtype)
        found: Tensor = torch.func.functional_call(module, weights, (x, chosen, scores))
        return found

    return op


def many(shape: str, dtype: str, tokens: int, rounds: int, peers: bool) -> dict[str, Any]:
    """Ratios to the dense MLP; with `peers`, to other implementations as a person calls them."""
    inputs = draw(shape, tokens, DTYPES[dtype])
    sides = {"native": ours(inputs), "dense": dense(shape, tokens, DTYPES[dtype])}
    row: dict[str, Any] = {"shape": shape, "dtype": dtype, "tokens": tokens}
    for i, half in enumerate(("forward", "backward")):
        seconds = alternate({name: calls[i] for name, calls in sides.items()}, rounds=rounds)
        row[half] = {name: statistics.median(times) for name, times in seconds.items()}
        row[f"{half}_ratio"] = (found := ratio(seconds["native"], seconds["dense"])).value
        row[f"{half}_ratio_error_bar"] = found.error_bar
    if peers:
        row["peers"] = beside_peers(shape, inputs, rounds)
    return row


def beside_peers(shape: str, inputs: dict[str, Tensor], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each that runs: forward, and forward with backward."""
    ops = {name: kernels.BACKENDS["expert_mixture"][name] for name in ("native", "sonic", "grouped")}
    for implementation in ("eager", "grouped_mm", *(("batched_mm",) if len(inputs["unit"]) <= 128 else ())):
        ops[f"transformers {implementation}"] = transformers_experts(implementation, shape)
    calls = {name: of_autograd(op, inputs) for name, op in ops.items()}
    for name in list(calls):
        try:
            calls[name][0]()
        except Exception as error:  # what doesn't run here is no peer
            print(f"  {name}: doesn't run here ({type(error).__name__}: {error})")
            del calls[name]
    found: dict[str, dict[str, float]] = {}
    for i, what in enumerate(("forward", "forward and backward")):
        seconds = alternate({name: pair[i] for name, pair in calls.items()}, rounds=rounds)
        found[what] = {name: statistics.median(times) for name, times in seconds.items()}
    return found


def best_rate(call: Call, work: float, times: int = 7) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return work / min(seconds)


def few(shape: str, kind: str, tokens: int, rounds: int, peers: bool) -> dict[str, Any]:
    """Seconds over the bound; float32, bfloat16, or codes of 8 or 4 bits with float32 activations.

    The experts that are used change from call to call, so that what is read in turns is COLD_BYTES.
    """
    dtype = DTYPES.get(kind, torch.float32)
    first = draw(shape, tokens, dtype)
    bits: Any = {"int8": 8, "int4": 4}.get(kind)
    w13, w2 = first["w13"], first["w2"]
    weights: tuple[Any, Any] = (w13, w2) if bits is None else (quantize_experts(w13, bits), quantize_experts(w2, bits))
    size = sum(w.bytes if isinstance(w, CodedWeights) else w.nbytes for w in weights)
    experts, entries = len(first["counts"]), len(first["unit"])
    used = int(first["counts"].count_nonzero()) / experts
    lists = list(moved(first["unit"], first["counts"], max(1, experts // entries)))
    copies = [weights]
    while len(copies) * size * min(1.0, used * len(lists)) < COLD_BYTES:
        copies.append((copied(weights[0]), copied(weights[1])))
    turns = cycle([(copy, *each) for each in lists for copy in copies])
    ops = {"native": native_experts.HALVES.mixture if bits is None else native_experts.expert_mixture_quantized}
    if peers and bits is None:
        ops |= {name: kernels.BACKENDS["expert_mixture"][name] for name in ("sonic", "grouped")}
        ops |= {f"transformers {name}": transformers_experts(name, shape) for name in TRANSFORMERS}

    def caller(op: Callable[..., Tensor]) -> Call:
        def call() -> None:
            (w13, w2), unit, counts = next(turns)
            op(first["x"], w13, w2, first["score"], unit, counts)

        return call

    with torch.no_grad():
        seconds = alternate({name: caller(op) for name, op in ops.items()}, rounds=rounds, warmup=2)
    big, square = torch.ones(1 << 28), torch.randn(2048, 2048, dtype=dtype)
    bandwidth = best_rate(big.sum, big.nbytes)
    rate = best_rate(lambda: square @ square, 2 * 2048**3)
    bound = max(size * used / bandwidth, 6 * entries * w2.shape[-2] * w2.shape[-1] / rate)
    found = statistics.median(seconds["native"])
    return {
        "shape": shape, "dtype": kind, "tokens": tokens, "seconds": found, "bound_seconds": bound,
        "ratio": found / bound, "is_reached": found <= bound / 0.85 + 30e-6,
        "read_bytes_per_second": bandwidth, "matmul_flops_per_second": rate, "copies": len(copies),
        "peers": {name: statistics.median(times) for name, times in seconds.items() if name != "native"},
    }  # fmt: skip


def moved(unit_N: Tensor, counts_E: Tensor, times: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same routing to other experts: those that are used, spread evenly, and moved on by one each time."""
    used_A = counts_E.nonzero().flatten()
    for i in range(times):
        counts = torch.zeros_like(counts_E)
        counts[torch.arange(len(used_A)) * times + i if times > 1 else used_A] = counts_E[used_A]
        yield unit_N, counts


def copied(weights: Tensor | CodedWeights) -> Tensor | CodedWeights:
    if isinstance(weights, Tensor):
        return weights.clone()
    return replace(weights, codes=weights.codes.clone(), scale=weights.scale.clone())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--dtypes", default="float32,bfloat16,int8,int4", help="codes are for few tokens only")
    parser.add_argument("--tokens", default="1,16,512,4096", help=f"up to {FEW}: against memory; else against dense")
    parser.add_argument("--peers", action="store_true", help="also time other implementations, as a person calls them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=processor.threads(processor.usable_cores()))
    parser.add_argument("--save", action="store_true", help=f"put the rows into {RESULT.name}, for those they replace")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for shape in arguments.shapes.split(","):
        for dtype in arguments.dtypes.split(","):
            for tokens in map(int, arguments.tokens.split(",")):
                if tokens <= FEW:
                    rows.append(few(shape, dtype, tokens, max(5, arguments.rounds), arguments.peers))
                elif dtype in DTYPES:
                    rows.append(many(shape, dtype, tokens, max(5, arguments.rounds), arguments.peers))
                else:
                    continue
                print(json.dumps(rows[-1]), flush=True)
    if arguments.save:
        save(rows, arguments.threads)


def save(rows: list[dict[str, Any]], threads: int) -> None:
    """A row replaces the one of its shape, dtype and tokens; the others stay."""
    kept = json.loads(RESULT.read_text())["results"] if RESULT.is_file() else []
    by_case = {(row["shape"], row["dtype"], row["tokens"]): row for row in [*kept, *rows]}
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cpu": processor.name()}
    machine["path"] = native_experts.path()
    RESULT.parent.mkdir(exist_ok=True)
    content = {"machine": machine, "threads": threads, "results": list(by_case.values())}
    RESULT.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
