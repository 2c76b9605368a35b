"""STREAM by one Triton kernel that is generic over its body; with TRITON_INTERPRET=1 on the CPU too, for tests."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels.stream.backend import BODIES, Body, check, names
from grainline.kernels.stream.tensors import Tensors, span

BLOCK = 1024  # elements per program


def why_not(device: str) -> str:
    """Why Triton's kernels can't run on this device, "" if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton isn't installed: python -m pip install triton"
    if torch.device(device).type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"triton computes on GPUs, and '{device}' is none (TRITON_INTERPRET=1 interprets it, slowly)"
    return ""


class Triton(Tensors):
    """A backend: as `Tensors`, with its transforms by our own kernel."""

    def __init__(self, device: str) -> None:
        """Raises GrainlineError that says what is missing."""
        reason = why_not(device)
        if reason:
            raise GrainlineError(f"STREAM by Triton: {reason}.")
        super().__init__(device)
        self.name = f"Triton on {device}"
        self._scalars: dict[tuple[float, torch.dtype], Tensor] = {}

    def transform(self, body: Body, *inputs: Tensor, out: Tensor, s: float = 0.0) -> None:
        """See `Backend`."""
        from grainline.kernels.stream.triton_kernel import transform

        check(body, [span(name, a) for name, a in zip(names(len(inputs)), (*inputs, out), strict=True)])
        if not len(out):
            return
        x, y = [*inputs, out, out][:2]  # what a body has no use for isn't read
        grid = (-(-len(out) // BLOCK),)
        transform[grid](x, y, self._scalar(s, out.dtype), out, len(out), list(BODIES).index(body), BLOCK)

    def _scalar(self, s: float, dtype: torch.dtype) -> Tensor:
        """In memory, because Triton rounds scalar arguments to float32."""
        if (s, dtype) not in self._scalars:
            self._scalars[s, dtype] = torch.tensor([s], dtype=dtype, device=self.device)
        return self._scalars[s, dtype]
