"""`grainline hardware tune`: measure the Triton kernels' tiles on this machine's GPU and keep the fastest."""

from __future__ import annotations

import json as json_module
import sys
from typing import Literal

from grainline.documents import GrainlineError


def run(
    *,
    tokens: int = 24576,
    width: int = 1536,
    hidden: int = 256,
    experts: int = 128,
    top_k: int = 8,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    json: bool = False,
) -> int:
    """Measure which tiles the Triton expert kernels should use here for a layer's shape, and keep them.

    A few minutes on one GPU, most of them the compiler's. They are kept by the device's name below ~/.cache/grainline,
    and every later run on such a device uses them for layers of this width, hidden size and number of rows per expert.
    The defaults are SonicMoE's 7B layer.

      grainline hardware tune --tokens 16384 --width 2048 --hidden 768 --experts 128 --top-k 8

    Args:
        tokens: T, of a micro-batch
        width: D of the model, or the latent size of bottleneck experts
        hidden: F of one expert
        experts: E
        top_k: K
        dtype: of the computation
        json: print what every candidate took, in seconds, as one JSON object
    """
    for name, value in (("tokens", tokens), ("width", width), ("hidden", hidden), ("experts", experts)):
        if value < 1:
            raise GrainlineError(f"--{name} {value}: must be at least 1.")
    if not 1 <= top_k <= experts:
        raise GrainlineError(f"--top-k {top_k}: must be between 1 and the {experts} experts.")
    from grainline.kernels.stream.triton import why_not

    reason = why_not("cuda")
    if reason:
        raise GrainlineError(f"hardware tune measures Triton kernels on a GPU: {reason}.")
    from grainline.kernels.triton.tiles import save
    from grainline.kernels.triton.tune import Layer, tune_here

    name, tuned = tune_here(Layer(tokens, width, hidden, experts, top_k), dtype, tell=_tell)
    path = save(name, {tuned.shape: tuned.tiles})
    if json:
        seconds = {k: [{"tile": str(tile), "seconds": s} for tile, s in v.items()] for k, v in tuned.seconds.items()}
        print(json_module.dumps({"device": name, "shape": str(tuned.shape), "seconds": seconds}, indent=2))
    else:
        for kernel, tile in tuned.tiles.items():
            print(f"{kernel:10} {tuned.seconds[kernel][tile] * 1e6:8.1f} µs  {tile}")
    print(f"Kept in {path}.", file=sys.stderr)
    return 0


def _tell(kernel: str) -> None:
    print(f"measuring {kernel}", file=sys.stderr, flush=True)
