"""Weights of a Hugging Face folder in and out: safetensors, one file or several with an index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from grainline.documents import GrainlineError, ModelConfig, write_atomically
from grainline.models import formats
from grainline.models.formats.folder import INDEX, SINGLE, Stored, check_tensors, read_config, stored_tensors
from grainline.models.formats.layout import Entry, Piece, TensorMap
from grainline.models.formats.staging import staged
from grainline.models.model import Model

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_folder(folder: Path, dtype: torch.dtype | None = None) -> tuple[ModelConfig, Iterator[tuple[str, Tensor]]]:
    """The config of the model in a folder, and its tensors one by one as (name in our state dict, tensor on the CPU).

    dtype: None keeps each as it is stored; a router's selection bias is float32 always. The whole folder is checked
    before the first tensor is read: GrainlineError lists what is missing, not expected, or of another shape.
    """
    config = read_config(folder)
    stored = stored_tensors(folder)
    check_tensors(folder, config, stored)
    return config, _read(folder, formats.tensors(config), stored, dtype)


def load_model(folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Model:
    """The model in a folder, ready to use. Memory peaks at the model and its largest single tensor."""
    config, tensors = load_folder(folder, dtype)
    with torch.device("meta"):
        model = Model(config)
    model.load_state_dict({name: tensor.to(device) for name, tensor in tensors}, assign=True)
    return model.eval()


def save_folder(
    model: Model,
    folder: Path,
    *,
    tokenizer: Tokenizer | None = None,
    card: str | None = None,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Write a model as a Hugging Face folder: see `write_folder`."""
    write_folder(model.config, model.state_dict(), folder, tokenizer=tokenizer, card=card, shard_bytes=shard_bytes)


def write_folder(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    tokenizer: Tokenizer | None = None,
    card: str | None = None,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Write config.json, generation_config.json and weights, the tokenizer's files and README.md (`card`) if given.

    Whole or not at all: a save that is cut off, or meets a full disk, leaves the folder as it was. Files of other names
    stay. Weights are one file up to `shard_bytes`, beyond it several and an index; equal weights give equal bytes.

    What the config's family can't say is written in grainline's own layout; see `formats.storable`. Raises
    GrainlineError if the folder can't be written.
    """
    config = formats.storable(config)
    tables = formats.config_to_hf(config)
    layout = formats.tensors(config)
    _check_state(layout, state)
    shards = _shards(layout, state, shard_bytes)
    needed = sum(size for shard in shards for _, size in shard)
    sources = _sources(layout)
    with staged(folder, needed) as stage:
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {source: _gather(sources[source], state) for source, _ in shard}
            save_file(_unshared(tensors), stage / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, name)
        if len(shards) > 1:
            _write_json(
                stage / INDEX, {"metadata": {"total_size": needed}, "weight_map": dict(sorted(weight_map.items()))}
            )
        dtype = str(state["embedding.weight"].dtype).removeprefix("torch.")
        _write_json(stage / "config.json", {**tables, "torch_dtype": dtype})
        ids = {key: tables[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if tables[key] is not None}
        _write_json(stage / "generation_config.json", ids)
        if tokenizer is not None:
            tokenizer.save(stage)
        if card is not None:
            write_atomically(stage / "README.md", card)


def theirs(layout: TensorMap, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names (weights, or gradients of them) as the folder's, those that there are."""
    return {
        source: _gather(pieces, tensors)
        for source, pieces in _sources(layout).items()
        if all(entry.name in tensors for entry, _ in pieces)
    }


def _read(
    folder: Path, layout: TensorMap, stored: Mapping[str, Stored], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    with ExitStack() as stack:
        files = {s.file for s in stored.values()}
        opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in sorted(files)}

        def read(source: str) -> Any:
            return opened[stored[source].file].get_slice(source)

        for copy in layout.copies:
            if copy.source in stored and not torch.equal(read(copy.source)[:], read(copy.of)[:]):
                raise GrainlineError(
                    f"{folder}: {copy.source} must equal {copy.of}, which the model shares; it doesn't."
                )
        for entry in layout.entries:
            kept = _widest(DTYPES[stored[piece.source].dtype] for piece in entry.pieces)
            tensor = torch.empty(entry.shape, dtype=torch.float32 if entry.float32 else dtype or kept)
            for piece in entry.pieces:
                first, last = piece.rows or (0, piece.source_shape[0])
                into = tensor[piece.at]
                into.copy_(read(piece.source)[first:last].view(into.shape))
            yield entry.name, tensor


def _widest(dtypes: Iterator[torch.dtype]) -> torch.dtype:
    widest = next(dtypes)
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def _sources(layout: TensorMap) -> dict[str, list[tuple[Entry, Piece]]]:
    """Name in the folder → the pieces of ours that make it up, in the order of their rows."""
    sources: dict[str, list[tuple[Entry, Piece]]] = {}
    for entry in layout.entries:
        for piece in entry.pieces:
            sources.setdefault(piece.source, []).append((entry, piece))
    for copy in layout.copies:
        if copy.written:
            sources[copy.source] = sources[copy.of]
    return sources


def _gather(pieces: list[tuple[Entry, Piece]], state: Mapping[str, Tensor]) -> Tensor:
    parts = [state[entry.name].detach()[piece.at] for entry, piece in pieces]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.reshape(pieces[0][1].source_shape).cpu().contiguous()


def _shards(layout: TensorMap, state: Mapping[str, Tensor], shard_bytes: int) -> list[list[tuple[str, int]]]:
    """(name, bytes) of the folder's tensors, in files of at most `shard_bytes`, or of one tensor that is larger."""
    shards: list[list[tuple[str, int]]] = [[]]
    filled = 0
    for source, pieces in _sources(layout).items():
        entry, piece = pieces[0]
        size = torch.Size(piece.source_shape).numel() * state[entry.name].element_size()
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((source, size))
        filled += size
    return shards


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which no two are the same memory: safetensors refuses those."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        apart[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart


def _check_state(layout: TensorMap, state: Mapping[str, Tensor]) -> None:
    wanted = {entry.name: entry.shape for entry in layout.entries}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(f"the state dict is not one of this config; see {', '.join(differing[:8])}")


def _write_json(path: Path, tables: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(tables, indent=2, ensure_ascii=False) + "\n")
