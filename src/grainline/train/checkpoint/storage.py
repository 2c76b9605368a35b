"""`torch.distributed.checkpoint` over safetensors and JSON: its planner cuts and reassembles tensors, this stores them.

DCP's own storage keeps its metadata (and whatever isn't a tensor) as pickles; here nothing is.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint import (
    ChunkStorageMetadata,
    DefaultSavePlanner,
    LoadPlan,
    LoadPlanner,
    Metadata,
    SavePlan,
    SavePlanner,
    StorageReader,
    StorageWriter,
    TensorStorageMetadata,
    WriteItem,
)
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorProperties
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from grainline.train.checkpoint.layout import (
    STATE,
    TENSORS,
    CheckpointError,
    Manifest,
    read_json,
    write_json,
    write_manifest,
)
from grainline.train.checkpoint.tensor_file import DTYPES, Written, write_tensors

DTYPE_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}
DTYPE_OF = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Place:
    """Where one chunk of a tensor is."""

    file: str
    key: str


class SnapshotPlanner(DefaultSavePlanner):
    """DCP's planner over the live (sharded) tensors, but the data written is that of a snapshot in host memory."""

    def __init__(self, snapshot: Mapping[str, Tensor]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.snapshot = snapshot

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """A rank holds one chunk of each tensor, so the name is enough."""
        return self.snapshot[write_item.index.fqn]


class Writer(StorageWriter):
    """Writes beside the final folder and renames: a checkpoint is there as a whole or not at all."""

    def __init__(self, final: Path, step: int, state: Mapping[str, Any], rank: int) -> None:
        self.final, self.step, self.state, self.rank = final, step, state, rank
        self.partial = partial_name(final)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """One instance writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The first rank makes the folder; DCP has the others write only after that."""
        if is_coordinator:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """A rank writes what the planner gave it."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Nor is there anything to agree on: each rank has a file of its own."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's chunks into one safetensors file; the results say where each is."""
        file = f"shard-{self.rank:05}.safetensors"
        chunks: dict[str, tuple[WriteItem, Tensor]] = {}
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            chunks[_key(item)] = (item, tensor)
        results: list[WriteResult] = []
        if chunks:
            written = write_tensors(self.partial / file, {key: tensor for key, (_, tensor) in chunks.items()})
            results = [
                WriteResult(item.index, tensor.nbytes, (Place(file, key), written))
                for key, (item, tensor) in chunks.items()
            ]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The first rank, when all have written: index, state and manifest, then the rename."""
        stored = [result for of_rank in results for result in of_rank]
        places = {r.index: r.storage_data[0] for r in stored}
        files: dict[str, Written] = {place.file: written for place, written in (r.storage_data for r in stored)}
        files[TENSORS] = write_json(self.partial / TENSORS, _tensors_table(metadata, places))
        files[STATE] = write_json(self.partial / STATE, self.state)
        write_manifest(self.partial, Manifest(self.step, files))
        _sync_folder(self.partial)
        shutil.rmtree(self.final, ignore_errors=True)  # only ever one that could not be resumed from
        self.partial.rename(self.final)
        _sync_folder(self.final.parent)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Paths are checked when they are used."""
        return True


class Reader(StorageReader):
    """Reads the chunks, or the parts of chunks, that a rank needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[MetadataIndex, Place] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """One instance reads one checkpoint."""

    def read_metadata(self, *args: Any) -> Metadata:
        """Which tensors there are, and in which chunks."""
        return read_metadata(self.folder)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any) -> None:
        """Remember where the chunks are."""
        self.places = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """A rank reads what the planner asks for."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Ranks read on their own."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read into the planner's tensors in place, opening each file once."""
        by_file = defaultdict(list)
        for item in plan.items:
            by_file[self.places[item.storage_index].file].append(item)
        for name, items in by_file.items():
            with open_tensors(self.folder / name) as file:
                for item in items:
                    part = read_part(file, self.places[item.storage_index].key, item.storage_offsets, item.lengths)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(part)
                    planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Paths are checked when they are used."""
        return True


def open_tensors(path: Path) -> Any:
    """A safetensors file; raises CheckpointError if it isn't one."""
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: can't be read as safetensors ({error}).") from None


def read_part(file: Any, key: str, offsets: tuple[int, ...], lengths: tuple[int, ...]) -> Tensor:
    """A box of the tensor `key`."""
    if not lengths:
        return file.get_tensor(key)
    return file.get_slice(key)[tuple(slice(o, o + n) for o, n in zip(offsets, lengths, strict=True))]


def partial_name(final: Path) -> Path:
    """Where a checkpoint is written before it is whole."""
    return final.with_name(f".{final.name}.partial")


def read_metadata(folder: Path) -> Metadata:
    """DCP's metadata, from tensors.json; its storage data maps chunks to places."""
    tensors: dict[str, Any] = {}
    places: dict[MetadataIndex, Place] = {}
    for name, entry in read_json(folder / TENSORS).items():
        chunks = [
            ChunkStorageMetadata(torch.Size(chunk["offset"]), torch.Size(chunk["shape"])) for chunk in entry["chunks"]
        ]
        properties = TensorProperties(dtype=DTYPE_OF[entry["dtype"]])
        tensors[name] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
        for chunk in entry["chunks"]:
            places[MetadataIndex(name, torch.Size(chunk["offset"]))] = Place(chunk["file"], chunk["key"])
    return Metadata(tensors, storage_data=places)


def _tensors_table(metadata: Metadata, places: Mapping[MetadataIndex, Place]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, tensor in metadata.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)
        chunks = []
        for chunk in tensor.chunks:
            if 0 in chunk.sizes and len(tensor.chunks) > 1:
                continue  # the empty share of a rank that an uneven cut left without rows
            place = places[MetadataIndex(name, chunk.offsets)]
            chunks.append(
                {"offset": list(chunk.offsets), "shape": list(chunk.sizes), "file": place.file, "key": place.key}
            )
        table[name] = {"dtype": DTYPE_NAMES[tensor.properties.dtype], "shape": list(tensor.size), "chunks": chunks}
    return table


def _key(item: WriteItem) -> str:
    """The chunk's name in its file: the tensor's, and where the chunk starts unless that is at the origin."""
    offset = item.index.offset or ()
    return item.index.fqn + (f"@{','.join(map(str, offset))}" if any(offset) else "")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
