"""Finding a checkpoint that is whole, and reading it into live tensors or one tensor at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import MetadataIndex

from grainline.train.checkpoint.folder import CheckpointFolder
from grainline.train.checkpoint.layout import STATE, CheckpointError, read_json, verify
from grainline.train.checkpoint.storage import Reader, open_tensors, read_metadata

MEND = "Put the run's own back, or start anew (--no-resume)."


def newest(folder: CheckpointFolder, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, or None if there never was one. For the first rank alone.

    Each damaged one on the way is named through `say`. Raises CheckpointError if all are damaged.
    """
    problems = []
    for step in reversed(folder.steps()):
        try:
            verify(folder.at(step))
            return folder.at(step)
        except CheckpointError as error:
            problems.append(str(error))
            say(f"Checkpoint not used: {error}")
    if problems:
        raise CheckpointError(f"{folder.path}: no checkpoint is whole. {problems[0]} Remove the folder to start anew.")
    return None


def load(checkpoint: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read a verified checkpoint into `tensors` in place, whatever number of ranks wrote it; returns its state.

    Raises CheckpointError where a tensor is missing or has another shape.
    """
    saved = read_metadata(checkpoint).state_dict_metadata
    for name, tensor in tensors.items():
        entry = saved.get(name)
        if not isinstance(entry, TensorStorageMetadata):
            raise CheckpointError(f"{checkpoint}: has no tensor {name}; it is of another model or optimiser. {MEND}")
        if entry.size != tensor.shape:
            raise CheckpointError(
                f"{checkpoint}: {name} has shape {list(entry.size)}, and the model's is {list(tensor.shape)}; "
                f"it is of another model. {MEND}"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(
                dict(tensors),
                storage_reader=Reader(checkpoint),
                planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                no_dist=not dist.is_initialized(),
            )
    except CheckpointException as failure:
        rank, (error, _) = next(iter(failure.failures.items()))
        raise CheckpointError(f"{checkpoint}: rank {rank} met {type(error).__name__}: {error}.") from failure
    state: dict[str, Any] = read_json(checkpoint / STATE)
    return state


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint's tensors under `prefix`, whole, one at a time (a `merge.TensorSource`); names lose the prefix."""

    folder: Path
    prefix: str = ""

    @property
    def where(self) -> str:
        """For errors."""
        return str(self.folder)

    @cached_property
    def _metadata(self) -> Metadata:
        return read_metadata(self.folder)

    def names(self) -> Iterable[str]:
        """Names of the tensors, without the prefix."""
        saved = self._metadata.state_dict_metadata
        return [name.removeprefix(self.prefix) for name in saved if name.startswith(self.prefix)]

    def read(self, name: str) -> Tensor:
        """One tensor, put together from its chunks."""
        metadata = self._metadata
        name = self.prefix + name
        entry = metadata.state_dict_metadata.get(name)
        if not isinstance(entry, TensorStorageMetadata):
            raise CheckpointError(f"{self.folder}: has no tensor {name}.")
        whole = torch.empty(entry.size, dtype=entry.properties.dtype)
        for chunk in entry.chunks:
            place = metadata.storage_data[MetadataIndex(name, chunk.offsets)]
            with open_tensors(self.folder / place.file) as file:
                box = tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))
                whole[box] = file.get_tensor(place.key)
        return whole
