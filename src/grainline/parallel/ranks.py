"""The processes of a run: one, or as many as torchrun started."""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from grainline.documents import AlreadyTold, GrainlineError
from grainline.hardware import choose_device

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""A collective that some rank hasn't joined by then ends the run: steps take seconds, compiling them minutes."""

PATIENCE = timedelta(hours=12)
"""How long ranks wait while the first one works for all: it may pack a large corpus, or write large models."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. With a world of one, every collective is free and does nothing."""

    device: torch.device
    rank: int = 0
    world: int = 1
    local_world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's contiguous part of `count` things; parts differ by at most one."""
        return share(count, self.rank, self.world)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def on_first(self, make: Callable[[], T]) -> T:
        """Let the first rank make a value (small, of plain types), and give it to all.

        If that fails, every rank raises: the first one what it met, the others AlreadyTold with its message.
        """
        if self.world == 1:
            return make()
        box: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                box[0] = make()
            except Exception as error:
                failure, box[1] = error, str(error)
        dist.broadcast_object_list(box, group=_patient_group())
        if failure is not None:
            raise failure
        if box[1] is not None:
            raise AlreadyTold(box[1])
        value: T = box[0]
        return value

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier(group=_patient_group())


def share(count: int, part: int, parts: int) -> range:
    """Part number `part` of `count` things that are shared out; parts are contiguous and differ by at most one."""
    return range(part * count // parts, (part + 1) * count // parts)


def join_ranks(device: str = "auto") -> Ranks:
    """Join the process group that torchrun's environment describes (WORLD_SIZE, RANK, …), and stay until the exit.

    `device` is "auto", "cpu", "cuda" or "mps"; ranks talk over gloo between CPUs and over NCCL between GPUs.
    Raises GrainlineError where the device isn't there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank, local_world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = pick_device(device, local_rank)
    if world == 1:
        return Ranks(chosen)
    if chosen.type == "mps":
        raise GrainlineError("Ranks can't share an Apple GPU. Set execution.device = 'cpu', or start one process.")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        # Objects and checkpoints travel between CPUs, whatever the tensors do.
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backends, timeout=COLLECTIVE_TIMEOUT)
        # Not sooner: a group left and joined again would meet the addresses of the first one.
        atexit.register(_leave)
    _patient_group()  # made by all ranks at the same point
    return Ranks(chosen, dist.get_rank(), world, local_world)


@functools.cache
def _patient_group() -> dist.ProcessGroup:
    """All ranks, waiting for the first one: one group for the process, however many runs it makes."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def _leave() -> None:
    """End the groups' threads while Python still runs: nothing may refer to a group any more."""
    _patient_group.cache_clear()
    dist.destroy_process_group()


def pick_device(wanted: str, local_rank: int) -> torch.device:
    """The device of this rank (see `choose_device`); of several CUDA GPUs each rank of a node has its own."""
    device = choose_device(wanted)
    if device != "cuda":
        return torch.device(device)
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise GrainlineError(
            f"Rank {local_rank} of this node has no GPU: {gpus} found. Start one process per GPU, or set "
            "execution.device = 'cpu'."
        )
    return torch.device("cuda", local_rank)
