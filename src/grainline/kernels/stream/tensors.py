"""STREAM by torch's own operations, each of them one fused kernel: on any device that torch knows."""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.kernels.stream.backend import Body, Span, check, names


class Tensors:
    """A backend on one torch device; on the CPU with as many threads as torch is told to use."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.name = f"torch on {device}"
        self.threads = torch.get_num_threads() if self.device.type == "cpu" else 0

    def empty(self, n: int, dtype: str) -> Tensor:
        """See `Backend`."""
        return torch.empty(n, dtype=getattr(torch, dtype), device=self.device)

    def transform(self, body: Body, *inputs: Tensor, out: Tensor, s: float = 0.0) -> None:
        """See `Backend`."""
        check(body, [span(name, a) for name, a in zip(names(len(inputs)), (*inputs, out), strict=True)])
        if body == "fill":
            out.fill_(s)
        elif body == "copy":
            out.copy_(inputs[0])
        elif body == "scale":
            torch.mul(inputs[0], s, out=out)
        elif body == "add":
            torch.add(inputs[0], inputs[1], out=out)
        else:
            torch.add(inputs[0], inputs[1], alpha=s, out=out)

    def sum(self, x: Tensor) -> float:
        """See `Backend`."""
        check("fill", [span("x", x)])
        return float(x.sum(dtype=torch.float64 if x.device.type != "mps" else None))

    def wait(self) -> None:
        """See `Backend`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def wrong(self, x: Tensor, value: float, relative: float) -> int:
        """See `Backend`."""
        return int((~((x - value).abs() <= relative * abs(value))).sum())


def span(name: str, a: Tensor) -> Span:
    """A tensor for `check`."""
    flaw = ""
    if a.dim() != 1:
        flaw = f"has {a.dim()} dimensions; it must have one"
    elif not a.is_contiguous():
        flaw = "is not contiguous; copy it first"
    place, dtype = str(a.device), str(a.dtype).removeprefix("torch.")
    return Span(name, place, dtype, len(a), a.data_ptr(), a.data_ptr() + a.numel() * a.element_size(), flaw)
