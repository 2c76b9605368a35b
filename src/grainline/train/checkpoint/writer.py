"""Saving without stopping: a snapshot into host memory, then a thread that writes it."""

from __future__ import annotations

import errno
import shutil
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from grainline.train.checkpoint.folder import CheckpointFolder
from grainline.train.checkpoint.layout import CheckpointError
from grainline.train.checkpoint.storage import SnapshotPlanner, Writer, partial_name

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class CheckpointWriter:
    """Writes one checkpoint at a time; a save waits for the one before it, and raises what went wrong with it.

    Under several ranks all of them must call `save` and `wait` at the same points. The thread's messages go over a
    group of their own, so that they never mix with those of the training.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._buffers: dict[str, Tensor] = {}

    def save(
        self, folder: CheckpointFolder, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> float:
        """Start to save; returns the seconds that the caller was held up.

        `tensors` may be sharded (DTensor); `state` is whatever JSON holds.
        """
        start = time.perf_counter()
        self.wait()
        snapshot = {name: self._copied(name, tensor) for name, tensor in tensors.items()}
        layout = dict(tensors)  # only shapes and placements are read from it later
        self._pending = self._thread.submit(self._write, folder, step, layout, snapshot, dict(state))
        return time.perf_counter() - start

    @property
    def has_failed(self) -> bool:
        """Whether the save under way is known to have gone wrong; `wait` then raises it."""
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def wait(self) -> None:
        """Until nothing is being written. Raises CheckpointError if the last save failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Finish what is under way, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._buffers.clear()
            if self._group is not None:
                dist.destroy_process_group(self._group)

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != local.shape or buffer.dtype != local.dtype:
            buffer = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(local)

    def _write(
        self,
        folder: CheckpointFolder,
        step: int,
        layout: dict[str, Tensor],
        snapshot: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        final = folder.at(step)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # DCP says that it runs in one process; we know
                dcp.save(
                    layout,
                    storage_writer=Writer(final, step, state, self._rank),
                    planner=SnapshotPlanner(snapshot),
                    process_group=self._group,
                    no_dist=self._group is None,
                )
        except CheckpointException as failure:
            if self._rank == 0:
                shutil.rmtree(partial_name(final), ignore_errors=True)
            raise explain_save(failure, final, folder) from failure
        if self._rank == 0:
            folder.prune()


def explain_save(failure: CheckpointException, final: Path, folder: CheckpointFolder) -> CheckpointError:
    """What went wrong on which rank, and what is left to resume from."""
    rank, (error, _) = next(iter(failure.failures.items()))
    steps = folder.steps()
    left = f"The checkpoint of step {steps[-1]} is whole." if steps else f"There is none before it in {folder.path}."
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return CheckpointError(f"{final}: not saved, the disk is full. {left} Free some space and run this again.")
    return CheckpointError(f"{final}: not saved, rank {rank} met {type(error).__name__}: {error}. {left}")
