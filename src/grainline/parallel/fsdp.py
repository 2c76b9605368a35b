"""Fully sharded data parallelism (FSDP2): a rank holds its share of each parameter, gradient and optimiser state."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from grainline.parallel.ranks import Ranks


def shard(root: nn.Module, blocks: Iterable[nn.Module], ranks: Ranks, banks: Iterable[nn.Module] = ()) -> None:
    """Shard `root` in place: each of `blocks` is gathered when it runs, the rest for as long as `root` does.

    `banks` are experts that several blocks share: gathered by each block in turn, so that no more than one bank is
    whole at a time, for as many messages as if each block had experts of its own and as many as the bank has.

    Gradients are summed over ranks, not averaged: each rank's is already its part of the whole batch's. `root` must be
    the module whose forward gives the loss, so that its hooks see the whole pass.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    banks = list(banks)
    units = [*banks, *blocks, root]
    for unit in units:
        fully_shard(unit, mesh=mesh)
    for bank in banks:
        register_fsdp_forward_method(bank, "mixture")  # what blocks call
    for unit in units:
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no sum with a factor
