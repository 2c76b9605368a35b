"""Forward and backward of the expert layer on a GPU: the Triton kernels against other ways to compute the same.

In turns, in bfloat16: our Triton kernels; the backend that CUDA takes by default; ScatterMoE's way (arXiv 2403.08245)
on our own products; `F.grouped_mm` with its gathers apart, under autograd; a loop over experts. Beside them runs an
8192³ matmul, whose rate every layer's is held against. Memory is what a step takes beyond weights and inputs.

    grainline hardware tune                    # once, so that tiles are measured ones; else they are guesses
    python benchmarks/bench_gpu.py [--rounds 20] [--shapes "SonicMoE 7B, n 256"]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from grainline import kernels
from grainline.exhibits.harness import alternate, ratio
from grainline.kernels import grouped, reference
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton import launch, mixture
from grainline.kernels.triton.tiles import device_name, tiles_for
from grainline.kernels.triton.tune import Inputs, Layer

RESULT = Path(__file__).parent / "results" / "gpu.json"
SHAPES = {
    "SonicMoE 7B, n 256": Layer(24576, 1536, 256, 128, 8),
    "SonicMoE 7B, n 512": Layer(24576, 1536, 512, 64, 4),
    "SonicMoE 7B, n 1024": Layer(24576, 1536, 1024, 32, 2),
    "SonicMoE 30B, n 256": Layer(32768, 4096, 256, 256, 16),
    "Qwen3-30B-A3B": Layer(16384, 2048, 768, 128, 8),
}
"""T, D, F, E, K; the first is the paper's named layer, the next two are as large with fewer and wider experts."""
MATMUL = 8192

Op = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class ScatterLinear(Function):
    """ScatterMoE's ParallelLinear: rows gathered in the forward's load, and copied into groups for the backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_EOI: Tensor, unit_N: Tensor | None, counts_E: Tensor, kernel: str
    ) -> Tensor:
        ctx.save_for_backward(x, weight_EOI, unit_N, counts_E)
        ctx.kernel = kernel
        return launch.rows_times_weights(x, weight_EOI.mT, counts_E, _tile(x, weight_EOI, kernel, unit_N), unit_N)

    @staticmethod
    def backward(ctx: Any, d_out_NO: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_EOI, unit_N, counts_E = ctx.saved_tensors
        d_out_NO = d_out_NO.contiguous()
        rows = x if unit_N is None else x.index_select(0, unit_N)
        tile = _tile(rows, weight_EOI, "d_w13", None)
        d_weight = launch.outer_products(d_out_NO, rows, counts_E, weight_EOI.dtype, tile)
        d_rows = launch.rows_times_weights(d_out_NO, weight_EOI, counts_E, _tile(rows, weight_EOI, "d_rows", None))
        if unit_N is not None:
            order_N, offsets_T = launch.entries_of_tokens(unit_N, len(x))
            d_rows = launch.add_up(d_rows, None, order_N, offsets_T)
        return d_rows, d_weight, None, None, None


class ScatterSum(Function):
    """ScatterMoE's weighted sum: it keeps every row of the output for the scores' gradients.

    It scatters rows in a store and sums them after; here each token gathers its rows, which moves fewer bytes.
    """

    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, score_N: Tensor, unit_N: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(y_ND, score_N, unit_N)
        return launch.add_up(y_ND, score_N, *launch.entries_of_tokens(unit_N, tokens))

    @staticmethod
    def backward(ctx: Any, d_out_TD: Tensor) -> tuple[Tensor | None, ...]:
        y_ND, score_N, unit_N = ctx.saved_tensors
        d_out_ND = d_out_TD.index_select(0, unit_N)
        d_score_N = torch.linalg.vecdot(d_out_ND, y_ND).to(score_N.dtype)
        return d_out_ND.mul_(score_N.unsqueeze(1).to(d_out_ND.dtype)), d_score_N, None, None


def _tile(x: Tensor, weight_EOI: Tensor, kernel: str, unit_N: Tensor | None) -> Any:
    """The tile that our own layer takes for a product of this kind."""
    experts, out, inner = weight_EOI.shape
    width, hidden = (out, inner) if kernel == "down" else (inner, out // 2)
    rows = len(x if unit_N is None else unit_N)
    shape = Layer(rows, width, hidden, experts, 1).shape_class(x.dtype)
    return tiles_for(shape, x.device)[kernel]


def scatter_moe(
    x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, score_N: Tensor, unit_N: Tensor, counts_E: Tensor
) -> Tensor:
    """See `reference.expert_mixture`."""
    hidden_NG = ScatterLinear.apply(x_TD, w13_E2FD.flatten(1, 2), unit_N, counts_E, "d_rows")
    gate_NF, up_NF = hidden_NG.chunk(2, dim=-1)
    y_ND = ScatterLinear.apply(F.silu(gate_NF) * up_NF, w2_EDF, None, counts_E, "down")
    return ScatterSum.apply(y_ND, score_N, unit_N, len(x_TD))


def grouped_mm(
    x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, score_N: Tensor, unit_N: Tensor, counts_E: Tensor
) -> Tensor:
    """See `reference.expert_mixture`: torch's own ops, and autograd."""
    ends_E = counts_E.cumsum(0).to(torch.int32)
    hidden_NG = F.grouped_mm(x_TD.index_select(0, unit_N), w13_E2FD.flatten(1, 2).mT, offs=ends_E)
    gate_NF, up_NF = hidden_NG.chunk(2, dim=-1)
    y_ND = F.grouped_mm(F.silu(gate_NF) * up_NF, w2_EDF.mT, offs=ends_E)
    return reference.combine_rows(y_ND, score_N, unit_N, len(x_TD))


OPS: dict[str, Op] = {
    "triton": mixture.HALVES.mixture,
    "default": grouped.HALVES.mixture,
    "scattermoe": scatter_moe,
    "grouped_mm": grouped_mm,
    "loop": reference.expert_mixture,
}


def measure(layer: Layer, device: torch.device, rounds: int) -> dict[str, Any]:
    """Of each op: seconds of each round, bytes kept for the backward, peak bytes of a step, and its errors."""
    inputs = Inputs.draw(layer, torch.bfloat16, device)
    leaves = [x.requires_grad_() for x in (inputs.x_TD, inputs.w13_E2FD, inputs.w2_EDF, inputs.score_N)]
    lists = inputs.unit_N, inputs.counts_E
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def forward(op: Op) -> None:
        op(*leaves, *lists)
        wait()

    def step(op: Op) -> None:
        torch.autograd.grad(op(*leaves, *lists), leaves, inputs.d_out_TD)
        wait()

    truth = _results(OPS["loop"], [x.detach().float().requires_grad_() for x in leaves], lists, inputs.d_out_TD.float())
    errors = {name: _errors(_results(op, leaves, lists, inputs.d_out_TD), truth) for name, op in OPS.items()}
    works: dict[str, Callable[[], object]] = {}
    for name, op in OPS.items():
        works[f"{name} forward"] = lambda op=op: forward(op)  # type: ignore[misc]
        works[f"{name} step"] = lambda op=op: step(op)  # type: ignore[misc]
    square = torch.randn(
        MATMUL if device.type == "cuda" else 64, MATMUL if device.type == "cuda" else 64, device=device
    )
    square = square.to(torch.bfloat16)

    def matmul() -> None:
        torch.mm(square, square)
        wait()

    seconds = alternate({**works, "matmul": matmul}, rounds=rounds, warmup=3)
    return {
        "layer": asdict(layer),
        "tiles": {
            kernel: asdict(tile) for kernel, tile in tiles_for(layer.shape_class(torch.bfloat16), device).items()
        },
        "seconds": seconds,
        "matmul_flops_per_second": 2 * len(square) ** 3 / statistics.median(seconds["matmul"]),
        "forward_flops": 6 * len(inputs.unit_N) * layer.width * layer.hidden,
        "kept_bytes": {name: _kept_bytes(op, leaves, lists) for name, op in OPS.items()},
        "peak_bytes": {name: _peak_bytes(lambda op=op: step(op), device) for name, op in OPS.items()},  # type: ignore[misc]
        "relative_errors": errors,
    }


def _results(op: Op, leaves: list[Tensor], lists: tuple[Tensor, Tensor], d_out_TD: Tensor) -> list[Tensor]:
    out_TD = op(*leaves, *lists)
    return [out_TD.detach(), *torch.autograd.grad(out_TD, leaves, d_out_TD)]


def _errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    """Of the output and the gradients of x, w13, w2 and scores, as shares of their norm."""
    return [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)]


def _kept_bytes(op: Op, leaves: list[Tensor], lists: tuple[Tensor, Tensor]) -> int:
    """Of tensors that the backward will read, without weights, scores and lists."""
    kept: dict[int, Tensor] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        op(*leaves, *lists)
    given = {x.untyped_storage().data_ptr() for x in (*leaves[1:], *lists)}
    return sum(x.untyped_storage().nbytes() for storage, x in kept.items() if storage not in given)


def _peak_bytes(work: Callable[[], None], device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    work()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def report(name: str, found: Mapping[str, Any]) -> None:
    """Print a shape's table."""
    seconds, flops = found["seconds"], found["forward_flops"]
    print(f"\n{name}: {found['layer']}; matmul {found['matmul_flops_per_second'] / 1e12:.0f} TFLOP/s")
    for op in OPS:
        forward, step = (statistics.median(seconds[f"{op} {part}"]) for part in ("forward", "step"))
        shares = [work / t / found["matmul_flops_per_second"] for work, t in ((flops, forward), (3 * flops, step))]
        peak = found["peak_bytes"][op]
        print(
            f"  {op:11} forward {forward * 1e3:8.3f} ms ({shares[0]:4.0%} of matmul)   step {step * 1e3:8.3f} ms "
            f"({shares[1]:4.0%})   kept {found['kept_bytes'][op] / 1e6:7.0f} MB   peak "
            f"{'?' if peak is None else f'{peak / 1e6:7.0f} MB'}   "
            f"step / triton's {ratio(seconds[f'{op} step'], seconds['triton step'])}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    reason = why_not("cuda") or ("" if torch.cuda.is_available() else "torch sees no GPU on this machine")
    if reason:
        print(f"bench_gpu measures nothing here: {reason}.")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    shapes: dict[str, Any] = {}
    for name in arguments.shapes:
        shapes[name] = measure(SHAPES[name], device, arguments.rounds)
        report(name, shapes[name])
    import triton

    result = {
        "device": device_name(device),
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
        "default": kernels.backend_of("expert_mixture", "cuda"),
        "time": time.strftime("%Y-%m-%d"),
        "shapes": shapes,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
