"""Measures which tiles are fastest on this device for a layer's shape. Only when asked: a run never stops to tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels.triton import launch
from grainline.kernels.triton.tiles import CANDIDATES, KERNELS, ShapeClass, Tile, device_name

Work = Callable[[], object]
Clock = Callable[[Work], float]
"""Seconds that some work takes."""


@dataclass(frozen=True)
class Layer:
    """An expert layer's shape: T, D, F, E and K."""

    tokens: int
    width: int
    hidden: int
    experts: int
    top_k: int

    def shape_class(self, dtype: torch.dtype) -> ShapeClass:
        """That its tiles are kept under."""
        return ShapeClass.of(dtype, self.width, self.hidden, self.tokens * self.top_k, self.experts)


@dataclass(frozen=True)
class Inputs:
    """Of `expert_mixture`, and what comes back: random values, each token with its own K random experts."""

    x_TD: Tensor
    w13_E2FD: Tensor
    w2_EDF: Tensor
    score_N: Tensor
    unit_N: Tensor
    counts_E: Tensor
    d_out_TD: Tensor

    @classmethod
    def draw(cls, layer: Layer, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Inputs:
        """Of a layer; values of an activation's and a weight's usual size."""
        generator = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).mul_(scale).to(dtype)

        tokens, D, F, E = layer.tokens, layer.width, layer.hidden, layer.experts
        key_TE = torch.rand(tokens, E, generator=generator, device=device)
        expert_N = key_TE.topk(layer.top_k, dim=1).indices.flatten()
        order_N = expert_N.argsort(stable=True)
        return cls(
            normal(tokens, D),
            normal(E, 2, F, D, scale=D**-0.5),
            normal(E, D, F, scale=F**-0.5),
            torch.rand(len(expert_N), generator=generator, device=device),
            order_N // layer.top_k,
            torch.bincount(expert_N, minlength=E),
            normal(tokens, D),
        )


@dataclass(frozen=True)
class Tuned:
    """The fastest tiles of a shape class, and what every candidate took; those that don't run here aren't there."""

    shape: ShapeClass
    tiles: Mapping[str, Tile]
    seconds: Mapping[str, Mapping[Tile, float]]


def tune(
    layer: Layer,
    dtype: torch.dtype,
    device: torch.device,
    clock: Clock,
    candidates: Mapping[str, Sequence[Tile]] = CANDIDATES,
    tell: Callable[[str], None] = lambda line: None,
) -> Tuned:
    """Time every candidate of every kernel on random rows. Raises GrainlineError where none of a kernel's runs."""
    works = kernels_of(Inputs.draw(layer, dtype, device))
    seconds: dict[str, dict[Tile, float]] = {}
    for kernel in KERNELS:
        tell(kernel)
        seconds[kernel] = {}
        reasons: list[str] = []
        for tile in candidates[kernel]:
            try:
                seconds[kernel][tile] = clock(lambda tile=tile, run=works[kernel]: run(tile))  # type: ignore[misc]
            except _does_not_fit() as error:
                reasons.append(str(error))
        if not seconds[kernel]:
            raise GrainlineError(f"none of the tiles for '{kernel}' runs on this device: {reasons[-1]}")
    fastest = {kernel: min(found, key=found.__getitem__) for kernel, found in seconds.items()}
    return Tuned(layer.shape_class(dtype), fastest, seconds)


def kernels_of(inputs: Inputs) -> dict[str, Callable[[Tile], object]]:
    """Each kernel on what it gets in a step, by its tile."""
    x_TD, d_out_TD, unit_N, counts_E = inputs.x_TD, inputs.d_out_TD, inputs.unit_N, inputs.counts_E
    w13_E2FD, w2_EDF, score_N = inputs.w13_E2FD, inputs.w2_EDF, inputs.score_N
    rows, F = len(unit_N), w2_EDF.shape[2]
    dtype = x_TD.dtype
    hidden_NG = torch.randn(rows, 2 * F, device=x_TD.device).to(dtype)
    act_NF = torch.randn(rows, F, device=x_TD.device).to(dtype)
    return {
        "up": lambda tile: launch.up(x_TD, w13_E2FD, unit_N, counts_E, tile),
        "down": lambda tile: launch.rows_times_weights(act_NF, w2_EDF.mT, counts_E, tile),
        "d_hidden": lambda tile: launch.activation_backward(
            d_out_TD, w2_EDF, unit_N, score_N, hidden_NG, counts_E, tile
        ),
        "d_w2": lambda tile: launch.outer_products(d_out_TD, act_NF, counts_E, dtype, tile, left_unit_N=unit_N),
        "d_w13": lambda tile: launch.outer_products(hidden_NG, x_TD, counts_E, dtype, tile, right_unit_N=unit_N),
        "d_rows": lambda tile: launch.rows_times_weights(hidden_NG, w13_E2FD.flatten(1, 2), counts_E, tile),
    }


def gpu_clock(work: Work) -> float:
    """Median of repeated runs on the current GPU, its caches cleared before each."""
    from triton.testing import do_bench

    return float(do_bench(work, warmup=10, rep=50, return_mode="median")) / 1e3


def _does_not_fit() -> tuple[type[Exception], ...]:
    """How triton says that a tile needs more registers or shared memory than there are."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    return OutOfResources, PTXASError, CompilationError


def tune_here(layer: Layer, dtype: str, tell: Callable[[str], None]) -> tuple[str, Tuned]:
    """`tune` on this process's GPU; its name, and what was found. Raises GrainlineError where torch sees none."""
    if not torch.cuda.is_available():
        raise GrainlineError("hardware tune measures Triton kernels on a GPU: torch sees no GPU on this machine.")
    device = torch.device("cuda", torch.cuda.current_device())
    return device_name(device), tune(layer, getattr(torch, dtype), device, gpu_clock, tell=tell)
