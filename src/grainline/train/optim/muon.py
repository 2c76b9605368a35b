"""Muon for stacks of matrices: momentum, orthogonalised, with AdamW's root mean square.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); decoupled weight decay and the scale that lets it share
AdamW's rate: Liu et al. 2025 (arXiv 2502.16982), section 2.2.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from grainline.train.optim.newton_schulz import orthogonalize

# Elements orthogonalised in one batch: bounds the scratch memory (about four times this) without costing speed.
BATCH_ELEMENTS = 1 << 25


class Muon(torch.optim.Optimizer):
    """All dims of a parameter but the last two are a batch of matrices: experts' weights [E, 2, F, D] are E·2 of them.

    Parameters may be DTensors sharded on dim 0 (FSDP2). Where each rank holds whole matrices it orthogonalises its own;
    a matrix that is cut is gathered, and each rank keeps its rows of the result.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        steps: int = 5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`steps` and `dtype` are those of the Newton-Schulz iteration; `momentum` is Nesterov's."""
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "steps": steps, "dtype": dtype}
        super().__init__(parameters, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(f"Muon takes matrices, not a tensor of shape {tuple(parameter.shape)}")
                self.state[parameter]["momentum"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for batch in _batches(parameters):
            self._step_batch(batch, group)

    def _step_batch(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape, some lying and some standing: one iteration for all of them."""
        gradients = [_local(p.grad) for p in parameters if p.grad is not None]
        momenta = [_local(self.state[p]["momentum"]) for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        whole = [_whole_matrices(p, u) for p, u in zip(parameters, ahead, strict=True)]
        counts = [math.prod(u.shape[:-2]) for u in whole]
        rows, columns = sorted(parameters[0].shape[-2:])
        x_NRC = whole[0].new_empty((sum(counts), rows, columns), dtype=group["dtype"])
        for part_nRC, update in zip(x_NRC.split(counts), whole, strict=True):
            part_nRC.copy_(_lying(update.reshape(part_nRC.shape[0], *update.shape[-2:])))
        if x_NRC.numel():
            x_NRC = orthogonalize(x_NRC, steps=group["steps"])
        weights = [_local(p) for p in parameters]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        step = group["lr"] * 0.2 * math.sqrt(columns)
        for parameter, weight, update, part_nRC in zip(parameters, weights, whole, x_NRC.split(counts), strict=True):
            stands = update.shape[-2] > update.shape[-1]
            direction = (part_nRC.mT if stands else part_nRC).view(update.shape)
            weight.add_(_own_share(parameter, direction), alpha=-step)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _is_cut(parameter: Tensor) -> bool:
    """Whether a rank may hold only some rows of a matrix."""
    return isinstance(parameter, DTensor) and any(
        isinstance(p, Shard) and p.dim >= parameter.ndim - 2 for p in parameter.placements
    )


def _whole_matrices(parameter: Tensor, update: Tensor) -> Tensor:
    if not (isinstance(parameter, DTensor) and _is_cut(parameter)):
        return update
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(
        update, parameter.device_mesh, parameter.placements, run_check=False, shape=shape, stride=stride
    ).full_tensor()


def _own_share(parameter: Tensor, direction: Tensor) -> Tensor:
    if not (isinstance(parameter, DTensor) and _is_cut(parameter)):
        return direction
    mesh = parameter.device_mesh
    everywhere = DTensor.from_local(direction, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=parameter.placements).to_local()


def _lying(x_nRC: Tensor) -> Tensor:
    """Matrices that stand (more rows than columns) transposed."""
    return x_nRC.mT if x_nRC.shape[-2] > x_nRC.shape[-1] else x_nRC


def _batches(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters whose matrices have one shape or its transpose, BATCH_ELEMENTS at a time, alike on every rank."""
    by_shape: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        by_shape[tuple(sorted(parameter.shape[-2:]))].append(parameter)
    for alike in by_shape.values():
        batch: list[Tensor] = []
        elements = 0
        for parameter in alike:
            if batch and elements + parameter.numel() > BATCH_ELEMENTS:
                yield batch
                batch, elements = [], 0
            batch.append(parameter)
            elements += parameter.numel()
        yield batch
