"""What an expert layer keeps and needs at most: bytes that autograd holds, and the peaks of tensors and of a process.

Run as a module it is one measurement in a process of its own, so that no other leaves anything behind.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.exhibits.frame import NotRun

if TYPE_CHECKING:
    from torch import Tensor

OURS = "grainline"
PEERS = ("eager", "grouped_mm")
"""Of transformers' implementations of experts. `batched_mm` copies an expert's weights for each entry, T·K·3·n·D
values: at these sizes hundreds of gigabytes. `sonicmoe` and `deepgemm` need GPUs."""


@dataclass(frozen=True)
class Layer:
    """Sizes of a layer, in the paper's letters, and the routing that is drawn."""

    T: int  # tokens
    D: int  # width of a token
    n: int  # width of an expert
    E: int  # experts
    K: int  # of them for each token
    seed: int = 0

    @property
    def plain_bytes(self) -> int:
        """Per token in bfloat16, kept by autograd's own gradients: x; rows in and out; gate, up and their product."""
        return 2 * self.D + 4 * self.K * self.D + 6 * self.K * self.n

    @property
    def least_bytes(self) -> int:
        """Per token in bfloat16, kept by the algorithm: x, gate and up (section 3.2), without lists."""
        return 2 * self.D + 4 * self.K * self.n


@dataclass(frozen=True)
class Peak:
    """Of one forward and backward, beyond inputs and weights."""

    allocated: int  # bytes of tensors at most, by PyTorch's allocator: to the byte, alike in every run
    resident: int  # bytes that the process holds at most (VmHWM), with what kernels take for themselves


def kept_bytes(layer: Layer, backend: str) -> float:
    """Per token, by one forward of a backend of op `expert_mixture` in bfloat16; weights left out."""
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    from grainline import kernels

    x_TD, weights, score_N, unit_N, counts_E = _drawn(layer)
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its place could be given to another
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad():
        out_TD = kernels.BACKENDS["expert_mixture"][backend](x_TD, *weights, score_N, unit_N, counts_E)
    assert out_TD.requires_grad
    return sum(kept.values()) / layer.T


def _drawn(layer: Layer) -> tuple[Tensor, list[Tensor], Tensor, Tensor, Tensor]:
    import torch

    draw = torch.Generator().manual_seed(layer.seed)

    def tensor(*shape: int) -> Tensor:
        return (0.02 * torch.randn(shape, generator=draw)).bfloat16().requires_grad_()

    expert_TK = torch.rand(layer.T, layer.E, generator=draw).topk(layer.K).indices
    order_N = expert_TK.flatten().argsort(stable=True)
    weights = [tensor(layer.E, 2, layer.n, layer.D), tensor(layer.E, layer.D, layer.n)]
    score_N = torch.rand(layer.T * layer.K, generator=draw).requires_grad_()
    counts_E = torch.bincount(expert_TK.flatten(), minlength=layer.E)
    return tensor(layer.T, layer.D), weights, score_N, order_N // layer.K, counts_E


def peak_bytes(layer: Layer, implementation: str) -> Peak:
    """Of forward and backward of transformers' Qwen3-MoE experts in bfloat16, weights' gradients included."""
    if not Path("/proc/self/clear_refs").exists():
        raise NotRun("A process's peak of memory can be set back on Linux only.")
    task = json.dumps({"layer": asdict(layer), "implementation": implementation})
    done = subprocess.run(
        [sys.executable, "-m", __name__, task],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"{implementation}: {done.stderr[-2000:]}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def _measure(layer: Layer, implementation: str) -> Peak:
    import gc

    import torch
    from transformers import Qwen3MoeConfig
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    from grainline.models.accelerate import experts_forward

    ALL_EXPERTS_FUNCTIONS.register(OURS, experts_forward)
    config = Qwen3MoeConfig(
        hidden_size=layer.D, moe_intermediate_size=layer.n, num_experts=layer.E, num_experts_per_tok=layer.K
    )
    config._experts_implementation = implementation
    experts: Any = Qwen3MoeExperts(config).bfloat16()
    draw = torch.Generator().manual_seed(layer.seed)
    with torch.no_grad():
        for weight in experts.parameters():
            weight.normal_(0, 0.02, generator=draw)
    expert_TK = torch.rand(layer.T, layer.E, generator=draw).topk(layer.K).indices
    score_TK = torch.rand(layer.T, layer.K, generator=draw).bfloat16().requires_grad_()
    x_TD = torch.randn(layer.T, layer.D, generator=draw).bfloat16().requires_grad_()
    d_out_TD = torch.ones(layer.T, layer.D, dtype=torch.bfloat16)

    def step(tokens: int) -> None:
        out_TD = experts(x_TD[:tokens], expert_TK[:tokens], score_TK[:tokens])
        out_TD.backward(d_out_TD[:tokens])

    def forget() -> None:
        for each in (x_TD, score_TK, *experts.parameters()):
            each.grad = None
        gc.collect()
        _give_back()

    step(min(64, layer.T))  # what is made once: code, threads, tables
    forget()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    step(layer.T)
    resident = _status("VmHWM") - before
    forget()
    return Peak(_allocated(lambda: step(layer.T)), resident)


def _allocated(work: Callable[[], None]) -> int:
    """Bytes of tensors, at most, that the work has beyond those there before."""
    from tempfile import TemporaryDirectory

    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        work()
    with TemporaryDirectory() as folder:
        told.export_chrome_trace(str(path := Path(folder) / "trace.json"))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], i, e["args"]["Bytes"]) for i, e in enumerate(events) if e["name"] == "[memory]")
    return max(accumulate((change for *_, change in changes), initial=0))


def _give_back() -> None:
    """What the C library holds of freed memory goes back to the system."""
    import ctypes

    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(asdict(_measure(Layer(**given["layer"]), given["implementation"]))))
